"""How each strategy orders targets: rules, tried in many ways without a socket."""

import math
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway.daemon.gate import strategies
from tollway.daemon.gate.strategies import expected_s, fastest, least_busy, load
from tollway.daemon.gate.traffic import HALF_LIFE_S, Pace, Traffic

SECONDS = st.none() | st.floats(0, 100)
PACES = st.lists(
    st.builds(
        Pace,
        first_s=SECONDS,
        token_s=SECONDS,
        output=st.none() | st.floats(1, 10_000),
        idle_s=st.floats(0, 1000) | st.just(math.inf),
        running=st.integers(0, 5),
    ),
    min_size=1,
    max_size=6,
)


def dice(seed: int) -> random.Random:
    """Return dice that fall the same each time."""
    return random.Random(seed)  # noqa: S311 - no secret hangs on them


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now_s


ORDERS: list[Callable[[Sequence[Pace]], list[int]]] = [
    lambda paces: fastest(paces, 100, dice(1)),
    lambda paces: strategies.cheapest([pace.running or None for pace in paces]),
    lambda paces: least_busy([float(pace.running) for pace in paces]),
    lambda paces: strategies.weighted([pace.running for pace in paces], dice(1)),
]


@given(PACES)
@pytest.mark.parametrize("order", ORDERS, ids=["fastest", "cheapest", "least-busy", "weighted"])
def test_a_strategy_orders_and_never_drops(
    order: Callable[[Sequence[Pace]], list[int]], paces: list[Pace]
) -> None:
    """Failing over must still have all of them, each once."""
    assert sorted(order(paces)) == list(range(len(paces)))


@given(PACES, st.integers(1, 10_000), st.integers())
def test_the_fastest_is_first_but_for_a_look_at_another(
    paces: list[Pace], output: int, seed: int
) -> None:
    """Who is put before it was never asked, or not for a while; the rest stands by its time."""
    order = fastest(paces, output, dice(seed))
    new = [at for at, pace in enumerate(paces) if pace.idle_s == math.inf]
    assert order[: len(new)] == new
    times = [expected_s(paces[at], output) for at in order[len(new) :]]
    if times != sorted(times):
        looked_at = paces[order[len(new)]]
        assert looked_at.idle_s >= strategies.LOOK_AGAIN_S
        assert times[1:] == sorted(times[1:])


@given(st.integers(0, 1000))
def test_who_is_never_asked_keeps_nobody_else_from_it(seed: int) -> None:
    """The first may be passed over by every call: its key rests, or it cannot say the request."""
    clock, rolling = Clock(), dice(seed)
    traffic = Traffic(clock)
    names, asked = ["unfit", "slow", "quick"], []
    for _ in range(100):
        clock.now_s += strategies.LOOK_AGAIN_S
        order = fastest([traffic.pace(name) for name in names], 100, rolling)
        name = next(names[at] for at in order if names[at] != "unfit")
        asked.append(name)
        traffic.began(name)
        first_s = 1.0 if name == "quick" else 9.0
        traffic.ended(name, first_s, first_s + 1, 100)
    assert asked[:2] == ["slow", "quick"]
    assert asked[2:].count("quick") > asked[2:].count("slow") > 0


@settings(max_examples=25, deadline=None)
@given(
    slow=st.lists(st.floats(0.1, 20), min_size=2, max_size=4),
    every_s=st.floats(0.05, 60),
    seed=st.integers(),
)
def test_no_target_is_starved(slow: list[float], every_s: float, seed: int) -> None:
    """However slow one was, it is asked again: and once it is quick, it is found to be."""
    clock, rolling = Clock(), dice(seed)
    traffic = Traffic(clock)
    names = [str(at) for at in range(len(slow))]
    now_quick = max(range(len(slow)), key=slow.__getitem__)
    times = list(slow)

    def call() -> int:
        clock.now_s += every_s
        first = fastest([traffic.pace(name) for name in names], 100, rolling)[0]
        traffic.began(names[first])
        traffic.ended(names[first], times[first], times[first] + 1, 100)
        return first

    for _ in range(30):
        call()
    times[now_quick] = 0.01
    # Long enough for old answers to fade and for a look at each target, one call in ten.
    calls = int(12 * HALF_LIFE_S / every_s) + 600
    asked = [call() for _ in range(min(calls, 4000))]
    assert now_quick in asked
    if calls <= 4000:
        assert asked[-40:].count(now_quick) > 20


def test_a_target_that_was_never_asked_is_asked_by_one_call() -> None:
    """A crowd must not fall on a target of which nothing is known."""
    traffic = Traffic(Clock())
    known = Pace(first_s=0.1, token_s=0.01, idle_s=0.0)
    assert fastest([known, traffic.pace("new")], 10, dice(1)) == [1, 0]
    traffic.began("new")
    assert fastest([known, traffic.pace("new")], 10, dice(1)) == [0, 1]
    traffic.ended("new")  # it failed: nothing is known of it, and it waits for its next look
    assert fastest([known, traffic.pace("new")], 10, dice(1)) == [0, 1]


def test_speed_is_the_time_of_the_whole_answer() -> None:
    """Quick to begin and slow to go on is the better one for short answers alone."""
    begins, goes_on = Pace(0.1, 0.1, idle_s=0.0), Pace(2.0, 0.01, idle_s=0.0)
    assert fastest([goes_on, begins], 5, dice(1)) == [1, 0]
    assert fastest([begins, goes_on], 500, dice(1)) == [1, 0]


def test_what_is_old_counts_less() -> None:
    """After a few half-lives the late answers are nearly all there is."""
    clock = Clock()
    traffic = Traffic(clock)
    for first_s in [10.0] * 50 + [1.0] * 3:
        traffic.began("t")
        traffic.ended("t", first_s, first_s, 1)
        clock.now_s += 0.0 if first_s == 10.0 else 0.1
    before = traffic.pace("t").first_s
    clock.now_s += 10 * HALF_LIFE_S
    traffic.began("t")
    traffic.ended("t", 1.0, 1.0, 1)
    after = traffic.pace("t").first_s
    assert before is not None and before > 9
    assert after is not None and after < 1.5
    assert traffic.pace("t").running == 0


def test_a_whole_answer_tells_no_first_token() -> None:
    """Nobody saw it; its pace is its time over its tokens."""
    traffic = Traffic(Clock())
    traffic.began("t")
    traffic.ended("t", None, 2.0, 100)
    assert traffic.pace("t") == Pace(None, 0.02, 100.0, 0.0, 0)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 20))
def test_a_queue_is_busier_than_any_full_target(running: int, waiting: int, slots: int) -> None:
    """One call more makes no target less busy, and who has a line is past full."""
    assert load(running + 1, waiting, slots) > load(running, waiting, slots)
    assert load(running, waiting + 1, slots) > load(running, waiting, slots)
    assert load(slots, waiting + 1, slots) > 1.0 >= load(slots, 0, slots, cache=1.0)


@given(PACES, st.none() | st.integers(1, 5000))
def test_a_likely_answer_is_within_its_limit(paces: list[Pace], limit: int | None) -> None:
    """What is expected of a call is never more than it may be answered with."""
    likely = strategies.likely_output(limit, paces)
    for at, pace in enumerate(paces):
        assert likely(at) >= 1
        assert limit is None or likely(at) <= limit
        if limit is None and pace.output is not None:
            assert likely(at) == math.ceil(pace.output)


def test_names_without_end_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that run stay; of the others the half that was asked longest ago is forgotten."""
    monkeypatch.setattr("tollway.daemon.gate.traffic._MOST_TARGETS", 10)
    clock = Clock()
    traffic = Traffic(clock)
    traffic.began("runs")
    for number in range(100):
        clock.now_s += 1
        traffic.began(f"t{number}")
        traffic.ended(f"t{number}", 1.0, 1.0, 1)
    assert len(traffic._targets) <= 10
    assert traffic.pace("runs").running == 1
    assert traffic.pace("t99").first_s == 1.0
