"""Reloads under load: no call is dropped, and none runs under half a configuration."""

import asyncio
import contextlib
import json
import random
import sqlite3
from pathlib import Path

import pytest
from gateway import CHAT, DONE, HEAD, INPUT, OUTPUT, USED, body, chunk, whole
from shell import Client, Running, running, until
from upstreams import Peer, upstream

from tollway.daemon.ledger.verify import verify
from tollway.providers.errors import GatewayError

CALLERS = 6
KINDS = 7  # versions of the file that differ


async def answers(peer: Peer) -> None:
    """Answer whole or in pieces, whatever is asked."""
    if b'"stream":true' in await peer.read_request():
        await peer.say(HEAD)
        for _ in range(4):
            await peer.say(chunk("Hi"))
            await asyncio.sleep(0)
        await peer.say(chunk(finish="stop") + USED + DONE)
    else:
        await peer.say(whole())


def text(port: int, number: int) -> str:
    """Return a version of the tables: where the route leads, and the price there, belong together.

    Under half of one and half of another a call would go to a model without its price, or cost
    another version's.
    """
    kind = number % KINDS
    return f"""[providers.up]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
[routes.r]
to = ["up/m{kind}"]
[prices."up/m{kind}"]
input = {kind + 1}
output = {2 * kind + 2}
[users.u{kind}]
budget = ["{number + 1000}/day"]
"""


async def caller(daemon: Running, over: asyncio.Event, stream: bool) -> int:
    """Make calls until it is over; return how many, all of them answered."""
    count = 0
    said = body(stream, model="r")
    call = (
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(said)}\r\nConnection: close\r\n\r\n"
    ).encode() + said
    while not over.is_set():
        client = Client(*await asyncio.open_connection("127.0.0.1", daemon.port))
        await client.send(call)
        answer = await client.all()
        client.close()
        assert answer.startswith(b"HTTP/1.1 200"), answer[:300]
        assert (b"[DONE]" if stream else b"Hello") in answer
        count += 1
    return count


def spoilt(good: str, chance: random.Random) -> str:
    """Return what an editor leaves half-written, or a person mistypes; it is never valid."""
    return chance.choice(
        [
            # Half of a text. What ends between two lines can be valid, and is then what the file
            # says: somebody said `reload`. (The watch, which nobody told, is warier.)
            good[: good.index('"') + 3],
            good[: good.rindex('"') - 2],
            good.replace("input", "imput"),
            good.replace("[prices.", "[prises."),
            good + '\n[routes.q]\nto = ["nowhere/m"]\n',
            good + "\nlisten = 1\n",
            "\0" + good,
        ]
    )


@pytest.mark.parametrize("reloads", [100, pytest.param(1000, marks=pytest.mark.long)])
async def test_reloads_under_load_drop_no_call_and_mix_no_versions(reloads: int) -> None:
    """One in ten is broken, some half-written; each call cost what its own version says."""
    chance = random.Random(reloads)  # noqa: S311 - must repeat itself
    async with (
        upstream([answers]) as up,
        running(text(up.port, 0), server="single_user = true\nwatch = false") as daemon,
    ):
        head = daemon.config.read_text().partition("[providers.up]")[0]
        over = asyncio.Event()
        calling = [
            asyncio.create_task(caller(daemon, over, bool(number % 2))) for number in range(CALLERS)
        ]
        for number in range(1, reloads + 1):
            good = head + text(up.port, number)
            before = daemon.server.daemon.config
            broken = number % 10 == 9
            daemon.config.write_text(spoilt(good, chance) if broken else good)
            if broken:
                with pytest.raises(GatewayError):
                    await daemon.server.reloader.reload()
                assert daemon.server.daemon.config is before
                state = daemon.server.reloader.state
                assert (state.state, bool(state.problem)) == ("broken", True)
            else:
                await daemon.server.reloader.reload()
                assert daemon.server.daemon.gate.config is daemon.server.daemon.config
                assert list(daemon.server.daemon.config.users) == [f"u{number % KINDS}"]
        over.set()
        calls = sum(await asyncio.gather(*calling))
        assert calls > CALLERS
        await until(lambda: not daemon.server.daemon.tasks)
        ledger = daemon.server.daemon.ledger.path
        check(ledger, calls)
    assert verify(ledger) == [] if ledger.exists() else True


def check(ledger: Path, calls: int) -> None:
    """Check that each call went where, and cost what, one and the same version says."""
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as db:
        rows = db.execute(
            "SELECT model, cost_nanousd, state, ending, count(*) FROM calls_readable"
            " GROUP BY 1, 2, 3, 4"
        ).fetchall()
    assert sum(count for *_, count in rows) == calls
    for model, cost, state, ending, _ in rows:
        factor = int(model.removeprefix("m")) + 1
        assert (state, ending) == ("settled", "answered")
        assert cost == factor * (7 * INPUT + 3 * OUTPUT), (model, cost, json.dumps(rows))
