"""Which target comes next, and after which wait: on a clock and with a chance of its own."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.daemon.gate.chain import Chain, Failure
from tollway.daemon.gate.health import Health
from tollway.daemon.gate.route import ProviderKey, Target
from tollway.providers.catalog import KINDS
from tollway.providers.errors import (
    AnswerHeldUp,
    LocalModelBusy,
    LocalModelFailed,
    UpstreamBroke,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from tollway.providers.output_limits import Lower


class World:
    """A health whose time passes when the test says so, and whose jitter is the most there is."""

    def __init__(self, jitter: float = 1.0) -> None:
        self.now = 1000.0
        self.health = Health(lambda: self.now, lambda: jitter)

    def fails(self, target: Target, times: int = 5) -> None:
        """Let so many calls to a target fail."""
        for _ in range(times):
            self.health.begin(target).failed(refused(500).error)

    def rests(self, target: Target, for_s: float) -> None:
        """Let a target's key be told to wait."""
        self.health.begin(target).failed(refused(429).error, for_s)


def target(name: str, keys: int = 0) -> Target:
    """Return a target, with a pool of so many keys."""
    provider, _, model = name.partition("/")
    pool = tuple(ProviderKey(f"env:K{number}", ()) for number in range(keys))
    return Target(provider, model, KINDS["openai"], keys=pool)


A, B, C = target("a/m"), target("b/m"), target("c/m")


def refused(status: int, hint_s: float | None = None, again: bool = True) -> Failure:
    """Return a provider's refusal."""
    error = UpstreamRefused("No", status=status)
    return Failure(error, again, "upstream_refused", hint_s=hint_s)


def walk(
    world: World, chain: Chain, failure: Failure, most: int = 50
) -> Iterator[tuple[str, float]]:
    """Yield each step until there is none, while all fail alike; waits pass."""
    for _ in range(most):
        step = chain.next()
        if step is None:
            return
        yield step.target.name + (f" {step.target.key}" if step.target.key else ""), step.wait_s
        world.now += step.wait_s
        outing = world.health.begin(step.target)
        chain.begun()
        outing.failed(failure.error, failure.hint_s)
        chain.failed(failure)
    raise AssertionError("it goes on for ever")


def test_targets_are_tried_in_order_once_each() -> None:
    """Without retries a failure means the next target, at once."""
    world = World()
    assert list(walk(world, Chain([A, B], world.health), refused(500))) == [("a/m", 0), ("b/m", 0)]


def test_retries_wait_twice_as_long_each_time() -> None:
    """Up to 0.5, 1 and 2 seconds: the most of a full jitter."""
    world = World()
    steps = list(walk(world, Chain([A, B], world.health, retries=3), refused(503)))
    assert steps[:4] == [("a/m", 0), ("a/m", 0.5), ("a/m", 1.0), ("a/m", 2.0)]
    assert steps[4:] == [("b/m", 0), ("b/m", 0.5), ("b/m", 1.0), ("b/m", 2.0)]


def test_the_jitter_is_full() -> None:
    """Any part of the wait down to nothing, so that clients that failed together part."""
    world = World(jitter=0.0)
    steps = list(walk(world, Chain([A], world.health, retries=2), refused(503)))
    assert steps == [("a/m", 0.0)] * 3


def test_a_hint_is_waited_for_and_never_shortened() -> None:
    """What the provider asks for, and a little more, so that not all come back at once."""
    world = World()
    steps = list(walk(world, Chain([A], world.health, retries=1), refused(429, hint_s=2.0)))
    assert steps == [("a/m", 0), ("a/m", 2.5)]


def test_a_hint_past_the_deadline_means_the_next_target_at_once() -> None:
    """Nobody waits for what comes too late."""
    world = World()
    chain = Chain([A, B], world.health, retries=2, until_s=world.now + 3)
    assert list(walk(world, chain, refused(429, hint_s=3.0))) == [("a/m", 0), ("b/m", 0)]


def test_a_long_hint_means_the_next_target_while_there_is_one() -> None:
    """Twenty seconds are waited out only by who has nowhere else to go; an hour by nobody."""
    world = World()
    chain = Chain([A, B], world.health, retries=1)
    assert [name for name, _ in walk(world, chain, refused(503, hint_s=20.0))] == [
        "a/m", "b/m", "b/m",
    ]  # fmt: skip
    world = World()
    chain = Chain([A], world.health, retries=1)
    assert list(walk(world, chain, refused(503, hint_s=3600.0))) == [("a/m", 0)]


def death(kind: Literal["loading", "among", "alone"]) -> Failure:
    """Return the death of a process of this box."""
    error = LocalModelFailed("It died", sent=False)
    error.death = kind
    return Failure(error, again=True)


@pytest.mark.parametrize("retries", [0, 3])
def test_a_death_is_tried_once_more_at_once_and_never_a_third_time(retries: int) -> None:
    """Whatever the route's retries say, and though deaths of others have opened the breaker."""
    world = World()
    world.fails(A)
    chain = Chain([A], world.health, retries=retries)
    assert list(walk(world, chain, death("alone"))) == [("a/m", 0), ("a/m", 0)]
    assert isinstance(chain.error, LocalModelFailed)
    assert not chain.error.again


def test_a_death_among_others_is_not_the_calls_own_fault() -> None:
    """It is told that it may come again: it need not be what the process died of."""
    world = World()
    chain = Chain([A], world.health)
    assert len(list(walk(world, chain, death("among")))) == 2
    assert chain.error is not None
    assert chain.error.again


def test_a_death_means_the_next_target_where_there_is_one_that_is_well() -> None:
    """Nobody waits for a load while another can answer; a target that fails cannot."""
    world = World()
    assert list(walk(world, Chain([A, B], world.health), death("alone"))) == [
        ("a/m", 0), ("b/m", 0), ("b/m", 0),
    ]  # fmt: skip
    world.fails(B)
    assert list(walk(world, Chain([A, B], world.health), death("alone"))) == [
        ("a/m", 0), ("a/m", 0),
    ]  # fmt: skip
    chain = Chain([A], world.health, until_s=world.now)
    assert list(walk(world, chain, death("alone"))) == [("a/m", 0)]


HOPELESS = {
    "a bad request": refused(400, again=False),
    "the caller's own credential": refused(401, again=False),
    "no such model": refused(404),
    "no money": refused(402),
    "not implemented": refused(501),
    "forbidden to try again": Failure(UpstreamRefused("No", status=503), True, refused_retry=True),
    "a busy model": Failure(LocalModelBusy("Busy"), True),
    "a grammar that cannot be kept to": Failure(AnswerHeldUp("No"), True),
}


@pytest.mark.parametrize("why", HOPELESS)
def test_what_cannot_succeed_is_not_tried_again(why: str) -> None:
    """Each target is asked once; where no other can do better, no other is."""
    world = World()
    steps = [name for name, _ in walk(world, Chain([A, B], world.health, retries=5), HOPELESS[why])]
    assert steps == (["a/m", "b/m"] if HOPELESS[why].again else ["a/m"])


PASSING = [
    UpstreamUnreachable("No"),
    UpstreamTimeout("No", phase="first"),
    UpstreamBroke("No"),
    *(UpstreamRefused("No", status=status) for status in (408, 424, 429, 500, 502, 503, 504, 529)),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda one: f"{one.code} {one.status}")
def test_what_may_pass_is_tried_again(error: UpstreamError) -> None:
    """Connections, time-outs, broken answers, and refusals that are no verdict on the request."""
    world = World()
    chain = Chain([A], world.health, retries=1)
    assert [name for name, _ in walk(world, chain, Failure(error, True))] == ["a/m", "a/m"]


def test_what_a_caller_holds_answers_to_is_not_held_against_the_model() -> None:
    """One caller's grammars would else take a model from everybody."""
    world = World()
    for _ in range(20):
        list(walk(world, Chain([A], world.health), Failure(AnswerHeldUp("No"), True)))
    assert world.health.failing() == {}


def test_an_outage_is_not_multiplied() -> None:
    """A hundred calls at once to a provider that takes none are not three hundred."""
    world = World(jitter=0.0)
    tries = 0
    for _ in range(100):
        chain = Chain([A], world.health, retries=2)
        tries += len(list(walk(world, chain, refused(429))))
    assert tries <= 100 + 20 + 10 + 1


def test_a_failing_target_is_passed_over_until_its_trial() -> None:
    """Open: the next one at once. After its rest one call tries it."""
    world = World()
    world.fails(A)
    assert world.health.failing() == {"a": "a/m is failing: HTTP 500"}
    step = Chain([A, B], world.health).next()
    assert step and step.target.name == "b/m"
    world.now += 10
    step = Chain([A, B], world.health).next()
    assert step and step.target.name == "a/m"
    trial = world.health.begin(step.target)
    other = Chain([A, B], world.health).next()
    assert other and other.target.name == "b/m"
    trial.answered()
    assert world.health.failing() == {}
    step = Chain([A, B], world.health).next()
    assert step and step.target.name == "a/m"


def test_where_all_fail_the_least_bad_is_tried() -> None:
    """The one whose rest ends first; a route is never without a target."""
    world = World()
    world.fails(A)
    world.now += 3
    world.fails(B)
    steps = [name for name, _ in walk(world, Chain([B, A], world.health), refused(500))]
    assert steps == ["a/m"]


def test_a_failing_target_is_no_refuge_from_one_that_answered_badly() -> None:
    """A call that another target refused is not sent to one that hangs."""
    world = World()
    world.fails(A)
    assert [name for name, _ in walk(world, Chain([A, B], world.health), refused(503))] == ["b/m"]


def test_a_resting_target_comes_behind_and_is_tried_all_the_same() -> None:
    """A rate limit is no outage: to ask again costs nothing, and may be answered."""
    world = World()
    world.rests(A, 30)
    steps = [name for name, _ in walk(world, Chain([A, B], world.health), refused(503))]
    assert steps == ["b/m", "a/m"]


POOL = target("p/m", keys=3)


def test_keys_of_a_pool_take_turns() -> None:
    """Whoever has rested longest is next."""
    world = World()
    used = []
    for _ in range(6):
        chosen = world.health.with_key(POOL)
        world.health.begin(chosen).answered()
        used.append(chosen.key)
    assert used == ["env:K0", "env:K1", "env:K2"] * 2


@pytest.mark.parametrize("status", [401, 402, 403, 429])
def test_a_refused_key_is_replaced_by_another_at_once(status: int) -> None:
    """Without retries too: another key is another chance; each is tried once."""
    world = World()
    steps = list(walk(world, Chain([POOL, B], world.health), refused(status)))
    assert steps == [("p/m env:K0", 0), ("p/m env:K1", 0), ("p/m env:K2", 0), ("b/m", 0)]


def test_a_key_that_is_rate_limited_rests_for_that_model_alone() -> None:
    """Providers count each model by itself; a key that is unknown is so for all."""
    world = World()
    first = world.health.with_key(POOL)
    world.rests(first, 30)
    assert world.health.with_key(POOL).key != first.key
    assert not world.health.another_key(POOL, {"env:K1", "env:K2"})
    assert world.health.another_key(target("p/other", keys=3), {"env:K1", "env:K2"})
    world.health.begin(first).failed(refused(401).error)
    assert not world.health.another_key(target("p/other", keys=3), {"env:K1", "env:K2"})


def test_a_key_rests_ten_minutes_at_most() -> None:
    """A quota of the day that is raised meanwhile is noticed by one call."""
    world = World()
    world.rests(A, 86_000)
    world.now += 599
    assert world.health.standing(A).rank == 1
    world.now += 2
    assert world.health.standing(A).rank == 0


def test_a_pool_is_never_empty() -> None:
    """When all rest, the one whose rest ends first is used."""
    world = World()
    for number, key in enumerate(POOL.keys):
        chosen = world.health.with_key(POOL, tried={one.name for one in POOL.keys} - {key.name})
        world.rests(chosen, 30 - number)
    assert world.health.standing(POOL).rank == 1
    assert world.health.with_key(POOL).key == "env:K2"


def test_a_further_try_waits_for_the_key_that_is_ready_first() -> None:
    """The last key that was asked may be told to wait longer than the others have to."""
    world = World()
    for name, rest in (("env:K0", 2.0), ("env:K1", 30.0)):
        (key,) = [one for one in POOL.keys if one.name == name]
        world.rests(POOL.with_key(key), rest)
    steps = list(walk(world, Chain([POOL], world.health, retries=1), refused(429, hint_s=30.0)))
    assert steps == [("p/m env:K2", 0), ("p/m env:K0", 2.5)]


def test_a_conversation_keeps_its_key_as_long_as_that_is_ready() -> None:
    """What is preferred comes first, and is passed over while it rests."""
    world = World()
    assert world.health.with_key(POOL, prefer="env:K2").key == "env:K2"
    chain = Chain([POOL], world.health, prefer=lambda _: "env:K1")
    step = chain.next()
    assert step and step.target.key == "env:K1"
    world.rests(step.target, 30)
    assert world.health.with_key(POOL, prefer="env:K1").key != "env:K1"


def test_an_overflow_goes_to_a_larger_window_alone() -> None:
    """Not to one that is as small, nor to the same model elsewhere; to one that nobody knows."""
    windows = {"a/m": 8, "b/n": 8, "c/o": 100, "d/p": 4, "e/q": None, "f/m": None}
    world = World()
    chain = Chain([target(name) for name in windows], world.health,
                  window=lambda one: windows[one.name])  # fmt: skip
    failure = Failure(UpstreamRefused("No", status=400), True, overflow=True)
    assert [name for name, _ in walk(world, chain, failure)] == ["a/m", "c/o", "e/q"]


def test_a_prompt_that_is_surely_too_long_goes_to_the_larger_window_first() -> None:
    """The smaller one is kept for when there is nothing else."""
    world = World()
    windows = {"a/m": 8, "b/m": 100}
    chain = Chain([A, B], world.health, window=lambda one: windows[one.name])
    seen = []
    while step := chain.next():
        if chain.too_small(50):
            continue
        seen.append(step.target.name)
        chain.begun()
        chain.failed(refused(503))
    assert seen == ["b/m", "a/m"]


def test_the_client_hears_a_providers_own_words_before_ours() -> None:
    """An answer says more than that another could not be reached."""
    world = World()
    chain = Chain([A, B], world.health)
    for failure in (refused(429), Failure(UpstreamUnreachable("No"), True)):
        chain.next()
        chain.begun()
        chain.failed(failure)
    assert chain.next() is None
    assert chain.error is not None and chain.error.status == 429


FAILURES = st.sampled_from(
    [
        refused(500),
        refused(429, hint_s=1.0),
        refused(429),
        refused(503, hint_s=40.0),
        refused(401),
        refused(404),
        Failure(UpstreamBroke("No"), True),
        Failure(UpstreamRefused("No", status=400), True, overflow=True),
    ]
)


@given(
    failures=st.lists(FAILURES, min_size=60, max_size=60),
    retries=st.integers(0, 4),
    within_s=st.floats(0.1, 100),
    ill=st.sets(st.sampled_from("abp")),
    jitter=st.floats(0, 1),
)
def test_a_call_always_begins_somewhere_and_always_ends(
    failures: list[Failure], retries: int, within_s: float, ill: set[str], jitter: float
) -> None:
    """At least one try; no more than each target's share; none begins past the deadline."""
    world = World(jitter)
    targets = [A, B, POOL]
    for one in targets:
        if one.provider in ill:
            world.fails(world.health.with_key(one))
    chain = Chain(targets, world.health, retries=retries, until_s=world.now + within_s)
    until_s, begun = world.now + within_s, list[tuple[str, float]]()
    for failure in failures:
        step = chain.next()
        if step is None:
            break
        world.now += step.wait_s
        assert not begun or world.now < until_s
        begun.append((step.target.name, world.now))
        outing = world.health.begin(step.target)
        chain.begun()
        outing.failed(failure.error, failure.hint_s)
        chain.failed(failure)
    else:
        raise AssertionError("it goes on for ever")
    assert begun
    assert len(begun) <= 3 * (1 + retries) + 2
    assert all(one[1] <= other[1] for one, other in pairwise(begun))


def test_a_fault_of_the_gateways_own_is_no_failure_of_the_target() -> None:
    """A hold that could not be written, a client that left: nothing is held against anybody."""
    world = World()
    for _ in range(20):
        outing = world.health.begin(A)
        outing.over()
        outing.failed(refused(500).error)
    assert world.health.standing(A).rank == 0
    assert world.health.states() == []


@pytest.mark.parametrize(
    "failure",
    [
        Failure(refused(400).error, again=False, lower=Lower(4096, lasting=True)),
        Failure(refused(400).error, again=False, sealed=True),
        refused(401),
    ],
    ids=["a lower limit", "without thoughts", "another key"],
)
def test_nothing_is_asked_for_anew_past_the_deadline(failure: Failure) -> None:
    """The words of a refusal may come in slowly: what is sent then has no time left, and costs."""
    world = World()
    for late_s, more in ((0.0, True), (5.0, False)):
        chain = Chain([target("a/m", keys=2)], world.health, until_s=world.now + 5)
        assert chain.next() is not None
        world.now += late_s
        chain.failed(failure)
        assert (chain.next() is not None) == more
        assert chain.error is failure.error
