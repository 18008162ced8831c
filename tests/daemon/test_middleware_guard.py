"""A web page cannot use a loopback gateway: Host, Origin and content type are checked."""

from collections.abc import AsyncIterator

import pytest
from shell import Running, running


@pytest.fixture
async def daemon() -> AsyncIterator[Running]:
    """Yield a daemon for one user, the kind that a page would like to reach."""
    server = 'single_user = true\nallowed_hosts = ["gate.example.com", "exact.example.com:8443"'
    server += ', "[2001:db8::1]", "2001:db8::2", "[2001:db8::3]:8443"]'
    async with running(server=server) as one:
        yield one


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:4141",
        "127.0.0.1",
        "127.0.0.1:9",
        "127.8.8.8:4141",
        "[::1]:4141",
        "gate.example.com",
        "GATE.example.com:443",
        "exact.example.com:8443",
        "[2001:db8::1]",
        "[2001:DB8::1]:4141",
        "[2001:db8::2]:4141",
        "[2001:db8::3]:8443",
    ],
)
async def test_a_host_of_ours_is_served(daemon: Running, host: str) -> None:
    """Loopback by any name and port, and what `server.allowed_hosts` lists."""
    assert (await daemon.ask("GET", "/v1/models", host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:4141",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "exact.example.com",
        "exact.example.com:8444",
        "192.0.2.1",
        "2130706433",
        "0x7f.1",
        "[::2]",
        "[2001:db8::3]:8444",
        "localhost@evil.example",
        "localhost:4141:4141",
        "localhost, evil.example",
        ":4141",
        "[",
    ],
)
async def test_a_foreign_host_is_refused(daemon: Running, host: str) -> None:
    """DNS rebinding: a page's own name resolves to loopback, and its Host header tells."""
    answer = await daemon.ask("GET", "/v1/models", host=host)
    assert answer.status in {400, 403}
    if answer.status == 403:
        assert answer.json()["error"]["code"] == "forbidden"
        assert "allowed_hosts" in answer.json()["error"]["message"]


async def test_health_and_unknown_paths_are_guarded_too(daemon: Running) -> None:
    """The check stands before every handler, so none can forget it."""
    for path in ("/", "/healthz", "/nothing"):
        assert (await daemon.ask("GET", path, host="evil.example")).status == 403


async def test_a_request_without_a_host_is_refused(daemon: Running) -> None:
    """HTTP/1.1 demands one; HTTP/1.0 does not, but then nothing tells whom it was meant for."""
    for version in (b"1.1", b"1.0"):
        answer = await daemon.raw(b"GET / HTTP/" + version + b"\r\nConnection: close\r\n\r\n")
        assert answer[9:12] == b"400"


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://localhost:3000", "http://127.0.0.1", "file://", ""],
)
async def test_a_page_of_another_origin_is_refused(daemon: Running, origin: str) -> None:
    """A page on another port of this very machine is another origin as well."""
    answer = await daemon.ask("POST", "/v1/chat/completions", b"{}", origin=origin)
    assert answer.status == 403


async def test_the_same_origin_is_no_page_of_another(daemon: Running) -> None:
    """Some programs send the URL that they call as their origin."""
    same = f"http://127.0.0.1:{daemon.port}"
    assert (await daemon.ask("GET", "/v1/models", origin=same)).status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_browser_that_says_it_crosses_sites_is_refused(daemon: Running, site: str) -> None:
    """An image or a script tag sends no Origin, but browsers send this."""
    assert (await daemon.ask("GET", "/v1/models", Sec_Fetch_Site=site)).status == 403


async def test_a_person_at_the_address_bar_is_served(daemon: Running) -> None:
    """Browsers say `none` for what a person typed."""
    assert (await daemon.ask("GET", "/healthz", Sec_Fetch_Site="none")).status == 200


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "text/plain; charset=utf-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/octet-stream",
        "text/plain; application/json",
    ],
)
async def test_a_body_that_a_page_can_post_unasked_is_refused(daemon: Running, kind: str) -> None:
    """Browsers send these types across origins without a preflight request."""
    answer = await daemon.ask("POST", "/v1/chat/completions", b"{}", content_type=kind)
    assert answer.status == 415
    assert "application/json" in answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "-"])
async def test_json_is_taken_with_or_without_being_called_so(daemon: Running, kind: str) -> None:
    """`{}` then fails for what it lacks, not for its type."""
    answer = await daemon.ask("POST", "/v1/chat/completions", b"{}", content_type=kind)
    assert answer.status == 400


async def test_no_preflight_is_ever_answered_with_a_permission(daemon: Running) -> None:
    """No CORS: a page is not told that it may."""
    answer = await daemon.ask("OPTIONS", "/v1/chat/completions", origin="http://evil.example")
    assert answer.status == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_the_guard_follows_a_reload(daemon: Running) -> None:
    """A host that is taken out of the file is foreign from then on."""
    assert (await daemon.ask("GET", "/healthz", host="gate.example.com")).status == 200
    daemon.config.write_text(daemon.config.read_text().replace("gate.example.com", "new.example"))
    await daemon.server.reloader.reload()
    assert (await daemon.ask("GET", "/healthz", host="gate.example.com")).status == 403
    assert (await daemon.ask("GET", "/healthz", host="new.example")).status == 200


async def test_the_admin_socket_asks_for_no_host(daemon: Running) -> None:
    """No page can open a Unix socket, and clients write there what they like."""
    assert (await daemon.ask("GET", "/healthz", admin=True, host="whatever")).status == 200
