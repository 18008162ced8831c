"""Calls one by one: the latest, one of them in full, and those that end while one looks on."""

import re
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from tollway.daemon.ledger.derived import UNPRICED
from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.retention import head_of, pruned_before_ms
from tollway.daemon.ledger.schema import ID_HEAD, STATES
from tollway.daemon.ledger.tokens import Tokens
from tollway.providers.canon import Price
from tollway.providers.errors import GatewayError

_SPAN = 100_000  # calls looked through in one statement: a snapshot of well under 2 s
_MOST_POLLED = 1_000
_STEP_NS = 100_000_000  # more than any file system's clock
_MOMENT_MS = 1_500  # within which a row may stand for others, a late timer's time included
_EARLIER_MS = 3_600_000
_HEAD = 13  # characters of an id that are indexed


class CallUnknown(GatewayError):
    """No call has such an id, or more than one begins with it."""

    status = 404
    code = "call_unknown"


class CallRow(Tokens, frozen=True, kw_only=True):
    """A call, as in `calls_readable`; provider and model are its latest attempt's, "" if none.

    Times are unix milliseconds, or `_ms` after the call's admission; None where it has not
    come to that, or nobody knows. Texts are "" where there is none.
    """

    id: str
    state: str
    ending: str
    key: str
    user: str
    team: str
    project: str
    route: str
    provider: str
    model: str
    requested: str
    dialect: str
    endpoint: str
    stream: bool
    admitted_ms: int
    ended_ms: int | None
    first_ms: int | None
    total_ms: int | None
    attempts: int
    cost_nanousd: int
    overrun_nanousd: int
    hold_nanousd: int
    estimated: bool
    error: str
    client: str
    tags: str
    queue_ms: int | None = None  # how long it waited for its turn
    session: str = ""
    dropped: str = ""  # what its translation left out
    repeated: int = 0  # how many more refused calls, just like it, it stands for
    unpriced: bool = False  # some of its tokens had no price


class AttemptRow(Tokens, frozen=True, kw_only=True):
    """One try at an upstream; `usage` is the provider's own JSON, "" where it gave none."""

    number: int
    provider: str
    model: str
    status: int | None
    ending: str
    started_ms: int
    ended_ms: int | None
    first_ms: int | None
    total_ms: int | None
    cost_nanousd: int
    overrun_nanousd: int
    hold_nanousd: int
    estimated: bool
    error: str
    upstream_id: str
    usage: str
    price: Price | None
    reported_nanousd: int | None = None  # what the provider said it cost
    gpu_ms: int | None = None  # of a local model's GPU
    saved_nanousd: int = 0  # by a discount: the list price less the cost
    provider_key: str = ""  # where its key is kept, of a provider that has several


class CallDetail(msgspec.Struct, frozen=True):
    """A call with its attempts, in their order."""

    call: CallRow
    attempts: tuple[AttemptRow, ...]


class CallFilter(msgspec.Struct, frozen=True):
    """Which calls are meant; None takes any. `model` and `provider` are the latest attempt's.

    `status` "ok" is a whole answer, "error" all else that has ended. `since_ms` and `until_ms`
    bound when they were admitted, in unix milliseconds; the latter is the first moment after.
    """

    key: str | None = None
    user: str | None = None
    team: str | None = None
    project: str | None = None
    route: str | None = None
    provider: str | None = None
    model: str | None = None
    state: str | None = None
    error: str | None = None
    tag: str | None = None  # "name=value", or a name, whatever its value
    status: str | None = None  # "ok", "error", an ending, or an HTTP status that an attempt had
    since_ms: int | None = None
    until_ms: int | None = None


ANY = CallFilter()
_BY_ACCOUNT = ("key", "user", "team", "project", "route", "provider", "model")
_READ = tuple(name for name in CallRow.__struct_fields__ if name != "unpriced")
_COLUMNS = (
    f"{', '.join(_READ)}, EXISTS (SELECT 1 FROM attempts t"  # noqa: S608 - our own names
    f" WHERE t.call = calls_readable.seq AND {UNPRICED})"
)


def recent(path: Path, *, limit: int, where: CallFilter = ANY) -> list[CallRow]:
    """Return up to `limit` calls, the latest admitted first.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    with reading(path) as db:
        if (wanted := _conditions(db, where)) is None:
            return []
        first = _before(db, where.since_ms)
        (newest,) = db.execute("SELECT coalesce(max(seq), 0) FROM calls").fetchone()
        last = newest + 1
        found: list[CallRow] = []
        while last > first + 1 and len(found) < limit:
            begin = max(first, last - _SPAN - 1)
            found += _rows(
                db,
                f"seq IN (SELECT seq FROM calls WHERE seq > ? AND seq < ?{wanted.sql}"  # noqa: S608
                " ORDER BY seq DESC LIMIT ?) ORDER BY seq DESC",
                (begin, last, *wanted.values, limit - len(found)),
            )
            last = begin + 1
        return found


def _before(db: sqlite3.Connection, since_ms: int | None) -> int:
    """Return a call before all that were admitted since then, so that older ones are not read."""
    if since_ms is None:
        return 0
    # An id is made a moment before its call is admitted.
    head = head_of(max(0, since_ms - _EARLIER_MS))
    sql = f"SELECT min(seq) - 1 FROM calls WHERE {ID_HEAD} >= ?"  # noqa: S608 - our own names
    (found,) = db.execute(sql, (head,)).fetchone()
    return found if found is not None else sys.maxsize


def one(path: Path, id_prefix: str) -> CallDetail:
    """Return the call whose id is, or alone begins with, `id_prefix`.

    Raises:
        CallUnknown: There is none, or more than one.
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    with reading(path) as db:
        seq = _find(db, id_prefix)
        (call,) = _rows(db, "seq = ?", (seq,))
        cursor = db.execute(
            "SELECT * FROM attempts_readable WHERE call_seq = ? ORDER BY number", (seq,)
        )
        names = [column[0] for column in cursor.description]
        attempts = tuple(_attempt(dict(zip(names, row, strict=True))) for row in cursor)
    return CallDetail(call, attempts)


class Follow:
    """The calls that end from now on, each returned by `poll` once."""

    def __init__(self, path: Path, last: int, running: set[int], where: CallFilter) -> None:
        self._path = path
        self._last = last
        self._running = running
        self._where = where
        self._seen: _Stamps | None = None

    def poll(self) -> list[CallRow]:
        """Return what has ended since the last time, in the order of admission.

        Raises:
            LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
        """
        stamps = _stamps(self._path)
        if stamps is not None and stamps == self._seen:
            return []  # nothing was written: the file is not even opened
        found: list[CallRow] = []
        with reading(self._path) as db:
            all_seen = self._look(db)
            ended = self._ended(db)
            self._running -= ended
            # Looked up each time: a key's first call has brought the key's row with it.
            wanted = _conditions(db, self._where) if ended else None
            if wanted is not None:
                condition = f"seq IN (SELECT seq FROM calls WHERE seq = ?{wanted.sql})"  # noqa: S608
                for seq in sorted(ended):
                    found += _rows(db, condition, (seq, *wanted.values))
        self._seen = stamps if all_seen else None
        return found

    def _look(self, db: sqlite3.Connection) -> bool:
        """Take note of new calls; return whether that was all of them."""
        new = db.execute(
            "SELECT seq FROM calls WHERE seq > ? ORDER BY seq LIMIT ?", (self._last, _MOST_POLLED)
        ).fetchall()
        for (seq,) in new:
            self._running.add(seq)
            self._last = seq
        return len(new) < _MOST_POLLED

    def _ended(self, db: sqlite3.Connection) -> set[int]:
        return self._running - _under_way(db)


def _under_way(db: sqlite3.Connection) -> set[int]:
    # Each state has an index of its own.
    states = (f"SELECT seq FROM calls WHERE state = {STATES.index(one)}" for one in UNDER_WAY)  # noqa: S608
    return {seq for (seq,) in db.execute(" UNION ALL ".join(states))}


_Stamps = tuple[tuple[int, int], ...]


def _stamps(path: Path) -> _Stamps | None:
    """Return what changes with every commit, None where a change may not show in it yet."""
    found = []
    for one in (path, path.with_name(f"{path.name}-wal")):
        try:
            stat = one.stat()
        except OSError:
            found.append((0, 0))
            continue
        # Times of files move in steps: two commits within one step look like one.
        if time.time_ns() - stat.st_mtime_ns < _STEP_NS:
            return None
        found.append((stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def follow(path: Path, where: CallFilter = ANY) -> Follow:
    """Return who tells of calls that end from now on.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    with reading(path) as db:
        (last,) = db.execute("SELECT coalesce(max(seq), 0) FROM calls").fetchone()
        return Follow(path, last, _under_way(db), where)


def usage_text(shape: str | None, numbers: str | None) -> str:
    """Return a provider's usage as it sent it, from how the ledger keeps it."""
    if shape is None:
        return numbers or ""
    texts = shape.split("#")
    found = (numbers or "").split(",")
    return "".join(text + number for text, number in zip(texts, [*found, ""], strict=False))


def _attempt(row: dict[str, Any]) -> AttemptRow:
    row["usage"] = usage_text(row["usage_shape"], row["usage_numbers"])
    if row["price"]:
        row["price"] = msgspec.json.decode(row["price"], type=Price)
    return msgspec.convert(row, AttemptRow, strict=False)


def _rows(db: sqlite3.Connection, condition: str, values: tuple[object, ...]) -> Iterator[CallRow]:
    cursor = db.execute(f"SELECT {_COLUMNS} FROM calls_readable WHERE {condition}", values)  # noqa: S608
    for row in cursor:
        yield msgspec.convert(
            dict(zip((*_READ, "unpriced"), row, strict=True)), CallRow, strict=False
        )


class _Wanted(NamedTuple):
    """A filter as SQL, from an AND on, and the values for its marks."""

    sql: str
    values: tuple[object, ...]


def _conditions(db: sqlite3.Connection, where: CallFilter) -> _Wanted | None:
    """Return the filter as SQL; None where nothing can match it."""
    found = ""
    values: list[object] = []
    names = [name for name in _BY_ACCOUNT if getattr(where, name) is not None]
    if names:
        test = " AND ".join(f"{name} = ?" for name in names)
        accounts = db.execute(
            f"SELECT id FROM accounts WHERE {test}",  # noqa: S608 - our own names
            [getattr(where, name) for name in names],
        ).fetchall()
        if not accounts:
            return None
        found += f" AND account IN ({', '.join(str(int(row[0])) for row in accounts)})"
    if where.state is not None:
        if where.state not in STATES:
            return None
        found += f" AND state = {STATES.index(where.state)}"
    if where.error is not None:
        found += f" AND error = ({_WORD})"
        values.append(where.error)
    if where.tag is not None:
        name, equals, value = where.tag.partition("=")
        found += f" AND tags IN ({_TAGGED}{' AND t.value = ?' if equals else ''})"
        values += [name, value] if equals else [name]
    if where.status is not None:
        found += _of_status(where.status, values)
    for sign, bound in ((">=", where.since_ms), ("<", where.until_ms)):
        if bound is not None:
            found += f" AND admitted_ms {sign} ?"
            values.append(bound)
    return _Wanted(found, tuple(values))


_WORD = "SELECT id FROM words WHERE word = ?"
# Tags are kept as the JSON of an object; other words begin otherwise, or are no JSON.
_TAGGED = (
    "SELECT w.id FROM words w, json_each(CASE WHEN json_valid(w.word) THEN w.word ELSE '{}' END) t"
    " WHERE w.word LIKE '{%' AND t.key = ?"
)
_WHOLE = "SELECT id FROM words WHERE word IN ('answered', 'no_usage')"
UNDER_WAY: Final = ("open", "queued")
_UNDER_WAY = f"({', '.join(str(STATES.index(state)) for state in UNDER_WAY)})"


def _of_status(status: str, values: list[object]) -> str:
    """Return the SQL of `CallFilter.status`, and add the values for its marks."""
    if status == "ok":
        return f" AND ending IN ({_WHOLE})"
    if status == "error":
        return f" AND state NOT IN {_UNDER_WAY} AND (ending IS NULL OR ending NOT IN ({_WHOLE}))"
    values.append(int(status) if status.isdecimal() else status)
    if status.isdecimal():
        return " AND EXISTS (SELECT 1 FROM attempts WHERE call = calls.seq AND status = ?)"
    return f" AND ending = ({_WORD})"


def _find(db: sqlite3.Connection, prefix: str) -> int:
    head = prefix[:_HEAD]
    found = db.execute(
        f"SELECT seq FROM calls WHERE {ID_HEAD} >= ? AND {ID_HEAD} < ?"  # noqa: S608
        " AND substr(id, 1, ?) = ? LIMIT 2",
        (head, head + "\x7f", len(prefix), prefix),
    ).fetchall()
    match found:
        case [(seq,)] if prefix:
            return int(seq)
        case []:
            raise CallUnknown(f"There is no call `{prefix}`", hint=_where(db, prefix))
        case _:
            raise CallUnknown(
                f"More than one call begins with `{prefix}`", hint="Give more of its id"
            )


def _where(db: sqlite3.Connection, prefix: str) -> str:
    """Return where to look for a call that is not there."""
    if len(prefix) >= _HEAD and prefix[:_HEAD] < head_of(pruned_before_ms(db)):
        return "Calls of that age are deleted (`ledger.keep`); `tollway spend` has their sums"
    if stands := _counted_in(db, prefix):
        return (
            "A refused call that many others were just like has no row of its own:"
            f" `tollway logs {stands}` may stand for it"
        )
    return "`tollway logs` lists the latest"


def _counted_in(db: sqlite3.Connection, prefix: str) -> str | None:
    """Return the call that stands for more and began in the second before such an id was made."""
    if not re.match(r"[0-9a-f]{8}-[0-9a-f]{4}", prefix):
        return None
    at_ms = int(prefix[:8] + prefix[9:_HEAD], 16)
    found = db.execute(
        f"SELECT id FROM calls WHERE {ID_HEAD} BETWEEN ? AND ? AND repeated > 0"  # noqa: S608
        f" ORDER BY {ID_HEAD} DESC LIMIT 1",
        (head_of(at_ms - _MOMENT_MS), prefix[:_HEAD]),
    ).fetchone()
    return found[0] if found else None
