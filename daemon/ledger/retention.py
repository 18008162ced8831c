"""What leaves the ledger, and when: rows by age and by the file's size, bodies by age.

Its one rule: **a roll-up whose rows are gone is primary data.** Each step deletes rows and moves
the watermark `pruned_before_ms` past their quarter of an hour in one transaction, so that verify
and repair never take what is missing for a mistake.
"""

from sqlite3 import Connection

import msgspec

from tollway.daemon.ledger import responses
from tollway.daemon.ledger.schema import ID_HEAD, OPEN, QUARTER_MS, QUEUED

_WARN_AT = 80  # per cent of the most that the file may hold


class Policy(msgspec.Struct, frozen=True):
    """How long rows and bodies stay, in milliseconds, and how large the file may grow.

    None: for ever, and as large as the disk. `most_bytes` is of the pages in use: what was
    deleted leaves free pages behind, and new rows take those first.
    """

    keep_ms: int | None = None
    keep_bodies_ms: int | None = None
    most_bytes: int | None = None


class Size(msgspec.Struct, frozen=True):
    """Bytes of the file: those in use, and those that are free within it."""

    used: int
    free: int


def size(db: Connection) -> Size:
    """Return how large the ledger is, without its write-ahead log."""
    values = (
        db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    pages, free, each = values
    return Size((pages - free) * each, free * each)


def size_warning(policy: Policy, now: Size) -> str | None:
    """Return what to tell the owner of a ledger that nears its cap, else None."""
    most = policy.most_bytes
    if most is None or now.used * 100 < most * _WARN_AT:
        return None
    used, cap = now.used // 1024**2, most // 1024**2
    if now.used >= most:
        return (
            f"The ledger holds {used} MiB, and `ledger.max_size` is {cap} MiB: the oldest calls are"
            " deleted before `ledger.keep` says so; their sums stay in `tollway spend`"
        )
    return (
        f"The ledger holds {used} MiB of the {cap} MiB of `ledger.max_size`: at the cap the oldest"
        " calls are deleted; raise it, or lower `ledger.keep`"
    )


def expire_bodies(db: Connection, policy: Policy, now_ms: int, most: int) -> int:
    """Delete up to `most` bodies that are too old; return how many there were.

    Kept answers are such too.
    """
    if policy.keep_bodies_ms is None:
        return 0
    if gone := responses.expire(db, now_ms - policy.keep_bodies_ms, most):
        return gone
    return db.execute(
        "DELETE FROM bodies WHERE rowid IN"
        " (SELECT rowid FROM bodies WHERE at_ms < ? ORDER BY at_ms LIMIT ?)",
        (now_ms - policy.keep_bodies_ms, most),
    ).rowcount


def expire_calls(db: Connection, policy: Policy, now_ms: int, most: int) -> int:
    """Delete up to `most` calls that are too old, or that the file has no room for.

    Returns how many. Calls that are still open stay, however old they are.
    """
    if policy.keep_ms is not None:
        # A whole quarter at a time, so that the watermark says exactly what is gone.
        before_ms = (now_ms - policy.keep_ms) // QUARTER_MS * QUARTER_MS
        if done := _delete(db, before_ms, most):
            return done
    if policy.most_bytes is not None and size(db).used > policy.most_bytes:
        return _delete(db, now_ms, most)
    return 0


def _delete(db: Connection, before_ms: int, most: int) -> int:
    # Ids begin with the time, so their index finds the oldest; rows that were imported later
    # than they happened lie anywhere else.
    found = db.execute(
        f"SELECT seq, admitted_ms FROM calls WHERE {ID_HEAD} < ? AND admitted_ms < ?"  # noqa: S608
        f" AND state NOT IN ({OPEN}, {QUEUED}) ORDER BY {ID_HEAD} LIMIT ?",
        (head_of(before_ms), before_ms, most),
    ).fetchall()
    if not found:
        return 0
    seqs = msgspec.json.encode([seq for seq, _ in found]).decode()
    for table, column in (("bodies", "call"), ("attempts", "call"), ("calls", "seq")):
        db.execute(
            f"DELETE FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))",  # noqa: S608
            (seqs,),
        )
    latest = max(admitted_ms for _, admitted_ms in found)
    db.execute(
        "UPDATE meta SET value = max(value, ?) WHERE name = 'pruned_before_ms'",
        (latest // QUARTER_MS * QUARTER_MS + QUARTER_MS,),
    )
    return len(found)


def head_of(at_ms: int) -> str:
    """Return how the ids of calls at a moment begin: the indexed part of a UUIDv7."""
    text = f"{max(0, at_ms):012x}"
    return f"{text[:8]}-{text[8:]}"


def pruned_before_ms(db: Connection) -> int:
    """Return the moment before which rows may have been deleted, 0 where none ever were."""
    row = db.execute("SELECT value FROM meta WHERE name = 'pruned_before_ms'").fetchone()
    return int(row[0])
