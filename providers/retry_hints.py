"""How long a provider asks to be left alone: one small function for each way of saying so.

Sources: RFC 9110 10.2.3 (`Retry-After`, in seconds or as a date); `retry-after-ms` as Azure and
OpenAI send it and OpenAI's and Anthropic's libraries obey; OpenAI's and Groq's
`x-ratelimit-reset-requests` and `-tokens` ("6m0s", "20ms"), Cerebras's of a minute, an hour and a
day; OpenRouter's `x-ratelimit-reset`, a moment in unix milliseconds, which stands within its error
where the limit is its own; Anthropic's `anthropic-ratelimit-*-reset` (RFC 3339, of subscriptions
unix seconds); google.rpc.RetryInfo in Gemini's error; and what messages say in words.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Final

import msgspec

_LONGEST_S = 7 * 86_400.0  # a hint beyond that is a slip of somebody's clock
_OLDEST_MS = 10**11  # a number above it counts milliseconds, one below seconds
_MOST_BODY = 64 * 1024  # of an error in which a hint is looked for
_SPAN = re.compile(
    r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d*)?)s)?(?:(\d+(?:\.\d*)?)ms)?"
)
_IN_WORDS = re.compile(
    r"(?:try again|retry) (?:in|after) ((?:\d+(?:\.\d+)?(?:d|h|ms|m|s)){1,5}|\d+ seconds?)",
    re.IGNORECASE,
)


def hint_s(headers: Sequence[tuple[str, str]], body: bytes, now: float) -> float | None:
    """Return the seconds that a refusal asks to wait before the next try; None where it does not.

    Args:
        headers: Of the provider's answer, names in any case.
        body: Of its answer, as far as it was read.
        now: Unix seconds.
    """
    said = {name.lower(): value.strip() for name, value in headers}
    for read in (_after_ms, _after, _limits_reset, _reset, _anthropic):
        found = read(said, now)
        if found is not None:
            return _within(found)
    found = _in_body(body[:_MOST_BODY], now)
    return None if found is None else _within(found)


def told_s(headers: Sequence[tuple[str, str]], now: float) -> float:
    """Return the seconds that clients' libraries wait upon these headers, 0 where they say none."""
    said = {name.lower(): value.strip() for name, value in headers}
    return _after_ms(said, now) or _after(said, now) or 0.0


def may_retry(headers: Sequence[tuple[str, str]]) -> bool | None:
    """Return what `x-should-retry` says, as OpenAI and Anthropic send it; None without it."""
    for name, value in headers:
        if name.lower() == "x-should-retry":
            return {"true": True, "false": False}.get(value.strip().lower())
    return None


def _within(seconds: float) -> float | None:
    if not isfinite(seconds) or seconds > _LONGEST_S:
        return None
    return max(0.0, seconds)


def _number(text: str | None) -> float | None:
    try:
        found = float(text) if text and len(text) < 40 else None
    except ValueError:
        return None
    return found if found is not None and isfinite(found) else None


def _after_ms(said: Mapping[str, str], _now: float) -> float | None:
    ms = _number(said.get("retry-after-ms"))
    # Azure sends 0 beside a `retry-after` that says 1.
    return ms / 1000 if ms else None


def _after(said: Mapping[str, str], now: float) -> float | None:
    text = said.get("retry-after")
    seconds = _number(text)
    if seconds is not None or not text:
        return seconds
    try:
        at: datetime = parsedate_to_datetime(text)
        # A date without a zone is UTC (RFC 9110: HTTP dates always are).
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return None


_LIMITS: Final = tuple(
    f"{what}{span}"
    for what in ("requests", "tokens")
    for span in ("", "-minute", "-hour", "-day")  # of Cerebras
)


def _limits_reset(said: Mapping[str, str], _now: float) -> float | None:
    every = {
        what: seconds
        for what in _LIMITS
        if (seconds := span_s(said.get(f"x-ratelimit-reset-{what}", ""))) is not None
    }
    if not every:
        return None
    empty = [every[what] for what in every if said.get(f"x-ratelimit-remaining-{what}") == "0"]
    # Who says nothing of what is left may mean either: the sooner one costs a try at most.
    return max(empty) if empty else min(every.values())


def _reset(said: Mapping[str, str], now: float) -> float | None:
    return _moment_s(said.get("x-ratelimit-reset", ""), now)


def _anthropic(said: Mapping[str, str], now: float) -> float | None:
    begin, end = "anthropic-ratelimit-", "-reset"
    empty: list[float] = []
    others: list[float] = []
    for name, value in said.items():
        if not (name.startswith(begin) and name.endswith(end)):
            continue
        seconds = _moment_s(value, now)
        if seconds is None:
            continue
        stem = name.removesuffix(end)
        full = said.get(f"{stem}-remaining") == "0" or said.get(f"{stem}-status") == "rejected"
        (empty if full else others).append(seconds)
    if empty:
        return max(empty)
    return min(others, default=None)


def _moment_s(text: str, now: float) -> float | None:
    """Return the seconds until a moment: RFC 3339, unix seconds or milliseconds, or a span."""
    number = _number(text)
    if number is not None:
        if number < _LONGEST_S:
            return number
        return number / 1000 - now if number > _OLDEST_MS else number - now
    if not text or len(text) > 40:
        return None
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return span_s(text)


def span_s(text: str) -> float | None:
    """Return the seconds of a span as providers write it: "6m0s", "20ms", "1.5s", "2"; or None."""
    number = _number(text)
    if number is not None:
        return number
    found = _SPAN.fullmatch(text) if 0 < len(text) < 40 else None
    if not found:
        return None
    days, hours, minutes, seconds, ms = (float(part or 0) for part in found.groups())
    return days * 86_400 + hours * 3600 + minutes * 60 + seconds + ms / 1000


def _in_body(body: bytes, now: float) -> float | None:
    """Return what an error's JSON says: RetryInfo, a header within it, or its message in words."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):  # ValueError: it is no UTF-8
        return None
    for error in _errors(said):
        details = error.get("details")
        for detail in details if isinstance(details, list) else ():
            if isinstance(detail, dict) and str(detail.get("@type", "")).endswith(_RETRY_INFO):
                delay = detail.get("retryDelay")
                if isinstance(delay, str) and (seconds := span_s(delay)) is not None:
                    return seconds
        if (seconds := _of_openrouter(error.get("metadata"), now)) is not None:
            return seconds
        message = error.get("message")
        if isinstance(message, str) and (found := _IN_WORDS.search(message)):
            return span_s(found[1].partition(" second")[0])
    return None


def _of_openrouter(metadata: object, now: float) -> float | None:
    headers = metadata.get("headers") if isinstance(metadata, dict) else None
    if not isinstance(headers, dict):
        return None
    said = {name.lower(): value for name, value in headers.items() if isinstance(value, str)}
    after = _after(said, now)
    return _reset(said, now) if after is None else after


def _errors(said: object) -> Iterator[dict[str, object]]:
    for one in said if isinstance(said, list) else (said,):
        if isinstance(one, dict):
            inner = one.get("error")
            yield inner if isinstance(inner, dict) else one


_RETRY_INFO: Final = "google.rpc.RetryInfo"
