"""What is spent and held right now: the counters that every budget is checked against.

The books outlive the configuration: a reload adds accounts and never loses a hold. A counter
is only a cache of the ledger's rows: it starts from them and moves with each settlement.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import msgspec

from tollway.daemon.config.schema import Budget, Mode, Period, Scope
from tollway.daemon.gate.accounts import (
    NEVER,
    QUARTER_MS,
    Account,
    Calendar,
    Rolling,
    Window,
    account,
)
from tollway.daemon.ledger.rows import SpentQuery

if TYPE_CHECKING:
    from tollway.daemon.ledger.writer import Ledger


class Limit:
    """A budget at work: its account, and the cap of this moment, temporary raises included."""

    __slots__ = ("account", "budget", "nanousd")

    def __init__(self, account: Account, budget: Budget) -> None:
        self.account = account
        self.budget = budget
        self.nanousd = budget.nanousd


class Charge:
    """Where an attempt is booked, and the budgets it must fit into; made once for many calls.

    `caps` are the limits that hold back, `clamps` those of them that shorten answers first; the
    provider's own come last, since another target has none of them.

    The books keep here which windows its accounts have from `since_ms` until `until_ms`, where
    all of them go by the calendar: what else every call would have to look up.
    """

    __slots__ = (
        *("accounts", "caps", "capped", "clamps", "limits", "own", "owned", "rolls", "scopes"),
        *("since_ms", "until_ms", "version", "windows"),
    )

    def __init__(self, scopes: tuple[Scope, ...], limits: Sequence[Limit]) -> None:
        self.scopes = scopes
        self.limits = tuple(limits)
        self.caps = tuple(limit for limit in limits if limit.budget.caps)
        self.clamps = tuple(limit for limit in limits if limit.budget.at == "clamp")
        self.own = tuple(limit for limit in self.caps if limit.account.scope[0] != "provider")
        self.accounts: tuple[Account, ...] = ()
        self.version = -1  # of the books' accounts that `accounts` was taken from
        self.windows: tuple[Window, ...] = ()  # of `accounts`
        self.capped: tuple[tuple[Limit, Window], ...] = ()  # `caps` with theirs
        self.owned: tuple[tuple[Limit, Window], ...] = ()  # `own` with theirs
        self.since_ms = self.until_ms = 0  # when these are the ones
        self.rolls = False  # an account has a window that is new with every moment


class Hold:
    """Money set aside for one attempt, until the attempt's price is known."""

    __slots__ = ("amount", "at_ms", "books", "scopes", "windows")

    def __init__(self, books: "Books", amount: int, at_ms: int, scopes: tuple[Scope, ...]) -> None:
        self.books = books
        self.amount = amount
        self.at_ms = at_ms
        self.scopes = scopes
        self.windows: list[Window] = []

    def settle(self, cost: int) -> None:
        """Book what the attempt really cost, in nano-dollars, and free the rest. Once only."""
        amount = self.amount
        windows, self.windows = self.windows, []
        for window in windows:
            window.held -= amount
            window.settled += cost
            whole = window.whole
            if whole is not None:
                whole.held -= amount
                whole.settled += cost
        self.books.live.discard(self)


class Full(Exception):
    """A budget has no room; the gate words the refusal."""

    def __init__(self, limit: Limit) -> None:
        super().__init__(limit.budget.text)
        self.limit = limit


class BudgetState(msgspec.Struct, frozen=True):
    """One budget as it stands now; money in nano-dollars, times unix milliseconds.

    `limit_nanousd` is `base_nanousd`, as the file has it, and `raised_nanousd`. A rolling budget
    ends when the next of its spending stops counting. `id` stays over restarts.
    """

    id: str
    scope: str
    name: str
    budget: str
    at: Mode
    rolling: bool
    limit_nanousd: int
    base_nanousd: int
    raised_nanousd: int
    settled_nanousd: int
    held_nanousd: int
    left_nanousd: int
    starts_ms: int
    ends_ms: int


class Books:
    """Every account there is, and every hold that is live. `clock` tells unix nanoseconds."""

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self.accounts: dict[Scope, list[Account]] = {}
        self.live: set[Hold] = set()
        self.version = 0  # grows with each account
        self._latest_ms = 0

    def now_ms(self) -> int:
        """Return the time in unix milliseconds; it never goes back, so no period reopens."""
        self._latest_ms = max(self._latest_ms, self._clock() // 1_000_000)
        return self._latest_ms

    async def open(
        self, wanted: Sequence[tuple[Scope, Period]], zone: ZoneInfo, ledger: "Ledger"
    ) -> dict[tuple[Scope, Period], Account]:
        """Return the accounts for some scopes and periods, new ones seeded from the ledger.

        New accounts see every hold and settlement from this moment on; the queries that tell
        what was spent before run behind all that is already on its way to the ledger.

        Raises:
            LedgerUnavailable: What was spent before cannot be read.
        """
        now = self.now_ms()
        fresh: list[Account] = []
        for scope, period in wanted:
            if self._find(scope, period, zone) is None:
                fresh.append(self.add(account(scope, period, zone, now)))
        try:
            await self._seed(fresh, now, ledger)
        except BaseException:  # a cancel too: an account unseeded would look unspent
            for one in fresh:
                self.accounts[one.scope].remove(one)
            self.version += 1
            raise
        found: dict[tuple[Scope, Period], Account] = {}
        for scope, period in wanted:
            if known := self._find(scope, period, zone):
                found[scope, period] = known
        return found

    async def _seed(self, fresh: Sequence[Account], now_ms: int, ledger: "Ledger") -> None:
        dated = [one for one in fresh if isinstance(one, Calendar)]
        rolling = [one for one in fresh if isinstance(one, Rolling)]
        # Kept by reference: an account may turn over while the ledger answers.
        windows = [one.current for one in dated]
        spent, later, spread = await asyncio.gather(
            ledger.spent([_query(one.scope, one.current.start_ms) for one in dated]),
            ledger.spread([_query(one.scope, now_ms + QUARTER_MS) for one in dated]),
            ledger.spread([_query(one.scope, now_ms - one.span_ms) for one in rolling]),
        )
        for one, window, settled, quarters in zip(dated, windows, spent, later, strict=True):
            one.seed(window, settled, quarters)
        for span, quarters in zip(rolling, spread, strict=True):
            span.seed(quarters, now_ms)

    def _find(self, scope: Scope, period: Period, zone: ZoneInfo) -> Account | None:
        for one in self.accounts.get(scope, ()):
            if one.period == period and (isinstance(one, Rolling) or one.zone.key == zone.key):
                return one
        return None

    def add(self, one: Account) -> Account:
        """Add an account, with the holds that are live. What was spent before is not in it."""
        self.accounts.setdefault(one.scope, []).append(one)
        self.version += 1
        for hold in self.live:
            counts = isinstance(one, Rolling) or hold.at_ms >= one.current.start_ms
            if counts and one.scope in hold.scopes:
                _book(hold, one.window(hold.at_ms))
        return one

    def hold(self, amount: int, at_ms: int, charge: Charge) -> Hold:
        """Set `amount` nano-dollars aside in every account of a charge, or in none.

        Nothing here awaits, so no other call can come between the check and the booking. What
        costs nothing is never refused.

        Raises:
            Full: A budget that holds back has no room for it.
        """
        if self._knows(charge, at_ms):
            if amount:
                for limit, window in charge.capped:
                    if window.settled + window.held + amount > limit.nanousd:
                        raise Full(limit)
            hold = Hold(self, amount, at_ms, charge.scopes)
            hold.windows = list(charge.windows)
            for window in charge.windows:
                window.held += amount
            self.live.add(hold)
            return hold
        if amount:
            for limit in charge.caps:
                if limit.account.used(at_ms) + amount > limit.nanousd:
                    raise Full(limit)
        hold = Hold(self, amount, at_ms, charge.scopes)
        for one in charge.accounts:
            _book(hold, one.window(at_ms))
        self.live.add(hold)
        return hold

    def _knows(self, charge: Charge, at_ms: int) -> bool:
        """Whether a charge has its windows of a moment at hand; its accounts it has afterwards."""
        if charge.version == self.version:
            if charge.since_ms <= at_ms < charge.until_ms:
                return True
            if charge.rolls:
                return False
        found = [one for scope in charge.scopes for one in self.accounts.get(scope, ())]
        charge.accounts, charge.version = tuple(found), self.version
        charge.since_ms = charge.until_ms = 0
        every = (*found, *(limit.account for limit in charge.caps))
        dated = [one for one in every if isinstance(one, Calendar)]
        charge.rolls = len(dated) < len(every)
        # An account that has not turned over yet does so in its own time, when it is asked.
        if charge.rolls or not all(one.covers(at_ms) for one in dated):
            return False
        charge.since_ms = max((one.current.start_ms for one in dated), default=0)
        charge.until_ms = min((one.current.end_ms for one in dated), default=NEVER)
        charge.windows = tuple(one.current for one in dated[: len(found)])
        charge.capped = tuple(
            (limit, one.current)
            for limit, one in zip(charge.caps, dated[len(found) :], strict=True)
        )
        charge.owned = tuple(pair for pair in charge.capped if pair[0] in charge.own)
        return True

    def left(self, charge: Charge, at_ms: int) -> int:
        """Return the nano-dollars that those budgets of a charge leave that are a caller's own."""
        if not self._knows(charge, at_ms):
            return self.room(charge.own, at_ms)[0]
        least = NEVER
        for limit, window in charge.owned:
            room = limit.nanousd - window.settled - window.held
            least = min(least, room)
        return max(0, least)

    def room(self, limits: Sequence[Limit], at_ms: int) -> tuple[int, Limit]:
        """Return the nano-dollars that all of some budgets have room for, and the tightest one."""
        tightest = limits[0]
        least = tightest.nanousd - tightest.account.used(at_ms)
        for limit in limits[1:]:  # on every answer: `min` with a key takes twice as long
            room = limit.nanousd - limit.account.used(at_ms)
            if room < least:
                least, tightest = room, limit
        return max(0, least), tightest

    def state(self, limits: Sequence[Limit]) -> list[BudgetState]:
        """Return budgets as they stand now."""
        now = self.now_ms()
        states = []
        for limit in limits:
            budget, one = limit.budget, limit.account
            window = one.now(now)
            kind, name = one.scope
            mode = "" if budget.at == "hard" else budget.at
            states.append(
                BudgetState(
                    id=" ".join(filter(None, (kind, name, budget.text, mode))),
                    scope=kind,
                    name=name,
                    budget=budget.text,
                    at=budget.at,
                    rolling=isinstance(one, Rolling),
                    limit_nanousd=limit.nanousd,
                    base_nanousd=budget.nanousd,
                    raised_nanousd=limit.nanousd - budget.nanousd,
                    settled_nanousd=window.settled,
                    held_nanousd=window.held,
                    left_nanousd=max(0, limit.nanousd - window.settled - window.held),
                    starts_ms=window.start_ms,
                    ends_ms=window.end_ms,
                )
            )
        return states


def _book(hold: Hold, window: Window) -> None:
    window.held += hold.amount
    if window.whole is not None:
        window.whole.held += hold.amount
    hold.windows.append(window)


def _query(scope: Scope, since_ms: int) -> SpentQuery:
    return SpentQuery(scope[0], scope[1], since_ms // QUARTER_MS * QUARTER_MS)
