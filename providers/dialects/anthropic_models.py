"""What Claude models take: how they are asked to think, and whether they take sampling.

Budgets of thinking ended, and sampling was taken away, with Opus 4.7; what came before Opus 4.6
knows budgets alone. The recorded list of models (tests/wire) and the refusals that users met
say so; the word "xhigh" came with Opus 4.7 too, as Anthropic's page on effort has it. A newer name
than those here does as the newest of them; a name that is no Claude is of a server that speaks the
dialect, and takes it as it first was.
"""

import re
from typing import Literal

_NEVER = re.compile(r"claude-(?:2|instant|3-(?:5|haiku|opus|sonnet))")
_BUDGET = re.compile(r"claude-(?:3-7|(?:opus|sonnet|haiku)-4(?:-[015](?!\d)|[-@]\d{8}|-latest|$))")
_FIRST_ADAPTIVE = re.compile(r"claude-(?:opus|sonnet|haiku)-4-6")


def _bare(model: str) -> str:
    """Return a model's name without what clouds put before it; "" for what is no Claude."""
    at = model.find("claude-")
    return model[at:] if at >= 0 else ""


def thinks(model: str) -> Literal["never", "budget", "adaptive"]:
    """Return how a model is asked to think: not at all, by a budget, or by an effort."""
    name = _bare(model)
    if _NEVER.match(name):
        return "never"
    return "budget" if not name or _BUDGET.match(name) else "adaptive"


def is_claude(model: str) -> bool:
    """Whether a model is Anthropic's, wherever it is served."""
    return bool(_bare(model))


def takes_sampling(model: str) -> bool:
    """Whether a model takes temperature, top_p and top_k; others refuse a request that has any."""
    return thinks(model) != "adaptive" or bool(_FIRST_ADAPTIVE.match(_bare(model)))


def goes_on(model: str) -> bool:
    """Whether a model goes on with an answer that the request has begun; Opus 4.6 began to refuse.

    "This model does not support assistant message prefill" (langchain-ai/deepagents#1585).
    """
    return thinks(model) != "adaptive"


def efforts(model: str) -> tuple[str, ...]:
    """Return the words for how long to think that a model knows, from least to most."""
    more = () if _FIRST_ADAPTIVE.match(_bare(model)) else ("xhigh",)
    return ("low", "medium", "high", *more, "max")
