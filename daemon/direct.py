"""A model call on its connection: the request as the gate reads it, the answer as it writes it.

Calls do not pass through aiohttp's request, router and response, which together took more time
than all that the gate does; aiohttp parses, and answers every other path.
"""

import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import StreamReader, hdrs, web
from aiohttp.http import HttpVersion, HttpVersion11
from aiohttp.http_parser import RawRequestMessage
from multidict import MultiMapping

from tollway.daemon.body import read, refuse_unread
from tollway.daemon.ids import new_id
from tollway.daemon.state import GUARD, Trace
from tollway.providers.errors import GatewayError

if TYPE_CHECKING:
    from tollway.daemon.connection import Connection

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_LINE = "\r\n"
_TYPE = "content-type"
_NO_TYPE = "Content-Type: application/octet-stream\r\n"

Headers = tuple[tuple[str, str], ...]


class Direct:
    """One call. It is answered by `whole`, or by `begin`, `write` as often as needed, and `end`."""

    method = "POST"

    def __init__(
        self,
        connection: "Connection",
        app: web.Application,
        message: RawRequestMessage,
        payload: StreamReader,
    ) -> None:
        self.app = app
        self.daemon = connection.daemon
        self.owner = connection.owner  # whether it comes by the admin socket
        self.trace = Trace(new_id())
        self.headers: MultiMapping[str] = message.headers
        self.raw_path: str = message.path
        self.path = self.raw_path.partition("?")[0]
        self.transport = connection.transport
        self.status = 0  # of the answer, once it has begun
        self.full = connection.writing_paused  # the client reads more slowly than it is written to
        self.drained: Callable[[], None] | None = None  # called when `full` has ended
        self._connection = connection
        self._message = message
        self.keep_alive = self._reusable()
        self._payload = payload
        self.version: HttpVersion = message.version
        self._new = message.version >= HttpVersion11
        self.takes_chunks = False  # the answer, which has begun, is made of chunks
        self._held = 0  # bytes of the body, which counts in the room for all
        self._expected = self.headers.get(hdrs.EXPECT)
        if self._expected and not payload.is_eof():
            # Who hears no before it has sent its body may never send it: what came next would be
            # taken for that.
            self.keep_alive = False

    @property
    def query(self) -> MultiMapping[str] | None:
        """What stands behind the path's `?`, or None where nothing does."""
        return self._message.url.query if "?" in self.raw_path else None

    async def read(self) -> bytes:
        """Return the whole body; limits and errors are those of `body.read`."""
        if self._expected:
            if self._expected.lower() != "100-continue":
                refused = GatewayError("The request expects what the gateway does not do")
                refused.status, refused.code = 417, "expectation_failed"
                raise refused
            refuse_unread(self.app, self.headers)  # who asks first need not send it
            if self._new and not self._payload.is_eof():
                self._connection.send(_CONTINUE)
            self.keep_alive = self._reusable()
        return await read(self.app, self.headers, self._payload, self._take)

    def _reusable(self) -> bool:
        return not self._message.should_close and not self._message.upgrade

    def _take(self, size: int) -> None:
        self.daemon.room.take(size, self.trace.key, self._held)
        self._held += size

    def release(self) -> None:
        """Give back what the body took; the call is over."""
        if self._held:
            self.daemon.room.give_back(self._held, self.trace.key)
            self._held = 0

    def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Write an answer in one piece."""
        self._connection.send(
            self._head(status, headers, f"Content-Length: {len(body)}\r\n") + body
        )

    def begin(self, status: int, headers: Headers) -> None:
        """Write the head of an answer whose length is not known."""
        self.takes_chunks = self._new
        if not self._new:
            self.keep_alive = False  # its end is the connection's
        how = "Transfer-Encoding: chunked\r\n" if self._new else ""
        self._connection.send(self._head(status, headers, how))

    def write(self, data: bytes) -> None:
        """Write a piece of the body. An empty one is none: it would be the end."""
        # As `send` does it; one call less for each event of each stream.
        transport = self._connection.transport
        if data and transport is not None and not transport.is_closing():
            transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self.takes_chunks else data)

    def pass_on(self, chunk: bytes) -> bool:
        """Write a piece of the body that is a chunk already; return whether too much is unread."""
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(chunk)
        return self.full

    def end(self) -> None:
        """Write the end of the body."""
        if self.takes_chunks:
            self._connection.send(_LAST_CHUNK)

    def _head(self, status: int, headers: Headers, how: str) -> bytes:
        """Return the head; a value with a line end in it would be a header more.

        Raises:
            ValueError: There is one.
        """
        if self.daemon.leaving:
            self.keep_alive = False
        if hdrs.ORIGIN in self.headers:
            headers = (*headers, *self.app[GUARD].cors(self.headers[hdrs.ORIGIN]))
        lines, typed = [], False
        for name, value in headers:
            lines.append(f"{name}: {value}")
            if len(name) == len(_TYPE) and name.lower() == _TYPE:
                typed = True
        said = "".join(lines)
        if "\n" in said or "\r" in said or "\0" in said:
            raise ValueError("a header's value holds a line break or NUL")
        lines.append("")  # for the end of the last one
        call_id = self.trace.call_id
        text = (
            f"{_status_line(status)}{_LINE.join(lines)}"
            f"{'' if typed else _NO_TYPE}{how}Date: {_date(int(time.time()))}\r\n"
            f"Server: tollway\r\nx-tollway-request-id: {call_id}\r\nx-request-id: {call_id}\r\n"
        )
        if not self.keep_alive:
            text += "Connection: close\r\n"
        elif not self._new:
            text += "Connection: keep-alive\r\n"
        self.status = status
        # Headers come as latin-1 and go as the bytes that they came as.
        return f"{text}\r\n".encode("latin-1", "replace")


Serve = Callable[[Direct], Awaitable[None]]


@lru_cache(maxsize=256)  # bounded: providers choose the status
def _status_line(status: int) -> str:
    try:
        return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
    except ValueError:
        return f"HTTP/1.1 {status} \r\n"


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
