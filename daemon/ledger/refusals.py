"""Refused calls on their way into the ledger: of many alike in a moment, one row with a count.

A client in a loop is refused thousands of times a second, and each row takes room from calls that
cost something: at the file's cap those would go first, being older. Its one rule: **every refusal
is counted exactly once**, in a row of its own or in another's `repeated`. Who makes up another name
or tag for each has rows of their own for the first of them; the rest are one row, which names none.
"""

import asyncio
from collections import Counter
from collections.abc import Callable

import msgspec

from tollway.daemon.ledger.rows import CallRefused, Who
from tollway.daemon.ledger.schema import QUARTER_MS

EACH = 10  # rows of their own for those alike, in each moment
MOST = 50  # rows of their own for those of one caller, in each moment
OTHERS = "(others)"  # what the row of the rest says was asked for: no model has such a name
_MOMENT_S = 1.0


class _Alike(msgspec.Struct, gc=False):
    rows: int = 0
    first: CallRefused | None = None  # of those that have no row of their own
    more: int = 0  # behind that


class Refusals:
    """Passes rows on to `write`: at once, or when their moment is over."""

    def __init__(self, write: Callable[[CallRefused], None], moment_s: float = _MOMENT_S) -> None:
        self._write = write
        self._moment_s = moment_s
        self._seen: dict[CallRefused, _Alike] = {}  # by kind; emptied when the moment is over
        self._rows: Counter[Who] = Counter()  # in this moment
        self._over: asyncio.TimerHandle | None = None

    def add(self, row: CallRefused) -> None:
        """Take a refusal; those that differ in nothing but id and time are alike."""
        alike = self._alike(row)
        if self._rows[row.who] >= MOST and (alike is None or alike.rows < EACH):
            row = msgspec.structs.replace(row, requested=OTHERS, client="", tags="", session="")
            alike = self._alike(row) or self._new(row)
            alike.rows = EACH
        alike = alike or self._new(row)
        if self._over is None:
            loop = asyncio.get_running_loop()
            self._over = loop.call_later(self._moment_s, self.flush)
        if alike.rows < EACH:
            alike.rows += 1
            self._rows[row.who] += 1
            self._write(row)
        elif alike.first is None:
            alike.first = row
        else:
            alike.more += 1

    def _alike(self, row: CallRefused) -> _Alike | None:
        return self._seen.get(_kind(row))

    def _new(self, row: CallRefused) -> _Alike:
        found = self._seen[_kind(row)] = _Alike()
        return found

    def flush(self) -> None:
        """Pass on what waits; a new moment begins with the next refusal."""
        if self._over is not None:
            self._over.cancel()
            self._over = None
        seen, self._seen = self._seen, {}
        self._rows.clear()
        for alike in seen.values():
            if alike.first is not None:
                self._write(msgspec.structs.replace(alike.first, repeated=alike.more))


def _kind(row: CallRefused) -> CallRefused:
    """Return what those that are alike have in common: all but id and time.

    Roll-ups are by the quarter of an hour: no row stands for refusals of two.
    """
    return msgspec.structs.replace(row, id="", refused_ms=row.refused_ms // QUARTER_MS)
