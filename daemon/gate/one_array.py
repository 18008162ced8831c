"""Gives a client of Google's its stream as one JSON array, which is that API's way unasked.

Behind it all is as with events: each event's data is an element, and the error that ends a
broken stream is the last of them, also one that stands bare between events, as Google tells it;
one that is told in both ways is one element. What is no data (a comment) has no place in an
array. Silences are filled with ends of lines, which JSON allows between elements and no reader of
it sees.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from tollway.daemon.direct import Direct
from tollway.daemon.gate.pipe import Headers
from tollway.providers.dialects.gemini_errors import said_in
from tollway.providers.dialects.wire import UNREADABLE
from tollway.providers.sse import Event, Splitter

_TYPE: Final = ("Content-Type", "application/json; charset=UTF-8")
# An element is never cut: what is no whole JSON would spoil the array.
_MOST = 512 * 1024 * 1024
_NOT_AN_ELEMENT = frozenset({b"", b"[DONE]"})
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class OneArray:
    """A client that is written events and sent elements; see `Client` for what each method does."""

    takes_chunks = False

    def __init__(self, client: Direct) -> None:
        self._client = client
        self._splitter = Splitter(_MOST)
        self._before = b"["
        self._last = b""

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
            element = event.data or self._bare(event)
            if element not in _NOT_AN_ELEMENT:
                self._client.write(self._before + element)
                self._before = b",\r\n"
                self._last = element

    def _bare(self, event: Event) -> bytes:
        """Return the error that stands bare in a stream, unless it is no whole one or was told."""
        said = (said_in(event) or b"").strip()
        try:
            return said if said != self._last and _FIELDS.decode(said) else b""
        except UNREADABLE:
            return b""

    def pass_on(self, chunk: bytes) -> bool:
        """Do nothing: no chunk of events is one of an array."""
        return self.full

    def end(self) -> None:
        """Write the array's end, and the answer's."""
        self._client.write(b"[]" if self._before == b"[" else b"]")
        self._client.end()
