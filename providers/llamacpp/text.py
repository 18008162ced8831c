"""Turns the bytes of tokens into text that may be shown."""

import codecs
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class TextOut:
    """Gives out text as soon as it is certain: whole characters, and no part of a stop string.

    `stopped` turns true when a stop string was found; nothing comes after that, and neither the
    string itself nor what followed it is ever given out. `stop` is that string then.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stop = ""
        self.read = 0  # whole characters that came
        self.shown = 0  # of them, those that were given out

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return bool(self.stop)

    @property
    def certain(self) -> bool:
        """Whether all that came is given out, and no character is begun."""
        return not self._held and not self._decoder.getstate()[0]

    def feed(self, piece: bytes) -> str:
        """Return what a token's bytes make certain; often nothing."""
        if self.stopped:
            return ""
        text = self._decoder.decode(piece)
        self.read += len(text)
        self._held += text
        found = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            first, self.stop = min(found)
            return self._give(first, forget=True)
        return self._give(len(self._held) - self._doubtful())

    def finish(self) -> str:
        """Return what was held back, now that nothing follows; half a character is dropped."""
        return "" if self.stopped else self._give(len(self._held))

    def _give(self, count: int, *, forget: bool = False) -> str:
        given, self._held = self._held[:count], "" if forget else self._held[count:]
        self.shown += count
        return given

    def _doubtful(self) -> int:
        """Return how many characters at the end may be the beginning of a stop string."""
        longest = max(map(len, self._stops), default=1) - 1
        for count in range(min(longest, len(self._held)), 0, -1):
            tail = self._held[-count:]
            if any(stop.startswith(tail) for stop in self._stops):
                return count
        return 0


class Beside(Generic[T]):
    """Keeps what is told of each token until text of it is given out; what has none is not told."""

    def __init__(self, text: TextOut) -> None:
        self._text = text
        self._begins = 0  # where the next token does
        self._held: list[tuple[int, T]] = []

    def take(self, told: T) -> list[T]:
        """Take note of the token that the text was fed last; return what can be told now."""
        self._held.append((self._begins, told))
        text = self._text
        self._begins = text.read
        if text.certain and not text.stopped:
            return self.finish()
        count = sum(begins < text.shown for begins, _ in self._held)
        return self._give(count)

    def finish(self) -> list[T]:
        """Return what was held back, now that nothing follows."""
        return [] if self._text.stopped else self._give(len(self._held))

    def _give(self, count: int) -> list[T]:
        given, self._held = self._held[:count], self._held[count:]
        return [told for _, told in given]
