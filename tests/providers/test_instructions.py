"""Where instructions stand for servers of open models, whose templates take one, at the front."""

import json
from typing import Any

from translated import ANTHROPIC, OPENAI, RESPONSES

from tollway.providers.canon import Call
from tollway.providers.dialects.dialect import Codec, Facts
from tollway.providers.dialects.openai_quirks import ALL_OF_OPENAI, CACHE_CONTROL

CACHED = {"type": "ephemeral"}


def messages(codec: Codec, body: dict[str, Any], *quirks: str) -> list[dict[str, Any]]:
    """Return the messages that a chat server is sent for a client's request."""
    said = codec.read_request(Call("chat", codec.name, "m", json.dumps(body).encode()))
    written = OPENAI.write_request(said, Facts("m", quirks=frozenset(quirks)))
    found: list[dict[str, Any]] = json.loads(written.body)["messages"]
    return found


def item(role: str, text: str) -> dict[str, Any]:
    """Return a message of the Responses API."""
    return {"type": "message", "role": role, "content": text}


def test_instructions_at_the_front_are_one_message() -> None:
    """Codex gives two; templates of open models refuse all but one ("must be at the beginning")."""
    asked = {"instructions": "A", "input": [item("developer", "B"), item("user", "Hi")]}
    assert messages(RESPONSES, asked) == [
        {"role": "system", "content": "A\n\nB"},
        {"role": "user", "content": "Hi"},
    ]


def test_later_ones_stand_in_the_users_turn_marked_as_what_they_are() -> None:
    """As with Anthropic and Gemini: they keep their place, and turns still alternate."""
    turns = [item("user", "Hi"), item("developer", "B"), item("assistant", "Yes?")]
    turns += [item("developer", "C"), item("developer", "D"), item("user", "Go")]
    assert messages(RESPONSES, {"instructions": "A", "input": turns}) == [
        {"role": "system", "content": "A"},
        {"role": "user", "content": "Hi\n\n<system-reminder>\nB\n</system-reminder>"},
        {"role": "assistant", "content": "Yes?"},
        {
            "role": "user",
            "content": "<system-reminder>\nC\n</system-reminder>\n\n"
            "<system-reminder>\nD\n</system-reminder>\n\nGo",
        },
    ]


def test_a_users_picture_and_a_reminder_are_one_turn() -> None:
    """Content of several parts stays that."""
    picture = {"type": "input_image", "image_url": "data:image/png;base64,aGk="}
    turns = [{"type": "message", "role": "user", "content": [picture]}, item("developer", "B")]
    (turn,) = messages(RESPONSES, {"input": turns})
    assert [part["type"] for part in turn["content"]] == ["image_url", "text"]
    assert "B" in turn["content"][1]["text"]


def test_results_of_tools_stay_apart_from_a_reminder() -> None:
    """A result is the tool's own message; the reminder follows it as a user's."""
    call = {"type": "function_call", "call_id": "c", "name": "ls", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": "ok"}
    turns = [item("user", "Hi"), call, result, item("developer", "B")]
    roles = [turn["role"] for turn in messages(RESPONSES, {"input": turns})]
    assert roles == ["user", "assistant", "tool", "user"]


def test_what_is_marked_for_a_cache_stays_in_its_parts() -> None:
    """The marks would be lost in one text."""
    parts = [{"type": "text", "text": "A", "cache_control": CACHED}]
    body = {"system": parts, "messages": [{"role": "system", "content": "B"}, item("user", "Hi")]}
    body["messages"][1].pop("type")
    first, last = messages(ANTHROPIC, body, CACHE_CONTROL)
    assert [part["text"] for part in first["content"]] == ["A", "B"]
    assert first["content"][0]["cache_control"] == CACHED
    assert last == {"role": "user", "content": "Hi"}


def test_openai_takes_instructions_wherever_they_stand() -> None:
    """There they have more weight than what a user says."""
    asked = {"input": [item("developer", "A"), item("user", "Hi"), item("developer", "B")]}
    roles = [turn["role"] for turn in messages(RESPONSES, asked, ALL_OF_OPENAI)]
    assert roles == ["developer", "user", "developer"]
