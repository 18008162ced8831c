"""Calls on their way past many limits at once: all or none, never over, nothing left behind."""

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tollway.daemon.config.load import parse
from tollway.daemon.errors import BudgetSpent, OverLimit, RateLimited
from tollway.daemon.gate.limits import NOTHING, Limits, Passage, Skipped, Taken, sooner
from tollway.daemon.gate.rates import MINUTE_NS, Rates
from tollway.daemon.gate.route import LOCAL, Target
from tollway.daemon.ledger.rows import Who
from tollway.providers.catalog import KINDS

TEXT = """
[providers.up]
kind = "openai"
api_key = "env:UP"
limits = { concurrent = 3, tpm = 300, rpd = 1000 }
[models.small]
gguf = "small.gguf"
limits = { concurrent = 1 }
[routes.both]
to = ["up/m", "local/small"]
limits = { rpm = 20 }
[teams.ml]
limits = { rpm = 9, tpm = 200, concurrent = 4 }
[users.ann]
team = "ml"
limits = { rpm = 5, rpd = 12 }
[users.bob]
team = "ml"
limits = { tpm = 150, concurrent = 2 }
"""
DAY_MS = 1_793_577_600_000  # a day's beginning, UTC
TARGETS = (Target("up", "m", KINDS["openai"]), Target(LOCAL, "small", KINDS["local"]))


def limits_of(text: str, rates: Rates) -> Limits:
    """Return the limits of a configuration, none of whose days the ledger has to be asked for."""
    found = Limits(parse(text, path=Path("gateway.toml")), rates)
    for limit in found.every():
        if day := getattr(limit, "day", None):
            day.seeded = True
    return found


class Passing(RuleBasedStateMachine):
    """Random callers, targets, amounts, endings and reloads, in random order."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.ns = 10**15
        self.rates = Rates(lambda: DAY_MS + (self.ns - 10**15) // 10**6, lambda: self.ns)
        self.limits = limits_of(TEXT, self.rates)
        self.running: list[tuple[str, Target]] = []
        self.day = 0
        self.sent = 0  # to the provider, today

    @rule(seconds=st.integers(1, 40))
    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self.ns += seconds * 10**9

    @rule()
    def reload(self) -> None:
        """Build all limits anew, as a reload does."""
        self.limits = limits_of(TEXT, self.rates)

    @rule(
        target=calls,
        user=st.sampled_from(["ann", "bob"]),
        to=st.sampled_from(TARGETS),
        tokens=st.integers(0, 160),
    )
    def call(
        self, user: str, to: Target, tokens: int
    ) -> tuple[Passage, Taken, int, tuple[str, Target]] | None:
        """Begin a call; one that is refused must leave no trace."""
        who = Who(key="", user=user, team="ml")
        applying = self.limits.applying(Who(key=user, user=user, team="ml"), "both", to)
        before = self.limits.states()
        passage = Passage()
        try:
            taken = passage.take(applying, tokens)
        except (RateLimited, OverLimit):
            assert self.limits.states() == before
            passage.leave()
            assert self.limits.states() == before
            return None
        place = (who.user, to)
        self.running.append(place)
        self.day += user == "ann"
        self.sent += to is TARGETS[0]
        return passage, taken, tokens, place

    @rule(one=consumes(calls), used=st.integers(0, 160), told=st.booleans())
    def end(
        self, one: tuple[Passage, Taken, int, tuple[str, Target]] | None, used: int, told: bool
    ) -> None:
        """End a call, which says what it used or crashes without a word."""
        if one is None:
            return
        passage, taken, tokens, place = one
        if told:
            taken.settle(min(used, tokens))
        passage.leave()
        passage.leave()
        self.running.remove(place)

    @invariant()
    def none_is_passed(self) -> None:
        """Compare what is left with who is under way."""
        left = {(one.name, one.limit): one.left for one in self.limits.states()}
        assert min(left.values()) >= 0
        up, local = (sum(to is one for _, to in self.running) for one in TARGETS)
        bobs = sum(user == "bob" for user, _ in self.running)
        assert left["ml", "concurrent"] == 4 - len(self.running)
        assert left["bob", "concurrent"] == 2 - bobs
        assert left["up", "concurrent"] == 3 - up
        assert left["small", "concurrent"] == 1 - local
        if self.ns - 10**15 < 86_400 * 10**9:
            assert left["ann", "rpd"] == 12 - self.day
            assert left["up", "rpd"] == 1000 - self.sent

    def teardown(self) -> None:
        """Once a minute has passed at rest, all of it is free again."""
        self.ns += MINUTE_NS
        if not self.running:
            rested = [one for one in self.limits.states() if one.limit != "rpd"]
            assert all(one.left == one.most for one in rested)


TestPassing = Passing.TestCase
TestPassing.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)


def test_a_caller_without_limits_takes_nothing() -> None:
    """No limits, no work: not even an object of its own."""
    limits = limits_of("", Rates(lambda: DAY_MS))
    applying = limits.applying(Who(user="ann"), "", TARGETS[0])
    assert Passage().take(applying, 10**9) is NOTHING
    assert applying.standing() is None
    assert applying is limits.applying(Who(user="bob"), "", TARGETS[1])


def test_a_local_models_limits_are_its_own() -> None:
    """A model of this box has no provider that could have limits."""
    limits = limits_of(TEXT, Rates(lambda: DAY_MS))
    places = [
        (one.scope, one.name, one.what)
        for one in limits.applying(Who(user="x"), "both", TARGETS[1]).each()
    ]
    assert places == [("route", "both", "rpm"), ("model", "small", "concurrent")]
    assert [one.whose for one in limits.applying(Who(user="x"), "", TARGETS[1]).each()] == [
        "model `small`"
    ]


def test_many_made_up_names_do_not_fill_the_memory() -> None:
    """Anyone may ask for any model of a provider."""
    limits = limits_of(TEXT, Rates(lambda: DAY_MS))
    for number in range(10_050):
        limits.applying(Who(user="x"), "", Target("up", str(number), KINDS["openai"]))
    assert len(limits._known) <= 10_000


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_refusals_the_caller_hears_the_one_that_ends_first(order: int) -> None:
    """A wait is better news than a budget that is spent or a call that never fits."""
    soon = RateLimited("soon", hint="", retry_after_s=2.0, skips=True)
    late = RateLimited("late", hint="", retry_after_s=3600.0, skips=True)
    never = OverLimit("never", hint="", skips=True)
    spent = BudgetSpent("spent")
    found: Skipped | None = None
    refusals: list[Skipped] = [never, late, soon, spent]
    for one in refusals[::order]:
        found = sooner(found, one)
    assert found is soon
    assert sooner(sooner(None, never), late) is late
