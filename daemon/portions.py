"""Bodies in chunks are read a part at a time, and for a few milliseconds of each turn of the loop.

The parser takes 5 us for each chunk, whatever is in it: one read of chunks of a byte, 256 KiB,
takes it a quarter of a second. Twenty connections, which need no key for that, held up everybody
else for minutes, and with what the system had taken in of them for an hour. So what may be chunks
waits its turn here, and those who send it take turns.
"""

from typing import Any, Final

from aiohttp import web
from aiohttp.web_server import Server

from tollway.providers.http.portions import OWN_S, Portions

PORTION: Final = 4 * 1024  # bytes that are read at once: 3 ms, of the smallest chunks


class InPortions(web.RequestHandler):
    """aiohttp's protocol, with a way to take a portion at a time of what has come."""

    __slots__ = ("_later", "_portions")

    def __init__(self, portions: Portions, server: Server, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._portions = portions
        self._later = bytearray()  # what waits; nothing more is read meanwhile

    def take(self, data: bytes) -> None:
        """Take what came."""
        super().data_received(data)

    def take_later(self, data: bytes) -> None:
        """Take what came a portion at a time, when it is this connection's turn."""
        waits = bool(self._later)
        self._later += data
        if not waits:
            self._pause_transport_reading()
            self._portions.add(self)

    def at_once(self) -> int:
        """Return how many bytes take no longer than so many do at most."""
        return PORTION

    def take_portion(self) -> bool:
        """Take parts of what waits for a while; return whether more waits that may be taken now."""
        ends_s = self._loop.time() + OWN_S
        while self._take_portion():
            if self._loop.time() >= ends_s:
                return True
        return False

    def _take_portion(self) -> bool:
        if self.transport is None:
            return False
        size = self.at_once()
        portion = bytes(self._later[:size])
        del self._later[:size]
        self.take(portion)
        if self._reading_paused or self._buffer_paused:
            return False  # until whoever reads the body, or answers, resumes it
        if not self._later:
            super()._resume_transport_reading()
        return bool(self._later)

    def _resume_transport_reading(self) -> None:
        if self._later:
            self._portions.add(self)
        else:
            super()._resume_transport_reading()
