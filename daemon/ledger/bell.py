"""How the event loop and the ledger's thread wake each other.

A queue's `get` and a loop's `call_soon_threadsafe` wake a thread that finds Python's lock taken by
who woke it: on one core each of a call's two commits took six switches between threads. The
system call that rings a bell gives the lock up, and they are two.
"""

import asyncio
import math
import os
import select
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")
_RING = (1).to_bytes(8, sys.byteorder)  # what an eventfd is written
_PIPE = 65536  # no system's pipe holds more unless it is asked to


class Bell:
    """One thread rings, another waits for it or watches `fd`. It rings on until it is `heard`.

    It is an eventfd, which only Linux has, or where there is none a pipe.
    """

    _fds: frozenset[int] = frozenset()  # until they are open, which may fail

    def __init__(self, *, piped: bool = sys.platform != "linux") -> None:
        if piped:
            self.fd, self._rope = os.pipe()
            os.set_blocking(self.fd, False)
            os.set_blocking(self._rope, False)
        else:
            self.fd = self._rope = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._fds = frozenset((self.fd, self._rope))
        self._all = _PIPE if piped else len(_RING)
        self._poll = select.poll()
        self._poll.register(self.fd, select.POLLIN)

    def __del__(self) -> None:
        for fd in self._fds:
            os.close(fd)

    def ring(self) -> None:
        """Wake who waits, or else the next one who does."""
        with suppress(BlockingIOError):  # a full pipe rings too
            os.write(self._rope, _RING)

    def heard(self) -> None:
        """Let it be silent again."""
        with suppress(BlockingIOError):
            os.read(self.fd, self._all)

    def wait(self, within_s: float) -> None:
        """Return once it rings, or after so many seconds."""
        if self._poll.poll(math.ceil(within_s * 1000)):
            self.heard()


class Wire(Generic[T]):
    """What a thread says reaches a function on the event loop that listens."""

    def __init__(self, hear: Callable[[T], None]) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None  # that listens
        self._hear = hear
        self._said: deque[T] = deque()
        self._bell = Bell()

    def say(self, said: T) -> None:
        """Have it heard on the loop, in the order of these calls; for the thread."""
        self._said.append(said)
        self._bell.ring()

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Listen on this loop, and no more on another."""
        self.close()
        self.loop = loop
        loop.add_reader(self._bell.fd, self._ring)

    def close(self) -> None:
        """Listen no more."""
        if self.loop is not None and not self.loop.is_closed():
            self.loop.remove_reader(self._bell.fd)
        self.loop = None

    def _ring(self) -> None:
        self._bell.heard()
        while self._said:
            self._hear(self._said.popleft())
