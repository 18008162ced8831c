"""Anthropic's threads: its server keeps the history, and its library begins one with each task."""

from typing import Any

import pytest
from aiohttp import web
from anthropic import beta_async_tool
from matrix_requests import ANTHROPIC, CHAT, HI
from matrix_world import TARGETS, World, world

from tollway.providers.canon import Call
from tollway.providers.dialects.anthropic_bound import bound

GOES_ON = {"type": "continue", "previous_message_id": "msg_1"}
LOST = {"error_code": "thread_not_found"}


@beta_async_tool
async def ls(directory: str) -> str:
    """List the files of a directory."""
    return f"{directory}/a.txt"


def spoken(dialect: str, place: int) -> dict[str, Any]:
    """Return an answer: first a call, then words."""
    arguments = {"directory": "here"}
    if dialect == CHAT:
        called = {"name": "ls", "arguments": '{"directory":"here"}'}
        calls = {"tool_calls": [{"id": "c", "type": "function", "function": called}]}
        message = {"role": "assistant", **({"content": "Done"} if place else calls)}
        usage = {"prompt_tokens": 7, "completion_tokens": 3}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"id": "c", "model": "m", "choices": [choice], "usage": usage}
    call = {"type": "tool_use", "id": "c", "name": "ls", "input": arguments}
    content = [{"type": "text", "text": "Done"} if place else call]
    usage = {"input_tokens": 7, "output_tokens": 3}
    said = {"id": f"msg_{place}", "type": "message", "role": "assistant", "model": "claude"}
    stop = "end_turn" if place else "tool_use"
    return {**said, "content": content, "stop_reason": stop, "usage": usage}


async def run(one: World, target: str) -> list[dict[str, Any]]:
    """Have Anthropic's tool runner do a task; return the requests that the upstream had."""
    runner = one.anthropic.beta.messages.tool_runner(
        model=TARGETS[target],
        max_tokens=100,
        messages=[{"role": "user", "content": HI}],
        tools=[ls],
    )
    last = await runner.until_done()
    assert [block.text for block in last.content if block.type == "text"] == ["Done"]
    return [body for _, body in one.upstream.asked]


async def test_a_thread_on_another_provider_goes_on_with_all_that_was_said() -> None:
    """Its library sends what is new alone: `thread` was dropped, and the model knew no more.

    Told that there are no threads here, the library sends the whole conversation.
    """
    places = iter(range(9))

    async def script(_: web.Request) -> web.StreamResponse:
        return web.json_response(spoken(CHAT, next(places)))

    async with world() as one:
        one.upstream.script = script
        first, second = await run(one, "openai-compatible")
        assert [turn["role"] for turn in first["messages"]] == ["user"]
        assert [turn["role"] for turn in second["messages"]] == ["user", "assistant", "tool"]


async def test_what_anthropic_says_of_a_lost_thread_reaches_its_library() -> None:
    """Its `details` were left out of the error, without which the library cannot begin anew."""
    places = iter(range(9))

    async def script(request: web.Request) -> web.StreamResponse:
        if (await request.json())["thread"] == GOES_ON | {"previous_message_id": "msg_0"}:
            error = {"type": "not_found_error", "message": "No such thread", "details": LOST}
            return web.json_response({"type": "error", "error": error}, status=404)
        return web.json_response(spoken(ANTHROPIC, next(places)))

    async with world() as one:
        one.upstream.script = script
        began, went_on, again = await run(one, "anthropic")
        assert (began["thread"], again["thread"]) == ({"type": "create"}, {"type": "create"})
        assert len(went_on["messages"]) == 1
        assert len(again["messages"]) == 3


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "anthropic"])
async def test_what_only_anthropic_can_do_is_refused_elsewhere(target: str) -> None:
    """To go on with what it keeps, and its own summary; to begin a thread loses nothing."""
    async with world() as one:
        for more in ({"thread": GOES_ON}, {"compaction": {"type": "enabled"}}):
            body = {"model": TARGETS[target], "max_tokens": 9, "messages": [], **more}
            reply = await one.post("/v1/messages", body)
            assert (reply.status_code, reply.json()["error"]["code"]) == (400, "untranslatable")
        assert not one.upstream.asked
        await one.ask(ANTHROPIC, TARGETS[target], extra_body={"thread": {"type": "create"}})
        assert one.heads["x-tollway-dropped"] == "thread"


@pytest.mark.parametrize(
    ("thread", "by_window"),
    [(b"null", False), (b'{"type":"create"}', False), (b'{"type":"continue"}', True), (b"7", True)],
)
def test_what_a_thread_holds_is_bounded_by_the_window_alone(thread: bytes, by_window: bool) -> None:
    """It was bounded by the bytes of what is new, so that a budget could be passed."""
    body = b'{"model":"m","max_tokens":9,"messages":[],"thread":' + thread + b"}"
    assert bound(Call("chat", ANTHROPIC, "m", body, output_limit=9)).by_window is by_window
