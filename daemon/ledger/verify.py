"""Whether the ledger agrees with itself, and how what is derived is made anew.

The whole check sees one moment, so on a large ledger that the daemon writes to, the write-ahead
log grows until it is done; with the daemon down it costs nothing but time.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tollway.daemon.ledger.derived import (
    BY_ACCOUNT,
    BY_LABEL,
    BY_TAG,
    CALL_SUMS,
    LABEL_ROLL_UPS,
    OF_ATTEMPTS,
    ROLL_UP,
    ROLL_UPS,
    TAG_ROLL_UPS,
    rebuild_calls,
    rebuild_roll_ups,
    recover,
)
from tollway.daemon.ledger.lock import holder
from tollway.daemon.ledger.owning import owned
from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.schema import ID_HEAD, OPEN, QUEUED, transaction

_MOST = 100  # of one kind: a damaged file has millions


class Difference(msgspec.Struct, frozen=True):
    """Something that does not agree. `check` is which rule, `subject` the row it is about.

    `repairable` says whether `repair` can make it right from the rows.
    """

    check: str
    subject: str
    message: str
    repairable: bool


def verify(path: Path) -> list[Difference]:
    """Return what does not agree, [] where all does; at most 100 of each kind.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read at all.
    """
    by = holder(path)
    with reading(path) as db:
        damage = list(_integrity(db))
        if damage:  # what follows would only repeat it, or fail
            return damage
        db.execute("BEGIN")
        return [
            *_orphans(db),
            *_twice(db),
            *_call_sums(db),
            *_roll_ups(db),
            *_open(db, by.since_ms if by else None),
            *_unended(db),
            *_unpriced(db),
            *_imports(db),
        ]


def repair(path: Path) -> list[Difference]:
    """Make anew what is derived, settle what a killed daemon left; return what still differs.

    Raises:
        LedgerHeld: The daemon runs.
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read or written.
    """
    with owned(path) as db:
        _repair(db)
    return verify(path)


def _repair(db: sqlite3.Connection) -> None:
    if any(_integrity(db)):
        return  # a damaged file must be restored: every write could make it worse
    with transaction(db):
        recover(db)
        rebuild_calls(db)
        rebuild_roll_ups(db)


def _integrity(db: sqlite3.Connection) -> Iterator[Difference]:
    try:
        found = db.execute(f"PRAGMA integrity_check({_MOST})").fetchall()
    except sqlite3.DatabaseError as fault:
        found = [(str(fault),)]
    for (message,) in found:
        if message != "ok":
            yield Difference("integrity", "file", message, repairable=False)


def _orphans(db: sqlite3.Connection) -> Iterator[Difference]:
    for table, _, parent, _ in db.execute("PRAGMA foreign_key_check").fetchmany(_MOST):
        message = f"a row of {table} points to a row of {parent} that is not there"
        yield Difference("orphan", table, message, repairable=False)


def _twice(db: sqlite3.Connection) -> Iterator[Difference]:
    # The index is of the ids' heads alone, so SQLite cannot keep whole ids from standing twice.
    for (call_id,) in db.execute(
        "SELECT DISTINCT call_id"  # noqa: S608 - our own names
        f" FROM (SELECT seq AS first, id AS call_id, {ID_HEAD} AS head FROM calls)"
        f" CROSS JOIN calls ON {ID_HEAD} = head AND seq > first AND id = call_id LIMIT {_MOST}"
    ):
        yield Difference("id", call_id, "more than one call has this id", repairable=False)


def _call_sums(db: sqlite3.Connection) -> Iterator[Difference]:
    # CROSS JOIN keeps the order: attempts as they lie, each call looked up. The other way round
    # SQLite would build an index of all attempts' sums in memory first.
    differs = " OR ".join(f"c.{name} <> s.{name}" for name in CALL_SUMS)
    pairs = ", ".join(f"c.{name}, s.{name}" for name in CALL_SUMS)
    rows = db.execute(
        f"SELECT c.id, {pairs} FROM ({OF_ATTEMPTS}) s"  # noqa: S608 - our own names
        f" CROSS JOIN calls c ON c.seq = s.call WHERE {differs} LIMIT {_MOST}"
    )
    for call_id, *values in rows:
        said = _unequal(CALL_SUMS, values[::2], values[1::2])
        yield Difference("call sums", call_id, f"the call says {said} by its attempts", True)
    some = " OR ".join(f"c.{name} <> 0" for name in CALL_SUMS)
    for (call_id,) in db.execute(
        f"SELECT c.id FROM calls c WHERE ({some})"  # noqa: S608
        f" AND NOT EXISTS (SELECT 1 FROM attempts t WHERE t.call = c.seq) LIMIT {_MOST}"
    ):
        yield Difference("call sums", call_id, "the call has sums, but no attempts", False)


def _roll_ups(db: sqlite3.Connection) -> Iterator[Difference]:
    yield from _rolled_up(db, "spend_quarter", BY_ACCOUNT, ROLL_UPS)
    yield from _rolled_up(db, "spend_tag", BY_TAG, TAG_ROLL_UPS)
    yield from _rolled_up(db, "spend_label", BY_LABEL, LABEL_ROLL_UPS)


def _rolled_up(
    db: sqlite3.Connection, table: str, keys: tuple[str, ...], wanted: str
) -> Iterator[Difference]:
    columns = ", ".join(f"{name} INTEGER" for name in (*keys, *ROLL_UP))
    # Of the connection alone, and in the order in which it is filled.
    made = f"expected_{table}"
    db.execute(
        f"CREATE TEMP TABLE {made} ({columns}, PRIMARY KEY ({', '.join(keys)}))"
        " STRICT, WITHOUT ROWID"
    )
    db.execute(f"INSERT INTO {made} ({', '.join((*keys, *ROLL_UP))}) {wanted}")
    both = " AND ".join(f"e.{name} = s.{name}" for name in keys)
    differs = " OR ".join(f"s.{name} <> e.{name}" for name in ROLL_UP)
    pairs = ", ".join(f"s.{name}, e.{name}" for name in ROLL_UP)
    mine, theirs = (", ".join(f"{side}.{name}" for name in keys) for side in "es")
    for row in db.execute(
        f"SELECT {mine}, {pairs} FROM {made} e LEFT JOIN {table} s ON {both}"  # noqa: S608
        f" WHERE s.account IS NULL OR {differs} LIMIT {_MOST}"
    ):
        values = row[len(keys) :]
        message = "the roll-up of these rows is missing"
        if values[0] is not None:
            said = _unequal(ROLL_UP, values[::2], values[1::2])
            message = f"the roll-up says {said} by the rows"
        yield Difference("roll-up", _quarter(keys, row), message, True)
    for row in db.execute(
        f"SELECT {theirs} FROM {table} s"  # noqa: S608 - our own names
        f" LEFT JOIN {made} e ON {both} WHERE e.account IS NULL AND s.quarter_ms >="
        f" (SELECT value FROM meta WHERE name = 'pruned_before_ms') LIMIT {_MOST}"
    ):
        message = "there is a roll-up, but no row for it"
        yield Difference("roll-up", _quarter(keys, row), message, True)


def _quarter(keys: tuple[str, ...], row: tuple[int, ...]) -> str:
    at = dict(zip(keys, row, strict=False))
    tag = "".join(f", {name} {at[name]}" for name in ("tag", "tags", "session") if name in at)
    return f"quarter {at['quarter_ms']} of account {at['account']}{tag}"


def _unequal(names: tuple[str, ...], found: list[int], wanted: list[int]) -> str:
    triples = zip(names, found, wanted, strict=True)
    return ", ".join(f"{name} {one}, not {other}" for name, one, other in triples if one != other)


def _open(db: sqlite3.Connection, since_ms: int | None) -> Iterator[Difference]:
    """Yield open calls that no daemon can be serving: none runs, or it began after them."""
    for call_id, admitted_ms in db.execute(
        "SELECT id, admitted_ms FROM calls"  # noqa: S608
        f" WHERE state = {OPEN} OR state = {QUEUED} LIMIT {_MOST}"
    ):
        if since_ms is None or admitted_ms < since_ms:
            message = "the call is open, but no daemon serves it"
            yield Difference("open call", call_id, message, repairable=since_ms is None)


def _unended(db: sqlite3.Connection) -> Iterator[Difference]:
    for call_id, number in db.execute(
        "SELECT c.id, t.number FROM attempts t JOIN calls c ON c.seq = t.call"  # noqa: S608
        f" WHERE t.ending IS NULL AND c.state <> {OPEN} LIMIT {_MOST}"
    ):
        message = f"attempt {number} never ended, though its call did"
        yield Difference("open attempt", call_id, message, repairable=False)


def _unpriced(db: sqlite3.Connection) -> Iterator[Difference]:
    for call_id, number in db.execute(
        "SELECT c.id, t.number FROM attempts t JOIN calls c ON c.seq = t.call"  # noqa: S608
        " LEFT JOIN prices p ON p.number = t.price WHERE t.saved_nanousd <> 0"
        " AND coalesce(json_extract(p.price, '$.discount'), '1') = '1'"
        f" LIMIT {_MOST}"
    ):
        message = f"attempt {number} saved something, but its price has no discount"
        yield Difference("price", call_id, message, repairable=False)
    for call_id, number in db.execute(
        "SELECT c.id, t.number FROM attempts t JOIN calls c ON c.seq = t.call"  # noqa: S608
        " WHERE t.price IS NULL AND t.reported_nanousd IS NULL AND t.cost_nanousd > 0"
        f" LIMIT {_MOST}"
    ):
        message = f"attempt {number} has a cost, but no price"
        yield Difference("price", call_id, message, repairable=False)


def _imports(db: sqlite3.Connection) -> Iterator[Difference]:
    for key, at_price in db.execute(
        "SELECT key, price FROM imports WHERE notional_nanousd < 0"  # noqa: S608
        f" OR (price IS NULL AND notional_nanousd <> 0) LIMIT {_MOST}"
    ):
        message = "would have cost less than nothing" if at_price else "has a worth, but no price"
        yield Difference("import", key, message, repairable=False)
