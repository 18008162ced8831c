"""Every path is in one table with the role it needs, and no spelling of a path gets round it."""

from collections.abc import AsyncIterator
from typing import get_args

import pytest
from shell import Running, running

from tollway.daemon.app import ROUTES, Role, build
from tollway.daemon.connection import EdgeLimits
from tollway.daemon.log import Log

KEYS = """
[teams.ml]
groups = ["all"]
[groups.all]
models = ["*"]
[keys.ci]
hash = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
user = "ci"
[users.ci]
team = "ml"
"""


@pytest.fixture
async def daemon() -> AsyncIterator[Running]:
    """Yield a daemon that wants keys."""
    async with running(KEYS, server="") as one:
        yield one


async def test_every_route_of_both_applications_stands_in_the_table_with_a_role(
    daemon: Running,
) -> None:
    """A handler that is reachable without a row would have no role."""
    table = {(method, route.path) for route in ROUTES for method in _methods(route.method)}
    assert all(route.role in get_args(Role) for route in ROUTES)
    log = Log()
    for owner in (False, True):
        app = build(daemon.server.daemon, log, EdgeLimits(), owner=owner)
        found = {
            (route.method, _pattern(route.resource.canonical))
            for route in app.router.routes()
            if route.resource is not None
        }
        assert len(found) == len(app.router.routes())
        expected = {
            (method, _pattern(path))
            for method, path in table
            if owner or not path.startswith("/control/")
        }
        assert found == expected
    log.close()


def _methods(method: str) -> tuple[str, ...]:
    return ("GET", "HEAD") if method == "GET" else (method,)


def _pattern(path: str) -> str:
    return path.replace(":.+}", "}")


async def test_no_owner_route_exists_on_the_public_address(daemon: Running) -> None:
    """Administration is the admin socket alone; elsewhere its paths are not even forbidden."""
    for route in ROUTES:
        if route.role == "owner":
            answer = await daemon.ask(route.method, route.path.replace("{name}", "x"))
            assert answer.status == 404
            assert answer.json()["error"]["code"] == "not_found"


async def test_every_caller_route_refuses_a_caller_without_a_key(daemon: Running) -> None:
    """Each endpoint passes through the one place that authenticates."""
    for route in ROUTES:
        if route.role == "caller":
            path = route.path.replace("{model:.+}", "x").replace("{id}", "x")
            body = b"{}" if route.method == "POST" else b""
            answer = await daemon.ask(route.method, path, body)
            assert (route.path, answer.status) == (route.path, 401)


@pytest.mark.parametrize(
    "path",
    [
        "/V1/models",
        "/v1//models",
        "//v1/models",
        "/v1/models/",
        "/v1/./models",
        "/v1/../v1/models",
        "/%761/models",
        "/v1/%6dodels",
        "/v1%2Fmodels",
        "/v1/models;a=b",
        "/v1/models#part",
        "/healthz/",
        "/%68ealthz",
        "/control/status",
        "/control%2fstatus",
        "/%63ontrol/status",
        "/Control/Status",
        "/v1/../control/status",
        "/healthz/../control/status",
        "/healthz;/../control/status",
        "\\control\\status",
        "/\\control/status",
    ],
)
async def test_another_spelling_of_a_path_is_another_path(daemon: Running, path: str) -> None:
    """Case, encoding, dots and doubled slashes reach no handler, so no role is got round."""
    answer = await daemon.ask("GET", path)
    assert answer.status in {400, 404}


async def test_a_path_behind_models_is_a_model_name_and_nothing_else(daemon: Running) -> None:
    """The one route that takes slashes still asks for a key, whatever they spell."""
    for path in ("/v1/models/../../control/status", "/v1/models/%2e%2e%2fcontrol%2fstatus"):
        assert (await daemon.ask("GET", path)).status == 401


@pytest.mark.parametrize("path", ["/control/../control/status", "/%63ontrol/status", "/control"])
async def test_the_admin_socket_takes_no_other_spelling_either(daemon: Running, path: str) -> None:
    """One way to write a path means one way to reason about it."""
    assert (await daemon.ask("GET", path, admin=True)).status == 404


async def test_a_wrong_method_is_405_and_names_the_right_ones(daemon: Running) -> None:
    """RFC 9110 asks for `Allow`."""
    answer = await daemon.ask("GET", "/v1/chat/completions")
    assert answer.status == 405
    assert answer.headers["allow"] == "POST"
    assert answer.json()["error"]["code"] == "method_not_allowed"
    answer = await daemon.ask("DELETE", "/v1/models")
    assert answer.headers["allow"] == "GET,HEAD"


async def test_agents_may_probe_the_base_url(daemon: Running) -> None:
    """Some agents send HEAD or GET / before they use a base URL."""
    answer = await daemon.ask("GET", "/")
    assert (answer.status, answer.body) == (200, b"Tollway is here\n")
    head = await daemon.raw(b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert head.endswith(b"\r\n\r\n")


async def test_health_and_readiness_are_open(daemon: Running) -> None:
    """Whoever watches the process needs no key."""
    assert (await daemon.ask("GET", "/healthz")).status == 200
    assert (await daemon.ask("GET", "/readyz")).status == 200


async def test_a_draining_daemon_is_healthy_but_not_ready(daemon: Running) -> None:
    """A balancer must send new calls elsewhere; the process itself is fine."""
    daemon.server.daemon.draining = True
    assert (await daemon.ask("GET", "/healthz")).status == 200
    answer = await daemon.ask("GET", "/readyz")
    assert (answer.status, answer.body) == (503, b"draining\n")


async def test_an_unknown_path_is_404_in_the_clients_dialect(daemon: Running) -> None:
    """Client libraries raise what they know only from their own error shape."""
    answer = await daemon.ask("POST", "/v1/nothing", b"{}")
    assert answer.status == 404
    assert answer.headers["content-type"].startswith("application/json")
    assert "/v1/nothing" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/v1beta/models/a/b:asyncBatchEmbedContent", "batchEmbedContents"),
        ("/v1/models/m:batchGenerateContent", "generateContent"),
        ("/v1beta/models/m:predict", "generateContent"),
        ("/v1beta/cachedContents", "generateContent"),
    ],
)
async def test_a_method_of_google_s_that_there_is_none_of_is_404(
    daemon: Running, path: str, hint: str
) -> None:
    """Its path without the method is a model's, so that it was a 405 that allowed GET."""
    answer = await daemon.ask("POST", path, b"{}")
    assert answer.status == 404
    assert hint in answer.json()["error"]["message"]
    assert (await daemon.ask("POST", "/v1beta/models/m", b"{}")).status == 405
