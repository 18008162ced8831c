"""Where instructions stand for servers of open models, whose templates take one, at the front."""

import json
from typing import Any

import pytest
from translated import ANTHROPIC, BEDROCK, COHERE, GEMINI, OPENAI, RESPONSES

from tollway.providers.canon import Call
from tollway.providers.dialects.dialect import Asks, Codec, Facts
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


def test_what_a_user_says_in_several_messages_is_one_turn() -> None:
    """Codex says where it is before it says what it is asked; Mistral's templates refuse two."""
    turns = [item("user", "In /tmp"), item("user", "Make a file")]
    assert messages(RESPONSES, {"input": turns}) == [
        {"role": "user", "content": "In /tmp\n\nMake a file"}
    ]
    assert len(messages(RESPONSES, {"input": turns}, ALL_OF_OPENAI)) == 2


def test_users_of_other_names_speak_for_themselves() -> None:
    """What is said by whom is part of what is said; an instruction's author is named as lost."""
    turns = [{"role": "user", "name": name, "content": "Hi"} for name in ("ann", "bob", "bob")]
    body = {"messages": [*turns, {"role": "system", "name": "boss", "content": "Go"}]}
    said = OPENAI.read_request(Call("chat", OPENAI.name, "m", json.dumps(body).encode()))
    written = OPENAI.write_request(said, Facts("m"))
    assert json.loads(written.body)["messages"] == [
        {"role": "user", "content": "Hi", "name": "ann"},
        {"role": "user", "content": "Hi\n\nHi", "name": "bob"},
        {"role": "user", "content": "<system-reminder>\nGo\n</system-reminder>"},
    ]
    assert written.dropped == ("messages.name",)


PICTURE = {"type": "input_image", "image_url": "data:image/png;base64,aGk="}
SEEN = [{"type": "input_text", "text": "Like this"}, PICTURE]
MODELS = {ANTHROPIC.name: "claude-sonnet-4-5", BEDROCK.name: "us.anthropic.claude-sonnet-4-5"}


@pytest.mark.parametrize(
    "target", [ANTHROPIC, BEDROCK, COHERE, GEMINI, OPENAI], ids=lambda t: t.name
)
@pytest.mark.parametrize("later", [False, True], ids=["first", "later"])
def test_a_picture_of_an_instruction_is_shown_by_the_user(target: Asks, later: bool) -> None:
    """Only OpenAI takes one there: others refused it, and behind the first turn it was lost."""
    before = [item("user", "Hi"), item("assistant", "Yes?")] if later else []
    shown = {"type": "message", "role": "developer", "content": SEEN}
    body = {"model": "m", "input": [*before, shown, item("user", "Go")]}
    said = RESPONSES.read_request(Call("chat", RESPONSES.name, "m", json.dumps(body).encode()))
    facts = Facts(MODELS.get(target.name, "command-a-vision"), default_output=99)
    written = target.write_request(said, facts)
    assert written.dropped == ()
    asked = json.loads(written.body)
    turns = asked.get("messages") or asked["contents"]
    assert turns[-1]["role"] == "user"
    last = json.dumps(turns[-1])
    places = [last.index(word) for word in ("Part of the instructions", "aGk=", "Go")]
    assert places == sorted(places)
    assert "aGk=" not in json.dumps(
        [turns[:-1], asked.get("system"), asked.get("systemInstruction")]
    )
    assert "Like this" in json.dumps(asked)


def test_a_picture_alone_leaves_no_instruction_behind() -> None:
    """An empty one is refused."""
    shown = {"type": "message", "role": "developer", "content": [PICTURE]}
    (turn,) = messages(RESPONSES, {"input": [shown]})
    assert turn["role"] == "user"


@pytest.mark.parametrize("target", [ANTHROPIC, BEDROCK], ids=lambda target: target.name)
def test_where_to_cache_stays_with_a_later_instruction(target: Asks) -> None:
    """It was lost in silence."""
    marked = {"type": "text", "text": "B", "cache_control": CACHED}
    turns = [item("user", "Hi"), item("assistant", "A"), {"role": "system", "content": [marked]}]
    body = {"messages": [*turns, item("user", "Go")]}
    said = OPENAI.read_request(Call("chat", OPENAI.name, "m", json.dumps(body).encode()))
    written = target.write_request(said, Facts(MODELS[target.name], default_output=99))
    last = json.dumps(json.loads(written.body)["messages"][-1])
    assert last.index("B\\n</system-reminder>") < last.index("cache") < last.index("Go")


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
