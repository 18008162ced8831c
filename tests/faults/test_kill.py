"""`kill -9` under load, and a disk that is full or read-only: no admitted call is lost."""

import asyncio
import contextlib
import random
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from gateway import CHAT, DONE, HEAD, KEY, USED, WHOLE, body, chunk, error, whole
from shell import Client, Process, Reply, control, process, short_folder, until
from upstreams import Peer, Upstream, reads, says, upstream

from tollway.daemon.config.load import load
from tollway.daemon.ledger.calls import CallRow, recent
from tollway.daemon.ledger.verify import verify

CALLERS = 8
MARK = re.compile(rb"mark-(\d+-\d+)")


class Load:
    """An upstream of a gateway under load, and what it has seen."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    async def answer(self, peer: Peer) -> None:
        """Answer each request with an answer or a stream that takes a while."""
        while True:
            request = await peer.read_request()
            found = MARK.search(request)
            assert found
            self.seen.add(found[1].decode())
            await asyncio.sleep(0)
            if b'"stream":true' not in request:
                await peer.say(whole())
                continue
            await peer.say(HEAD)
            for _ in range(20):
                await peer.say(chunk("Hi"))
                await asyncio.sleep(0)
            await peer.say(chunk(finish="stop") + USED + DONE)
            return


async def call(port: int, mark: str, *, stream: bool) -> None:
    """Make one call to its end, or to that of the daemon."""
    said = body(stream)
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(said)}\r\n"
        f"User-Agent: mark-{mark}\r\nConnection: close\r\n\r\n"
    )
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head.encode() + said)
            await reader.read()
        finally:
            writer.close()


async def caller(port: int, number: int, killed: asyncio.Event) -> None:
    """Make calls, one after another, until the daemon is gone."""
    count = 0
    while not killed.is_set():
        await call(port, f"{number}-{count}", stream=bool(count % 2))
        count += 1


def config(folder: Path, ledger: Path, up: Upstream) -> Path:
    """Write a configuration with its ledger wherever it is to be."""
    path = folder / "gateway.toml"
    path.write_text(f"""
[server]
listen = "127.0.0.1:0"
drain = "20s"
budget = ["1000/total", "900/day"]
[ledger]
path = "{ledger}"
[providers.up]
kind = "openai"
base_url = "http://127.0.0.1:{up.port}/v1"
[prices."up/*"]
input = 1
output = 2
[groups.all]
models = ["*"]
[users.ann]
groups = ["all"]
budget = ["800/total"]
[keys.laptop]
hash = "sha256:{sha256(KEY.encode()).hexdigest()}"
user = "ann"
""")
    path.chmod(0o600)
    return path


async def ready(daemon: Process) -> None:
    """Return once a daemon answers."""
    word = await asyncio.to_thread(daemon.ready)
    assert "listen" in word, (daemon.config.parent / "process.log").read_text()


def rows(ledger: Path) -> list[CallRow]:
    """Return all calls."""
    found = recent(ledger, limit=100_000)
    assert len(found) < 100_000
    return found


@pytest.mark.parametrize("run", range(10))
async def test_a_daemon_killed_under_load_has_a_row_for_all_that_its_upstream_saw(
    run: int,
) -> None:
    """Ten moments, chosen by chance: each request exactly one row, settled or recovered."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"run {run}: seed {seed}")
    chance = random.Random(seed)  # noqa: S311 - must repeat itself
    load_ = Load()
    with short_folder() as folder:
        async with upstream([load_.answer]) as up:
            path = config(folder, folder / "ledger.db", up)
            with process(path) as daemon:
                await ready(daemon)
                killed = asyncio.Event()
                calling = [
                    asyncio.create_task(caller(daemon.port, number, killed))
                    for number in range(CALLERS)
                ]
                least = chance.randrange(1, 400)
                await until(lambda: len(load_.seen) >= least)
                for _ in range(chance.randrange(50)):
                    await asyncio.sleep(0)
                killed.set()
                daemon.kill()
                await asyncio.gather(*calling)
            with process(path) as daemon:
                await ready(daemon)
                ledger = folder / "ledger.db"
                await until(lambda: all(row.state != "open" for row in rows(ledger)))
                check(ledger, load_)
                status, said = await asyncio.to_thread(
                    control, load(path).admin_socket, "GET", "/control/status"
                )
                assert status == 200
                total = sum(row.cost_nanousd for row in rows(ledger))
                budgets = {(one["scope"], one["budget"]): one for one in said["budgets"]}
                for budget in budgets.values():
                    assert (budget["settled_nanousd"], budget["held_nanousd"]) == (total, 0)
                assert len(budgets) == 3
                await call(daemon.port, "9-9", stream=False)
                assert "9-9" in load_.seen


def check(ledger: Path, load_: Load) -> None:
    """Compare the rows with what the upstream saw."""
    assert verify(ledger) == []
    marks = [row.client.removeprefix("mark-") for row in rows(ledger)]
    assert len(marks) == len(set(marks))
    assert load_.seen <= set(marks)
    for row in rows(ledger):
        assert row.state == ("recovered" if row.ending == "recovered" else "settled")
        assert row.ending in {"answered", "recovered", "client_left"}
        assert row.cost_nanousd > 0
        assert row.estimated == (row.ending != "answered")


# -- disks ---------------------------------------------------------------------------------------


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
async def on_disk(options: str) -> AsyncIterator[tuple[Process, Path, Load, asyncio.Event]]:
    """Yield a daemon whose ledger is on a disk of its own; its streams wait for the event."""
    go_on = asyncio.Event()
    load_ = Load()

    async def answers(peer: Peer) -> None:
        request = await peer.read_request()
        if b'"stream":true' not in request:
            await peer.say(whole(WHOLE, "Connection: close"))
            return
        await peer.say(HEAD + chunk("Hi"))
        load_.seen.add("stream")
        await go_on.wait()
        await peer.say(chunk(finish="stop") + USED + DONE)

    with short_folder() as folder, mounted(folder / "disk", options) as disk:
        async with upstream([answers]) as up:
            with process(config(folder, disk / "ledger.db", up)) as daemon:
                await ready(daemon)
                yield daemon, disk, load_, go_on


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
        on_disk("size=4m,mode=700") as (daemon, disk, load_, go_on),
        asking(daemon.port, body(stream=True)) as stream,
    ):
        await until(lambda: bool(load_.seen))
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
