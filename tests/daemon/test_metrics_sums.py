"""After a run of random calls, faults and partings: `/metrics`, the ledger and the books agree."""

import asyncio
import random
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress

import msgspec
import pytest
from broken_streams import FAILED, opening
from explain_world import SECRET, World
from fault_world import body as good_body
from fault_world import dialect_of, head, well_answered
from shell import Running, running, until
from upstreams import Peer, answer, upstream

from tollway.daemon.errors import ConfigError
from tollway.daemon.ledger.verify import verify
from tollway.daemon.meter import CLASSES

ATTEMPTS = """SELECT a.provider || '/' || a.model, coalesce(w.word, ''), count(*),
    sum(t.cost_nanousd), sum(t.overrun_nanousd),
    sum(t.input_tokens), sum(t.output_tokens), sum(t.reasoning_tokens)
    FROM attempts t JOIN accounts a ON a.id = t.account LEFT JOIN words w ON w.id = t.ending
    GROUP BY 1, 2"""


class Moody:
    """An upstream's script: every request meets something else."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice

    async def __call__(self, peer: Peer) -> None:
        """Serve one connection."""
        while True:
            request = await peer.read_request()
            what = self.dice.choice(MOODS)
            if await what(peer, request) is False:
                return


Mood = Callable[[Peer, bytes], Awaitable[bool]]


async def serves(peer: Peer, request: bytes) -> bool:
    """Answer well."""
    await peer.say(well_answered(request))
    return True


def refuses(status: str, *headers: str) -> Mood:
    """Return what refuses with a status."""

    async def mood(peer: Peer, _request: bytes) -> bool:
        await peer.say(answer(b'{"error":{"message":"No"}}', *headers, status=status))
        return True

    return mood


async def hangs_up(_peer: Peer, _request: bytes) -> bool:
    """Say nothing."""
    return False


async def babbles(peer: Peer, _request: bytes) -> bool:
    """Answer 200 with what is no answer."""
    await peer.say(answer(b"<html>", "Content-Type: text/html"))
    return True


async def breaks(peer: Peer, request: bytes) -> bool:
    """Hang up in the middle of an answer."""
    source, stream = dialect_of(request)
    begun = opening(source) if stream else good_body(source, stream)[:-20]
    await peer.say(head(source, stream) + begun)
    return False


async def errs(peer: Peer, request: bytes) -> bool:
    """Report an error in the middle of a stream."""
    source, stream = dialect_of(request)
    if stream:
        await peer.say(head(source, stream) + opening(source) + FAILED[source])
        return False
    return await serves(peer, request)


MOODS: list[Mood] = [
    serves, serves, serves, serves, hangs_up, babbles, breaks, errs,
    refuses("503 No"), refuses("429 No", "retry-after-ms: 5"), refuses("400 No"), refuses("401 No"),
]  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
async def test_all_sums_agree(seed: int) -> None:
    """To the nano-dollar and the token, for each target and ending; afterwards nothing is held."""
    for again in range(10):
        world = World(seed + 1000 * again)
        # A world may have a condition that never holds, which no daemon takes.
        with suppress(ConfigError):
            return await summed(world, seed)
    pytest.fail("none of ten worlds can be")


async def summed(world: World, seed: int) -> None:
    """Compare the sums after random calls in a world, with reloads in between."""
    async with (
        upstream([Moody(world.dice)]) as up,
        running(world.config(up.port), server='budget = ["1000/day"]') as daemon,
    ):
        changes = asyncio.create_task(reloads(daemon, seed, up.port))
        await asyncio.gather(*(sends(daemon, world) for _ in range(80)))
        await changes
        await agree(daemon)


async def reloads(daemon: Running, seed: int, port: int) -> None:
    """Bring other routes, prices and budgets into force meanwhile, and broken files."""
    head, _, _ = daemon.config.read_text().partition("[providers.one]")
    for number in range(8):
        tables = World(seed * 100 + number).config(port)
        daemon.config.write_text(head + (tables if number % 3 else "[broken"))
        await daemon.ask("POST", "/control/reload", admin=True)


async def sends(daemon: Running, world: World) -> None:
    """Send a call, and leave it early now and then."""
    _, path, said, _, headers = world.call()
    body = msgspec.json.encode(said)
    headers = {"host": daemon.host.decode(), "authorization": f"Bearer {SECRET}"} | headers
    headers |= {"content-length": str(len(body)), "content-type": "application/json"}
    lines = "\r\n".join(f"{name}: {value}" for name, value in headers.items())
    client = await daemon.connect()
    leaves = world.dice.random() < 0.2
    start = f"POST {path} HTTP/1.1\r\nConnection: close\r\n{lines}\r\n\r\n"
    await client.send(start.encode() + body)
    if leaves:
        await asyncio.sleep(world.dice.random() * 0.02)
    else:
        await client.all()
    client.close()


async def agree(daemon: Running) -> None:
    """Compare what is counted with what is written."""
    inner = daemon.server.daemon
    await until(lambda: inner.active == 0)
    await until(lambda: verify(inner.ledger.path) == [])
    assert sum(one.held_nanousd for one in inner.gate.purse.states()) == 0
    with closing(sqlite3.connect(inner.ledger.path)) as db:
        rows = db.execute(ATTEMPTS).fetchall()
        (spent,) = db.execute("SELECT sum(cost_nanousd) FROM calls").fetchone()
    endings: dict[str, dict[str, int]] = defaultdict(dict)
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for target, ending, number, cost, overrun, came, went, thought in rows:
        endings[target][ending] = number
        sums[target].update(cost=cost, overrun=overrun, input=came, output=went, reasoning=thought)
    assert endings.keys() == inner.meter.targets.keys()
    for name, tally in inner.meter.targets.items():
        assert tally.attempts == endings[name], name
        tokens = dict(zip(CLASSES, tally.tokens, strict=True))
        counted = {name: tokens[name] for name in ("input", "output", "reasoning")}
        assert counted | {"cost": tally.cost, "overrun": tally.overrun} == sums[name], name
    (box,) = [one for one in inner.gate.purse.states() if one.scope == "box"]
    assert box.settled_nanousd == sum(one["cost"] for one in sums.values()) == (spent or 0)
