"""How much memory the bodies of all calls may take together."""

import os

from tollway.daemon.errors import Overloaded

_LEAST = 256 * 2**20


class Room:
    """The memory that the bodies of all calls under way may take together.

    One caller with a key could else fill the machine: a thousand connections, each with as much
    as `server.max_body` lets it send.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0

    def take(self, size: int) -> None:
        """Set so many bytes aside.

        Raises:
            Overloaded: There is not so much left; nothing was taken.
        """
        if self.held + size > self.most:
            raise Overloaded(
                f"The bodies of the calls under way take {self.held >> 20} MiB already,"
                " all that there is for them",
                hint="Send fewer long prompts at once",
            )
        self.held += size

    def give_back(self, size: int) -> None:
        """Set them free."""
        self.held -= size


def room_for_bodies() -> Room:
    """Return an eighth of this machine's memory: each body is held, parsed and sent again."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Room(max(_LEAST, memory // 8))
