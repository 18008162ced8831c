"""Gives a client of Google's its stream as one JSON array, which is that API's way unasked.

Behind it all is as with events: each event's data is an element, and the error that ends a
broken stream is the last of them. What is no data (a comment) has no place in an array. Silences
are filled with ends of lines, which JSON allows between elements and no reader of it sees.
"""

from collections.abc import Callable
from typing import Final

from tollway.daemon.direct import Direct
from tollway.daemon.gate.pipe import Headers
from tollway.providers.sse import Splitter

_TYPE: Final = ("Content-Type", "application/json; charset=UTF-8")
# An element is never cut: what is no whole JSON would spoil the array.
_MOST = 512 * 1024 * 1024
_NOT_AN_ELEMENT = frozenset({None, b"", b"[DONE]"})


class OneArray:
    """A client that is written events and sent elements; see `Client` for what each method does."""

    takes_chunks = False

    def __init__(self, client: Direct) -> None:
        self._client = client
        self._splitter = Splitter(_MOST)
        self._before = b"["

    @property
    def status(self) -> int:
        """The answer's status, once it has begun."""
        return self._client.status

    @property
    def full(self) -> bool:
        """Whether the client reads more slowly than it is written to."""
        return self._client.full

    @property
    def drained(self) -> Callable[[], None] | None:
        """What is called when `full` has ended."""
        return self._client.drained

    @drained.setter
    def drained(self, call: Callable[[], None] | None) -> None:
        self._client.drained = call

    def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Write an answer that came in one piece: an array of one."""
        self._client.whole(status, headers, b"[" + body + b"]")

    def begin(self, status: int, headers: Headers) -> None:
        """Write the head of an answer."""
        kept = (pair for pair in headers if pair[0].lower() != "content-type")
        self._client.begin(status, (_TYPE, *kept))

    def write(self, data: bytes) -> None:
        """Write the elements that some bytes of events complete; of none, a sign of life."""
        if not data:
            self._client.write(b"[\n" if self._before == b"[" else b"\n")
            self._before = b"" if self._before == b"[" else self._before
            return
        for event in self._splitter.feed(data):
            if event.data not in _NOT_AN_ELEMENT:
                self._client.write(self._before + (event.data or b""))
                self._before = b",\r\n"

    def pass_on(self, chunk: bytes) -> bool:
        """Do nothing: no chunk of events is one of an array."""
        return self.full

    def end(self) -> None:
        """Write the array's end, and the answer's."""
        self._client.write(b"[]" if self._before == b"[" else b"]")
        self._client.end()
