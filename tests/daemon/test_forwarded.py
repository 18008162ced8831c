"""A proxy or a tunnel makes everybody loopback: who stands behind one is not on this machine."""

from typing import Any

import pytest
from gateway import body
from multidict import CIMultiDict
from shell import running

from tollway.daemon.gate.forwarded import is_forwarded

ASKS = "/v1/models"


@pytest.mark.parametrize(
    ("name", "value", "elsewhere"),
    [
        ("X-Forwarded-For", "203.0.113.5", True),
        ("X-Forwarded-For", "127.0.0.1, 203.0.113.5", True),
        ("x-forwarded-for", "unknown", True),
        ("X-Forwarded-For", "", True),
        ("X-Forwarded-For", "127.0.0.1.evil.example", True),
        ("X-Forwarded-For", "127.0.0.1, ::1,127.0.0.1:4141 , [::1]:5", False),
        ("X-Forwarded-For", "::ffff:127.0.0.1", False),
        ("X-Forwarded-For", "0:0:0:0:0:0:0:1", False),  # Spring Cloud Gateway's
        ("X-Forwarded-For", "[0:0:0:0:0:0:0:1]:51032, ::ffff:7f00:1", False),
        ("X-Forwarded-For", "127.0.0.1,", True),
        ("X-Forwarded-For", "[127.0.0.1, 1", True),
        ("Forwarded", "proto=http; host=localhost:4141; for=127.0.0.1", False),
        ("Forwarded", "for=127.0.0.1;for=192.0.2.60", True),
        ("Forwarded", "before=127.0.0.1", True),
        ("Forwarded", "for=192.0.2.60;proto=http;by=203.0.113.43", True),
        ("Forwarded", 'for="[2001:db8:cafe::17]:4711"', True),
        ("Forwarded", "by=127.0.0.1", True),
        ("Forwarded", 'proto=http;For="[::1]:4711";by=x, for=127.0.0.1', False),
        ("X-Real-IP", "198.51.100.7", True),
        ("X-Real-IP", "127.0.0.1", False),
        ("CF-Connecting-IP", "198.51.100.7", True),
        ("X-Forwarded-Host", "gate.example.com", False),
    ],
)
def test_who_is_asked_for_is_read_as_proxies_write_it(
    name: str, value: str, elsewhere: bool
) -> None:
    """What is not plainly this machine is another."""
    assert is_forwarded(CIMultiDict({name: value})) is elsewhere


async def test_a_gateway_without_keys_serves_nobody_from_elsewhere() -> None:
    """A tunnel to loopback opened all of it to the internet, and its owner's account paid."""
    async with running(server="single_user = true") as daemon:
        theirs: Any = {"x_forwarded_for": "203.0.113.5"}
        assert (await daemon.ask("GET", ASKS)).status == 200
        refused = await daemon.ask("GET", ASKS, **theirs)
        assert (refused.status, refused.json()["error"]["code"]) == (403, "forbidden")
        assert "server.behind_proxy" in refused.json()["error"]["message"]
        call = await daemon.ask("POST", "/v1/chat/completions", body(), **theirs)
        assert call.status == 403
        assert (await daemon.ask("GET", ASKS, x_forwarded_for="127.0.0.1")).status == 200
        assert (await daemon.ask("GET", "/healthz", **theirs)).status == 200
    async with running(server="single_user = true\nbehind_proxy = true") as daemon:
        assert (await daemon.ask("GET", ASKS, **theirs)).status == 200
