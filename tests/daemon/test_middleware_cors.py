"""Which web pages may call: none, but those whose origins the file lists."""

from collections.abc import AsyncIterator

import pytest
from gateway import chunk, config, whole
from shell import Reply, Running, running
from upstreams import reads, says, upstream

from tollway.daemon.app import ROUTES
from tollway.daemon.config.load import load
from tollway.daemon.errors import ConfigError

APP = "https://app.example"
SERVER = f'cors_origins = ["{APP}", "http://localhost:3000"]\nwatch = false'
CHAT = "/v1/chat/completions"
KEY = "Bearer tw-" + "k" * 40
BODY = b'{"model":"up/m","max_tokens":5,"messages":[{"role":"user","content":"Hi"}]}'


@pytest.fixture
async def daemon() -> AsyncIterator[Running]:
    """Yield a daemon with two welcome origins and an upstream."""
    async with (
        upstream([reads(), says(whole() + chunk())]) as up,
        running(config([up]), server=SERVER) as one,
    ):
        yield one


def permissions(reply: Reply) -> dict[str, str]:
    """Return what an answer tells a browser."""
    return {
        name.removeprefix("access-control-"): value
        for name, value in reply.headers.items()
        if name.startswith("access-control-")
    }


# Whatever a path is served by, and what answers with GET answer too.
METHODS = ("GET", "HEAD", "POST", "DELETE")


def test_a_page_may_use_every_method_that_there_is() -> None:
    """A method that no preflight names is one that no page can use."""
    assert {route.method for route in ROUTES} | {"HEAD"} == set(METHODS)


async def test_a_page_of_a_listed_origin_may_ask_call_and_read(daemon: Running) -> None:
    """The preflight names what it asked for; the answer can be read; a key is still needed."""
    wanted = "authorization,content-type,x-stainless-lang"
    before = await daemon.ask(
        "OPTIONS",
        CHAT,
        origin=APP,
        access_control_request_headers=wanted,
        access_control_request_method="POST",
        sec_fetch_site="cross-site",
    )
    assert before.status == 204
    assert permissions(before) == {
        "allow-origin": APP,
        "allow-methods": ", ".join(METHODS),
        "allow-headers": wanted,
        "max-age": "600",
        "expose-headers": "*",
    }
    assert before.headers["vary"] == "Origin"
    answer = await daemon.ask("POST", CHAT, BODY, origin=APP, authorization=KEY)
    assert answer.status == 200
    assert permissions(answer) == {"allow-origin": APP, "expose-headers": "*"}
    listed = await daemon.ask("GET", "/v1/models", origin=APP, authorization=KEY)
    assert (listed.status, permissions(listed)["allow-origin"]) == (200, APP)


async def test_refusals_can_be_read_too(daemon: Running) -> None:
    """Or a page could not say what is wrong with its key."""
    for method, path in (("POST", CHAT), ("GET", "/v1/models")):
        answer = await daemon.ask(method, path, BODY if method == "POST" else b"", origin=APP)
        assert (answer.status, permissions(answer)["allow-origin"]) == (401, APP)


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.evil.example",
        "https://evil.example",
        "http://app.example",
        "https://app.example:8443",
        "https://APP.example",
        "http://localhost:3001",
        "null",
        "*",
        "https://app.example, https://evil.example",
    ],
)
async def test_any_other_origin_is_refused(daemon: Running, origin: str) -> None:
    """Another scheme, port, case or suffix is another origin; nothing tells it that it may."""
    for method in ("POST", "OPTIONS"):
        answer = await daemon.ask(
            method, CHAT, b"{}", origin=origin, access_control_request_method="POST"
        )
        assert answer.status == 403
        assert permissions(answer) == {}


async def test_never_with_cookies_and_never_against_the_other_rules(daemon: Running) -> None:
    """No credentials that a browser adds by itself; foreign hosts and plain text stay refused."""
    answer = await daemon.ask("POST", CHAT, BODY, origin=APP, authorization=KEY, cookie="a=b")
    assert "allow-credentials" not in permissions(answer)
    foreign = await daemon.ask("POST", CHAT, BODY, origin=APP, host="evil.example")
    assert foreign.status == 403
    plain = await daemon.ask("POST", CHAT, BODY, origin=APP, content_type="text/plain")
    assert plain.status == 415
    headers = await daemon.ask(
        "OPTIONS",
        CHAT,
        origin=APP,
        access_control_request_method="POST",
        access_control_request_headers='x y; z="1"',
    )
    assert "allow-headers" not in permissions(headers)


async def test_a_reload_takes_an_origin_away(daemon: Running) -> None:
    """From the next request on."""
    daemon.config.write_text(daemon.config.read_text().replace(APP, "https://new.example"))
    await daemon.server.reloader.reload()
    assert (await daemon.ask("GET", "/healthz", origin=APP)).status == 403
    assert (await daemon.ask("GET", "/healthz", origin="https://new.example")).status == 200


@pytest.mark.parametrize(
    "origin",
    ["*", "null", "app.example", "https://app.example/", "https://app.example:443",
     "http://app.example:80", "https://App.example", "ftp://app.example", "https://", ""],
)  # fmt: skip
async def test_what_no_browser_sends_as_an_origin_is_no_origin(origin: str) -> None:
    """It would never match, or match all: the file is refused, with the line."""
    async with running() as daemon:
        text = daemon.config.read_text()
        daemon.config.write_text(text.replace("[server]", f'[server]\ncors_origins = ["{origin}"]'))
        with pytest.raises(ConfigError, match=r"gateway.toml:2: server.cors_origins"):
            load(daemon.config)
