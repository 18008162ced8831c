"""How many requests begin in one turn of the event loop, and whose.

What is under way needs some ten turns of the loop to its end. With a thousand clients that ask
at once, each turn would first answer all of them, and those who were let in would wait a
thousand refusals' time ten times. So only a few begin in each, and the rest wait; whoever sends
the same credentials waits in one line, and the lines take turns, so that a key that floods the
gateway does not hold up another's call.
"""

import asyncio
from collections import OrderedDict, deque
from typing import Final

from aiohttp import hdrs
from multidict import MultiMapping

_EACH: Final = 4  # half a millisecond's work where all are refused
# Names of this type, aiohttp's own, are compared without folding their case each time.
_CREDENTIALS: Final = tuple(
    type(hdrs.AUTHORIZATION)(name)
    for name in ("Authorization", "x-tollway-key", "x-api-key", "api-key", "x-goog-api-key")
)


def line_of(client: str, headers: MultiMapping[str]) -> int:
    """Return in which line a request waits: by its client and what it says of who it is."""
    return hash((client, *[headers.get(name) for name in _CREDENTIALS]))


class Turns:
    """Says when a request may begin."""

    __slots__ = ("_each", "_left", "_lines", "_loop", "_running")

    def __init__(self, loop: asyncio.AbstractEventLoop, each: int = _EACH) -> None:
        self._loop = loop
        self._each = self._left = each
        self._running = False  # whether `_next` is called in the loop's next turn
        # At most one waits for each connection.
        self._lines: OrderedDict[int, deque[asyncio.Future[None]]] = OrderedDict()

    def free(self) -> bool:
        """Whether a request may begin now; it does, then. Else it is to `wait`."""
        if not self._left:
            return False
        self._left -= 1
        if not self._running:
            self._running = True
            self._loop.call_soon(self._next)
        return True

    async def wait(self, line: int) -> None:
        """Return when it is this line's turn, and this request the first of it."""
        mine = self._loop.create_future()
        self._lines.setdefault(line, deque()).append(mine)
        await mine

    def _next(self) -> None:
        left = self._each
        while left and self._lines:
            line, waiting = self._lines.popitem(last=False)
            first = waiting.popleft()
            if waiting:
                self._lines[line] = waiting  # behind all others
            if not first.done():  # its client has not left
                first.set_result(None)
                left -= 1
        # Once nobody begins there is nothing to count.
        self._running = left < self._each
        self._left = left
        if self._running:
            self._loop.call_soon(self._next)
