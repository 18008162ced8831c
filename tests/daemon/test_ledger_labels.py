"""Spending by any tag and by session: a roll-up of its own, which is what the rows add up to."""

import sqlite3
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from ledger_rows import AT_MS, PRICE, attempt, closed, ended, opened, refused
from spend_year import BEGIN_MS, DAY_MS, Made, write

from tollway.daemon.ledger.schema import migrate
from tollway.daemon.ledger.spend import By, Only, by_day, report
from tollway.daemon.ledger.verify import repair, verify
from tollway.daemon.ledger.writer import Ledger
from tollway.providers.prices import discounted

UTC_ZONE = ZoneInfo("UTC")
ALWAYS = {"since_ms": 0, "until_ms": 2**53}
COPIED = (
    *("words", "accounts", "prices", "usage_shapes", "calls", "attempts", "spend_quarter"),
    "spend_tag",
)
LABELS = ("tag:run", "tag:env", By.SESSION)


async def lived(path: Path) -> None:
    """Write calls with and without labels: retried, refused, and one that a kill cut short."""
    ledger = Ledger(path)
    ledger.start()
    call = opened(1, tags='{"run":"42","env":"ci"}', session="s1", budget_tags=("run=42",))
    await ledger.admit(call, attempt(call))
    await ledger.next_attempt(
        ended(attempt(call), 100),
        attempt(call, 2, provider="groq", model="llama", price=discounted(PRICE, Decimal("0.9"))),
    )
    await ledger.settle(closed(call), ended(attempt(call, 2), 200, saved_nanousd=20))
    plain = opened(2)
    await ledger.admit(plain, attempt(plain))
    await ledger.settle(closed(plain), ended(attempt(plain), 50))
    ledger.refuse(refused(3, tags='{"run":"43"}', session="s1", budget_tags=("run=43",)))
    waits = opened(4, session="s2", queue_ms=0)
    ledger.queue(waits)
    ledger.unqueue(closed(waits, "client_left"), 5, refused=False)
    cut = opened(5, tags='{"run":"42"}')
    await ledger.admit(cut, attempt(cut))
    await ledger.close()


def by_labels(path: Path) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Return calls, refused, attempts, cost and saving by the labels."""
    return {
        row.group: (row.calls, row.refused, row.attempts, row.cost_nanousd, row.saved_nanousd)
        for row in report(path, by=LABELS, tz=UTC_ZONE, **ALWAYS)
    }


async def test_calls_add_up_by_any_tag_and_session(tmp_path: Path) -> None:
    """Nothing is declared anywhere; what has no label is under "", refused calls have theirs."""
    path = tmp_path / "ledger.db"
    await lived(path)
    assert repair(path) == []  # settles what the kill left
    assert by_labels(path) == {
        ("42", "ci", "s1"): (1, 0, 2, 300, 20),
        ("43", "", "s1"): (0, 1, 0, 0, 0),
        ("", "", "s2"): (1, 0, 0, 0, 0),
        ("42", "", ""): (1, 0, 1, 1000, 0),
        ("", "", ""): (1, 0, 1, 50, 0),
    }
    only = Only(model="llama")
    (llama,) = report(path, only, by=LABELS, tz=UTC_ZONE, **ALWAYS)
    assert (llama.group, llama.cost_nanousd, llama.saved_nanousd) == (("42", "ci", "s1"), 200, 20)
    assert sum(by_day(path, only, tz=UTC_ZONE, **ALWAYS).values()) == 200
    rows = report(path, by=["tag:run", By.MODEL], tz=UTC_ZONE, **ALWAYS)
    assert {row.group: row.cost_nanousd for row in rows if row.cost_nanousd} == {
        ("42", "gpt-4o-mini"): 1100,
        ("42", "llama"): 200,
        ("", "gpt-4o-mini"): 50,
    }


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE spend_label SET cost_nanousd = 7 WHERE cost_nanousd = 200",
        "DELETE FROM spend_label",
        "INSERT INTO spend_label (quarter_ms, tags, session, account) VALUES (18e11, 1, 0, 1)",
        "UPDATE spend_quarter SET saved_nanousd = 1 WHERE saved_nanousd = 20",
        "UPDATE calls SET saved_nanousd = 1 WHERE saved_nanousd = 20",
    ],
)
async def test_a_wrong_sum_of_a_label_or_saving_is_found_and_made_anew(
    tmp_path: Path, sql: str
) -> None:
    """Verify names it, and repair makes it from the rows."""
    path = tmp_path / "ledger.db"
    await lived(path)
    assert repair(path) == []
    before = by_labels(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(sql)
    assert {one.check for one in verify(path)} <= {"roll-up", "call sums"} and verify(path)
    assert repair(path) == []
    assert by_labels(path) == before


async def test_a_ledger_of_the_version_before_gets_its_labels(tmp_path: Path) -> None:
    """Its calls are added up when it is first opened, and the new columns are 0."""
    path = tmp_path / "ledger.db"
    await lived(path)
    assert repair(path) == []
    old = tmp_path / "old.db"
    with closing(sqlite3.connect(old, isolation_level=None)) as db:
        migrate(db, old, to=5)
        db.execute("ATTACH ? AS new", (str(path),))
        for table in COPIED:
            names = [row[1] for row in db.execute(f"PRAGMA main.table_info({table})")]
            columns = ", ".join(names)
            db.execute(
                f"INSERT INTO {table} ({columns})"  # noqa: S608 - our own names
                f" SELECT {columns} FROM new.{table}"
            )
        db.execute("DETACH new")
        migrate(db, old)
    assert verify(old) == []
    expected = {group: (*sums[:4], 0) for group, sums in by_labels(path).items()}
    assert by_labels(old) == expected


def local_day(one: Made, zone: ZoneInfo) -> date:
    """Return the day of a call where a person is."""
    return datetime.fromtimestamp(one.at_ms / 1000, UTC).astimezone(zone).date()


def monday(day: date) -> str:
    """Return the day that a day's week begins on."""
    return (day - timedelta(days=day.weekday())).isoformat()


KEYS: dict[str, Callable[[Made, ZoneInfo], str]] = {
    By.TEAM: lambda one, _: one.team,
    By.USER: lambda one, _: one.user,
    By.MODEL: lambda one, _: one.model,
    By.SESSION: lambda one, _: one.session,
    "tag:branch": lambda one, _: one.branch,
    By.SOURCE: lambda one, _: "gateway",
    By.DAY: lambda one, zone: local_day(one, zone).isoformat(),
    By.WEEK: lambda one, zone: monday(local_day(one, zone)),
    By.MONTH: lambda one, zone: f"{local_day(one, zone):%Y-%m}",
}


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Made]]:
    """Return a year's ledger, and its calls."""
    path = tmp_path_factory.mktemp("year") / "ledger.db"
    return path, write(path, 3000)


@pytest.mark.parametrize(
    "zone", ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/Santiago"]
)
@pytest.mark.parametrize(
    "by",
    [
        (By.DAY,),
        (By.WEEK, By.TEAM),
        (By.MONTH, "tag:branch"),
        (By.MONTH, By.WEEK),
        (By.TEAM, By.SESSION),
        ("tag:branch", By.USER, By.MODEL),
        ("tag:none", By.SOURCE),
    ],
)
def test_every_dimension_is_the_rows_added_up(
    year: tuple[Path, list[Made]], by: tuple[str, ...], zone: str
) -> None:
    """A year with two changes of the clocks, cut at odd moments, adds up to the nano-dollar."""
    path, made = year
    tz = ZoneInfo(zone)
    since_ms = BEGIN_MS + 17 * DAY_MS + 900_000 * 7
    until_ms = BEGIN_MS + 350 * DAY_MS + 900_000 * 3
    expected: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for one in made:
        if since_ms <= one.at_ms < until_ms:
            sums = expected[tuple(KEYS[part](one, tz) if part in KEYS else "" for part in by)]
            for at, value in enumerate((1, one.cost, one.saved, one.tokens)):
                sums[at] += value
    rows = report(path, by=by, since_ms=since_ms, until_ms=until_ms, tz=tz)
    found = {
        row.group: [row.calls, row.cost_nanousd, row.saved_nanousd, row.input_total] for row in rows
    }
    assert found == expected


@pytest.mark.long
def test_a_year_of_many_calls_adds_up(tmp_path: Path) -> None:
    """200,000 calls: verified, and the same by whatever they are added up by."""
    path = tmp_path / "ledger.db"
    made = write(path, 200_000)
    assert verify(path) == []
    whole = (len(made), *(sum(getattr(one, name) for one in made) for name in ("cost", "saved")))
    for by in ((By.DAY,), (By.WEEK, "tag:branch"), (By.MONTH, By.SESSION), ("tag:x",), KEYS):
        rows = report(path, by=tuple(by), tz=ZoneInfo("Australia/Lord_Howe"), **ALWAYS)
        sums = (
            sum(getattr(row, name) for row in rows)
            for name in ("calls", "cost_nanousd", "saved_nanousd")
        )
        assert tuple(sums) == whole


def test_the_generated_year_verifies(year: tuple[Path, list[Made]]) -> None:
    """What the tests count on is a ledger that agrees with itself."""
    assert verify(year[0]) == []


def test_a_moment_belongs_to_one_period(year: tuple[Path, list[Made]]) -> None:
    """Reports of all quarters of a day, one by one, are the day's report."""
    path, _ = year
    at = AT_MS // DAY_MS * DAY_MS
    whole = report(path, by=["tag:branch"], since_ms=at, until_ms=at + DAY_MS, tz=UTC_ZONE)
    parts: defaultdict[tuple[str, ...], int] = defaultdict(int)
    for begin in range(at, at + DAY_MS, 900_000):
        for row in report(
            path, by=["tag:branch"], since_ms=begin, until_ms=begin + 900_000, tz=UTC_ZONE
        ):
            parts[row.group] += row.cost_nanousd
    assert len(parts) > 1
    assert parts == {row.group: row.cost_nanousd for row in whole}


async def test_a_saving_without_a_discount_is_found(tmp_path: Path) -> None:
    """A list price above what was paid has a reason, and the price says which."""
    path = tmp_path / "ledger.db"
    await lived(path)
    assert repair(path) == []
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE attempts SET saved_nanousd = 5 WHERE cost_nanousd = 50")
    assert "its price has no discount" in {one.check: one.message for one in verify(path)}["price"]
