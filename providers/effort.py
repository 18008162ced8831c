"""How long a model thinks, as a word and as tokens: the one table between the two.

Words are OpenAI's and Anthropic's `effort`; tokens are the budgets of Anthropic's extended
thinking and Gemini's. The numbers are those that the providers' own compatibility layers and
the agents use, so that a client gets what it would get there.
"""

from typing import Final

# From least to most.
EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

BUDGETS: Final = {
    "none": 0,
    "minimal": 1_024,
    "low": 2_048,
    "medium": 8_192,
    "high": 24_576,
    "xhigh": 32_768,
    "max": 63_999,
}
# Anthropic takes no smaller one.
LEAST_BUDGET: Final = 1_024
# Of a limit, what thoughts may take: a part is kept for what comes after them.
SHARE_OF_THOUGHT = 4, 5


def budget_of(effort: str) -> int:
    """Return the tokens that a word stands for; those of "medium" for a word we do not know."""
    return BUDGETS.get(effort, BUDGETS["medium"])


def effort_of(budget: int) -> str:
    """Return the word that stands for a budget: the least whose tokens reach it."""
    for word in EFFORTS:
        if BUDGETS[word] >= budget:
            return word
    return EFFORTS[-1]


def nearest(effort: str, allowed: tuple[str, ...]) -> str:
    """Return the word of `allowed` that is nearest to `effort`; the lesser of two as near.

    Args:
        effort: A word; one that is not in the table is taken for "medium".
        allowed: The words that a target takes, at least one.
    """
    place = EFFORTS.index(effort if effort in EFFORTS else "medium")
    return min(allowed, key=lambda word: (abs(EFFORTS.index(word) - place), EFFORTS.index(word)))
