"""One client's connection: aiohttp's, with limits on silence, slowness and number.

aiohttp has no time-out for the head of a request, none for a client that stops reading its
answer, and no cap on connections. One sweep a second covers all connections: a timer for each
would cost more than it saves.
"""

import asyncio
import heapq
import logging
from contextlib import suppress
from functools import partial
from typing import Any, cast

import msgspec
from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import StreamWriter
from aiohttp.web_protocol import ERROR
from aiohttp.web_server import Server

from tollway.daemon.body import Request
from tollway.daemon.config.schema import Server as ServerTable
from tollway.daemon.direct import Direct, Serve
from tollway.daemon.heads import Behind
from tollway.daemon.ids import new_id
from tollway.daemon.middleware import direct
from tollway.daemon.parting import Parting, too_many
from tollway.daemon.portions import PORTION, InPortions
from tollway.daemon.process import UNLIMITED
from tollway.daemon.state import CALLS, DAEMON, OWNER
from tollway.daemon.tasks import Tasks
from tollway.daemon.turns import Turns, client_of, line_of
from tollway.providers.dialects import openai_chat
from tollway.providers.errors import GatewayError, RequestInvalid
from tollway.providers.http.portions import Portions
from tollway.providers.words import counted

log = logging.getLogger(__name__)

_MOST_OWNERS = 256  # connections on the admin socket, which no client can use up
_LOOK_AGAIN_S = 0.2
_PART = 100  # of the connections at most are closed at once to make room, as 1/_PART
_UNREAD = 256 * 1024  # bytes that a client has not read before what is written waits for it
_MANY_HEADERS = "Too many headers received"  # how aiohttp says that
_ANSWERED = ConnectionError("the request was answered")
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class EdgeLimits(msgspec.Struct, frozen=True):
    """How long clients may take, in seconds, and how many connections they may hold.

    `head_s` from a connection's start, or a head's first byte, to the end of the head; `idle_s`
    between two requests; `body_idle_s` between two pieces of a body; `unread_s` without reading
    any of the answer that waits for it; `linger_s` to go on sending what was refused.
    `connections` is what the system's limit on open files allows. A connection that has been idle
    for `spare_s` is closed where another needs its place. A daemon that makes way for another
    lets a client alone that has said nothing for `still_s`, or for `new_s` since it connected: a
    first request may be on its way, on a machine that has much to do.
    """

    head_s: float = 30.0
    idle_s: float = 75.0
    body_idle_s: float = 60.0
    unread_s: float = 120.0
    linger_s: float = 2.0
    connections: int = UNLIMITED
    spare_s: float = 5.0
    sweep_s: float = 1.0
    still_s: float = 0.25
    new_s: float = 2.0


class Connections:
    """All connections of one daemon; makes the protocol of each new one."""

    def __init__(self, limits: EdgeLimits, tasks: Tasks) -> None:
        self.limits = limits
        self.open: set[Connection] = set()  # bounded by `admit`, as are the counts
        self.refused = 0
        self._owners = 0
        self._none_spare_until: dict[str | None, float] = {}  # emptied by each sweep
        self._clients: dict[str, int] = {}
        self.parting = Parting(limits.connections)
        self.turns = Turns(asyncio.get_running_loop())
        self.portions = Portions()
        self._sweeper = tasks.start(self._sweep(), name="connection sweep")

    @property
    def public(self) -> int:
        """How many connections there are, those of the admin socket aside."""
        return len(self.open) - self._owners

    def admit(self, one: "Connection", server: ServerTable) -> bytes | None:
        """Take a connection in, or return the answer that refuses it."""
        if one.owner:
            if self._owners >= _MOST_OWNERS:
                return too_many("The admin socket has too many connections", 503)
            self._owners += 1
            self.open.add(one)
            return None
        most = min(server.max_connections, self.limits.connections)
        if self.public >= most and not self._make_room(max(1, most // _PART)):
            self.refused += 1
            return too_many(f"The gateway has its {counted(most, 'connection')}", 503)
        # A proxy is one client that stands for all.
        if one.client and not server.behind_proxy:
            most = server.max_connections_per_client
            if self._clients.get(one.client, 0) >= most and not self._make_room(1, one.client):
                self.refused += 1
                return too_many(
                    f"Your address has {counted(most, 'connection')} to the gateway", 429
                )
        self._clients[one.client] = self._clients.get(one.client, 0) + 1
        self.open.add(one)
        return None

    def leave(self, one: "Connection") -> None:
        """Forget a connection; one that was never taken in, or has left, is none."""
        self.parting.forget(one)
        if one not in self.open:
            return
        self.open.discard(one)
        if one.owner:
            self._owners -= 1
        elif (left := self._clients.get(one.client, 1) - 1) > 0:
            self._clients[one.client] = left
        else:
            self._clients.pop(one.client, None)

    def still(self) -> bool:
        """Whether no client has said anything for a while, or waits for an answer."""
        now, limits = asyncio.get_running_loop().time(), self.limits
        return all(
            one.owner or one.idle_s(now) >= (limits.still_s if one.has_asked else limits.new_s)
            for one in self.open
        )

    def _make_room(self, most: int, client: str | None = None) -> int:
        """Close those that have been idle the longest, of one client or of all."""
        now = asyncio.get_running_loop().time()
        if now < self._none_spare_until.get(client, 0.0):
            return 0
        spare = [
            one
            for one in self.open
            if not one.owner
            and client in (None, one.client)
            and one.idle_s(now) >= self.limits.spare_s
        ]
        if not spare:
            # To look through ten thousand for each that knocks would be what an attacker wants.
            self._none_spare_until[client] = now + _LOOK_AGAIN_S
        for one in heapq.nlargest(most, spare, key=lambda one: one.idle_s(now)):
            self.leave(one)
            one.close_idle()
        return len(spare)

    def factory(self, app: web.Application, server: Server) -> "partial[Connection]":
        """Return what asyncio calls for each connection to an application, run by `server`."""
        server.request_factory = _request
        return partial(Connection, self, app, server)

    def close(self) -> None:
        """End the sweep, and the connections that were refused."""
        self._sweeper.cancel()
        self.parting.end()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self.limits.sweep_s)
            now = asyncio.get_running_loop().time()
            self._none_spare_until.clear()
            for connection in tuple(self.open):
                connection.judge(now)
            self.parting.end(now)


class Connection(InPortions):
    """aiohttp's protocol for one connection, watched for slowness, with a way past it for calls."""

    __slots__ = (
        "_all",
        "_app",
        "_behind",
        "_call",
        "_half",
        "_head_since",
        "_idle_since",
        "_in_a_row",
        "_refused",
        "_unread_since",
        "calls",
        "client",
        "daemon",
        "owner",
    )

    def __init__(self, every: Connections, app: web.Application, server: Server) -> None:
        limits = every.limits
        super().__init__(
            every.portions,
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=limits.idle_s,
            lingering_time=limits.linger_s,
            access_log=None,  # None turns it off: middleware.py logs
            tcp_keepalive=True,
            # `body.read` undoes it, which only known callers reach: a megabyte can be a gigabyte.
            auto_decompress=False,
        )
        self._all = every
        self._app = app
        # Looked up once: an application's own look-up is a function of Python.
        self.owner = app[OWNER]
        self.daemon = app[DAEMON]
        self.calls = app[CALLS]
        self.client = ""  # who is at the other end, as far as its address tells
        self._idle_since = 0.0  # since when nothing has been asked; 0 while something is
        self._call: Direct | None = None  # the one that is being answered
        self._head_since = 0.0  # when the head that is not whole yet began; 0 for none
        self._behind = Behind()
        self._in_a_row = False  # whether requests have ever waited for those before them
        self._half = False  # whether a part of a head stands behind the requests that are whole
        self._unread_since = 0.0
        self._refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless there are too many connections already."""
        transport = cast(asyncio.Transport, transport)  # uvloop's has no common base
        self.client = "" if self.owner else client_of(transport.get_extra_info("peername"))
        refusal = self._all.admit(self, self.daemon.config.server)
        if refusal is not None:
            self._refused = True
            self._all.parting.refuse(self, transport, refusal, self._all.limits.linger_s)
            return
        self._head_since = self._idle_since = self._loop.time()
        transport.set_write_buffer_limits(_UNREAD)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take what came; what may be small chunks, a portion at a time."""
        at_once = self.at_once()
        if data and (self._later or self._behind.chunked):
            self.take_later(data)
        elif len(data) <= at_once:
            self.take(data)
        else:  # a head begins here, which says what is behind it
            self.take(data[:at_once])
            rest = data[at_once:]
            few = len(rest) <= self.at_once() and not self._behind.chunked
            (self.take if few else self.take_later)(rest)

    def at_once(self) -> int:
        """Return how many bytes are taken at once: all of a body whose length was said."""
        return max(PORTION, self._behind.left)

    def take(self, data: bytes) -> None:
        """Take what came; a head that is still not whole starts the clock."""
        if self._refused or self._close:
            return
        before = self._request_count
        super().data_received(data)
        waiter = self._waiter
        # A part of the first head may come before `start` has run at all: uvloop reads that soon.
        if (waiter is None or waiter.done()) and self._request_count:
            self._head_since = 0.0
            newest = None
            if self._request_count != before:
                newest = self._messages[-1]
                self._in_a_row = self._in_a_row or len(self._messages) > 1
            # Its time begins once all before it are answered: nobody is cut off meanwhile.
            if data or newest is not None:  # aiohttp feeds nothing where it reads on
                self._half = self._behind.feed(data, newest)
                if self._behind.broken:
                    self.close()
            return
        self._idle_since = 0.0  # a part of a head has come
        if not self._head_since:
            self._head_since = self._loop.time()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on where that was stopped; aiohttp asks for it with every body."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def pause_writing(self) -> None:
        """Note that the client has stopped reading."""
        super().pause_writing()
        self._unread_since = self._loop.time()
        if self._call is not None:
            self._call.full = True

    def resume_writing(self) -> None:
        """Note that it reads again."""
        super().resume_writing()
        self._unread_since = 0.0
        if self._call is not None:
            self._call.full = False
            if self._call.drained is not None:
                self._call.drained()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End; the handler, if one runs, is cancelled."""
        self._all.leave(self)
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

    @property
    def has_asked(self) -> bool:
        """Whether a whole head has come on it, and no part of the next one."""
        return not self._head_since

    def idle_s(self, now: float) -> float:
        """Return for how long nothing has been asked, in seconds; less than 0 while it is."""
        return now - self._idle_since if self._idle_since else -1.0

    def close_idle(self) -> None:
        """Hang up between two requests."""
        self.force_close()

    def send(self, data: bytes) -> None:
        """Write; nothing happens where the client has left."""
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    async def start(self) -> None:
        """Answer one request after the other: calls right here, all else by aiohttp.

        As in aiohttp's own, which this replaces, but for the task that it runs each request in.
        """
        try:
            while not self._force_close and await self._one():
                self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
                if self._keepalive_handle is None:
                    self._keepalive_handle = self._loop.call_at(
                        self._next_keepalive_close_time, self._process_keepalive
                    )
        except ConnectionError:
            pass  # the client left, or must be told that its answer has no end
        except BaseException:  # a cancel too: nobody will read what the client sends further
            self.force_close()
            raise
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    async def _one(self) -> bool:
        """Wait for a request and answer it; return whether there may be another.

        Raises:
            ConnectionError: There may not, and the answer is not whole.
        """
        if not self._messages:
            self._waiter = self._loop.create_future()
            if self._half:
                self._head_since = self._loop.time()
            elif self._idle_since or self._request_count:  # else a part of a head has come already
                self._idle_since = self._loop.time()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._idle_since = 0.0
        message, payload = self._messages.popleft()
        if not self.owner and not self._all.turns.free():
            await self._all.turns.wait(self._line(message))
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        elif self._in_a_row and not self._messages and not self._reading_paused:
            # The parser counts a request whose body came late once more than the queue does, and
            # keeps to itself what follows before the queue is full.
            self.data_received(b"")
        self._keepalive = await self._answer(message, payload)
        if not payload.is_eof():
            await self._pass_over(payload)
        payload.set_exception(_ANSWERED)
        return self._keepalive and not self._close

    def _line(self, message: Any) -> int:
        known = isinstance(message, RawRequestMessage)
        return line_of(self.client, message.headers) if known else 0

    async def _answer(self, message: Any, payload: StreamReader) -> bool:
        """Answer one request; return whether the connection may be used again."""
        if isinstance(message, RawRequestMessage) and message.method == "POST":
            serve = self.calls.get(message.path.partition("?")[0])
            if serve is not None:
                return await self._serve(serve, message, payload)
        handler, make, task = self._request_handler, self._request_factory, self._task_handler
        if handler is None or make is None or task is None:
            raise ConnectionResetError  # it was lost meanwhile
        if not isinstance(message, RawRequestMessage):
            handler, message = self._make_error_handler(message), ERROR
        request = make(message, payload, self, StreamWriter(self, self._loop), task)
        answer, left = await self._handle_request(request, None, handler)
        if left:
            raise ConnectionResetError
        if answer.status >= 400:
            self._all.turns.refused()
        return bool(answer.keep_alive)

    async def _serve(self, serve: Serve, message: RawRequestMessage, payload: StreamReader) -> bool:
        self._request_in_progress = True
        call = self._call = Direct(self, self._app, message, payload)
        try:
            await direct(call, serve)
        finally:
            self._call = None
            if call.status >= 400:
                self._all.turns.refused()
            # The answer's pipe and the call hold each other by it: the collector alone would
            # free them, and every body of a call with them.
            call.drained = None
            call.release()
            self._request_in_progress = False
            if self._handler_waiter is not None:
                self._handler_waiter.set_result(None)
        return call.keep_alive

    async def _pass_over(self, payload: StreamReader) -> None:
        """Read and drop what is left of a refused body, for a while; else hang up behind it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._lingering_time):
                if self._behind.broken:  # nothing more is read, but its sender may read why
                    self.resume_reading(resume_parser=False)
                    await self._loop.create_future()
                while not payload.is_eof():
                    await payload.readany()
        if not payload.is_eof():
            self.close()

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
        elif isinstance(exc, BadHttpMessage) and exc.message == _MANY_HEADERS:
            error = RequestInvalid("The request has too many headers")
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
    return Request(message, payload, protocol, writer, task, asyncio.get_running_loop())
