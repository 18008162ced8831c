"""One client's connection: aiohttp's, with limits on silence, slowness and number.

aiohttp has no time-out for the head of a request, none for a client that stops reading its
answer, and no cap on connections. One sweep a second covers all connections: a timer for each
would cost more than it saves.
"""

import asyncio
import logging
from functools import partial
from typing import cast

import msgspec
from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_server import Server

from tollway.daemon.body import Request
from tollway.daemon.ids import new_id
from tollway.daemon.tasks import Tasks
from tollway.providers.dialects import openai_chat
from tollway.providers.errors import GatewayError, RequestInvalid

log = logging.getLogger(__name__)

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: 0\r\n\r\n"
)
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class EdgeLimits(msgspec.Struct, frozen=True):
    """How long clients may take, in seconds, and how many connections they may hold.

    `head_s` from a connection's start, or a head's first byte, to the end of the head; `idle_s`
    between two requests; `body_idle_s` between two pieces of a body; `unread_s` without reading
    any of the answer that waits for it; `linger_s` to go on sending a body that was refused.
    """

    head_s: float = 30.0
    idle_s: float = 75.0
    body_idle_s: float = 60.0
    unread_s: float = 120.0
    linger_s: float = 2.0
    connections: int = 10_000
    sweep_s: float = 1.0


class Connections:
    """All connections of one daemon; makes the protocol of each new one."""

    def __init__(self, limits: EdgeLimits, tasks: Tasks) -> None:
        self.limits = limits
        self.open: set[Connection] = set()
        self._sweeper = tasks.start(self._sweep(), name="connection sweep")

    def factory(self, server: Server) -> "partial[Connection]":
        """Return what asyncio calls for each connection to one application's server."""
        server.request_factory = _request
        return partial(Connection, self, server)

    def close(self) -> None:
        """End the sweep."""
        self._sweeper.cancel()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self.limits.sweep_s)
            now = asyncio.get_running_loop().time()
            for connection in tuple(self.open):
                connection.judge(now)


class Connection(web.RequestHandler):
    """aiohttp's protocol for one connection, watched for slowness."""

    __slots__ = ("_all", "_head_since", "_refused", "_unread_since")

    def __init__(self, every: Connections, server: Server) -> None:
        limits = every.limits
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=limits.idle_s,
            lingering_time=limits.linger_s,
            access_log=None,  # type: ignore[arg-type] # None turns it off: middleware.py logs
            tcp_keepalive=True,
        )
        self._all = every
        self._head_since = 0.0  # when the head that is not whole yet began; 0 for none
        self._unread_since = 0.0
        self._refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless there are too many connections already."""
        transport = cast(asyncio.Transport, transport)  # uvloop's has no common base
        if len(self._all.open) >= self._all.limits.connections:
            self._refused = True
            transport.write(_FULL)
            transport.close()
            return
        self._all.open.add(self)
        self._head_since = self._loop.time()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take what came; a head that is still not whole starts the clock."""
        if self._refused:
            return
        super().data_received(data)
        waiter = self._waiter
        if waiter is None or waiter.done():
            self._head_since = 0.0
        elif not self._head_since:
            self._head_since = self._loop.time()

    def pause_writing(self) -> None:
        """Note that the client has stopped reading."""
        super().pause_writing()
        self._unread_since = self._loop.time()

    def resume_writing(self) -> None:
        """Note that it reads again."""
        super().resume_writing()
        self._unread_since = 0.0

    def connection_lost(self, exc: BaseException | None) -> None:
        """End; the handler, if one runs, is cancelled."""
        self._all.open.discard(self)
        super().connection_lost(exc)

    def judge(self, now: float) -> None:
        """End the connection if its client has been slow for too long."""
        limits = self._all.limits
        transport = self.transport
        if transport is None:
            return
        if self._head_since and now - self._head_since > limits.head_s:
            transport.write(_TOO_SLOW)
            self.force_close()
        elif self._unread_since and now - self._unread_since > limits.unread_s:
            # Not close(): that waits for the client to read what is buffered.
            transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to what is no HTTP, or to a fault outside of every middleware.

        Nothing of `exc` or `message` goes out or is logged for the former: both quote what was
        sent, which may be a key.
        """
        if status >= 500:
            log.error("a request failed outside of its handler", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer had begun")
        error = GatewayError("Something went wrong in the gateway")
        if isinstance(exc, LineTooLong):
            error = RequestInvalid("The request's target or a header is too long")
            status = 431
        elif status < 500:
            error = RequestInvalid("The request is not well-formed HTTP/1.1")
        call_id = new_id()
        answer = web.Response(
            status=status,
            body=openai_chat.DIALECT.write_error(error, call_id),
            content_type="application/json",
            headers={
                "Server": "tollway",
                "x-tollway-request-id": call_id,
                "x-request-id": call_id,
            },
        )
        answer.force_close()
        return answer


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: "asyncio.Task[None]",
) -> Request:
    if message.compression:
        # What is left of a refused body is read and dropped for a while, and would be unpacked
        # for that: a megabyte of it can be a gigabyte, and be sent without a key. `Request.read`,
        # which only known callers reach, takes this back, so that they hear why.
        protocol._lingering_time = 0.0
    return Request(message, payload, protocol, writer, task, asyncio.get_running_loop())
