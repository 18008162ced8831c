"""`kill -9` at any instant, again and again on one ledger: no admitted call is lost.

The same while one daemon makes way for the next, whichever of the two is killed.
"""

import asyncio
import random
from pathlib import Path

import pytest
from gateway import body
from killing import CALLERS, Load, call, caller, config, ready, rows
from shell import Process, control, process, short_folder, until

from tollway.daemon.config.load import load
from tollway.daemon.ledger.calls import CallRow, one
from tollway.daemon.ledger.verify import verify

KILLS = 5  # of one ledger, one after another
# Refused by the one and answered by the other, cut, left: whatever the load can bring about.
ENDINGS = {"answered", "recovered", "client_left", "upstream_broke", "upstream_refused", "drained"}
# Of attempts that may have been sent and billed, so that they must cost something.
BILLED = {"answered", "recovered", "upstream_broke"}


async def kills(seed: int, *, mixed: bool) -> None:
    """Kill a daemon under load at moments chosen by chance, and check after each start."""
    print(f"seed {seed}, {'mixed' if mixed else 'steady'} load")
    chance = random.Random(seed)  # noqa: S311 - must repeat itself
    seen = Load(chance)
    with short_folder() as folder:
        ledger = folder / "ledger.db"
        async with seen.upstreams() as (steady, flaky):
            path = config(folder, ledger, steady, flaky)
            for number in range(KILLS + 1):
                with process(path) as daemon:
                    await ready(daemon)
                    await until(lambda: all(row.state != "open" for row in rows(ledger)))
                    check(ledger, seen)
                    await check_budgets(path, ledger)
                    if number == KILLS:
                        assert any(row.queue_ms is not None for row in rows(ledger)) == mixed
                        # And it still takes calls.
                        await call(daemon.port, "999-9", body())
                        assert seen.seen["999-9"] == 1
                        return
                    killed = asyncio.Event()
                    seen.hangs = CALLERS // 2
                    calling = [
                        asyncio.create_task(
                            caller(
                                daemon.port,
                                100 * number + one,
                                killed,
                                chance if mixed else None,
                            )
                        )
                        for one in range(CALLERS)
                    ]
                    least = seen.seen.total() + chance.randrange(1, 300)
                    await until(lambda least=least: seen.seen.total() >= least)
                    for _ in range(chance.randrange(50)):
                        await asyncio.sleep(0)
                    killed.set()
                    daemon.kill()
                    await asyncio.gather(*calling)


def check(ledger: Path, load_: Load) -> None:
    """Compare the rows with what the upstreams saw."""
    assert verify(ledger) == []
    found = rows(ledger)
    marks = {row.client.removeprefix("mark-"): row for row in found}
    assert len(marks) == len(found)
    for mark, requests in load_.seen.items():
        assert mark in marks, f"the upstream saw {mark}, the ledger did not"
        assert marks[mark].attempts >= requests
    for row in found:
        if load_.checked.setdefault(row.id, row) is row:
            check_call(ledger, row, load_.seen[row.client.removeprefix("mark-")])
        # What has ended stays as it is, whatever is killed after it.
        assert load_.checked[row.id] == row


def check_call(ledger: Path, row: CallRow, seen: int) -> None:
    """Check one call: settled or recovered, its sums those of its attempts."""
    if row.state == "refused":  # it stood in line when its daemon made way for the next
        assert (row.error, row.attempts, row.cost_nanousd, seen) == ("draining", 0, 0, 0)
        return
    assert row.state == ("recovered" if row.ending == "recovered" else "settled")
    assert row.ending in ENDINGS
    attempts = one(ledger, row.id).attempts
    assert len(attempts) == row.attempts
    assert sum(attempt.cost_nanousd for attempt in attempts) == row.cost_nanousd
    for attempt in attempts:
        if attempt.ending in BILLED:
            assert attempt.cost_nanousd > 0
        if attempt.ending == "upstream_refused":
            assert attempt.cost_nanousd == 0
    if row.ending == "answered":
        assert seen >= 1
    if row.estimated:
        assert row.cost_nanousd > 0


async def check_budgets(path: Path, ledger: Path) -> None:
    """Check that counters are the sums of rows, and that nothing is held."""
    status, said = await asyncio.to_thread(
        control, load(path).admin_socket, "GET", "/control/status"
    )
    assert status == 200
    found = rows(ledger)
    assert len(said["budgets"]) == 3
    for budget in said["budgets"]:
        # The day may have turned over meanwhile.
        since = [row for row in found if row.admitted_ms >= budget["starts_ms"]]
        total = sum(row.cost_nanousd for row in since)
        assert (budget["settled_nanousd"], budget["held_nanousd"]) == (total, 0)


def _seed() -> int:
    return random.SystemRandom().randrange(2**32)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("run", range(2))
async def test_a_daemon_killed_under_load_has_a_row_for_all_that_its_upstreams_saw(
    run: int,
    mixed: bool,
) -> None:
    """Twenty moments, chosen by chance: each request exactly one row, settled or recovered."""
    print(f"run {run}")
    await kills(_seed(), mixed=mixed)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("run", range(40))
async def test_a_daemon_killed_two_hundred_times_has_a_row_for_all_that_its_upstreams_saw(
    run: int,
) -> None:
    """The same two hundred times, three in four under the mixed load."""
    await kills(_seed(), mixed=run % 4 != 0)


def with_retries(path: Path) -> None:
    """Have the route try again, so that kills find calls between two attempts; drain quickly."""
    text = path.read_text()
    lines = 'to = ["flaky/m", "up/m"]'
    assert lines in text and 'drain = "20s"' in text
    text = text.replace(lines, lines + "\nretries = 2")
    path.write_text(text.replace('drain = "20s"', 'drain = "500ms"'))


async def restarts(seed: int) -> None:
    """Restart under load again and again, and kill who chance says, when it says."""
    print(f"seed {seed}")
    chance = random.Random(seed)  # noqa: S311 - must repeat itself
    seen = Load(chance)
    with short_folder() as folder:
        ledger = folder / "ledger.db"
        async with seen.upstreams() as (steady, flaky):
            path = config(folder, ledger, steady, flaky)
            with_retries(path)
            for number in range(2):
                with process(path) as old:
                    await ready(old)
                    await until(lambda: all(row.state != "open" for row in rows(ledger)))
                    check(ledger, seen)
                    await check_budgets(path, ledger)
                    await one_restart(path, old, seen, chance, 100 * number)
            with process(path) as last:
                await ready(last)
                await until(lambda: all(row.state != "open" for row in rows(ledger)))
                check(ledger, seen)
                await check_budgets(path, ledger)
                await call(last.port, "999-9", body())
                assert seen.seen["999-9"] == 1


async def one_restart(
    path: Path, old: Process, seen: Load, chance: random.Random, first: int
) -> None:
    """Let a new daemon take over from one under load, and kill one of them or both."""
    over = asyncio.Event()
    seen.hangs = 2
    calling = [
        asyncio.create_task(caller(old.port, first + one, over, chance)) for one in range(CALLERS)
    ]
    least = seen.seen.total() + chance.randrange(1, 60)
    await until(lambda: seen.seen.total() >= least)
    new = Process(path, path.parent / "process.log", take_over=True)
    try:
        # From before it asks to after it has the socket, on a quiet machine and on a busy one.
        await asyncio.sleep(chance.random() * 3)
        print("taken over" if old.popen.poll() is not None else "not yet")
        victims = chance.choice(([old], [new], [old, new], []))
        for one in victims:
            one.kill()
        await asyncio.sleep(chance.random() * 0.2)
    finally:
        over.set()
        old.kill()
        new.kill()
    await asyncio.gather(*calling)


@pytest.mark.parametrize("run", range(1))
async def test_a_restart_that_is_killed_loses_no_call(run: int) -> None:
    """Each request that an upstream saw is one attempt of a row that is settled or recovered."""
    print(f"run {run}")
    await restarts(_seed())


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("run", range(40))
async def test_many_restarts_that_are_killed_lose_no_call(run: int) -> None:
    """The same at many more moments."""
    print(f"run {run}")
    await restarts(_seed())
