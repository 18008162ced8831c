"""What each official library makes of an answer, in words that compare."""

import json
from typing import Any

from matrix_requests import ANTHROPIC, CHAT, RESPONSES

_CHAT_STOPS = {"stop": "end", "tool_calls": "tools", "content_filter": "filtered"}
_STOPS = {
    "end_turn": "end",
    "max_tokens": "length",
    "model_context_window_exceeded": "window",
    "tool_use": "tools",
    "pause_turn": "paused",
}
_GOOGLE_STOPS = {"STOP": "end", "MAX_TOKENS": "length", "SAFETY": "filtered", "OTHER": "other"}


def seen(client: str, reply: Any) -> dict[str, Any]:
    """Return text, calls, stop and usage (input, output, cached) of a reply, or of its chunks."""
    if client == CHAT:
        return _chat(reply)
    if client == RESPONSES:
        return _response(reply[-1].response if isinstance(reply, list) else reply)
    if client == ANTHROPIC:
        return _message(reply)
    return _google(reply if isinstance(reply, list) else [reply])


def _arguments(text: str) -> Any:
    try:
        return json.loads(text or "{}")
    except ValueError:
        return text


def _chat(reply: Any) -> dict[str, Any]:
    chunks = reply if isinstance(reply, list) else [reply]
    text, stop, usage = "", None, None
    calls: dict[int, list[str]] = {}
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            if choice.index:
                continue
            said = choice.delta if isinstance(reply, list) else choice.message
            text += said.content or ""
            stop = choice.finish_reason or stop
            for place, call in enumerate(said.tool_calls or ()):
                at = call.index if isinstance(reply, list) else place
                known = calls.setdefault(at, ["", ""])
                what: Any = call.function or getattr(call, "custom", None)
                given = what if isinstance(what, dict) else what.model_dump()
                known[0] += given.get("name") or ""
                known[1] += given.get("arguments") or given.get("input") or ""
    details = usage and usage.prompt_tokens_details
    stop = _CHAT_STOPS.get(stop or "stop", stop)
    return {
        "text": text,
        "calls": [(name, _arguments(given)) for name, given in calls.values()],
        "stop": "tools" if calls and stop == "end" else stop,
        "usage": usage
        and (usage.prompt_tokens, usage.completion_tokens, details.cached_tokens if details else 0),
    }


def _response(reply: Any) -> dict[str, Any]:
    calls = [item for item in reply.output if item.type in ("function_call", "custom_tool_call")]
    parts = [part for item in reply.output if item.type == "message" for part in item.content]
    refused = any(part.type == "refusal" for part in parts)
    stop = "tools" if calls else "refusal" if refused else "end"
    if reply.incomplete_details:
        why = reply.incomplete_details.reason
        stop = "length" if why == "max_output_tokens" else "filtered"
    used = reply.usage
    return {
        "text": reply.output_text,
        "calls": [
            (call.name, _arguments(call.arguments))
            if call.type == "function_call"
            else (call.name, {"input": call.input})
            for call in calls
        ],
        "stop": stop,
        "usage": used
        and (used.input_tokens, used.output_tokens, used.input_tokens_details.cached_tokens),
    }


def _message(reply: Any) -> dict[str, Any]:
    if not isinstance(reply, list):
        return _of_message(
            "".join(block.text for block in reply.content if block.type == "text"),
            [(block.name, block.input) for block in reply.content if block.type == "tool_use"],
            reply.stop_reason,
            reply.usage,
        )
    text, stop, usage = "", None, None
    calls: list[list[str]] = []
    for event in reply:
        if event.type == "content_block_start" and event.content_block.type == "tool_use":
            calls.append([event.content_block.name, ""])
        elif event.type == "content_block_delta":
            text += getattr(event.delta, "text", "")
            if event.delta.type == "input_json_delta":
                calls[-1][1] += event.delta.partial_json
        elif event.type == "message_delta":
            stop, usage = event.delta.stop_reason, event.usage
    return _of_message(text, [(name, _arguments(given)) for name, given in calls], stop, usage)


def _of_message(text: str, calls: list[Any], stop: str | None, used: Any) -> dict[str, Any]:
    cached = used.cache_read_input_tokens or 0
    read = used.input_tokens + cached + (used.cache_creation_input_tokens or 0)
    return {
        "text": text,
        "calls": calls,
        "stop": _STOPS.get(stop or "", stop),
        "usage": (read, used.output_tokens, cached),
    }


def _google(chunks: list[Any]) -> dict[str, Any]:
    parts: list[Any] = []
    stop, used = None, None
    for chunk in chunks:
        used = chunk.usage_metadata or used
        for candidate in chunk.candidates or ():
            if candidate.index:
                continue
            parts += candidate.content.parts or () if candidate.content else ()
            stop = candidate.finish_reason.value if candidate.finish_reason else stop
    calls = [(part.function_call.name, part.function_call.args) for part in parts
             if part.function_call]  # fmt: skip
    stop = _GOOGLE_STOPS.get(stop or "", stop)
    made = used and (used.candidates_token_count or 0) + (used.thoughts_token_count or 0)
    return {
        "text": "".join(part.text or "" for part in parts if not part.thought),
        "calls": calls,
        "stop": "tools" if calls and stop == "end" else stop,
        "usage": used and (used.prompt_token_count, made, used.cached_content_token_count or 0),
    }
