"""Reports of what was spent, read from the roll-ups alone: their size is the time's, not use's."""

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from operator import add
from pathlib import Path
from zoneinfo import ZoneInfo

from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.rows import SpentQuery
from tollway.daemon.ledger.schema import QUARTER_MS, TOKENS
from tollway.daemon.ledger.tokens import Tokens


class By(StrEnum):
    """What a report adds up over."""

    TEAM = "team"
    USER = "user"
    PROJECT = "project"
    KEY = "key"
    ROUTE = "route"
    PROVIDER = "provider"
    MODEL = "model"
    DAY = "day"


class SpendRow(Tokens, frozen=True):
    """What one group spent. `group` has a name for each `By`, "" for none; days are ISO 8601.

    `calls` are those that were sent, counted with their last target; `refused` those that were
    not, which have no target. Cost and tokens stand with the target that each attempt went to.
    `estimated_nanousd` is the part of the cost whose tokens no provider reported; `unpriced`
    counts attempts whose tokens had no price, and so stand in no cost.
    """

    group: tuple[str, ...]
    calls: int
    refused: int
    attempts: int
    cost_nanousd: int
    overrun_nanousd: int
    estimated_nanousd: int
    unpriced: int


_NAMES = ("team", "user", "project", "key", "route", "provider", "model")
_SUMS = (
    *("calls", "refused", "attempts", "cost_nanousd", "overrun_nanousd", "estimated_nanousd"),
    *("unpriced", *TOKENS),
)
_NOTHING = (0,) * len(_SUMS)
# Grouped by account and not by name: seven texts a row would be most of the work.
_SPENT = f"""
SELECT a.team, a.user, a.project, a.key, a.route, a.provider, a.model, s.* FROM (
    SELECT account, {", ".join(f"sum({name})" for name in _SUMS)} FROM spend_quarter
    WHERE quarter_ms >= ? AND quarter_ms < ? GROUP BY account
) s JOIN accounts a ON a.id = s.account
"""  # noqa: S608 - our own names
_Groups = dict[tuple[str, ...], tuple[int, ...]]


def report(
    path: Path, *, by: Sequence[By], since_ms: int, until_ms: int, tz: ZoneInfo
) -> list[SpendRow]:
    """Return what was spent by calls admitted from `since_ms` to before `until_ms`.

    Quarters of an hour that lie partly inside count whole. With `By.DAY` the oldest day comes
    first, and days are those of `tz`; else, and within a day, the dearest group.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    groups: _Groups = {}
    with reading(path) as db:
        if By.DAY in by:
            for day, begin_ms, end_ms in _days(db, since_ms, until_ms, tz):
                _add_up(db, by, (begin_ms, end_ms), day, groups)
        else:
            _add_up(db, by, (since_ms, until_ms), "", groups)
    rows = [_row(group, sums) for group, sums in groups.items()]
    at = by.index(By.DAY) if By.DAY in by else None
    rows.sort(key=lambda row: ("" if at is None else row.group[at], -row.cost_nanousd, row.group))
    return rows


def totals(path: Path, *, since_ms: int, until_ms: int) -> SpendRow:
    """Return what was spent in all, as `report` with no groups; zeros where there was nothing.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    found = report(path, by=(), since_ms=since_ms, until_ms=until_ms, tz=ZoneInfo("UTC"))
    return found[0] if found else _row((), _NOTHING)


def _row(group: tuple[str, ...], sums: tuple[int, ...]) -> SpendRow:
    return SpendRow(group=group, **dict(zip(_SUMS, sums, strict=True)))


def _add_up(
    db: sqlite3.Connection, by: Sequence[By], between: tuple[int, int], day: str, groups: _Groups
) -> None:
    since_ms, until_ms = between
    first = since_ms // QUARTER_MS * QUARTER_MS
    for row in db.execute(_SPENT, (first, until_ms)):
        name = dict(zip(_NAMES, row, strict=False))
        group = tuple(day if part is By.DAY else name[part] for part in by)
        sums = row[len(_NAMES) + 1 :]
        groups[group] = tuple(map(add, groups.get(group, _NOTHING), sums))


def _days(
    db: sqlite3.Connection, since_ms: int, until_ms: int, tz: ZoneInfo
) -> Iterator[tuple[str, int, int]]:
    """Yield each local day that has spending, with its first and last moment in the range.

    Every offset from UTC in use is a multiple of a quarter of an hour, so no quarter of the
    roll-ups lies in two days.
    """
    # Two queries: one for both ends would read the whole table.
    (first,) = db.execute("SELECT min(quarter_ms) FROM spend_quarter").fetchone()
    (last,) = db.execute("SELECT max(quarter_ms) FROM spend_quarter").fetchone()
    if first is None:
        return
    begin_ms = max(since_ms // QUARTER_MS * QUARTER_MS, first)
    until_ms = min(until_ms, last + QUARTER_MS)
    while begin_ms < until_ms:
        day = datetime.fromtimestamp(begin_ms // 1000, tz).date()
        end_ms = min(_midnight_ms(day + timedelta(days=1), tz), until_ms)
        yield day.isoformat(), begin_ms, end_ms
        begin_ms = end_ms


def _midnight_ms(day: date, tz: ZoneInfo) -> int:
    at = datetime(day.year, day.month, day.day, tzinfo=tz).astimezone(UTC)
    return int(at.timestamp()) * 1000


_COST_SCOPES = ("key", "user", "team", "project", "provider", "route")
_COST = """
SELECT s.cost, a.key, a.user, a.team, a.project, a.provider, a.route FROM (
    SELECT account, sum(cost_nanousd) AS cost FROM spend_quarter
    WHERE quarter_ms >= ? GROUP BY account
) s JOIN accounts a ON a.id = s.account
"""
_COST_OF_TAG = """
SELECT coalesce(sum(cost_nanousd), 0) FROM spend_tag
WHERE quarter_ms >= ? AND tag = (SELECT id FROM words WHERE word = ?)
"""


_SPREAD = """
SELECT s.quarter_ms, s.cost_nanousd, a.key, a.user, a.team, a.project, a.provider, a.route
FROM spend_quarter s JOIN accounts a ON a.id = s.account
WHERE s.quarter_ms >= ? AND s.cost_nanousd > 0
"""
_SPREAD_OF_TAG = """
SELECT quarter_ms, sum(cost_nanousd) FROM spend_tag
WHERE quarter_ms >= ? AND tag = (SELECT id FROM words WHERE word = ?) AND cost_nanousd > 0
GROUP BY quarter_ms
"""


def spread(db: sqlite3.Connection, queries: Sequence[SpentQuery]) -> list[dict[int, int]]:
    """Return what each scope has spent in each quarter of an hour, in nano-dollars.

    One pass over the roll-ups since the earliest moment; each tag one over those of tags.
    """
    answers: list[dict[int, int]] = [{} for _ in queries]
    asked: dict[tuple[str, str], list[int]] = {}
    for index, query in enumerate(queries):
        if query.scope == "tag":
            answers[index].update(db.execute(_SPREAD_OF_TAG, (query.since_ms, query.name)))
        else:
            name = "" if query.scope == "box" else query.name
            asked.setdefault((query.scope, name), []).append(index)
    if not asked:
        return answers
    since = min(query.since_ms for query in queries if query.scope != "tag")
    for quarter, cost, *names in db.execute(_SPREAD, (since,)):
        for scope in (("box", ""), *zip(_COST_SCOPES, names, strict=True)):
            for index in asked.get(scope, ()):
                if quarter >= queries[index].since_ms:
                    answers[index][quarter] = answers[index].get(quarter, 0) + cost
    return answers


def spent(db: sqlite3.Connection, queries: Sequence[SpentQuery]) -> list[int]:
    """Return what each scope has spent, in nano-dollars, as `db` sees it.

    Each moment among the queries costs one pass over the roll-ups since then, however many
    scopes ask for it; each tag one over those of tags.
    """
    answers = [0] * len(queries)
    asked: dict[int, dict[tuple[str, str], list[int]]] = {}
    for index, query in enumerate(queries):
        if query.scope == "tag":
            found = db.execute(_COST_OF_TAG, (query.since_ms, query.name)).fetchone()
            answers[index] = found[0]
        else:
            name = "" if query.scope == "box" else query.name
            of_moment = asked.setdefault(query.since_ms, {})
            of_moment.setdefault((query.scope, name), []).append(index)
    for moment, scopes in asked.items():
        for cost, *names in db.execute(_COST, (moment,)):
            for scope in (("box", ""), *zip(_COST_SCOPES, names, strict=True)):
                for index in scopes.get(scope, ()):
                    answers[index] += cost
    return answers
