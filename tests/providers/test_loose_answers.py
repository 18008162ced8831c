"""Answers that are not quite of their dialect, or hold more than text, lose nothing unnamed."""

import json
from typing import Any

import pytest
from translated import ANTHROPIC, GEMINI, OPENAI, client_call, fold_of, no_request

from tollway.providers.canon import Call, Usage
from tollway.providers.conversation import Audio, Image, Opaque, Part, Source, Text, ToolCall
from tollway.providers.dialects import gemini_read
from tollway.providers.dialects.anthropic_usage import counts, disjoint
from tollway.providers.dialects.dialect import Asks
from tollway.providers.errors import UpstreamBroke
from tollway.providers.events import Answer, Choice, PartWhole, Start
from tollway.providers.sse import Event as Sse

URL = "data:image/png;base64,aGk="
PICTURE = Image(Source("base64", "aGk=", "image/png"))


def whole(codec: Asks, body: Any) -> Answer:
    """Return what a whole answer says."""
    return codec.events(no_request(codec), frozenset()).whole(json.dumps(body).encode())


def chat(message: Any, **more: Any) -> Any:
    """Return a whole chat completion."""
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "c", "model": "m", "choices": [choice]} | more


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        (
            {"content": "A", "images": [{"type": "image_url", "image_url": {"url": URL}}]},
            (Text("A"), PICTURE),
        ),
        (
            {"content": [{"type": "text", "text": "A"}, {"type": "image_url", "image_url": URL}]},
            (Text("A"), PICTURE),
        ),
        (
            {"content": [{"type": "reference", "reference_ids": [1]}]},
            (Opaque(OPENAI.name, b'{"type":"reference","reference_ids":[1]}', "reference"),),
        ),
    ],
    ids=["OpenRouter's pictures", "Mistral's", "Mistral's references"],
)
def test_what_is_no_text_is_a_part(message: Any, parts: tuple[Part, ...]) -> None:
    """It was lost without a word; a client that cannot show it is told by its name."""
    answer = whole(OPENAI, chat(message))
    assert answer.parts == parts
    writer = ANTHROPIC.writer(client_call(ANTHROPIC, stream=False))
    writer.whole(answer)
    assert len(writer.dropped) == 1


def test_a_picture_reaches_a_chat_client_where_openrouter_puts_it() -> None:
    """Whole and in a stream; it was dropped."""
    there = [{"type": "image_url", "image_url": {"url": URL}}]
    writer = OPENAI.writer(client_call(OPENAI, stream=False))
    body = json.loads(writer.whole(Answer((Choice((Text("A"), PICTURE), "end"),))))
    assert body["choices"][0]["message"]["images"] == there
    writer = OPENAI.writer(client_call(OPENAI))
    writer.event(Start("c", "m"))
    chunk = writer.event(PartWhole(PICTURE)).removeprefix(b"data: ")
    assert json.loads(chunk)["choices"][0]["delta"]["images"] == [{"index": 0, **there[0]}]
    assert not writer.dropped


@pytest.mark.parametrize(
    "loose",
    [
        chat({"content": "A"}, id=17),
        chat({"content": "A"}, created="1"),
        chat({"content": "A", "refusal": False}),
        chat({"content": "A", "reasoning_content": []}),
        chat({"content": "A", "tool_calls": {}}),
        {"id": "c", "choices": [chat({"content": "A"})["choices"][0] | {"index": "0"}]},
        {"id": "c", "choices": [chat({"content": "A"})["choices"][0] | {"finish_reason": 0}]},
        {
            "id": "c",
            "choices": [
                chat({"content": "A"})["choices"][0]
                | {"logprobs": {"content": [{"token": "A", "logprob": None}]}}
            ],
        },
    ],
    ids=["id", "created", "refusal", "reasoning", "calls", "index", "reason", "logprob"],
)
def test_a_type_that_openai_would_not_send_breaks_no_answer(loose: Any) -> None:
    """Libraries take all of these as they come."""
    assert whole(OPENAI, loose).parts == (Text("A"),)


def test_calls_with_numbers_for_ids_and_places_are_calls() -> None:
    """In a stream, whose deltas must still find their call."""
    reader = OPENAI.events(no_request(OPENAI), frozenset())
    found = []
    for call in (
        {"index": "0", "id": 7, "function": {"name": "ls", "arguments": '{"a"'}},
        {"index": "0", "function": {"arguments": ":1}"}},
    ):
        choice = {"index": 0, "delta": {"tool_calls": [call]}}
        found += reader.event(Sse(b"", json.dumps({"id": "c", "choices": [choice]}).encode()))
    assert fold_of(found + reader.end()).parts == (ToolCall("7", "ls", '{"a":1}'),)


def test_garbage_is_still_none() -> None:
    """What holds no choices is no answer."""
    with pytest.raises(UpstreamBroke):
        whole(OPENAI, {"id": 1, "choices": "many"})


def test_tokens_may_be_told_as_text() -> None:
    """A bill of nothing is worse than a number in quotes."""
    used = {"prompt_tokens": "7", "completion_tokens": "3"}
    assert whole(OPENAI, chat({"content": "A"}, usage=used)).usage == Usage(input=7, output=3)


@pytest.mark.parametrize("candidates", [{}, {"candidates": []}, {"candidates": None}])
def test_a_prompt_that_google_blocks_is_told_as_blocked(candidates: dict[str, Any]) -> None:
    """With an empty list it was a whole answer of nothing."""
    body = candidates | {
        "promptFeedback": {"blockReason": "SAFETY"},
        "usageMetadata": {"promptTokenCount": 3},
    }
    assert whole(GEMINI, body).stop == "filtered"
    meter = gemini_read.Reader(Call("chat", GEMINI.name, "m", b""), frozenset())
    meter.whole(json.dumps(body).encode())
    assert meter.ended and meter.usage == Usage(input=3)


def test_a_picture_by_its_address_is_one_for_google_s_clients() -> None:
    """It stood where base64 stands, on which Google's own library fails."""
    body = chat({"content": [{"type": "image_url", "image_url": "https://a.example/b.png"}]})
    writer = GEMINI.writer(client_call(GEMINI, stream=False))
    (candidate,) = json.loads(writer.whole(whole(OPENAI, body)))["candidates"]
    expected = {"fileData": {"mimeType": "image/png", "fileUri": "https://a.example/b.png"}}
    assert candidate["content"]["parts"] == [expected]
    writer.whole(Answer((Choice((Image(Source("id", "file-1")),), "end"),)))
    assert writer.dropped == {"image"}


def test_a_sound_of_googles_is_no_picture() -> None:
    """It is named as what it is."""
    part = {"inlineData": {"mimeType": "audio/wav", "data": "aGk="}}
    body = {"candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}]}
    assert whole(GEMINI, body).parts == (Audio(Source("base64", "aGk=", "audio/wav")),)


def test_a_signature_alone_is_carried_whole_as_in_a_stream() -> None:
    """Gemini gives one behind its last words; an empty text block would be refused later."""
    signed = Text("", signature="c2ln", by=GEMINI.name)
    writer = ANTHROPIC.writer(client_call(ANTHROPIC, stream=False))
    body = json.loads(writer.whole(Answer((Choice((Text("A"), signed), "end"),))))
    assert [block["type"] for block in body["content"]] == ["text", "thinking"]
    assert body["content"][1]["signature"].endswith("c2ln")


def test_advice_is_billed_beside_the_totals_and_marked() -> None:
    """Anthropic's advisor is another model at another price: its tokens count, as an estimate."""
    advice = {"type": "advisor_message", "model": "claude-opus-5", "input_tokens": 800}
    report = {
        "input_tokens": 10,
        "output_tokens": 5,
        "iterations": [
            {"type": "message", "input_tokens": 10, "output_tokens": 5},
            advice | {"output_tokens": 500, "cache_read_input_tokens": 7},
        ],
    }
    expected = Usage(input=810, output=505, cache_read=7, estimated=True)
    assert disjoint(counts(report)) == expected


@pytest.mark.parametrize("stream", [False, True])
def test_what_groq_did_by_itself_is_named(stream: bool) -> None:
    """Its compound models search and run code, and clients of other APIs see the answer alone."""
    ran = {"index": 0, "type": "search", "arguments": "{}", "output": "Tea", "search_results": {}}
    reader = OPENAI.events(no_request(OPENAI), frozenset())
    body = chat({"role": "assistant", "content": "Tea", "executed_tools": [ran]})
    if stream:
        body["choices"][0]["delta"] = body["choices"][0].pop("message")
        answer = fold_of(reader.event(Sse(b"", json.dumps(body).encode())))
    else:
        answer = reader.whole(json.dumps(body).encode())
    assert (answer.parts, reader.dropped) == ((Text("Tea"),), {"executed_tools"})
