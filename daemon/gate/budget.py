"""The hold: what one attempt can cost at the very most, and the budgets it must fit into."""

from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import msgspec

from tollway.daemon.config.schema import Budget, Config
from tollway.daemon.errors import BudgetSpent, Unpriced
from tollway.daemon.gate import periods
from tollway.daemon.gate.books import (
    Books,
    BudgetState,
    Full,
    Hold,
    Limit,
    Scope,
    ScopeKind,
)
from tollway.daemon.gate.route import Target
from tollway.daemon.ledger.rows import Who
from tollway.providers.canon import Bound, Price
from tollway.providers.errors import Unbounded
from tollway.providers.money import dollars, worst_case
from tollway.providers.price_service import is_known

if TYPE_CHECKING:
    from tollway.daemon.ledger.writer import Ledger


class Worst(msgspec.Struct, frozen=True):
    """The most that an attempt can cost, and the output limit that must be written for that."""

    nanousd: int
    input_tokens: int
    output_tokens: int  # of all choices together
    choices: int = 1
    write_output: int | None = None  # tokens per choice, where the client set no limit
    bound: Bound = Bound(0, 0)  # what the request itself bounds

    def cost(self, output_tokens: int, price: Price) -> int:
        """Return the most in nano-dollars that it can cost with so many tokens of output."""
        bound = self.bound
        return worst_case(
            self.input_tokens,
            output_tokens,
            price,
            media=bound.media,
            searches=bound.searches,
            service=bound.service,
        )


class Terms(msgspec.Struct, frozen=True):
    """What decides an attempt's worst case, beside the request itself."""

    budgets: bool  # whether any hard budget applies to the caller
    default_output: int
    allow_unbounded: bool = False
    context: int | None = None  # tokens, of a model on this box


def worst(bound: Bound, price: Price | None, target: Target, terms: Terms) -> Worst:
    """Return an upper bound of one attempt's cost.

    Where a budget applies, what cannot be bounded is refused. Where none does, the figure is
    an estimate that only a recovered call is settled at.

    Raises:
        Unpriced: The model has no price, and a budget applies.
        Unbounded: The request has a part that no number of tokens bounds, and a budget applies.
    """
    if price is None:
        if terms.budgets:
            raise Unpriced(
                f"`{target.name}` has no price, and a budget applies",
                hint=f'Add [prices."{target.name}"] with `input` and `output` in dollars for a'
                f' million tokens to gateway.toml, or "{target.name}" = "free" below [prices]'
                if not target.local
                else f"Add `price` to [models.{target.model}] in gateway.toml: dollars for a"
                ' million tokens as { input = 0.1, output = 0.4 }, or "free"',
            )
        return Worst(0, bound.input, bound.output or terms.default_output, bound=bound)
    window = terms.context or _own_window(price)
    if terms.budgets and not price.free and not terms.allow_unbounded:
        _refuse_unbounded(bound, target, window)
        _refuse_without_price(bound, target, price)
    tokens = bound.input
    if window:
        most = window * bound.prompts
        tokens = most if bound.by_window else min(tokens, most)
    written = None
    output = bound.output
    if output is None:
        output = terms.default_output
        if terms.context:
            output = min(output, terms.context)
        if terms.budgets and not price.free:
            written = output
    total = output * bound.choices
    most_used = Worst(0, tokens, total, bound.choices, written, bound)
    return msgspec.structs.replace(most_used, nanousd=most_used.cost(total, price))


def _own_window(price: Price) -> int | None:
    """Return the context window where gateway.toml states it.

    The bundled ones are a help, no proof: some are smaller than what the provider takes today.
    """
    return price.context_window if price.source == "gateway.toml" else None


def _refuse_unbounded(bound: Bound, target: Target, window: int | None) -> None:
    if target.kind.is_unbounded(target.model):
        raise Unbounded(
            f"`{target.name}` searches or reads on its own account, so its cost cannot be bounded,"
            " and a hard budget applies",
            hint="Call another model, or set `allow_unbounded = true` on a route to it",
            param="model",
        )
    if bound.unbounded:
        fields = ", ".join(f"`{field}`" for field in bound.unbounded)
        raise Unbounded(
            f"The cost of {fields} cannot be bounded, and a hard budget applies",
            hint="Leave it out, or set `allow_unbounded = true` on the route",
            param=bound.unbounded[0],
        )
    if bound.by_window and not window:
        raise Unbounded(
            f"The request holds an image, file or audio, and gateway.toml does not state the"
            f" context window of `{target.name}`, so its cost cannot be bounded",
            hint=f'Add [prices."{target.name}"] with `input`, `output` and `context_window`',
        )


def _refuse_without_price(bound: Bound, target: Target, price: Price) -> None:
    """Refuse what tokens do not pay for and no price says the cost of."""
    tier = bound.service[:40]
    if not is_known(price, bound.service):
        raise Unbounded(
            f"`{target.name}` has no price for the service tier `{tier}`, and a hard budget"
            " applies",
            hint=f'Leave `service_tier` out, or say in [prices."{target.name}"] what it costs:'
            f" `service_tiers = {{ {tier} = 2.0 }}` for twice the price",
            param="service_tier",
        )
    if bound.searches and price.search_usd is None:
        raise Unbounded(
            f"`{target.name}` has no price for a search, and a hard budget applies",
            hint=f'Leave the search out, or say `search` in [prices."{target.name}"]: dollars each',
            param="tools",
        )


class Purse:
    """The budgets of one configuration: which ones a caller's calls must fit into."""

    def __init__(self, config: Config, books: Books) -> None:
        self._books = books
        self._zone = ZoneInfo(config.server.timezone)
        self._budgets: dict[Scope, tuple[Budget, ...]] = {("box", ""): config.server.budget}
        tables: tuple[tuple[ScopeKind, dict[str, tuple[Budget, ...]]], ...] = (
            ("team", {name: team.budget for name, team in config.teams.items()}),
            ("user", {name: user.budget for name, user in config.users.items()}),
            ("project", {name: project.budget for name, project in config.projects.items()}),
            ("key", {name: key.budget for name, key in config.keys.items()}),
        )
        for kind, table in tables:
            self._budgets.update({(kind, name): budgets for name, budgets in table.items()})
        self._limits: dict[Scope, list[Limit]] = {}
        self._known: dict[Who, tuple[tuple[Scope, ...], tuple[Limit, ...]]] = {}

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
            self._limits[scope] = [(accounts[scope, one.period], one) for one in budgets]

    def _of(self, who: Who) -> tuple[tuple[Scope, ...], tuple[Limit, ...]]:
        found = self._known.get(who)
        if found is None:
            own: tuple[Scope, ...] = (
                ("team", who.team),
                ("user", who.user),
                ("project", who.project),
                ("key", who.key),
            )
            scopes: list[Scope] = [("box", ""), *(scope for scope in own if scope[1])]
            limits = [limit for scope in scopes for limit in self._limits.get(scope, ())]
            found = self._known[who] = (tuple(scopes), tuple(limits))
        return found

    def applies(self, who: Who) -> bool:
        """Whether any budget applies to a caller."""
        return bool(self._of(who)[1])

    def hold(self, who: Who, amount: int, at_ms: int) -> Hold:
        """Set an attempt's worst case aside in every account of its caller, or in none.

        Args:
            who: Whom the call is billed to.
            amount: Nano-dollars.
            at_ms: When the call was admitted: it belongs to that moment's period.

        Raises:
            BudgetSpent: A hard budget has no room for it.
        """
        scopes, limits = self._of(who)
        try:
            return self._books.hold(amount, at_ms, scopes, limits)
        except Full as full:
            raise self._refusal(full, amount) from None

    def _refusal(self, full: Full, amount: int) -> BudgetSpent:
        window, budget = full.window, full.budget
        kind, name = full.account.scope
        whose = f"{kind} `{name}`" if name else "the whole box"
        renews = periods.text(window.end_ms, self._zone)
        return BudgetSpent(
            f"The budget {budget.text} of {whose} has no room for this call: "
            f"{dollars(window.settled)} spent and {dollars(window.held)} held of"
            f" {dollars(budget.nanousd)}, and the call may cost up to {dollars(amount)}",
            hint=(f"It turns over on {renews}; " if renews else "It never turns over; ")
            + "a smaller `max_tokens` or a shorter prompt needs less",
        )

    def left(self, who: Who) -> int | None:
        """Return the nano-dollars that a caller can still hold, or None where no budget applies."""
        limits = self._of(who)[1]
        return self._books.left(limits) if limits else None

    def states(self, who: Who | None = None) -> list[BudgetState]:
        """Return the budgets that apply to a caller, or all there are, as they stand now."""
        if who is not None:
            return self._books.state(self._of(who)[1])
        return self._books.state([limit for limits in self._limits.values() for limit in limits])
