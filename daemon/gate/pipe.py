"""Hands an answer from the upstream's task to the client's, with a bounded buffer between.

The exchange outlives the handler, so neither may wait for ever on the other: a handler that
leaves closes the pipe, and what is put into a closed pipe is dropped.
"""

import asyncio

import msgspec

from tollway.providers.errors import GatewayError

# A client that reads slowly stops the provider after so many bytes, not the memory.
_HIGH = 256 * 1024
_NEVER = float("inf")
_TICK_S = 0.001  # uvloop's clock has whole milliseconds


class Head(msgspec.Struct, frozen=True):
    """Status and headers of the answer, known once a target is committed to."""

    status: int
    headers: tuple[tuple[str, str], ...]
    streamed: bool


class Pipe:
    """One producer, one consumer; all of the consumer's time-outs are of the same length."""

    def __init__(self) -> None:
        self.head: Head | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self.was_full = False  # some of the answer waited for a slow client
        self._ended = False
        self._closed = False
        self._error: GatewayError | None = None
        self._reader: asyncio.Future[bool] | None = None  # its result: whether something came
        self._writer: asyncio.Future[bool] | None = None
        # One timer for all waits, moved on when it fires: one for each cost 2 us an event.
        self._timer: asyncio.TimerHandle | None = None
        self._due = _NEVER

    def open(self, head: Head) -> None:
        """Say which answer it will be. Only now may the client see anything of it."""
        self.head = head
        self._wake(self._reader)

    async def put(self, data: bytes) -> None:
        """Hand on some bytes; wait while the client has too many unread."""
        if self._closed or not data:
            return
        self._pieces.append(data)
        self._size += len(data)
        self._wake(self._reader)
        while self._size > _HIGH and not self._closed:
            self.was_full = True
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer

    def finish(self) -> None:
        """Say that the answer is whole."""
        self._ended = True
        self._wake(self._reader)

    def fail(self, error: GatewayError) -> None:
        """Say that the answer ends here, and why."""
        self._error = error
        self.finish()

    def close(self) -> None:
        """Drop what is left, since the client is gone, and let no producer wait."""
        self._closed = True
        self._pieces.clear()
        self._size = 0
        self._wake(self._writer)
        if self._timer:
            self._timer.cancel()
            self._timer = None

    async def opened(self, timeout_s: float | None) -> Head | None:
        """Wait for the head; None when it has not come within `timeout_s`.

        Raises:
            GatewayError: There will be none: the call failed.
        """
        while self.head is None:
            if self._error:
                raise self._error
            if not await self._wait(timeout_s):
                return None
        return self.head

    async def get(self, timeout_s: float | None) -> bytes | None:
        """Return all that has come, None at the end, b"" after `timeout_s` of silence.

        Raises:
            GatewayError: The answer ended early.
        """
        while not self._pieces:
            if self._error:
                raise self._error
            if self._ended:
                return None
            if not await self._wait(timeout_s):
                return b""
        data = b"".join(self._pieces) if len(self._pieces) > 1 else self._pieces[0]
        self._pieces.clear()
        self._size = 0
        self._wake(self._writer)
        return data

    async def _wait(self, timeout_s: float | None) -> bool:
        loop = asyncio.get_running_loop()
        reader: asyncio.Future[bool] = loop.create_future()
        self._reader = reader
        self._due = loop.time() + timeout_s if timeout_s else _NEVER
        if timeout_s and self._timer is None:
            self._timer = loop.call_later(timeout_s, self._look, loop)
        try:
            return await reader
        finally:
            self._reader = None

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the reader's wait if it is over; the next one that begins sets the timer anew."""
        self._timer = None
        reader = self._reader
        if reader is None or reader.done() or self._due == _NEVER:
            return
        left = self._due - loop.time()
        if left > _TICK_S:
            self._timer = loop.call_later(left, self._look, loop)
        else:
            reader.set_result(False)

    @staticmethod
    def _wake(waiter: asyncio.Future[bool] | None) -> None:
        if waiter and not waiter.done():
            waiter.set_result(True)
