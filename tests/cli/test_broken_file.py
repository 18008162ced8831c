"""A gateway.toml with a mistake in it closes no ledger: what was spent can be read all the same."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from ledger_rows import attempt, closed, ended, opened
from program import Home

from tollway.daemon.config import history
from tollway.daemon.config.paths import state_paths
from tollway.daemon.ledger.writer import Ledger

LEDGER = '[ledger]\npath = "books/all.db"\n'
SERVER = '[server]\nsingle_user = true\ntimezone = "Asia/Tokyo"\n'
ALL = ("--since", "2026-01-01")


@pytest.fixture
async def home(tmp_path: Path) -> Home:
    """Return a home whose ledger, not in the usual place, has a call."""
    made = Home(tmp_path)
    made.write(SERVER + LEDGER)
    (made.data / "books").mkdir(parents=True, mode=0o700)
    ledger = Ledger(made.data / "books/all.db")
    ledger.start()
    call = opened(1)
    await ledger.admit(call, attempt(call))
    await ledger.settle(closed(call), ended(attempt(call), 300))
    await ledger.close()
    return made


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (SERVER + LEDGER + "[routes.a]\nto = [\n", 7),
        (SERVER + "[routes.a]\nto = = 1\n" + LEDGER, 5),  # in front of it
        (SERVER + LEDGER + "[teams.ml]\nbudgett = []\n", 7),  # good TOML
        (SERVER + LEDGER + 'kepp = "90d"\n', 6),
    ],
)
def test_what_reads_the_ledger_works(home: Home, text: str, line: int) -> None:
    """Data alone on stdout, exit code 0; the mistake is a warning with its line."""
    home.write(text)
    for words in (
        ("spend", "--json", *ALL),
        ("logs", "--json"),
        ("ledger", "export", "--format", "jsonl", *ALL),
        ("ledger", "verify", "--json"),
        ("ledger", "backup", str(home.path / f"{line}.db"), "--force", "--json"),
    ):
        done = home.tollway(*words)
        assert done.returncode == 0, done.stderr
        assert f"gateway.toml:{line}: " in done.stderr
        assert "warning: Reading `" in done.stderr
        said = json.loads(done.stdout)
        if words[0] == "spend":
            assert (said["total"]["calls"], said["timezone"]) == (1, "Asia/Tokyo")
        elif words[0] == "logs":
            assert [call["id"] for call in said] == [opened(1).id]


def test_the_version_that_was_in_force_says_what_the_report_shows(home: Home) -> None:
    """Its budgets stand beside the spending, as they did before the mistake."""
    done = home.tollway("budgets", "set", "box", "5/month")
    assert done.returncode == 0, done.stderr
    home.write(home.config.read_text() + "[routes.a\n")
    done = home.tollway("spend")
    assert "with version 2 of `tollway config history` in its place" in done.stderr
    assert "of $5.00 used" in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        SERVER + '[ledger]\npath = "books/all.db\n',
        'ledger.path = "books/all.db"\nledger = 2\n' + SERVER,
        SERVER + "[routes.a]\nto = = 1\n",  # the usual place, where there is none
    ],
)
def test_no_other_ledger_is_read_than_the_one_that_is_meant(home: Home, text: str) -> None:
    """Sums of nothing would be taken for the truth: the mistake is an error where it may be it."""
    home.write(text)
    for words in (("spend", *ALL), ("logs",)):
        done = home.tollway(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert "error: " in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        '[ledger]\npaht = "books/all.db"\n',
        '[ledger]\npath = ["books/all.db"]\n',
        '[ledger]\npath = ""\n',
        '[ledger]\npath = "books"\n',  # the folder
        '[leger]\npath = "books/all.db"\n',
        '[ledger]\nfile = "books/all.db"\n',
    ],
)
def test_the_usual_ledger_is_not_read_where_another_may_be_meant(home: Home, text: str) -> None:
    """A word in it that is wrong may be the one that says which: an older ledger has other sums."""
    shutil.copy(home.data / "books/all.db", home.data / "ledger.db")
    home.write(SERVER + text)
    for words in (("spend", *ALL), ("logs",)):
        done = home.tollway(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert "gateway.toml:" in done.stderr
    home.write(SERVER + '[ledger]\nkepp = "90d"\n[leger]\n')  # of neither is that to be feared
    assert home.tollway("spend", *ALL).returncode == 0


def test_a_version_that_is_wrong_by_now_is_told_from_the_file(home: Home) -> None:
    """A later release may refuse it; its lines are not those of the file as it is."""
    folder = state_paths(home.data / "books/all.db").history
    said = "\n\n[teams.c]\nold = 1\n"
    number = history.keep(folder, home.config, SERVER + LEDGER + said, who="ann", what="once")
    done = home.tollway("config", "rollback", str(number), "--yes")
    first, second, hint = done.stderr.splitlines()
    assert done.returncode == 2
    assert first == f"error: Version {number}, not the file as it is now, is wrong by now:"
    assert "gateway.toml:9: teams.c.old: unknown key" in second
    assert hint == f"hint: `tollway config diff {number}` shows what it says otherwise"


def test_a_file_that_is_gone_can_be_put_back(tmp_path: Path) -> None:
    """Its versions are there all the same; every command says where the last one is."""
    home = Home(tmp_path)
    home.write(SERVER)
    nothing = home.tollway("spend", "--config", "none.toml")
    assert "cp " not in nothing.stderr
    assert home.tollway("budgets", "set", "box", "5/month").returncode == 0
    text = home.config.read_text()
    home.config.unlink()
    for words in (("spend",), ("status",), ("config", "history"), ("config", "rollback", "1")):
        done = home.tollway(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert "No gateway.toml here" in done.stderr
        command, _, said = done.stderr.partition("hint: `")[2].partition("` brings back ")
        assert said == "version 2 of it, the last that was in force\n"
    subprocess.run(shlex.split(command), check=True)
    assert home.config.read_text() == text
    assert home.config.stat().st_mode & 0o777 == 0o600
    assert home.tollway("spend").returncode == 0
