"""How long a refusal asks to wait, in every way that providers say it, and what it means."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire.recordings import recordings

from tollway.providers.refusals import is_key_refused, is_overflow, is_unpaid
from tollway.providers.retry_hints import hint_s, may_retry, span_s

NOW = 1_748_877_332.0  # 2025-06-02T15:15:32Z

HINTS = {
    "seconds": ({"Retry-After": "7"}, 7.0),
    "parts of a second": ({"retry-after": "0.25"}, 0.25),
    "a date": ({"Retry-After": "Mon, 02 Jun 2025 15:15:48 GMT"}, 16.0),
    "a date that is over": ({"Retry-After": "Mon, 02 Jun 2025 15:15:00 GMT"}, 0.0),
    "milliseconds": ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
    "no milliseconds, but a second": ({"retry-after-ms": "0", "retry-after": "1"}, 1.0),
    "OpenAI, tokens used up": (
        {
            "x-ratelimit-remaining-requests": "59",
            "x-ratelimit-reset-requests": "1s",
            "x-ratelimit-remaining-tokens": "0",
            "x-ratelimit-reset-tokens": "6m0s",
        },
        360.0,
    ),
    "OpenAI, which of them is not told": (
        {"x-ratelimit-reset-requests": "20ms", "x-ratelimit-reset-tokens": "1.5s"},
        0.02,
    ),
    "Groq": ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "7.66s"}, 7.66),
    "OpenRouter": ({"X-RateLimit-Reset": str(int((NOW + 30) * 1000))}, 30.0),
    "GitHub's way, unix seconds": ({"x-ratelimit-reset": str(int(NOW + 30))}, 30.0),
    "Anthropic": (
        {
            "anthropic-ratelimit-input-tokens-remaining": "0",
            "anthropic-ratelimit-input-tokens-reset": "2025-06-02T15:15:48Z",
            "anthropic-ratelimit-requests-remaining": "4000",
            "anthropic-ratelimit-requests-reset": "2025-06-02T15:15:33Z",
        },
        16.0,
    ),
    "Anthropic, of a subscription": (
        {
            "anthropic-ratelimit-unified-5h-status": "rejected",
            "anthropic-ratelimit-unified-5h-reset": str(int(NOW + 3600)),
        },
        3600.0,
    ),
    "Cerebras, the minute's tokens used up": (
        {
            "x-ratelimit-remaining-requests-day": "1439994",
            "x-ratelimit-reset-requests-day": "24481.883708953857",
            "x-ratelimit-remaining-tokens-minute": "0",
            "x-ratelimit-reset-tokens-minute": "11.8837089538574219",
        },
        11.8837089538574219,
    ),
    "nothing": ({"content-type": "application/json"}, None),
    "nonsense": ({"retry-after": "soon"}, None),
    "a number that is none": ({"retry-after": "nan"}, None),
    "a hundred years": ({"retry-after": "3153600000"}, None),
}


@pytest.mark.parametrize("how", HINTS)
def test_each_header_is_understood(how: str) -> None:
    """The wait in seconds, whatever the way of saying it; nothing where nothing is said."""
    headers, expected = HINTS[how]
    found = hint_s(tuple(headers.items()), b"", NOW)
    assert found == pytest.approx(expected) if expected is not None else found is None


def test_bodies_say_it_too() -> None:
    """Gemini's RetryInfo, OpenRouter's header within it, and messages in words."""
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.074824224s"}
    gemini = {"error": {"code": 429, "message": "No", "details": [{"@type": "x"}, info]}}
    assert hint_s((), json.dumps(gemini).encode(), NOW) == pytest.approx(34.074824224)
    assert hint_s((), json.dumps([gemini]).encode(), NOW) == pytest.approx(34.074824224)
    assert hint_s((), b'{"error":{"message":"Please try again in 1m2.5s. See"}}', NOW) == 62.5
    assert hint_s((), b'{"error":{"message":"Please retry after 43 seconds."}}', NOW) == 43
    assert hint_s((), b'{"error":{"message":"Please retry after 1 second."}}', NOW) == 1
    reset = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int((NOW + 90) * 1000))}
    seller = {"error": {"message": "No", "code": 429, "metadata": {"headers": reset}}}
    assert hint_s((), json.dumps(seller).encode(), NOW) == pytest.approx(90)
    odd: tuple[object, ...] = ({"headers": {"X-RateLimit-Reset": 7}}, {"headers": []}, [])
    for metadata in odd:
        said = {"error": {"message": "No", "metadata": metadata}}
        assert hint_s((), json.dumps(said).encode(), NOW) is None
    assert hint_s((("retry-after", "2"),), json.dumps(gemini).encode(), NOW) == 2
    for body in (b"", b"<html>", b"[]", b"7", b'{"error":[]}', b"[" * 5000):
        assert hint_s((), body, NOW) is None


def test_a_provider_may_forbid_a_further_try() -> None:
    """`x-should-retry`, as the official libraries obey it."""
    assert may_retry((("X-Should-Retry", "false"),)) is False
    assert may_retry((("x-should-retry", "true"),)) is True
    assert may_retry((("x-should-retry", "?"), ("a", "b"))) is None


@given(text=st.text(max_size=60), name=st.sampled_from(["retry-after", "x-ratelimit-reset"]))
def test_no_header_breaks_it(text: str, name: str) -> None:
    """Whatever stands there is a wait of zero seconds to a week, or nothing."""
    found = hint_s(((name, text),), text.encode(), NOW)
    assert found is None or 0 <= found <= 7 * 86_400


@given(parts=st.tuples(st.integers(0, 23), st.integers(0, 59), st.integers(0, 59)))
def test_spans_are_read_as_written(parts: tuple[int, int, int]) -> None:
    """Hours, minutes and seconds in their order."""
    hours, minutes, seconds = parts
    assert span_s(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


# What each recorded refusal is, besides a refusal.
RECORDED = {
    "bedrock/converse_err403_nova-2-lite-v1": "key",
    "cohere/v2-chat_err400_command-a-03-2025": "overflow",
    "cohere/v2-chat_err401_command-a-03-2025": "key",
    "anthropic/messages_err400_claude-haiku-4-5": "overflow",
    "llamacpp/chat_err400_qwen3-1-7b-q4-k-m": "overflow",
    "openai/responses_err400_gpt-5-nano": "overflow",
    "openrouter/chat_err400_claude-haiku-4-5": "overflow",
    "anthropic/messages_err401_claude-haiku-4-5": "key",
    "gemini/generatecontent_err400_gemini-2-5-flash": "key",
    "mistral/chat_err401_mistral-small-latest": "key",
    "openai/chat_err401_n_gpt-3-5-turbo": "key",
    "openai/chat_err403_text-embedding-3-large": "key",
    "openai/responses_err429_insufficient-quota_gpt-5-nano": "unpaid",
}


def test_every_recorded_refusal_is_what_it_is() -> None:
    """Each provider's own shape of an overflow, a bad key and an empty account; no other is one."""
    seen, there = {}, set()
    for one in recordings():
        there.add(one.id)
        if one.status < 400:
            continue
        said = (
            ("overflow", is_overflow(one.status, one.body)),
            ("key", is_key_refused(one.status, one.body)),
            ("unpaid", is_unpaid(one.status, one.body)),
        )
        if names := [name for name, is_it in said if is_it]:
            seen[one.id] = " ".join(names)
    assert len(seen) >= 10
    assert seen == {name: what for name, what in RECORDED.items() if name in there}


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4097 tokens. However, your messages resulted in"
        " 7575 tokens. Please reduce the length of the messages.",
        "The input token count (1200293) exceeds the maximum number of tokens allowed (1048576).",
        "Input is too long for requested model.",
        "input length and `max_tokens` exceed context limit: 199211 + 20000 > 200000, decrease"
        " input length or `max_tokens` and try again",
        "too many tokens: size limit exceeded by 25836 tokens.",
        "prompt too long; exceeded max context length by 1119046 tokens",
        "This model's maximum prompt length is 131072 but the request contains 136973 tokens.",
        "The input (61709 tokens) is longer than the model's context length (40960 tokens).",
        "The decoder prompt (length 163840) is longer than the maximum model length of 131072.",
        "Trying to keep the first 111490 tokens when context the overflows. However, the model is"
        " loaded with context length of only 32768 tokens, which is not enough.",
        "The number of tokens to keep from the initial prompt is greater than the context length"
        " (n_keep: 10247 >= n_ctx: 4096).",
        "Cannot truncate prompt with n_keep (15028) >= n_ctx (7424)",
        "Context size has been exceeded.",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. Given: 80125"
        " `inputs` tokens and 4096 `max_new_tokens`",
        "Too many input tokens. Max input tokens: 8192, request input token count: 9000",
        "invalid params, context window exceeds limit",
        "Your request exceeded model token limit: 262144 (requested: 300000)",
    ],
)
def test_overflows_are_known_by_their_words(message: str) -> None:
    """As users quote them from OpenAI, vLLM, Gemini, Bedrock, Anthropic, Cohere and others."""
    assert is_overflow(400, json.dumps({"error": {"message": message}}).encode())
    assert is_overflow(400, json.dumps({"message": message}).encode())
    assert not is_overflow(429, json.dumps({"error": {"message": message}}).encode())


def test_an_overflow_may_stand_behind_a_seller() -> None:
    """OpenRouter's own words say only that its provider returned an error."""
    raw = json.dumps({"error": {"message": "prompt is too long: 202128 tokens > 200000 maximum"}})
    error = {"message": "Provider returned error", "code": 400, "metadata": {"raw": raw}}
    assert is_overflow(400, json.dumps({"error": error}).encode())
    assert not is_overflow(429, json.dumps({"error": error}).encode())


def test_an_overflow_may_stand_in_the_last_event_of_a_stream() -> None:
    """As Responses tell it, once they have begun with 200."""
    error = {"code": "context_length_exceeded", "message": "Too long"}
    said = {"type": "response.failed", "response": {"status": "failed", "error": error}}
    assert is_overflow(400, json.dumps(said).encode())


def test_other_bad_requests_are_no_overflow() -> None:
    """Another window would not mend them."""
    for said in ("max_tokens is too large: 99999", "Unknown field", "Invalid 'input': too long"):
        assert not is_overflow(400, json.dumps({"error": {"message": said}}).encode())
