"""Turns the bytes of tokens into text that may be shown."""

import codecs
from collections.abc import Sequence


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

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return bool(self.stop)

    def feed(self, piece: bytes) -> str:
        """Return what a token's bytes make certain; often nothing."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(piece)
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
        return given

    def _doubtful(self) -> int:
        """Return how many characters at the end may be the beginning of a stop string."""
        longest = max(map(len, self._stops), default=1) - 1
        for count in range(min(longest, len(self._held)), 0, -1):
            tail = self._held[-count:]
            if any(stop.startswith(tail) for stop in self._stops):
                return count
        return 0
