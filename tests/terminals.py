"""A pseudo-terminal with a program on it, and the screen that a person would see."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyte
from shell import PATIENCE_S

# Whoever opens a terminal without having one has it from then on: so Ctrl-C on it is a signal.
_TAKE = "import os, sys; os.open(os.ttyname(0), os.O_RDWR); os.execvp(sys.argv[1], sys.argv[1:])"


class Terminal:
    """A program's terminal: what it shows, and keys to press."""

    def __init__(self, process: subprocess.Popen[bytes], fd: int, columns: int, rows: int) -> None:
        self.process = process
        self.screen = pyte.Screen(columns, rows)
        self.said = b""  # all that was ever written
        self._stream = pyte.ByteStream(self.screen)
        self._fd = fd

    @property
    def text(self) -> str:
        """What the screen shows, line by line, without blanks at their ends."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._fd, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Make the window another size, as a person does who drags its corner."""
        self.screen.resize(rows, columns)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    def until(self, seen: Callable[[str], object]) -> str:
        """Return what the screen shows once it is as wanted."""
        end = time.monotonic() + PATIENCE_S
        while not seen(self.text):
            assert time.monotonic() < end, f"the screen stayed:\n{self.text}"
            self._read(0.5)
        return self.text

    def ends(self) -> int:
        """Return the exit code once the program has ended; what it wrote to the last is read."""
        end = time.monotonic() + PATIENCE_S
        while self._read(0.1) or self.process.poll() is None:
            assert time.monotonic() < end, f"it goes on:\n{self.text}"
        return self.process.wait()

    def is_raw(self) -> bool:
        """Whether the terminal is in another state than a shell wants it in."""
        flags = termios.tcgetattr(self._fd)[3]
        return not (flags & termios.ICANON and flags & termios.ECHO)

    def _read(self, within_s: float) -> bool:
        ready, _, _ = select.select([self._fd], [], [], within_s)
        if not ready:
            return False
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # the last one that had it open is gone
            return False
        # Those that pyte does not know, and a terminal may ignore as well.
        self._stream.feed(data.replace(b"\x1b[?2026h", b"").replace(b"\x1b[?2026l", b""))
        self.said += data
        return bool(data)


@contextlib.contextmanager
def terminal(
    command: Sequence[str],
    folder: Path,
    env: Mapping[str, str],
    *,
    columns: int = 80,
    rows: int = 24,
) -> Iterator[Terminal]:
    """Yield a terminal of a size with a program running on it; it is killed at the end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", _TAKE, *command],
        cwd=folder,
        env={**env, "TERM": "xterm-256color", "LANG": "C.UTF-8"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    try:
        yield Terminal(process, ours, columns, rows)
    finally:
        process.kill()
        process.wait()
        os.close(theirs)
        os.close(ours)
