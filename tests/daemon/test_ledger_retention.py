"""Old rows leave the ledger in the background; what they add up to stays, and nobody waits."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from ledger_rows import attempt, closed, ended, opened

from tollway.daemon.ledger import calls
from tollway.daemon.ledger.bodies import Kept, of_call
from tollway.daemon.ledger.calls import CallUnknown
from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.retention import Policy, Size, pruned_before_ms, size, size_warning
from tollway.daemon.ledger.rows import SpentQuery
from tollway.daemon.ledger.schema import QUARTER_MS
from tollway.daemon.ledger.spend import By, report, totals
from tollway.daemon.ledger.upkeep import Upkeep
from tollway.daemon.ledger.verify import repair, verify
from tollway.daemon.ledger.wal import Turns
from tollway.daemon.ledger.writer import Ledger

DAY_MS = 86_400_000
NOW_MS = time.time_ns() // 1_000_000
OLD_MS = NOW_MS - 10 * DAY_MS
WEEK = Policy(keep_ms=7 * DAY_MS)


async def until(what: Callable[[], bool]) -> None:
    """Return once `what` holds."""
    async with asyncio.timeout(30):
        while not what():  # noqa: ASYNC110 - another thread makes it so
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Ledger]:
    """Yield an open ledger; afterwards it agrees with itself."""
    ledger = Ledger(path)
    ledger.start()
    yield ledger
    await ledger.close()
    assert verify(path) == []


async def call(ledger: Ledger, number: int, at_ms: int, **fields: object) -> str:
    """Write one settled call, and return its id."""
    made = opened(number, at_ms, **fields)
    await ledger.admit(made, attempt(made))
    await ledger.settle(closed(made), ended(attempt(made), 100))
    return made.id


def count(path: Path, table: str = "calls") -> int:
    """Return how many rows a table has."""
    with reading(path) as db:
        found = db.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - ours
    return int(found[0])


async def test_old_calls_go_and_their_sums_stay(tmp_path: Path) -> None:
    """Reports and budgets of years past read the roll-ups; only the single calls are gone."""
    path = tmp_path / "ledger.db"
    async with running(path) as ledger:
        old = [await call(ledger, n, OLD_MS + n, budget_tags=("run=42",)) for n in range(1, 301)]
        new = await call(ledger, 301, NOW_MS - DAY_MS)
        before = report(
            path, by=[By.DAY, By.MODEL], since_ms=0, until_ms=NOW_MS, tz=ZoneInfo("UTC")
        )
        ledger.retain(WEEK)
        await until(lambda: count(path) == 1)
        assert calls.one(path, new).call.cost_nanousd == 100
        assert count(path, "attempts") == 1
        after = report(path, by=[By.DAY, By.MODEL], since_ms=0, until_ms=NOW_MS, tz=ZoneInfo("UTC"))
        assert after == before
        asked = [SpentQuery("box", "", 0), SpentQuery("tag", "run=42", 0)]
        assert await ledger.spent(asked) == [30_100, 30_000]
        with reading(path) as db:
            assert pruned_before_ms(db) == (OLD_MS + 300) // QUARTER_MS * QUARTER_MS + QUARTER_MS
        with pytest.raises(CallUnknown) as unknown:
            calls.one(path, old[0])
        assert "are deleted" in unknown.value.hint
    assert repair(path) == []
    assert totals(path, since_ms=0, until_ms=2**60).cost_nanousd == 30_100


async def test_a_quarter_of_which_some_rows_are_gone_is_not_counted_anew(tmp_path: Path) -> None:
    """A repair in the middle of the work must not take the rest for the whole."""
    path = tmp_path / "ledger.db"
    async with running(path) as ledger:
        for number in range(1, 41):
            await call(ledger, number, OLD_MS + number)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        upkeep = Upkeep(lambda _: None)
        upkeep.policy = WEEK
        upkeep._rows = 15
        upkeep.step(db, Turns())
    assert count(path) == 25
    assert verify(path) == []
    assert repair(path) == []
    assert totals(path, since_ms=0, until_ms=2**60).cost_nanousd == 4000


async def test_a_call_that_is_still_open_stays(tmp_path: Path) -> None:
    """However long it runs: its hold and its settlement need the row."""
    path = tmp_path / "ledger.db"
    async with running(path) as ledger:
        long = opened(1, OLD_MS)
        await ledger.admit(long, attempt(long))
        await call(ledger, 2, OLD_MS)
        ledger.retain(WEEK)
        await until(lambda: count(path) == 1)
        await ledger.settle(closed(long), ended(attempt(long), 700))
        assert await ledger.spent([SpentQuery("box", "", 0)]) == [800]


async def test_a_row_written_later_than_it_happened_goes_by_its_own_age(tmp_path: Path) -> None:
    """Imported logs come after newer calls: neither hides the other."""
    path = tmp_path / "ledger.db"
    async with running(path) as ledger:
        new = await call(ledger, 1, NOW_MS - DAY_MS)
        await call(ledger, 2, OLD_MS)
        ledger.retain(WEEK)
        await until(lambda: count(path) == 1)
        assert calls.recent(path, limit=9)[0].id == new


async def test_at_its_cap_the_file_gives_up_the_oldest_calls_first(tmp_path: Path) -> None:
    """A box that is never looked after must not run out of disk; the owner is told before."""
    path = tmp_path / "ledger.db"
    async with running(path) as ledger:
        for number in range(1, 1201):
            await call(ledger, number, NOW_MS - DAY_MS + number)
        with reading(path) as db:
            most = size(db).used - 40_000
        ledger.retain(Policy(most_bytes=most))
        await until(lambda: count(path) < 1200)

        def small() -> bool:
            with reading(path) as db:
                return size(db).used <= most

        await until(small)
        left = [row.id for row in calls.recent(path, limit=2000)]
        assert left[0] == opened(1200, NOW_MS - DAY_MS + 1200).id
        assert 600 < len(left) < 1200
        assert await ledger.spent([SpentQuery("box", "", 0)]) == [120_000]
        await until(lambda: any("ledger.max_size" in one for one in ledger.warnings))


def test_the_owner_is_warned_before_the_cap() -> None:
    """At 80 per cent there is time to choose; at the cap it says what is happening."""
    policy = Policy(most_bytes=1000 * 1024**2)
    assert size_warning(policy, Size(799 * 1024**2, 0)) is None
    near = size_warning(policy, Size(800 * 1024**2, 0))
    assert near and "800 MiB of the 1000 MiB" in near
    over = size_warning(policy, Size(1000 * 1024**2, 0))
    assert over and "before `ledger.keep` says so" in over
    assert size_warning(Policy(), Size(2**40, 0)) is None


async def test_calls_are_written_while_old_rows_go(tmp_path: Path) -> None:
    """One step is one short transaction; the next waits for the calls that came meanwhile."""
    path = tmp_path / "ledger.db"
    async with running(path) as ledger:
        for number in range(1, 501):
            await call(ledger, number, OLD_MS + number)
        ledger.retain(WEEK)
        new: list[str] = []
        while count(path) > len(new):
            new.append(await call(ledger, 501 + len(new), NOW_MS))
        assert {row.id for row in calls.recent(path, limit=9999)} == set(new)


async def test_bodies_go_by_their_own_age_and_with_their_call(tmp_path: Path) -> None:
    """What people said leaves long before the row that says what it cost."""
    path = tmp_path / "ledger.db"
    async with running(path) as ledger:
        ids = [
            await call(ledger, number, at_ms)
            for number, at_ms in ((1, OLD_MS), (2, NOW_MS - 5 * DAY_MS), (3, NOW_MS - DAY_MS))
        ]
        for call_id, at_ms in zip(ids, (NOW_MS, OLD_MS, NOW_MS - DAY_MS), strict=True):
            ledger.keep(Kept(call_id, at_ms, b"Hi", 2, b"Hello", 5, str))
        await until(lambda: count(path, "bodies") == 6)
        ledger.retain(Policy(keep_ms=7 * DAY_MS, keep_bodies_ms=2 * DAY_MS))
        await until(lambda: count(path) == 2 and count(path, "bodies") == 2)
        assert of_call(path, ids[1]) == []
        assert [one.text for one in of_call(path, ids[2])] == ["Hi", "Hello"]


async def test_an_upkeep_that_fails_costs_no_call_and_is_told(tmp_path: Path) -> None:
    """Nobody who calls has to do with old rows; the owner sees why they stay."""
    path = tmp_path / "ledger.db"
    async with running(path) as ledger:
        for number in range(1, 9):
            await call(ledger, number, OLD_MS)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute(
                "CREATE TRIGGER held BEFORE DELETE ON calls"
                " BEGIN SELECT raise(ABORT, 'these are held'); END"
            )
        ledger.retain(WEEK)
        await until(lambda: any("these are held" in one for one in ledger.warnings))
        assert ledger.problem is None
        await call(ledger, 9, NOW_MS)
        assert count(path) == 9
        assert count(path, "attempts") == 9
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("DROP TRIGGER held")


async def test_a_clock_that_jumps_deletes_nothing_for_a_while(tmp_path: Path) -> None:
    """A wrong clock is set right within the hour; deleted rows are not."""
    path = tmp_path / "ledger.db"
    async with running(path) as ledger:
        await call(ledger, 1, NOW_MS - DAY_MS)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        ahead = [0]
        upkeep = Upkeep(lambda _: None, clock=lambda: time.time() + ahead[0])
        upkeep.policy = WEEK
        upkeep.step(db, Turns())
        ahead[0] = 100 * 86_400
        upkeep.step(db, Turns())
        assert count(path) == 1
        upkeep._doubt_until = 0.0  # the hour is over, and the clock still says so
        upkeep.step(db, Turns())
    assert count(path) == 0
