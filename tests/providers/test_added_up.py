"""Streams as OpenAI's library adds them up: what it makes of them is the whole answer."""

import json
from typing import Any

from openai._models import construct_type
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk
from translated import ANTHROPIC, OPENAI, RESPONSES, client_call, events, no_request

from tollway.providers.canon import Usage
from tollway.providers.conversation import Citation, Image, Refusal, Source, Text
from tollway.providers.dialects.openai_chat_reasoning import thinking_of
from tollway.providers.events import (
    Answer,
    Choice,
    Event,
    Logprob,
    PartWhole,
    Start,
    Stopped,
    TextDelta,
    UsageReport,
)
from tollway.providers.fold import fold, unfold

HEAD = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
USED = {"input_tokens": 5, "output_tokens": 7}


def cited(url: str) -> dict[str, Any]:
    """Return a source as Anthropic names it."""
    kind = "web_search_result_location"
    return {"type": kind, "url": url, "title": "T", "cited_text": "x", "encrypted_index": "E"}


# A text of two sources, which come before it as they do from Anthropic, then a call.
CITED: dict[str, Any] = {
    **HEAD,
    "content": [
        {"type": "text", "text": "See: "},
        {"type": "text", "text": "tea", "citations": [cited("https://a"), cited("https://b")]},
        {"type": "tool_use", "id": "toolu_1", "name": "ls", "input": {}},
    ],
    "stop_reason": "tool_use",
    "usage": USED,
}


def sse(*said: dict[str, Any]) -> bytes:
    """Return events as a stream, named as their types are."""
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (one["type"].encode(), json.dumps(one).encode())
        for one in said
    )


def anthropic(message: dict[str, Any]) -> bytes:
    """Return a message as Anthropic streams it."""
    said: list[dict[str, Any]] = [{"type": "message_start", "message": {**HEAD, "usage": USED}}]
    for index, block in enumerate(message["content"]):
        at = {"index": index}
        first = {**block, "text": "", "citations": []} if block["type"] == "text" else block
        said.append({"type": "content_block_start", **at, "content_block": first})
        deltas = [{"type": "citations_delta", "citation": c} for c in block.get("citations", ())]
        deltas += [{"type": "text_delta", "text": t} for t in block.get("text", "")]
        said += [{"type": "content_block_delta", **at, "delta": delta} for delta in deltas]
        said.append({"type": "content_block_stop", **at})
    stop = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    said.append({"type": "message_delta", "delta": stop, "usage": USED})
    return sse(*said, {"type": "message_stop"})


def added_up(found: list[Event]) -> dict[str, Any]:
    """Return the message that OpenAI's library makes of a stream."""
    writer = OPENAI.writer(client_call(OPENAI))
    stream = b"".join(map(writer.event, found)) + writer.end()
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for line in stream.decode().split("\n\n"):
        if line.startswith("data: {"):
            chunk: Any = construct_type(type_=ChatCompletionChunk, value=json.loads(line[6:]))
            state.handle_chunk(chunk)
    made: dict[str, Any] = state.current_completion_snapshot.to_dict()
    message: dict[str, Any] = made["choices"][0]["message"]
    return message


def test_two_sources_of_a_stream_are_where_they_are_in_the_whole() -> None:
    """OpenAI's library raised at the second, and each stood at a place of no length."""
    body = json.dumps(CITED).encode()
    answer = ANTHROPIC.events(no_request(ANTHROPIC), frozenset()).whole(body)
    whole = json.loads(OPENAI.writer(client_call(OPENAI, stream=False)).whole(answer))
    notes = whole["choices"][0]["message"]["annotations"]
    assert [(n["url_citation"]["start_index"], n["url_citation"]["end_index"]) for n in notes] == [
        (5, 8),
        (5, 8),
    ]
    found = events(ANTHROPIC, no_request(ANTHROPIC), frozenset(), anthropic(CITED))
    streamed = added_up(found)["annotations"]
    assert [note.pop("index") for note in streamed] == [0, 1]
    assert streamed == notes


def test_signed_thoughts_of_a_stream_go_back_as_they_came() -> None:
    """It made one of a summary and of what is encrypted beside it, with the id written twice."""
    thoughts = [
        {
            "type": "reasoning",
            "id": f"rs_{number}",
            "summary": [{"type": "summary_text", "text": "Hm"}],
            "encrypted_content": f"secret{number}",
        }
        for number in range(2)
    ]
    response = {"id": "resp_1", "model": "m", "status": "completed", "output": thoughts}
    reader = RESPONSES.events(no_request(RESPONSES), frozenset())
    answer = reader.whole(json.dumps(response).encode())
    stream = sse(
        {"type": "response.created", "response": {**response, "output": []}},
        *(
            {"type": "response.output_item.done", "output_index": place, "item": item}
            for place, item in enumerate(thoughts)
        ),
        {"type": "response.completed", "response": response},
    )
    message = added_up(events(RESPONSES, no_request(RESPONSES), frozenset(), stream))
    assert [one["index"] for one in message["reasoning_details"]] == [0, 1, 2, 3]
    back = list(thinking_of(message["reasoning_content"], message["reasoning_details"]))
    assert [(one.encrypted, one.id) for one in back if one.encrypted] == [
        ("secret0", "rs_0"),
        ("secret1", "rs_1"),
    ]
    whole = json.loads(OPENAI.writer(client_call(OPENAI, stream=False)).whole(answer))
    assert whole["choices"][0]["message"]["reasoning_details"] == message["reasoning_details"]


def test_two_pictures_of_a_stream_are_two() -> None:
    """The library raised there too."""
    picture = Image(Source("base64", "aGk=", "image/png"))
    found: list[Event] = [Start(), PartWhole(picture), PartWhole(picture), Stopped("end")]
    assert [one["index"] for one in added_up(found)["images"]] == [0, 1]


def test_a_whole_message_is_in_the_order_of_its_stream() -> None:
    """Sources and a refusal stood behind the calls: a text of its own, and of no words."""
    call: dict[str, Any] = {
        "id": "a",
        "type": "function",
        "function": {"name": "ls", "arguments": "{}"},
    }
    note = {"type": "url_citation", "url_citation": {"url": "https://a", "title": "A"}}
    message = {"content": "Tea", "refusal": "No", "annotations": [note], "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    body = json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode()
    answer = OPENAI.events(no_request(OPENAI), frozenset()).whole(body)
    kinds = [type(part).__name__ for part in answer.parts]
    assert kinds[-1] == "ToolCall"
    assert kinds.count("Text") == 1


def test_a_signature_alone_is_no_thought_of_no_words() -> None:
    """Claude hides its thoughts where it is asked to: a whole answer held an empty one."""
    block = {"type": "thinking", "thinking": "", "signature": "sig"}
    body = {**HEAD, "stop_reason": "end_turn", "usage": USED, "content": [block]}
    answer = ANTHROPIC.events(no_request(ANTHROPIC), frozenset()).whole(json.dumps(body).encode())
    made = json.loads(RESPONSES.writer(client_call(RESPONSES, stream=False)).whole(answer))
    (item,) = made["output"]
    assert item["encrypted_content"].endswith("sig")
    assert not item.get("content")


def test_how_likely_a_whole_answer_s_tokens_were_is_told() -> None:
    """Behind the end of their text there was no place for them in Responses, and no word."""
    tokens = tuple(Logprob(text, -0.5) for text in ("Te", "a", "!"))
    no = (Logprob("No", -0.1),)
    choice = Choice((Text("Tea"), Text("!"), Refusal("No")), "end", "", tokens, no)
    answer = Answer((choice,), id="c", model="m")
    assert fold(unfold(answer)) == answer
    writer = RESPONSES.writer(client_call(RESPONSES, stream=False))
    (item,) = json.loads(writer.whole(answer))["output"]
    said = [[one["token"] for one in part.get("logprobs", ())] for part in item["content"]]
    assert said == [["Te", "a"], ["!"], []]
    assert writer.dropped == {"logprobs"}  # those of the refusal


def test_a_text_of_no_words_is_no_message() -> None:
    """Gemini ends some streams with one; a stream of Responses had a message more than a whole."""
    writer = RESPONSES.writer(client_call(RESPONSES))
    found = writer.event(Start("c", "m")) + writer.event(TextDelta("")) + writer.end()
    assert b"output_item" not in found


def test_what_is_lost_of_a_source_is_named_once_in_either_way() -> None:
    """A source that is left out has no place that is lost besides."""
    source = Citation(start=0, end=1, by="cohere", payload=b"{}")
    answer = Answer((Choice((Text("Tea", (source,)),), "end"),), id="c", model="m")
    whole = ANTHROPIC.writer(client_call(ANTHROPIC, stream=False))
    whole.whole(answer)
    stream = ANTHROPIC.writer(client_call(ANTHROPIC))
    for event in unfold(answer):
        stream.event(event)
    assert whole.dropped == stream.dropped == {"citations"}


def test_what_is_not_known_of_a_cache_is_not_said_to_be_nothing() -> None:
    """A stream's head said that none was written, and its end only how much."""
    writer = ANTHROPIC.writer(client_call(ANTHROPIC))
    events_: list[Event] = [Start("c", "m"), TextDelta("Tea"), Stopped("end")]
    used = UsageReport(Usage(input=1, cache_write=1000, output=2))
    late = b"".join(map(writer.event, [*events_, used])) + writer.end()
    assert b'cache_creation":' not in late.partition(b"\n\n")[0]
    assert b'"cache_creation_input_tokens":1000' in late
    writer = ANTHROPIC.writer(client_call(ANTHROPIC))
    early = b"".join(map(writer.event, [used, *events_]))
    assert b'"ephemeral_5m_input_tokens":1000' in early.partition(b"\n\n")[0]
