"""`spend`: every form tells the same truth, which is the ledger's."""

import csv
import io
import json
import os
import pty
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_rows import PRICE, attempt, closed, ended, opened, refused
from program import Home

from tollway.cli.periods import Period, before, period, zone
from tollway.cli.spend_report import as_csv, as_json_data, made, worth
from tollway.daemon.ledger.rows import Who
from tollway.daemon.ledger.schema import TOKENS
from tollway.daemon.ledger.spend import By, SpendRow
from tollway.daemon.ledger.verify import verify
from tollway.daemon.ledger.writer import Ledger
from tollway.providers.canon import Usage

DAY_MS = 86_400_000
NOW_MS = time.time_ns() // 1_000_000
MODELS = ("openai/gpt-4o-mini", "groq/pipe|<b>*x*", "local/smol")
SUMS = [name for name in SpendRow.__struct_fields__ if name != "group"]


async def fill(path: Path) -> int:
    """Write a month of calls with a fixed seed; return what they cost, in nano-dollars."""
    said = random.Random(7)  # noqa: S311 - the seed is the point
    ledger = Ledger(path)
    ledger.start()
    await ledger.ready()
    total = 0
    for number in range(120):
        at_ms = NOW_MS - said.randrange(28 * DAY_MS) - 3_600_000
        team = said.choice(("ml", "web", ""))
        provider, _, model = said.choice(MODELS).partition("/")
        local = provider == "local"
        call = opened(number, at_ms, who=Who(key=f"k{number % 3}", team=team))
        tried = attempt(call, provider=provider, model=model, price=None if local else PRICE)
        cost = 0 if local else said.randrange(10**7)
        usage = Usage(
            input=said.randrange(5000), output=1 + said.randrange(900), estimated=number % 9 == 0
        )
        await ledger.admit(call, tried)
        await ledger.settle(closed(call), ended(tried, cost, usage=usage))
        total += cost
    ledger.refuse(refused(500, NOW_MS - 3_600_000))
    await ledger.close()
    return total


class Spent:
    """A home whose ledger holds a known month."""

    def __init__(self, home: Home, cost_nanousd: int) -> None:
        self.home = home
        self.cost_nanousd = cost_nanousd

    def say(self, *words: str) -> str:
        """Return what `spend` prints of the last 30 days."""
        ended = self.home.tollway("spend", "--since", "30d", *words)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def json(self, *words: str) -> Any:
        """Return what it prints as JSON."""
        return json.loads(self.say("--json", *words))


def bare(folder: Path) -> Home:
    """Return a home with a gateway.toml and no ledger."""
    home = Home(folder)
    home.write('[server]\nlisten = "127.0.0.1:0"\nsingle_user = true\n')
    return home


@pytest.fixture(scope="module")
def spent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spent]:
    """Return a home with a month of calls in its ledger."""
    import asyncio  # noqa: PLC0415 - a loop of its own: the fixture outlives a test's

    home = bare(tmp_path_factory.mktemp("spent"))
    home.data.mkdir(parents=True, mode=0o700)
    yield Spent(home, asyncio.run(fill(home.data / "ledger.db")))


@pytest.mark.parametrize("by", ["model", "team,model", "day", "team,key,day", "route,user,project"])
def test_all_forms_add_up_to_the_same_total(spent: Spent, by: str) -> None:
    """Rows sum to the total, and CSV, JSON and the ledger agree to the nano-dollar."""
    data = spent.json("--by", by)
    assert data["total"]["cost_nanousd"] == spent.cost_nanousd
    for name in ("cost_nanousd", "calls", "refused", "unpriced", "input_total", "output_total"):
        assert sum(row[name] for row in data["rows"]) == data["total"][name]
    rows = list(csv.DictReader(io.StringIO(spent.say("--by", by, "--format", "csv"))))
    assert len(rows) == len(data["rows"])
    assert sum(Decimal(row["cost_usd"]) for row in rows) == Decimal(data["total"]["cost_usd"])
    assert sum(int(row["calls"]) for row in rows) == data["total"]["calls"] == 120
    groups = [tuple(row["group"].values()) for row in data["rows"]]
    assert groups == [tuple(row[name] for name in by.split(",")) for row in rows]


@pytest.mark.parametrize("name", ["team", "key", "provider", "model"])
def test_of_one_alone_is_what_the_whole_report_has_of_it(spent: Spent, name: str) -> None:
    """Rows, total, days and sums: a filter leaves out, and changes nothing else."""
    whole = spent.json("--by", f"{name},route")
    for value in {row["group"][name] for row in whole["rows"]}:
        found = spent.json("--only", f"{name}={value}", "--by", "route")
        assert found["only"] == {name: value}
        theirs = [row for row in whole["rows"] if row["group"][name] == value]
        assert {row["group"]["route"]: row["cost_nanousd"] for row in found["rows"]} == {
            row["group"]["route"]: row["cost_nanousd"] for row in theirs
        }
        total = found["total"]
        for sum_ in ("cost_nanousd", "calls", "refused", "input_total", "output_total"):
            assert total[sum_] == sum(row[sum_] for row in theirs)
        assert sum(day["cost_nanousd"] for day in found["days"]) == total["cost_nanousd"]


def test_several_narrow_and_what_is_nobody_s_is_left_out(spent: Spent) -> None:
    """Idle time and commitments are the box's; a word that names nothing is refused."""
    both = spent.json("--only", "team=ml,provider=openai", "--only", "key=k1", "--by", "model")
    rows = spent.json("--by", "team,provider,key")["rows"]
    wanted = {"team": "ml", "provider": "openai", "key": "k1"}
    assert both["total"]["calls"] == sum(r["calls"] for r in rows if r["group"] == wanted) > 0
    assert (both["local_time"], both["commitments"]) == ([], [])
    assert "Spending of team ml by model" in spent.say("--only", "team=ml", "--format=markdown")
    comma = spent.json("--only", "model=a,b, team=ml,user=ada")
    assert comma["only"] == {"model": "a,b", "team": "ml", "user": "ada"}
    for words, said in (
        ("team=ml,user", "says no value"),
        ("team=ml,usr=ada", "names nothing to go by; did you mean user?"),
        ("teem=ml", "names nothing to go by; did you mean team?"),
        ("team", "says no value"),
        ("team=a,team=b", "says two things"),
    ):
        wrong = spent.home.tollway("spend", "--only", words)
        assert (wrong.returncode, said in wrong.stderr) == (2, True), wrong.stderr


def test_a_name_that_is_not_there_is_doubted(spent: Spent) -> None:
    """A report of $0 of a slip is taken for a quiet month; what is gone may still have spent."""
    other = spent.home.path / "other.toml"
    other.write_text(f"{spent.home.config.read_text()}\n[teams.ml]\n")
    said = {
        name: spent.home.tollway("spend", "--only", f"team={name}", "--config", str(other)).stderr
        for name in ("mll", "ml", "")
    }
    assert "There is no team `mll` now; did you mean ml?" in said["mll"]
    assert "There is no" not in said["ml"] + said[""]


def test_by_may_be_said_twice(spent: Spent) -> None:
    """As `--by a,b`: the first of two was passed over without a word."""
    both, twice = (spent.json(*by) for by in (["--by=team,model"], ["--by=team", "--by=model"]))
    assert twice["rows"] == both["rows"]


def test_top_adds_up_what_it_leaves_out(spent: Spent) -> None:
    """The total does not depend on how much of it is shown."""
    all_of_it, some = (spent.json("--by", "team,model", *top) for top in ([], ["--top", "2"]))
    assert len(some["rows"]) == 2
    assert some["total"] == all_of_it["total"]
    assert some["others"]["groups"] == len(all_of_it["rows"]) - 2
    shown = sum(row["cost_nanousd"] for row in some["rows"]) + some["others"]["cost_nanousd"]
    assert shown == spent.cost_nanousd
    rows = list(
        csv.DictReader(io.StringIO(spent.say("--by", "model", "--top", "1", "--format=csv")))
    )
    assert sum(Decimal(row["cost_usd"]) for row in rows) * 10**9 == spent.cost_nanousd


def test_a_piped_table_has_a_line_for_each_group(spent: Spent) -> None:
    """Names on every line, the totals last, the period on stderr and so not in the pipe."""
    ended = spent.home.tollway("spend", "--since", "30d", "--by", "team,model")
    first, *lines, last = ended.stdout.splitlines()
    assert first.split() == ["team", "model", "cost", "share", "calls", "in", "out", "notes"]
    assert len([line for line in lines if line.startswith("ml ")]) == 4  # one has no model: refused
    assert last.startswith("total")
    assert "\x1b" not in ended.stdout
    assert ended.stderr.startswith("Spending by team, model, 20")


def test_what_has_no_price_is_not_shown_as_free(spent: Spent) -> None:
    """Nobody knows what it cost, so no amount is claimed; estimates are marked too."""
    lines = {line.split()[0]: line for line in spent.say().splitlines()}
    assert "unpriced" in lines["smol"]
    assert "$0.00" not in lines["smol"]
    assert "% estimated" in lines["gpt-4o-mini"]
    assert "1 refused" in lines["total"]


def test_the_ledger_agrees_on_what_had_no_price(spent: Spent) -> None:
    """The count in the roll-ups is what the rows say."""
    assert verify(spent.home.data / "ledger.db") == []
    rows = {row["group"]["provider"]: row for row in spent.json("--by", "provider")["rows"]}
    assert rows["local"]["unpriced"] == rows["local"]["calls"] > 0
    assert rows["openai"]["unpriced"] == rows["groq"]["unpriced"] == 0


def test_markdown_is_a_table_whatever_the_names_hold(spent: Spent) -> None:
    """A bar, a tag or a star in a name stays text, and every row has as many cells."""
    _, blank, *lines = spent.say("--format", "markdown").splitlines()
    assert blank == ""
    below = lines.index("")
    assert not any(line.startswith("|") for line in lines[below:])
    lines = lines[:below]
    assert any(r"pipe\|\<b\>\*x\*" in line for line in lines)
    cells = {len(line.replace(r"\|", "").split("|")) for line in lines}
    assert len(cells) == 1
    assert set(lines[1]) <= set("|-: ")
    assert lines[-1].startswith("| total |")


def test_a_terminal_gets_bars_within_its_width(spent: Spent) -> None:
    """The dearest has the longest; a repeated team is not repeated."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "tollway.cli", "spend", "--since", "30d", "--by", "team,model"],
        stdout=follower,
        stderr=subprocess.DEVNULL,
        env={**spent.home.env, "COLUMNS": "110", "TERM": "xterm", "NO_COLOR": "1"},
        cwd=spent.home.path,
    ):
        os.close(follower)
        written = b""
        try:
            while piece := os.read(leader, 65536):
                written += piece
        except OSError:
            pass  # Linux's way to say that the other end has closed
    os.close(leader)
    lines = written.decode().splitlines()
    assert all(len(line) <= 110 for line in lines)
    bars = [line.count("█") for line in lines if "█" in line]
    assert len(bars) > 3
    assert sum(line.startswith("ml ") for line in lines) == 1


def test_no_ledger_and_no_calls_are_said_and_not_errors(tmp_path: Path) -> None:
    """A fresh box has nothing to report; programs get the same shape with nothing in it."""
    home = bare(tmp_path)
    ended = home.tollway("spend")
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "No calls yet" in ended.stderr
    data = json.loads(home.tollway("spend", "--only", "team=ml", "--json").stdout)
    assert (data["rows"], data["only"]) == ([], {"team": "ml"})
    assert data["total"]["cost_usd"] == "0"
    assert len(home.tollway("spend", "--format", "csv").stdout.splitlines()) == 1


async def test_an_empty_ledger_is_said(tmp_path: Path) -> None:
    """The file is there, with no calls in it."""
    home = bare(tmp_path)
    home.data.mkdir(parents=True, mode=0o700)
    ledger = Ledger(home.data / "ledger.db")
    ledger.start()
    await ledger.ready()
    await ledger.close()
    ended = home.tollway("spend")
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "No calls from " in ended.stderr


@pytest.mark.parametrize(
    ("since", "until"), [("0001-01", "9998-12"), ("2020-01", "9998-12"), ("2020-01-02", "9998-12")]
)
def test_years_far_from_all_ledgers_have_a_period_before_them(since: str, until: str) -> None:
    """It ends where the one that is asked for begins, however long that is."""
    asked = period(since, until, zone("UTC"), 0)
    earlier, _ = before(asked)
    assert earlier.since_ms < earlier.until_ms == asked.since_ms


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--by", "team,color"], "cannot be added up by `color`"),
        (["--since", "soon"], "`--since soon` is no moment"),
        (["--until", "month"], "`--until month` is no moment"),
        (["--since", "today", "--until", "2020-01-01"], "The period is empty"),
        (["--since", "2026-13"], "`--since 2026-13` is no moment"),
        (["--since", "0001-01", "--until", "0001-01"], "The period is empty"),
        (["--since", "2020-11", "--until", "2020-10"], "2020-11-01 00:00 and end at 2020-11-01 00"),
        (["--tz", "Mars/Olympus"], "no time zone `Mars/Olympus`"),
        (["--json", "--format", "csv"], "cannot both be"),
        (["--format", "pdf"], "pdf"),
        (["--top", "0"], "top"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(
    tmp_path: Path, words: list[str], message: str
) -> None:
    """Exit code 2, and nothing on stdout."""
    ended = bare(tmp_path).tollway("spend", *words)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    """It says so and exits with 1."""
    home = bare(tmp_path)
    home.data.mkdir(parents=True, mode=0o700)
    (home.data / "ledger.db").write_text("not a database, but long enough to be one" * 30)
    ended = home.tollway("spend", "--json")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "not an SQLite database" in ended.stderr


BERLIN = zone("Europe/Berlin")
AT_MS = 1_793_536_500_000  # 2026-11-01 13:35 in Berlin


def between(since: str, until: str | None = None) -> tuple[str, str]:
    """Return a period's ends as they are shown in JSON."""
    found = period(since, until, BERLIN, AT_MS)
    return found.since, found.until


def test_periods_are_as_people_mean_them() -> None:
    """Days begin at local midnight, a day in `--until` counts whole, ends lie on quarters."""
    now = "2026-11-01T13:45:00+01:00"
    assert between("month") == ("2026-11-01T00:00:00+01:00", now)
    assert between("today") == ("2026-11-01T00:00:00+01:00", now)
    assert between("week") == ("2026-10-26T00:00:00+01:00", now)
    assert between("90m") == ("2026-11-01T12:00:00+01:00", now)
    assert between("1d") == ("2026-10-31T13:30:00+01:00", now)
    # The clocks went back on 25 October: that day has 25 hours.
    assert between("2026-10-25", "2026-10-25") == (
        "2026-10-25T00:00:00+02:00",
        "2026-10-26T00:00:00+01:00",
    )
    assert between("2026-10-31T10:00", "yesterday") == (
        "2026-10-31T10:00:00+01:00",
        "2026-11-01T00:00:00+01:00",
    )
    assert between("2026-10-31T10:00:00Z")[0] == "2026-10-31T11:00:00+01:00"


counts = st.integers(0, 10**12)
spend_rows = st.lists(
    st.builds(
        SpendRow,
        group=st.tuples(st.sampled_from(("", "a", "b,c", 'd"')), st.text(max_size=3)),
        **{name: counts for name in SUMS},
    ),
    max_size=8,
    unique_by=lambda row: row.group,
)


@given(spend_rows, st.none() | st.integers(1, 4))
def test_no_form_loses_or_invents_anything(rows: list[SpendRow], top: int | None) -> None:
    """Whatever the groups and however few are shown, every sum stays what it was."""
    asked = Period(0, 900_000, zone("UTC"))
    report = made(rows, (By.TEAM, By.MODEL), asked, top)
    for name in SUMS:
        whole = sum(getattr(row, name) for row in rows)
        assert getattr(report.total, name) == whole
        assert sum(getattr(row, name) for row in report.all_rows) == whole
    titles, cells = as_csv(report)
    table = [dict(zip(titles, row, strict=True)) for row in cells]
    data: Any = as_json_data(report)
    assert sum((Decimal(str(row["cost_usd"])) for row in table), Decimal(0)) == Decimal(
        data["total"]["cost_usd"]
    )
    for name in (*TOKENS, "calls", "attempts"):
        assert sum(int(str(row[name])) for row in table) == data["total"][name]
    assert len(report.rows) == min(len(rows), top or len(rows))


@pytest.mark.parametrize("by", [(By.SESSION,), (By.DAY,), (By.TEAM, By.MODEL)])
@given(rows=spend_rows, top=st.integers(1, 4))
def test_the_dearest_are_shown_in_the_order_of_the_whole(
    by: tuple[str, ...], rows: list[SpendRow], top: int
) -> None:
    """Not all of a hundred thousand sessions are put in order to show a few, and yet as if."""
    groups = {row.group[-len(by) :]: row for row in rows}
    rows = [msgspec.structs.replace(row, group=group) for group, row in groups.items()]
    asked = Period(0, 900_000, zone("UTC"))
    every = made(rows, by, asked, None).rows
    some = made(rows, by, asked, top).rows
    dearest = sorted(every, key=worth, reverse=True)[:top]
    assert list(some) == [row for row in every if row in dearest]
