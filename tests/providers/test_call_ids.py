"""Each call of a tool, and each message, has an id of its own, whatever its provider names it."""

import json
from typing import Any

import pytest
from translated import ANTHROPIC, COHERE, GEMINI, OPENAI, RESPONSES, client_call, fold_of

from tollway.providers.conversation import Conversation, Message, Text, ToolCall, ToolResult
from tollway.providers.dialects.dialect import Asks, Facts
from tollway.providers.events import Answer, Start, TextDelta
from tollway.providers.sse import Event as Sse
from tollway.providers.sse import Splitter

BEFORE = ("call_0", "functions_ls_0_" + "f" * 8)


def conversation(*ids: str, by: str = "openai_chat") -> Conversation:
    """Return one in which calls of these ids were made."""
    turns = [Message("user", (Text("Hi"),))]
    for id_ in ids:
        turns.append(Message("assistant", (ToolCall(id_, "ls", "{}"),)))
        turns.append(Message("tool", (ToolResult(id_, (Text("ok"),)),)))
    return Conversation(by, "m", tuple(turns))


def chat(*ids: str) -> Any:
    """Return a whole chat completion that calls tools."""
    calls = [
        {"id": id_, "type": "function", "function": {"name": "ls", "arguments": "{}"}}
        for id_ in ids
    ]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    return {"id": "", "model": "m", "choices": [choice]}


def gemini(*ids: str) -> Any:
    """Return a whole answer of Google's that calls tools; one without its own id."""
    parts = [
        {"functionCall": {"name": "ls", "args": {}} | ({"id": id_} if id_ else {})} for id_ in ids
    ]
    content = {"role": "model", "parts": parts}
    return {"candidates": [{"content": content, "finishReason": "STOP"}]}


def response(*ids: str) -> Any:
    """Return a whole response that calls tools."""
    items = [
        {"type": "function_call", "call_id": id_, "name": "ls", "arguments": "{}"} for id_ in ids
    ]
    return {"id": "r", "status": "completed", "model": "m", "output": items}


def message(*ids: str) -> Any:
    """Return a whole message that calls tools."""
    blocks = [{"type": "tool_use", "id": id_, "name": "ls", "input": {}} for id_ in ids]
    return {"id": "m", "model": "m", "content": blocks, "stop_reason": "tool_use"}


def cohere(*ids: str) -> Any:
    """Return a whole answer of Cohere's that calls tools."""
    calls = chat(*ids)["choices"][0]["message"]["tool_calls"]
    return {"id": "", "message": {"tool_calls": calls}, "finish_reason": "TOOL_CALL"}


EVERY = [
    (OPENAI, chat),
    (GEMINI, gemini),
    (RESPONSES, response),
    (ANTHROPIC, message),
    (COHERE, cohere),
]


def ids_of(codec: Asks, said: Conversation, body: Any) -> list[str]:
    """Return the ids of an answer's calls, as a client is told them."""
    answer = codec.events(said, frozenset()).whole(json.dumps(body).encode())
    return [part.id for part in answer.parts if isinstance(part, ToolCall)]


@pytest.mark.parametrize(("codec", "made"), EVERY, ids=[codec.name for codec, _ in EVERY])
@pytest.mark.parametrize("ids", [("call_0", "call_0"), ("", ""), ("a", "")], ids=str)
def test_calls_of_one_answer_have_each_their_own(codec: Asks, made: Any, ids: Any) -> None:
    """Results find their calls by it; Anthropic refuses two that are the same."""
    found = ids_of(codec, conversation(), made(*ids))
    assert len(found) == len(set(found)) == 2
    assert all(found)
    assert not ids[0] or found[0] == ids[0]


@pytest.mark.parametrize(("codec", "made"), EVERY, ids=[codec.name for codec, _ in EVERY])
def test_an_id_of_an_earlier_turn_is_not_given_again(codec: Asks, made: Any) -> None:
    """Some servers count from 0 in every answer; to an agent it would be the earlier call."""
    first = ids_of(codec, conversation(), made("call_0"))
    second = ids_of(codec, conversation(*first), made("call_0"))
    assert first == ["call_0"] != second
    third = ids_of(codec, conversation(*first, *second), made("call_0"))
    assert len({*first, *second, *third}) == 3


def test_one_without_a_name_of_its_answer_is_another_in_each_turn() -> None:
    """Where nothing of the answer tells it apart, the turns before do."""
    first = ids_of(GEMINI, conversation(), gemini(""))
    second = ids_of(GEMINI, conversation(*first), gemini(""))
    assert first != second


def test_an_id_that_was_fitted_for_the_client_is_known_again() -> None:
    """Kimi's `functions.ls:0` is another one to Anthropic's clients, which give that back."""
    client = ANTHROPIC.name
    call = ToolCall("functions.ls:0", "ls", "{}")
    said = conversation("functions.ls:0", by=client)
    written = json.loads(ANTHROPIC.write_request(said, Facts("m")).body)["messages"]
    fitted = written[1]["content"][0]["id"]
    assert fitted != call.id
    (second,) = ids_of(OPENAI, conversation(fitted, by=client), chat("functions.ls:0"))
    assert second not in (fitted, call.id)


def streamed(*deltas: Any) -> list[ToolCall]:
    """Return the calls of a streamed chat completion whose deltas hold these."""
    reader = OPENAI.events(conversation(), frozenset())
    found = []
    for delta in deltas:
        choice = {"index": 0, "delta": {"tool_calls": [delta]}, "finish_reason": None}
        body = json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode()
        found += reader.event(Sse(b"", body))
    return [part for part in fold_of(found + reader.end()).parts if isinstance(part, ToolCall)]


def test_a_name_may_come_behind_its_id() -> None:
    """A call begins once it has both."""
    (call,) = streamed(
        {"index": 0, "id": "a", "function": {"name": "", "arguments": ""}},
        {"index": 0, "function": {"name": "ls", "arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ":1}"}},
    )
    assert call == ToolCall("a", "ls", '{"a":1}')


def test_a_delta_that_repeats_id_and_name_is_of_the_same_call() -> None:
    """Some servers name neither index nor "the rest"."""
    (call,) = streamed(
        {"id": "a", "function": {"name": "ls", "arguments": '{"a"'}},
        {"id": "a", "function": {"name": "ls", "arguments": ":1}"}},
    )
    assert call == ToolCall("a", "ls", '{"a":1}')


@pytest.mark.parametrize("id_", ["chatcmpl-7", ""])
def test_each_message_has_an_id_of_its_own(id_: str) -> None:
    """Ollama gives one of a thousand; Claude Code takes messages of one id for one turn."""
    ids = []
    for _ in range(2):
        writer = ANTHROPIC.writer(client_call(ANTHROPIC))
        said = writer.event(Start(id_, "m")) + writer.event(TextDelta("Hi"))
        head = next(iter(Splitter().feed(said)))
        ids.append(json.loads(head.data or b"")["message"]["id"])
        whole = ANTHROPIC.writer(client_call(ANTHROPIC, stream=False)).whole(Answer((), id=id_))
        ids.append(json.loads(whole)["id"])
    assert all(one.startswith("msg_") for one in ids)
    assert len({*ids}) == 4
