"""A GCRA held against the definition of what it may let through, worked out by brute force."""

from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tollway.daemon.gate.rates import MINUTE_NS, Bucket, Day, Mark, Rates

S = 1_000_000_000
GAPS = st.one_of(st.just(0), st.integers(1, 90 * S), st.integers(1, 1000))
STEPS = st.lists(st.tuples(GAPS, st.integers(1, 12)), max_size=40)


def fits(log: list[tuple[int, int]], units: int, limit: int, now: int) -> bool:
    """Whether no window that ends now would hold more than the burst and what refilled in it."""
    total = units
    for at, taken in reversed([*log, (now, 0)]):
        total += taken
        if total * MINUTE_NS > limit * (MINUTE_NS + now - at):
            return False
    return True


@settings(max_examples=50)
@given(st.integers(1, 12), STEPS)
def test_it_admits_exactly_what_no_window_forbids(limit: int, steps: list[tuple[int, int]]) -> None:
    """Never over the limit and its burst in any window; never a refusal of who kept within it."""
    bucket, now = Bucket(), 0
    log: list[tuple[int, int]] = []
    for gap, wanted in steps:
        now += gap
        units = min(wanted, limit)
        admitted = bucket.wait_ns(units, limit, now) == 0
        assert admitted == fits(log, units, limit, now)
        if admitted:
            bucket.take(units)
            log.append((now, units))
    for first, (begin, _) in enumerate(log):
        total = 0
        for end, units in log[first:]:
            total += units
            assert total * MINUTE_NS <= limit * (MINUTE_NS + end - begin)


@settings(max_examples=50)
@given(st.integers(1, 500), st.lists(GAPS, max_size=60))
def test_who_calls_no_oftener_than_the_limit_is_never_refused(limit: int, gaps: list[int]) -> None:
    """A caller that spaces its calls by the limit's interval meets no refusal, for ever."""
    bucket, now = Bucket(), 0
    interval = -(-MINUTE_NS // limit)
    for gap in gaps:
        now += interval + gap
        assert bucket.wait_ns(1, limit, now) == 0
        bucket.take(1)


@settings(max_examples=50)
@given(st.integers(1, 12), STEPS)
def test_the_wait_is_exact_to_the_nanosecond(limit: int, steps: list[tuple[int, int]]) -> None:
    """`Retry-After` is a promise: later there is room, and a nanosecond earlier there was none."""
    bucket, now = Bucket(), 0
    for gap, wanted in steps:
        now += gap
        units = min(wanted, limit)
        if wait := bucket.wait_ns(units, limit, now):
            assert bucket.wait_ns(units, limit, now + wait - 1) == 1
            now += wait
            assert bucket.wait_ns(units, limit, now) == 0
        bucket.take(units)


def test_a_burst_is_one_minutes_limit_and_then_one_each_interval() -> None:
    """What a person reads in the page about limits, in numbers."""
    bucket = Bucket()
    taken = 0
    while bucket.wait_ns(1, 60, 0) == 0:
        bucket.take(1)
        taken += 1
    assert taken == 60
    assert bucket.wait_ns(1, 60, 0) == S
    assert bucket.left(60, 30 * S) == 30
    assert bucket.empty_ns(60, 30 * S) == 30 * S


@dataclass
class Reserved:
    """A reservation, and its place in the model's history."""

    mark: Mark
    at: int
    units: int


@dataclass
class Model:
    """Everything taken, as it is known by now to have been; the level is worked out anew."""

    limit: int
    taken: list[tuple[int, int]] = field(default_factory=list)

    def level(self, now: int) -> int:
        """Return the level that this history leads to, had it been known from the start."""
        level, last = 0, 0
        for at, units in self.taken:
            level = max(0, level - (at - last) * self.limit) + units * MINUTE_NS
            last = at
        return max(0, level - (now - last) * self.limit)


class Settling(RuleBasedStateMachine):
    """Reservations that are settled in any order, against the history with the true numbers."""

    reserved = Bundle("reserved")

    def __init__(self) -> None:
        super().__init__()
        self.bucket = Bucket()
        self.model = Model(limit=20)
        self.now = 0

    @rule(gap=GAPS)
    def wait(self, gap: int) -> None:
        """Let time pass."""
        self.now += gap

    @rule(target=reserved, units=st.integers(1, 20))
    def reserve(self, units: int) -> Reserved | None:
        """Reserve what fits."""
        fine = self.bucket.wait_ns(units, 20, self.now) == 0
        assert fine == (self.model.level(self.now) + units * MINUTE_NS <= 20 * MINUTE_NS)
        if not fine:
            return None
        self.model.taken.append((self.now, units))
        return Reserved(self.bucket.reserve(units), len(self.model.taken) - 1, units)

    @rule(one=consumes(reserved), used=st.integers(0, 30))
    def settle(self, one: Reserved | None, used: int) -> None:
        """Say what was used; what is over the reservation is used now."""
        if one is None:
            return
        self.bucket.settle(one.mark, one.units - used, 20, self.now)
        when, units = self.model.taken[one.at]
        self.model.taken[one.at] = (when, min(used, units))
        if used > units:
            self.model.taken.append((self.now, used - units))

    @invariant()
    def the_level_is_the_historys(self) -> None:
        """Nothing is lost and nothing is given back twice, to the last nanosecond."""
        left = max(0, 20 * MINUTE_NS - self.model.level(self.now)) // MINUTE_NS
        assert self.bucket.left(20, self.now) == left
        assert self.bucket.empty_ns(20, self.now) == -(-self.model.level(self.now) // 20)


TestSettling = Settling.TestCase
TestSettling.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)


def test_what_comes_back_late_is_not_given_twice() -> None:
    """A reservation that has refilled meanwhile is free already; a refund would free it again."""
    bucket = Bucket()
    assert bucket.wait_ns(20, 20, 0) == 0
    early = bucket.reserve(20)
    assert bucket.wait_ns(20, 20, MINUTE_NS) == 0  # the minute has refilled
    bucket.reserve(20)
    bucket.settle(early, 20, 20, MINUTE_NS)
    assert bucket.left(20, MINUTE_NS) == 0


def test_a_day_turns_over_at_midnight_of_its_zone() -> None:
    """Limits a day end with the day that budgets have."""
    zone = ZoneInfo("Europe/Berlin")
    evening = 1_793_573_940_000  # 2026-11-01 22:59 UTC: a minute to midnight
    day = Day(zone, evening)
    day.used = 3
    assert day.end_ms(evening) == evening + 60_000
    assert day.used == 3
    assert day.end_ms(evening + 60_000) == evening + 60_000 + 86_400_000
    assert day.used == 0
    assert day.start_ms(evening + 60_000) == evening + 60_000


def test_counters_are_the_same_for_the_same_place() -> None:
    """What a reload builds anew must count on with what there is."""
    rates = Rates(lambda: 0)
    zone = ZoneInfo("UTC")
    assert rates.bucket(("key", "ci"), "rpm") is rates.bucket(("key", "ci"), "rpm")
    assert rates.bucket(("key", "ci"), "rpm") is not rates.bucket(("key", "ci"), "tpm")
    assert rates.gauge(("key", "ci")) is rates.gauge(("key", "ci"))
    assert rates.day(("key", "ci"), zone) is rates.day(("key", "ci"), zone)
    assert rates.day(("key", "ci"), zone) is not rates.day(("user", "ci"), zone)
