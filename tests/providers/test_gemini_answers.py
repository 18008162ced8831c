"""What Google says of why an answer stopped, and what proves its texts, in other dialects."""

import json
from typing import Any

import pytest
from translated import ANTHROPIC, GEMINI, OPENAI, RESPONSES, client_call, no_request

from tollway.providers.canon import Call
from tollway.providers.conversation import Image, Thinking
from tollway.providers.events import Answer
from tollway.providers.fold import fold
from tollway.providers.sse import Event


def answer(*parts: dict[str, Any], reason: str = "STOP") -> Answer:
    """Return what a whole answer says."""
    content = {"role": "model", "parts": list(parts)}
    body = {"candidates": [{"content": content, "index": 0, "finishReason": reason}]}
    return GEMINI.events(no_request(GEMINI), frozenset()).whole(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("reason", "chat", "messages", "responses"),
    [
        ("STOP", "stop", "end_turn", "completed"),
        ("MAX_TOKENS", "length", "max_tokens", "incomplete"),
        ("CONTINUATION", "length", "max_tokens", "incomplete"),
        ("SAFETY", "content_filter", "refusal", "incomplete"),
        ("RECITATION", "content_filter", "refusal", "incomplete"),
        ("ESCALATION", "content_filter", "refusal", "incomplete"),
        ("PUP_LIMITED_DISABLED", "content_filter", "refusal", "incomplete"),
        ("OTHER", "stop", "end_turn", "completed"),
    ],
)
def test_why_an_answer_stopped(reason: str, chat: str, messages: str, responses: str) -> None:
    """One that a filter or a limit cut short is not taken for a whole one."""
    said = answer({"text": "Hi"}, reason=reason)
    written = json.loads(OPENAI.writer(client_call(OPENAI)).whole(said))
    assert written["choices"][0]["finish_reason"] == chat
    assert json.loads(ANTHROPIC.writer(client_call(ANTHROPIC)).whole(said))["stop_reason"] == (
        messages
    )
    assert json.loads(RESPONSES.writer(client_call(RESPONSES)).whole(said))["status"] == responses


def test_what_proves_a_text_goes_to_clients_of_chat_completions_and_back() -> None:
    """A whole answer lost it in silence; a stream had it in `reasoning_details`."""
    said = answer({"text": "Hm", "thought": True}, {"text": "Hi", "thoughtSignature": "c2ln"})
    (choice,) = json.loads(OPENAI.writer(client_call(OPENAI)).whole(said))["choices"]
    message = choice["message"]
    assert (message["content"], message["reasoning_content"]) == ("Hi", "Hm")
    turns = [{"role": "user", "content": "Hi"}, message]
    body = json.dumps({"model": "m", "messages": turns}).encode()
    (_, again) = OPENAI.read_request(Call("chat", OPENAI.name, "m", body)).messages
    assert Thinking("", "c2ln", by="gemini") in again.parts


def test_a_picture_that_the_model_only_thought_of_is_none_of_the_answer() -> None:
    """Google's picture models draft before they draw; clients were shown drafts as pictures."""
    draft = {"inlineData": {"mimeType": "image/png", "data": "aGk="}, "thought": True}
    drawn = {"inlineData": {"mimeType": "image/png", "data": "b2s="}}
    body = {"candidates": [{"content": {"parts": [draft, drawn]}, "finishReason": "STOP"}]}
    reader = GEMINI.events(no_request(GEMINI), frozenset())
    (picture,) = reader.whole(json.dumps(body).encode()).parts
    assert isinstance(picture, Image) and picture.source.value == "b2s="
    assert reader.dropped == {"thought.inlineData"}


@pytest.mark.parametrize(
    "body",
    [
        {"promptFeedback": {"blockReason": "SAFETY", "blockReasonMessage": "No such talk here"}},
        {"candidates": [{"finishReason": "SAFETY", "finishMessage": "No such talk here"}]},
    ],
)
def test_why_a_filter_ended_it_is_told_as_a_refusal(body: dict[str, Any]) -> None:
    """Google's words for it went nowhere: an answer of nothing had no reason, streamed or whole."""
    said = json.dumps(body).encode()
    whole = GEMINI.events(no_request(GEMINI), frozenset()).whole(said)
    reader = GEMINI.events(no_request(GEMINI), frozenset())
    streamed = fold([*reader.event(Event(b"", said)), *reader.end()])
    assert whole == streamed
    (choice,) = json.loads(OPENAI.writer(client_call(OPENAI)).whole(whole))["choices"]
    assert choice["message"]["refusal"] == "No such talk here"
    assert choice["finish_reason"] == "content_filter"
    message = json.loads(ANTHROPIC.writer(client_call(ANTHROPIC)).whole(whole))
    assert message["content"] == [{"type": "text", "text": "No such talk here"}]
    assert message["stop_reason"] == "refusal"
