"""`budgets` and `usage`: what is left, where it leads, and changing it without breaking a file."""

import asyncio
import csv
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from gateway import INPUT, KEY, OUTPUT, gateway, whole
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_rows import attempt, closed, ended, opened
from program import Home
from typer.main import get_command
from upstreams import answer, reads, says, upstream

from tollway.cli.app import app
from tollway.daemon.config.check import budgets_of
from tollway.daemon.config.load import load
from tollway.daemon.config.schema import Scope
from tollway.daemon.ledger.rows import Who
from tollway.daemon.ledger.writer import Ledger
from tollway.daemon.standing import NEVER_MS, BudgetState, forecast
from tollway.providers.money import plain_usd

pytestmark = pytest.mark.whole

FILE = """# ours
[server]
listen = "127.0.0.1:0"
watch = false

# the team
[teams.ml]
budget = [
  "5/day",  # small
  { usd = 20, per = "week", at = "warn" },  # tells
]
[users.ann]
team = "ml"
[routes.fast]
to = ["up/m"]
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:9/v1"
"""
USD = 10**9
HOUR_MS = 3_600_000


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Return a home with a team that has budgets; whatever was started in it is stopped."""
    made = Home(tmp_path)
    made.write(FILE)
    yield made
    made.write(FILE)
    made.tollway("down", "--now")


def fine(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a command printed, once it has succeeded."""
    assert done.returncode == 0, done.stderr
    return done.stdout


def budgets(home: Home) -> dict[Scope, list[tuple[str, str]]]:
    """Return the file's budgets by scope, each with its mode."""
    config = load(home.config)
    return {
        scope: [(one.text, one.at) for one in all_] for scope, all_ in budgets_of(config) if all_
    }


def test_a_scope_without_budgets_is_not_a_box_without_any(home: Home) -> None:
    """The team has some: what is missing is named."""
    assert (
        "There are no budgets of user ann: "
        in home.tollway("budgets", "list", "user", "ann").stderr
    )


def test_a_budget_is_set_for_every_scope_and_taken_away_again(home: Home) -> None:
    """Both ways to write a scope work; the file is what it was when all are gone."""
    before = home.config.read_text()
    given = [
        ("box", "9/day", ("box", "")),
        ("provider up", "1/hour", ("provider", "up")),
        ("user:ann", "0.333333333/24h", ("user", "ann")),
        ("route fast", "3/total", ("route", "fast")),
        ("tag run=42", "4/month", ("tag", "run=42")),
    ]
    for scope, amount, _ in given:
        fine(home.tollway("budgets", "set", *scope.split(), amount))
    found = budgets(home)
    assert [found[scope] for _, _, scope in given] == [[(one, "hard")] for _, one, _ in given]  # type: ignore[index]
    for scope, _, _ in given:
        fine(home.tollway("budgets", "remove", *scope.split()))
    assert home.config.read_text() == before


def test_set_replaces_the_one_of_its_period_and_keeps_comments(home: Home) -> None:
    """`--at` is kept where it is not said; a new period stands behind the others."""
    fine(home.tollway("budgets", "set", "team", "ml", "6/day"))
    fine(home.tollway("budgets", "set", "team", "ml", "25/week"))
    fine(home.tollway("budgets", "set", "team", "ml", "100/month", "--at", "clamp"))
    assert budgets(home)["team", "ml"] == [
        ("6/day", "hard"), ("25/week", "warn"), ("100/month", "clamp")]  # fmt: skip
    text = home.config.read_text()
    assert '"6/day",  # small' in text
    assert "# tells" in text
    fine(home.tollway("budgets", "remove", "team", "ml", "week"))
    assert budgets(home)["team", "ml"] == [("6/day", "hard"), ("100/month", "clamp")]
    assert "# small" in home.config.read_text()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["set", "team", "nobody", "5/day"], 1, "There is no team `nobody`"),
        (["set", "teem", "ml", "5/day"], 2, "is no scope"),
        (["set", "team", "ml", "5"], 2, "is no budget"),
        (["set", "team", "ml", "5/fortnight"], 2, "is no budget"),
        (["set", "team", "ml", "5", "day"], 2, "Write it as one word: `5/day`"),
        (["set", "box", "5", "/24h"], 2, "Write it as one word: `5/24h`"),
        (["set", "team", "42", "5"], 1, "There is no team `42`"),
        (["set", "team", "4/day"], 2, "is no scope"),
        (["set", "5/day"], 2, "Which budget is not said"),
        (["set", "team", "ml", "5/day", "--at", "soft"], 2, "is no mode"),
        (["remove", "team", "ml", "month"], 1, "There is no budget of team ml month"),
        (["remove", "user", "ann"], 1, "There is no budget of user ann"),
        (["raise", "user", "ann", "+5", "--until", "tomorrow"], 1, "to raise"),
        (["raise", "team", "ml", "--until", "tomorrow"], 2, "By how much"),
        (["set", "box", "-5/day"], 2, 'a sum is never negative; write "5/day"'),
        (["set", "box", "-$5/day"], 2, "is no budget: expected dollars"),
        (["raise", "team", "ml", "-5", "--until", "tomorrow"], 2, "A raise is never negative"),
        (["raise", "team", "ml", "+5"], 2, "Until when"),
        (["raise", "team", "ml", "+5", "--until", "yesterday"], 2, "is no moment"),
        (["raise", "team", "ml", "+5", "--until", "2020-01-01"], 2, "is over already"),
        (["raise", "team", "ml", "--end"], 1, "Nothing raises team ml"),
        (["list", "team", "nobody"], 1, "There is no team `nobody`"),
        (["list", "--json", "--csv"], 2, "cannot both be"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_the_file_stays(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    said: str,
) -> None:
    """One line of what, and one of what to do."""
    config = tmp_path / "gateway.toml"
    config.write_text(FILE)
    monkeypatch.setenv("TOLLWAY_CONFIG", str(config))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        get_command(app).main(["budgets", *words])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (code, "")
    assert said in err
    assert config.read_text() == FILE


def test_a_raise_holds_for_its_time_adds_up_and_can_be_ended(home: Home) -> None:
    """It stands in the file with who and until when; those that are over go with the next."""
    old = '\n[[raises]]\nscope = "team ml"\nusd = 99\nuntil = 2020-01-01T00:00:00Z\n'
    home.write(FILE + old)
    fine(home.tollway("budgets", "raise", "team", "ml", "+10", "--until", "2h"))
    fine(home.tollway("budgets", "raise", "team", "ml", "day", "+0.5", "--until", "tomorrow"))
    config = load(home.config)
    assert [(one.text, one.nanousd) for one in config.raises] == [
        ("team ml", 10 * USD), ("team ml day", USD // 2)]  # fmt: skip
    assert abs(config.raises[0].until - time.time() - 7200) < 60
    assert datetime.fromtimestamp(config.raises[1].until, UTC).hour == 0
    assert all(one.by for one in config.raises)
    found = json.loads(fine(home.tollway("budgets", "list", "--json")))
    day, week = found["budgets"]
    assert (day["limit_usd"], day["raised_nanousd"]) == ("15.5", 10 * USD + USD // 2)
    assert (week["limit_usd"], week["base_nanousd"]) == ("30", 20 * USD)
    assert [one["scope"] for one in found["raises"]] == ["team ml", "team ml day"]
    fine(home.tollway("budgets", "raise", "team", "ml", "--end"))
    assert home.config.read_text() == FILE


def test_a_team_s_budgets_are_a_table_in_80_columns(home: Home) -> None:
    """What all of them have nothing to say of takes no room there; a pipe has every column."""
    home.write(
        FILE.replace(', at = "warn"', "").replace('team = "ml"', 'team = "ml"\nbudget = ["5/day"]')
        + '[projects.chatbot]\nteam = "ml"\nbudget = ["500/total"]\n'
    )
    seen = home.on_terminal("budgets", "list", columns=80, NO_COLOR="1").stdout.splitlines()
    assert seen[0].rstrip().endswith("used  turns over")
    assert [line for line in seen if line.startswith("project") and "500/total" in line]
    assert fine(home.tollway("budgets", "list")).splitlines()[0].endswith("forecast  notes")
    done = home.tollway("budgets", "raise", "team", "ml", "+10", "--until", "2h")
    assert "Raised team ml by $10.00 until " in done.stderr
    seen = home.on_terminal("budgets", "list", columns=80, NO_COLOR="1").stdout.splitlines()
    assert seen[0].rstrip().endswith("notes")
    ended = home.tollway("budgets", "raise", "team", "ml", "--end")
    assert "Ended 1 raise of team ml" in ended.stderr


def test_raises_may_be_written_in_one_line(home: Home) -> None:
    """People write arrays of inline tables; the command adds one of the same kind."""
    line = 'raises = [{ scope = "box", usd = 1, until = 2099-01-01T00:00:00Z }]\n'
    home.write(line + FILE)
    fine(home.tollway("budgets", "raise", "team", "ml", "+1", "--until", "month"))
    assert [one.text for one in load(home.config).raises] == ["box", "team ml"]


async def _spent(path: Path, usd: int, hours_ago: int) -> None:
    ledger = Ledger(path)
    ledger.start()
    at_ms = time.time_ns() // 1_000_000 - hours_ago * HOUR_MS
    call = opened(1, at_ms, who=Who(user="ann", team="ml"))
    tried = attempt(call)
    await ledger.admit(call, tried)
    await ledger.settle(closed(call), ended(tried, usd * USD))
    await ledger.close()


def test_without_a_daemon_the_ledger_tells_what_is_spent(home: Home) -> None:
    """In every form alike; nothing is held, and there is no forecast from an hour."""
    fine(home.tollway("budgets", "set", "team", "ml", "40/48h"))
    asyncio.run(_spent(home.data / "ledger.db", 6, 1))
    found = json.loads(fine(home.tollway("budgets", "list", "team", "ml", "--json")))
    assert found["live"] is False
    by = {one["budget"]: one for one in found["budgets"]}
    rolling = by["40/48h"]
    assert (rolling["settled_usd"], rolling["held_usd"], rolling["left_usd"]) == ("6", "0", "34")
    assert rolling["forecast"]["at_end_nanousd"] is rolling["forecast"]["runs_out_ms"] is None
    assert rolling["forecast"]["method"].startswith("too little to go by: 0 complete days")
    rows = list(csv.DictReader(io.StringIO(fine(home.tollway("budgets", "list", "--csv")))))
    assert [row["budget"] for row in rows] == ["5/day", "20/week", "40/48h"]
    assert rows[2]["settled_usd"] == "6"
    table = fine(home.tollway("budgets", "list"))
    (line,) = [line for line in table.splitlines() if "40/48h" in line]
    assert "$34.00" in line
    assert "rolls on" in line


def test_a_forecast_takes_as_many_days_here_as_in_the_spend_report(home: Home) -> None:
    """Seven complete days, in every form; a budget for an hour needs an hour."""
    fine(home.tollway("budgets", "set", "team", "ml", "40/hour"))
    asyncio.run(_spent(home.data / "ledger.db", 6, 7 * 24))
    few = "too little to go by: 6 complete days, and 7 are needed"
    found = json.loads(fine(home.tollway("budgets", "list", "--json")))["budgets"]
    methods = {one["budget"]: one["forecast"]["method"] for one in found}
    assert methods == {"5/day": few, "20/week": few, "40/hour": "the pace of the last 1h"}
    assert all(one["forecast"]["at_end_nanousd"] is None for one in found[:2])
    told = home.tollway("budgets", "list")
    assert f"no forecast of 5/day, 20/week: {few}" in told.stderr
    spent = json.loads(fine(home.tollway("spend", "--since", "month", "--json")))
    assert spent["forecast"]["method"] == few
    (home.data / "ledger.db").unlink()
    asyncio.run(_spent(home.data / "ledger.db", 6, 8 * 24))
    found = json.loads(fine(home.tollway("budgets", "list", "--json")))["budgets"]
    assert [one["forecast"]["method"] for one in found[:2]] == [
        "the pace of the last 24h",
        "the pace of the last 7d",
    ]


def test_budgets_turn_over_in_the_time_of_the_gateway(home: Home) -> None:
    """A refusal says "00:00 JST": a list in the time of some other machine would contradict it."""
    text = home.config.read_text()
    home.write(text.replace("[server]\n", '[server]\ntimezone = "Asia/Tokyo"\n', 1))
    table = fine(home.tollway("budgets", "list"))
    (line,) = [line for line in table.splitlines() if "5/day" in line]
    assert " 00:00 JST " in line


def test_a_running_daemon_takes_a_change_up_and_is_asked(home: Home) -> None:
    """Set, raise and list with a daemon: it has the new limits when the command returns."""
    fine(home.tollway("up"))
    done = home.tollway("budgets", "raise", "team", "ml", "+10", "--until", "2h", "--json")
    said = json.loads(fine(done))
    assert said["live"] is True
    assert said["problem"] == ""
    assert said["reloaded"]["changed"]
    assert [one["limit_usd"] for one in said["budgets"]] == ["15", "30"]
    fine(home.tollway("budgets", "set", "user", "ann", "3/48h"))
    (line,) = [one for one in fine(home.tollway("status")).splitlines() if "3/48h" in one]
    assert line.endswith("rolls on")
    fine(home.tollway("budgets", "set", "box", "3/day"))
    rows = json.loads(fine(home.tollway("config", "audit", "--json")))
    (box,) = [row for row in rows if row["subject"] == "server.budget"]
    assert (box["what"], box["before"], box["after"]) == (
        "budgets set box 3/day",
        "[]",
        '["3/day"]',
    )
    (more,) = [row for row in rows if row["subject"] == "raises"]
    assert more["what"].startswith("budgets raise team ml +10 until ")
    assert more["who"]
    home.write(home.config.read_text().replace("[providers.up]", "[providers.up]\nslots = 4"))
    fine(home.tollway("reload"))
    shown = fine(home.tollway("config", "audit"))
    assert "budgets set box 3/day" in shown
    assert re.search(r"providers\.up\.slots +- +4$", shown, re.MULTILINE)
    found = json.loads(fine(home.tollway("budgets", "list", "--json")))
    assert found["live"] is True
    assert {one["scope"] for one in found["budgets"]} == {"box", "team", "user"}


def budget(spent: int, limit: int, ends_ms: int, *, rolling: bool = False) -> BudgetState:
    """Return a budget for a forecast."""
    text = "10/24h" if rolling else "10/day"
    return BudgetState(
        id="x", scope="box", name="", budget=text, at="hard", rolling=rolling,
        limit_nanousd=limit, base_nanousd=limit, raised_nanousd=0, settled_nanousd=spent,
        held_nanousd=0, left_nanousd=max(0, limit - spent), starts_ms=0, ends_ms=ends_ms,
    )  # fmt: skip


def test_a_forecast_goes_on_at_the_pace_of_late() -> None:
    """$2 in the last hours of 24, 12 hours to go: $1 more; full only where that passes it."""
    day = 24 * HOUR_MS
    found = forecast(budget(3 * USD, 10 * USD, day), 2 * USD, day, day // 2)
    assert (found.at_end_nanousd, found.runs_out_ms) == (4 * USD, None)
    assert found.method == "the pace of the last 24h"
    soon = forecast(budget(9 * USD, 10 * USD, day), 4 * USD, day, day // 2)
    assert soon.at_end_nanousd == 11 * USD
    assert soon.runs_out_ms == day // 2 + day // 4
    level = forecast(budget(3 * USD, 10 * USD, day, rolling=True), USD, HOUR_MS, 0)
    assert level.at_end_nanousd == 24 * USD
    assert level.runs_out_ms == 7 * HOUR_MS


def test_a_total_that_lasts_for_centuries_has_no_day_on_which_it_is_full() -> None:
    """A cent a week of $10,000 would end in a year that no calendar has."""
    week = 7 * 24 * HOUR_MS
    total = budget(USD, 10_000 * USD, NEVER_MS)
    assert forecast(total, USD // 100, week, 10**12).runs_out_ms is None
    assert forecast(total, 100 * USD, week, 10**12).runs_out_ms is not None


@settings(max_examples=50, deadline=None)
@given(
    spent=st.integers(0, 20 * USD),
    recent=st.integers(0, 20 * USD),
    left_ms=st.integers(0, 24 * HOUR_MS),
)
def test_a_forecast_never_lies_below_what_is_spent(spent: int, recent: int, left_ms: int) -> None:
    """And it says a moment exactly where it passes the limit, never after the period's end."""
    now = 10**12
    found = forecast(budget(spent, 10 * USD, now + left_ms), recent, 24 * HOUR_MS, now)
    assert found.at_end_nanousd is not None
    assert found.at_end_nanousd >= spent
    assert (found.runs_out_ms is not None) == (found.at_end_nanousd > 10 * USD and recent > 0)
    if found.runs_out_ms is not None:
        assert now <= found.runs_out_ms <= now + left_ms


def test_a_scope_without_its_name_is_not_asked_whether_it_is_itself(tmp_path: Path) -> None:
    """`team` is nearest to `team`, which helps nobody."""
    home = Home(tmp_path)
    home.write("[server]\nsingle_user = true\n")
    assert "did you mean" not in home.tollway("budgets", "list", "team").stderr
    assert "did you mean team?" in home.tollway("budgets", "list", "taem").stderr


# --- usage ----------------------------------------------------------------------------------------


async def usage(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `tollway usage` as on a machine that has nothing but the program."""
    home = Home(cwd)
    return await asyncio.to_thread(lambda: home.tollway("usage", *words, fresh=False, **env))


async def test_a_member_sees_its_use_from_any_machine(tmp_path: Path) -> None:
    """With a URL and a key alone: there is no gateway.toml where it runs."""
    limit = "limits = { rpm = 77 }"
    async with gateway([[reads(), says(whole())]], budget="0.5/day", server=limit) as gate:
        assert (await gate.ask()).status == 200
        url = f"http://127.0.0.1:{gate.daemon.port}"
        done = await usage("--url", f"{url}/v1", cwd=tmp_path, TOLLWAY_KEY=KEY)
        out = fine(done)
        assert "up/m" in out
        assert "user ann" in out
        assert "0.5/day" in out
        assert "rpm" in out
        assert " 77 " in out
        assert KEY not in out + done.stderr
        as_json = await usage("--json", cwd=tmp_path, TOLLWAY_KEY=KEY, TOLLWAY_URL=url)
        said: dict[str, Any] = json.loads(fine(as_json))
        assert said["usage"]["today"]["cost_usd"] == plain_usd(7 * INPUT + 3 * OUTPUT)
        assert said["budgets"][0]["budget"] == "0.5/day"
        without = await usage("--url", url, cwd=tmp_path)
        assert without.returncode == 1
        assert "hint: `--key` or $TOLLWAY_KEY says whose use it is" in without.stderr
        refused = await usage("--url", url, "--key", "tw-" + "x" * 30, cwd=tmp_path)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "unknown, revoked or expired" in refused.stderr
        assert "xxxx" not in refused.stderr


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("http://127.0.0.1:9", 3, "No gateway answers at `http://127.0.0.1:9`"),
        ("ftp://x", 2, "is no URL"),
        ("http://u:p@x/", 2, "is no URL"),
    ],
)
async def test_a_url_that_cannot_be_is_said(tmp_path: Path, url: str, code: int, said: str) -> None:
    """Unreachable is 3, as for every command that needs a daemon."""
    done = await usage("--url", url, cwd=tmp_path, TOLLWAY_KEY=KEY)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "u:p" not in done.stderr


async def test_another_server_is_told_from_a_gateway(tmp_path: Path) -> None:
    """A page of HTML is no answer, nor is a 404, and a redirect does not get the key."""
    page = [reads(), says(answer(b"<html>", "Content-Type: text/html"))]
    moved = [reads(), says(answer(b"", "Location: http://127.0.0.1:9/", status="302 Found"))]
    gone = [reads(), says(answer(b"", status="404 Not Found"))]
    async with upstream(page, moved, gone) as other:
        for _ in range(3):
            url = f"http://127.0.0.1:{other.port}"
            done = await usage("--url", url, cwd=tmp_path, TOLLWAY_KEY=KEY)
            assert done.returncode == 1
            assert "is no Tollway" in done.stderr


async def test_without_a_gateway_here_the_url_is_asked_for(tmp_path: Path) -> None:
    """The hint says what a member on another machine has to give."""
    done = await usage(cwd=tmp_path, TOLLWAY_KEY=KEY)
    assert done.returncode == 2
    assert "TOLLWAY_URL" in done.stderr
    assert sys.executable not in done.stderr
