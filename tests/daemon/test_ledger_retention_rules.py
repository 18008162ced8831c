"""Whatever is deleted, and whenever the work stops: sums are the same, and the ledger agrees."""

import asyncio
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_rows import attempt, closed, ended, opened

from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.retention import Policy, pruned_before_ms, size
from tollway.daemon.ledger.spend import totals
from tollway.daemon.ledger.upkeep import Upkeep
from tollway.daemon.ledger.verify import repair, verify
from tollway.daemon.ledger.wal import Turns
from tollway.daemon.ledger.writer import Ledger

HOUR_MS = 3_600_000
NOW_MS = time.time_ns() // 1_000_000
CALLS = st.lists(
    st.tuples(st.integers(0, 100), st.integers(0, 900), st.booleans()), min_size=1, max_size=25
)


async def write(path: Path, calls: list[tuple[int, int, bool]]) -> None:
    """Write calls of so many hours ago, at a cost; one that has not ended is left open."""
    ledger = Ledger(path)
    ledger.start()
    for number, (hours, cost, over) in enumerate(calls):
        call = opened(number, NOW_MS - hours * HOUR_MS, budget_tags=("run=42",))
        await ledger.admit(call, attempt(call))
        if over:
            await ledger.settle(closed(call), ended(attempt(call), cost))
    await ledger.ready()
    await ledger.close()


@settings(max_examples=20, deadline=None)
@given(
    calls=CALLS,
    keep=st.integers(1, 90),
    steps=st.integers(1, 12),
    rows=st.integers(1, 8),
    small=st.booleans(),
)
def test_what_is_deleted_changes_no_sum(
    calls: list[tuple[int, int, bool]], keep: int, steps: int, rows: int, small: bool
) -> None:
    """After any number of steps of any size, by age or by room: verify, repair and spend agree."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        asyncio.run(write(path, calls))
        asyncio.run(write(path, []))  # what was open is recovered, as at any start
        before = totals(path, since_ms=0, until_ms=2**60)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            upkeep = Upkeep(lambda _: None)
            most = size(db).used - 8192 if small else None
            upkeep.policy = Policy(keep_ms=keep * HOUR_MS, most_bytes=most)
            for _ in range(steps):
                upkeep._rows = rows
                upkeep.step(db, Turns())
        assert verify(path) == []
        with reading(path) as db:
            left = [ms for (ms,) in db.execute("SELECT admitted_ms FROM calls")]
            gone_ms = pruned_before_ms(db)
        assert len(left) == len(calls) or gone_ms > NOW_MS - 100 * HOUR_MS
        assert repair(path) == []
        assert totals(path, since_ms=0, until_ms=2**60) == before
