"""Meters an answer of vectors over the client's shoulder, in whatever dialect it came."""

from collections.abc import Callable
from typing import TypeVar

import msgspec

from tollway.providers.canon import Usage
from tollway.providers.dialects.error_words import error_within
from tollway.providers.dialects.wire import UNREADABLE, object_in
from tollway.providers.embedding import Embedding, Vectors
from tollway.providers.errors import UpstreamBroke, UpstreamRefused
from tollway.providers.sse import Event

_Said = TypeVar("_Said")


def answer_in(body: bytes, decoder: msgspec.json.Decoder[_Said]) -> _Said:
    """Return an answer of vectors, decoded.

    Raises:
        UpstreamBroke: It is none.
    """
    try:
        return decoder.decode(body)
    except UNREADABLE as fault:
        raise UpstreamBroke(f"The provider's answer holds no vectors: {str(fault)[:200]}") from None


class Reader:
    """Reads one attempt's vectors; see `AnswerReader` for what its fields say."""

    def __init__(self, read: Callable[[Embedding, bytes], Vectors], asked: Embedding) -> None:
        """Take what reads an answer to what was asked."""
        self.usage: Usage | None = None
        self.produced = 0
        self.begun = False
        self.ended = False
        self.last = False
        self.failed: UpstreamRefused | None = None
        self.raw_usage = ""
        self.upstream_id = ""
        self.service = ""
        self.model = ""
        self.finish_reasons: list[str] = []
        self.alike = None
        self._read, self._asked = read, asked

    def event(self, event: Event) -> bool:
        """Return True: vectors are never streamed."""
        return True

    def end_early(self) -> bytes:
        """Return nothing: vectors are never streamed."""
        return b""

    def whole(self, body: bytes) -> None:
        """Read an answer."""
        try:
            made = self._read(self._asked, body)
        except UpstreamBroke:
            if (object_in(body) or {}).get("error"):
                self.failed = error_within(body)
            return
        self.begun = self.ended = True
        self.usage, self.raw_usage = made.usage, made.raw_usage
