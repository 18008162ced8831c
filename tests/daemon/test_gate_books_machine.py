"""Budgets against a model: any configuration, any endings, any clock, reloads and restarts.

The books are asked what the gate asks them, the ledger is a real file, and the model is a list of
what happened. It says at each admission whether a cap was passed, and at each refusal whether one
would have been.
"""

import asyncio
import shutil
import tempfile
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from budget_world import (
    HOUR_MS,
    PRICE,
    PROVIDERS,
    ROUTES,
    START_MS,
    TAGS,
    WHO,
    WIDEST_MS,
    Gate,
    Running,
    Try,
    configs,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from tollway.daemon.config.check import budgets_of
from tollway.daemon.config.schema import (
    Budget,
    Config,
    Period,
    Scope,
)
from tollway.daemon.config.units import rolling_ms
from tollway.daemon.errors import BudgetSpent
from tollway.daemon.gate import periods
from tollway.daemon.gate.accounts import QUARTER_MS
from tollway.daemon.gate.books import Books, Charge, Hold, Limit
from tollway.daemon.gate.budget import LEAST_OUTPUT, Worst
from tollway.daemon.gate.purse import Purse
from tollway.daemon.ids import new_id
from tollway.daemon.ledger.rows import AttemptEnded, AttemptOpened, CallEnded, CallOpened, Who
from tollway.daemon.ledger.verify import verify
from tollway.daemon.ledger.writer import Ledger
from tollway.providers.canon import Usage


class Machine(RuleBasedStateMachine):
    """Calls of three callers at two providers, while everything around them changes."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.raw_ms = START_MS
        self.life = 0
        self.tries: list[Try] = []
        self.running: list[Running] = []
        self.gone_back = False  # a restart found the clock before what the ledger knows
        self.told: list[str] = []

    @initialize(config=configs())
    def begin(self, config: Config) -> None:
        """Start the daemon."""
        self._start(config)

    def _start(self, config: Config) -> None:
        self.books = Books(clock=lambda: self.raw_ms * 1_000_000)
        self.opened: dict[tuple[Scope, Period, str], int] = {}
        self.excess: dict[tuple[Scope, Budget], int] = {}
        self.ledger = Ledger(self.folder / "ledger.db")
        self.ledger.start()
        self._open(config)

    def _open(self, config: Config) -> None:
        purse = Purse(config, self.books, lambda state: self.told.append(state.id))
        self.loop.run_until_complete(purse.open(self.ledger))
        self.gate = Gate(config, purse, ZoneInfo(config.server.timezone))
        now = self.books.now_ms()
        for scope, some in budgets_of(config):
            for budget in some:
                self.opened.setdefault((scope, budget.period, self._zone_of(budget)), now)
        self._forgive()

    def _zone_of(self, budget: Budget) -> str:
        return "" if rolling_ms(budget.period) else self.gate.zone.key

    # --- the model --------------------------------------------------------------------------

    def _counts(self, limit: Limit, low_ms: int, high_ms: int) -> int:
        scope = limit.account.scope
        return sum(
            one.counts
            for one in self.tries
            if scope in one.scopes and low_ms <= one.at_ms < high_ms
        )

    def _used(self, limit: Limit, zone: ZoneInfo, at_ms: int) -> int:
        """Return the most that any window which holds a moment has, of what really happened."""
        span = rolling_ms(limit.budget.period)
        if span is None:
            return self._counts(limit, *periods.window(limit.budget.period, at_ms, zone))
        ends = {one.at_ms for one in self.tries if at_ms <= one.at_ms < at_ms + span} | {at_ms}
        return max(self._counts(limit, end - span + 1, end + 1) for end in ends)

    def _most(self, limit: Limit, zone: ZoneInfo, at_ms: int) -> int:
        """Return the most that the books may count there: buckets and roll-ups are rounded up."""
        span = rolling_ms(limit.budget.period)
        for_ever = periods.FOR_EVER
        if span is not None and at_ms + HOUR_MS <= self.books.now_ms():
            return for_ever  # what counted so long ago is not known any more
        if self.gone_back:
            # What the ledger knows of later counts at once, and again when its time has come.
            return 2 * self._counts(limit, 0, for_ever)
        if span is not None:
            return self._counts(limit, at_ms - span - 2 * WIDEST_MS, for_ever)
        start, end = periods.window(limit.budget.period, at_ms, zone)
        opened = self.opened[limit.account.scope, limit.budget.period, zone.key]
        if opened > at_ms:
            return self._counts(limit, 0, for_ever)  # the call is older than the account
        return self._counts(limit, start, end)

    def _cap(self, gate: Gate, limit: Limit, at_ms: int) -> int:
        return limit.budget.nanousd + sum(
            one.nanousd
            for one in gate.config.raises
            if one.scope == limit.account.scope
            and one.period in (None, limit.budget.period)
            and one.until * 1000 > max(at_ms, gate.seen_ms)
        )

    def _charge(self, gate: Gate, call: Running, provider: str) -> Charge:
        declared = gate.purse.declared(call.tags)
        assert set(declared) == {tag for tag in call.tags if tag == "run=1" and gate.config.tags}
        charge = gate.purse.charge(call.who, call.route, provider, declared)
        whose = [
            *(("team", call.who.team), ("user", call.who.user), ("project", call.who.project)),
            *(("key", call.who.key), ("route", call.route), ("provider", provider)),
            *(("tag", tag) for tag in declared),
        ]
        assert set(charge.scopes) == {("box", ""), *(one for one in whose if one[1])}
        wanted = [
            (scope, budget)
            for scope, some in budgets_of(gate.config)
            for budget in some
            if scope in charge.scopes
        ]
        assert sorted(map(repr, wanted)) == sorted(
            repr((limit.account.scope, limit.budget)) for limit in charge.limits
        )
        return charge

    # --- calls ------------------------------------------------------------------------------

    @rule(
        target=calls,
        who=st.sampled_from(WHO),
        route=st.sampled_from(ROUTES),
        tags=st.sampled_from(TAGS),
        provider=st.sampled_from(PROVIDERS),
        tokens=st.integers(0, 80),
    )
    def admit(
        self, who: Who, route: str, tags: tuple[str, ...], provider: str, tokens: int
    ) -> object:
        """Hold and write a call's first attempt."""
        at_ms = self.books.now_ms()
        call = Running(new_id(), at_ms, who, route, tags, self.gate, self.life)
        taken = self._take(call, provider, tokens)
        if taken is None:
            return multiple()
        opened = CallOpened(
            id=call.id,
            admitted_ms=at_ms,
            who=who,
            dialect="openai_chat",
            endpoint="chat",
            requested="m",
            route=route,
            stream=False,
            budget_tags=self.gate.purse.declared(tags),
        )
        self.loop.run_until_complete(self.ledger.admit(opened, self._row(call, provider)))
        self.running.append(call)
        return call

    def _take(self, call: Running, provider: str, tokens: int) -> Hold | None:
        gate, at_ms = call.gate, call.at_ms
        charge = self._charge(gate, call, provider)
        most = Worst(tokens, 0, tokens)
        gate.seen_ms = max(gate.seen_ms, at_ms)
        tight = [
            limit
            for limit in charge.caps
            if self._most(limit, gate.zone, at_ms) + tokens > self._cap(gate, limit, at_ms)
        ]
        told = len(self.told)
        try:
            less, hold = gate.purse.take(charge, most, PRICE, at_ms)
        except BudgetSpent as refusal:
            assert tokens and tight, "refused though every cap had room"
            of = {limit.account.scope[0] == "provider" for limit in tight}
            assert refusal.skips in of, "the provider's own budget is the last to refuse"
            assert len(self.told) == told + 1
            return None
        if less is not most:
            assert any(limit.budget.at == "clamp" for limit in tight)
            assert LEAST_OUTPUT <= less.output_tokens == less.nanousd < tokens
            assert less.write_output == less.output_tokens and less.clamped
        one = Try(frozenset(charge.scopes), at_ms, less.nanousd)
        self.tries.append(one)
        call.attempt, call.hold = one, hold
        if less.nanousd:
            self._nothing_is_past_a_cap(call, charge)
        if gate is not self.gate:
            self._forgive()  # it obeys the budgets that it began under
        return hold

    def _nothing_is_past_a_cap(self, call: Running, charge: Charge) -> None:
        gate = call.gate
        for limit in charge.caps:
            zone = "" if rolling_ms(limit.budget.period) else gate.zone.key
            opened = self.opened.get((limit.account.scope, limit.budget.period, zone), 0)
            if opened > call.at_ms:
                continue  # the call is older than the budget
            used = self._used(limit, gate.zone, call.at_ms)
            assert used <= self._cap(gate, limit, call.at_ms), "admitted past a cap"

    def _row(self, call: Running, provider: str) -> AttemptOpened:
        assert call.attempt is not None
        return AttemptOpened(
            call_id=call.id,
            number=call.number,
            provider=provider,
            model="m",
            started_ms=self.books.now_ms(),
            hold_nanousd=call.attempt.counts,
            price=PRICE,
        )

    def _end_attempt(self, call: Running, part: float) -> AttemptEnded:
        assert call.attempt is not None
        assert call.hold is not None
        held = call.attempt.counts
        cost = held + 30 if part > 1 else int(held * part)
        call.hold.settle(cost)
        call.attempt.counts, call.attempt.held = cost, False
        if cost > held:
            self._forgive()
        return AttemptEnded(
            call_id=call.id,
            number=call.number,
            ended_ms=self.books.now_ms(),
            ending="answered",
            usage=Usage(output=cost),
            cost_nanousd=cost,
            overrun_nanousd=max(0, cost - held),
        )

    @rule(call=consumes(calls), part=st.sampled_from([0.0, 0.3, 1.0, 2.0]))
    def end(self, call: Running, part: float) -> None:
        """End a call: free, in part, at its hold, or past it, as an upstream may that errs."""
        if call.life != self.life:
            return  # it ended with its daemon
        ended = self._end_attempt(call, part)
        self._ended(call, ended)

    def _ended(self, call: Running, ended: AttemptEnded) -> None:
        row = CallEnded(call.id, self.books.now_ms(), "answered")

        async def settle() -> None:
            await self.ledger.settle(row, ended)

        self.loop.run_until_complete(settle())
        self.running.remove(call)

    @rule(
        target=calls,
        call=consumes(calls),
        part=st.sampled_from([0.0, 1.0, 2.0]),
        provider=st.sampled_from(PROVIDERS),
        tokens=st.integers(1, 80),
    )
    def fall_back(self, call: Running, part: float, provider: str, tokens: int) -> object:
        """Settle an attempt and take the next one's hold, in the period of the call."""
        if call.life != self.life:
            return multiple()
        ended = self._end_attempt(call, part)
        call.number += 1
        if self._take(call, provider, tokens) is None:
            self._ended(call, ended)
            return multiple()
        row = self._row(call, provider)
        self.loop.run_until_complete(self.ledger.next_attempt(ended, row))
        return call

    @rule(who=st.sampled_from(WHO), tokens=st.integers(1, 80))
    def fail_to_write(self, who: Who, tokens: int) -> None:
        """Give a hold back whose attempt never was, as when the disk is full."""
        call = Running(new_id(), self.books.now_ms(), who, "", (), self.gate, self.life)
        hold = self._take(call, "up", tokens)
        if hold:
            hold.settle(0)
            assert call.attempt is not None
            self.tries.remove(call.attempt)

    # --- the world --------------------------------------------------------------------------

    @rule(step=st.sampled_from([1, 900, 20_000, 61_000, QUARTER_MS, HOUR_MS, 7 * HOUR_MS]))
    def wait(self, step: int) -> None:
        """Let time go on."""
        self.raw_ms += step
        self._forgive()

    @rule(days=st.integers(1, 40))
    def step_forward(self, days: int) -> None:
        """Set the clock on: periods turn over."""
        self.raw_ms += days * 24 * HOUR_MS
        self._forgive()

    @rule(hours=st.integers(1, 50))
    def step_back(self, hours: int) -> None:
        """Set the clock back: no period reopens."""
        before = self.books.now_ms()
        self.raw_ms -= hours * HOUR_MS
        assert self.books.now_ms() == before

    @rule(data=st.data())
    def reload(self, data: st.DataObject) -> None:
        """Take up another configuration; calls under way go on under theirs."""
        self._open(data.draw(configs(self.books.now_ms())))

    @rule()
    def restart(self) -> None:
        """Be killed and start again: what was open is settled at its hold."""
        latest = self.books.now_ms()
        self.loop.run_until_complete(self.ledger.close())
        self.life += 1
        for call in self.running:
            if call.attempt:
                call.attempt.held = False
        self.running.clear()
        self.gone_back |= self.raw_ms < latest
        self._start(self.gate.config)

    # --- what always holds ------------------------------------------------------------------

    def _forgive(self) -> None:
        """Note by how much each budget is passed that was lowered, or an upstream ran over."""
        now = self.books.now_ms()
        for limits in self.gate.purse._limits.values():
            for limit in limits:
                over = self._most(limit, self.gate.zone, now) - self._cap_now(limit)
                self.excess[limit.account.scope, limit.budget] = max(0, over)

    def _cap_now(self, limit: Limit) -> int:
        now = self.books.now_ms()
        return self._cap(self.gate, limit, now)

    @invariant()
    def the_counters_are_what_happened(self) -> None:
        """Settled and held are the sums of the calls that count, and no cap is passed."""
        if not hasattr(self, "gate"):
            return
        now = self.books.now_ms()
        self.gate.seen_ms = now
        states = self.gate.purse.states()
        every = [limit for limits in self.gate.purse._limits.values() for limit in limits]
        assert len(states) == len(every)
        for limit, state in zip(every, states, strict=True):
            counted = state.settled_nanousd + state.held_nanousd
            low = self._low(limit, now)
            high = self._most(limit, self.gate.zone, now)
            assert low <= counted <= high, (limit.account.scope, limit.budget.text)
            assert state.limit_nanousd == self._cap_now(limit)
            assert min(state.settled_nanousd, state.held_nanousd) >= 0
            if limit.budget.caps:
                excess = self.excess.get((limit.account.scope, limit.budget), 0)
                assert low <= state.limit_nanousd + excess

    def _low(self, limit: Limit, now: int) -> int:
        span = rolling_ms(limit.budget.period)
        if span is None:
            return self._counts(limit, *periods.window(limit.budget.period, now, self.gate.zone))
        return self._counts(limit, now - span + 1, now + 1)

    def teardown(self) -> None:
        """Once every call has ended nothing is held, and the ledger's own sums agree."""
        try:
            if hasattr(self, "gate"):
                self._end_all()
        finally:
            self.loop.close()
            shutil.rmtree(self.folder)

    def _end_all(self) -> None:
        for call in list(self.running):
            self._ended(call, self._end_attempt(call, 1.0))
        assert not self.books.live
        assert all(state.held_nanousd == 0 for state in self.gate.purse.states())
        self.loop.run_until_complete(self.ledger.close())
        assert verify(self.folder / "ledger.db") == []


class Soak(Machine):
    """The same, much more often."""


TestBooks = Machine.TestCase
TestBooks.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
TestBooksForLong = pytest.mark.long(pytest.mark.timeout(3600)(Soak.TestCase))
TestBooksForLong.settings = settings(max_examples=1000, stateful_step_count=60, deadline=None)
