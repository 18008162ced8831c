"""Helpers for tests of the real small model behind the whole gateway."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from gateway import CHAT, KEY, body, config
from gguf_files import real_model
from shell import Client, Reply, Running, running, until

from tollway.daemon.ledger.calls import CallDetail, one
from tollway.daemon.ledger.verify import verify

INPUT, OUTPUT = 1000, 2000  # nano-dollars a token, by the price below
LONG = [{"role": "user", "content": "Count from one to three hundred in words."}]


def models(**paths: tuple[Path, int]) -> str:
    """Return tables for models, each with its file and its context."""
    return "".join(
        f'[models.{name}]\ngguf = "{path}"\ncontext = {context}\ngpu_layers = 0\n'
        "price = { input = 1, output = 2 }\n"
        for name, (path, context) in paths.items()
    )


@contextlib.asynccontextmanager
async def serving(tables: str = "") -> AsyncIterator[Running]:
    """Yield a gateway with the small real model, or what the tables say."""
    tables = tables or models(smol=(real_model(), 2048))
    async with running(tables + config([], budget="100/day"), server="") as daemon:
        yield daemon
        inner = daemon.server.daemon
        await until(lambda: inner.active == 0)
        assert all(state.held_nanousd == 0 for state in inner.gate.purse.states())
        await until(lambda: verify(inner.ledger.path) == [])


def said(**fields: Any) -> bytes:
    """Return a call of the model."""
    return body(**{"model": "local/smol", "temperature": 0, **fields})


async def ask(daemon: Running, data: bytes) -> Reply:
    """Send a call and return its answer."""
    return await daemon.ask("POST", CHAT, data, authorization=f"Bearer {KEY}")


async def begin(daemon: Running, data: bytes) -> tuple[Client, str]:
    """Begin a stream; return its connection and its id once three events have come."""
    client = await daemon.connect()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: {daemon.host.decode()}\r\nConnection: close\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    await client.send(head.encode() + data)
    async with asyncio.timeout(60):
        answer = (await client.reader.readuntil(b"\r\n\r\n")).decode().lower()
        for _ in range(3):
            await client.reader.readuntil(b"\n\n")
    assert answer.startswith("http/1.1 200"), answer
    return client, answer.partition("x-tollway-request-id: ")[2].partition("\r\n")[0]


async def row(daemon: Running, call_id: str) -> CallDetail:
    """Return a call's row once it is settled."""
    path = daemon.server.daemon.ledger.path
    await until(lambda: one(path, call_id).call.state != "open")
    return one(path, call_id)


def worker(daemon: Running) -> int:
    """Return the process of the model."""
    (state,) = daemon.server.daemon.local.states()
    assert state.pid is not None
    return state.pid


def exact(found: Any) -> int:
    """Return what a call's tokens cost."""
    total = (found.input_tokens + found.cache_read_tokens) * INPUT
    return int(total + found.output_tokens * OUTPUT)
