"""Checkpoints: the write-ahead log goes back into the file beside the path of calls.

The writer's own automatic checkpoint would do it inside a commit that a call waits for (6 to
10 ms at the 99th percentile). Here it is a thread and a connection of its own.

Its one rule: **no checkpoint begins while the whole log may already be checked in.** Only then
can a commit start the log afresh under the checkpoint's eyes, and before 3.51.3 (3.50.7, 3.44.6)
SQLite then took new rows for old and lost them (sqlite.org/wal.html, "The WAL-Reset Bug"); most
Pythons in use bring an older one. So a checkpoint waits for a commit that began after the last
one had ended, or for rows that the last one left; and one that truncates has the file to itself.
"""

import logging
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

from tollway.daemon.ledger.reading import open_to_write

log = logging.getLogger(__name__)

_BUSY_S = 0.02  # a checkpoint that ends the log stops the writer while it waits for readers
_FRAME_HEAD_BYTES = 24  # before each page in the log (sqlite.org/fileformat.html, 4.1)


class Turns:
    """What the writer and the checkpoints tell each other.

    Transactions are numbered as they begin; `committed` is the last that has written something.
    The writer holds `gate` for each, a checkpoint that ends the log while it lasts.
    """

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self.begun = 0
        self.committed = 0

    def write(self, db: sqlite3.Connection) -> "_Turn":
        """Return a block that commits what is written to `db` in it, or nothing of that."""
        return _Turn(self, db)


class _Turn:
    """One transaction of the writer's. As two generators it took a tenth of all its Python."""

    __slots__ = ("_before", "_db", "_turns")

    def __init__(self, turns: Turns, db: sqlite3.Connection) -> None:
        self._turns = turns
        self._db = db

    def __enter__(self) -> None:
        turns, db = self._turns, self._db
        turns.gate.acquire()
        turns.begun += 1
        self._before = db.total_changes
        try:
            db.execute("BEGIN IMMEDIATE")
        except BaseException:  # `__exit__` is not asked then
            turns.gate.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, _: object
    ) -> None:
        turns, db = self._turns, self._db
        try:
            try:
                if kind is None:
                    db.execute("COMMIT")
            finally:
                if db.in_transaction:  # whatever it was, half a transaction must not stay
                    db.execute("ROLLBACK")
            if kind is None and db.total_changes != self._before:
                turns.committed = turns.begun
        finally:
            turns.gate.release()


class Checkpoints:
    """Keeps the log of the open ledger at `path` short, from `start` to `stop`.

    `wal_bytes` is how long the log's file is, `stuck` whether more than `most_bytes` of it have
    been in use for `stuck_s`, `done` how many checkpoints there were.
    """

    def __init__(
        self,
        path: Path,
        turns: Turns,
        *,
        every_s: float = 1.0,
        most_bytes: int = 64 * 1024 * 1024,
        stuck_s: float = 30.0,
    ) -> None:
        self._path = path
        self._log_path = path.with_name(f"{path.name}-wal")
        self._turns = turns
        self._every_s = every_s
        self._most_bytes = most_bytes
        self._stuck_s = stuck_s
        self._last = turns.begun  # transactions when the last checkpoint had ended
        self._rest = False  # it left some of the log
        self._frame_bytes = 0  # a page in the log
        self._used_bytes = 0  # of the log, at the last checkpoint
        self._over_since: float | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger-checkpoints", daemon=True)
        self.wal_bytes = 0
        self.stuck = False
        self.done = 0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns when the thread has gone and its connection is closed."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        told = False
        while not self._ended.wait(self._every_s):
            try:
                with closing(open_to_write(self._path, _BUSY_S)) as db:
                    self.prepare(db)
                    told = False
                    self._try(db)
                    while not self._ended.wait(self._every_s):
                        self._try(db)
            except sqlite3.Error as fault:  # too many open files, say: the log must not grow on
                if not told:
                    log.warning("the ledger's log is not checked in: %s", fault)
                told = True

    def _try(self, db: sqlite3.Connection) -> None:
        try:
            self.once(db)
        except sqlite3.Error as fault:  # the writer meets it too, and says what it is
            log.info("cannot check the ledger's log in: %s", fault)

    def prepare(self, db: sqlite3.Connection) -> None:
        """Learn of the file what `once` has to know."""
        (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
        self._frame_bytes = page_bytes + _FRAME_HEAD_BYTES

    def once(self, db: sqlite3.Connection) -> None:
        """Check in what has been written since the last time, and end a log that is too long.

        Raises:
            sqlite3.Error: The file cannot be read or written.
        """
        if self._rest or self._turns.committed > self._last:
            self._check_in(db, "PASSIVE")
            if self._used_bytes > self._most_bytes:
                # The passive one has just done the bulk, so this holds the writer up for little.
                with self._turns.gate:
                    self._check_in(db, "RESTART")
        elif self._size() > self._most_bytes:
            with self._turns.gate:
                self._check_in(db, "TRUNCATE")
        self.wal_bytes = self._size()
        self._judge()

    def _check_in(self, db: sqlite3.Connection, how: str) -> None:
        refused, whole, done = db.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
        self._last = self._turns.begun
        self._rest = done < whole
        ended = how != "PASSIVE" and not refused
        self._used_bytes = 0 if ended else whole * self._frame_bytes
        self.done += 1

    def _judge(self) -> None:
        if self._used_bytes <= self._most_bytes:
            self._over_since = None
            self.stuck = False
            return
        now = time.monotonic()
        self._over_since = self._over_since or now
        if not self.stuck and now - self._over_since >= self._stuck_s:
            self.stuck = True
            log.warning("a reader keeps the ledger's log from shrinking: %d bytes", self.wal_bytes)

    def _size(self) -> int:
        try:
            return self._log_path.stat().st_size
        except FileNotFoundError:
            return 0
