"""From a provider's `usage` object to tokens in disjoint classes.

OpenAI counts parts within wholes: cached tokens within `prompt_tokens`, reasoning within
`completion_tokens`. Some report a part beside its whole instead, and their totals, or a part
larger than its whole, tell. Read the wrong way, it is billed twice or not at all.
"""

from functools import lru_cache
from typing import TypeAlias

from tollway.providers.canon import Usage

# The tokens of each name, as a provider counts them: still overlapping.
Counts: TypeAlias = dict[str, int]

# Where counts stand: within which object of a report ("" for the report), and under which key.
# Of the places of one count the first that says anything holds.
_PLACES: dict[str, tuple[tuple[str, str], ...]] = {
    "prompt_tokens_details": (
        ("cached_tokens", "cached"),
        ("cache_write_tokens", "written"),
        ("audio_tokens", "heard"),
        ("image_tokens", "seen"),
    ),
    "completion_tokens_details": (
        ("reasoning_tokens", "reasoning"),
        ("audio_tokens", "spoken"),
        ("image_tokens", "shown"),
    ),
    "server_tool_use_details": (("web_search_requests", "searches"),),  # OpenRouter
    "server_side_tool_usage_details": (("web_search_calls", "searches"),),  # xAI
    "": (
        ("prompt_tokens", "prompt"),
        ("completion_tokens", "completion"),
        ("total_tokens", "total"),
        ("prompt_cache_hit_tokens", "cached"),  # DeepSeek
        ("cached_tokens", "cached"),  # Together
        ("cache_read_input_tokens", "cached"),  # Databricks and other ways to Claude
        ("cache_creation_input_tokens", "written"),
        ("audio_prompt_tokens", "heard"),
        ("reasoning_tokens", "reasoning"),  # Perplexity
        # Perplexity: what its searches read, priced as input, beside the prompt.
        ("citation_tokens", "citation"),
        ("num_search_queries", "searches"),  # Perplexity
    ),
}
_NAMES = frozenset({*_PLACES, *(key for key, _ in _PLACES[""])}) - {""}
_WHOLES = frozenset({"prompt", "completion", "total"})
# Larger than any context, small enough for a database's integers.
_MOST = 2**40


def counts(report: object) -> Counts:
    """Return what a `usage` object says; what is null, negative or no number says nothing."""
    found: Counts = {}
    if not isinstance(report, dict):
        return found
    for within, places in _present(_NAMES.intersection(report)):
        said = report[within] if within else report
        if not isinstance(said, dict):
            continue
        for key, name in places:
            value = said.get(key)
            if value is not None and name not in found and (count := _count(value)) is not None:
                found[name] = count
    return found


@lru_cache(maxsize=256)
def _present(names: frozenset[str]) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Return what of `_PLACES` a report that has these of `_NAMES` can say, in the same order."""
    own = tuple(place for place in _PLACES[""] if place[0] in names)
    return (*((at, places) for at, places in _PLACES.items() if at in names), ("", own))


def _count(value: object) -> int | None:
    if type(value) is int:
        return value if 0 <= value <= _MOST else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
        return value if 0 <= value <= _MOST else None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        value = int(value)
        return value if 0 <= value <= _MOST else None
    return None


def merged(before: Counts, later: Counts) -> Counts:
    """Return two reports of one answer as one: the later wins, class by class."""
    both = {**before, **later}
    if "total" not in later and later:
        both.pop("total", None)  # an older total says nothing of newer parts
    return both


def added(before: Counts, later: Counts) -> Counts:
    """Return the reports of two choices as one: the prompt once, each choice's own output."""
    both = {**before, **later}
    for name in ("completion", "reasoning", "spoken", "shown"):
        if name in before:
            both[name] = before[name] + later.get(name, 0)
    both.pop("total", None)
    return both


def disjoint(found: Counts, *, generates: bool = True, within: bool = False) -> Usage | None:
    """Return usage in disjoint classes, or None where input or output is not known.

    Args:
        found: What the reports said.
        generates: Whether the endpoint makes tokens; embeddings have input only.
        within: Reasoning is known to be within the completion.
    """
    total = found.get("total")
    prompt, completion = found.get("prompt"), found.get("completion")
    if not generates and completion is None:
        completion = 0
    if prompt is None and completion is not None and total is not None:
        prompt = max(0, total - completion)
    if completion is None and prompt is not None and total is not None:
        completion = max(0, total - prompt)
    if prompt is None or completion is None:
        return None
    if found.keys() <= _WHOLES:  # as most say: nothing overlaps
        return Usage(input=prompt, output=completion)
    reasoning = found.get("reasoning", 0)
    beside = _is_beside(reasoning, completion, prompt, total) and not within
    output = completion if beside else completion - (reasoning := min(reasoning, completion))
    spoken = min(found.get("spoken", 0), output)
    shown = min(found.get("shown", 0), output - spoken)
    cached, written = found.get("cached", 0), found.get("written", 0)
    heard = min(found.get("heard", 0), prompt)
    seen = min(found.get("seen", 0), prompt - heard)
    out = completion + (reasoning if beside else 0)
    if cached + written > prompt or (total is not None and total == _sum(found, prompt, out)):
        fresh = prompt - heard - seen
    else:
        # Audio and images may be counted among the cached: then it is the dearer class that they
        # are in.
        cached = min(cached, prompt - written - min(heard + seen, prompt - written))
        heard = min(heard, prompt - written - cached)
        seen = min(seen, prompt - written - cached - heard)
        fresh = prompt - written - cached - heard - seen
    return Usage(
        input=fresh + found.get("citation", 0),
        cache_read=cached,
        cache_write=written,
        audio_input=heard,
        output=output - spoken - shown,
        reasoning=reasoning,
        audio_output=spoken,
        image_input=seen,
        image_output=shown,
        searches=found.get("searches", 0),
    )


def _is_beside(reasoning: int, completion: int, prompt: int, total: int | None) -> bool:
    """Whether reasoning is not within the completion: xAI's way, and Vercel's for Gemini."""
    if not reasoning:
        return False
    return reasoning > completion or total == prompt + completion + reasoning


def _sum(found: Counts, prompt: int, out: int) -> int | None:
    """Return what the total is if cached tokens are beside the prompt; None where none are."""
    cache = found.get("cached", 0) + found.get("written", 0)
    return prompt + cache + out if cache else None
