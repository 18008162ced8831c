"""A disk that is full or read-only: calls are refused in words, and none is lost."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from gateway import CHAT, DONE, HEAD, KEY, USED, WHOLE, body, chunk, error, whole
from killing import config, ready, rows
from shell import Client, Process, Reply, process, short_folder, until
from upstreams import Peer, reads, says, upstream

from tollway.daemon.ledger.verify import verify


@contextlib.contextmanager
def mounted(where: Path, options: str) -> Iterator[Path]:
    """Yield a small file system in memory, or skip where none can be mounted."""
    where.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


@contextlib.asynccontextmanager
async def on_disk(options: str) -> AsyncIterator[tuple[Process, Path, set[str], asyncio.Event]]:
    """Yield a daemon whose ledger is on a disk of its own; its streams wait for the event."""
    go_on = asyncio.Event()
    seen: set[str] = set()

    async def answers(peer: Peer) -> None:
        request = await peer.read_request()
        if b'"stream":true' not in request:
            await peer.say(whole(WHOLE, "Connection: close"))
            return
        await peer.say(HEAD + chunk("Hi"))
        seen.add("stream")
        await go_on.wait()
        await peer.say(chunk(finish="stop") + USED + DONE)

    with short_folder() as folder, mounted(folder / "disk", options) as disk:
        async with upstream([answers]) as up:
            with process(config(folder, disk / "ledger.db", up)) as daemon:
                await ready(daemon)
                yield daemon, disk, seen, go_on


def fill(disk: Path) -> Path:
    """Leave no byte free; return the file that holds them all."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x")
    return filler


@contextlib.asynccontextmanager
async def asking(port: int, said: bytes) -> AsyncIterator[Client]:
    """Send a call and yield the connection that its answer comes on."""
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(said)}\r\n"
        "Connection: close\r\n\r\n"
    )
    try:
        await client.send(head.encode() + said)
        yield client
    finally:
        client.close()


async def ask(port: int, said: bytes) -> Reply:
    """Send a call and return its answer."""
    async with asking(port, said) as client:
        return await client.answer()


async def test_a_full_disk_refuses_new_calls_and_loses_none_that_runs() -> None:
    """503 with words; the stream under way ends whole; its row is written once there is room."""
    async with (
        on_disk("size=4m,mode=700") as (daemon, disk, seen, go_on),
        asking(daemon.port, body(stream=True)) as stream,
    ):
        await until(lambda: bool(seen))
        filler = await asyncio.to_thread(fill, disk)

        async def refused() -> bool:
            reply = await ask(daemon.port, body())
            if reply.status == 200:
                return False  # there was room for one more within the files
            assert reply.status == 503
            assert error(reply)["code"] == "ledger_unavailable"
            assert "ledger" in error(reply)["message"]
            assert "retry-after" in reply.headers
            return True

        await until(refused)
        go_on.set()
        said = await stream.all()
        assert b"data: [DONE]\n\n" in said
        assert said.endswith(b"0\r\n\r\n")
        filler.unlink()
        ledger = disk / "ledger.db"

        async def taken() -> bool:
            return (await ask(daemon.port, body())).status == 200

        await until(taken)
        await until(lambda: all(row.state != "open" for row in rows(ledger)))
        (row,) = [row for row in rows(ledger) if row.stream]
        assert (row.state, row.ending, row.estimated) == ("settled", "answered", False)
        await until(lambda: verify(ledger) == [])


async def test_a_read_only_ledger_is_told_at_the_start() -> None:
    """The daemon says which folder it cannot write, and does not answer as if all were well."""
    with short_folder() as folder, mounted(folder / "disk", "size=4m,mode=700") as disk:
        async with upstream([reads(), says(whole())]) as up:
            path = config(folder, disk / "ledger.db", up)
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)  # noqa: ASYNC221
            with process(path) as daemon:
                word = await asyncio.to_thread(daemon.ready)
                if word.get("listen"):
                    reply = await ask(daemon.port, body())
                    assert reply.status == 503
                    assert error(reply)["code"] == "ledger_unavailable"
                else:
                    assert await asyncio.to_thread(daemon.ended) == 1
                said = (folder / "process.log").read_text() + str(word)
                assert str(disk) in said
                assert "read-only" in said.lower()
            assert up.requests == []
