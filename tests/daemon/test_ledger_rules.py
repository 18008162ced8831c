"""Whatever is told to the ledger, in whatever order: its rows, sums and roll-ups agree."""

import asyncio
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule
from ledger_rows import AT_MS, attempt, closed, ended, opened, refused

from tollway.daemon.ledger import calls
from tollway.daemon.ledger.rows import AttemptOpened, CallOpened, SpentQuery, Who
from tollway.daemon.ledger.schema import QUARTER_MS
from tollway.daemon.ledger.spend import By, report, totals
from tollway.daemon.ledger.verify import verify
from tollway.daemon.ledger.writer import Ledger
from tollway.providers.canon import Usage

PEOPLE = (Who("laptop", "anna", "ml", "chatbot"), Who("ci", "", "ml"), Who(user="ben"))
TARGETS: tuple[dict[str, Any], ...] = (
    {"provider": "openai", "model": "gpt"},
    {"provider": "local", "model": "smollm2"},
)
UTC = ZoneInfo("UTC")
tokens = st.integers(0, 10**6)
usages = st.builds(
    Usage, tokens, tokens, tokens, tokens, tokens, tokens, tokens, tokens, st.booleans()
)
money = st.integers(0, 10**12)


class Known(msgspec.Struct):
    """What the model knows of an open call."""

    call: CallOpened
    last: AttemptOpened
    cost: int = 0
    attempts: int = 1


class LedgerRules(RuleBasedStateMachine):
    """A ledger, and a model of it in a few dictionaries."""

    open_calls = Bundle("open_calls")

    @initialize()
    def start(self) -> None:
        """Open an empty ledger."""
        self.folder = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.ledger = Ledger(self.folder / "ledger.db")
        self.runner.run(self._start())
        self.number = 0
        self.open: dict[str, Known] = {}
        self.costs: dict[str, int] = {}  # of ended calls
        self.spent: Counter[tuple[Any, ...]] = Counter()  # by quarter, key and provider
        self.states: Counter[str] = Counter()

    async def _start(self) -> None:
        self.ledger.start()

    def _book(self, known: Known, cost: int) -> None:
        quarter = known.call.admitted_ms // QUARTER_MS * QUARTER_MS
        self.spent[quarter, known.call.who.key, known.last.provider] += cost
        known.cost += cost

    def _end(self, known: Known, state: str) -> None:
        del self.open[known.call.id]
        self.costs[known.call.id] = known.cost
        self.states[state] += 1

    @rule(
        target=open_calls,
        who=st.sampled_from(PEOPLE),
        to=st.sampled_from(TARGETS),
        quarter=st.integers(0, 200),
        hold=money,
    )
    def admit(self, who: Who, to: dict[str, Any], quarter: int, hold: int) -> str:
        """Admit a call, some time within two days."""
        self.number += 1
        call = opened(self.number, AT_MS + quarter * QUARTER_MS, who=who)
        first = attempt(call, hold_nanousd=hold, **to)
        self.runner.run(self._admit(call, first))
        self.open[call.id] = Known(call, first)
        return call.id

    async def _admit(self, call: CallOpened, first: AttemptOpened) -> None:
        await self.ledger.admit(call, first)

    @rule(call_id=open_calls, to=st.sampled_from(TARGETS), hold=money, cost=money, usage=usages)
    def next(self, call_id: str, to: dict[str, Any], hold: int, cost: int, usage: Usage) -> None:
        """Fall back."""
        if (known := self.open.get(call_id)) is None:
            return
        self._book(known, cost)
        over = ended(known.last, cost, usage=usage, ending="upstream_broke")
        known.attempts += 1
        known.last = attempt(known.call, known.attempts, hold_nanousd=hold, **to)

        async def tell() -> None:
            await self.ledger.next_attempt(over, known.last)

        self.runner.run(tell())

    @rule(call_id=consumes(open_calls), cost=money, usage=usages, told=st.booleans())
    def settle(self, call_id: str, cost: int, usage: Usage, told: bool) -> None:
        """End a call, with or without a word about its last attempt."""
        if (known := self.open.get(call_id)) is None:
            return
        self._book(known, cost if told else known.last.hold_nanousd)
        over = ended(known.last, cost, usage=usage) if told else None
        self._end(known, "settled")

        async def tell() -> None:
            await self.ledger.settle(closed(known.call), over)

        self.runner.run(tell())

    @rule(who=st.sampled_from(PEOPLE))
    def refuse(self, who: Who) -> None:
        """Refuse a call."""
        self.number += 1
        row = refused(self.number, who=who, client=f"script {self.number}")
        self.states["refused"] += 1
        self.costs[row.id] = 0

        async def tell() -> None:
            self.ledger.refuse(row)
            await self.ledger.ready()

        self.runner.run(tell())

    @rule()
    def restart(self) -> None:
        """Stop the daemon and start it: what was open is billed at its hold."""
        self.runner.run(self.ledger.close())
        self.ledger = Ledger(self.ledger.path)
        self.runner.run(self._start())
        assert self.ledger.recovered == len(self.open)
        for known in list(self.open.values()):
            self._book(known, known.last.hold_nanousd)
            self._end(known, "recovered")

    @rule(quarter=st.integers(0, 200))
    def agree(self, quarter: int) -> None:
        """Compare everything that can be asked with the model."""
        path, since = self.ledger.path, AT_MS + quarter * QUARTER_MS
        assert {one for one in verify(path) if one.check != "open call"} == set()
        queries = [SpentQuery("box", "", since), SpentQuery("key", "laptop", since)]

        async def ask() -> list[int]:
            return await self.ledger.spent(queries)

        late = {at: cost for at, cost in self.spent.items() if at[0] >= since}
        laptop = sum(cost for at, cost in late.items() if at[1] == "laptop")
        assert self.runner.run(ask()) == [sum(late.values()), laptop]

        whole = {"since_ms": 0, "until_ms": 2**60}
        total = totals(path, **whole)
        ended_calls = self.states["settled"] + self.states["recovered"]
        assert (total.calls, total.refused) == (ended_calls, self.states["refused"])
        by_provider = Counter[str]()
        for (_, _, provider), cost in self.spent.items():
            by_provider[provider] += cost
        rows = report(path, by=[By.PROVIDER], tz=UTC, **whole)
        assert {row.group[0]: row.cost_nanousd for row in rows if row.cost_nanousd} == +by_provider
        by_day = report(path, by=[By.DAY, By.KEY], tz=UTC, **whole)
        assert sum(row.cost_nanousd for row in by_day) == total.cost_nanousd

        found = {row.id: row for row in calls.recent(path, limit=1000)}
        assert found.keys() == self.costs.keys() | self.open.keys()
        for call_id, cost in self.costs.items():
            assert found[call_id].cost_nanousd == cost
        for call_id, known in self.open.items():
            assert (found[call_id].state, found[call_id].cost_nanousd) == ("open", known.cost)

    def teardown(self) -> None:
        """Close it; a last start finds nothing that does not agree."""
        if not hasattr(self, "ledger"):
            return
        self.restart()
        self.agree(0)
        self.runner.run(self.ledger.close())
        self.runner.close()
        assert verify(self.ledger.path) == []
        shutil.rmtree(self.folder)


LedgerRules.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLedgerRules = LedgerRules.TestCase
