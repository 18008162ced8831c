"""What OpenAI's models take: whether they reason, and whether they take sampling beside it.

The first reasoning models refuse `temperature` and its kin, and `stop`, whatever is asked; from
GPT-5.1 on they refuse them only where reasoning is asked for. Chat models refuse to be asked for
reasoning. OpenAI's own reference says so. A newer name does as the newest here.
"""

import re

_REASONS = re.compile(r"(?:o\d|gpt-(?:[5-9]|\d\d)|codex-)")
_CHAT = re.compile(r"gpt-5(?:\.\d)?-chat")
_FIRST = re.compile(r"(?:o\d|gpt-5(?!\.)|codex-mini)")
_KNOWS_XHIGH = re.compile(r"gpt-(?:5\.[2-9]|[6-9]|\d\d)|.*codex-max")


def efforts(model: str) -> tuple[str, ...]:
    """Return the words for how long to think that a model surely knows, from least to most."""
    return ("low", "medium", "high", *(("xhigh",) if _KNOWS_XHIGH.match(model) else ()))


def reasons(model: str) -> bool:
    """Whether a model reasons before it answers."""
    return bool(_REASONS.match(model)) and not _CHAT.match(model)


def can_rest(model: str) -> bool:
    """Whether a model that reasons can be asked not to."""
    return reasons(model) and not _FIRST.match(model)


def takes_sampling(model: str, *, asked_to_reason: bool) -> bool:
    """Whether a model takes temperature, top_p, penalties and stop sequences."""
    if not reasons(model):
        return True
    return not (asked_to_reason or _FIRST.match(model))
