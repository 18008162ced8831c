"""`ledger export`, `backup` and `vacuum`, as a person types them."""

import csv
import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from ledger_rows import attempt, closed, ended, opened
from program import Home

from tollway.cli import show
from tollway.daemon.ledger.verify import verify
from tollway.daemon.ledger.writer import Ledger


@pytest.fixture
async def home(tmp_path: Path) -> Home:
    """Return a home with a closed ledger of three calls."""
    made = Home(tmp_path)
    made.write("[server]\nsingle_user = true\n")
    made.data.mkdir(parents=True, mode=0o700)
    ledger = Ledger(made.data / "ledger.db")
    ledger.start()
    for number in (1, 2, 3):
        call = opened(number, client="a, b")
        await ledger.admit(call, attempt(call))
        await ledger.settle(closed(call), ended(attempt(call), 300))
    await ledger.close()
    return made


def test_calls_go_to_a_pipe_as_csv(home: Home) -> None:
    """Stdout is the data, to the last byte; how many rows is talk."""
    done = home.tollway("ledger", "export")
    assert (done.returncode, done.stderr) == (0, "3 rows\n")
    found = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["id"] for row in found] == [opened(number).id for number in (1, 2, 3)]
    assert {(row["client"], row["cost_usd"], row["stream"]) for row in found} == {
        ("a, b", "0.0000003", "True")
    }
    assert home.tollway("ledger", "export", "--since", "1h").stderr == "0 rows\n"


async def test_no_text_of_a_caller_s_is_a_formula(home: Home) -> None:
    """A spreadsheet would compute it, on the machine of whoever opens the file."""
    ledger = Ledger(home.data / "ledger.db")
    ledger.start()
    call = opened(4, requested='=HYPERLINK("http://x.example")', client="-1+1", session="@a")
    await ledger.admit(call, attempt(call, model="+x"))
    await ledger.settle(closed(call), ended(attempt(call), 300))
    await ledger.close()
    done = home.tollway("ledger", "export")
    row = list(csv.DictReader(io.StringIO(done.stdout)))[3]
    found = [row[name] for name in ("requested", "client", "session", "model")]
    assert found == ['\'=HYPERLINK("http://x.example")', "'-1+1", "'@a", "'+x"]
    assert row["cost_usd"] == "0.0000003"
    words = ("spend", "--since", "2026-01-01", "--by", "model", "--format", "csv")
    sums = list(csv.DictReader(io.StringIO(home.tollway(*words).stdout)))
    assert {one["model"] for one in sums} == {"gpt-4o-mini", "'+x"}
    lines = home.tollway("ledger", "export", "--format", "jsonl").stdout.splitlines()
    assert json.loads(lines[3])["model"] == "+x"


def test_a_negative_amount_stays_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    """It is no text of anybody's."""
    show.emit_csv(["a"], [["-0.5"], [-1], ["-"], [""], [None]])
    assert capsys.readouterr().out.splitlines() == ["a", "-0.5", "-1", "'-", '""', '""']


def test_calls_that_are_deleted_are_missed_aloud(home: Home) -> None:
    """A spreadsheet that lacks a month must not look like a month without calls."""
    with closing(sqlite3.connect(home.data / "ledger.db", isolation_level=None)) as db:
        db.execute("UPDATE meta SET value = 1780000000000 WHERE name = 'pruned_before_ms'")
    assert "are deleted; `--what spend` has their sums" in home.tollway("ledger", "export").stderr
    for words in (("--since", "2026-06-01"), ("--what", "spend")):
        assert "deleted" not in home.tollway("ledger", "export", *words).stderr


def test_nothing_is_said_to_be_deleted_where_nothing_was(home: Home) -> None:
    """East of Greenwich the first day there is begins before the epoch."""
    assert home.tollway("ledger", "export", "--tz", "Asia/Tokyo").stderr == "3 rows\n"


def test_attempts_and_sums_go_to_a_file_as_json_lines(home: Home) -> None:
    """The file gets its name when it is whole, and is its owner's alone."""
    for what, count in (("attempts", 3), ("spend", 1)):
        out = home.path / f"{what}.jsonl"
        words = ("export", "--what", what, "--format", "jsonl", "--out", str(out))
        done = home.tollway("ledger", *words)
        assert (done.returncode, done.stdout) == (0, "")
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        assert len(lines) == count
        assert {line["provider"] for line in lines} == {"openai"}
        assert out.stat().st_mode & 0o777 == 0o600
    assert not list(home.path.glob("*.part"))


def test_prompts_stand_with_calls_alone(home: Home) -> None:
    """What cannot be is a mistake of usage."""
    assert home.tollway("ledger", "export", "--bodies").returncode == 2
    done = home.tollway("ledger", "export", "--bodies", "--json")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 3


def test_an_export_that_cannot_be_written_says_so(home: Home) -> None:
    """One line of what, one of what to do, no traceback."""
    done = home.tollway("ledger", "export", "--out", str(home.path / "no" / "such.csv"))
    assert done.returncode == 1
    assert "cannot be written: no such file" in done.stderr


def test_a_backup_is_a_ledger(home: Home) -> None:
    """Made, checked, named; a second one does not take its place unasked."""
    to = home.path / "copy.db"
    done = home.tollway("ledger", "backup", str(to), "--json")
    data = json.loads(done.stdout)
    assert (done.returncode, data["path"], data["differences"]) == (0, str(to), [])
    assert data["size"] == to.stat().st_size
    assert verify(to) == []
    again = home.tollway("ledger", "backup", str(to))
    assert again.returncode == 1
    assert "There is a file" in again.stderr
    assert home.tollway("ledger", "backup", str(to), "--force").returncode == 0


def test_vacuum_tells_both_sizes(home: Home) -> None:
    """And the ledger is a ledger afterwards."""
    data = json.loads(home.tollway("ledger", "vacuum", "--json").stdout)
    assert data["after"] == (home.data / "ledger.db").stat().st_size
    assert data["before"] >= data["after"]
    assert verify(home.data / "ledger.db") == []
