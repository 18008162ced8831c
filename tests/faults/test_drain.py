"""The end of a daemon with a hundred streams open: each ends whole, or is cut with a word."""

import asyncio
import contextlib
import json
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from gateway import CHAT, DONE, HEAD, KEY, USED, body, chunk, config
from shell import PATIENCE_S, Client, Process, control, process, short_folder, until, write_config
from upstreams import Peer, upstream

from tollway.daemon.ledger.verify import verify

STREAMS = 100


class Slow:
    """An upstream whose streams go on when the test says so; some never do."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.begun = 0

    async def __call__(self, peer: Peer) -> None:
        """Begin a stream, wait, and end it unless its client asked for one that hangs."""
        request = await peer.read_request()
        await peer.say(HEAD + chunk("Hi"))
        self.begun += 1
        await self.go_on.wait()
        if b"hangs" in request:
            await asyncio.Event().wait()
        await peer.say(chunk(finish="stop") + USED + DONE)


@contextlib.asynccontextmanager
async def streaming(*, hang: int, drain: str) -> AsyncIterator[tuple[Process, Slow, list[Client]]]:
    """Yield a daemon with a hundred streams under way, `hang` of which never end."""
    slow = Slow()
    async with upstream([slow]) as up:
        with short_folder() as folder:
            path = write_config(folder, config([up]), server="")
            path.write_text(path.read_text().replace('"20s"', f'"{drain}"'))
            with process(path) as daemon:
                assert (await asyncio.to_thread(daemon.ready))["ready"]
                clients = [await begin(daemon.port, number < hang) for number in range(STREAMS)]
                await until(lambda: slow.begun == STREAMS)
                yield daemon, slow, clients
                for client in clients:
                    client.close()


async def begin(port: int, hangs: bool) -> Client:
    """Ask for a stream."""
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    said = body(True, messages=[{"role": "user", "content": "hangs" if hangs else "Hi"}])
    await client.send(
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Length: {len(said)}\r\n\r\n".encode()
        + said
    )
    return client


async def status(folder: Path) -> dict[str, object]:
    """Ask the owner's socket."""
    _, said = await asyncio.to_thread(control, folder / "tollway.sock", "GET", "/control/status")
    found: dict[str, object] = said
    return found


async def ended(daemon: Process) -> int:
    """Return the exit code once the process is gone."""
    return await asyncio.to_thread(daemon.popen.wait, PATIENCE_S)


def endings(folder: Path) -> dict[str, int]:
    """Return how many calls ended how; every one is settled, and the ledger agrees with itself."""
    ledger = folder / "ledger.db"
    assert verify(ledger) == []
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT state, ending, count(*) FROM calls_readable GROUP BY 1, 2")
        found = {(state, ending): count for state, ending, count in rows}
    assert {state for state, _ in found} == {"settled"}
    return {ending: count for (_, ending), count in found.items()}


async def test_a_hundred_streams_end_whole_and_nothing_new_begins() -> None:
    """SIGTERM: no new connection, no new call on an old one, the owner is answered, exit code 0."""
    async with streaming(hang=0, drain="20s") as (daemon, slow, clients):
        folder = daemon.config.parent
        idle = Client(*await asyncio.open_connection("127.0.0.1", daemon.port))
        await idle.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nPO")
        assert (await idle.answer()).status == 200
        daemon.popen.send_signal(signal.SIGTERM)
        await until(lambda: draining(folder))
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", daemon.port)
        said = body()
        await idle.send(
            f"ST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {KEY}\r\nContent-Length: {len(said)}\r\n\r\n".encode()
            + said
        )
        refused = await idle.answer()
        assert (refused.status, refused.headers["connection"]) == (503, "close")
        assert refused.headers["retry-after"] == "2"
        assert refused.json()["error"]["code"] == "draining"
        idle.close()
        assert (await status(folder))["calls"]["active"] == STREAMS  # type: ignore[index]
        slow.go_on.set()
        for client in clients:
            text = await client.all()
            assert b"[DONE]" in text
            assert b'"error"' not in text
        assert await ended(daemon) == 0
        assert endings(folder) == {"answered": STREAMS}


@pytest.mark.parametrize("hurry", [False, True])
async def test_streams_that_do_not_end_are_cut_with_a_word_and_settled(hurry: bool) -> None:
    """At the deadline, or at a second signal; those that ended before are whole."""
    drain = "1h" if hurry else "1s"
    async with streaming(hang=40, drain=drain) as (daemon, slow, clients):
        folder = daemon.config.parent
        daemon.popen.send_signal(signal.SIGTERM)
        await until(lambda: draining(folder))
        slow.go_on.set()
        if hurry:
            await until(lambda: active(folder, 40))
            daemon.popen.send_signal(signal.SIGTERM)
        for number, client in enumerate(clients):
            text = await client.all()
            if number < 40:
                last = text.split(b"data: ")[-1].partition(b"\n")[0]
                assert json.loads(last)["error"]["code"] == "draining", text
                assert b"[DONE]" not in text
                assert text.endswith(b"0\r\n\r\n")  # the stream ends as HTTP has it
            else:
                assert b"[DONE]" in text
        assert await ended(daemon) == 0
        found = endings(folder)
        assert found.pop("answered") == STREAMS - 40
        assert list(found.values()) == [40], found


async def draining(folder: Path) -> bool:
    """Return whether the daemon says that it drains."""
    return bool((await status(folder))["draining"])


async def active(folder: Path, count: int) -> bool:
    """Return whether so many calls are under way."""
    return (await status(folder))["calls"]["active"] == count  # type: ignore[index,no-any-return]
