"""How much of each rate limit is used: counters that outlive the configuration.

A reload keeps what was used, whatever became of the limit, so it grants no fresh burst. Amounts
that a limit counts are not here: each function is told the limit that it is asked for.
"""

import time
from collections.abc import Callable, Iterable, Sequence, Set
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from tollway.daemon.gate import periods

MINUTE_NS: Final = 60_000_000_000
_PART: Final = MINUTE_NS // 1_000_000  # of a level, in which it is kept: a millionth of a unit


class Mark:
    """A reservation in a `Bucket`: a layer of its level, and the marks whose layers are gone."""

    __slots__ = ("above", "below", "count", "into", "layer")

    def __init__(self, layer: int, below: "Mark | None") -> None:
        self.layer = layer
        self.below = below
        self.above: Mark | None = None
        self.into: Mark | None = None  # where its marks are counted since its layer is empty
        self.count = 1


class Bucket:
    """A GCRA for a limit a minute, with one minute's limit as its burst.

    The level rises by what is taken and falls steadily, by the limit in a minute; at the limit
    the bucket is full. This is the generic cell rate algorithm in its leaky-bucket form: the
    level is its theoretical arrival time less the present one.

    What was reserved and not used is given back as if it had never been reserved: `RATES.md`
    shows why that is the reservation's own layer of the level and what lies below it, while
    time takes from the top.
    """

    # Levels are in units times nanoseconds of a minute, so that nothing is ever rounded.
    __slots__ = ("_at_ns", "_level", "_loose", "_top")

    def __init__(self) -> None:
        self._level = 0
        self._at_ns = 0
        self._loose = 0  # the part of the level that lies above every reservation
        self._top: Mark | None = None

    def wait_ns(self, units: int, limit: int, now_ns: int) -> int:
        """Return how long until so many units fit in; 0 for now. They must not pass the limit."""
        passed = now_ns - self._at_ns
        if passed > 0:
            self._at_ns = now_ns
            if self._level:
                self._drain(passed * limit)
        over = self._level + (units - limit) * MINUTE_NS
        return -(-over // limit) if over > 0 else 0

    def _drain(self, amount: int) -> None:
        amount = min(amount, self._level)
        self._level -= amount
        self._loose -= amount
        while self._loose < 0 and (top := self._top):
            top.layer += self._loose
            self._loose = 0
            if top.layer < 0:
                self._loose = top.layer
                top.layer = 0
                if top.below:
                    self._unite(top, top.below)

    def _unite(self, mark: Mark, below: Mark) -> None:
        """Let an empty layer go; its marks are counted with the layer below it."""
        mark.into = below
        below.count += mark.count
        below.above = mark.above
        if mark.above:
            mark.above.below = below
        else:
            self._top = below

    def take(self, units: int) -> None:
        """Use units, at the moment of the last `wait_ns`."""
        self._level += units * MINUTE_NS
        self._loose += units * MINUTE_NS

    def reserve(self, units: int) -> Mark:
        """Use units, at the moment of the last `wait_ns`, of which some may be given back."""
        self._level += units * MINUTE_NS
        mark = Mark(self._loose + units * MINUTE_NS, self._top)
        if self._top:
            self._top.above = mark
        self._loose = 0
        self._top = mark
        return mark

    def settle(self, mark: Mark, unused: int, limit: int, now_ns: int) -> None:
        """Give back the unused units of a reservation; fewer than none are used now. Once only."""
        self.wait_ns(0, limit, now_ns)
        at = mark
        while into := at.into:
            at.into = into.into or into  # so that the next one has half the way
            at = into
        if unused > 0:
            at = self._give_back(at, unused * MINUTE_NS)
        else:
            self.take(-unused)
        at.count -= 1
        if not at.count:
            self._forget(at)

    def _give_back(self, at: Mark, amount: int) -> Mark:
        """Take units out of a layer and those below it; return the layer that has its marks now."""
        while amount:
            part = min(amount, at.layer)
            at.layer -= part
            self._level -= part
            amount -= part
            if at.layer or not at.below:
                break
            self._unite(at, at.below)
            at = at.below
        return at

    def _forget(self, mark: Mark) -> None:
        """Take a mark out of the pile; its layer lies with the one above it from now on."""
        if mark.above:
            mark.above.layer += mark.layer
            mark.above.below = mark.below
        else:
            self._loose += mark.layer
            self._top = mark.below
        if mark.below:
            mark.below.above = mark.above

    def replay(self, used: Iterable[tuple[int, int]], limit: int, since_ns: int) -> None:
        """Use what was used by a daemon that died: moments and units, in order, all later.

        What it had used before nobody says, so the minute before is taken for used up.
        """
        self.restore(limit * MINUTE_NS, since_ns)
        for at_ns, units in used:
            self.wait_ns(0, limit, at_ns)
            self.take(units)

    def restore(self, level: int, at_ns: int) -> None:
        """Begin with what another bucket had at some moment, once all was settled there."""
        self._level = self._loose = level
        self._at_ns = at_ns

    def kept(self, now_ns: int) -> tuple[int, int]:
        """Return what `restore` takes: the level, and how long ago it was."""
        return self._level, now_ns - self._at_ns

    def left(self, limit: int, now_ns: int) -> int:
        """Return the units that fit in now; a level that passed its limit leaves none."""
        self.wait_ns(0, limit, now_ns)
        return max(0, (limit * MINUTE_NS - self._level) // MINUTE_NS)

    def empty_ns(self, limit: int, now_ns: int) -> int:
        """Return how long until all of it is free again if nothing more is taken."""
        self.wait_ns(0, limit, now_ns)
        return -(-self._level // limit)


class Day:
    """Calls of one calendar day, which turns over as day budgets do."""

    __slots__ = ("_end_ms", "_zone", "seeded", "used")

    def __init__(self, zone: ZoneInfo, now_ms: int) -> None:
        self._zone = zone
        _, self._end_ms = periods.window("day", now_ms, zone)
        self.used = 0
        self.seeded = False  # whether what came before this daemon is counted too

    def start_ms(self, now_ms: int) -> int:
        """Return when the day began, in unix milliseconds."""
        return periods.window("day", now_ms, self._zone)[0]

    def end_ms(self, now_ms: int) -> int:
        """Return when the day ends, in unix milliseconds; a day that is over begins anew."""
        if now_ms >= self._end_ms:
            _, self._end_ms = periods.window("day", now_ms, self._zone)
            self.used = 0
        return self._end_ms


class Gauge:
    """Calls under way."""

    __slots__ = ("running",)

    def __init__(self) -> None:
        self.running = 0


Place = tuple[str, str]  # what is limited: ("key", "ci"), ("box", "")


class Kept(msgspec.Struct, frozen=True):
    """A bucket between two daemons: its level in millionths of a unit, and how old that is."""

    place: Place
    what: str
    level: int
    age_ns: int


class Rates:
    """Every counter there is, by what it counts for; it lives as long as the daemon.

    Args:
        now_ms: The wall clock in unix milliseconds, which never goes back; days turn over by it.
        clock_ns: A monotonic clock in nanoseconds; minutes pass by it.
    """

    def __init__(
        self, now_ms: Callable[[], int], clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self.now_ms = now_ms
        self.clock_ns = clock_ns
        self._buckets: dict[tuple[Place, str], Bucket] = {}
        self._days: dict[tuple[Place, str], Day] = {}
        self._gauges: dict[Place, Gauge] = {}
        self.begun = False  # whether what an earlier daemon counted is here

    def bucket(self, place: Place, what: str) -> Bucket:
        """Return the bucket of a place's rpm or tpm."""
        return self._buckets.setdefault((place, what), Bucket())

    def kept(self) -> list[Kept]:
        """Return every bucket that is not empty, once all that was reserved is settled."""
        now = self.clock_ns()
        found = []
        for (place, what), bucket in self._buckets.items():
            level, age = bucket.kept(now)
            if level:
                found.append(Kept(place, what, -(-level // _PART), age))
        return found

    def restore(self, kept: Sequence[Kept], passed_ns: int) -> None:
        """Go on from the buckets that a daemon left so long ago."""
        now = self.clock_ns()
        for one in kept:
            bucket = self.bucket(one.place, one.what)
            bucket.restore(one.level * _PART, now - passed_ns - one.age_ns)
        self.begun = True

    def gauge(self, place: Place) -> Gauge:
        """Return the gauge of a place."""
        return self._gauges.setdefault(place, Gauge())

    def keep_days(self, places: Set[Place]) -> None:
        """Forget the days of all but these: nobody counts there, and the ledger will know."""
        self._days = {key: day for key, day in self._days.items() if key[0] in places}

    def day(self, place: Place, zone: ZoneInfo) -> Day:
        """Return the day of a place."""
        found = self._days.get((place, zone.key))
        if found is None:
            found = self._days[place, zone.key] = Day(zone, self.now_ms())
        return found
