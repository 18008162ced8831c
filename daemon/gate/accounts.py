"""What a scope has spent in one kind of period: by the calendar, or over a span that rolls on.

Money is nano-dollars, times are unix milliseconds. A call counts at the moment of its admission,
settlement and later attempts included.

The ledger may know of calls that are still to come: the clock was ahead once, or it is behind
now, as where a machine wakes up in 1970. Such spending counts at once, and again when its own
time has come, so that no step of the clock grants anything, whichever of the two was wrong.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Mapping
from zoneinfo import ZoneInfo

from tollway.daemon.config.schema import Period, Scope
from tollway.daemon.config.units import rolling_ms
from tollway.daemon.gate import periods

NEVER = 1 << 62  # more than any budget
QUARTER_MS = 900_000  # of the ledger's roll-ups

# Buckets of a rolling span: each divides a quarter of an hour, and the next one is taken while
# the span still has 48 of them, so a span lasts at most a fiftieth longer than it says.
_WIDTHS_MS = (1000, 5000, 15_000, 60_000, 300_000, QUARTER_MS)
_LEAST_BUCKETS = 48
# For a later attempt of a call that was admitted so long ago, what counted then is still known.
_KEPT_MS = 3_600_000
_MOST_PAST = 64  # windows of the calendar that are kept for the same reason


class Window:
    """One period of one account: nano-dollars settled and held, and when it ends.

    A bucket of a rolling span has the sum that it counts in, `whole`, until it has left that.
    """

    __slots__ = ("end_ms", "held", "settled", "start_ms", "whole")

    def __init__(self, start_ms: int, end_ms: int, whole: "Window | None" = None) -> None:
        self.start_ms = start_ms
        self.end_ms = end_ms
        self.whole = whole
        self.settled = 0
        self.held = 0


def account(scope: Scope, period: Period, zone: ZoneInfo, now_ms: int) -> "Account":
    """Return a fresh account; nothing is spent."""
    span_ms = rolling_ms(period)
    if span_ms is None:
        return Calendar(scope, period, zone, now_ms)
    return Rolling(scope, period, span_ms, now_ms)


class Calendar:
    """An account by the hour, day, week, month, or for good.

    Windows before the current one are kept: a call belongs to the period of its admission, and
    its later attempts are held there though the period has turned over.
    """

    __slots__ = ("_later", "current", "past", "period", "scope", "zone")

    def __init__(self, scope: Scope, period: Period, zone: ZoneInfo, now_ms: int) -> None:
        self.scope = scope
        self.period = period
        self.zone = zone
        self.current = Window(*periods.window(period, now_ms, zone))
        self.past: deque[Window] = deque(maxlen=_MOST_PAST)
        self._later: Mapping[int, int] = {}

    def used(self, at_ms: int) -> int:
        """Return what is settled and held in the period of a moment."""
        window = self.window(at_ms)
        return window.settled + window.held

    def window(self, at_ms: int) -> Window:
        """Return the period of a call admitted at `at_ms`; a later one turns it over."""
        current = self.current
        if at_ms >= current.end_ms:
            self.past.append(current)
            current = Window(*periods.window(self.period, at_ms, self.zone))
            self.current = current
            for quarter_ms, settled in self._later.items():
                if current.start_ms <= quarter_ms < current.end_ms:
                    current.settled += settled
        elif at_ms < current.start_ms:
            return self._before(at_ms)
        return current

    def covers(self, at_ms: int) -> bool:
        """Whether a moment is in the current period."""
        return self.current.start_ms <= at_ms < self.current.end_ms

    def _before(self, at_ms: int) -> Window:
        for window in reversed(self.past):
            if window.start_ms <= at_ms < window.end_ms:
                return window
        # From before this account was opened: what else that period had spent is not known.
        window = Window(*periods.window(self.period, at_ms, self.zone))
        self.past.append(window)
        return window

    def now(self, at_ms: int) -> Window:
        """Return the current period."""
        return self.window(at_ms)

    def seed(self, window: Window, settled: int, later: Mapping[int, int]) -> None:
        """Add what had been spent before this account was opened.

        Args:
            window: The period in which it was opened.
            settled: What the ledger has from its beginning on.
            later: What it has of quarters of an hour that are still to come.
        """
        window.settled += settled
        self._later = later


class Rolling:
    """An account over a span that rolls on: "5/24h".

    Spending counts in the bucket of its call's admission, and a bucket counts until the whole of
    it is older than the span: never less than the span, at most a fiftieth longer (a bucket has
    at least a second). So no window of that length, wherever it begins, has more admissions in
    it than were checked together. What the ledger's roll-ups tell after a restart counts as if
    spent at the end of its quarter of an hour, since they do not say when within it.
    """

    __slots__ = (
        *("_gone_ms", "_later", "_later_ms", "_left_ms", "_live", "_past"),
        *("period", "scope", "span_ms", "whole", "width_ms"),
    )

    def __init__(self, scope: Scope, period: Period, span_ms: int, now_ms: int) -> None:
        self.scope = scope
        self.period = period
        self.span_ms = span_ms
        self.width_ms = max(
            (one for one in _WIDTHS_MS if one * _LEAST_BUCKETS <= span_ms), default=_WIDTHS_MS[0]
        )
        self.whole = Window(now_ms - span_ms, now_ms + span_ms)
        self._live: list[Window] = []  # oldest first
        self._past: deque[Window] = deque()
        self._left_ms = 0  # the last moment at which a bucket left the span
        self._gone_ms = 0  # and the last of those that are not kept any more
        self._later: dict[int, int] = {}  # quarters of an hour still to come
        self._later_ms = NEVER  # the first of them

    def used(self, at_ms: int) -> int:
        """Return what is settled and held in all windows of the span that hold a moment.

        A moment so long ago that this is not known any more gives `NEVER`.
        """
        if at_ms >= self._later_ms:
            self._arrive(at_ms)
        live = self._live
        if live and live[0].end_ms + self.span_ms <= at_ms:
            self._leave(at_ms)
        whole = self.whole
        total = whole.settled + whole.held
        if at_ms < self._left_ms:  # a later attempt: what has left since it was admitted counts
            if at_ms < self._gone_ms:
                return NEVER
            for bucket in self._past:
                if bucket.end_ms + self.span_ms > at_ms:
                    total += bucket.settled + bucket.held
        return total

    def window(self, at_ms: int) -> Window:
        """Return the bucket of a call admitted at `at_ms`."""
        live = self._live
        if live:
            last = live[-1]
            if last.start_ms <= at_ms < last.end_ms:
                return last
        return self._bucket(at_ms)

    def now(self, at_ms: int) -> Window:
        """Return the sum of what counts; it ends when the next of it stops counting."""
        self._arrive(at_ms)
        self._leave(at_ms)
        whole = self.whole
        whole.start_ms = at_ms - self.span_ms
        whole.end_ms = (self._live[0].end_ms if self._live else at_ms) + self.span_ms
        return whole

    def seed(self, quarters: Mapping[int, int], now_ms: int) -> None:
        """Add what had been spent in each quarter of an hour before this account was opened."""
        for quarter_ms, settled in quarters.items():
            self._spent(settled, min(quarter_ms + QUARTER_MS - 1, now_ms))
        self._later = {at: settled for at, settled in quarters.items() if at > now_ms}
        self._later_ms = min(self._later, default=NEVER)

    def _arrive(self, at_ms: int) -> None:
        """Count what the ledger had for a time that has come."""
        while self._later_ms <= at_ms:
            settled = self._later.pop(self._later_ms)
            self._spent(settled, self._later_ms + QUARTER_MS - 1)
            self._later_ms = min(self._later, default=NEVER)

    def _spent(self, settled: int, at_ms: int) -> None:
        bucket = self.window(at_ms)
        bucket.settled += settled
        if bucket.whole:
            bucket.whole.settled += settled

    def _bucket(self, at_ms: int) -> Window:
        start_ms = at_ms // self.width_ms * self.width_ms
        end_ms = start_ms + self.width_ms
        if end_ms + self.span_ms <= self._left_ms:
            for bucket in self._past:
                if bucket.start_ms == start_ms:
                    return bucket
            bucket = Window(start_ms, end_ms, None)
            self._past.append(bucket)
            return bucket
        live = self._live  # a year has 35,000: not looked through one by one
        at = bisect_left(live, start_ms, key=_start)
        if at == len(live) or live[at].start_ms != start_ms:
            live.insert(at, Window(start_ms, end_ms, self.whole))
        return live[at]

    def _leave(self, at_ms: int) -> None:
        """Let go what is older than the span at `at_ms`."""
        whole = self.whole
        number = bisect_right(self._live, at_ms - self.span_ms, key=_end)
        for bucket in self._live[:number]:
            whole.settled -= bucket.settled
            whole.held -= bucket.held
            bucket.whole = None
            self._past.append(bucket)
            self._left_ms = bucket.end_ms + self.span_ms
        del self._live[:number]
        past = self._past
        while past and past[0].end_ms + self.span_ms + _KEPT_MS <= at_ms:
            self._gone_ms = max(self._gone_ms, past.popleft().end_ms + self.span_ms)


def _start(bucket: Window) -> int:
    return bucket.start_ms


def _end(bucket: Window) -> int:
    return bucket.end_ms


Account = Calendar | Rolling
