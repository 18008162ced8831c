"""Calls that did not pass this gateway, as the logs of coding agents tell of them.

Their one rule: **nothing here was billed.** They stand in a table of their own, and in no cost, no
budget, no limit and no roll-up; what they would have cost at the list price is `notional`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from sqlite3 import Connection
from typing import Literal

import msgspec

from tollway.daemon.ledger.names import Names
from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.retention import head_of, pruned_before_ms
from tollway.daemon.ledger.rows import Who
from tollway.daemon.ledger.schema import ID_HEAD, TOKENS
from tollway.providers.canon import Price, Usage

Source = Literal["claude-code", "codex"]
NUMBERS: dict[Source, int] = {"claude-code": 1, "codex": 2}
_HOUR_MS = 3_600_000
# How long a call may have lasted whose end a log tells of, and how far two clocks' words for that
# end may lie apart where nothing but time and tokens can tell.
_LONGEST_MS = _HOUR_MS
_APART_MS = 120_000


class Imported(msgspec.Struct, frozen=True):
    """One call of a log. `key` is the same whenever it is read; `at_ms` is when it ended."""

    source: Source
    key: str
    at_ms: int
    user: str
    team: str
    provider: str
    model: str
    session: str
    tags: str  # JSON, "" where there are none
    usage: Usage
    price: Price | None
    notional_nanousd: int


class Written(msgspec.Struct):
    """How many rows were new, and how many were there with less than the log now says."""

    new: int = 0
    changed: int = 0


class Seen(msgspec.Struct, frozen=True):
    """What is needed of a call of a log to know whether it passed the gateway.

    `response_id` is the provider's own name for the answer, "" where the log does not say it.
    """

    key: str
    at_ms: int
    session: str
    response_id: str
    input_total: int
    output_total: int


_COLUMNS = (
    *("source", "key", "at_ms", "account", "session", "tags", "price", "notional_nanousd"),
    *TOKENS,
)
_PUT = (
    f"INSERT INTO imports ({', '.join(_COLUMNS)})"  # noqa: S608 - our own names
    f" VALUES ({', '.join('?' * len(_COLUMNS))})"
)
_CHANGE = (
    "UPDATE imports SET price = ?, notional_nanousd = ?,"  # noqa: S608
    f" {', '.join(f'{name} = ?' for name in TOKENS)} WHERE source = ? AND key = ?"
)


def write(db: Connection, rows: Sequence[Imported]) -> Written:
    """Write rows that are not there yet, in the caller's transaction.

    Of a row that is there, more output is the end of an answer whose middle was read before.
    """
    names, done = Names(db), Written()
    for row in rows:
        *tokens, _ = msgspec.structs.astuple(row.usage)
        source = NUMBERS[row.source]
        found = db.execute(
            "SELECT output_tokens + reasoning_tokens FROM imports WHERE source = ? AND key = ?",
            (source, row.key),
        ).fetchone()
        price = names.price(row.price)
        if found is None:
            account = names.account(Who("", row.user, row.team, ""), "", row.provider, row.model)
            labels = names.word_or_null(row.session), names.word_or_null(row.tags)
            told = (source, row.key, row.at_ms, account, *labels, price, row.notional_nanousd)
            db.execute(_PUT, (*told, *tokens))
            done.new += 1
        elif row.usage.output_total > found[0]:
            db.execute(_CHANGE, (price, row.notional_nanousd, *tokens, source, row.key))
            done.changed += 1
    return done


def keys(path: Path) -> dict[tuple[Source, str], int]:
    """Return the output tokens of every row that is there, by its source and key.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    sources = {number: source for source, number in NUMBERS.items()}
    with reading(path) as db:
        return {
            (sources[source], key): output
            for source, key, output in db.execute(
                "SELECT source, key, output_tokens + reasoning_tokens FROM imports"
            )
        }


def known_since_ms(path: Path) -> int:
    """Return the moment before which rows may be deleted, so that nobody knows what passed.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    with reading(path) as db:
        return pruned_before_ms(db)


def passed(
    path: Path, calls: Iterable[Seen], progress: Callable[[int, int], None] = lambda done, of: None
) -> set[str]:
    """Return the keys of those calls of a log that passed this gateway.

    A call did if an attempt here has its response's id. Where that cannot be compared (the log
    has none, or the gateway translated the answer and gave it another), it did if a call of the
    same session, or of one that is not known, has as many tokens in and out, and ended within two
    minutes of it. Each call of the gateway stands for one of the log.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    by_hour: defaultdict[int, list[Seen]] = defaultdict(list)
    for call in calls:
        by_hour[call.at_ms // _HOUR_MS].append(call)
    found: set[str] = set()
    taken: set[int] = set()
    with reading(path) as db:
        for number, (hour, some) in enumerate(sorted(by_hour.items()), 1):
            _match(_Here(db, hour), some, taken, found)
            progress(number, len(by_hour))
    return found


_SQL = f"""
SELECT c.seq, t.upstream_id, coalesce(w.word, ''), c.admitted_ms + coalesce(c.total_ms, 0),
    {" + ".join(f"t.{name}" for name in TOKENS[:5])} + t.image_input_tokens,
    t.output_tokens + t.reasoning_tokens + t.audio_output_tokens + t.image_output_tokens
FROM calls c JOIN attempts t ON t.call = c.seq LEFT JOIN words w ON w.id = c.session
WHERE {ID_HEAD} >= ? AND {ID_HEAD} < ?
""".replace("substr(id", "substr(c.id")  # noqa: S608 - our own names


class _Here:
    """What passed the gateway around one hour."""

    def __init__(self, db: Connection, hour: int) -> None:
        first = head_of(hour * _HOUR_MS - _LONGEST_MS)
        last = head_of((hour + 1) * _HOUR_MS + _APART_MS)
        self.ids: defaultdict[str, list[int]] = defaultdict(list)
        self.tokens: defaultdict[tuple[int, int], list[tuple[int, str, int]]] = defaultdict(list)
        for seq, upstream_id, session, ended_ms, came, went in db.execute(_SQL, (first, last)):
            if upstream_id:
                self.ids[upstream_id].append(seq)
            self.tokens[came, went].append((seq, session, ended_ms))


def _match(here: _Here, calls: Sequence[Seen], taken: set[int], found: set[str]) -> None:
    # Ids first: what they say is certain, and leaves less to guess among.
    for call in calls:
        if call.response_id and (seqs := here.ids.get(call.response_id)):
            taken.update(seqs)
            found.add(call.key)
    for call in calls:
        if call.key in found or not (call.input_total or call.output_total):
            continue
        near = [
            (session != call.session, abs(ended_ms - call.at_ms), seq)
            for seq, session, ended_ms in here.tokens.get((call.input_total, call.output_total), ())
            if seq not in taken
            and (session == call.session or not session)
            and abs(ended_ms - call.at_ms) <= _APART_MS
        ]
        if near:
            taken.add(min(near)[2])
            found.add(call.key)
