"""Tools that the client runs and its own provider knows, with models that do not."""

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from anthropic.tools import BetaAsyncLocalFilesystemMemoryTool
from matrix_requests import ANTHROPIC, CHAT, RESPONSES
from matrix_world import TARGETS, world

from tollway.providers.dialects.anthropic_client_tools import CLIENT_TOOLS

CREATE = {"command": "create", "path": "/memories/tea.txt", "file_text": "They like tea"}


def answer(message: dict[str, Any]) -> web.Response:
    """Return a chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return web.json_response({"id": "c", "model": "m", "choices": [choice], "usage": usage})


async def test_anthropics_memory_works_with_a_model_of_another_provider(tmp_path: Path) -> None:
    """Its library runs the model's calls as if Claude had made them, and the results go back."""
    function = {"name": "memory", "arguments": json.dumps(CREATE, separators=(",", ":"))}
    called = {
        "content": None,
        "tool_calls": [{"id": "c", "type": "function", "function": function}],
    }
    answers: list[dict[str, Any]] = [called, {"content": "I shall remember it"}]

    async def script(_: web.Request) -> web.StreamResponse:
        return answer(answers.pop(0))

    async with world() as one:
        one.upstream.script = script
        runner = one.anthropic.beta.messages.tool_runner(
            model=TARGETS["openai-compatible"],
            max_tokens=100,
            messages=[{"role": "user", "content": "I like tea"}],
            tools=[BetaAsyncLocalFilesystemMemoryTool(base_path=str(tmp_path))],
        )
        last = await runner.until_done()
        assert [block.text for block in last.content if block.type == "text"] == [
            "I shall remember it"
        ]
        assert (tmp_path / "memories/tea.txt").read_text() == "They like tea"
        (_, first), (_, second) = one.upstream.asked
        (tool,) = first["tools"]
        assert tool["function"]["name"] == "memory"
        assert set(CREATE) < set(tool["function"]["parameters"]["properties"])
        assert second["messages"][1]["tool_calls"] == called["tool_calls"]
        assert second["messages"][2]["role"] == "tool"


@pytest.mark.parametrize("kind", CLIENT_TOOLS)
async def test_each_is_chosen_and_called_by_its_own_name(kind: str) -> None:
    """The block is the one that Claude would have sent; what else was asked of it is named."""
    function = {"name": "its_name", "arguments": '{"command":"view","path":"/"}'}
    called = {"tool_calls": [{"id": "c", "type": "function", "function": function}]}

    async def script(_: web.Request) -> web.StreamResponse:
        return answer(called)

    async with world() as one:
        one.upstream.script = script
        reply = await one.ask(
            ANTHROPIC,
            TARGETS["openai-compatible"],
            tools=[{"type": kind, "name": "its_name", "strict": True, "max_characters": 9}],
            tool_choice={"type": "tool", "name": "its_name"},
        )
        (block,) = reply.content
        assert (block.type, block.name) == ("tool_use", "its_name")
        assert block.input == {"command": "view", "path": "/"}
        assert one.heads["x-tollway-dropped"] == "tools.strict, tools.max_characters"
        ((spoken, asked),) = one.upstream.asked
        assert spoken == CHAT
        assert asked["tool_choice"] == {"type": "function", "function": {"name": "its_name"}}


SEARCH = {
    "type": "tool_search",
    "execution": "client",
    "description": "Find tools",
    "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
}
HIDDEN = {"type": "function", "name": "ls", "parameters": {"type": "object"}, "strict": False}


@pytest.mark.parametrize("stream", [False, True])
async def test_codex_finds_its_hidden_tools_with_a_model_of_another_provider(stream: bool) -> None:
    """It sends a search in place of its MCP servers' tools, and runs it when it is asked to.

    The search was left out, so that no such tool was ever seen.
    """
    function = {"name": "tool_search", "arguments": '{"query":"files"}'}
    called = {"tool_calls": [{"id": "c", "type": "function", "function": function}]}
    said: list[Any] = [{"role": "user", "content": "Which files?"}]

    async def script(_: web.Request) -> web.StreamResponse:
        return answer(called)

    async with world() as one:
        one.upstream.script = script
        target = TARGETS["openai-compatible"]
        reply = await one.ask(RESPONSES, target, stream, input=said, tools=[SEARCH])
        (item,) = reply[-1].response.output if stream else reply.output
        assert (item.type, item.call_id, item.execution) == ("tool_search_call", "c", "client")
        assert (item.arguments, item.status) == ({"query": "files"}, "completed")
        if stream:
            shown = [event for event in reply if event.type.startswith("response.output_item")]
            assert [event.item.status for event in shown] == ["in_progress", "completed"]
        assert "x-tollway-dropped" not in one.heads
        space = {"type": "namespace", "name": "disk", "description": "", "tools": [HIDDEN]}
        found = {"type": "tool_search_output", "call_id": "c", "execution": "client"}
        said += [item.model_dump(exclude_none=True), found | {"tools": [space]}]
        await one.ask(RESPONSES, target, stream, input=said, tools=[SEARCH])
        assert "x-tollway-dropped" not in one.heads
        (_, first), (_, second) = one.upstream.asked
        (tool,) = first["tools"]
        assert tool["function"] == {
            "name": "tool_search",
            "description": "Find tools",
            "parameters": SEARCH["parameters"],
        }
        assert [tool["function"]["name"] for tool in second["tools"]] == ["tool_search", "disk__ls"]
        _, call, result = second["messages"]
        assert call["tool_calls"] == called["tool_calls"]
        assert (result["role"], result["tool_call_id"]) == ("tool", "c")
        assert "`disk__ls`" in result["content"]
