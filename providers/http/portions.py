"""What comes much at once is read a portion at a time, and so much of it in a turn of the loop.

How long bytes take does not depend on their number: a chunk of a byte, or an empty event, takes as
long as one of a kilobyte. One read may bring 256 KiB, which of the smallest take up to a second;
three streams of an upstream that floods held up everybody else's calls for 30 s. So whoever has
sent much waits its turn, and what is done with it gets a turn of its own behind each portion.
"""

import asyncio
from typing import Final, Protocol

_TURN_S: Final = 0.004  # for all connections together
OWN_S: Final = 0.001  # for one whose portions only lie there until all have come


class Reader(Protocol):
    """Who has something left to take."""

    def take_portion(self) -> bool:
        """Take a part of it; return whether more is left that may be taken now."""
        ...


class Portions:
    """Who is to take what it has got, in turns."""

    __slots__ = ("_running", "_turn_s", "_waiting")

    def __init__(self, turn_s: float = _TURN_S) -> None:
        self._turn_s = turn_s
        self._running = False  # whether `_next` is called in the loop's next turn
        self._waiting: dict[Reader, None] = {}  # in turn; who resumes within a portion stands once

    def add(self, one: Reader) -> None:
        """Let one take a portion in each turn: now, if nobody has in this turn of the loop."""
        self._waiting[one] = None
        if not self._running:
            self._next()

    def _next(self) -> None:
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + self._turn_s
        self._running = bool(self._waiting)
        if self._running:
            loop.call_soon(self._next)
        for one in tuple(self._waiting):
            del self._waiting[one]
            if one.take_portion():
                self._waiting[one] = None
            if loop.time() >= ends_s:
                break


class InPortions(asyncio.Protocol):
    """A protocol that takes what it is given a portion at a time."""

    __slots__ = ("_later", "_portions", "_transport", "as_whole")
    PORTION: Final = 8 * 1024  # bytes; a stream of an answer brings less at once

    def __init__(self, portions: Portions) -> None:
        self._portions = portions
        self._later = bytearray()  # what waits; nothing more is read meanwhile
        self._transport: asyncio.Transport
        self.as_whole = False  # whether nobody works on a portion before all have come

    def wanted(self) -> bool | None:
        """Whether more is to be taken now; None for nothing of what waits, ever."""
        raise NotImplementedError

    def take_later(self, data: bytes) -> None:
        """Take what came a portion at a time, when it is this connection's turn."""
        waits = bool(self._later)
        self._later += data
        if not waits:
            self._transport.pause_reading()
            self._portions.add(self)

    def take_portion(self) -> bool:
        """Take parts of what waits for a while; return whether more waits that may be taken now."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + OWN_S
        while self._take_portion():
            if not self.as_whole or loop.time() >= ends_s:
                return True
        return False

    def _take_portion(self) -> bool:
        later = self._later
        portion = bytes(later[: self.PORTION])
        del later[: self.PORTION]
        if portion:
            self.take(portion)
        wanted = self.wanted()
        if wanted is None:
            later.clear()
        if not later and wanted is not False and not self._transport.is_closing():
            self._transport.resume_reading()
        return bool(wanted and later)

    def take_rest(self) -> None:
        """Take all that waits: nothing more will come."""
        while self._later:
            self.take_portion()

    def go_on(self) -> None:
        """Read on, first what waits."""
        if self._later:
            self._portions.add(self)
        elif not self._transport.is_closing():
            self._transport.resume_reading()

    def take(self, data: bytes) -> None:
        """Take what came."""
        raise NotImplementedError
