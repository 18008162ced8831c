"""How many requests begin in one turn of the event loop, and whose.

What is under way needs some ten turns of the loop to its end. With a thousand clients that ask
at once, each turn would first answer all of them, and those who were let in would wait a
thousand refusals' time ten times. So only a few begin in each, and the rest wait; whoever sends
the same credentials waits in one line, and the lines take turns, so that a key that floods the
gateway does not hold up another's call.

Only while somebody is refused: where all are let in, there is nobody to put before another, and
to begin so few in each turn takes a fifth more CPU a call.
"""

import asyncio
from collections import OrderedDict, deque
from contextlib import suppress
from ipaddress import IPv6Address, IPv6Network
from typing import Final

from aiohttp import hdrs
from multidict import MultiMapping

_CALM_S: Final = 0.25  # so long after a refusal all begin at once again
_EACH: Final = 4  # half a millisecond's work where all are refused
# Names of this type, aiohttp's own, are compared without folding their case each time.
_CREDENTIALS: Final = tuple(
    type(hdrs.AUTHORIZATION)(name)
    for name in ("Authorization", "x-tollway-key", "x-api-key", "api-key", "x-goog-api-key")
)


def client_of(peer: object) -> str:
    """Return what one client is told apart by: its address, or its network's where it has many."""
    if not isinstance(peer, tuple) or not peer:
        return ""
    address = str(peer[0]).partition("%")[0]
    if ":" in address:
        with suppress(ValueError):
            # A host of IPv6 has all the addresses of its /64.
            whole = IPv6Address(address)
            return str(whole.ipv4_mapped or IPv6Network((int(whole) >> 64 << 64, 64)))
    return address


def line_of(client: str, headers: MultiMapping[str]) -> int:
    """Return in which line a request waits: by its client and what it says of who it is."""
    return hash((client, *[headers.get(name) for name in _CREDENTIALS]))


class Turns:
    """Says when a request may begin."""

    __slots__ = ("_calm_s", "_each", "_left", "_lines", "_loop", "_running", "_until_s")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, each: int = _EACH, calm_s: float = _CALM_S
    ) -> None:
        self._loop = loop
        self._calm_s = calm_s
        self._until_s = 0.0  # by the loop's clock, there is a crowd
        self._each = self._left = each
        self._running = False  # whether `_next` is called in the loop's next turn
        # At most one waits for each connection.
        self._lines: OrderedDict[int, deque[asyncio.Future[None]]] = OrderedDict()

    def free(self) -> bool:
        """Whether a request may begin now; it does, then. Else it is to `wait`."""
        if not self._lines and self._loop.time() >= self._until_s:
            return True
        if not self._left:
            return False
        self._left -= 1
        if not self._running:
            self._running = True
            self._loop.call_soon(self._next)
        return True

    def refused(self) -> None:
        """Take note that a request was refused: others may be about to follow it."""
        self._until_s = self._loop.time() + self._calm_s

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
