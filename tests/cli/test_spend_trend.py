"""`spend`: the period before, the forecast, budgets, and how it looks on a small terminal."""

import asyncio
import json
import os
import pty
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_rows import attempt, closed, ended, opened
from program import Home

from tollway.cli import show
from tollway.cli.periods import before, end_of, period, zone
from tollway.cli.spend_trend import forecast
from tollway.daemon.ledger.rows import Who
from tollway.daemon.ledger.writer import Ledger

BERLIN = zone("Europe/Berlin")
DAY_MS = 86_400_000


def at(text: str) -> int:
    """Return a moment in Berlin as unix milliseconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()) * 1000


@pytest.mark.parametrize(
    ("since", "until", "now", "expected", "which"),
    [
        ("month", None, "2026-11-29T19:15", "2026-10-01T00:00 2026-10-29T19:15",
         "the month before, to the same time"),
        # February has no 31st: it is over before.
        ("month", None, "2026-03-31T10:00", "2026-02-01T00:00 2026-03-01T00:00",
         "the month before"),
        ("week", None, "2026-11-05T08:00", "2026-10-26T00:00 2026-10-29T08:00",
         "the week before, to the same time"),
        # The clocks went back on 25 October: noon is noon.
        ("today", None, "2026-10-26T12:00", "2026-10-25T00:00 2026-10-25T12:00",
         "the day before, to the same time"),
        ("yesterday", "yesterday", "2026-11-05T08:00", "2026-11-03T00:00 2026-11-04T00:00",
         "the day before"),
        ("yesterday", None, "2026-11-05T08:00", "2026-11-02T00:00 2026-11-03T08:00",
         "the 2 days before, to the same time"),
        ("2026-10-01", "2026-10-31", "2026-11-05T08:00", "2026-09-01T00:00 2026-10-01T00:00",
         "the month before"),
        ("2026-01-01", "2026-03-31", "2026-11-05T08:00", "2025-10-01T00:00 2026-01-01T00:00",
         "the 3 months before"),
        ("2026-10-20", "2026-10-26", "2026-11-05T08:00", "2026-10-13T00:00 2026-10-20T00:00",
         "the 7 days before"),
        ("7d", None, "2026-11-05T08:00", "2026-10-22T09:00 2026-10-29T08:00",
         "the same length of time before"),
    ],
)  # fmt: skip
def test_the_period_before_is_the_one_people_mean(
    since: str, until: str | None, now: str, expected: str, which: str
) -> None:
    """Calendar periods have calendar neighbours, whatever the clocks did; others their length."""
    then, said = before(period(since, until, BERLIN, at(now)))
    begin, end = expected.split()
    assert (then.since_ms, then.until_ms, said) == (at(begin), at(end), which)


@pytest.mark.parametrize(
    ("since", "until", "ends"),
    [
        ("month", None, "2026-12-01T00:00"),
        ("week", None, "2026-11-30T00:00"),
        ("today", None, "2026-11-29T00:00"),
        ("yesterday", None, None),
        ("30d", None, None),
        ("month", "today", None),
    ],
)
def test_only_what_is_under_way_has_an_end_to_come(
    since: str, until: str | None, ends: str | None
) -> None:
    """A forecast is of the calendar's period that now lies in."""
    found = end_of(period(since, until, BERLIN, at("2026-11-28T10:00")))
    assert found == (at(ends) if ends else None)


def days_before(now: str, costs: list[int]) -> dict[date, int]:
    """Return costs of the days before a moment, the latest last."""
    today = date.fromisoformat(now[:10])
    return {today - timedelta(days=len(costs) - n): cost for n, cost in enumerate(costs)}


def test_a_forecast_knows_weekdays() -> None:
    """Two working days and a weekend are left: each costs what its like did, the range is none."""
    now = "2026-11-26T00:00"  # a Thursday
    week = [100, 100, 0, 0, 100, 100, 100]  # Thursday to Wednesday
    found = forecast(1000, days_before(now, week * 4), at(now), at("2026-11-30T00:00"), BERLIN)
    assert (found.low_nanousd, found.at_end_nanousd, found.high_nanousd) == (1200, 1200, 1200)
    assert "28 complete days" in found.method


def test_of_today_only_the_rest_is_to_come() -> None:
    """At six in the evening a quarter of the day is left."""
    now = "2026-11-26T18:00"
    found = forecast(7, days_before(now, [400] * 28), at(now), at("2026-11-27T00:00"), BERLIN)
    assert found.at_end_nanousd == 107


def test_too_little_is_said_and_not_guessed() -> None:
    """Six days are no week."""
    now = "2026-11-26T18:00"
    found = forecast(7, days_before(now, [400] * 6), at(now), at("2026-11-27T00:00"), BERLIN)
    assert found.at_end_nanousd is None
    assert "6 complete days, and 7 are needed" in found.method


@given(
    st.integers(0, 10**15),
    st.lists(st.integers(0, 10**15), min_size=7, max_size=28),
    st.integers(0, 40 * DAY_MS),
)
def test_a_forecast_lies_in_its_range_and_never_below_what_is_spent(
    spent: int, costs: list[int], left_ms: int
) -> None:
    """Whatever the days were."""
    now = "2026-03-26T07:00"  # the clocks change on the way
    found = forecast(spent, days_before(now, costs), at(now), at(now) + left_ms, BERLIN)
    assert found.low_nanousd is not None
    assert found.at_end_nanousd is not None
    assert found.high_nanousd is not None
    assert spent <= found.low_nanousd <= found.at_end_nanousd <= found.high_nanousd


def test_changes_are_said_as_people_say_them() -> None:
    """Nothing before is new, and what is unknown is not said."""
    said = [show.change(*pair) for pair in ((112, 100), (50, 100), (5, 0), (0, 0), (100, 100))]
    assert said == ["+12%", "-50%", "new", "", "0%"]
    assert show.change(5, None) == ""
    assert show.change(5000, 100) == "+49x"


def test_sparklines_are_of_blocks_or_of_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    """What costs something is seen, what costs nothing is blank."""
    monkeypatch.setattr(show, "has_blocks", lambda: True)
    assert show.spark([0, 1, 50, 100]) == " ▁▄█"
    assert show.spark([]) == show.spark([0]).strip() == ""
    monkeypatch.setattr(show, "has_blocks", lambda: False)
    assert show.spark([0, 1, 50, 100]) == " .=@"
    assert show.bar(5, 10, 8) == "####"


TOML = """[server]
listen = "127.0.0.1:0"
single_user = true
budget = ["40/month"]
[teams.ml]
budget = ["30/month"]
[teams.web]
"""


async def fill(path: Path) -> None:
    """Write two dollars a day for 70 days: ml pays twice what web does."""
    ledger = Ledger(path)
    ledger.start()
    await ledger.ready()
    now_ms = time.time_ns() // 1_000_000
    for number in range(70):
        for team, cost in (("ml", 1_333_333_333), ("web", 666_666_667)):
            call = opened(
                number + 100 * len(team),
                now_ms - number * DAY_MS - 3 * 3_600_000,
                who=Who(team=team),
                tags=f'{{"branch":"b{number % 2}"}}',
            )
            await ledger.admit(call, attempt(call))
            await ledger.settle(closed(call), ended(attempt(call), cost))
    await ledger.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Return a home with ten weeks of calls, and budgets."""
    made = Home(tmp_path_factory.mktemp("trend"))
    made.write(TOML)
    made.data.mkdir(parents=True, mode=0o700)
    asyncio.run(fill(made.data / "ledger.db"))
    return made


def test_what_stands_beside_a_report(home: Home) -> None:
    """The period before by group, the days, where it leads, and the budgets with what is left."""
    data = json.loads(home.tollway("spend", "--by", "team", "--json").stdout)
    total = data["total"]
    assert sum(day["cost_nanousd"] for day in data["days"]) == total["cost_nanousd"]
    then = data["before"]
    assert then["missing"] is None
    assert sum(row["before_nanousd"] for row in data["rows"]) == then["total"]["cost_nanousd"]
    leads = data["forecast"]
    assert total["cost_nanousd"] <= leads["low_nanousd"] <= leads["at_end_nanousd"]
    held = {(one["scope"], one["name"]): one for one in data["budgets"]}
    assert set(held) == {("box", ""), ("team", "ml")}
    assert held["box", ""]["settled_nanousd"] == total["cost_nanousd"]
    assert held["box", ""]["left_nanousd"] == max(0, 40 * 10**9 - total["cost_nanousd"])


def test_talk_stays_out_of_the_pipe(home: Home) -> None:
    """On stdout is the table alone; below it people read the rest."""
    ended = home.tollway("spend", "--by", "tag:branch,team", "--since", "30d")
    header, *_, last = ended.stdout.splitlines()
    assert header.split()[:4] == ["tag:branch", "team", "cost", "share"]
    assert last.startswith("total")
    assert "in the same length of time before" in ended.stderr
    assert "budget of team ml, 30/month:" in ended.stderr


def test_a_ledger_that_begins_later_compares_nothing(home: Home) -> None:
    """Half a period is no period."""
    ended = home.tollway("spend", "--since", "60d")
    assert "No comparison with the same length of time before: the ledger begins" in ended.stderr
    assert "change" not in ended.stdout


@pytest.mark.parametrize(("columns", "env"), [(60, {}), (80, {}), (130, {}), (60, {"LC_ALL": "C"})])
def test_a_terminal_of_any_width_is_kept(home: Home, columns: int, env: dict[str, str]) -> None:
    """No line is longer, no amount is cut, and a plain terminal gets plain characters."""
    leader, follower = pty.openpty()
    days = {datetime.now(UTC)}
    with subprocess.Popen(
        [sys.executable, "-m", "tollway.cli", "spend", "--since", "30d", "--by", "team"],
        stdout=follower,
        stderr=follower,
        env={**home.env, "COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1", **env},
        cwd=home.path,
    ):
        os.close(follower)
        written = b""
        try:
            while piece := os.read(leader, 65536):
                written += piece
        except OSError:
            pass  # Linux's way to say that the other end has closed
    os.close(leader)
    text = written.decode()
    lines = text.splitlines()
    table = [line for line in lines if line.startswith(("team", "ml", "web", "total"))]
    assert len(table) >= 4
    assert all(len(line) <= columns for line in table)
    assert "$40.00" in text
    assert "$60.00" in text
    assert "…" not in text
    assert "\x1b" not in text
    spark = next(line for line in lines if line.startswith("20") and len(line) < columns)
    assert ("@" in spark) == bool(env)
    assert text.isascii() == bool(env)
    days.add(datetime.now(UTC))  # another one where midnight has passed meanwhile
    assert any(day.strftime("%m-%d") in spark for day in days)
