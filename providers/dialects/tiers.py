"""Service tiers: the one that is asked for, and the one that an answer was made in.

A provider's word for it is the `service` of an `AnswerReader`. The tier that everyone gets has a
name of its own with each of them; the others are called the same, where a dialect has them.
"""

from typing import Final

_USUAL: Final = frozenset({"default", "standard", "standard_only", "on_demand"})
_OPENAI: Final = frozenset({"flex", "scale", "priority", "fast"})
_ANTHROPIC: Final = frozenset({"priority", "batch"})

# What the same tier is called, in a request of whatever dialect ("fast" is OpenAI's other word).
_ASKED: Final = {"fast": "priority", "unspecified": "", **dict.fromkeys(_USUAL, "default")}
UNSAID: Final = frozenset({"", "auto", "default"})
"""What is asked for by saying nothing, where a provider has one tier, or begins with that."""


def asked(said: str | None) -> str:
    """Return a tier that a request asks for, in one word for all dialects; "" for none."""
    return _ASKED.get(said or "", said or "")


def for_openai(said: str) -> str:
    """Return the tier as OpenAI calls it; "" where it has no such tier, or none is known."""
    return "default" if said in _USUAL else said if said in _OPENAI else ""


def for_anthropic(said: str) -> str:
    """Return the tier as Anthropic calls it; "" where it has no such tier, or none is known."""
    return "standard" if said in _USUAL else said if said in _ANTHROPIC else ""
