"""Refused calls on their way into the ledger: of many alike in a moment, one row with a count.

A client in a loop is refused thousands of times a second, and each row takes room from calls that
cost something: at the file's cap those would go first, being older. Its one rule: **every refusal
is counted exactly once**, in a row of its own or in another's `repeated`.
"""

import asyncio
from collections.abc import Callable

import msgspec

from tollway.daemon.ledger.rows import CallRefused
from tollway.daemon.ledger.schema import QUARTER_MS

EACH = 10  # rows of their own for those alike, in each moment
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
        self._seen: dict[CallRefused, _Alike] = {}  # emptied when the moment is over
        self._over: asyncio.TimerHandle | None = None

    def add(self, row: CallRefused) -> None:
        """Take a refusal; those that differ in nothing but id and time are alike."""
        # Roll-ups are by the quarter of an hour: no row stands for refusals of two.
        quarter = row.refused_ms // QUARTER_MS
        alike = self._seen.setdefault(
            msgspec.structs.replace(row, id="", refused_ms=quarter), _Alike()
        )
        if self._over is None:
            loop = asyncio.get_running_loop()
            self._over = loop.call_later(self._moment_s, self.flush)
        if alike.rows < EACH:
            alike.rows += 1
            self._write(row)
        elif alike.first is None:
            alike.first = row
        else:
            alike.more += 1

    def flush(self) -> None:
        """Pass on what waits; a new moment begins with the next refusal."""
        if self._over is not None:
            self._over.cancel()
            self._over = None
        seen, self._seen = self._seen, {}
        for alike in seen.values():
            if alike.first is not None:
                self._write(msgspec.structs.replace(alike.first, repeated=alike.more))
