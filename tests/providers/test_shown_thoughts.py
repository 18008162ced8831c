"""What a model of another provider thought, as clients are shown it, and what they give back."""

import json
from typing import Any

import pytest
from translated import ANTHROPIC, RESPONSES, streamed

from tollway.providers.canon import Call
from tollway.providers.conversation import Text, Thinking
from tollway.providers.dialects.dialect import Facts
from tollway.providers.events import Answer, Choice
from tollway.providers.fold import unfold
from tollway.providers.sse import Splitter

THOUGHT = Thinking("Let me see.\n\nYes.", signature="c2lnbmVk", by=ANTHROPIC.name)
ANSWER = Answer((Choice((THOUGHT, Text("Done")), "end"),), id="msg_1", model="claude")


def call(reasoning: dict[str, Any] | None) -> Call:
    """Return a call of a client that asks for reasoning so."""
    said = {"model": "m", "input": "Hi"} | ({"reasoning": reasoning} if reasoning else {})
    return Call("chat", RESPONSES.name, "m", json.dumps(said).encode(), stream=True)


def item(reasoning: dict[str, Any] | None, answer: Answer = ANSWER) -> dict[str, Any]:
    """Return the item of what was thought, of a whole answer."""
    body = json.loads(RESPONSES.writer(call(reasoning)).whole(answer))
    found: dict[str, Any] = body["output"][0]
    assert found["type"] == "reasoning"
    return found


@pytest.mark.parametrize("name", ["summary", "generate_summary"])
def test_who_asks_for_a_summary_is_shown_the_thoughts_as_one(name: str) -> None:
    """Codex hides a text of reasoning, and the Vercel AI SDK passes over it."""
    shown = item({"effort": "high", name: "auto"})
    assert shown["summary"] == [{"type": "summary_text", "text": THOUGHT.text}]
    assert "content" not in shown
    writer = RESPONSES.writer(call({name: "auto"}))
    stream = b"".join(map(writer.event, unfold(ANSWER))) + writer.end()
    assert b"event: response.reasoning_summary_text.delta" in stream
    assert b"reasoning_text" not in stream.replace(b"reasoning_summary_text", b"")


@pytest.mark.parametrize("reasoning", [None, {"effort": "high"}, {"summary": "none"}])
def test_who_does_not_is_told_them_as_text(reasoning: dict[str, Any] | None) -> None:
    """As servers of open models tell theirs."""
    shown = item(reasoning)
    assert shown["content"] == [{"type": "reasoning_text", "text": THOUGHT.text}]
    assert shown["summary"] == []


def test_a_summary_goes_back_as_the_thought_that_was_signed() -> None:
    """Byte for byte: Anthropic refuses its signature with any other text."""
    turns = [
        {"role": "user", "content": "Hi"},
        item({"summary": "auto"}),
        {"role": "assistant", "content": "Done"},
        {"role": "user", "content": "And?"},
    ]
    said = {"model": "m", "input": turns}
    again = Call("chat", RESPONSES.name, "m", json.dumps(said).encode())
    written = ANTHROPIC.write_request(RESPONSES.read_request(again), Facts("claude"))
    block = json.loads(written.body)["messages"][1]["content"][0]
    assert block == {"type": "thinking", "thinking": THOUGHT.text, "signature": THOUGHT.signature}


UNSIGNED = Thinking("An open model's.")
OPEN = Answer((Choice((UNSIGNED, Text("Done")), "end"),), id="c1", model="qwen3")


@pytest.mark.parametrize("summary", [None, {"summary": "auto"}])
@pytest.mark.parametrize(("thought", "answer"), [(THOUGHT, ANSWER), (UNSIGNED, OPEN)])
def test_a_thought_survives_a_client_that_gives_back_its_proof_alone(
    thought: Thinking, answer: Answer, summary: dict[str, Any] | None
) -> None:
    """The Vercel AI SDK gives back no `content`, and no thought without a proof.

    Microsoft's Agent Framework ends where a thought before a call has none.
    """
    shown = item(summary, answer)
    assert shown["encrypted_content"]
    back = {"type": "reasoning", "id": shown["id"], "summary": shown["summary"]}
    back["encrypted_content"] = shown["encrypted_content"]
    said = {"model": "m", "input": [back, {"role": "user", "content": "And?"}]}
    read = RESPONSES.read_request(Call("chat", RESPONSES.name, "m", json.dumps(said).encode()))
    (found,) = read.messages[0].parts
    assert isinstance(found, Thinking)
    assert (found.text, found.signature, found.by) == (thought.text, thought.signature, thought.by)


def test_an_unsigned_thought_has_what_stands_for_a_signature_in_a_stream_of_messages() -> None:
    """The Vercel AI SDK leaves a thought without any out of what it gives back."""
    signatures = []
    for event in Splitter().feed(streamed(ANTHROPIC, list(unfold(OPEN)))):
        delta = json.loads(event.data or b"{}").get("delta", {})
        if delta.get("type") == "signature_delta":
            signatures.append(delta["signature"])
    assert len(signatures) == 1 and signatures[0]
    block = {"type": "thinking", "thinking": UNSIGNED.text, "signature": signatures[0]}
    turns = [{"role": "assistant", "content": [block]}, {"role": "user", "content": "And?"}]
    said = json.dumps({"model": "m", "max_tokens": 9, "messages": turns}).encode()
    read = ANTHROPIC.read_request(Call("chat", ANTHROPIC.name, "m", said))
    assert read.messages[0].parts == (UNSIGNED,)
