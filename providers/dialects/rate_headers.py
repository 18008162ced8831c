"""What a reply says of the caller's own rate limits, in the words of the caller's dialect.

One small function for each family of dialects; one that has no such headers says nothing. What
a provider says of its limits reaches the client under other names (`tollway.providers.headers`).
"""

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import msgspec

from tollway.providers.headers import Headers


class Rate(msgspec.Struct, frozen=True):
    """One limit: what it allows, what is left of it, and the seconds until it is whole again."""

    limit: int
    left: int
    whole_s: float


class Standing(msgspec.Struct, frozen=True):
    """How a caller's limits stand, of calls and of tokens; None where there is no such limit."""

    calls: Rate | None = None
    tokens: Rate | None = None


def rate_headers(dialect: str, standing: Standing, now: datetime) -> Headers:
    """Return the headers that tell `standing` at the moment `now`; none for other dialects."""
    write = _WRITERS.get(dialect)
    return write(standing, now) if write else ()


def _openai(standing: Standing, _now: datetime) -> Headers:
    found: list[tuple[str, str]] = []
    for what, rate in (("requests", standing.calls), ("tokens", standing.tokens)):
        if rate:
            found += [
                (f"x-ratelimit-limit-{what}", str(rate.limit)),
                (f"x-ratelimit-remaining-{what}", str(rate.left)),
                (f"x-ratelimit-reset-{what}", span(rate.whole_s)),
            ]
    return tuple(found)


def _anthropic(standing: Standing, now: datetime) -> Headers:
    found: list[tuple[str, str]] = []
    for what, rate in (("requests", standing.calls), ("tokens", standing.tokens)):
        if rate:
            found += [
                (f"anthropic-ratelimit-{what}-limit", str(rate.limit)),
                (f"anthropic-ratelimit-{what}-remaining", str(rate.left)),
                (f"anthropic-ratelimit-{what}-reset", _moment(now, rate.whole_s)),
            ]
    return tuple(found)


def span(seconds: float) -> str:
    """Return a time as OpenAI writes it, never shorter than it is: "6ms", "1s", "6m0s"."""
    if seconds < 1:
        ms = math.ceil(seconds * 1000)
        return f"{ms}ms" if 0 < ms < 1000 else "1s" if ms else "0s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _moment(now: datetime, after_s: float) -> str:
    """Return a moment as Anthropic writes it, RFC 3339 in whole seconds, never too early."""
    at = now.astimezone(UTC) + timedelta(seconds=after_s)
    if at.microsecond:
        at = at.replace(microsecond=0) + timedelta(seconds=1)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


_WRITERS: Mapping[str, Callable[[Standing, datetime], Headers]] = {
    "openai_chat": _openai,
    "openai_responses": _openai,
    "anthropic_messages": _anthropic,
    # Gemini's has no such headers: its clients go by `Retry-After` alone.
}
