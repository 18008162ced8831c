"""Reports of what was spent, read from the roll-ups alone: their size is the time's, not use's."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from operator import add, sub
from pathlib import Path
from typing import cast
from zoneinfo import ZoneInfo

import msgspec

from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.rows import SpentQuery
from tollway.daemon.ledger.schema import QUARTER_MS, TOKENS
from tollway.daemon.ledger.tokens import Tokens


class By(StrEnum):
    """What a report adds up over; beside these `tag:NAME`, the values of a tag."""

    TEAM = "team"
    USER = "user"
    PROJECT = "project"
    KEY = "key"
    ROUTE = "route"
    PROVIDER = "provider"
    MODEL = "model"
    SESSION = "session"
    SOURCE = "source"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


_FEW = 1000  # words
TAG = "tag:"  # how a dimension that is a tag begins


class SpendRow(Tokens, frozen=True):
    """What one group spent. `group` has a name for each dimension, "" for none.

    Days are ISO 8601, weeks the day they begin on, months "2026-11". `calls` are those that were
    sent, counted with their last target; `refused` those that were not, which have no target.
    Cost and tokens stand with the target that each attempt went to. `estimated_nanousd` is the
    part of the cost whose tokens no provider reported; `unpriced` counts attempts whose tokens had
    no price, and so stand in no cost; `saved_nanousd` is what the list price is above the cost.

    What was imported is in none of these: `imported` calls did not pass this gateway, and cost
    `notional_nanousd` at the list price, which is no bill.
    """

    group: tuple[str, ...]
    calls: int
    refused: int
    attempts: int
    cost_nanousd: int
    overrun_nanousd: int
    estimated_nanousd: int
    unpriced: int
    saved_nanousd: int = 0
    imported: int = 0
    imported_unpriced: int = 0
    imported_input_total: int = 0
    imported_output_total: int = 0
    notional_nanousd: int = 0


class Only(msgspec.Struct, frozen=True):
    """Whose spending is meant, by the names that it stands under; None takes anybody's."""

    team: str | None = None
    user: str | None = None
    project: str | None = None
    key: str | None = None
    route: str | None = None
    provider: str | None = None
    model: str | None = None

    @property
    def said(self) -> dict[str, str]:
        """The names that bound it."""
        return {
            name: value for name, value in msgspec.structs.asdict(self).items() if value is not None
        }

    @property
    def which(self) -> str:
        """The SQL that keeps its accounts, from an AND on; its values are those of `said`."""
        tests = " AND ".join(f'"{name}" = ?' for name in self.said)
        return f" AND account IN (SELECT id FROM accounts WHERE {tests})" if tests else ""  # noqa: S608


ALL = Only()
_NAMES = Only.__struct_fields__
_SUMS = (
    *("calls", "refused", "attempts", "cost_nanousd", "overrun_nanousd", "estimated_nanousd"),
    *("unpriced", *TOKENS, "saved_nanousd"),
)
_IMPORTED = (
    *("imported", "imported_unpriced", "imported_input_total", "imported_output_total"),
    "notional_nanousd",
)
_FIELDS = (*_SUMS, *_IMPORTED)
_NOTHING = (0,) * len(_FIELDS)
_NOT_IMPORTED = (0,) * len(_IMPORTED)
_NO_SUMS = (0,) * len(_SUMS)
_SOURCES = ("gateway", "claude-code", "codex")  # by their number in the ledger
# Grouped by account and not by name: seven texts a row would be most of the work.
_SPENT = f"""
SELECT {{account}}, {", ".join(f"sum({name})" for name in _SUMS)} FROM spend_quarter
WHERE quarter_ms >= ? AND quarter_ms < ?{{which}} GROUP BY 1
"""  # noqa: S608 - our own names
_LABELLED = f"""
SELECT {{account}}, {{labels}}, {", ".join(f"sum({name})" for name in _SUMS)} FROM spend_label
WHERE quarter_ms >= ? AND quarter_ms < ?{{which}} GROUP BY 1, 2, 3
"""  # noqa: S608
_IN = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens")
_IMPORTS = f"""
SELECT {{account}}, {{labels}}, source, count(*), sum(price IS NULL), sum({" + ".join(_IN)}),
    sum(output_tokens + reasoning_tokens), sum(notional_nanousd)
FROM imports WHERE at_ms >= ? AND at_ms < ?{{which}} GROUP BY 1, 2, 3, 4
"""  # noqa: S608
_COST_OF_QUARTERS = """
SELECT quarter_ms, sum(cost_nanousd) FROM spend_quarter
WHERE quarter_ms >= ? AND quarter_ms < ?{which} GROUP BY quarter_ms
"""
_Groups = dict[tuple[str, ...], tuple[int, ...]]


def report(
    path: Path,
    only: Only = ALL,
    /,
    *,
    by: Sequence[str],
    since_ms: int,
    until_ms: int,
    tz: ZoneInfo,
) -> list[SpendRow]:
    """Return what was spent by calls admitted from `since_ms` to before `until_ms`.

    Quarters of an hour that lie partly inside count whole. With days, weeks or months the oldest
    comes first, and they are those of `tz`; else, and within one, the dearest group. `by` has of
    `By`, and `tag:NAME`.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    return _report(path, by, (since_ms, until_ms), tz, only, imported=False)


def report_with_imports(
    path: Path,
    only: Only = ALL,
    /,
    *,
    by: Sequence[str],
    since_ms: int,
    until_ms: int,
    tz: ZoneInfo,
) -> list[SpendRow]:
    """Return what `report` does, and apart from it what did not pass the gateway.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    return _report(path, by, (since_ms, until_ms), tz, only, imported=True)


def _report(
    path: Path,
    by: Sequence[str],
    between: tuple[int, int],
    tz: ZoneInfo,
    only: Only,
    *,
    imported: bool,
) -> list[SpendRow]:
    with reading(path) as db:
        sums = _Sums(db, by, only, imported=imported)
        if sums.timed:
            bounds = _bounds(db, *between)
            for names, begin_ms, end_ms in spans(sums.timed, *bounds, tz) if bounds else ():
                sums.add((begin_ms, end_ms), names)
        else:
            sums.add(between, {})
        groups = sums.named()
    rows = [_row(group, found) for group, found in groups.items()]
    at = next((index for index, part in enumerate(by) if part in _TIMES), None)
    rows.sort(key=lambda row: ("" if at is None else row.group[at], -row.cost_nanousd, row.group))
    return rows


def totals(path: Path, *, since_ms: int, until_ms: int) -> SpendRow:
    """Return what was spent in all, as `report` with no groups; zeros where there was nothing.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    found = report(path, by=(), since_ms=since_ms, until_ms=until_ms, tz=ZoneInfo("UTC"))
    return found[0] if found else _row((), _NOTHING)


def by_day(
    path: Path, only: Only = ALL, /, *, since_ms: int, until_ms: int, tz: ZoneInfo
) -> dict[date, int]:
    """Return what each local day cost, in nano-dollars; days without calls are not there.

    One pass for the cost alone: a report by days adds up all the rest as well.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    first = since_ms // QUARTER_MS * QUARTER_MS
    found: dict[date, int] = {}
    with reading(path) as db:
        sql, values = _COST_OF_QUARTERS.format(which=only.which), only.said.values()
        for quarter_ms, cost in db.execute(sql, (first, until_ms, *values)):
            day = datetime.fromtimestamp(quarter_ms // 1000, tz).date()
            found[day] = found.get(day, 0) + cost
    return found


def began_ms(path: Path) -> int | None:
    """Return the first quarter of an hour that the ledger knows of, None where it has no call.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read.
    """
    with reading(path) as db:
        found = db.execute("SELECT min(quarter_ms) FROM spend_quarter").fetchone()[0]
    return None if found is None else int(found)


def _row(group: tuple[str, ...], sums: tuple[int, ...]) -> SpendRow:
    return SpendRow(group=group, **dict(zip(_FIELDS, sums, strict=True)))


class _Sums:
    """The groups of a report, as stretches of time are added.

    A session stands in a group by its number until `named`: there may be as many as there were
    calls, and each word would be looked up for itself.
    """

    def __init__(
        self, db: sqlite3.Connection, by: Sequence[str], only: Only, *, imported: bool
    ) -> None:
        self.timed = tuple(part for part in by if part in _TIMES)
        self._groups: dict[tuple[str | int, ...], tuple[int, ...]] = {}
        self._db = db
        self._by = by
        self._imported = imported
        self._session = by.index(By.SESSION) if By.SESSION in by else None
        self._tags = tuple(part for part in by if part.startswith(TAG))
        # No more is told apart than is asked for.
        self._of_account = [part for part in by if part in _NAMES]
        self._accounts: dict[int, dict[str, str]] = {0: {}}
        labels = (("tags", self._tags), ("session", self._session is not None))
        self._columns = {
            "account": "account" if self._of_account else "0",
            "which": only.which,
            "labels": ", ".join(name if wanted else "0" for name, wanted in labels),
        }
        self._kept = tuple(only.said.values())
        self._read: dict[int, dict[str, str]] = {0: {}}

    def named(self) -> _Groups:
        """Return what each group came to, in the order of `_SUMS` and `_IMPORTED`."""
        at = self._session
        if at is None:
            return cast(_Groups, self._groups)
        wanted = {cast(int, group[at]) for group in self._groups}
        # One by one for a few; else in one pass over all of them.
        found = (
            ((number, self._word(number)) for number in wanted)
            if len(wanted) < _FEW
            else (row for row in self._db.execute("SELECT id, word FROM words") if row[0] in wanted)
        )
        words: dict[str | int, str] = {**dict(found), 0: ""}
        named = {
            (*group[:at], words.get(group[at], ""), *group[at + 1 :]): sums
            for group, sums in self._groups.items()
        }
        return cast(_Groups, named)

    def add(self, between: tuple[int, int], names: dict[str, str]) -> None:
        """Add a stretch of time; `names` are of the times that are asked for."""
        first = between[0] // QUARTER_MS * QUARTER_MS
        span = (first, between[1], *self._kept)
        labelled: dict[int, tuple[int, ...]] = {}
        has = {**names, By.SOURCE: _SOURCES[0]}
        if self._session is not None or self._tags:
            bases: dict[tuple[int, int], tuple[str, ...]] = {}
            for account, tags, session, *sums in self._db.execute(self._sql(_LABELLED), span):
                base = bases.get((account, tags))
                if base is None:
                    base = bases[account, tags] = self._base(account, tags, has)
                self._put(base, session, (*sums, *_NOT_IMPORTED))
                before = labelled.get(account)
                labelled[account] = tuple(map(add, before, sums)) if before else tuple(sums)
        for account, *sums in self._db.execute(self._sql(_SPENT), span):
            rest = tuple(map(sub, sums, labelled[account])) if account in labelled else tuple(sums)
            if account not in labelled or any(rest):
                self._put(self._base(account, 0, has), 0, (*rest, *_NOT_IMPORTED))
        if self._imported:
            for account, tags, session, source, *sums in self._db.execute(
                self._sql(_IMPORTS), span
            ):
                base = self._base(account, tags or 0, {**names, By.SOURCE: _SOURCES[source]})
                self._put(base, session or 0, (*_NO_SUMS, *sums))

    def _sql(self, text: str) -> str:
        return text.format(**self._columns)

    def _base(self, account: int, tags: int, has: dict[str, str]) -> tuple[str, ...]:
        """Return the group of an account, some tags, and a time; its session is yet to be put."""
        if account not in self._accounts:
            columns = ", ".join(f'"{name}"' for name in self._of_account)
            names = self._db.execute(
                f"SELECT {columns} FROM accounts WHERE id = ?",  # noqa: S608 - our own names
                (account,),
            ).fetchone()
            of_nobody = ("",) * len(self._of_account)  # in a damaged file: what it cost counts
            self._accounts[account] = dict(zip(self._of_account, names or of_nobody, strict=True))
        found = {**has, **self._accounts[account], **self._of_tags(tags)}
        return tuple(found.get(part, "") for part in self._by)

    def _put(self, base: tuple[str, ...], session: int, sums: tuple[int, ...]) -> None:
        at = self._session
        group: tuple[str | int, ...] = base
        if at is not None:
            group = (*base[:at], session, *base[at + 1 :])
        before = self._groups.get(group)
        self._groups[group] = tuple(map(add, before, sums)) if before else sums

    def _of_tags(self, tags: int) -> dict[str, str]:
        if tags not in self._read:
            # What is no object of texts came from no gateway of ours.
            of_call = msgspec.json.decode(self._word(tags), type=dict[str, str])
            self._read[tags] = {
                part: of_call.get(part.removeprefix(TAG), "") for part in self._tags
            }
        return self._read[tags]

    def _word(self, number: int) -> str:
        found = self._db.execute("SELECT word FROM words WHERE id = ?", (number,)).fetchone()
        return str(found[0]) if found else ""


_TIMES = (By.DAY, By.WEEK, By.MONTH)


def _bounds(db: sqlite3.Connection, since_ms: int, until_ms: int) -> tuple[int, int] | None:
    """Return the part of a stretch of time in which there is anything, None where there is none."""
    # A query for each end: one for both would read the whole table.
    ends = [
        [value for (value,) in map(_one(db), queries) if value is not None]
        for queries in (
            ("SELECT min(quarter_ms) FROM spend_quarter", "SELECT min(at_ms) FROM imports"),
            ("SELECT max(quarter_ms) FROM spend_quarter", "SELECT max(at_ms) FROM imports"),
        )
    ]
    if not ends[0]:
        return None
    first = max(since_ms, min(ends[0])) // QUARTER_MS * QUARTER_MS
    return first, min(until_ms, max(ends[1]) + QUARTER_MS)


def _one(db: sqlite3.Connection) -> Callable[[str], tuple[int | None]]:
    return lambda sql: db.execute(sql).fetchone()


def spans(
    timed: Sequence[str], since_ms: int, until_ms: int, tz: ZoneInfo
) -> Iterator[tuple[dict[str, str], int, int]]:
    """Yield the days, weeks or months of a stretch of time, cut to it, with their names.

    Every offset from UTC in use is a multiple of a quarter of an hour, so no quarter of the
    roll-ups lies in two days. Where more than one is asked for, the shortest is yielded: a week
    lies in two months.
    """
    begin_ms = since_ms // QUARTER_MS * QUARTER_MS
    while begin_ms < until_ms:
        day = datetime.fromtimestamp(begin_ms // 1000, tz).date()
        week = day - timedelta(days=day.weekday())
        if By.DAY in timed or len(timed) > 1:
            after = day + timedelta(days=1)
        elif By.WEEK in timed:
            after = week + timedelta(days=7)
        else:
            after = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
        end_ms = min(midnight_ms(after, tz), until_ms)
        names = {
            By.DAY.value: day.isoformat(),
            By.WEEK.value: week.isoformat(),
            By.MONTH.value: f"{day:%Y-%m}",
        }
        yield names, begin_ms, end_ms
        begin_ms = end_ms


def midnight_ms(day: date, tz: ZoneInfo | None) -> int:
    """Return when a local day begins, in unix milliseconds: the first moment that there is.

    Without `tz` it is this box's day.
    """
    # By way of UTC: where a DST change swallows midnight, the first moment after it.
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
SELECT quarter_ms, account, cost_nanousd FROM spend_quarter
WHERE quarter_ms >= ? AND cost_nanousd > 0
"""
_ACCOUNTS = "SELECT id, key, user, team, project, provider, route FROM accounts"
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
    # Whose each account is, once: a year has hundreds of thousands of rows, and the start waits.
    told: dict[int, list[tuple[int, dict[int, int]]]] = {}
    for account, *names in db.execute(_ACCOUNTS):
        scopes = (("box", ""), *zip(_COST_SCOPES, names, strict=True))
        of_account = [index for scope in scopes for index in asked.get(scope, ())]
        told[account] = [(queries[index].since_ms, answers[index]) for index in of_account]
    since = min(query.since_ms for query in queries if query.scope != "tag")
    for quarter, account, cost in db.execute(_SPREAD, (since,)):
        for since_ms, answer in told[account]:
            if quarter >= since_ms:
                answer[quarter] = answer.get(quarter, 0) + cost
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
