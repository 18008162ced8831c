"""`ledger verify`: what is right, what is not, and what can be mended."""

import json
import sqlite3
from contextlib import closing as closes
from pathlib import Path

import pytest
from ledger_rows import attempt, closed, ended, opened
from program import Home

from tollway.daemon.ledger.writer import Ledger


@pytest.fixture
async def home(tmp_path: Path) -> Home:
    """Return a home with a closed ledger of two calls."""
    made = Home(tmp_path)
    made.write('[server]\nlisten = "127.0.0.1:0"\nsingle_user = true\nwatch = false\n')
    made.data.mkdir(parents=True, mode=0o700)
    ledger = Ledger(made.data / "ledger.db")
    ledger.start()
    await ledger.ready()
    for number in (1, 2):
        call = opened(number)
        await ledger.admit(call, attempt(call))
        await ledger.settle(closed(call), ended(attempt(call)))
    await ledger.close()
    return made


def spoil(home: Home, statement: str) -> None:
    """Change the ledger behind its back."""
    with closes(sqlite3.connect(home.data / "ledger.db", isolation_level=None)) as db:
        db.execute(statement)


def test_a_sound_ledger_exits_with_zero(home: Home) -> None:
    """The good news is talk; programs get it as JSON."""
    done = home.tollway("ledger", "verify")
    assert (done.returncode, done.stdout) == (0, "")
    assert "agrees with itself" in done.stderr
    data = json.loads(home.tollway("ledger", "verify", "--json").stdout)
    assert (data["ok"], data["differences"]) == (True, [])


def test_a_difference_is_listed_and_mended(home: Home) -> None:
    """Exit code 1 until it is right again; a repair says how much it did."""
    spoil(home, "UPDATE spend_quarter SET cost_nanousd = cost_nanousd + 1")
    done = home.tollway("ledger", "verify")
    assert done.returncode == 1
    assert done.stdout.startswith("roll-up  quarter ")
    assert "cost_nanousd 601, not 600" in done.stdout
    assert "--repair" in done.stderr
    assert home.tollway("ledger", "verify", "--json").returncode == 1
    data = json.loads(home.tollway("ledger", "verify", "--repair", "--json").stdout)
    assert (data["ok"], data["repaired"]) == (True, 1)
    assert home.tollway("ledger", "verify").returncode == 0


def test_what_cannot_be_mended_stays_a_no(home: Home) -> None:
    """A cost without a price is for a person to explain."""
    spoil(home, "UPDATE attempts SET price = NULL WHERE number = 1")
    done = home.tollway("ledger", "verify", "--repair")
    assert done.returncode == 1
    assert "has a cost, but no price" in done.stdout


@pytest.mark.whole
def test_with_a_daemon_it_only_looks(home: Home) -> None:
    """A running daemon writes: nobody else does."""
    assert home.tollway("up").returncode == 0
    try:
        assert home.tollway("ledger", "verify").returncode == 0
        spoil(home, "UPDATE spend_quarter SET calls = calls + 1")
        done = home.tollway("ledger", "verify", "--repair")
        assert done.returncode == 1
        assert "nothing is repaired; `tollway down` stops" in done.stderr
        assert home.tollway("ledger", "verify").returncode == 1
    finally:
        home.tollway("down", "--now")


def test_no_ledger_is_said(tmp_path: Path) -> None:
    """Nothing is made by looking."""
    home = Home(tmp_path)
    home.write("[server]\nsingle_user = true\n")
    done = home.tollway("ledger", "verify")
    assert done.returncode == 0
    assert "there is no ledger" in done.stderr
    assert not home.data.exists()


def test_a_damaged_file_is_named(home: Home) -> None:
    """The file's own soundness comes first."""
    path = home.data / "ledger.db"
    data = bytearray(path.read_bytes())
    data[4096 : len(data) // 2] = bytes(len(data) // 2 - 4096)
    path.write_bytes(data)
    done = home.tollway("ledger", "verify", "--repair")
    assert done.returncode == 1
    assert done.stdout or "damaged" in done.stderr
