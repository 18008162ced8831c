"""Reads the messages and tools of OpenAI's chat completions for a local model."""

from typing import Any

import msgspec

from tollway.providers.errors import RequestInvalid
from tollway.providers.llamacpp.frames import Message, Tool, ToolCall

MAX_TOOLS = 1024

_ROLES = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant",
    "tool": "tool",
}  # fmt: skip


def read_messages(fields: dict[str, object]) -> list[Message]:
    """Return a conversation.

    Raises:
        RequestInvalid: It is malformed, or holds what a local model cannot read.
    """
    said = fields.get("messages")
    if not isinstance(said, list) or not said:
        raise RequestInvalid("`messages` must be a list with a message in it", param="messages")
    names: dict[str, str] = {}  # of the tools, by the calls' ids
    return [_message(f"messages[{at}]", message, names) for at, message in enumerate(said)]


def read_tools(fields: dict[str, object]) -> list[Tool]:
    """Return the tools of a request.

    Raises:
        RequestInvalid: One is malformed, or no function.
    """
    said = fields.get("tools", [])
    if not isinstance(said, list) or len(said) > MAX_TOOLS:
        raise RequestInvalid(f"`tools` must be a list of up to {MAX_TOOLS}", param="tools")
    return [_tool(f"tools[{at}]", tool) for at, tool in enumerate(said)]


def _tool(where: str, said: object) -> Tool:
    match said:
        case {"type": "function", "function": {"name": str(name), **rest}} if name:
            parameters = rest.get("parameters") or {}
            description = rest.get("description") or ""
            if isinstance(parameters, dict) and isinstance(description, str):
                return Tool(name, description, parameters, rest.get("strict") is True)
        case {"type": str(kind)} if kind != "function":
            raise RequestInvalid(
                f"Local models call functions only, and `{where}` is `{kind[:40]}`", param=where
            )
    raise RequestInvalid(f"`{where}` must be a function with a name", param=where)


def _message(where: str, said: object, names: dict[str, str]) -> Message:
    if not isinstance(said, dict):
        raise RequestInvalid(f"`{where}` must be an object", param=where)
    for name in ("function_call", "audio"):
        if said.get(name):
            raise RequestInvalid(f"Local models do not support `{name}`", param=f"{where}.{name}")
    role = said.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise RequestInvalid(
            "A local model takes messages of `system`, `developer`, `user`, `assistant` and `tool`",
            param=f"{where}.role",
        )
    calls = _calls(f"{where}.tool_calls", said.get("tool_calls"), names)
    content = said.get("content")
    if content is None and role == "assistant":
        content = ""  # what it said is its calls, or nothing
    call_id = said.get("tool_call_id") or ""
    thought = said.get("reasoning_content") or ""
    name = said.get("name") or names.get(str(call_id), "")
    for word, value in (("tool_call_id", call_id), ("reasoning_content", thought), ("name", name)):
        if not isinstance(value, str):
            raise RequestInvalid(f"`{where}.{word}` must be a text", param=f"{where}.{word}")
    return Message(
        _ROLES[role], _content(f"{where}.content", content), thought, calls, name, call_id
    )


def _calls(where: str, said: Any, names: dict[str, str]) -> list[ToolCall]:
    if not said:
        return []
    if not isinstance(said, list):
        raise RequestInvalid(f"`{where}` must be a list", param=where)
    calls: list[ToolCall] = []
    for at, call in enumerate(said):
        match call:
            case {"function": {"name": str(name), **rest}}:
                arguments = rest.get("arguments") or "{}"
                if not isinstance(arguments, str):  # some libraries send the object itself
                    arguments = msgspec.json.encode(arguments).decode()
                call_id = str(call.get("id") or f"call_{at}")
                names[call_id] = name
                calls.append(ToolCall(call_id, name, arguments))
            case _:
                here = f"{where}[{at}]"
                raise RequestInvalid(f"`{here}` must call a function", param=here)
    return calls


def _content(where: str, content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise RequestInvalid(f"`{where}` must be a text or a list of text parts", param=where)
    texts: list[str] = []
    for part in content:
        match part:
            case {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
                texts.append(text)
            case {"type": str(kind)} if kind not in {"text", "refusal"}:
                raise RequestInvalid(
                    f"Local models take text only, and `{where}` holds `{kind[:40]}`", param=where
                )
            case _:
                raise RequestInvalid(f"`{where}` holds a part that is no text", param=where)
    return "\n".join(texts)
