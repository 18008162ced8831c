"""The upstream HTTP client behind one small interface."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Protocol

import msgspec


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds: to connect, to the first byte of the answer, and between its pieces.

    Never one for the whole answer: a long stream is no fault.
    """

    connect_s: float = 10.0
    first_s: float = 120.0
    idle_s: float = 300.0


class Progress:
    """How far a request got, for whoever must know though `send` never returned."""

    __slots__ = ("sent",)

    def __init__(self) -> None:
        self.sent = False  # some byte of the request has left


class Request(msgspec.Struct, frozen=True):
    """One request to a provider. `headers` are all that go out but Host and Content-Length."""

    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""
    method: str = "POST"
    timeouts: Timeouts = Timeouts()
    proxy: str | None = None
    ca_file: str | None = None
    progress: Progress | None = None  # told when the first byte leaves


class Answer(Protocol):
    """A provider's answer, its headers read and its body still coming."""

    status: int
    headers: list[tuple[str, str]]  # names as they came; hop-by-hop ones included

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body in pieces as they arrive, decompressed.

        Raises:
            UpstreamBroke: The connection ended before the body was whole, or garbled it.
            UpstreamTimeout: Nothing came for `idle_s`.
        """
        ...

    async def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it at once.

        Safe to call twice, and after a fault.
        """
        ...


class Pushed(AsyncIterator[bytes]):
    """The body of an answer whose pieces are handed over as they arrive: nobody wakes for each.

    A class to come from and no Protocol: each streamed call is asked whether it is one, which
    takes a Protocol a hundred times as long.
    """

    __slots__ = ()

    @abstractmethod
    async def each(
        self,
        take: Callable[[bytes], bool],
        passes: Callable[[bytes, float], bool] | None = None,
    ) -> bool:
        """Give the body's pieces to `take` as they arrive, until it returns False.

        `passes` may be shown what comes in its framing first: see `HttpAnswer.each`.

        Returns:
            Whether the body has ended; if not, `chunks` or `each` go on behind the last piece.

        Raises:
            UpstreamError: As `Answer.chunks` does; or whatever `take` or `passes` raises.
        """

    @abstractmethod
    def enough(self) -> None:
        """Let `each` end behind the chunk that was passed to its `passes`."""


class Transport(Protocol):
    """Sends requests to providers: HTTP for hosted ones, frames for models on this box."""

    async def send(self, request: Request) -> Answer:
        """Return the answer once its status and headers are there.

        Raises:
            UpstreamUnreachable: Nothing was sent.
            UpstreamTimeout: To connect, or to the first byte.
            UpstreamBroke: The connection ended after the request was (partly) sent.
        """
        ...

    async def prepare(self, ca_files: Iterable[str | None]) -> None:
        """Read authorities before calls need them; None is for the system's alone.

        What cannot be read is told to whoever calls.
        """
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...
