"""The ledger: the one thread that writes, and what the event loop asks of it.

Its one rule: **what the caller was told is what the file says.** An admission returns when it
is committed; one that failed is not in the file, or stands there as refused. A settlement is
never dropped: while the disk is full or locked it waits in memory, in its order.

The loop's side is here; the thread is in `thread.py`, the rows in `book.py`.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, cast

from tollway.daemon.errors import LedgerUnavailable
from tollway.daemon.ledger import faults
from tollway.daemon.ledger.bell import Wire
from tollway.daemon.ledger.bodies import Bodies, Kept
from tollway.daemon.ledger.imports import Imported, Written
from tollway.daemon.ledger.operations import (
    Admit,
    Alert,
    Audit,
    Import,
    Next,
    Operation,
    Queue,
    Ready,
    Refuse,
    Settle,
    Spent,
    Spread,
    Stop,
    Tend,
    Time,
    Unqueue,
    Withdraw,
)
from tollway.daemon.ledger.refusals import Refusals
from tollway.daemon.ledger.responses import Forget
from tollway.daemon.ledger.retention import Policy
from tollway.daemon.ledger.rows import (
    AttemptEnded,
    AttemptOpened,
    Audited,
    CallEnded,
    CallOpened,
    CallRefused,
    LocalTime,
    SpentQuery,
)
from tollway.daemon.ledger.thread import CLOSE_WITHIN_S, Writer
from tollway.daemon.ledger.upkeep import Upkeep
from tollway.providers.words import counted

log = logging.getLogger(__name__)

_MOST_REFUSALS = 10_000
_WATCH_S = 0.5
_PATIENCE_S = 5.0  # the longest that a last byte waits for a stalled disk
_ASKED = (Spent, Spread, Alert, Import)  # whose future is not done with None


class Ledger:
    """What the gate writes to. All but the constructor and `start` run on the event loop.

    `sync` "normal" survives a killed process, "full" a power cut too. `stall_s` is how long an
    admission waits for a disk that does not answer.
    """

    def __init__(
        self,
        path: Path,
        *,
        sync: Literal["normal", "full"] = "normal",
        stall_s: float = 5.0,
    ) -> None:
        self.path = path
        self._wire = Wire(self._resolve)
        self._writer = Writer(path, sync, self._wire.say, Upkeep(self._kept))
        self._bodies = Bodies(self._writer.put)
        self._waking = False  # the thread is woken in the loop's next turn
        self._stall_s = stall_s
        self._stalled = False
        # Admissions under way, with the time (`_now`) at which each has waited too long.
        self._waiting: deque[tuple[float, Admit | Next]] = deque()
        # Settlements that a last byte waits for, with the time at which it goes all the same.
        self._patient: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._watching = False
        self._stood_s = 0.0  # for how long in all this process did not run, or its loop not turn
        self._alike = Refusals(self._refused)
        self._refusals = 0
        self._dropped = 0
        self._closing: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Open the ledger, making or upgrading it, and settle what a killed daemon left open.

        A file that cannot be opened or written now is tried again until it can; `problem` says
        what is wrong meanwhile.

        Raises:
            LedgerInvalid: The file is a newer Tollway's, or another program's.
            LedgerHeld: Another daemon has it.
        """
        self._writer.start()

    @property
    def problem(self) -> str | None:
        """What keeps the ledger from being written, with path and remedy; None when healthy."""
        found = self._problem()
        return found.line if found else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What does not stop the ledger, but that somebody should see to."""
        found = []
        if self._dropped:
            found.append(
                f"{counted(self._dropped, 'refused call is', 'refused calls are')} not in the"
                " ledger: it could not be written"
            )
        if self._writer.wal_stuck:
            size = self._writer.wal_bytes // 1024**2
            found.append(
                f"`{self.path}-wal` has grown to {size} MB: a program that has the ledger open"
                " for reading keeps it from shrinking; end that program"
            )
        if self._bodies.dropped:
            found.append(
                f"What {counted(self._bodies.dropped, 'call')} said is not kept: it came faster"
                " than the ledger's disk could take it"
            )
        return (*found, *self._writer.upkeep.warnings)

    @property
    def backlog(self) -> int:
        """How many operations wait to be written."""
        return self._writer.backlog

    @property
    def lag_s(self) -> float:
        """How long, in seconds, the oldest admission under way has waited to be written."""
        for until_s, operation in self._waiting:
            if not operation.done.done():
                return max(0.0, self._now(asyncio.get_running_loop()) - until_s + self._stall_s)
        return 0.0

    @property
    def commits(self) -> int:
        """How many transactions were written: fewer than operations, where load groups them."""
        return self._writer.commits

    @property
    def wal_bytes(self) -> int:
        """How long the write-ahead log was at the last look, at most a second or two ago."""
        return self._writer.wal_bytes

    @property
    def recovered(self) -> int:
        """How many calls, cut short by a kill, were settled at their hold when it was opened."""
        return self._writer.recovered

    async def admit(self, call: CallOpened, attempt: AttemptOpened) -> None:
        """Write a call and its first attempt; return when they are committed.

        A caller that is cancelled here settles the call as usual: if the admission is written,
        the settlement follows it.

        Raises:
            LedgerUnavailable: Nothing is written, nor will be, but as a refused call.
        """
        self._check()
        done: asyncio.Future[None] = self._future()
        await self._committed(Admit(call, attempt, done))

    def end_attempt(self, ended: AttemptEnded) -> None:
        """Write one attempt's end where the next one's start is not known yet."""
        self._writer.put(Settle(None, ended))

    async def next_attempt(self, ended: AttemptEnded | None, opened: AttemptOpened) -> None:
        """Write one attempt's end and the next one's start; return when they are committed.

        `ended` is None where `end_attempt` has told it.

        Raises:
            LedgerUnavailable: The next one is not written. The end of the last one is kept.
        """
        try:
            self._check()
        except LedgerUnavailable:
            if ended:
                self.end_attempt(ended)
            raise
        done: asyncio.Future[None] = self._future()
        await self._committed(Next(ended, opened, done))

    def settle(self, call: CallEnded, attempt: AttemptEnded | None) -> asyncio.Future[None]:
        """Write the end of a call and of its last attempt; the future is done when committed.

        It is on its way when this returns: whatever is asked of the ledger later sees it. An
        attempt of the call that is still open, and is not `attempt`, is billed at its hold.
        """
        done: asyncio.Future[None] = self._future()
        self._put_soon(Settle(call, attempt, done), done.get_loop())
        return done

    async def settled(self, done: asyncio.Future[None]) -> None:
        """Return when a settlement's future is done, or after some 5 s of a disk that stalls.

        The row is still on its way then. One that cannot be written has been logged.
        """
        loop = done.get_loop()
        self._patient.append((self._now(loop) + _PATIENCE_S, done))
        self._watch_on(loop)
        try:
            await done
        except LedgerUnavailable:
            pass
        finally:
            patient = self._patient
            while patient and patient[0][1].done():
                patient.popleft()

    def queue(self, row: CallOpened) -> None:
        """Write that a call waits for its turn; nobody waits for it, since nothing is sent.

        `admit` takes the row up, or `unqueue` ends it.

        Raises:
            LedgerUnavailable: The ledger cannot be written now: nothing could be admitted.
        """
        self._check()
        self._writer.put(Queue(row))

    def unqueue(self, call: CallEnded, queue_ms: int, *, refused: bool) -> None:
        """Write the end of a call that was queued and never admitted, at no cost.

        Args:
            call: How it ended.
            queue_ms: How long it had waited.
            refused: By us; else its client left.
        """
        self._writer.put(Unqueue(call, queue_ms, refused))

    def refuse(self, row: CallRefused) -> None:
        """Write a call that was never sent; nobody waits for it.

        Of more than ten alike within a second one row counts the rest (see `Refusals`). While the
        ledger cannot be written, 10,000 rows are kept; the rest are counted in `warnings`.
        """
        self._alike.add(row)

    def _refused(self, row: CallRefused) -> None:
        if self._refusals - self._writer.refusals >= _MOST_REFUSALS:
            self._dropped += 1 + row.repeated
            return
        self._refusals += 1
        self._writer.put(Refuse(row))

    def audit(self, row: Audited) -> asyncio.Future[None]:
        """Write a change of configuration, key or budget; the future is done when committed."""
        done: asyncio.Future[None] = self._future()
        self._writer.put(Audit(row, done))
        return done

    def alert(self, name: str, at_ms: int) -> asyncio.Future[bool]:
        """Write the name of something that is told once; the future says whether it was new.

        A ledger that cannot be written keeps it until it can.
        """
        done: asyncio.Future[bool] = self._future()
        self._writer.put(Alert(name, at_ms, done))
        return done

    def times(self, rows: Sequence[LocalTime]) -> None:
        """Add to how long local models were at work and idle; nobody waits for it."""
        if rows:
            self._writer.put(Time(tuple(rows)))

    def take(self, rows: Sequence[Imported]) -> asyncio.Future[Written]:
        """Write calls that did not pass this gateway; the future says how many were new.

        It fails with LedgerUnavailable where the ledger cannot be written now.
        """
        done: asyncio.Future[Written] = self._future()
        if problem := self._problem():
            done.set_exception(problem.refusal())
        else:
            self._writer.put(Import(rows, done))
        return done

    def spent(self, queries: Sequence[SpentQuery]) -> asyncio.Future[list[int]]:
        """Ask what scopes have spent, in nano-dollars, by attempts whose call was admitted since.

        The answer sees exactly what was given to the ledger before this was called. The future
        fails with LedgerUnavailable where that cannot be written; `ready` tells when to ask again.
        """
        done: asyncio.Future[list[int]] = self._future()
        if problem := self._problem():
            done.set_exception(problem.refusal())
        else:
            self._writer.put(Spent(queries, done))
        return done

    def spread(self, queries: Sequence[SpentQuery]) -> asyncio.Future[list[dict[int, int]]]:
        """Ask as `spent` does; each answer has the spending of every quarter of an hour there is.

        Quarters are named by their first millisecond.
        """
        done: asyncio.Future[list[dict[int, int]]] = self._future()
        if problem := self._problem():
            done.set_exception(problem.refusal())
        else:
            self._writer.put(Spread(queries, done))
        return done

    def retain(self, policy: Policy) -> None:
        """Keep rows and bodies by `policy` from now on; what is too old goes in the background."""
        self._writer.upkeep.policy = policy
        self._writer.put(Tend())

    def keep(self, kept: Kept) -> None:
        """Keep what a call said, once its end was given to `settle` or `refuse`; nobody waits."""
        self._bodies.keep(kept)

    async def forget(self, response_id: str) -> None:
        """Delete a kept answer; return once it is gone from the file."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def told() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_resolve, done)

        self._bodies.forget(Forget(response_id, told))
        await done

    def _kept(self, size: int) -> None:
        self._bodies.written(size)

    async def ready(self) -> None:
        """Return once the ledger can be written: now, or when it has healed."""
        done: asyncio.Future[None] = self._future()
        self._writer.put(Ready(done))
        await done

    async def close(self) -> None:
        """Write what waits, check the log in, and give the lock back.

        What a broken ledger still cannot take after 5 s is logged: its calls are settled at
        their hold at the next start. Nor is a disk that does not answer waited for longer than
        6 s. A second call waits for the first.
        """
        if self._closing is None:
            self._closing = self._future()
            self._alike.flush()
            try:
                await asyncio.to_thread(self._bodies.stop)
            finally:
                self._writer.put(Stop(self._closing))
        await asyncio.wait([self._closing], timeout=CLOSE_WITHIN_S + 1)
        if self._closing.done():
            self._writer.join()
            self._wire.close()
            return
        # The thread keeps the lock: what it is writing may still reach the file, and the next
        # daemon must not settle those calls before. The kernel frees it with the process, which
        # ends the thread, or the disk answers first and all is written after all.
        log.error(
            "the disk of the ledger `%s` does not answer: at most %s not written, and"
            " their calls are settled at their hold when the ledger is next opened",
            self.path,
            counted(self._writer.backlog - (not self._writer.stopping), "ending is", "endings are"),
        )

    def _check(self) -> None:
        if problem := self._problem():
            raise problem.refusal()

    def _problem(self) -> faults.Problem | None:
        return self._writer.problem or (faults.stalled(self.path) if self._stalled else None)

    def _future(self) -> "asyncio.Future[Any]":
        loop = asyncio.get_running_loop()
        if loop is not self._wire.loop:
            self._wire.listen(loop)
            self._wake()  # the loop before may have ended before it did
        return loop.create_future()

    def _put_soon(self, operation: Admit | Next | Settle, loop: asyncio.AbstractEventLoop) -> None:
        """Queue what a call waits for. All calls of one turn of the loop wake the thread once."""
        self._writer.put(operation, wake=False)
        if not self._waking:
            self._waking = True
            loop.call_soon(self._wake)

    def _wake(self) -> None:
        self._waking = False
        self._writer.wake()

    async def _committed(self, operation: Admit | Next) -> None:
        loop = operation.done.get_loop()  # which is running: to ask for that is a system call
        self._waiting.append((self._now(loop) + self._stall_s, operation))
        self._watch_on(loop)
        self._put_soon(operation, loop)
        try:
            await operation.done
        finally:
            waiting = self._waiting
            while waiting and waiting[0][1].done.done():
                waiting.popleft()

    def _now(self, loop: asyncio.AbstractEventLoop) -> float:
        """Return the time by a clock that stands while this process does not run."""
        return loop.time() - self._stood_s

    def _watch_on(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._watching:
            self._watching = True
            due = loop.time() + _WATCH_S
            loop.call_at(due, self._watch, loop, due)

    def _watch(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        # One timer for all calls: a time-out of its own for each would cost 5 us a call.
        if (late := loop.time() - due) > _WATCH_S:
            self._stood_s += late  # the disk had no chance to answer in it
        now = self._now(loop)
        while self._waiting:
            until, operation = self._waiting[0]
            if not operation.done.done():
                if now < until:
                    break
                self._give_up(operation)
            self._waiting.popleft()
        patient = self._patient
        while patient and (patient[0][1].done() or now >= patient[0][0]):
            _resolve(patient.popleft()[1])
        self._watching = False
        if self._waiting or patient:
            self._watch_on(loop)

    def _give_up(self, operation: Admit | Next) -> None:
        self._stalled = True
        operation.withdrawn = True
        # The thread may be writing it this very moment: then this undoes it.
        self._writer.put(Withdraw(operation, time.time_ns() // 1_000_000))
        operation.done.set_exception(faults.stalled(self.path).refusal())

    def _resolve(self, done: Sequence[tuple[Operation, BaseException | None]]) -> None:
        # On the loop, once for each group that the thread has committed or given up.
        self._stalled = False
        for operation, fault in done:
            future = operation.done
            if future is None or future.done():
                continue
            if fault:
                future.set_exception(fault)
            elif not isinstance(operation, _ASKED):  # as nearly all are
                cast(asyncio.Future[None], future).set_result(None)
            elif isinstance(operation, Spent):  # noqa: SIM114 - the answers have two types
                operation.done.set_result(operation.answer)
            elif isinstance(operation, Spread):
                operation.done.set_result(operation.answer)
            elif isinstance(operation, Import):
                operation.done.set_result(operation.written)
            else:
                operation.done.set_result(operation.new)


def _resolve(done: "asyncio.Future[None]") -> None:
    if not done.done():
        done.set_result(None)
