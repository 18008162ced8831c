"""Whose file the ledger opens, and what it refuses to touch."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from broken_disks import small_disk
from ledger_rows import attempt, closed, ended, opened

from tollway.daemon.config.load import parse
from tollway.daemon.errors import LedgerHeld, LedgerInvalid, LedgerUnavailable
from tollway.daemon.handover import check
from tollway.daemon.ledger import calls
from tollway.daemon.ledger.lock import holder
from tollway.daemon.ledger.owning import owned
from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.schema import TOKENS, VERSION, migrate
from tollway.daemon.ledger.verify import verify
from tollway.daemon.ledger.writer import Ledger
from tollway.providers.canon import Usage


def test_tokens_stand_in_the_order_of_usage() -> None:
    """Rows are written by position: a field added in the middle would be billed as another."""
    names = tuple(name.removesuffix("_tokens") for name in TOKENS)
    assert (*names, "estimated") == Usage.__struct_fields__


async def test_a_new_ledger_makes_its_folder(tmp_path: Path) -> None:
    """The first start of a fresh machine has nothing but a path."""
    ledger = Ledger(tmp_path / "share" / "tollway" / "ledger.db")
    ledger.start()
    assert ledger.problem is None
    await ledger.close()
    assert verify(ledger.path) == []
    assert ledger.path.parent.stat().st_mode & 0o777 == 0o700


async def test_an_older_ledger_is_backed_up_and_upgraded(tmp_path: Path) -> None:
    """An upgrade that goes wrong must not cost the rows of years."""
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        migrate(db, path, to=1)
        db.execute("INSERT INTO words (word) VALUES ('kept')")
    with pytest.raises(LedgerInvalid, match="older version"), reading(path):
        pass
    ledger = Ledger(path)
    ledger.start()
    await ledger.close()
    with reading(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert db.execute("SELECT word FROM words").fetchall() == [("kept",)]
    backup = tmp_path / "ledger.db.v1.bak"
    assert backup.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(backup)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT word FROM words").fetchall() == [("kept",)]


async def test_a_ledger_of_version_2_keeps_its_rows_and_goes_on(tmp_path: Path) -> None:
    """What was added has no value in the rows of before, and they are told as ever."""
    path = tmp_path / "ledger.db"
    call = opened(1)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        migrate(db, path, to=2)
        db.execute(
            "INSERT INTO accounts VALUES (1, 'laptop', 'anna', 'ml', 'chatbot', '', 'openai', 'm')"
        )
        db.execute("INSERT INTO words VALUES (1, 'openai_chat'), (2, 'chat'), (3, 'answered')")
        db.execute(
            "INSERT INTO calls (seq, id, state, account, admitted_ms, total_ms, dialect, endpoint,"
            " requested, ending, attempts, hold_nanousd, cost_nanousd)"
            " VALUES (1, ?, 0, 1, ?, 900, 1, 2, 2, 3, 1, 1000, 0)",
            (call.id, call.admitted_ms),
        )
        db.execute(
            "INSERT INTO attempts (call, number, account, started_ms, ending, hold_nanousd)"
            " VALUES (1, 1, 1, ?, 3, 1000)",
            (call.admitted_ms,),
        )
        db.execute(
            "INSERT INTO spend_quarter (quarter_ms, account, calls, attempts) VALUES (?, 1, 1, 1)",
            (call.admitted_ms,),
        )
    ledger = Ledger(path)
    ledger.start()
    new = opened(2, session="s1", queue_ms=7, budget_tags=("run=42",))
    await ledger.admit(new, attempt(new))
    await ledger.settle(closed(new), ended(attempt(new), gpu_ms=12))
    await ledger.close()
    assert (tmp_path / "ledger.db.v2.bak").exists()
    assert verify(path) == []
    assert calls.one(path, call.id).call.state == "settled"
    with reading(path) as db:
        assert db.execute(
            "SELECT seq, queue_ms, session, dropped, source, budget_tags FROM calls_readable"
        ).fetchall() == [(1, None, "", "", 0, ""), (2, 7, "s1", "", 0, '["run=42"]')]
        assert db.execute("SELECT gpu_ms FROM attempts_readable").fetchall() == [(None,), (12,)]


async def test_an_older_ledger_waits_for_room_for_its_backup(tmp_path: Path) -> None:
    """The disk is not filled by trying, the file stays as it is, and the message has the figures.

    Once there is room it is upgraded by itself.
    """
    with small_disk(tmp_path / "disk", "2m") as disk:
        path = disk / "ledger.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = wal")
            migrate(db, path, to=5)
        filler = disk / "filler"
        filler.write_bytes(bytes(2**20 * 2 - 2 * path.stat().st_size + 8192))
        before = path.read_bytes()
        ledger = Ledger(path)
        ledger.start()
        assert ledger.problem is not None
        assert "for its backup 0.1 MiB are needed" in ledger.problem
        assert "free some space" in ledger.problem
        assert path.read_bytes() == before
        assert shutil.disk_usage(disk).free > 0
        # A restart looks for the room before the daemon that runs makes way.
        config = parse(
            f'[server]\nsingle_user = true\n[ledger]\npath = "{path}"\n', path=disk / "g"
        )
        with pytest.raises(LedgerUnavailable, match="for its backup"):
            check(config)
        filler.unlink()
        check(config)
        await ledger.ready()
        await ledger.close()
        assert (disk / "ledger.db.v5.bak").exists()
        assert verify(path) == []


def test_an_upgrade_is_all_or_nothing(tmp_path: Path) -> None:
    """A file with half of the steps would be nobody's."""
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        migrate(db, path, to=1)
        db.execute("CREATE VIEW spend_readable AS SELECT 1")  # in the way of the second step
        with pytest.raises(sqlite3.OperationalError):
            migrate(db, path)
        views = db.execute("SELECT name FROM sqlite_master WHERE type = 'view'").fetchall()
        assert views == [("spend_readable",)]
        assert db.execute("PRAGMA user_version").fetchone() == (1,)


def test_a_newer_ledger_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Writing rows that the newer program understands otherwise would falsify it."""
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        migrate(db, path)
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(LedgerInvalid, match="newer Tollway"):
        Ledger(path).start()
    with pytest.raises(LedgerInvalid, match="newer Tollway"), reading(path):
        pass
    assert path.read_bytes() == before
    assert holder(path) is None


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A wrong path in gateway.toml must not put our tables into somebody's file."""
    path = tmp_path / "photos.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE photos (id)")
    before = path.read_bytes()
    with pytest.raises(LedgerInvalid, match="not a Tollway ledger"):
        Ledger(path).start()
    with pytest.raises(LedgerInvalid, match="not a Tollway ledger"):
        verify(path)
    assert path.read_bytes() == before


async def test_a_ledger_has_one_daemon(tmp_path: Path) -> None:
    """Two writers would each believe their own counters; the error names the first."""
    path = tmp_path / "ledger.db"
    (tmp_path / "other-name.db").symlink_to(path)
    first = Ledger(path)
    first.start()
    for name in ("ledger.db", "other-name.db"):
        with pytest.raises(LedgerHeld, match=f"process {os.getpid()}"):
            Ledger(tmp_path / name).start()
    found = holder(path)
    assert found is not None
    assert found.pid == os.getpid()
    await first.close()
    assert holder(path) is None
    second = Ledger(path)
    second.start()
    await second.close()


async def test_a_ledger_with_a_second_name_is_refused(tmp_path: Path) -> None:
    """Lock and log are named after the file's name: by another one a second daemon found neither.

    The daemon that runs already goes on: nobody can come beside it.
    """
    path, other = tmp_path / "ledger.db", tmp_path / "other.db"
    first = Ledger(path)
    first.start()
    other.hardlink_to(path)
    with pytest.raises(LedgerInvalid, match="hard link"):
        Ledger(other).start()
    call = opened(1)
    await first.admit(call, attempt(call))
    await first.settle(closed(call), ended(attempt(call)))
    await first.close()
    with pytest.raises(LedgerInvalid, match="hard link"):
        Ledger(path).start()
    with pytest.raises(LedgerInvalid, match="hard link"), owned(other):
        pass
    other.unlink()
    again = Ledger(path)
    again.start()
    await again.close()
    assert verify(path) == []


async def test_a_ledger_in_a_folder_with_odd_characters_opens(tmp_path: Path) -> None:
    """Paths are people's: `?`, `#` and `%` mean something in an SQLite URI."""
    ledger = Ledger(tmp_path / "a?b #1 100%41 ü" / "ledger.db")
    ledger.start()
    call = opened(1)
    await ledger.admit(call, attempt(call))
    await ledger.settle(closed(call), ended(attempt(call)))
    assert calls.one(ledger.path, call.id).call.state == "settled"
    await ledger.close()


def test_a_ledger_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    """A report before the first start: no traceback, and no empty file left behind."""
    with pytest.raises(LedgerUnavailable, match="no ledger"):
        calls.recent(tmp_path / "ledger.db", limit=1)
    assert list(tmp_path.iterdir()) == []


async def test_a_closed_ledger_leaves_one_file(tmp_path: Path) -> None:
    """The log is checked in: the file alone can be copied away."""
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.start()
    call = opened(1)
    await ledger.admit(call, attempt(call))
    await ledger.settle(closed(call), ended(attempt(call)))
    await ledger.close()
    await ledger.close()  # a second one finds nothing to do
    with pytest.raises(LedgerUnavailable, match="it is closed"):
        await ledger.admit(call, attempt(call))
    copy = tmp_path / "copy.db"
    shutil.copy(ledger.path, copy)
    assert sorted(os.listdir(tmp_path)) == ["copy.db", "ledger.db", "ledger.db.lock"]
    assert calls.one(copy, call.id).call.cost_nanousd == 300


def test_opening_a_ledger_that_is_up_to_date_does_not_import_sqlite_utils(tmp_path: Path) -> None:
    """It costs 0.16 s, and the daemon is to be ready within one."""
    code = (
        "import asyncio, sys; from pathlib import Path;"
        "from tollway.daemon.ledger.writer import Ledger\n"
        "async def main():\n"
        f"    ledger = Ledger(Path({str(tmp_path / 'ledger.db')!r}))\n"
        "    ledger.start()\n"
        "    await ledger.close()\n"
        "asyncio.run(main()); print('sqlite_utils' in sys.modules)"
    )
    told = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
        for _ in range(2)
    ]
    assert told == [b"True\n", b"False\n"]
