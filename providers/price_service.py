"""Which of a model's prices a call can reach, and which one an answer was made at.

Providers sell the same tokens faster ("priority", "fast") or later ("flex", "batch") at other
prices. A request asks for a tier, or leaves the choice to the provider; the answer says which
one it was. The hold is for the dearest that can be reached, the bill for the one that was.
"""

from tollway.providers.canon import Price

STANDARD = "default"
AUTO = "auto"
# What providers call the tier that everyone gets.
_STANDARD = frozenset({STANDARD, "standard", "standard_only", "on_demand"})
# Tiers that never cost more than the standard one, so that no price of their own is needed.
_NO_DEARER = frozenset({"flex", "batch"})
# Never chosen by a provider itself: it is another endpoint.
_ASKED_ALONE = "batch"


def reachable(price: Price, asked: str) -> tuple[Price, ...]:
    """Return every price that a call may be billed at.

    `asked` is what the request says of its service tier. "auto" (or nothing, which says the
    same) may be answered in whichever tier the account is set to; a tier that is asked for by
    name may still be answered in the standard one.
    """
    if asked in _STANDARD:
        return (price,)
    if asked == AUTO:
        others = tuple(each for each in price.services if each.service != _ASKED_ALONE)
    else:
        others = tuple(each for each in price.services if each.service == asked)
    return (price, *others)


def unnamed(price: Price, asked: str) -> tuple[Price, ...]:
    """Return the prices of which the dearest is billed where an answer names no tier.

    "auto" is no name: without a word from the provider it is the standard tier.
    """
    return reachable(price, STANDARD if asked == AUTO else asked)


def is_known(price: Price, asked: str) -> bool:
    """Whether `reachable` holds for a tier: a name without a price may cost anything."""
    known = asked == AUTO or asked in _STANDARD or asked in _NO_DEARER
    return known or any(each.service == asked for each in price.services)


def served(price: Price, answered: str) -> Price | None:
    """Return the price of the tier that an answer says it was made in, or None if it says none."""
    for each in price.services:
        if each.service == answered:
            return each
    return price if answered in _STANDARD or answered in _NO_DEARER else None
