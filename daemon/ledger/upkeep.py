"""What the writing thread does between the groups that calls wait for: bodies in, old rows out.

Its one rule: **nobody who calls waits for it.** One step is one short transaction of its own, sized
by how long the last one took, and there is at least `_REST_S` between two.
"""

import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from tollway.daemon.ledger import bodies, responses
from tollway.daemon.ledger.faults import code, reason
from tollway.daemon.ledger.operations import Keep
from tollway.daemon.ledger.responses import Forget
from tollway.daemon.ledger.retention import (
    Policy,
    Size,
    expire_bodies,
    expire_calls,
    size,
    size_warning,
)
from tollway.daemon.ledger.wal import Turns

log = logging.getLogger(__name__)

_EVERY_S = 60.0  # between two looks at what is too old
_FIRST_S = 5.0  # the start has more urgent things to write
_REST_S = 0.03
_STEP_S = 0.001  # how long a step may take
_FEWEST, _MOST = 5, 1000  # rows in one
_MOST_BODY_BYTES = 512 * 1024  # written in one
_AGAIN_S = 5.0  # after a step that failed
_AGAIN_BUSY_S = 0.5  # after one that met another program's lock
_STEP_BACK_S = 3600.0  # a clock that jumped by more than this is not believed for as long


class Upkeep:
    """The writer's own chores. `policy` may be set from any thread; the rest is the writer's."""

    def __init__(
        self, gone: Callable[[int], None], *, clock: Callable[[], float] = time.time
    ) -> None:
        """`gone` is told how many bytes of bodies no longer wait; `clock` gives unix seconds."""
        self.policy = Policy()
        self.problem = ""  # why old rows stay, "" where they go
        self.size: Size | None = None  # at the last look
        self._gone = gone
        self._wall = clock
        self._bodies: deque[Keep | Forget] = deque()
        self._look_at = time.monotonic() + _FIRST_S
        self._rest_until = 0.0
        self._rows = 100
        self._seen: tuple[float, float] | None = None  # both clocks at the last look
        self._doubt_until = 0.0

    @property
    def waiting(self) -> bool:
        """Whether bodies wait that can be written."""
        return bool(self._bodies) and not self.problem

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the owner should know, in whole sentences."""
        near = size_warning(self.policy, self.size) if self.size else None
        return tuple(filter(None, (near, self.problem)))

    def add(self, keep: Keep | Forget) -> None:
        """Take the bodies of a call whose row is written, or will be before the next step.

        Or the wish that what was kept of an earlier one be deleted.
        """
        self._bodies.append(keep)

    def look(self) -> None:
        """Look now rather than at the next minute: the policy has changed."""
        self._look_at = 0.0

    def wait_s(self) -> float:
        """Return how long the writer may sleep before there is something to do here."""
        now = time.monotonic()
        until = now if self._bodies else self._look_at
        return max(0.0, max(until, self._rest_until) - now)

    def due(self) -> bool:
        """Whether a step should be made now."""
        now = time.monotonic()
        return now >= self._rest_until and (bool(self._bodies) or now >= self._look_at)

    def step(self, db: sqlite3.Connection, turns: Turns) -> None:
        """Do a little of what is due.

        Raises:
            sqlite3.Error: Nothing of it is done; `failed` says what then.
        """
        began = time.monotonic()
        if self._bodies:
            self._write_bodies(db, turns)
        elif self._prune(db, turns):
            took = max(time.monotonic() - began, 1e-6)
            self._rows = int(min(max(self._rows * _STEP_S / took, _FEWEST), _MOST))
        else:
            self._look_at = began + _EVERY_S
            self.size = size(db)
        self.problem = ""
        self._rest_until = time.monotonic() + _REST_S

    def failed(self, fault: Exception, path: Path) -> None:
        """Note a step that failed on the file at `path`: no call notices, and it is tried again."""
        if not self.problem:
            log.warning("the ledger's upkeep failed: %s", fault)
        why = reason(fault, path)
        self.problem = f"Old rows and kept prompts of the ledger wait: {why.what}; {why.fix}"
        pause = _AGAIN_BUSY_S if code(fault) == sqlite3.SQLITE_BUSY else _AGAIN_S
        self._rest_until = time.monotonic() + pause

    def give_up(self) -> int:
        """Drop the bodies that wait, since the ledger is closing; return how many calls'."""
        left = len(self._bodies)
        while self._bodies:
            self._let_go(self._bodies.popleft())
        return left

    def _let_go(self, keep: Keep | Forget) -> None:
        if isinstance(keep, Forget):
            keep.told()
        else:
            self._gone(keep.waited)

    def _write_bodies(self, db: sqlite3.Connection, turns: Turns) -> None:
        taken: list[Keep | Forget] = []
        room = _MOST_BODY_BYTES
        for keep in self._bodies:
            if taken and room <= 0:
                break
            taken.append(keep)
            room -= 0 if isinstance(keep, Forget) else sum(len(part.body) for part in keep.parts)
        with turns.write(db):
            for keep in taken:
                if isinstance(keep, Forget):
                    responses.delete(db, keep.id)
                elif not bodies.write(db, keep):
                    log.debug("call %s has no row, so what it said is not kept", keep.call_id)
        for keep in taken:
            self._bodies.popleft()
            self._let_go(keep)

    def _prune(self, db: sqlite3.Connection, turns: Turns) -> bool:
        now_ms = self._now_ms()
        with turns.write(db):
            if expire_bodies(db, self.policy, now_ms, max(_FEWEST, self._rows // 10)):
                return True
            return not self._doubtful() and bool(expire_calls(db, self.policy, now_ms, self._rows))

    def _now_ms(self) -> int:
        wall, steady = self._wall(), time.monotonic()
        if self._seen:
            jump = (wall - self._seen[0]) - (steady - self._seen[1])
            if abs(jump) > _STEP_BACK_S:
                # A clock that is wrong for a minute must not cost the rows of a year.
                self._doubt_until = steady + _STEP_BACK_S
                log.warning("the clock jumped by %d s: no rows are deleted for an hour", jump)
        self._seen = wall, steady
        return int(wall * 1000)

    def _doubtful(self) -> bool:
        return time.monotonic() < self._doubt_until
