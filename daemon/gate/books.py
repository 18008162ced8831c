"""What is spent and held right now: the counters that every budget is checked against.

The books outlive the configuration: a reload adds accounts and never loses a hold. A counter
is only a cache of the ledger's rows: it starts from them and moves with each settlement.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo

import msgspec

from tollway.daemon.config.schema import Budget, Mode, Period
from tollway.daemon.gate import periods
from tollway.daemon.ledger.rows import SpentQuery

if TYPE_CHECKING:
    from tollway.daemon.ledger.writer import Ledger

ScopeKind = Literal["box", "team", "user", "project", "key"]
Scope = tuple[ScopeKind, str]


class Window:
    """One period of one account: nano-dollars settled and held, and when it ends."""

    __slots__ = ("end_ms", "held", "settled", "start_ms")

    def __init__(self, start_ms: int, end_ms: int) -> None:
        self.start_ms = start_ms
        self.end_ms = end_ms
        self.settled = 0
        self.held = 0


class Account:
    """The spending of one scope by one kind of period.

    The window before the current one is kept: a call belongs to the period of its admission,
    and its later attempts are held there though the period has turned over.
    """

    __slots__ = ("current", "period", "previous", "scope", "zone")

    def __init__(self, scope: Scope, period: Period, zone: ZoneInfo, now_ms: int) -> None:
        self.scope = scope
        self.period = period
        self.zone = zone
        self.current = Window(*periods.window(period, now_ms, zone))
        self.previous: Window | None = None

    def window(self, at_ms: int) -> Window:
        """Return the window of a call admitted at `at_ms`, turning the period over if due."""
        current = self.current
        if at_ms >= current.end_ms:
            self.previous = current
            current = self.current = Window(*periods.window(self.period, at_ms, self.zone))
        if at_ms < current.start_ms and self.previous:
            return self.previous
        return current


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
        for window in self.windows:
            window.held -= self.amount
            window.settled += cost
        self.windows = []
        self.books.live.discard(self)


class Full(Exception):
    """A budget has no room; the gate words the refusal."""

    def __init__(self, account: Account, budget: Budget, window: Window) -> None:
        super().__init__(budget.text)
        self.account = account
        self.budget = budget
        self.window = window


Limit = tuple[Account, Budget]


class BudgetState(msgspec.Struct, frozen=True):
    """One budget as it stands now; money in nano-dollars, `ends_ms` unix milliseconds."""

    scope: str
    name: str
    budget: str
    limit_nanousd: int
    settled_nanousd: int
    held_nanousd: int
    left_nanousd: int
    ends_ms: int
    at: Mode = "hard"


class Books:
    """Every account there is, and every hold that is live."""

    def __init__(self) -> None:
        self.accounts: dict[Scope, list[Account]] = {}
        self.live: set[Hold] = set()
        self._latest_ms = 0

    def now_ms(self) -> int:
        """Return the time in unix milliseconds; it never goes back, so no period reopens."""
        self._latest_ms = max(self._latest_ms, time.time_ns() // 1_000_000)
        return self._latest_ms

    async def open(
        self, wanted: Sequence[tuple[Scope, Period]], zone: ZoneInfo, ledger: "Ledger"
    ) -> dict[tuple[Scope, Period], Account]:
        """Return the accounts for some scopes and periods, new ones seeded from the ledger.

        New accounts see every hold and settlement from this moment on; the query that tells
        what was spent before runs behind all that is already on its way to the ledger.

        Raises:
            LedgerUnavailable: What was spent before cannot be read.
        """
        now = self.now_ms()
        fresh: list[Account] = []
        for scope, period in wanted:
            if self._find(scope, period, zone) is None:
                fresh.append(self._add(Account(scope, period, zone, now)))
        queries = [
            SpentQuery(account.scope[0], account.scope[1], account.current.start_ms)
            for account in fresh
        ]
        # Kept by reference: an account may turn over while the ledger answers.
        windows = [account.current for account in fresh]
        if queries:
            try:
                for window, spent in zip(windows, await ledger.spent(queries), strict=True):
                    window.settled += spent
            except BaseException:  # a cancel too: an account unseeded would look unspent
                for account in fresh:
                    self.accounts[account.scope].remove(account)
                raise
        found = {}
        for scope, period in wanted:
            if known := self._find(scope, period, zone):
                found[scope, period] = known
        return found

    def _find(self, scope: Scope, period: Period, zone: ZoneInfo) -> Account | None:
        for account in self.accounts.get(scope, ()):
            if account.period == period and account.zone.key == zone.key:
                return account
        return None

    def _add(self, account: Account) -> Account:
        self.accounts.setdefault(account.scope, []).append(account)
        for hold in self.live:
            if account.scope in hold.scopes and hold.at_ms >= account.current.start_ms:
                account.current.held += hold.amount
                hold.windows.append(account.current)
        return account

    def hold(
        self, amount: int, at_ms: int, scopes: tuple[Scope, ...], limits: Sequence[Limit]
    ) -> Hold:
        """Set `amount` nano-dollars aside in every account of `scopes`, or in none.

        Nothing here awaits, so no other call can come between the check and the booking.

        Raises:
            Full: A hard budget of `limits` has no room for it.
        """
        for account, budget in limits:
            window = account.window(at_ms)
            if window.settled + window.held + amount > budget.nanousd:
                raise Full(account, budget, window)
        hold = Hold(self, amount, at_ms, scopes)
        for scope in scopes:
            for account in self.accounts.get(scope, ()):
                window = account.window(at_ms)
                window.held += amount
                hold.windows.append(window)
        self.live.add(hold)
        return hold

    def left(self, limits: Sequence[Limit]) -> int:
        """Return the nano-dollars that all of these budgets still have room for."""
        now = self.now_ms()
        least = None
        for account, budget in limits:
            window = account.window(now)
            room = budget.nanousd - window.settled - window.held
            if least is None or room < least:
                least = room
        return max(0, least or 0)

    def state(self, limits: Sequence[Limit]) -> list[BudgetState]:
        """Return budgets as they stand now."""
        now = self.now_ms()
        states = []
        for account, budget in limits:
            window = account.window(now)
            left = max(0, budget.nanousd - window.settled - window.held)
            states.append(
                BudgetState(
                    scope=account.scope[0],
                    name=account.scope[1],
                    budget=budget.text,
                    limit_nanousd=budget.nanousd,
                    settled_nanousd=window.settled,
                    held_nanousd=window.held,
                    left_nanousd=left,
                    ends_ms=window.end_ms,
                    at=budget.at,
                )
            )
        return states
