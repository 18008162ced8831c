"""Names to addresses: each name is looked up once for all who wait for it.

A look-up that the resolver leaves hanging keeps its thread for as long as it likes, whoever has
given up on it meanwhile. So each name has a thread of its own while it is looked up, and at most
one: neither how often it is asked for nor which other names hang keeps a name from being found.
"""

import asyncio
import errno
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import chain, zip_longest
from typing import Any

from tollway.providers.http.route import Place

# (family, type, protocol, canonical name, address), as getaddrinfo has it
Address = tuple[int, int, int, str, tuple[Any, ...]]
Resolver = Callable[[str], list[Address]]

THREAD = "look-up"
_MOST_THREADS = 64  # names come from the file: so many of them hang only where all names do


def resolve(host: str) -> list[Address]:
    """Return what the system's resolver says a name stands for, with 0 as the port.

    Raises:
        OSError: The name is not known, or nobody answers for it.
    """
    return [*socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)]


class Names:
    """Looks names up. Nothing is kept: the system's resolver knows for how long it may."""

    def __init__(self, resolver: Resolver = resolve, *, most_threads: int = _MOST_THREADS) -> None:
        self._resolver = resolver
        self._most_threads = most_threads
        self._threads = 0
        self._asked: dict[str, asyncio.Future[list[Address]]] = {}
        self._waiting: deque[str] = deque()  # for a thread; each is one of the asked

    async def find(self, to: Place) -> list[Address]:
        """Return a place's addresses, IPv6 and IPv4 by turns, in the resolver's order.

        Raises:
            OSError: The name is not known, or nobody answers for it.
        """
        found = _numeric(to.host) or await self._look_up(to.host)
        found = [(*info[:4], (info[4][0], to.port, *info[4][2:])) for info in found]
        ours = [info for info in found if info[0] == found[0][0]]
        others = [info for info in found if info[0] != found[0][0]]
        return [info for info in chain(*zip_longest(ours, others)) if info]

    async def _look_up(self, host: str) -> list[Address]:
        asked = self._asked.get(host)
        if asked is None:
            asked = self._asked[host] = asyncio.get_running_loop().create_future()
            self._waiting.append(host)
            self._begin()
        # Who has waited for long enough leaves; the thread cannot, and the next one waits for it.
        return await asyncio.shield(asked)

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and self._threads < self._most_threads:
            host = self._waiting.popleft()
            # A daemon, for the process does not end before any other thread has; and the threads
            # of a pool, the event loop's own included, are waited for in the same way.
            thread = threading.Thread(target=self._run, args=(loop, host), name=THREAD, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no thread left for us
                self._tell(host, [], OSError(errno.EAGAIN, "no thread is left to look it up"))
            else:
                self._threads += 1

    def _run(self, loop: asyncio.AbstractEventLoop, host: str) -> None:
        found: list[Address] = []
        fault: OSError | None = OSError(errno.EIO, "the look-up failed")
        try:
            found = self._resolver(host)
            fault = None
        except OSError as why:
            fault = why
        finally:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._answered, host, found, fault)

    def _answered(self, host: str, found: list[Address], fault: OSError | None) -> None:
        self._threads -= 1
        self._tell(host, found, fault)
        self._begin()

    def _tell(self, host: str, found: list[Address], fault: OSError | None) -> None:
        asked = self._asked.pop(host, None)
        if asked is None:
            return  # it was closed meanwhile
        if fault is None:
            asked.set_result(found)
        else:
            asked.set_exception(fault)
            asked.exception()  # looked at, also where nobody waits any more

    def close(self) -> None:
        """Wait for no answer any more; who does hears that we are stopping."""
        self._waiting.clear()
        for host in tuple(self._asked):
            self._tell(host, [], OSError(errno.ECANCELED, "the gateway is stopping"))


def _numeric(host: str) -> list[Address]:
    """Return what an address stands for, which needs no resolver and so no thread; else nothing.

    Raises:
        OSError: It can be no name either.
    """
    try:
        return [*socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)]
    except socket.gaierror:
        return []
    except UnicodeError as fault:  # an empty label, or one of more than 63 bytes
        raise socket.gaierror(socket.EAI_NONAME, "that can be no name") from fault
