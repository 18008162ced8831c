"""A key under which a prompt is to be cached, at providers that cache what is marked."""

import json
from typing import Any

import msgspec
from translated import ANTHROPIC, OPENAI

from tollway.providers.cache_marks import marked
from tollway.providers.conversation import Conversation, Image, Message, Source, Text, ToolResult
from tollway.providers.dialects.bedrock_ask import write_request as to_bedrock
from tollway.providers.dialects.dialect import Facts

PICTURE = Image(Source("base64", "iVBOR", "image/png"))
MARK = {"type": "ephemeral"}
CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"


def said(*messages: Message, **fields: Any) -> Conversation:
    """Return a conversation that names a key."""
    return Conversation(by=OPENAI.name, model="m", messages=messages, cache_key="k", **fields)


def told(*parts: Any, role: Any = "user") -> Message:
    """Return a turn."""
    return Message(role, parts)


TURNS = (
    told(Text("Be brief."), role="system"),
    told(Text("Which files?")),
    told(Text("Let me see"), role="assistant"),
    told(ToolResult("c", (Text("a.txt"),)), role="tool"),
)


def test_instructions_and_the_prompt_so_far_are_cached() -> None:
    """The next turn reads what this one wrote, as with a client of Anthropic's own."""
    written = ANTHROPIC.write_request(said(*TURNS), Facts("claude"))
    body = json.loads(written.body)
    assert body["system"] == [{"type": "text", "text": "Be brief.", "cache_control": MARK}]
    marks = [block.get("cache_control") for block in body["messages"][-1]["content"]]
    assert marks == [MARK]
    assert written.dropped == ()
    assert str(body).count("cache_control") == 2


def test_without_a_key_nothing_is_marked() -> None:
    """What is written to a cache costs more than a prompt that nobody asks for again."""
    plain = msgspec.structs.replace(said(*TURNS), cache_key="")
    assert b"cache_control" not in ANTHROPIC.write_request(plain, Facts("claude")).body


def test_marks_of_the_client_s_own_stay_alone() -> None:
    """There may be four; and who sets them knows the prompt."""
    own = told(Text("Read this", cache="1h"), Text("and answer"))
    body = ANTHROPIC.write_request(said(TURNS[0], own), Facts("claude")).body
    assert body.count(b"cache_control") == 1
    assert marked(said(own)).cache_key == ""


def test_what_cannot_have_a_mark_is_passed_over() -> None:
    """An empty text with one is refused, and the beginning of an answer is not over."""
    last = marked(said(told(PICTURE, Text("  ")))).messages[-1]
    assert [getattr(part, "cache", None) for part in last.parts] == ["5m", None]
    begun = said(told(Text("Go on"), role="assistant"))
    assert marked(begun) == begun
    written = ANTHROPIC.write_request(begun, Facts("claude"))
    assert written.dropped == ("prompt_cache_key",)


def test_a_count_is_of_the_prompt_alone() -> None:
    """Marks are no tokens."""
    counted = ANTHROPIC.write_request(said(*TURNS), Facts("claude", counts=True))
    assert b"cache_control" not in counted.body


def test_bedrock_s_models_that_cache_are_told_too() -> None:
    """Others would refuse the mark."""
    written = to_bedrock(said(*TURNS), Facts(CLAUDE))
    body = json.loads(written.body)
    assert body["system"][-1] == {"cachePoint": {"type": "default"}}
    assert body["messages"][-1]["content"][-1] == {"cachePoint": {"type": "default"}}
    other = to_bedrock(said(*TURNS), Facts("meta.llama4-maverick-17b-instruct-v1:0"))
    assert b"cachePoint" not in other.body and "prompt_cache_key" in other.dropped
