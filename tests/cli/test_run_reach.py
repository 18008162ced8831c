"""A run's program is told where the gateway is: whether that address works is looked at before."""

import asyncio
from pathlib import Path

import pytest
from upstreams import self_signed

from tollway.cli.run_reach import unreachable


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://localhost:9", "http://[::1]:9"])
def test_plain_loopback_is_not_asked(url: str) -> None:
    """The daemon has just answered at its socket, and listens there."""
    assert unreachable(url) == ("", "")


def test_a_name_that_leads_nowhere_is_told_with_the_line_that_leads_it_here() -> None:
    """As of a certificate for the name by which others reach the box."""
    why, helps = unreachable("https://gateway.invalid:4141")
    assert why.startswith("`gateway.invalid` leads nowhere from here")
    assert "`127.0.0.1 gateway.invalid` as a line of /etc/hosts" in helps


async def test_a_certificate_is_trusted_or_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A team's own authority is in no system's store until a variable names it."""
    context, trusted = self_signed(tmp_path)

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0, ssl=context)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        why, helps = await asyncio.to_thread(unreachable, url)
        assert "is not trusted here" in why
        assert "$NODE_EXTRA_CA_CERTS" in helps
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        assert await asyncio.to_thread(unreachable, url) == ("", "")


def test_a_port_that_nobody_listens_at_is_told() -> None:
    """A proxy in front that is down, say."""
    why, helps = unreachable("https://127.0.0.1:9")
    assert (why, helps) == (
        "`https://127.0.0.1:9` cannot be reached from here: Connection refused",
        "",
    )
