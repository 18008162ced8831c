"""Which headers pass, each way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.providers.headers import to_client, to_provider

UNKNOWN = [("X-Stainless-Lang", "python"), ("OpenAI-Beta", "assistants=v2"), ("Accept", "*/*")]


def lower(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return headers with their names in lower case."""
    return [(name.lower(), value) for name, value in headers]


def test_unknown_headers_pass_both_ways() -> None:
    """Each new client release brings a beta header; a list of what passes would break it."""
    assert list(to_provider(UNKNOWN)) == lower(UNKNOWN)
    assert list(to_client(UNKNOWN)) == lower(UNKNOWN)


@pytest.mark.parametrize(
    "name",
    [
        *("Authorization", "X-API-Key", "api-key", "x-goog-api-key", "Cookie", "x-tollway-key"),
        *("X-Tollway-Tags", "Host", "Content-Length", "Transfer-Encoding", "Connection", "TE"),
        *("Accept-Encoding", "Origin", "Referer", "X-Forwarded-For", "Forwarded", "Expect"),
        *("Proxy-Authorization", "Keep-Alive", "Upgrade", "Sec-Fetch-Site", "OpenAI-Organization"),
        *("X-HF-Bill-To", "x-portkey-config", "X-Portkey-Custom-Host", "Helicone-Target-URL"),
        "Helicone-Fallbacks",
    ],
)
def test_what_is_the_callers_stays_here(name: str) -> None:
    """Credentials, connections, who and where the caller is."""
    assert to_provider([(name, "1"), ("x-kept", "1")]) == (("x-kept", "1"),)


@pytest.mark.parametrize(
    "name",
    [
        *("Set-Cookie", "Server", "Date", "Alt-Svc", "Transfer-Encoding", "Content-Length"),
        *("Content-Encoding", "Connection", "Keep-Alive", "Strict-Transport-Security", "Trailer"),
        *("x-tollway-cost-usd", "Access-Control-Allow-Origin", "OpenAI-Organization"),
    ],
)
def test_what_is_the_providers_stays_there(name: str) -> None:
    """Its cookies, its connection, whose account it is; nor can it speak in our name."""
    assert to_client([(name, "1"), ("x-kept", "1")]) == (("x-kept", "1"),)


def test_limits_and_ids_of_the_provider_get_names_of_their_own() -> None:
    """A client would take them for the gateway's limits, and for the call's id."""
    given_ = [
        ("X-RateLimit-Remaining-Tokens", "5"),
        ("anthropic-ratelimit-requests-limit", "50"),
        ("x-request-id", "req_1"),
        ("retry-after", "3"),
        ("content-type", "text/event-stream"),
    ]
    assert to_client(given_) == (
        ("x-upstream-ratelimit-remaining-tokens", "5"),
        ("x-upstream-anthropic-ratelimit-requests-limit", "50"),
        ("x-upstream-request-id", "req_1"),
        ("retry-after", "3"),
        ("content-type", "text/event-stream"),
    )


def test_a_header_that_connection_names_goes_with_it() -> None:
    """RFC 9110: it is about this connection alone."""
    headers = [("Connection", "close, X-Once"), ("x-once", "1"), ("x-kept", "1")]
    assert to_provider(headers) == to_client(headers) == (("x-kept", "1"),)


def test_the_same_name_may_come_twice() -> None:
    """Order and number stay."""
    assert to_client([("warning", "1"), ("Warning", "2")]) == (("warning", "1"), ("warning", "2"))


@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=20)), max_size=5))
def test_no_header_can_become_two(headers: list[tuple[str, str]]) -> None:
    """A line end, or anything that some parser takes for one, never passes."""
    for name, value in (*to_provider(headers), *to_client(headers)):
        assert name.isascii()
        assert not set(name) & set(" \t\r\n\0:")
        assert not set(value) & {"\r", "\n", "\0", "\x0b", "\x0c", "\u2028"}


def test_a_line_end_in_a_value_drops_the_header() -> None:
    """It is not mended: who sends that means no good."""
    assert to_provider([("x-a", "1\r\nx-evil: 1"), ("x-b\n", "1"), ("", "1")]) == ()
