"""A terminal taken over whole for a while, and given back as it was, however that ends.

Only lines that have changed are written, all of a change at once, so nothing flickers.
"""

import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Self

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"  # the other screen, no cursor, no wrapping
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
# Between these a terminal that knows them shows nothing by halves.
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
# A key that sends several characters, or one character.
_KEY = re.compile(r"\x1b\[[0-9;]*[A-Za-z~]|\x1bO.|.", re.DOTALL)
_ENDS = (signal.SIGTERM, signal.SIGHUP)


Handler = Callable[[int, FrameType | None], object] | int | None


class Screen:
    """The terminal of stdin and stdout. Use it with `with`; Ctrl-C raises as ever."""

    def __init__(self) -> None:
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        self._before: list[int | list[bytes | int]] = []
        self._handlers: dict[int, Handler] = {}
        self._shown: list[str] | None = None  # None: nobody knows what stands there
        self._hears, self._wakes = os.pipe()
        os.set_blocking(self._wakes, False)

    def __enter__(self) -> Self:
        """Take the terminal over."""
        self._before = termios.tcgetattr(self._in)
        for number in (*_ENDS, signal.SIGWINCH, signal.SIGTSTP):
            self._handlers[number] = signal.getsignal(number)
        for number in _ENDS:
            signal.signal(number, _end)
        signal.signal(signal.SIGWINCH, self._resized)
        signal.signal(signal.SIGTSTP, self._stopped)
        try:
            self._take()
        except BaseException:  # the terminal is somebody else's, whatever went wrong
            self._give_back()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give it back."""
        self._give_back()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, as they are now."""
        found = os.get_terminal_size(self._out)
        return found.columns or 80, found.lines or 24

    def wake(self) -> None:
        """Have `pressed` return now; from any thread."""
        with suppress(BlockingIOError):  # it is awake already
            os.write(self._wakes, b".")

    def pressed(self) -> list[str]:
        """Wait until keys are pressed, `wake` is called or the size changes; return the keys."""
        ready, _, _ = select.select([self._in, self._hears], [], [])
        if self._hears in ready:
            os.read(self._hears, 4096)
        if self._in not in ready:
            return []
        typed = os.read(self._in, 1024)
        if not typed:  # the terminal is gone
            raise SystemExit(128 + signal.SIGHUP)
        return _KEY.findall(typed.decode("utf-8", "ignore"))

    def paint(self, lines: Sequence[str]) -> None:
        """Show these lines; each must be shorter than the terminal is wide."""
        lines = list(lines)[: self.size[1]]
        before, changes = self._shown, []
        if before is None:
            changes.append("\x1b[2J")
        for at, line in enumerate(lines):
            if before is None or at >= len(before) or before[at] != line:
                changes.append(f"\x1b[{at + 1};1H{line}\x1b[0m\x1b[K")
        if before is not None and len(before) > len(lines):
            changes.append(f"\x1b[{len(lines) + 1};1H\x1b[J")
        if changes:
            self._write(_BEGIN + "".join(changes) + _END)
        self._shown = lines

    def _take(self) -> None:
        tty.setcbreak(self._in)  # Ctrl-C and Ctrl-Z still mean what they mean
        self._shown = None
        self._write(_ENTER)

    def _give_back(self) -> None:
        try:
            self._write(_LEAVE)
            termios.tcsetattr(self._in, termios.TCSADRAIN, self._before)
        except (OSError, termios.error):
            pass  # it is gone, as when a window is closed
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _write(self, text: str) -> None:
        data = text.encode(sys.stdout.encoding or "utf-8", sys.stdout.errors or "replace")
        while data:
            data = data[os.write(self._out, data) :]

    def _resized(self, _number: int, _frame: FrameType | None) -> None:
        self._shown = None
        self.wake()

    def _stopped(self, number: int, _frame: FrameType | None) -> None:
        """Stop as Ctrl-Z asks, with the terminal as it was; go on where `fg` says so."""
        self._write(_LEAVE)
        termios.tcsetattr(self._in, termios.TCSADRAIN, self._before)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self._stopped)
        self._take()
        self.wake()


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
