"""Hands an answer from the upstream's task to the client's, with a bounded buffer between.

The exchange outlives the handler, so neither may wait for ever on the other: a handler that
leaves closes the pipe, and what is put into a closed pipe is dropped.
"""

import asyncio

import msgspec

from tollway.providers.errors import GatewayError

# A client that reads slowly stops the provider after so many bytes, not the memory.
_HIGH = 256 * 1024


class Head(msgspec.Struct, frozen=True):
    """Status and headers of the answer, known once a target is committed to."""

    status: int
    headers: tuple[tuple[str, str], ...]
    streamed: bool


class Pipe:
    """One producer, one consumer."""

    def __init__(self) -> None:
        self.head: Head | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self.was_full = False  # some of the answer waited for a slow client
        self._ended = False
        self._closed = False
        self._error: GatewayError | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

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
        self._reader = loop.create_future()
        timer = loop.call_later(timeout_s, _expire, self._reader) if timeout_s else None
        try:
            await self._reader
        except TimeoutError:
            return False
        finally:
            self._reader = None
            if timer:
                timer.cancel()
        return True

    @staticmethod
    def _wake(waiter: asyncio.Future[None] | None) -> None:
        if waiter and not waiter.done():
            waiter.set_result(None)


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())
