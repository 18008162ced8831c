"""Hands an answer from the upstream's task to the client: a stream's pieces as they come.

The exchange outlives the client, so what is put into a closed pipe is dropped. Nothing wakes the
client's own task but the end: what streams is written right where it was read.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from tollway.providers.errors import GatewayError, UpstreamBroke

_STREAM = (
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-cache"),
)
_TICK_S = 0.001  # uvloop's clock has whole milliseconds


Headers = tuple[tuple[str, str], ...]


class Head(msgspec.Struct, frozen=True):
    """Status and headers of the answer, known once a target is committed to."""

    status: int
    headers: Headers
    streamed: bool


class Client(Protocol):
    """Where an answer is written to; it drops what comes after the client has left.

    `full` says that the client reads more slowly than it is written to; `drained` is called
    when that has ended.
    """

    drained: Callable[[], None] | None

    @property
    def takes_chunks(self) -> bool:
        """Whether its answer, once it has begun, is made of chunks, so that `pass_on` is for it."""
        ...

    @property
    def full(self) -> bool:
        """Whether so much is unread."""
        ...

    def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Write an answer in one piece."""
        ...

    def begin(self, status: int, headers: Headers) -> None:
        """Write the head of a stream."""
        ...

    def write(self, data: bytes) -> None:
        """Write a piece of the stream."""
        ...

    def pass_on(self, chunk: bytes) -> bool:
        """Write a piece of the stream that stands in a chunk of HTTP already.

        Returns:
            Whether it now has too much unread.
        """
        ...

    def end(self) -> None:
        """Write the stream's end."""
        ...


class Pipe:
    """One producer, the exchange, and one client: who that is, `join` says before all else."""

    _keeps = False  # whether what went in is remembered, which is to have no framing

    def __init__(self) -> None:
        self.head: Head | None = None
        self.last = b""  # piece that went in
        # The client's `pass_on`, while there is somebody who takes chunks as they stand on the
        # wire. Who writes by it says so in `last` and `said_s`: a call less for each event.
        self.through: Callable[[bytes], bool] | None = None
        self.said_s = 0.0  # the loop's time at which the client last heard something
        self.was_full = False  # some of the answer waited for a slow client
        self._client: Client
        self._loop: asyncio.AbstractEventLoop
        self._pieces: list[bytes] = []  # of a whole answer
        self._begun = False  # the client has the head of a stream
        self._ended = False
        self._closed = False
        self._error: GatewayError | None = None
        self._end: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._keepalive_s = 0.0
        self._keepalive = b""
        self._timer: asyncio.TimerHandle | None = None

    # -- the exchange's side -----------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        """Whether the answer is whole, or has ended early."""
        return self._ended

    def open(self, head: Head) -> None:
        """Say which answer it will be. Only now may the client see anything of it."""
        self.head = head
        if self._closed or not (head.streamed or self._begun):
            return
        if not head.streamed:
            self.fail(UpstreamBroke("The provider answered whole where a stream was asked for"))
        elif not self._begun:
            self._begin(head.status, head.headers)

    async def put(self, data: bytes) -> None:
        """Hand on some bytes; wait while the client has too many unread."""
        if self.write(data):
            await self.room()

    def write(self, data: bytes) -> bool:
        """Hand on some bytes; return whether the client has so many unread that it needs `room`."""
        if self._closed or self._ended or not data:
            return False
        self.last = data
        if not self._begun:
            self._pieces.append(data)
            return False
        self._client.write(data)
        self.said_s = self._loop.time()
        return self._client.full

    @property
    def is_full(self) -> bool:
        """Whether the client has so many bytes unread that it needs `room`."""
        return self._begun and self._client.full

    async def room(self) -> None:
        """Return when the client has read most of what it was sent, or is gone."""
        while self._begun and self._client.full and not self._closed:
            self.was_full = True
            self._room = self._loop.create_future()
            await self._room

    def finish(self) -> None:
        """Say that the answer is whole."""
        if self._ended:
            return
        self._end_it()
        if self._closed or self.head is None:
            pass
        elif self._begun:
            self._client.end()
        else:
            body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._client.whole(self.head.status, self.head.headers, body)
        _wake(self._end)

    def fail(self, error: GatewayError) -> None:
        """Say that the answer ends here, and why."""
        if not self._ended:
            self._end_it()
            # Its traceback holds the exchange, which holds this: the collector alone would free
            # them, and the request's body with them.
            self._error = error.with_traceback(None)
            _wake(self._end)

    # -- the client's side -------------------------------------------------------------------

    def join(self, client: Client, keepalive_s: float, keepalive: bytes = b"") -> None:
        """Say who gets the answer.

        After `keepalive_s` seconds of silence, where that is not 0, it is sent `keepalive`, and
        in front of that, if need be, a head of our own.
        """
        self._client = client
        self._keepalive = keepalive
        self._loop = asyncio.get_running_loop()
        self._keepalive_s = keepalive_s
        client.drained = self._drained
        if keepalive_s:
            self.said_s = self._loop.time()
            self._timer = self._loop.call_later(keepalive_s, self._look)

    async def ended(self) -> GatewayError | None:
        """Return once the answer has ended: with the error that ended it early, if one did.

        The error is told once.
        """
        if not self._ended:
            self._end = self._loop.create_future()
            await self._end
        error, self._error = self._error, None
        return error

    def close(self) -> None:
        """Drop what is left, since the client is gone, and let no producer wait."""
        self._closed = True
        self.through = None
        self._pieces.clear()
        _wake(self._room)
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _begin(self, status: int, headers: Headers) -> None:
        self._begun = True
        self._client.begin(status, headers)
        if self._client.takes_chunks and not self._keeps:
            self.through = self._client.pass_on
        self.said_s = self._loop.time()

    def _end_it(self) -> None:
        self._ended, self.through = True, None

    def _drained(self) -> None:
        _wake(self._room)

    def _look(self) -> None:
        # One timer for all silences, moved on when it fires.
        self._timer = None
        if self._ended or self._closed:
            return
        left = self.said_s + self._keepalive_s - self._loop.time()
        if left <= _TICK_S:
            if not self._begun:
                self._begin(200, _STREAM)
            if not self._client.full:
                self._client.write(self._keepalive)
            self.said_s = self._loop.time()
            left = self._keepalive_s
        self._timer = self._loop.call_later(left, self._look)


def _wake(waiter: "asyncio.Future[None] | None") -> None:
    if waiter and not waiter.done():
        waiter.set_result(None)
