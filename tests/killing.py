"""A daemon under a load that holds every kind of ending, and its upstreams' own record of it."""

import asyncio
import contextlib
import random
import re
from collections import Counter
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

from gateway import CHAT, DONE, HEAD, KEY, USED, body, chunk, whole
from shell import Process
from upstreams import Peer, Upstream, upstream

from tollway.daemon.ledger.calls import CallRow, recent

CALLERS = 8
MARK = re.compile(rb"mark-(\d+-\d+)")
BROKEN = whole(b'{"error":{"message":"busy"}}', status="503 Service Unavailable")


class Load:
    """What upstreams have seen: how many requests of each call. `chance` decides how it ends."""

    def __init__(self, chance: random.Random) -> None:
        self.seen: Counter[str] = Counter()
        # How many requests may still be left to hang: each holds a caller to the end.
        self.hangs = 0
        # The rows that have been compared with it.
        self.checked: dict[str, CallRow] = {}
        self._chance = chance

    async def steady(self, peer: Peer) -> None:
        """Answer each request with an answer, or with a stream that takes a while."""
        while True:
            request = await self._next(peer)
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

    async def flaky(self, peer: Peer) -> None:
        """Refuse, hang up before or within the answer, say nothing for ever, or answer."""
        while True:
            request = await self._next(peer)
            fate = self._chance.randrange(8)
            if fate < 3:
                await peer.say(BROKEN)
                continue
            if fate == 3:
                return
            if fate == 4 and self.hangs:
                self.hangs -= 1
                await asyncio.Event().wait()
            if b'"stream":true' in request:
                cut = b"" if fate == 5 else chunk(finish="stop") + USED + DONE
                await peer.say(HEAD + chunk("Hi") + cut)
                return
            await peer.say(whole())

    async def _next(self, peer: Peer) -> bytes:
        request = await peer.read_request()
        found = MARK.search(request)
        assert found
        self.seen[found[1].decode()] += 1
        return request

    @contextlib.asynccontextmanager
    async def upstreams(self) -> AsyncIterator[list[Upstream]]:
        """Yield the steady upstream and the flaky one."""
        async with upstream([self.steady]) as steady, upstream([self.flaky]) as flaky:
            yield [steady, flaky]


async def call(port: int, mark: str, said: bytes, *, leave_after: int | None = None) -> None:
    """Make one call to its end, to the daemon's, or leave once so many bytes have come."""
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(said)}\r\n"
        f"User-Agent: mark-{mark}\r\nConnection: close\r\n\r\n"
    )
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head.encode() + said)
            if leave_after is None:
                await reader.read()
            else:
                await reader.readexactly(leave_after)
        finally:
            writer.close()


async def caller(
    port: int, number: int, killed: asyncio.Event, chance: random.Random | None = None
) -> None:
    """Make calls, one after another, until the daemon is gone; `chance` mixes all kinds."""
    count = 0
    while not killed.is_set():
        mark = f"{number}-{count}"
        if chance is None:
            await call(port, mark, body(bool(count % 2)))
        else:
            said = body(chance.random() < 0.5, model=chance.choice(["up/m", "either", "line/m"]))
            leave = chance.randrange(600) if chance.randrange(4) == 0 else None
            await call(port, mark, said, leave_after=leave)
        count += 1


def config(folder: Path, ledger: Path, up: Upstream, flaky: Upstream | None = None) -> Path:
    """Write a configuration with its ledger wherever it is to be; return its path."""
    path = folder / "gateway.toml"
    route = '[routes.either]\nto = ["flaky/m", "up/m"]' if flaky else ""
    providers = "".join(
        f"""[providers.{name}]
kind = "openai"
base_url = "http://127.0.0.1:{one.port}/v1"
{more}
[prices."{name}/*"]
input = 1
output = 2
"""
        # At `line` one call runs and the others wait, so that a kill finds some in line.
        for name, one, more in (
            ("up", up, ""),
            ("flaky", flaky, ""),
            ("line", flaky and up, "slots = 1"),
        )
        if one
    )
    path.write_text(f"""
[server]
listen = "127.0.0.1:0"
drain = "20s"
budget = ["1000/total", "900/day"]
[ledger]
path = "{ledger}"
bodies = "all"
{providers}
{route}
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
