"""Tools that come, go or are searched for within a conversation, as other dialects are told."""

import json
from typing import Any, get_args, get_type_hints

import pytest
from anthropic.types import ToolUnionParam
from translated import ANTHROPIC, ASKS, OPENAI, RESPONSES

from tollway.daemon.gate.translate import without_offers
from tollway.providers.canon import Call
from tollway.providers.conversation import Conversation, Tool
from tollway.providers.dialects.dialect import Asks, Codec, Facts
from tollway.providers.errors import Untranslatable

OBJECT = {"type": "object", "properties": {}}
TOOL = {"type": "function", "name": "ls", "parameters": OBJECT}
HI: dict[str, Any] = {"role": "user", "content": "Hi"}


def read(codec: Codec, **more: Any) -> Conversation:
    """Return what a client's body says, without what it only offers."""
    hi = {"input": "Hi"} if codec is RESPONSES else {"max_tokens": 100, "messages": [HI]}
    body = json.dumps({"model": "m"} | hi | more).encode()
    return without_offers(codec.read_request(Call("chat", codec.name, "m", body)))[0]


def written(said: Conversation, target: Asks) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the body for a target, and what was left out."""
    found = target.write_request(said, Facts("m", default_output=4096))
    return json.loads(found.body), found.dropped


def others(codec: Codec) -> list[Asks]:
    """Return the dialects that a request of this one's may be translated to."""
    return [target for target in ASKS.values() if target is not codec]


def test_tools_that_come_and_go_within_a_conversation_are_those_of_its_end() -> None:
    """Claude's agents change them by blocks of system messages, which no other dialect has."""

    def change(kind: str, **tool: Any) -> dict[str, Any]:
        return {"type": f"tool_{kind}", "tool": tool}

    def defined(name: str, about: str = "") -> dict[str, Any]:
        tool = {"name": name, "description": about, "input_schema": OBJECT}
        return change("addition", type="tool_definition", definition=tool)

    def meant(kind: str, name: str) -> dict[str, Any]:
        return change(kind, type="tool_reference", name=name)

    turns = [
        {"role": "user", "content": "Hi"},
        {
            "role": "system",
            "content": [defined("new"), defined("gone", "1"), meant("removal", "old")],
        },
        {"role": "system", "content": [{"type": "text", "text": "Be brief"}, defined("new", "2")]},
        {"role": "user", "content": "Go on"},
    ]
    gone = {"role": "system", "content": [meant("removal", "gone")]}
    back = {"role": "system", "content": [meant("addition", "old")]}
    tools = [{"name": name, "input_schema": OBJECT} for name in ("kept", "old")]
    said = read(ANTHROPIC, tools=tools, messages=[*turns, gone])
    found = [(one.name, one.description) for one in said.tools if isinstance(one, Tool)]
    assert (found, said.unread) == ([("kept", ""), ("new", "2")], ())
    assert [message.role for message in said.messages] == ["user", "system", "user"]
    for target in others(ANTHROPIC):
        assert written(said, target)[1] == ()
    again = read(ANTHROPIC, tools=tools, messages=[*turns, back])
    names = [one.name for one in again.tools if isinstance(one, Tool)]
    assert names == ["kept", "old", "gone", "new"]
    search = {"type": "web_search_20250305", "name": "web_search"}
    none = {"role": "system", "content": [meant("removal", "web_search")]}
    found_no_more = read(ANTHROPIC, tools=[search], messages=[HI, none])
    assert (found_no_more.tools, found_no_more.messages[1:]) == ((), ())
    server = change("addition", type="mcp_toolset_reference", server_name="files")
    for target in others(ANTHROPIC):
        with pytest.raises(Untranslatable, match="tool_addition"):
            written(read(ANTHROPIC, messages=[{"role": "system", "content": [server]}]), target)


def test_instructions_for_one_turn_are_gone_in_the_next() -> None:
    """Anthropic shows them to the model until the user speaks; others are sent what it is shown."""
    once = {"role": "system", "content": "Be brief", "clear_at": "next_user_message"}
    assert [one.role for one in read(ANTHROPIC, messages=[HI, once]).messages] == ["user", "system"]
    later = read(ANTHROPIC, messages=[HI, once, {"role": "assistant", "content": "Ho"}, HI])
    assert "brief" not in json.dumps(written(later, OPENAI)[0])
    assert later.unread == ()


@pytest.mark.parametrize(
    ("codec", "tool", "beside"),
    [
        (RESPONSES, {"type": "tool_search"}, TOOL),
        (
            ANTHROPIC,
            {"type": "tool_search_tool_bm25_20251119", "name": "tool_search"},
            {"name": "ls", "input_schema": OBJECT},
        ),
    ],
)
def test_a_search_among_tools_that_are_all_shown_is_left_out(
    codec: Codec, tool: dict[str, Any], beside: dict[str, Any]
) -> None:
    """Agents offer it beside the tools themselves; its own provider alone could run it."""
    assert [getattr(one, "name", "") for one in read(codec, tools=[tool, beside]).tools] == ["ls"]


@pytest.mark.parametrize(
    ("codec", "tool"),
    [
        (RESPONSES, {"type": "web_search"}),
        (ANTHROPIC, {"type": "web_search_20250305", "name": "web_search"}),
    ],
)
def test_a_search_that_is_all_there_is_to_do_is_refused(codec: Codec, tool: dict[str, Any]) -> None:
    """What a model remembers would be shown as what was found."""
    said = read(codec, tools=[tool])
    for target in others(codec):
        with pytest.raises(Untranslatable, match=tool["type"]):
            written(said, target)


def test_what_a_tool_s_null_and_default_say_is_no_loss() -> None:
    """Anthropic's types have them; named, they were refused where a route allows no loss."""
    tool = {
        "name": "ls",
        "input_schema": OBJECT | {"required": None},
        "defer_loading": False,
        "eager_input_streaming": None,
        "allowed_callers": ["direct"],
        "input_examples": [],
    }
    said = read(ANTHROPIC, tools=[tool])
    for target in others(ANTHROPIC):
        body, dropped = written(said, target)
        assert dropped == () and "null" not in json.dumps(body)
    named = read(ANTHROPIC, tools=[tool | {"defer_loading": True, "allowed_callers": ["code"]}])
    assert written(named, OPENAI)[1] == ("tools.defer_loading", "tools.allowed_callers")


def test_each_tool_by_type_that_a_client_runs_is_one_elsewhere() -> None:
    """Of all that Anthropic's library knows; where to click is what Claude alone was taught."""
    types = {
        kind
        for tool in get_args(ToolUnionParam)
        for kind in get_args(get_type_hints(tool).get("type"))
        if isinstance(kind, str)
    }
    own = [one for one in types if one.startswith(("bash", "text_editor", "memory"))]
    assert len(own) >= 5
    for one in own:
        (tool,) = read(ANTHROPIC, tools=[{"type": one, "name": "t"}]).tools
        assert isinstance(tool, Tool) and tool.schema, one
