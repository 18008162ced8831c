"""How much memory the bodies of all calls may take together."""

import os
import resource

from tollway.daemon.errors import Overloaded
from tollway.providers.errors import RequestTooLarge
from tollway.providers.llamacpp.fit import total_memory

_ENOUGH = 256 * 2**20
_OWN = 96 * 2**20  # that the daemon takes with no body at all, and some more


class Room:
    """The memory that the bodies of all calls under way may take together.

    One caller with a key could else fill the machine: a thousand connections, each with as much
    as `server.max_body` lets it send. Nor may one key keep the others out: a quarter is theirs.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0
        self._by: dict[str, int] = {}  # by the key's name; none of a key that holds nothing

    def take(self, size: int, key: str, before: int) -> None:
        """Set so many bytes aside for a key's call, "" for the owner's, beside those `before`.

        Raises:
            RequestTooLarge: The call is alone more than there is for it at any time.
            Overloaded: There is not so much left for it. Nothing was taken in either case.
        """
        own = self._by.get(key, 0) + size
        most = self.most * 3 // 4 if key else self.most
        if before + size > most:
            raise RequestTooLarge(
                f"The request's body is over the {most:,} bytes of memory that there are for it",
                hint="They are a part of what the machine, container or unit gives the daemon",
            )
        if self.held + size > self.most:
            raise _full("the calls", self.held, "all that there is for them")
        if own > most:
            raise _full("this key's calls", own - size, "all that one key may take")
        self.held += size
        self._by[key] = own

    def give_back(self, size: int, key: str) -> None:
        """Set them free."""
        self.held -= size
        if left := self._by.pop(key, 0) - size:
            self._by[key] = left


def _full(whose: str, held: int, limit: str) -> Overloaded:
    return Overloaded(
        f"The bodies of {whose} under way take {held >> 20} MiB already, {limit}",
        hint="Send fewer long prompts at once",
    )


def room_for_bodies() -> Room:
    """Return the room in the memory that this process may have.

    That is the machine's, or what a container, a unit of systemd or `ulimit -v` leaves of it.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    memory = min(total_memory() or machine, machine)
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space >= 0:
        memory = min(memory, address_space // 2)  # of which stacks and libraries take the other
    return Room(part_of(memory))


def part_of(memory: int) -> int:
    """Return how many bytes of so much memory bodies may take: an eighth, of little up to a fifth.

    Each is held, read, said anew in another dialect and sent: nearly four times its length,
    measured with images of 20 MB. But some long prompts must find room at once.
    """
    left = max(memory - _OWN, memory // 4)
    return max(min(_ENOUGH, left // 5), left // 8)
