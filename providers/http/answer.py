"""A provider's answer as the gate reads it, filled by the connection that it comes from."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from tollway.providers.errors import UpstreamBroke, UpstreamError
from tollway.providers.http.inflate import CannotInflate, Inflater
from tollway.providers.transport import Pushed

BUFFER = 256 * 1024  # what may pile up for a slow reader before the provider is made to wait


Passes = Callable[[bytes, float], bool]  # a chunk as it stands on the wire, the loop's time


class Link(Protocol):
    """What an unfinished answer needs of its connection."""

    def watch(self, idle_s: float) -> None:
        """Fail the answer when nothing comes for `idle_s`."""
        ...

    def resume(self) -> None:
        """Read on, after `BUFFER` was full."""
        ...

    def drop(self) -> None:
        """Close at once, telling nobody."""
        ...


class HttpAnswer(Pushed):
    """One answer. It holds its connection (`link`) only until its last byte has come in."""

    __slots__ = (
        "_enough",
        "_loop",
        "_place",
        "_taker",
        "_waiter",
        "error",
        "headers",
        "idle_s",
        "inflater",
        "link",
        "passes",
        "pieces",
        "size",
        "status",
    )

    def __init__(self, link: Link, loop: asyncio.AbstractEventLoop, place: str) -> None:
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.idle_s = 0.0
        self.link: Link | None = link
        self.pieces: list[bytes] = []  # the connection appends, the reader takes all at once
        self.size = 0
        self.inflater: Inflater | None = None
        self.error: UpstreamError | None = None  # its own: what the reader raises is none
        self._loop = loop
        self._place = place
        self._waiter: asyncio.Future[None] | None = None
        self._taker: Callable[[bytes], bool] | None = None  # of `each`, while it waits
        self._enough = False  # it wants no more for now
        # Also of `each`, while it waits: takes a chunk as it stands on the wire, if it wants it so.
        self.passes: Passes | None = None

    @property
    def awaited(self) -> bool:
        """Whether someone waits for this answer now: only then is silence the provider's."""
        return self._waiter is not None

    def wake(self) -> None:
        """Let the reader look again: bytes, the end or an error have come."""
        waiter = self._waiter
        if self._taker is not None and self.pieces and self.inflater is None:
            # The reader need not wake for a piece: that would cost more than all that it does.
            take, self._taker = self._taker, None
            try:
                self._enough = not take(
                    self.pieces.pop()
                    if len(self.pieces) == 1 and self.size <= BUFFER
                    else self._raw()
                )
                self.size = 0
            except Exception as fault:  # noqa: BLE001 - the reader's own, and raised there
                self.stumble(fault)
                return
            if not self._enough and self.link is not None:
                self._taker = take
                self.link.watch(self.idle_s)
                return
            self.passes = None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def finish(self) -> None:
        """Take note that the last byte has come in; the connection is no longer ours."""
        self.link = None
        self.wake()

    def fail(self, error: UpstreamError) -> None:
        """End the answer with an error, behind whatever bytes have come before it."""
        self.link = None
        self.error = error
        self.wake()

    async def begun(self) -> None:
        """Return once status and headers are there.

        Raises:
            UpstreamError: The answer failed before it began.
        """
        while not self.status:
            if self.error is not None:
                raise self.error
            await self._wait()

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body in pieces as they arrive, decompressed; see `transport.Answer`."""
        return self

    def enough(self) -> None:
        """Let `each` end behind the chunk that was passed to its `passes`."""
        self._enough, self._taker, self.passes = True, None, None
        self.wake()

    def stumble(self, fault: Exception) -> None:
        """Have `each` raise what a function raised that was given to it."""
        self._taker = self.passes = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(fault)

    async def each(self, take: Callable[[bytes], bool], passes: Passes | None = None) -> bool:
        """Give the body's pieces to `take` as they arrive, until it returns False.

        While nothing waits to be taken, `passes` is shown what comes first, in its framing (one
        chunk and nothing else, or anything), and the loop's time. Where it returns True, that was
        taken by it; it must not take the last chunk, which is empty.

        Returns:
            Whether the body has ended; if not, `chunks` or `each` go on behind the last piece.

        Raises:
            UpstreamError: As `chunks` does; or whatever `take` or `passes` raises.
        """
        async for data in self:
            if not take(data):
                return False
            if self.link is None or self.pieces or self.inflater is not None:
                continue
            self.link.watch(self.idle_s)
            self._taker, self.passes, self._enough = take, passes, False
            try:
                await self._wait()
            finally:
                self._taker = self.passes = None
            if self._enough:
                return False
        return True

    async def __anext__(self) -> bytes:
        """Return all that has come since the last piece, waiting where nothing has."""
        while True:
            if self.pieces or self.inflater is not None:
                data = self._take()
                if data:
                    if self.inflater is not None:
                        await self._a_turn()
                    return data
            if self.error is not None:
                raise self.error
            if self.link is None:
                if self.inflater is not None and not self.inflater.whole:
                    self.error = UpstreamBroke(
                        f"{self._place} ended its answer early: compressed half"
                    )
                    raise self.error
                raise StopAsyncIteration
            self.link.watch(self.idle_s)
            await self._wait()

    async def close(self) -> None:
        """Close the connection at once if the body is still coming; see `transport.Answer`."""
        self._abandon()

    def _take(self) -> bytes:
        if self.inflater is None:
            return self._raw()
        try:
            while not (data := self.inflater.take()) and self.pieces:
                self.inflater.feed(self._raw())
        except CannotInflate as fault:
            self._abandon()
            self.error = UpstreamBroke(f"{self._place} garbled its answer: {fault}")
            raise self.error from fault
        return data

    def _raw(self) -> bytes:
        pieces = self.pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        full, self.size = self.size > BUFFER, 0
        if full and self.link is not None:
            self.link.resume()  # which may bring more at once
        return data

    async def _a_turn(self) -> None:
        """Let everything else have its turn: a kilobyte can be a megabyte, and that thousands."""
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self._abandon()
            raise

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            # Half an answer is of use to nobody, and the provider should stop working on it.
            self._abandon()
            raise
        finally:
            self._waiter = None

    def _abandon(self) -> None:
        self.pieces.clear()
        self.inflater = None
        if self.link is not None:
            link, self.link = self.link, None
            self.error = UpstreamBroke(f"The answer of {self._place} was closed before its end")
            link.drop()
