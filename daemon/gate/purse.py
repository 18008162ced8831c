"""The budgets of one configuration: which ones an attempt must fit into, and taking its hold."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from tollway.daemon.config.check import budgets_of
from tollway.daemon.config.schema import Budget, Config, Scope
from tollway.daemon.errors import BudgetSpent, ProviderSpent
from tollway.daemon.gate import periods
from tollway.daemon.gate.accounts import NEVER, Rolling
from tollway.daemon.gate.books import Books, BudgetState, Charge, Full, Hold, Limit
from tollway.daemon.gate.budget import LEAST_OUTPUT, Worst, clamped
from tollway.daemon.ledger.rows import Who
from tollway.providers.canon import Price
from tollway.providers.money import dollars

if TYPE_CHECKING:
    from tollway.daemon.ledger.writer import Ledger

# Tags and routes are the file's, callers are its keys': far fewer. A bound all the same.
_MOST_KNOWN = 10_000


class Purse:
    """Every budget of a configuration. `refused` is told of each that had no room for a call."""

    def __init__(
        self,
        config: Config,
        books: Books,
        refused: Callable[[BudgetState], None] | None = None,
        runs: Mapping[str, tuple[Budget, ...]] | None = None,
    ) -> None:
        """Take a configuration's budgets, and those of the tags of `runs`, "name=value"."""
        self._books = books
        self._refused = refused
        self._zone = ZoneInfo(config.server.timezone)
        self._budgets = dict(budgets_of(config))
        self._raises = config.raises
        self._tags = {f"{name}={value}" for name, all_ in config.tags.items() for value in all_}
        for tag, budgets in (runs or {}).items():
            self._tags.add(tag)
            self._budgets["tag", tag] = budgets
        self._changes_ms = NEVER  # when the next raise ends
        self._limits: dict[Scope, list[Limit]] = {}
        self._known: dict[tuple[Who, str, str, tuple[str, ...]], Charge] = {}

    async def open(self, ledger: "Ledger") -> None:
        """Open an account for every budget, seeded from the ledger.

        Raises:
            LedgerUnavailable: What was spent before cannot be read.
        """
        wanted = [
            (scope, budget.period) for scope, budgets in self._budgets.items() for budget in budgets
        ]
        accounts = await self._books.open(wanted, self._zone, ledger)
        for scope, budgets in self._budgets.items():
            if budgets:
                self._limits[scope] = [Limit(accounts[scope, one.period], one) for one in budgets]
        self._raise(self._books.now_ms())

    def _raise(self, now_ms: int) -> None:
        """Set every cap to what it is at a moment, temporary raises included."""
        live = [(one, int(one.until * 1000)) for one in self._raises if one.until * 1000 > now_ms]
        self._changes_ms = min((until_ms for _, until_ms in live), default=NEVER)
        for scope, limits in self._limits.items():
            for limit in limits:
                budget = limit.budget
                limit.nanousd = budget.nanousd + sum(
                    one.nanousd
                    for one, _ in live
                    if one.scope == scope and one.period in (None, budget.period)
                )

    async def declare(self, tag: str, budgets: tuple[Budget, ...], ledger: "Ledger") -> None:
        """Take one more tag, "name=value", and its budgets.

        Raises:
            LedgerUnavailable: What was spent before cannot be read.
        """
        scope: Scope = ("tag", tag)
        wanted = [(scope, budget.period) for budget in budgets]
        accounts = await self._books.open(wanted, self._zone, ledger)
        self._tags.add(tag)
        self._limits[scope] = [Limit(accounts[scope, one.period], one) for one in budgets]
        self._known.clear()

    def withdraw(self, tag: str) -> None:
        """Forget a tag that was declared by `declare`; what it spent stays."""
        self._tags.discard(tag)
        self._limits.pop(("tag", tag), None)
        self._known.clear()

    def declared(self, tags: Iterable[str]) -> tuple[str, ...]:
        """Return those of a call's tags, "name=value", that the file declares, in their order."""
        return tuple(tag for tag in tags if tag in self._tags) if self._tags else ()

    def charge(
        self, who: Who, route: str = "", provider: str = "", tags: tuple[str, ...] = ()
    ) -> Charge:
        """Return where an attempt is booked, and the budgets that it must fit into.

        Args:
            who: Whom the call is billed to.
            route: The route that was asked for, "" for none.
            provider: Whom the attempt goes to, "" for nobody yet.
            tags: Those of its tags that are `declared`.
        """
        key = (who, route, provider, tags)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            found = self._known[key] = self._charge(who, route, provider, tags)
        return found

    def _charge(self, who: Who, route: str, provider: str, tags: tuple[str, ...]) -> Charge:
        own: tuple[Scope, ...] = (
            ("team", who.team),
            ("user", who.user),
            ("project", who.project),
            ("key", who.key),
            ("route", route),
            *(("tag", tag) for tag in tags),
            # Last: where this one alone is full, another target may still be tried.
            ("provider", provider),
        )
        scopes: list[Scope] = [("box", ""), *(scope for scope in own if scope[1])]
        limits = [limit for scope in scopes for limit in self._limits.get(scope, ())]
        return Charge(tuple(scopes), limits)

    def take(
        self, charge: Charge, most: Worst, price: Price | None, at_ms: int
    ) -> tuple[Worst, Hold]:
        """Set an attempt's worst case aside in every account of its charge, or in none.

        Where a budget that clamps has too little left, the output limit is lowered to what fits,
        and the worst case comes back with it.

        Args:
            charge: Where it is booked.
            most: What it can cost.
            price: What that was computed with.
            at_ms: When the call was admitted: it belongs to that moment's period.

        Raises:
            BudgetSpent: A budget has no room for it; `ProviderSpent` where it is the provider's.
        """
        if at_ms >= self._changes_ms:
            self._raise(at_ms)
        try:
            return most, self._books.hold(most.nanousd, at_ms, charge)
        except Full as full:
            limit = full.limit
        if charge.clamps and price:
            room, tightest = self._books.room(charge.clamps, at_ms)
            if room < most.nanousd:
                limit = tightest
                less = clamped(most, room, price, by=_named(limit))
                if less:
                    try:
                        return less, self._hold_less(less, at_ms, charge, limit)
                    except Full as full:
                        limit = full.limit
        self._tell(limit)
        raise self._refusal(limit, most, price)

    def _hold_less(self, less: Worst, at_ms: int, charge: Charge, limit: Limit) -> Hold:
        hold = self._books.hold(less.nanousd, at_ms, charge)
        self._tell(limit)
        return hold

    def check(self, charge: Charge, most: Worst, price: Price | None) -> Worst:
        """Return what `take` would, with nothing held and nobody told.

        Raises:
            BudgetSpent: As `take`.
        """
        told, self._refused = self._refused, None
        try:
            less, hold = self.take(charge, most, price, self._books.now_ms())
        finally:
            self._refused = told
        hold.settle(0)
        return less

    def hopeless(self, charge: Charge, most: Worst, price: Price | None) -> None:
        """Return unless an attempt could not be admitted though all that is held came to nothing.

        Raises:
            BudgetSpent: What is spent already leaves no room for it: to wait would not help.
        """
        now = self._now_ms()
        for limit in charge.caps if most.nanousd else ():
            room = max(0, limit.nanousd - limit.account.now(now).settled)
            shorter = charge.clamps and price and clamped(most, room, price, by="")
            if most.nanousd > room and not shorter:
                self._tell(limit)
                raise self._refusal(limit, most, price)

    def _tell(self, limit: Limit) -> None:
        if self._refused:
            self._refused(self._books.state([limit])[0])

    def _refusal(self, limit: Limit, most: Worst, price: Price | None) -> BudgetSpent:
        account, budget = limit.account, limit.budget
        window = account.now(self._books.now_ms())
        kind = account.scope[0]
        if isinstance(account, Rolling):
            renews = f"Spending stops counting {budget.period} after its call"
        elif renews := periods.text(window.end_ms, self._zone):
            renews = f"It turns over on {renews}"
        else:
            renews = "It never turns over"
        cap = dollars(limit.nanousd)
        if limit.nanousd > budget.nanousd:
            cap += f" ({dollars(limit.nanousd - budget.nanousd)} of them for a time)"
        timed = price is not None and price.gpu_hour_usd is not None
        fewest = "a second" if timed else f"{LEAST_OUTPUT} tokens"
        least = f", and it leaves no room for {fewest}" if budget.at == "clamp" else ""
        advice = "a smaller `max_tokens` or a shorter prompt needs less"
        if timed:
            seconds = (most.deadline_ms or 0) // 1000
            advice = (
                f"its model is paid by the hour and may work on it for {seconds} s: a shorter"
                " `deadline` of the model needs less, and a budget that clamps gives what it has"
            )
        refusal = ProviderSpent if kind == "provider" else BudgetSpent
        found = refusal(
            f"The budget {budget.text} of {_whose(account.scope)} has no room for this call: "
            f"{dollars(window.settled)} spent and {dollars(window.held)} held of"
            f" {cap}, and the call may cost up to {dollars(most.nanousd)}{least}",
            hint=f"{renews}; {advice}",
        )
        found.scope = account.scope
        return found

    def left(self, charge: Charge) -> int | None:
        """Return the nano-dollars that a caller can still hold, or None where nothing caps them.

        The provider's own budget is not counted: another target may have room.
        """
        if not charge.own:
            return None
        return self._books.left(charge, self._now_ms())

    def used(self, charge: Charge) -> Decimal:
        """Return what is spent of the fullest budget of a charge, as a part of its cap."""
        now = self._now_ms()
        parts = (
            Decimal(limit.account.now(now).settled) / max(1, limit.nanousd)
            for limit in charge.limits
        )
        return max(parts, default=Decimal(0))

    def states(
        self,
        who: Who | None = None,
        route: str = "",
        providers: Sequence[str] = (),
        tags: tuple[str, ...] = (),
    ) -> list[BudgetState]:
        """Return the budgets that apply to a caller's calls, or all there are, as they stand now.

        `route`, `providers` and `tags` are where such a call goes and what it says.
        """
        self._now_ms()
        if who is None:
            every = [limit for limits in self._limits.values() for limit in limits]
            return self._books.state(every)
        found = list(self.charge(who, route, "", tags).limits)
        for provider in dict.fromkeys(providers):
            found += self._limits.get(("provider", provider), ())
        return self._books.state(found)

    def filling(self, per_mille: int) -> list[BudgetState]:
        """Return the budgets of which so much is spent or more, as they stand now.

        Looked at each second: of a thousand budgets that are far from it, none is put into words.
        """
        now = self._now_ms()
        found = []
        for limits in self._limits.values():
            for limit in limits:
                settled = limit.account.now(now).settled
                if settled and settled * 1000 >= limit.nanousd * per_mille:
                    found.append(limit)
        return self._books.state(found)

    def _now_ms(self) -> int:
        """Return the books' time, with every cap as it is then."""
        now = self._books.now_ms()
        if now >= self._changes_ms:
            self._raise(now)
        return now


def _whose(scope: Scope) -> str:
    kind, name = scope
    return f"{kind} `{name}`" if name else "the whole box"


def _named(limit: Limit) -> str:
    """Return a budget for a header: "5/day of user ann"."""
    kind, name = limit.account.scope
    return f"{limit.budget.text} of {kind} {name}".rstrip()
