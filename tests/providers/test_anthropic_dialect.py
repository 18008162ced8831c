"""Anthropic's dialect passed through: what the gate reads of it, and what it leaves alone."""

import json
from typing import Any

import anthropic
import pytest
from anthropic.types import ModelInfo, RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from wire.recordings import Recording, recordings

from tollway.providers.canon import Bound, Call, Usage
from tollway.providers.dialects.anthropic_messages import DIALECT, models, token_count
from tollway.providers.dialects.dialect import Edits
from tollway.providers.errors import (
    GatewayError,
    RequestInvalid,
    Unbounded,
    UpstreamRefused,
    UpstreamTimeout,
)
from tollway.providers.sse import Event, Splitter

RECORDED = [one for one in recordings() if one.api.rpartition(".")[2] in ("messages", "rawPredict")]
STREAMS = [one for one in RECORDED if one.streamed]
HELLO = {"model": "claude", "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}]}


def call(**more: Any) -> Call:
    """Return a call that says hello and what `more` holds."""
    return DIALECT.peek("chat", json.dumps(HELLO | more, ensure_ascii=False).encode())


def bound(**more: Any) -> Bound:
    """Return the bound of such a call."""
    return DIALECT.bound(call(**more))


def read(recording: Recording, *chunks: bytes) -> Any:
    """Return a reader that has read an answer, whole or in chunks."""
    asked = DIALECT.peek("chat", recording.request)
    reader = DIALECT.reader(asked, frozenset())
    if not recording.streamed:
        reader.whole(recording.body)
        return reader
    splitter = Splitter()
    for chunk in chunks or (recording.body,):
        assert all(reader.event(event) for event in splitter.feed(chunk))
    return reader


def test_peek_finds_what_the_gate_needs() -> None:
    """Model, stream and limit; the bytes stay as they came."""
    found = call(stream=True, metadata={"user_id": "u"})
    assert (found.dialect, found.endpoint, found.model) == ("anthropic_messages", "chat", "claude")
    assert (found.stream, found.output_limit, found.wants_usage) == (True, 10, True)
    assert found.body == json.dumps(HELLO | {"stream": True, "metadata": {"user_id": "u"}}).encode()
    counted = DIALECT.peek("count_tokens", b'{"model":"claude","messages":[],"stream":true}')
    assert (counted.endpoint, counted.stream, counted.output_limit) == ("count_tokens", False, None)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"[]", None),
        (b'{"messages":[]}', "model"),
        (b'{"model":"","messages":[]}', "model"),
        (b'{"model":"m"}', "messages"),
        (b'{"model":"m","messages":"Hi"}', "messages"),
        (b'{"model":"m","messages":[],"max_tokens":"9"}', "max_tokens"),
        (b'{"model":"m","messages":[],"max_tokens":-1}', "max_tokens"),
        (b'{"model":"m","messages":[],"stream":1}', "stream"),
        (b'{"model":"m","messages":[],"model":"n"}', "model"),
        (b'{"model":"m","messages":[],"Max_Tokens":9}', "Max_Tokens"),
    ],
)
def test_peek_refuses_what_the_gate_would_misread(body: bytes, param: str | None) -> None:
    """A field of the wrong type, one that stands twice, one that another parser takes for ours."""
    with pytest.raises(RequestInvalid) as refusal:
        DIALECT.peek("chat", body)
    assert refusal.value.param == param


def test_only_the_model_and_the_limit_change() -> None:
    """Signatures and caches hang on the bytes, so all others stay, spaces included."""
    body = b'{ "model" : "a" ,"messages":[ {"role":"user","content":"\xc3\xbc"} ], "max_tokens":9 }'
    asked = DIALECT.peek("chat", body)
    assert DIALECT.edit(asked, Edits("a")) == body
    edited = DIALECT.edit(asked, Edits("b", output_limit=5, ask_usage=True))
    assert edited == body.replace(b'"a"', b'"b"').replace(b":9", b":5")
    assert DIALECT.path("chat") == "/messages"
    assert DIALECT.path("count_tokens") == "/messages/count_tokens"


def test_a_limit_that_is_missing_is_written() -> None:
    """Anthropic demands one; the gate writes the one that its hold counts on."""
    asked = DIALECT.peek("chat", b'{"model":"a","messages":[]}')
    edited = json.loads(DIALECT.edit(asked, Edits("a", output_limit=77)))
    assert edited["max_tokens"] == 77


def thinking(limit: int | None, budget: int, most: int) -> tuple[int, int | None]:
    """Return the limit and the thinking budget of a call that is given a lower limit."""
    more = {"thinking": {"type": "enabled", "budget_tokens": budget, "display": "omitted"}}
    asked = call(max_tokens=limit, **more)
    edited = json.loads(DIALECT.edit(asked, Edits("claude", output_limit=most)))
    return edited["max_tokens"], edited["thinking"].get("budget_tokens")


def test_a_lower_limit_lowers_the_budget_for_thinking() -> None:
    """Anthropic refuses a budget past the limit, or lets it be used up beside it."""
    assert thinking(20_000, 10_000, 15_000) == (15_000, 10_000)
    assert thinking(20_000, 10_000, 5000) == (5000, 4000)
    assert thinking(20_000, 10_000, 1100) == (1100, 1024)
    assert thinking(20_000, 10_000, 1024) == (1024, None)
    assert thinking(None, 60_000, 16_384) == (16_384, 13_107)
    # Interleaved: the answer has its own limit, and thoughts what is left beside it.
    assert thinking(2000, 10_000, 12_000) == (2000, 10_000)
    assert thinking(2000, 10_000, 5000) == (2000, 3000)
    assert thinking(2000, 10_000, 3000) == (2000, 1600)


@pytest.mark.parametrize("recording", RECORDED, ids=lambda one: one.id)
def test_the_input_bound_holds_for_what_was_billed(recording: Recording) -> None:
    """No recorded prompt was billed more than its request bounds, where bytes bound it."""
    limit = DIALECT.bound(DIALECT.peek("chat", recording.request))
    usage = read(recording).usage or Usage()
    assert usage.input_total <= limit.input or limit.by_window or limit.unbounded
    ran = {"server_tool_use", "mcp_tool_result", "tool_search_tool_result"} & recording.features
    assert bool(ran) == bool(limit.unbounded or limit.prompts > 1)


def test_what_bytes_do_not_bound_is_named() -> None:
    """Pictures are bounded by the window; what stands elsewhere, or others run, by nothing."""

    def sent(kind: str, **source: str) -> Bound:
        block = {"type": kind, "source": source}
        return bound(messages=[{"role": "user", "content": [block]}])

    inline = sent("image", type="base64", media_type="image/png", data="aGk=")
    assert inline.by_window and inline.media and not inline.unbounded
    assert sent("image", type="url", url="https://x/y.png").unbounded
    assert sent("document", type="file", file_id="f").unbounded
    plain = sent("document", type="text", media_type="text/plain", data="words")
    assert not plain.by_window and not plain.unbounded


_SEARCH = {"type": "web_search_20250305", "name": "x"}
_ADDED = {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": _SEARCH}}
_SUMMARY = {"type": "compaction", "content": "They met."}


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"mcp_servers": [{"type": "url", "url": "https://x", "name": "x"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"models": ["x/dear"]}, "models"),
        ({"plugins": [{"id": "web"}]}, "plugins"),
        ({"preset": "dear"}, "preset"),
        ({"fallbacks": "default"}, "fallbacks"),
        ({"providerOptions": {"gateway": {"models": ["dear"]}}}, "providerOptions"),
        ({"context_window_fallbacks": [{"m": ["dear"]}]}, "context_window_fallbacks"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9e4}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": "90000"}}, "thinking.budget_tokens"),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, "context_management"),
        ({"tools": [{"type": "code_execution_20250825", "name": "x"}]}, "tools[].code_execution"),
        ({"tools": [{"type": "web_search_20250305", "name": "x"}]}, "tools[].web_search"),
        ({"messages": [{"role": "system", "content": [_ADDED]}]}, "tools[].web_search"),
        (
            {"messages": [{"role": "user", "content": [_SUMMARY | {"tool_changes": [_ADDED]}]}]},
            "tools[].web_search",
        ),
    ],
)
def test_what_raises_the_bill_past_any_number_of_tokens_is_named(
    more: dict[str, Any], named: str
) -> None:
    """Where a hard budget applies, each of them is refused by its name."""
    assert any(one.startswith(named) for one in bound(**more).unbounded)


def test_what_does_not_raise_the_bill_is_let_through() -> None:
    """Clearing what is old makes a prompt smaller; tools of the client's own cost their words."""
    clearing = {"edits": [{"type": "clear_tool_uses_20250919"}]}
    assert not bound(context_management=clearing).unbounded
    own = bound(tools=[{"type": "bash_20250124", "name": "bash"}])
    assert not own.unbounded and own.input > bound().input + 735


def test_a_search_is_bounded_by_its_max_uses() -> None:
    """Each use has a fee, and makes the model read its whole window again."""
    limit = bound(tools=[{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}])
    assert (limit.searches, limit.prompts, limit.by_window) == (3, 4, True)
    assert not limit.unbounded


def test_a_thinking_budget_past_the_limit_counts_beside_it() -> None:
    """Within the limit it is part of it; interleaved thinking may pass it."""
    assert (
        bound(max_tokens=4096, thinking={"type": "enabled", "budget_tokens": 1024}).output == 4096
    )
    assert (
        bound(max_tokens=4096, thinking={"type": "enabled", "budget_tokens": 9000}).output == 13096
    )
    assert bound(max_tokens=4096, thinking={"type": "adaptive"}).output == 4096


def test_faster_service_is_asked_for_by_name() -> None:
    """It has prices of its own, so that the gate must know."""
    assert bound().service == "standard"
    assert bound(service_tier="standard_only").service == "standard_only"
    assert bound(speed="fast").service == "fast"


def test_counting_tokens_is_free() -> None:
    """Nothing is held for a count, and its answer is whole without usage."""
    asked = DIALECT.peek("count_tokens", json.dumps(HELLO).encode())
    assert DIALECT.bound(asked) == Bound(0, 0, media=False)
    reader = DIALECT.reader(asked, frozenset())
    reader.whole(token_count(671))
    assert reader.begun and reader.ended and reader.usage == Usage()


@given(st.lists(st.text(), max_size=4))
@settings(max_examples=50)
def test_no_text_hides_from_the_bound(texts: list[str]) -> None:
    """Every byte of every text counts, whatever the blocks it stands in."""
    content: list[dict[str, Any]] = [{"type": "text", "text": text} for text in texts]
    content += [{"type": "tool_result", "tool_use_id": "t", "content": text} for text in texts]
    limit = bound(messages=[{"role": "user", "content": content}])
    assert limit.input >= 2 * sum(len(text.encode()) for text in texts)


def test_a_nested_key_that_stands_twice_is_refused() -> None:
    """Another parser may read the one that we do not."""
    body = (
        b'{"model":"m","messages":[{"role":"user","content":"Hi","content":"' + b"x" * 99 + b'"}]}'
    )
    with pytest.raises(RequestInvalid, match="twice"):
        DIALECT.bound(DIALECT.peek("chat", body))


MEANT = {
    "messages_cache-1h_cache-write_finish-max-tokens_claude-sonnet-4": Usage(
        input=17, cache_write_1h=2056, output=100
    ),
    "messages_stream_cache-read_finish-max-tokens_claude-sonnet-4": Usage(
        input=11, cache_read=1031, output=100
    ),
    "messages_stream_finish-refusal_thinking_claude-fable-5": Usage(
        input=28, output=39, reasoning=67
    ),
    "messages_stream_web-search_citations_encrypted-content_claude-haiku-4-5": Usage(
        input=2254, cache_write=17269, output=110, searches=1
    ),
    "messages_stream_claude-haiku-4-5": Usage(input=15, output=9),
    "messages_thinking_claude-sonnet-5": Usage(input=44, output=456, reasoning=170),
    "messages_stream_code-exec_thinking_claude-sonnet-4-6": Usage(input=4714, output=304),
    "messages_web-fetch_claude-sonnet-4-5": Usage(input=20894, output=883),
}


@pytest.mark.parametrize(("name", "usage"), MEANT.items())
def test_usage_is_read_in_disjoint_classes(name: str, usage: Usage) -> None:
    """Cached tokens stand beside the input, thinking within the output; the last report wins."""
    (recording,) = (one for one in RECORDED if one.id == f"anthropic/{name}")
    reader = read(recording)
    assert reader.usage == usage
    assert reader.ended and reader.begun and reader.failed is None
    assert reader.upstream_id.startswith("msg_")
    assert json.loads(reader.raw_usage)["input_tokens"] == usage.input
    assert reader.service == "standard"


@pytest.mark.parametrize(
    "recording", [one for one in RECORDED if one.status == 200], ids=lambda one: one.id
)
def test_what_came_is_no_less_than_what_was_billed_where_all_of_it_shows(
    recording: Recording,
) -> None:
    """The visible bytes bound the output, as a stream that is cut off is settled by them."""
    reader = read(recording)
    if reader.usage and reader.ended and "thinking" not in " ".join(recording.features):
        assert reader.produced >= reader.usage.output_total - 64


@pytest.mark.parametrize("recording", STREAMS, ids=lambda one: one.id)
def test_a_stream_that_is_cut_off_has_not_ended(recording: Recording) -> None:
    """Only `message_stop` ends it, however much came before."""
    events = Splitter().feed(recording.body)
    for place in range(0, len(events), 5):
        reader = read(recording, b"".join(event.raw for event in events[:place]))
        assert not reader.ended and not reader.last


def test_an_overloaded_provider_can_be_replaced_until_a_block_begins() -> None:
    """It often says so right behind `message_start`, of which the client has seen nothing yet."""
    (recording,) = (one for one in STREAMS if "mid_stream_error" in one.features)
    events = Splitter().feed(recording.body)
    reader = read(recording, events[0].raw)
    assert not reader.begun
    reader = read(recording)
    assert reader.failed is not None
    assert (reader.failed.status, reader.failed.message) == (
        529,
        "The provider failed within its answer: Overloaded",
    )


@pytest.mark.parametrize("recording", STREAMS, ids=lambda one: one.id)
def test_a_stream_ended_early_is_whole_to_the_official_types(recording: Recording) -> None:
    """Wherever the gate ends it, the open block is closed and the end says max_tokens."""
    adapter: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
    events = Splitter().feed(recording.body)
    for place in range(1, len(events) - 1, 7):
        before = b"".join(event.raw for event in events[:place])
        written = Splitter().feed(before + read(recording, before).end_early())
        opened = 0
        for event in written[place:]:
            adapter.validate_json(event.data or b"")
        for event in written:
            kind = json.loads(event.data or b"{}")["type"]
            opened += (kind == "content_block_start") - (kind == "content_block_stop")
        assert opened == 0
        assert json.loads(written[-2].data or b"")["delta"]["stop_reason"] == "max_tokens"


@given(st.binary(max_size=200), st.sampled_from((None, b"error", b"message_start")))
@settings(max_examples=50)
def test_the_meter_never_raises(data: bytes, name: bytes | None) -> None:
    """An answer that cannot be read is still the client's: it passes, counted by its bytes."""
    reader = DIALECT.reader(call(stream=True), frozenset())
    assert reader.event(Event(b"data: " + data, data, name))
    reader.whole(data)
    assert reader.produced >= 0


@pytest.mark.parametrize(
    ("error", "status", "kind", "raised"),
    [
        (RequestInvalid("No"), 400, "invalid_request_error", anthropic.BadRequestError),
        (Unbounded("No"), 402, "billing_error", anthropic.APIStatusError),
        (UpstreamRefused("No", status=409), 409, "conflict_error", anthropic.ConflictError),
        (UpstreamTimeout("No", phase="first"), 504, "timeout_error", anthropic.APIStatusError),
        (GatewayError("No"), 500, "api_error", anthropic.InternalServerError),
        (
            UpstreamRefused(
                "No", status=529, body=b'{"error":{"type":"overloaded_error","message":"x"}}'
            ),
            529,
            "overloaded_error",
            anthropic.InternalServerError,
        ),
        (
            UpstreamRefused("No", status=429, body=b'{"error":{"type":"tokens"}}'),
            429,
            "rate_limit_error",
            anthropic.RateLimitError,
        ),
    ],
)
def test_errors_have_anthropics_words(
    error: GatewayError, status: int, kind: str, raised: type[Exception]
) -> None:
    """The status decides the class that its libraries raise; the type is one that they know."""
    assert error.status == status
    said = json.loads(DIALECT.write_error(error, "call-1"))
    assert said["type"] == "error" and said["request_id"] == "call-1"
    assert (said["error"]["type"], said["error"]["message"]) == (kind, "No")
    assert said["error"]["source"] == error.whose
    (event,) = Splitter().feed(DIALECT.error_event(error, "call-1"))
    assert event.name == b"error" and json.loads(event.data or b"") == said
    assert issubclass(raised, anthropic.APIStatusError)


@pytest.mark.parametrize(
    "recording", [one for one in RECORDED if one.status >= 400], ids=lambda one: one.id
)
def test_a_recorded_refusal_keeps_its_status_and_type(recording: Recording) -> None:
    """A client of the same dialect sees what it would have seen from the provider."""
    error = DIALECT.read_error(recording.status, recording.body)
    said = json.loads(DIALECT.write_error(error, "call-1"))
    own = json.loads(recording.body)["error"]
    assert (error.status, said["error"]["type"]) == (recording.status, own["type"])
    assert own["message"][:40] in error.message


def test_models_are_listed_in_anthropics_shape() -> None:
    """The official type takes each; there is one page, and none where there are no models."""
    said = json.loads(models(["claude", "local/qwen"]))
    assert [ModelInfo.model_validate(one).id for one in said["data"]] == ["claude", "local/qwen"]
    assert (said["first_id"], said["last_id"], said["has_more"]) == ("claude", "local/qwen", False)
    assert json.loads(models([])) == {
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
    }
