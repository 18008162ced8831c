"""The ledger's rows for other programs: one after another, however many there are.

Each page is a statement of its own, so a long export neither holds a snapshot for long nor misses
or repeats a row; what ends while it runs may or may not be in it.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from sqlite3 import Connection

from tollway.daemon.ledger.bodies import read_page
from tollway.daemon.ledger.calls import usage_text
from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.retention import head_of
from tollway.daemon.ledger.schema import ID_HEAD, QUARTER_MS, TOKENS
from tollway.providers.money import plain_usd

_PAGE = 5000  # calls in one statement: well under a second
_DAY_MS = 86_400_000
_TOKENS = ", ".join(TOKENS)
_WHO = "key, user, team, project, route, provider, model"


class What(StrEnum):
    """What can be exported: a row for each call, for each try, or for each quarter's sums."""

    CALLS = "calls"
    ATTEMPTS = "attempts"
    SPEND = "spend"


# Times end in `_ms` in the ledger and stand as UTC in the export; money ends in `_nanousd` there
# and stands as exact dollars.
_COLUMNS = {
    What.CALLS: (
        f"id, admitted_ms, ended_ms, state, ending, error, {_WHO}, requested, dialect, endpoint,"
        f" stream, attempts, {_TOKENS}, cost_nanousd, saved_nanousd, overrun_nanousd, hold_nanousd,"
        " estimated,"
        " queue_ms, first_ms, total_ms, client, tags, session, dropped, source, repeated"
    ),
    What.ATTEMPTS: (
        "call_id, number, started_ms, ended_ms, provider, model, status, ending, error,"
        f" {_TOKENS}, cost_nanousd, saved_nanousd, overrun_nanousd, hold_nanousd, reported_nanousd,"
        " estimated,"
        " first_ms, total_ms, gpu_ms, provider_key, upstream_id, price_id, usage_shape,"
        " usage_numbers"
    ),
    What.SPEND: (
        f"quarter_ms, {_WHO}, calls, refused, attempts, unpriced, {_TOKENS}, cost_nanousd,"
        " saved_nanousd, overrun_nanousd, estimated_nanousd"
    ),
}
_MOMENTS = {"admitted_ms", "ended_ms", "started_ms", "quarter_ms"}
_FLAGS = {"stream", "estimated"}
Row = dict[str, object]
Progress = Callable[[int, int], None]


def titles(what: What) -> list[str]:
    """Return the names of an export's columns, in their order."""
    return list(_plain(what, dict.fromkeys(_COLUMNS[what].split(", "))))


def rows(
    path: Path,
    what: What,
    between: tuple[int, int],
    *,
    bodies: bool = False,
    progress: Progress = lambda done, of: None,
) -> Iterator[Row]:
    """Yield what was admitted in a stretch of time, the oldest first.

    Args:
        path: The ledger.
        what: Which rows.
        between: From when to before when, in unix milliseconds.
        bodies: Whether calls bring the prompts and replies that were kept of them.
        progress: Told how much is done, and of how much.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    with reading(path) as db:
        if what is What.SPEND:
            yield from _spend(db, between, progress)
            return
        first, last = _range(db, between[0])
        seq = "seq" if what is What.CALLS else "call_seq"
        view = f"{what}_readable"
        for begin in range(first, last + 1, _PAGE):
            values = (begin, begin + _PAGE, *between)
            kept = read_page(db, begin, begin + _PAGE) if bodies else {}
            cursor = db.execute(
                f"SELECT {_COLUMNS[what]} FROM {view}"  # noqa: S608 - our own names
                f" WHERE {seq} IN (SELECT seq FROM calls WHERE seq >= ? AND seq < ?"
                f" AND admitted_ms >= ? AND admitted_ms < ?) ORDER BY {seq}",
                values,
            )
            names = [column[0] for column in cursor.description]
            for values in cursor:
                row = _plain(what, dict(zip(names, values, strict=True)))
                yield row | kept.get(str(row["id"]), {}) if bodies else row
            progress(min(begin + _PAGE, last + 1) - first, last + 1 - first)


def _range(db: Connection, since_ms: int) -> tuple[int, int]:
    (first,) = db.execute(
        f"SELECT min(seq) FROM calls WHERE {ID_HEAD} >= ?",  # noqa: S608 - our own names
        (head_of(since_ms - _DAY_MS),),
    ).fetchone()
    (last,) = db.execute("SELECT max(seq) FROM calls").fetchone()
    return (first, last) if first is not None else (1, 0)


def _spend(db: Connection, between: tuple[int, int], progress: Progress) -> Iterator[Row]:
    since_ms, until_ms = between
    (first,) = db.execute(
        "SELECT min(quarter_ms) FROM spend_quarter WHERE quarter_ms >= ?",
        (since_ms // QUARTER_MS * QUARTER_MS,),
    ).fetchone()
    (last,) = db.execute("SELECT max(quarter_ms) FROM spend_quarter").fetchone()
    if first is None:
        return
    end = min(until_ms, last + QUARTER_MS)
    for begin in range(first, end, _DAY_MS):
        cursor = db.execute(
            f"SELECT {_COLUMNS[What.SPEND]} FROM spend_readable"  # noqa: S608 - our own names
            f" WHERE quarter_ms >= ? AND quarter_ms < ? ORDER BY quarter_ms, {_WHO}",
            (begin, min(begin + _DAY_MS, end)),
        )
        names = [column[0] for column in cursor.description]
        for values in cursor:
            yield _plain(What.SPEND, dict(zip(names, values, strict=True)))
        progress(min(begin + _DAY_MS, end) - first, end - first)


def _plain(what: What, row: Row) -> Row:
    """Return a row as other programs take it: UTC, dollars, true and false."""
    found: Row = {}
    for name, value in row.items():
        if name in _MOMENTS:
            found[name.removesuffix("_ms")] = _utc(value)
        elif name.endswith("_nanousd"):
            usd = plain_usd(value) if isinstance(value, int) else value
            found[f"{name.removesuffix('_nanousd')}_usd"] = usd
        elif name in _FLAGS:
            found[name] = bool(value)
        elif name == "usage_shape":
            found["usage"] = value
        elif name == "usage_numbers":
            shape = found["usage"]
            numbers = value if isinstance(value, str) else None
            found["usage"] = usage_text(shape if isinstance(shape, str) else None, numbers)
        else:
            found[name] = value
    return found


def _utc(ms: object) -> str | None:
    if not isinstance(ms, int):
        return None
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
