"""Connections that are not taken in: they are told why, and stay until that can have been read.

Closed while what its client has sent lies unread, a connection is reset, and the refusal with it.
"""

import asyncio
from http import HTTPStatus
from math import inf

from tollway.daemon.ids import new_id
from tollway.providers.dialects import openai_chat
from tollway.providers.errors import GatewayError

# Half of the files that `raise_file_limit` leaves for all else, where there are many: the rest are
# closed at once.
_MOST, _LEAST = 64, 4


class Parting:
    """Those that were refused and have not gone yet."""

    def __init__(self, connections: int) -> None:
        """Let some stay, a quarter of the `connections` that there are files for at most."""
        self._most = min(_MOST, max(_LEAST, connections // 4))
        self._until: dict[object, tuple[float, asyncio.Transport]] = {}  # bounded by `refuse`

    @property
    def staying(self) -> int:
        """How many there are."""
        return len(self._until)

    def refuse(
        self, one: object, transport: asyncio.Transport, answer: bytes, within_s: float
    ) -> None:
        """Send the refusal, and read on for a while; `forget` and `end` are to be called."""
        transport.write(answer)
        if len(self._until) >= self._most:
            transport.close()
            return
        if transport.can_write_eof():  # not over TLS
            transport.write_eof()
        self._until[one] = (asyncio.get_running_loop().time() + within_s, transport)

    def forget(self, one: object) -> None:
        """Take note that a connection is lost, if it is one of these."""
        self._until.pop(one, None)

    def end(self, now: float = inf) -> None:
        """Hang up on those whose time has passed."""
        for until, transport in tuple(self._until.values()):
            if until <= now:
                transport.abort()


def too_many(why: str, status: int) -> bytes:
    """Return the whole answer to a connection that is not taken in."""
    error = GatewayError(why, hint="Close those that you do not use, and try again later")
    error.status, error.code = status, "too_many_connections"
    body = openai_chat.DIALECT.write_error(error, new_id())
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nRetry-After: 1\r\n"
        "Content-Type: application/json\r\nServer: tollway\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
