"""Holds and settlements against a model: no cap passed, no hold left, no period reopened."""

from collections.abc import Sequence
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tollway.daemon.config.schema import Budget, Period
from tollway.daemon.gate import periods
from tollway.daemon.gate.books import Account, Books, Full, Hold, Limit, Scope

ZONE = ZoneInfo("Europe/Berlin")
DAY_MS = 86_400_000
START_MS = 1_800_000_000_000
BOX: Scope = ("box", "")
SCOPES: list[tuple[Scope, ...]] = [
    (BOX,),
    (BOX, ("team", "ml")),
    (BOX, ("team", "ml"), ("user", "ann")),
    (BOX, ("user", "ben"), ("key", "ci")),
]
BUDGETS: list[tuple[Scope, Budget]] = [
    (BOX, Budget(100, "day")),
    (BOX, Budget(400, "total")),
    (("team", "ml"), Budget(60, "day")),
    (("user", "ann"), Budget(90, "month")),
    (("key", "ci"), Budget(30, "week")),
]


def _limits(books: Books, budgets: Sequence[tuple[Scope, Budget]], now_ms: int) -> list[Limit]:
    return [
        (books._add(Account(scope, budget.period, ZONE, now_ms)), budget)
        for scope, budget in budgets
    ]


class Racing(RuleBasedStateMachine):
    """Calls that hold, settle and overrun in any order while the clock goes on."""

    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.books = Books()
        self.now_ms = START_MS
        self.limits = _limits(self.books, BUDGETS, START_MS)
        # What really happened: (scopes, admitted, cost or None while it runs, held).
        self.calls: dict[int, tuple[tuple[Scope, ...], int, int | None, int]] = {}
        self.overruns = 0

    @rule(target=holds, scopes=st.sampled_from(SCOPES), amount=st.integers(0, 50))
    def hold(self, scopes: tuple[Scope, ...], amount: int) -> tuple[int, Hold] | None:
        """Admit a call exactly where every budget that applies has room."""
        limits = [(account, budget) for account, budget in self.limits if account.scope in scopes]
        fits = all(
            self._used(account.scope, budget.period, self.now_ms) + amount <= budget.nanousd
            for account, budget in limits
        )
        try:
            hold = self.books.hold(amount, self.now_ms, scopes, limits)
        except Full:
            assert not fits
            return None
        assert fits
        number = len(self.calls)
        self.calls[number] = (scopes, self.now_ms, None, amount)
        return number, hold

    @rule(held=consumes(holds), part=st.fractions(0, 1))
    def settle(self, held: tuple[int, Hold] | None, part: Fraction) -> None:
        """Settle a call at no more than its hold."""
        if held:
            self._settle(held, int(held[1].amount * part))

    @rule(held=consumes(holds), more=st.integers(1, 20))
    def overrun(self, held: tuple[int, Hold] | None, more: int) -> None:
        """Settle one whose upstream broke its own limit: the true cost is booked all the same."""
        if held:
            self.overruns += more
            self._settle(held, held[1].amount + more)

    def _settle(self, held: tuple[int, Hold], cost: int) -> None:
        number, hold = held
        scopes, admitted, _, amount = self.calls[number]
        self.calls[number] = (scopes, admitted, cost, amount)
        hold.settle(cost)

    @rule(step=st.integers(0, 3 * DAY_MS))
    def wait(self, step: int) -> None:
        """Let time go on, over the ends of periods."""
        self.now_ms += step

    def _used(self, scope: Scope, period: Period, at_ms: int) -> int:
        """Return what the model says is settled and held in the period of a moment."""
        start, end = periods.window(period, at_ms, ZONE)
        return sum(
            amount if cost is None else cost
            for scopes, admitted, cost, amount in self.calls.values()
            if scope in scopes and start <= admitted < end
        )

    @invariant()
    def counters_are_what_happened(self) -> None:
        """Settled and held are the sums of the calls of this period, never past the cap."""
        for account, budget in self.limits:
            window = account.window(self.now_ms)
            assert window.settled + window.held == self._used(
                account.scope, budget.period, self.now_ms
            )
            assert window.settled + window.held <= budget.nanousd + self.overruns

    def teardown(self) -> None:
        """Once every call has ended, nothing is held."""
        for hold in list(self.books.live):
            hold.settle(0)
        for account, _ in self.limits:
            assert account.window(self.now_ms).held == 0
            assert account.previous is None or account.previous.held == 0


TestRacing = Racing.TestCase
TestRacing.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_refused_hold_books_nothing() -> None:
    """All budgets or none: the one that had room is not charged for the one that had not."""
    books = Books()
    limits = _limits(books, BUDGETS[:3], START_MS)
    with pytest.raises(Full):
        books.hold(61, START_MS, SCOPES[1], limits)
    assert [account.current.held for account, _ in limits] == [0, 0, 0]
    assert not books.live


def test_a_call_stays_in_the_period_of_its_admission() -> None:
    """A call that ends after midnight is booked on the day on which it was admitted."""
    books = Books()
    ((account, budget),) = _limits(books, [(BOX, Budget(100, "day"))], START_MS)
    hold = books.hold(80, START_MS, (BOX,), [(account, budget)])
    late = account.current.end_ms
    books.hold(100, late, (BOX,), [(account, budget)]).settle(10)
    hold.settle(70)
    assert (account.current.settled, account.current.held) == (10, 0)
    assert account.previous is not None
    assert (account.previous.settled, account.previous.held) == (70, 0)


def test_a_later_attempt_is_held_in_the_first_ones_period() -> None:
    """A fallback after midnight may not spend more than the old day had left."""
    books = Books()
    ((account, budget),) = _limits(books, [(BOX, Budget(100, "day"))], START_MS)
    limits = [(account, budget)]
    books.hold(80, START_MS, (BOX,), limits).settle(80)
    account.window(account.current.end_ms)  # the day turns over
    with pytest.raises(Full):
        books.hold(30, START_MS, (BOX,), limits)


def test_an_account_that_a_reload_adds_sees_the_holds_that_live() -> None:
    """A new budget counts the calls that are under way, and what they come to."""
    books = Books()
    hold = books.hold(40, START_MS, SCOPES[2], [])
    ((account, budget),) = _limits(books, [(("user", "ann"), Budget(50, "day"))], START_MS)
    with pytest.raises(Full):
        books.hold(11, START_MS, SCOPES[2], [(account, budget)])
    hold.settle(25)
    assert (account.current.settled, account.current.held) == (25, 0)


def test_the_books_clock_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that steps back does not reopen a period that is over."""
    books = Books()
    ahead = books.now_ms()
    monkeypatch.setattr("time.time_ns", lambda: (ahead - DAY_MS) * 1_000_000)
    assert books.now_ms() == ahead
