"""The writing thread: takes what has become ready together, commits it, heals what breaks."""

import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from tollway.daemon.errors import LedgerHeld, LedgerInvalid, LedgerUnavailable
from tollway.daemon.ledger import faults
from tollway.daemon.ledger.bell import Bell
from tollway.daemon.ledger.book import Book
from tollway.daemon.ledger.derived import recover
from tollway.daemon.ledger.lock import LedgerLock
from tollway.daemon.ledger.operations import (
    Admit,
    Keep,
    Next,
    Operation,
    Queue,
    Refuse,
    Settle,
    Spent,
    Spread,
    Stop,
    Tend,
    Unqueue,
)
from tollway.daemon.ledger.responses import Forget
from tollway.daemon.ledger.schema import migrate, transaction, version
from tollway.daemon.ledger.upkeep import Upkeep
from tollway.daemon.ledger.wal import Checkpoints, Turns
from tollway.providers.errors import GatewayError
from tollway.providers.words import counted

log = logging.getLogger(__name__)

CLOSE_WITHIN_S = 5.0  # what cannot be written so long after `Stop` is left to recovery
_GROUP = 512  # operations in one transaction at most
_BUSY_S = 0.1
_BUSY_FOR_S = 0.8  # so long may another program's transaction last before calls are refused
_PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0)
_LOOK_EVERY_S = 1.0
_OPEN_WITHIN_S = 10.0

Done = Sequence[tuple[Operation, BaseException | None]]
# None of the groups that calls wait for.
_ASIDE = (Stop, Keep, Forget, Tend)


class Writer:
    """Owns the ledger's file, its lock and its only writing connection.

    `tell` is called on its thread for each group that is written, or given up.
    `problem` says while the file cannot be written why not. `refusals` counts those written,
    `recovered` the open calls that the file had at the start. `upkeep` does what may wait.
    """

    def __init__(
        self,
        path: Path,
        sync: Literal["normal", "full"],
        tell: Callable[[Done], None],
        upkeep: Upkeep,
    ) -> None:
        self._path = path
        self._sync = sync
        self._say = tell
        self.upkeep = upkeep
        self._queue: deque[Operation] = deque()
        self._bell = Bell()
        self._pending: list[Operation] = []
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._opened = threading.Event()
        self._refused: GatewayError | None = None
        self._lock: LedgerLock | None = None
        self._db: sqlite3.Connection | None = None
        self._book: Book | None = None
        self._checkpoints: Checkpoints | None = None
        self._identity: tuple[int, int] | None = None
        self._first = True
        self._failures = 0
        self._busy_since: float | None = None
        self._retry_at: float | None = None
        self._stop: Stop | None = None
        self._stop_by = 0.0
        self._turns = Turns()
        self._look_at = 0.0
        self.problem: faults.Problem | None = faults.opening(path)
        self.recovered = 0
        self.refusals = 0

    @property
    def backlog(self) -> int:
        """How many operations are not committed yet."""
        return len(self._queue) + len(self._pending)

    @property
    def commits(self) -> int:
        """How many transactions there were."""
        return self._turns.begun

    @property
    def wal_bytes(self) -> int:
        """How long the write-ahead log was at the last look."""
        return self._checkpoints.wal_bytes if self._checkpoints else 0

    @property
    def wal_stuck(self) -> bool:
        """Whether a reader keeps the log from shrinking."""
        return bool(self._checkpoints and self._checkpoints.stuck)

    @property
    def stopping(self) -> bool:
        """Whether `Stop` has been taken, and so is no more in the backlog."""
        return self._stop is not None

    def put(self, operation: Operation, *, wake: bool = True) -> None:
        """Queue an operation. Its order among all others is that of these calls.

        Without `wake` the thread may sleep on until `wake` is called.
        """
        self._queue.append(operation)
        if wake:
            self._bell.ring()

    def wake(self) -> None:
        """Have what is queued looked at now."""
        self._bell.ring()

    def start(self) -> None:
        """Start the thread; return when it has opened the file, or failed for the first time.

        Raises:
            LedgerInvalid, LedgerHeld: As `Ledger.start`; the thread has ended.
        """
        self._thread.start()
        self._opened.wait(_OPEN_WITHIN_S)
        if self._refused:
            self._thread.join()
            raise self._refused

    def join(self) -> None:
        """Wait for the thread, which has resolved its `Stop` and is ending."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self._open()
            self.problem = None
        except (LedgerInvalid, LedgerHeld) as error:
            self._close_file()
            if self._lock:
                self._lock.release()
            self._refused = error
            return
        except Exception as fault:  # noqa: BLE001 - whatever it is, the daemon starts and says it
            self._failed(fault)
        finally:
            self._opened.set()
        while self._stop is None or not self._finished():
            self._take()
            if self.problem and self._retry_at and time.monotonic() < self._retry_at:
                self._give_up_admissions(self.problem)
            else:
                self._turn()
                self._tend()
        self._end(self._stop)

    def _take(self) -> None:
        """Move what is queued to `_pending`, waiting for something where nothing is due."""
        pending = self._pending
        wait = self.upkeep.wait_s()
        if self._retry_at is not None:
            until = min(self._retry_at, self._stop_by) if self._stop else self._retry_at
            wait = max(0.0, until - time.monotonic())
        elif pending or self._stop:
            wait = 0.0
        self._bell.wait(0.0 if self._queue else wait)
        for _ in range(min(len(self._queue), _GROUP)):  # nobody else takes from it
            self._add(self._queue.popleft())

    def _add(self, operation: Operation) -> None:
        if not isinstance(operation, _ASIDE):
            self._pending.append(operation)
            return
        match operation:
            case Stop():
                self._stop, self._retry_at = operation, None
                self._stop_by = time.monotonic() + CLOSE_WITHIN_S
            case Keep() | Forget():
                self.upkeep.add(operation)
            case Tend():
                self.upkeep.look()

    def _turn(self) -> None:
        """Write everything pending; on a failure set the time of the next try."""
        try:
            if self._db is None:
                self._open()
            self._check_place()
            if self._failures and not self._pending:
                self._probe()
            while group := self._pending[:_GROUP]:
                done = self._commit(group)
                del self._pending[: len(group)]
                if not self._pending:
                    self._healed()  # before anyone who waited for it can ask
                self._tell(done)
            self._healed()
        except Exception as fault:  # noqa: BLE001 - the thread must outlive whatever is wrong
            self._failed(fault)

    def _tend(self) -> None:
        """Do a little of what nobody waits for, once all that was taken is written."""
        if self.problem or self._pending or self._db is None or not self.upkeep.due():
            return
        try:
            self.upkeep.step(self._db, self._turns)
        except Exception as fault:  # noqa: BLE001 - no chore may end the thread that calls need
            self.upkeep.failed(fault, self._path)

    def _healed(self) -> None:
        if self._failures:
            log.warning("the ledger `%s` can be written again", self._path)
        self._failures = 0
        self._busy_since = self._retry_at = self.problem = None

    def _commit(self, group: Sequence[Operation]) -> Done:
        try:
            self._write(group)
        except Exception as fault:  # one bad row must not cost the others of its group
            if faults.of_the_file(fault):
                raise
            log.exception("one of %d operations cannot be written", len(group))
            return self._one_by_one(group)
        return [(operation, None) for operation in group]

    def _one_by_one(self, group: Sequence[Operation]) -> Done:
        done: list[tuple[Operation, BaseException | None]] = []
        for operation in group:
            try:
                self._write([operation])
                done.append((operation, None))
            except Exception as fault:
                if faults.of_the_file(fault):
                    # What is done is done: only the rest may be tried again.
                    del self._pending[: len(done)]
                    self._tell(done)
                    raise
                log.exception("cannot be written: %s", _named(operation))
                done.append((operation, LedgerUnavailable("The call cannot be written down")))
                if isinstance(operation, Next) and operation.ended:  # whatever the next one has
                    self.put(Settle(None, operation.ended))
        return done

    def _write(self, group: Sequence[Operation]) -> None:
        assert self._db is not None  # noqa: S101 - `_turn` has opened it
        self._book = self._book or Book(self._db)
        try:
            with self._turns.write(self._db):
                self._book.write(group)
        except BaseException:
            self._book = None  # what it believes is written has been rolled back
            raise

    def _probe(self) -> None:
        assert self._db is not None  # noqa: S101 - `_turn` has opened it
        with self._turns.write(self._db):
            self._db.execute("UPDATE meta SET value = value + 1 WHERE name = 'probe'")

    def _tell(self, done: Done) -> None:
        waited = []
        for pair in done:
            if pair[0].done is not None:
                waited.append(pair)
            elif isinstance(pair[0], Refuse):
                self.refusals += 1
        if waited:
            self._say(waited)

    def _failed(self, fault: Exception) -> None:
        """Note a failure: nothing of the open group is written. Refuse what must not wait."""
        now = time.monotonic()
        if faults.code(fault) == sqlite3.SQLITE_BUSY and not self._failures and not self._first:
            self._busy_since = self._busy_since or now
            if now - self._busy_since < _BUSY_FOR_S:
                self._retry_at = now
                return
        if not self._failures:
            known = isinstance(fault, sqlite3.Error | OSError | GatewayError)
            log.error("the ledger cannot be written: %s", fault, exc_info=not known)
        problem = self.problem = faults.problem(fault, self._path)
        pause = _PAUSES_S[min(self._failures, len(_PAUSES_S) - 1)]
        self._failures += 1
        self._retry_at = now + pause
        passing = faults.code(fault) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL)
        if not passing or self._checkpoints is None:  # or it is not wholly open
            self._close_file()
        self._give_up_admissions(problem)

    def _give_up_admissions(self, problem: faults.Problem) -> None:
        """Refuse the callers that wait; keep everything that must be written in the end."""
        kept: list[Operation] = []
        refused: list[tuple[Operation, BaseException | None]] = []
        for operation in self._pending:
            match operation:
                case Admit() | Spent() | Spread():
                    refused.append((operation, problem.refusal()))
                case Next(ended=ended):
                    refused.append((operation, problem.refusal()))
                    if ended:
                        kept.append(Settle(None, ended))
                case _:
                    kept.append(operation)
        self._pending = kept
        self._tell(refused)

    def _open(self) -> None:
        """Open the file, making or upgrading it; the first time settle what was left open."""
        path = self._path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._lock is None:
            self._lock = LedgerLock(path).acquire(time.time_ns() // 1_000_000)
        if not self._first and not self._in_place():
            raise _gone(path)
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        db = self._db = sqlite3.connect(
            path, isolation_level=None, timeout=_BUSY_S, cached_statements=256
        )
        # Whose file it is comes first: nothing is written into another program's.
        version(db, path)
        db.execute("PRAGMA journal_mode = wal")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute(f"PRAGMA synchronous = {self._sync}")
        # Some builds overwrite what a row gives up, which every settlement does: a tenth of its
        # CPU, to hide what the row beside it still says.
        db.execute("PRAGMA secure_delete = off")
        migrate(db, path)
        if self._first:
            with transaction(db):
                self.recovered = recover(db)
        self._book = Book(db)
        self._identity = _identity(path)
        self._first = False
        self._checkpoints = Checkpoints(path, self._turns)
        self._checkpoints.start()

    def _check_place(self) -> None:
        # A file that was removed takes writes as before, and everything written is lost.
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY_S
            if not self._in_place():
                raise _gone(self._path)

    def _in_place(self) -> bool:
        try:
            return _identity(self._path) == self._identity
        except FileNotFoundError:
            return False

    def _close_file(self) -> None:
        if self._checkpoints:
            self._checkpoints.stop()
            self._checkpoints = None
        self._book = None
        if self._db:
            with suppress(sqlite3.Error):
                self._db.close()
            self._db = None

    def _finished(self) -> bool:
        done = not self._pending and not self._queue and not self.upkeep.waiting
        return done or time.monotonic() >= self._stop_by

    def _end(self, stop: Stop) -> None:
        """Check the log in, close, give the lock back, and tell who waits for it."""
        if self._pending:
            log.error(
                "%s could not be written: their calls are settled at their hold when the ledger is"
                " next opened",
                counted(len(self._pending), "ending"),
            )
        if lost := self.upkeep.give_up():
            what = counted(lost, "call")
            log.error("the prompts and replies of %s could not be written", what)
        if self._checkpoints:
            self._checkpoints.stop()
            self._checkpoints = None
        if self._db and not self._failures:
            with suppress(sqlite3.Error):
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._close_file()
        if self._lock:
            self._lock.release()
        left = LedgerUnavailable("The ledger was closed before this could be written")
        self._tell([*((operation, left) for operation in self._pending), (stop, None)])
        self.problem = faults.closed(self._path)


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _gone(path: Path) -> LedgerUnavailable:
    return LedgerUnavailable(
        f"The ledger `{path}` was removed or replaced while the gateway ran",
        hint="Put the same file back, or restart the gateway to go on with what is there now",
    )


def _named(operation: Operation) -> str:
    match operation:
        case Admit(call=call):
            return f"the admission of call {call.id}"
        case Settle(call=call, attempt=attempt):
            return f"the end of call {call.id if call else attempt.call_id if attempt else ''}"
        case Next(opened=opened):
            return f"attempt {opened.number} of call {opened.call_id}"
        case Refuse(row=row):
            return f"the refused call {row.id}"
        case Queue() | Unqueue():
            return f"the wait of call {operation.call.id}"
        case _:
            return type(operation).__name__
