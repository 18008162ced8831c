"""How a caller's limits stand, in the headers of its dialect: pure text, tried without a socket."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.providers.dialects.rate_headers import Rate, Standing, rate_headers, span

NOON = datetime(2026, 11, 22, 12, 0, 0, 250_000, tzinfo=UTC)
BOTH = Standing(calls=Rate(60, 58, 2.0), tokens=Rate(100_000, 0, 59.999))


def test_openais_names_and_times() -> None:
    """As their documents have it: numbers, and the time until the limit is whole again."""
    assert rate_headers("openai_chat", BOTH, NOON) == (
        ("x-ratelimit-limit-requests", "60"),
        ("x-ratelimit-remaining-requests", "58"),
        ("x-ratelimit-reset-requests", "2s"),
        ("x-ratelimit-limit-tokens", "100000"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "1m0s"),
    )
    assert rate_headers("openai_responses", BOTH, NOON) == rate_headers("openai_chat", BOTH, NOON)


def test_anthropics_names_and_moments() -> None:
    """Moments in RFC 3339, in UTC wherever the gateway stands, never before the limit is whole."""
    expected = (
        ("anthropic-ratelimit-requests-limit", "60"),
        ("anthropic-ratelimit-requests-remaining", "58"),
        ("anthropic-ratelimit-requests-reset", "2026-11-22T12:00:03Z"),
        ("anthropic-ratelimit-tokens-limit", "100000"),
        ("anthropic-ratelimit-tokens-remaining", "0"),
        ("anthropic-ratelimit-tokens-reset", "2026-11-22T12:01:01Z"),
    )
    assert rate_headers("anthropic_messages", BOTH, NOON) == expected
    berlin = NOON.astimezone(timezone(timedelta(hours=1)))
    assert rate_headers("anthropic_messages", BOTH, berlin) == expected


@pytest.mark.parametrize("dialect", ["openai_chat", "anthropic_messages"])
def test_only_limits_that_there_are_get_headers(dialect: str) -> None:
    """A limit that nobody set is not told as none left, nor as endless."""
    names = [name for name, _ in rate_headers(dialect, Standing(tokens=Rate(9, 9, 0.0)), NOON)]
    assert len(names) == 3
    assert all("tokens" in name for name in names)
    assert rate_headers(dialect, Standing(), NOON) == ()


def test_a_dialect_without_such_headers_gets_none() -> None:
    """Gemini's clients go by `Retry-After` alone."""
    assert rate_headers("gemini", BOTH, NOON) == ()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.0001, "1ms"),
        (0.006, "6ms"),
        (0.9991, "1s"),
        (1.0, "1s"),
        (1.1, "2s"),
        (60.0, "1m0s"),
        (3599.5, "1h0m0s"),
        (86_399.0, "23h59m59s"),
    ],
)
def test_a_time_is_written_as_openai_writes_it(seconds: float, text: str) -> None:
    """Whole numbers with their units: programs that read them know no fractions."""
    assert span(seconds) == text


@given(st.floats(0, 10**6))
def test_no_time_is_written_shorter_than_it_is(seconds: float) -> None:
    """Who comes back when it was told to must find room."""
    parts = span(seconds).replace("ms", "x").replace("h", "h ").replace("m", "m ").split()
    scale = {"h": 3600.0, "m": 60.0, "s": 1.0, "x": 0.001}
    total = sum(float(part[:-1]) * scale[part[-1]] for part in parts)
    assert total >= seconds - 1e-9
    assert total <= seconds + 1.001
