"""The write-ahead log: it stays short, and nothing is checked in at the wrong moment."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tollway.daemon.ledger.rows import SpentQuery
from tollway.daemon.ledger.wal import Checkpoints, Turns

BOX = [SpentQuery("box", "", 0)]
WITHIN_S = 30.0  # generous: what is waited for takes a second or two


def test_checkpoints_keep_the_log_short_and_tell_who_does_not_let_them(tmp_path: Path) -> None:
    """One long reader let the log grow ninefold; then its owner is told."""
    path, turns = tmp_path / "ledger.db", Turns()
    with logged(path) as db, closing(sqlite3.connect(path, isolation_level=None)) as reader:
        checkpoints = Checkpoints(path, turns, every_s=0.01, most_bytes=100_000, stuck_s=0.05)
        checkpoints.start()
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM rows").fetchall()
        with turns.write(db):
            db.execute("INSERT INTO rows VALUES (zeroblob(200000))")
        wait_for(lambda: checkpoints.stuck)
        assert checkpoints.wal_bytes > 100_000
        reader.execute("ROLLBACK")
        wait_for(lambda: not checkpoints.stuck)
        wait_for(lambda: checkpoints.wal_bytes == 0)  # nobody writes any more
        checkpoints.stop()


def test_a_long_log_is_begun_again_and_cut_only_when_nobody_writes(tmp_path: Path) -> None:
    """A commit beside a change of the file's length waits for the disk: 45 ms were seen."""
    path, turns = tmp_path / "ledger.db", Turns()
    log_path = path.with_name("ledger.db-wal")
    with logged(path) as db:
        checkpoints = Checkpoints(path, turns, every_s=0.01, most_bytes=100_000)
        sizes = set()
        with closing(sqlite3.connect(path, isolation_level=None)) as checking:
            checkpoints.prepare(checking)
            for _ in range(20):
                with turns.write(db):
                    db.execute("INSERT INTO rows VALUES (zeroblob(90000))")
                sizes.add(log_path.stat().st_size)
                checkpoints.once(checking)
            # It grew for the first two, and was then written over from its start.
            assert max(sizes) < 400_000
            assert log_path.stat().st_size == max(sizes)
            checkpoints.once(checking)
            assert log_path.stat().st_size == 0
        assert db.execute("SELECT count(*) FROM rows").fetchone() == (20,)


def test_a_turn_that_fails_leaves_nothing_and_lets_the_next_one_in(tmp_path: Path) -> None:
    """Whether its block fails or its commit: half of it must not stay, nor its gate be shut."""
    path, turns = tmp_path / "ledger.db", Turns()
    with logged(path) as db:
        db.execute("PRAGMA foreign_keys = on")
        db.execute("CREATE TABLE named (id INTEGER PRIMARY KEY)")
        db.execute("CREATE TABLE uses (id REFERENCES named DEFERRABLE INITIALLY DEFERRED)")
        with pytest.raises(ZeroDivisionError), turns.write(db):
            db.execute("INSERT INTO rows VALUES (1)")
            1 / 0  # noqa: B018
        with pytest.raises(sqlite3.Error), turns.write(db):
            db.execute("INSERT INTO rows VALUES (2)")
            db.execute("INSERT INTO uses VALUES (9)")
        assert (db.in_transaction, turns.gate.locked(), turns.committed) == (False, False, 0)
        with turns.write(db):
            db.execute("INSERT INTO rows VALUES (3)")
        assert db.execute("SELECT * FROM rows").fetchall() == [(3,)]
        assert turns.committed == turns.begun == 3


def test_no_checkpoint_begins_while_a_commit_could_start_the_log_afresh(tmp_path: Path) -> None:
    """SQLite before 3.51.3 then loses rows: the log must hold something that is not checked in."""
    path, turns = tmp_path / "ledger.db", Turns()
    with logged(path) as db:
        checkpoints = Checkpoints(path, turns, every_s=0.01)
        checkpoints.start()
        with turns.gate:  # a transaction has begun, and is not committed
            turns.begun += 1
            db.execute("INSERT INTO rows VALUES (zeroblob(200000))")
        with turns.write(db):  # one that wrote nothing leaves a log that may be checked in
            db.execute("SELECT * FROM rows").fetchall()
        threading.Event().wait(0.2)  # 20 chances; too few would only make the test weaker
        assert checkpoints.done == 0
        with turns.write(db):
            db.execute("INSERT INTO rows VALUES (1)")
        wait_for(lambda: checkpoints.done > 0)
        assert path.stat().st_size > 200_000
        threading.Event().wait(0.2)  # all is checked in now, and nothing was written since
        assert checkpoints.done == 1
        checkpoints.stop()


def test_a_ledger_that_cannot_be_opened_for_it_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where there were too many open files for a moment, the log grew until the next start."""
    path, turns = tmp_path / "ledger.db", Turns()
    with logged(path) as db:
        aside = path.rename(tmp_path / "aside")
        checkpoints = Checkpoints(path, turns, every_s=0.01)
        checkpoints.start()
        wait_for(lambda: "is not checked in" in caplog.text)
        aside.rename(path)
        with turns.write(db):
            db.execute("INSERT INTO rows VALUES (zeroblob(200000))")
        wait_for(lambda: checkpoints.done > 0)
        checkpoints.stop()
        assert path.stat().st_size > 200_000
        assert caplog.text.count("is not checked in") == 1


@contextmanager
def logged(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection to a file whose log is only checked in by others."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = wal")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("CREATE TABLE rows (content)")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        yield db


def wait_for(what: Callable[[], bool]) -> None:
    """Return once `what` holds."""
    pause = threading.Event()
    for _ in range(int(WITHIN_S / 0.01)):
        if what():
            return
        pause.wait(0.01)
    raise AssertionError("it never came to hold")
