"""From Anthropic's `usage` objects to tokens in disjoint classes.

Anthropic counts beside each other what OpenAI counts within: `input_tokens` are the fresh ones,
cached ones stand beside them. Thinking is within `output_tokens`, and counted by newer models
alone. A stream reports twice: `message_start` what went in, `message_delta` all of it anew; the
later report wins class by class, and what only the first one tells (how long a cache entry is
kept) stays.
"""

from typing import TypeAlias

from tollway.providers.canon import Usage
from tollway.providers.dialects.tiers import for_anthropic

Counts: TypeAlias = dict[str, int]

_MOST = 2**40
_NAMES = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_ADVISED = "advised"  # some tokens are of a model that is not the call's
_WITHIN = (
    ("cache_creation", "ephemeral_1h_input_tokens"),
    ("output_tokens_details", "thinking_tokens"),
    ("server_tool_use", "web_search_requests"),
)


def counts(report: object) -> Counts:
    """Return what a `usage` object says; what is null, negative or no number says nothing."""
    found: Counts = {}
    if not isinstance(report, dict):
        return found
    for name in _NAMES:
        _take(found, report, name)
    for within, name in _WITHIN:
        said = report.get(within)
        if isinstance(said, dict):
            _take(found, said, name)
    _beside(found, report.get("iterations"))
    return found


def _take(found: Counts, said: dict[str, object], name: str) -> None:
    value = said.get(name)
    if type(value) is int and 0 <= value <= _MOST:
        found[name] = value


def _beside(found: Counts, iterations: object) -> None:
    """Add what is billed and not in the totals: compacting the conversation, and advice.

    Advice is another model's, at that one's price, which is not this call's.
    """
    for one in iterations if isinstance(iterations, list) else ():
        kind = one.get("type") if isinstance(one, dict) else None
        if kind in ("compaction", "advisor_message"):
            for name, count in counts({**one, "iterations": None}).items():
                found[name] = found.get(name, 0) + count
        if kind == "advisor_message":
            found[_ADVISED] = 1


def disjoint(found: Counts) -> Usage | None:
    """Return usage in disjoint classes, or None where input or output is not known."""
    if "input_tokens" not in found or "output_tokens" not in found:
        return None
    written = found.get("cache_creation_input_tokens", 0)
    hour = min(found.get("ephemeral_1h_input_tokens", 0), written)
    output = found["output_tokens"]
    thought = min(found.get("thinking_tokens", 0), output)
    return Usage(
        input=found["input_tokens"],
        cache_read=found.get("cache_read_input_tokens", 0),
        cache_write=written - hour,
        cache_write_1h=hour,
        output=output - thought,
        reasoning=thought,
        searches=found.get("web_search_requests", 0),
        estimated=_ADVISED in found,
    )


def report(usage: Usage) -> dict[str, object]:
    """Return usage as Anthropic reports it: cached tokens beside the input."""
    said: dict[str, object] = {
        "input_tokens": usage.input + usage.audio_input + usage.image_input,
        "cache_creation_input_tokens": usage.cache_write + usage.cache_write_1h,
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.output_total,
    }
    if usage.reasoning:
        said["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    if usage.searches:
        said["server_tool_use"] = {
            "web_search_requests": usage.searches,
            "web_fetch_requests": 0,
        }
    if usage.cache_write_1h:
        said["cache_creation"] = _creation(usage)
    return said


def _creation(usage: Usage) -> dict[str, int]:
    return {
        "ephemeral_5m_input_tokens": usage.cache_write,
        "ephemeral_1h_input_tokens": usage.cache_write_1h,
    }


def full_report(usage: Usage, service: str) -> dict[str, object]:
    """Return usage as it stands in a whole message: with how long cache entries are kept.

    Args:
        usage: What was used.
        service: The service tier that it was used in, in the provider's word; "" for none known.
    """
    tier = for_anthropic(service) or (None if service else "standard")
    return {**report(usage), "cache_creation": _creation(usage), "service_tier": tier}
