"""Scripted upstreams for agents: they call one of its tools, then say that it is done."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from gateway import DONE, HEAD, whole
from upstreams import Peer

Brain = Callable[[Peer], Awaitable[None]]


class Chat:
    """A chat completions server."""

    def __init__(self, tool: str, arguments: dict[str, Any]) -> None:
        self.asked: list[dict[str, Any]] = []
        self._tool = tool
        self._arguments = json.dumps(arguments)

    async def answer(self, peer: Peer) -> None:
        """Answer one request."""
        asked = json.loads((await peer.read_request()).partition(b"\r\n\r\n")[2])
        self.asked.append(asked)
        tools = [tool["function"]["name"] for tool in asked.get("tools", ())]
        calls = self._tool in tools and asked["messages"][-1]["role"] != "tool"
        if not asked.get("stream"):
            await self._whole(peer, calls=calls)
            return
        if calls:
            call: dict[str, Any] = {
                "id": "call_1",
                "function": {"name": self._tool, "arguments": ""},
            }
            pieces = [self._arguments[at : at + 7] for at in range(0, len(self._arguments), 7)]
            deltas: list[dict[str, Any]] = [
                {"role": "assistant", "content": "Let me do that."},
                {"tool_calls": [{"index": 0, "type": "function", **call}]},
                *({"tool_calls": [{"index": 0, "function": {"arguments": one}}]} for one in pieces),
            ]  # fmt: skip
            reason = "tool_calls"
        else:
            deltas, reason = [{"role": "assistant", "content": "It is done."}], "stop"
        chunks: list[dict[str, Any]] = [
            {"index": 0, "delta": one, "finish_reason": None} for one in deltas
        ]
        chunks.append({"index": 0, "delta": {}, "finish_reason": reason})
        events = [self._chunk("chat.completion.chunk", [one]) for one in chunks]
        events.append({**self._chunk("chat.completion.chunk", []), "usage": USAGE})
        await peer.say(HEAD + b"".join(map(event, events)) + DONE)

    async def _whole(self, peer: Peer, *, calls: bool) -> None:
        message: dict[str, Any] = {"role": "assistant", "content": "It is done."}
        if calls:
            what = {"name": self._tool, "arguments": self._arguments}
            call = {"id": "call_1", "type": "function", "function": what}
            message |= {"content": "Let me do that.", "tool_calls": [call]}
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": "tool_calls" if calls else "stop",
        }
        said = {**self._chunk("chat.completion", [choice]), "usage": USAGE}
        await peer.say(whole(json.dumps(said).encode(), "Connection: close"))

    @staticmethod
    def _chunk(kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": "c1", "object": kind, "created": 1, "model": "m", "choices": choices}


class Messages:
    """A server of Anthropic's Messages."""

    def __init__(self, tool: str, arguments: dict[str, Any]) -> None:
        self.asked: list[dict[str, Any]] = []
        self._tool = tool
        self._arguments = json.dumps(arguments)

    async def answer(self, peer: Peer) -> None:
        """Answer one request."""
        asked = json.loads((await peer.read_request()).partition(b"\r\n\r\n")[2])
        self.asked.append(asked)
        tools = [tool["name"] for tool in asked.get("tools", ())]
        last = asked["messages"][-1]["content"]
        answered = isinstance(last, list) and last[-1]["type"] == "tool_result"
        calls = self._tool in tools and not answered
        if not asked.get("stream"):
            await self._whole(peer, calls=calls)
            return
        blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
            (
                {"type": "text", "text": ""},
                [{"type": "text_delta", "text": "Let me do that." if calls else "It is done."}],
            )
        ]
        if calls:
            pieces = [self._arguments[at : at + 7] for at in range(0, len(self._arguments), 7)]
            blocks.append(
                (
                    {"type": "tool_use", "id": "toolu_1", "name": self._tool, "input": {}},
                    [{"type": "input_json_delta", "partial_json": one} for one in pieces],
                )
            )
        message: dict[str, Any] = {
                   "id": "msg_1", "type": "message", "role": "assistant", "content": [],
                   "model": "m", "stop_reason": None, "stop_sequence": None,
                   "usage": {"input_tokens": 100, "output_tokens": 1}}  # fmt: skip
        events: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
        for index, (block, deltas) in enumerate(blocks):
            events.append({"type": "content_block_start", "index": index, "content_block": block})
            events += [
                {"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas
            ]
            events.append({"type": "content_block_stop", "index": index})
        delta = {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}
        events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 20}})
        events.append({"type": "message_stop"})
        await peer.say(HEAD + b"".join(named(one) for one in events))

    async def _whole(self, peer: Peer, *, calls: bool) -> None:
        content: list[dict[str, Any]] = [{"type": "text", "text": "It is done."}]
        if calls:
            called = {"name": self._tool, "input": json.loads(self._arguments)}
            content = [{"type": "tool_use", "id": "toolu_1", **called}]
        said = {
            **{"id": "msg_1", "type": "message", "role": "assistant", "model": "m"},
            **{"content": content, "stop_reason": "tool_use" if calls else "end_turn"},
            **{"stop_sequence": None, "usage": {"input_tokens": 100, "output_tokens": 20}},
        }
        await peer.say(whole(json.dumps(said).encode(), "Connection: close"))


USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


def event(said: dict[str, Any]) -> bytes:
    """Return an event of a chat stream."""
    return b"data: " + json.dumps(said).encode() + b"\n\n"


def named(said: dict[str, Any]) -> bytes:
    """Return an event whose name is its type."""
    return f"event: {said['type']}\n".encode() + event(said)
