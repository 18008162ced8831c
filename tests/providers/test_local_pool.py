"""Who leaves memory for whom, and whose time a model's is: rules without processes."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from tollway.providers.llamacpp.pool import Loaded, is_apart, may_meet, who_leaves
from tollway.providers.llamacpp.shares import Share, Shares

MODELS = st.lists(
    st.builds(
        Loaded,
        name=st.just(""),
        held=st.integers(0, 50),
        idle_s=st.integers(0, 100),
        busy=st.booleans(),
        pinned=st.booleans(),
        apart=st.booleans(),
    ),
    max_size=6,
)


def named(models: list[Loaded]) -> list[Loaded]:
    """Return models with names of their own."""
    return [
        Loaded(str(at), one.held, one.idle_s, one.busy, one.pinned, one.apart)
        for at, one in enumerate(models)
    ]


@given(need=st.integers(0, 200), free=st.integers(0, 200), models=MODELS)
def test_who_leaves_makes_room_and_takes_nobody_needlessly(
    need: int, free: int, models: list[Loaded]
) -> None:
    """Busy and pinned ones stay; those kept apart go; each of the others was needed."""
    loaded = named(models)
    out = who_leaves(need, free, loaded)
    spare = [one for one in loaded if not one.busy and not one.pinned]
    if out is None:
        kept_apart = any(one.apart for one in loaded if one not in spare)
        assert kept_apart or free + sum(one.held for one in spare) < need
        return
    gone = [one for one in loaded if one.name in out]
    assert len(gone) == len(out) == len(set(out))
    assert all(one in spare for one in gone)
    assert all(one.apart == (one in gone) for one in loaded if one.apart)
    gained = free + sum(one.held for one in gone)
    assert gained >= need
    assert all(gained - one.held < need for one in gone if not one.apart)


@given(need=st.integers(0, 200), free=st.integers(0, 200), models=MODELS)
def test_of_models_of_one_size_those_idle_for_longest_leave(
    need: int, free: int, models: list[Loaded]
) -> None:
    """Who was asked last is asked next, most likely."""
    plain = [Loaded(str(at), 10, one.idle_s) for at, one in enumerate(models)]
    out = who_leaves(need, free, plain)
    if out:
        stays = [one.idle_s for one in plain if one.name not in out]
        assert min(one.idle_s for one in plain if one.name in out) >= max(stays, default=0)


def test_a_small_model_is_not_ended_beside_a_large_one_that_must_go() -> None:
    """It was idle for longer, and its place would not have been enough."""
    loaded = [Loaded("small", 1, 100), Loaded("large", 100, 50)]
    assert who_leaves(100, 0, loaded) == ["large"]
    assert who_leaves(101, 0, loaded) == ["small", "large"]


def test_one_word_keeps_two_apart() -> None:
    """Whichever of the two says it."""
    apart = {"a": ("b",), "b": (), "c": ()}
    assert is_apart("a", "b", apart) and is_apart("b", "a", apart)
    assert not is_apart("a", "a", {"a": ("a",)})
    assert not may_meet(["c", "b", "a"], apart)
    assert may_meet(["a", "c"], apart) and may_meet([], apart)


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        """Return its time in seconds."""
        return self.now


@given(st.lists(st.tuples(st.sampled_from(["enter", "end", "wait"]), st.integers(0, 9))))
def test_the_parts_of_calls_add_up_to_the_time_at_work(steps: list[tuple[str, int]]) -> None:
    """However they overlap; and work and rest add up to the life of the process."""
    clock = Clock()
    shares = Shares(clock)
    shares.alive()
    running: list[Share] = []
    every: list[Share] = []
    busy = Fraction(0)
    for what, number in steps:
        match what:
            case "enter":
                running.append(shares.enter())
                every.append(running[-1])
            case "end" if running:
                running.pop(number % len(running)).end()
            case "wait":
                clock.now += number
                busy += number if running else 0
    for one in running:
        one.end()
        one.end()
    total = sum(one.ms for one in every)
    assert busy * 1000 <= total + 1
    assert total <= busy * 1000 + len(every)  # each is rounded up
    shares.rest()
    clock.now += 100
    worked, idle = shares.take()
    assert abs(worked - busy * 1000) <= 1
    assert abs(worked + idle - (clock.now - 100) * 1000) <= 2
    assert shares.take()[0] <= 1
