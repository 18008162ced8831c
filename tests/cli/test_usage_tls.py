"""`usage` at a gateway that speaks HTTPS: why it is not trusted, and what makes it so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from program import Home
from upstreams import self_signed

KEY = "tw-" + "k" * 30


@asynccontextmanager
async def closing(folder: Path, name: str) -> AsyncIterator[int]:
    """Listen with a certificate for a name, and answer nothing."""
    context, _ = self_signed(folder, name)

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("scheme", "name", "trusted", "said", "hint"),
    [
        ("https", "127.0.0.1", False, "self-signed certificate", "`SSL_CERT_FILE=ca.pem tollway"),
        ("https", "box.example", True, "not valid for '127.0.0.1'", "a name that the gateway's"),
        ("http", "127.0.0.1", True, "answers nothing", "Is it `https://127.0.0.1:"),
    ],
)
async def test_what_is_not_trusted_says_what_makes_it_so(
    tmp_path: Path, scheme: str, name: str, trusted: bool, said: str, hint: str
) -> None:
    """A team's own authority is in no system's store; a name that was typed wrong is in no file."""
    async with closing(tmp_path, name) as port:
        home = Home(tmp_path)
        trust = {"SSL_CERT_FILE": str(tmp_path / "trusted.pem")} if trusted else {}
        words = ("usage", "--url", f"{scheme}://127.0.0.1:{port}")
        done = await asyncio.to_thread(
            lambda: home.tollway(*words, fresh=False, TOLLWAY_KEY=KEY, **trust)
        )
    assert (done.returncode, done.stdout) == (3, "")
    first, second = done.stderr.splitlines()
    assert said in first.replace("self signed", "self-signed")
    assert second.startswith(f"hint: {hint}") or hint in second
    assert KEY not in done.stderr
