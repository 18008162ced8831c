"""Names to addresses: each name is looked up once for all who wait for it.

Look-ups share four threads of the event loop, and one that the resolver leaves hanging keeps its
thread for seconds, whoever has given up on it meanwhile. With one for each call, four calls to a
provider whose name is not answered for would keep every other provider from being found.
"""

import asyncio
import socket
from functools import partial
from itertools import chain, zip_longest
from typing import Any

from tollway.providers.http.route import Place

# (family, type, protocol, canonical name, address), as getaddrinfo has it
Address = tuple[int, int, int, str, tuple[Any, ...]]
_At = tuple[str, int]


class Names:
    """Looks names up. Nothing is kept: the system's resolver knows for how long it may."""

    def __init__(self) -> None:
        self._asked: dict[_At, asyncio.Future[list[Address]]] = {}

    async def find(self, to: Place) -> list[Address]:
        """Return a place's addresses, IPv6 and IPv4 by turns, in the resolver's order.

        Raises:
            OSError: The name is not known, or nobody answers for it.
        """
        found = _numeric(to) or await self._look_up((to.host, to.port))
        ours = [info for info in found if info[0] == found[0][0]]
        others = [info for info in found if info[0] != found[0][0]]
        return [info for info in chain(*zip_longest(ours, others)) if info]

    async def _look_up(self, at: _At) -> list[Address]:
        asked = self._asked.get(at)
        if asked is None:
            asked = self._asked[at] = asyncio.ensure_future(_resolved(*at))
            asked.add_done_callback(partial(self._answered, at))
        # Who has waited for long enough leaves; the thread cannot, and the next one waits for it.
        return await asyncio.shield(asked)

    def _answered(self, at: _At, asked: asyncio.Future[list[Address]]) -> None:
        del self._asked[at]
        if not asked.cancelled():
            asked.exception()  # looked at, also where nobody waits any more

    async def close(self) -> None:
        """Wait for no answer any more."""
        left = tuple(self._asked.values())
        for one in left:
            one.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _numeric(to: Place) -> list[Address]:
    """Return what an address stands for, which needs no resolver and so no thread; else nothing."""
    how = socket.AI_NUMERICHOST
    try:
        return [*socket.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM, flags=how)]
    except socket.gaierror:
        return []


async def _resolved(host: str, port: int) -> list[Address]:
    loop = asyncio.get_running_loop()
    return [*await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
