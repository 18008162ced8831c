"""How long one of Google's models is to think, in the words that it takes."""

import re
from typing import Any

from tollway.providers.conversation import Reasoning
from tollway.providers.dialects.dialect import Facts
from tollway.providers.effort import budget_of, effort_of, nearest

# Google's documentation and its refusals ("Thinking level MINIMAL is not supported for this
# model"): the words that models of the third generation know. A newer one knows at least these.
_LEVELS = ("low", "medium", "high")
_KNOWN_LEVELS = (
    (re.compile(r".*gemini-3-pro"), ("low", "high")),
    (re.compile(r".*gemini-3(?:\.[1-5])?-flash"), ("minimal", *_LEVELS)),
)
# Documentation of thinking: which models do, and the budgets that they take.
_NO_THOUGHTS = re.compile(r"gemini-(?:1\.|2\.0)|gemma|.*-image|.*-tts")
_BUDGETS = {"gemini-2.5-pro": (128, 32_768), "gemini-2.5-flash-lite": (512, 24_576),
            "gemini-2.5-flash": (1, 24_576)}  # fmt: skip
# The aliases for what is newest have long been of that generation.
_THIRD = re.compile(r"gemini-(?:[3-9]|(?:pro|flash|flash-lite)-latest)")
# No thoughts at all, and for most questions none ("Matches the 'no thinking' setting").
_RESTS = ({"thinkingBudget": 0}, {"thinkingLevel": "minimal"})


def is_third(model: str) -> bool:
    """Return whether a model is of the third generation or a later one."""
    return bool(_THIRD.search(model))


def thinking_config(asked: Reasoning, facts: Facts, dropped: list[str]) -> dict[str, Any]:
    """Return how a model is told to think, as it takes that; what cannot be said is `dropped`."""
    config: dict[str, Any] = {}
    if facts.thinks is False or _NO_THOUGHTS.match(facts.model):
        if asked.mode != "off":
            dropped.append("reasoning")
        return config
    by_level = is_third(facts.model)
    effort = asked.effort
    if by_level and asked.budget is not None:
        effort = effort_of(asked.budget)  # the newest take no budget
    if asked.mode == "off":
        config = _least(facts.model, dropped)
    elif effort and by_level:
        config = {"thinkingLevel": _level(effort, facts.model)}
    elif asked.budget is not None:
        config = {"thinkingBudget": _within(asked.budget, facts.model)}
    elif asked.effort:
        config = {"thinkingBudget": _within(budget_of(asked.effort), facts.model)}
    elif asked.mode == "adaptive":
        config = {} if by_level else {"thinkingBudget": -1}
    if asked.mode != "off" and asked.summary != "none":
        config["includeThoughts"] = True
    if asked.summary not in ("", "none", "auto"):
        dropped.append("reasoning.summary")
    return config


def _least(model: str, dropped: list[str]) -> dict[str, Any]:
    """Return how a model is told not to think; those that always do think as little as they can."""
    config: dict[str, Any] = {"thinkingBudget": 0}
    if is_third(model):
        config = {"thinkingLevel": _level("minimal", model)}
    elif model.startswith("gemini-2.5-pro"):
        config = {"thinkingBudget": _BUDGETS["gemini-2.5-pro"][0]}
    if config not in _RESTS:
        dropped.append("reasoning.off")
    return config


def _level(effort: str, model: str) -> str:
    """Return the word for how long to think that a model of the third generation knows."""
    levels = next((levels for name, levels in _KNOWN_LEVELS if name.match(model)), _LEVELS)
    if effort == "medium" and "medium" not in levels:
        return "high"  # as Google's own endpoint in OpenAI's words has it
    return nearest(effort, levels)


def _within(budget: int, model: str) -> int:
    """Return the budget that a model takes which is nearest."""
    for name, (least, most) in _BUDGETS.items():
        if model.startswith(name):
            return min(max(budget, least), most)
    return budget
