"""What a provider itself says that an answer cost, and the one rule of what is then billed.

Some providers charge by more than tokens (which of several sellers answered, searches, a fee by
the size of a search) and say in each answer what they charged. That is the bill. Where a word of
theirs in `catalog.toml` says so, it is booked as it stands, and the price is for the hold alone.
"""

import json
from decimal import ROUND_HALF_EVEN, Decimal

from tollway.providers.canon import Price, Usage
from tollway.providers.dialects import openai_quirks as quirk
from tollway.providers.money import NANO, cost
from tollway.providers.price_service import served, unnamed

# No answer costs more: what says so is a mistake, and the tokens are believed.
MOST_USD = Decimal(100_000)
# xAI counts in ticks of 10^-10 dollars.
_TICKS = Decimal(10**10)


def reported(raw_usage: str, quirks: frozenset[str]) -> int | None:
    """Return the cost in nano-dollars, rounded half-even, or None where the usage says none.

    `raw_usage` is a provider's usage report as JSON, `quirks` are the words of its catalog row.
    """
    read = next((read for word, read in _READERS.items() if word in quirks), None)
    if read is None or not raw_usage:
        return None
    try:
        report = json.loads(raw_usage, parse_float=Decimal, parse_constant=lambda _: None)
    except (ValueError, ArithmeticError, RecursionError):  # an exponent of twenty digits, too
        return None
    usd = read(report) if isinstance(report, dict) else None
    if usd is None:
        return None
    return int((usd * NANO).to_integral_value(ROUND_HALF_EVEN))


def _number(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    number = Decimal(value)
    return number if number.is_finite() and 0 <= number <= MOST_USD * _TICKS else None


def _usd(value: object) -> Decimal | None:
    number = _number(value)
    return number if number is not None and number <= MOST_USD else None


def _in_dollars(report: dict[str, object]) -> Decimal | None:
    """OpenRouter: `cost`, to which a key of one's own at the seller adds what the seller takes."""
    total = _usd(report.get("cost"))
    if total is None or report.get("is_byok") is not True:
        return total
    details = report.get("cost_details")
    seller = _usd(details.get("upstream_inference_cost")) if isinstance(details, dict) else None
    # Without the seller's part the fee alone is no bill.
    return None if seller is None else total + seller


def _in_ticks(report: dict[str, object]) -> Decimal | None:
    """xAI: `cost_in_usd_ticks`, tools that it ran on the way included."""
    ticks = _number(report.get("cost_in_usd_ticks"))
    return None if ticks is None else _usd(ticks / _TICKS)


def _in_total(report: dict[str, object]) -> Decimal | None:
    """Perplexity: `cost.total_cost`, rounded to 10^-5 dollars, the search's fee included."""
    cost = report.get("cost")
    return _usd(cost.get("total_cost")) if isinstance(cost, dict) else None


_READERS = {
    quirk.COST_IN_DOLLARS: _in_dollars,
    quirk.COST_IN_TICKS: _in_ticks,
    quirk.COST_IN_TOTAL: _in_total,
}


def states_cost(quirks: frozenset[str]) -> bool:
    """Whether a provider says in each answer what it charged."""
    return any(word in quirks for word in _READERS)


def is_believed(price: Price | None) -> bool:
    """Whether what a provider says it charged is what is billed.

    Not where gateway.toml has a price for the target: a person's word is above the provider's,
    so that a team can be charged at a price of one's own.
    """
    return price is None or price.source not in ("gateway.toml", "free", "caller")


def billed(usage: Usage, price: Price, *, asked: str, answered: str) -> tuple[int, Price]:
    """Return what a usage costs in nano-dollars, and the price that it was billed at.

    Args:
        usage: What was used.
        price: The model's price, with those of its service tiers.
        asked: The service tier that the request asked for, as `Bound.service` has it.
        answered: The one that the answer says it was made in; "" where it says none. Then it is
            the dearest of the tier that was asked for by name and the standard one.
    """
    if not price.services:
        return cost(usage, price), price
    said = served(price, answered)
    if said is None:
        options = unnamed(price, asked)
        return max(((cost(usage, one), one) for one in options), key=lambda pair: pair[0])
    return cost(usage, said), said
