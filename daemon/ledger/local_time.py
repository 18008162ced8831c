"""How long the models of this box were at work, and in memory without work, by quarter of an hour.

The time at work is what calls are charged for where a price is by the hour; the rest is a line of
its own in reports, hidden in no call's cost.
"""

from collections.abc import Iterable
from pathlib import Path
from sqlite3 import Connection

from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.rows import LocalTime
from tollway.daemon.ledger.schema import QUARTER_MS

_ADD = """
INSERT INTO local_time (quarter_ms, model, busy_ms, idle_ms, idle_nanousd) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (quarter_ms, model) DO UPDATE SET busy_ms = busy_ms + excluded.busy_ms,
    idle_ms = idle_ms + excluded.idle_ms, idle_nanousd = idle_nanousd + excluded.idle_nanousd
"""
_SUMS = """
SELECT model, sum(busy_ms), sum(idle_ms), sum(idle_nanousd) FROM local_time
WHERE quarter_ms >= ? AND quarter_ms < ? GROUP BY model ORDER BY 4 DESC, 3 DESC, 1
"""


def write_times(db: Connection, rows: Iterable[LocalTime]) -> None:
    """Add times, in the caller's transaction."""
    db.executemany(
        _ADD,
        [
            (
                *(row.at_ms // QUARTER_MS * QUARTER_MS, row.model),
                *(row.busy_ms, row.idle_ms, row.idle_nanousd),
            )
            for row in rows
        ],
    )


def local_times(path: Path, *, since_ms: int, until_ms: int) -> list[LocalTime]:
    """Return each model's times in a stretch of time, dearest idleness first.

    Quarters of an hour that lie partly inside count whole.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    first = since_ms // QUARTER_MS * QUARTER_MS
    with reading(path) as db:
        return [LocalTime(first, *row) for row in db.execute(_SUMS, (first, until_ms))]
