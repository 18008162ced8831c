"""The reader of answers: whatever comes, it does not raise, and it counts what it saw."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from translated import OPENAI

from tollway.providers.canon import Call, Endpoint, Usage
from tollway.providers.dialects import openai_quirks
from tollway.providers.dialects.dialect import AnswerReader
from tollway.providers.dialects.openai_chat import DIALECT
from tollway.providers.dialects.openai_usage import counts, disjoint
from tollway.providers.events import Failed
from tollway.providers.sse import Event, Splitter

SOME = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        *("choices", "delta", "message", "content", "text", "tool_calls", "function", "name"),
        *("arguments", "id", "index", "finish_reason", "reasoning", "data", "object", "error"),
        *("code", "usage", "x_groq", "prompt_tokens", "completion_tokens", "total_tokens"),
        *("prompt_tokens_details", "cached_tokens", "completion_tokens_details"),
        "reasoning_tokens",
    ]
)
ANSWERS = st.recursive(
    SOME, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner), max_leaves=30
)


def reader(
    *words: str, wants_usage: bool = False, choices: int = 1, endpoint: Endpoint = "chat"
) -> AnswerReader:
    """Return a reader for a streamed call."""
    call = Call(
        endpoint, "openai_chat", "m", b"", stream=True, wants_usage=wants_usage, choices=choices
    )
    return DIALECT.reader(call, frozenset(words))


def feed(to: AnswerReader, *events: Any) -> list[bool]:
    """Give a reader events of JSON, or of bytes as they are; return what would pass."""
    datas = (event if isinstance(event, bytes) else json.dumps(event).encode() for event in events)
    return [to.event(Event(b"data: " + data + b"\n\n", data)) for data in datas]


def says(text: str = "", *, index: int = 0, finish: str | None = None) -> dict[str, Any]:
    """Return a chunk of one choice."""
    delta = {"content": text}
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


def uses(prompt: Any, completion: Any, **more: Any) -> dict[str, Any]:
    """Return a usage object."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, **more}


@given(st.binary(), st.booleans())
def test_any_bytes_are_read_without_a_fault(stream: bytes, whole: bool) -> None:
    """A provider may send anything, and what it sends is still the client's."""
    to = reader()
    if whole:
        to.whole(stream)
    else:
        assert all([to.event(event) for event in Splitter().feed(stream + b"\n\n")])
    assert to.usage is None


@given(st.lists(ANSWERS, max_size=4), st.booleans(), st.integers(1, 3))
def test_any_json_is_read_without_a_fault(answers: list[Any], per: bool, choices: int) -> None:
    """Right names with wrong values under them are the worst of it."""
    to = reader(*([openai_quirks.USAGE_PER_CHOICE] if per else []), choices=choices)
    for answer in answers:
        try:
            data = json.dumps(answer).encode()
        except ValueError:
            continue
        to.event(Event(data, data, b"error" if per else None))
        to.whole(data)
        if to.usage is not None:
            assert all(tokens >= 0 for tokens in (to.usage.input_total, to.usage.output_total))
    assert to.produced >= 0


@given(ANSWERS)
def test_usage_of_any_shape_gives_classes_of_no_less_than_nothing(report: Any) -> None:
    """No report makes a class negative or too large for the ledger."""
    usage = disjoint(counts(report))
    if usage is not None:
        for name in Usage.__struct_fields__:
            assert 0 <= int(getattr(usage, name)) <= 2**43


TOKENS = st.integers(0, 10**6)


@given(TOKENS, TOKENS, st.data())
def test_parts_within_a_whole_add_up_to_it(prompt: int, output: int, data: st.DataObject) -> None:
    """No token is billed twice or not at all."""
    cached = data.draw(st.integers(0, prompt))
    written = data.draw(st.integers(0, prompt - cached))
    heard = data.draw(st.integers(0, prompt - cached - written))
    thought = data.draw(st.integers(0, output))
    spoken = data.draw(st.integers(0, output - thought))
    usage = disjoint(
        {
            **{"prompt": prompt, "completion": output, "total": prompt + output, "cached": cached},
            **{"written": written, "heard": heard, "reasoning": thought, "spoken": spoken},
        }
    )
    assert usage is not None
    assert (usage.input_total, usage.output_total) == (prompt, output)
    assert (usage.cache_read, usage.cache_write, usage.audio_input) == (cached, written, heard)
    assert (usage.reasoning, usage.audio_output) == (thought, spoken)


@given(st.integers(1, 10**6), TOKENS, st.integers(1, 10**6))
def test_reasoning_beside_the_completion_is_told_by_the_total(
    prompt: int, output: int, thought: int
) -> None:
    """The total is then the sum of all three: the way of xAI."""
    total = prompt + output + thought
    said = {"prompt": prompt, "completion": output, "reasoning": thought, "total": total}
    assert disjoint(said) == Usage(input=prompt, output=output, reasoning=thought)


def test_a_part_larger_than_its_whole_is_beside_it() -> None:
    """Vercel's report on Gemini: 43 of 14, and the price it names is that of 57."""
    said = {"prompt": 40, "completion": 14, "reasoning": 43, "total": 54}
    assert disjoint(said) == Usage(input=40, output=14, reasoning=43)
    assert disjoint(said, within=True) == Usage(input=40, reasoning=14)
    beside = {"prompt": 10, "completion": 5, "cached": 90}
    assert disjoint(beside) == Usage(input=10, cache_read=90, output=5)


def test_a_cache_beside_the_prompt_is_told_by_the_total() -> None:
    """Anthropic's way, which some proxies keep: input without what came from the cache."""
    report = uses(100, 5, total_tokens=185, cache_read_input_tokens=80)
    assert disjoint(counts(report)) == Usage(input=100, cache_read=80, output=5)
    within = uses(100, 5, total_tokens=105, cache_read_input_tokens=80)
    assert disjoint(counts(within)) == Usage(input=20, cache_read=80, output=5)


def test_what_searches_read_is_input() -> None:
    """Perplexity's deep research: citation tokens are priced as input, beside the prompt."""
    report = uses(33, 7163, total_tokens=7196, citation_tokens=20016, reasoning_tokens=73997)
    assert disjoint(counts(report)) == Usage(input=20049, output=7163, reasoning=73997)


@pytest.mark.parametrize(
    "report", [{}, uses(5, None), {"completion_tokens": 5}, uses(-1, 5), uses("five", 5), [5]]
)
def test_half_a_report_is_none(report: Any) -> None:
    """Databricks says null until it knows: taken for 0, a cut stream would cost nothing."""
    assert disjoint(counts(report)) is None


def test_the_last_report_wins_class_by_class() -> None:
    """Reports are cumulative; a class that the last does not name keeps its count."""
    to = reader()
    first = uses(10, 1, prompt_tokens_details={"cached_tokens": 4})
    feed(to, {**says("a"), "usage": first}, {**says("b"), "usage": uses(10, 2)})
    assert to.usage == Usage(input=6, cache_read=4, output=2)
    assert json.loads(to.raw_usage) == uses(10, 2)


def test_zero_is_a_report() -> None:
    """It is not replaced by a guess here; the gate decides what it is worth."""
    to = reader()
    feed(to, {"choices": [], "usage": uses(0, 0)})
    assert to.usage == Usage()


def test_groq_reports_under_its_own_name_where_it_was_not_asked() -> None:
    """Without `include_usage` there is `x_groq.usage` and nothing else."""
    to = reader()
    assert feed(to, {**says(finish="stop"), "x_groq": {"usage": uses(5, 3)}}) == [True]
    assert to.usage == Usage(input=5, output=3)


def test_a_stream_that_groq_stopped_early_failed() -> None:
    """It says so beside choices that say nothing; the cut answer was taken for a whole one."""
    to = reader()
    stopped = {"choices": [], "x_groq": {"id": "req_1", "error": "over capacity"}}
    feed(to, says("Hel"), stopped)
    assert to.failed is not None
    assert "over capacity" in to.failed.message
    said = OPENAI.read_request(Call("chat", "openai_chat", "m", b'{"model":"m","messages":[]}'))
    event = Event(b"", json.dumps(stopped).encode())
    (failed,) = OPENAI.events(said, frozenset()).event(event)
    assert isinstance(failed, Failed)
    assert (failed.status, failed.message) == (502, to.failed.message)


def test_each_choice_of_a_llama_server_has_its_own_report() -> None:
    """In a stream they add up; a whole answer's is that of its first choice alone."""
    to = reader(openai_quirks.USAGE_PER_CHOICE, choices=2)
    report = {"choices": [], "usage": uses(28, 8, total_tokens=36)}
    feed(to, says(finish="stop"), report, says(index=1, finish="stop"), report)
    assert to.usage == Usage(input=28, output=16)
    assert to.ended
    to = reader(openai_quirks.USAGE_PER_CHOICE, choices=2)
    to.whole(json.dumps({"choices": [{}, {}], "usage": uses(28, 8)}).encode())
    assert (to.usage, to.begun) == (None, True)
    assert json.loads(to.raw_usage) == uses(28, 8)


def test_only_the_usage_chunk_that_we_asked_for_is_kept_back() -> None:
    """Not one with choices, not one that tells something else, not one from who tells unasked."""
    extra = {"choices": [], "usage": uses(1, 1)}
    others = [
        {**says("a"), "usage": uses(1, 1)},
        {"choices": [], "usage": None},
        {"choices": [], "prompt_filter_results": []},
        {"choices": [], "usage": uses(1, 1), "error": {"message": "no"}},
    ]
    assert feed(reader(), extra) == [False]
    assert feed(reader(), *others) == [True] * 4
    assert feed(reader(wants_usage=True), extra) == [True]
    assert feed(reader(openai_quirks.UNASKED_USAGE), extra) == [True]


def test_an_answer_begins_with_its_first_valid_event() -> None:
    """Until then another target may be tried, unseen."""
    for nothing in (b"<html>", b"{", b"[]", b"5", {"foo": 1}, {"error": {"message": "no"}}):
        to = reader()
        feed(to, nothing)
        assert not to.begun, nothing
    valid: Any
    for valid in (says(), {"choices": []}, {"usage": uses(1, 1)}, b"[DONE]", b" [DONE]"):
        to = reader()
        feed(to, valid)
        assert to.begun, valid
    to = reader()
    to.event(Event(b": keep-alive\n\n"))
    assert not to.begun


def test_an_answer_ends_with_done_or_when_every_choice_has() -> None:
    """Cerebras and Perplexity send no [DONE]; with `n`, one choice's end is not the answer's."""
    to = reader(choices=2)
    feed(to, says("a"), says("b", index=1), says(finish="stop"))
    assert not to.ended
    feed(to, says(index=1, finish="length"))
    assert to.ended
    to = reader()
    feed(to, says("a"), b"[DONE]")
    assert to.ended


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ({"error": {"message": "busy", "code": 503}}, 503),
        ({"error": {"message": "busy", "status_code": 429}, "choices": None}, 429),
        ({"error": {"message": "your key is busy", "code": 401}}, 502),
        ({"error": "busy"}, 502),
        ({"object": "error", "message": "busy", "code": 400}, 400),
    ],
)
def test_an_error_within_an_answer_is_seen(event: Any, status: int) -> None:
    """It has the status that it names, but not that of the gateway's own credential."""
    for whole in (False, True):
        to = reader()
        if whole:
            to.whole(json.dumps(event).encode())
        else:
            assert feed(to, event, b"[DONE]") == [True, True]
        assert to.failed is not None
        assert to.failed.status == status
        assert "busy" in to.failed.message
        assert not (to.begun or to.ended)


def test_an_event_named_error_is_one_whatever_it_holds() -> None:
    """Some write no JSON in it."""
    to = reader()
    assert to.event(Event(b"event: error\ndata: overloaded\n\n", b"overloaded", b"error"))
    assert to.failed is not None
    assert "overloaded" in to.failed.message


@given(st.lists(st.text(), max_size=5))
def test_all_that_is_visible_is_counted_in_bytes(texts: list[str]) -> None:
    """Content, reasoning, refusals, names and arguments of tools, of every choice."""
    size = sum(len(text.encode()) for text in texts)
    call = {"index": 0, "id": "1", "function": {"name": "f", "arguments": ""}}
    for shape in (
        lambda text: {"content": text},
        lambda text: {"reasoning_content": text},
        lambda text: {"reasoning": text, "reasoning_details": [{"text": text}]},
        lambda text: {"reasoning_details": [{"type": "reasoning.text", "text": text}]},
        lambda text: {"content": [{"type": "thinking", "thinking": [{"text": text}]}]},
        lambda text: {"refusal": text},
        lambda text: {"tool_calls": [call, {"index": 0, "function": {"arguments": text}}]},
        lambda text: {"function_call": {"arguments": text}},
    ):
        to = reader()
        feed(to, *({"choices": [{"index": 0, "delta": shape(text)}]} for text in texts))
        assert size <= to.produced <= 2 * size + 60 * len(texts)
        to = reader()
        to.whole(json.dumps({"choices": [{"message": shape(text)} for text in texts]}).encode())
        assert size <= to.produced <= 2 * size + 60 * len(texts)
    to = reader(endpoint="completions")
    feed(to, *({"choices": [{"text": text}]} for text in texts))
    assert to.produced == size


def test_what_cannot_be_read_is_counted_whole() -> None:
    """Garbage after tokens is billed as an upper bound, never as nothing."""
    to = reader()
    feed(to, says("four"), b"<html>garbage")
    assert to.produced == 4 + 13
    to.event(Event(b"x" * 100, cut=True))
    assert to.produced == 117


def test_a_chunk_of_an_unusual_shape_is_still_an_answer() -> None:
    """It passes and counts: a stricter reader than the client's would break it."""
    to = reader()
    assert feed(to, {"choices": [{"delta": "text"}]}) == [True]
    assert to.begun
    assert to.produced > 4


def test_a_whole_answer_is_read_like_a_stream() -> None:
    """Also where a stream was asked for."""
    to = reader()
    message = {"role": "assistant", "content": "hello"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    to.whole(json.dumps({"id": "chatcmpl-1", "choices": [choice], "usage": uses(3, 2)}).encode())
    assert (to.begun, to.ended, to.usage) == (True, True, Usage(input=3, output=2))
    assert (to.produced, to.upstream_id) == (5, "chatcmpl-1")


def test_embeddings_use_input_alone() -> None:
    """Voyage reports a total and nothing else."""
    for used in (
        {"prompt_tokens": 4, "total_tokens": 4},
        {"total_tokens": 4},
        {"prompt_tokens": 4},
    ):
        to = reader(endpoint="embeddings")
        to.whole(json.dumps({"data": [{"embedding": [0.5]}], "usage": used}).encode())
        assert (to.usage, to.begun, to.ended) == (Usage(input=4), True, True)
    to = reader(endpoint="embeddings")
    to.whole(b'{"object": "list", "data": null}')
    assert not to.begun
