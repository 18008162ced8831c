"""A thread that sees the event loop stand still, and says where it stands.

Every call waits while the loop does. The loop leaves a sign of life ten times a second; where
none came for a quarter of a second, the log gets the stack of the loop's thread: files, lines
and names of functions, never a value.
"""

import asyncio
import logging
import sys
import threading
import time
from types import FrameType

import msgspec

log = logging.getLogger(__name__)

_MOST_FRAMES = 40


class LoopState(msgspec.Struct, frozen=True):
    """How the event loop has kept up since the start.

    `stalls` is how often it stood still for a quarter of a second or more, `stalled_s` how long
    in all, `longest_s` the longest, `last_at` when the last one ended (unix seconds, 0: never).
    `paused` counts the times when the whole process got no time to run.
    """

    stalls: int = 0
    stalled_s: float = 0.0
    longest_s: float = 0.0
    last_at: float = 0.0
    paused: int = 0


class Watchdog:
    """Watches the loop that it is started on, until it is closed."""

    def __init__(
        self, *, after_s: float = 0.25, every_s: float = 0.1, log_every_s: float = 10.0
    ) -> None:
        """Expect a sign of life each `every_s`; log a stack at most each `log_every_s`."""
        self.after_s = after_s
        self._every_s = every_s
        self._log_every_s = log_every_s
        self.state = LoopState()
        self._loop: asyncio.AbstractEventLoop
        self._thread_id = 0
        self._sign = 0.0  # when the loop last turned, on the monotonic clock
        self._paused_at = 0.0  # when this thread itself last woke too late
        self._told: float | None = None
        self._unsaid = 0
        self._timer: asyncio.TimerHandle | None = None
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; runs on the loop that is to be watched."""
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._sign = time.monotonic()
        self._timer = self._loop.call_later(self._every_s, self._alive)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End; runs on the loop."""
        self._end.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._thread is not None:
            self._thread.join()

    def _alive(self) -> None:
        now = time.monotonic()
        late = now - self._sign - self._every_s
        if late >= self.after_s:
            self._note(late, now)
        self._sign = now
        self._timer = self._loop.call_later(self._every_s, self._alive)

    def _note(self, late: float, now: float) -> None:
        old = self.state
        if now - self._paused_at <= late + self._every_s:
            # The thread that has nothing to do was late too: no code of ours was in the way.
            self.state = msgspec.structs.replace(old, paused=old.paused + 1)
            return
        self.state = LoopState(
            stalls=old.stalls + 1,
            stalled_s=old.stalled_s + late,
            longest_s=max(old.longest_s, late),
            last_at=time.time(),
            paused=old.paused,
        )

    def _watch(self) -> None:
        woke = time.monotonic()
        seen = 0.0  # the sign of life after which the stack was already told
        while not self._end.wait(self._every_s):
            now = time.monotonic()
            if now - woke > self._every_s + self.after_s:
                self._paused_at = now
            woke = now
            sign = self._sign
            late = now - sign - self._every_s
            if late >= self.after_s and sign != seen and self._paused_at < sign:
                seen = sign
                self._say(late, now)

    def _say(self, late: float, now: float) -> None:
        frame = sys._current_frames().get(self._thread_id)
        if frame is None:
            return
        if self._told is not None and now - self._told < self._log_every_s:
            self._unsaid += 1
            return
        more = f" ({self._unsaid} more since the last such line)" if self._unsaid else ""
        self._told, self._unsaid = now, 0
        log.warning(
            "the event loop has stood still for %.0f ms%s, at:\n%s",
            late * 1000,
            more,
            stack(frame),
        )


def stack(frame: FrameType | None) -> str:
    """Return where a thread is, innermost last: no values, and no lines of code."""
    lines: list[str] = []
    while frame is not None and len(lines) < _MOST_FRAMES:
        code = frame.f_code
        file = _short(code.co_filename)
        lines.append(f"{file}:{frame.f_lineno} {code.co_qualname}")
        frame = frame.f_back
    return "\n".join(reversed(lines))


def _short(file: str) -> str:
    """Return the end of a file's path, which is enough to find it."""
    return "/".join(file.split("/")[-3:])
