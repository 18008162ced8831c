"""Whatever providers, callers and reloads do, no cap is passed and the ledger knows all of it."""

import asyncio
import contextlib
import random

import pytest
from gateway import KEY, Gateway
from money_world import request, world
from shell import until

from tollway.daemon.ledger.calls import one, recent
from tollway.daemon.ledger.verify import verify


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the providers' keys."""
    monkeypatch.setenv("POOL_ONE", "sk-first-secret-0123456789")
    monkeypatch.setenv("POOL_TWO", "sk-second-secret-0123456789")


def no_cap_is_passed(gate: Gateway) -> None:
    """Settled and held are within each budget that holds back."""
    for state in gate.daemon.server.daemon.gate.purse.states():
        used = state.settled_nanousd + state.held_nanousd
        assert used <= state.limit_nanousd, state
        assert state.held_nanousd >= 0


async def leaves(gate: Gateway, path: str, body: bytes, after_s: float) -> None:
    """Ask, and hang up without waiting for the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.daemon.port)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(after_s):
            await reader.read(1 << 16)
    writer.close()


async def story(seed: int) -> None:
    """Let chance have its way, and look at the books."""
    dice = random.Random(seed)  # noqa: S311 - chance, and no secret
    async with world(dice) as (gate, wild):
        daemon = gate.daemon.server.daemon
        wild.look = lambda: no_cap_is_passed(gate)

        async def caller() -> None:
            for _ in range(8):
                path, body, headers = request(dice)
                if dice.random() < 0.2:
                    await leaves(gate, path, body, dice.choice((0.0, 0.002, 0.02)))
                    continue
                reply = await gate.ask(body, path, **headers)
                assert reply.status in {200, 400, 402, 404, 413, 429, 500, 502, 503, 504}, reply
                no_cap_is_passed(gate)

        async def reloads() -> None:
            for _ in range(4):
                await asyncio.sleep(0.02)
                await gate.daemon.server.reloader.reload()

        await asyncio.gather(*(caller() for _ in range(4)), reloads())
        await until(lambda: daemon.active == 0)
        no_cap_is_passed(gate)
        assert gate.held() == 0
        assert not daemon.books.live
        path = daemon.ledger.path
        await until(lambda: all(row.state != "open" for row in recent(path, limit=500)))
        assert await asyncio.to_thread(verify, path) == []
        rows = [one(path, row.id) for row in recent(path, limit=500)]
        tried = [attempt for row in rows for attempt in row.attempts]
        assert wild.seen <= len(tried)
        assert all(one.overrun_nanousd == 0 for one in tried)
        for row in rows:
            assert row.call.cost_nanousd == sum(one.cost_nanousd or 0 for one in row.attempts)
        spent = sum(row.call.cost_nanousd or 0 for row in rows)
        (team,) = [
            one
            for one in daemon.gate.purse.states()
            if one.scope == "team" and one.budget.endswith("hour")
        ]
        assert team.settled_nanousd == spent
        # What monitoring counts is what the ledger has, under the file's own names.
        tallies = daemon.meter.targets
        assert sum(tally.cost for tally in tallies.values()) == spent
        assert sum(sum(tally.attempts.values()) for tally in tallies.values()) == len(tried)
        assert set(tallies) <= {"up0/m", "up1/m", "up1/n", "up2/claude-sonnet-4-5"}
        assert sum(used.cost for used in daemon.meter.teams.values()) == spent
        text = gate.daemon.log.read_text() + gate.daemon.config.read_text()
        assert "secret-0123456789" not in text
        assert "Traceback" not in text


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("pool")
async def test_no_cap_is_passed_whatever_happens(seed: int) -> None:
    """Retries, pools, fallbacks, cases, overrides, discounts, conversations, clamps and reloads."""
    await story(seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 400))
@pytest.mark.usefixtures("pool")
async def test_no_cap_is_passed_for_long(seed: int) -> None:
    """The same, much more often."""
    await story(seed)
