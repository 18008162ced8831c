"""Reads the tools of a Messages request into the neutral form.

Those that come or go later in a conversation, by blocks of a system message, are tools like the
others elsewhere, or none: what counts is what the model may call now.
"""

from collections.abc import Iterator
from typing import Final, TypeGuard

import msgspec

from tollway.providers.conversation import (
    HostedTool,
    Lifetime,
    Message,
    Opaque,
    Part,
    Tool,
    ToolChoice,
)
from tollway.providers.dialects.anthropic_client_tools import CLIENT_TOOLS
from tollway.providers.dialects.wire import Body, decoded, object_in, text_of
from tollway.providers.errors import RequestInvalid

NAME: Final = "anthropic_messages"
_ADDITION, _REMOVAL = "tool_addition", "tool_removal"
# Fields of a tool that other dialects do not have.
_OF_TOOL = frozenset({"name", "description", "input_schema", "strict", "cache_control", "type"})
# What those say who ask for nothing: who may call it is the model itself, unless others are named.
_NOTHING = frozenset({b"null", b"false", b"[]", b'["direct"]'})


class Mark(msgspec.Struct):
    """Where a prompt is to be cached up to."""

    ttl: str | None = None


class _ToolOf(msgspec.Struct):
    name: str = ""
    type: str | None = None
    description: str | None = None
    input_schema: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None
    cache_control: Mark | None = None


class _Meant(msgspec.Struct):
    type: str
    name: str = ""
    definition: msgspec.Raw = msgspec.Raw()


class _Change(msgspec.Struct):
    tool: _Meant


class _Choice(msgspec.Struct):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


_TOOLS = msgspec.json.Decoder(list[msgspec.Raw])
_TOOL = msgspec.json.Decoder(_ToolOf)
_RAWS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_CHANGE = msgspec.json.Decoder(_Change)
_CHOICE = msgspec.json.Decoder(_Choice)
_Offered = tuple[Tool | HostedTool, ...]


def lifetime(mark: Mark | None) -> Lifetime | None:
    """Return how long a prompt is to be cached; None where nobody asks for it."""
    return None if mark is None else "1h" if mark.ttl == "1h" else "5m"


def offered(body: Body, messages: tuple[Message, ...]) -> tuple[_Offered, tuple[Message, ...]]:
    """Return the tools that may be called now, and messages without the changes that led there.

    A change of what only Anthropic reaches (an MCP server's tools) stays where it is.

    Raises:
        RequestInvalid: One is no tool.
    """
    tools = tuple(_tools(body))
    if not any(_is_change(part, message) for message in messages for part in message.parts):
        return tools, messages
    known: dict[object, Tool | HostedTool] = {_key(tool): tool for tool in tools}
    withdrawn: set[object] = set()
    kept: list[Message] = []
    for message in messages:
        stay = tuple(
            part
            for part in message.parts
            if not (_is_change(part, message) and _changed(part, known, withdrawn))
        )
        if stay:
            kept.append(msgspec.structs.replace(message, parts=stay))
    return tuple(one for key, one in known.items() if key not in withdrawn), tuple(kept)


def _changed(part: Opaque, known: dict[object, Tool | HostedTool], withdrawn: set[object]) -> bool:
    """Apply a change to what is known and withdrawn; return whether it can be applied here."""
    meant = decoded(_CHANGE, part.payload, "messages").tool
    if meant.type == "tool_definition":
        added = _tool(meant.definition, "messages")
        key = _key(added)
        known.pop(key, None)
        known[key] = added
    elif meant.type == "tool_reference":
        key = meant.name
    else:
        return False
    (withdrawn.discard if part.type == _ADDITION else withdrawn.add)(key)
    return True


def _is_change(part: Part, message: Message) -> TypeGuard[Opaque]:
    kind = part.type if isinstance(part, Opaque) and message.role == "system" else ""
    return kind in (_ADDITION, _REMOVAL)


def _key(tool: Tool | HostedTool) -> object:
    """Return what a tool is known by: its name, or that it is itself."""
    if isinstance(tool, Tool):
        return tool.name
    return text_of(object_in(tool.payload) or {}, "name") or id(tool)


def _tools(body: Body) -> Iterator[Tool | HostedTool]:
    for place, raw in enumerate(body.take(_TOOLS, "tools") or ()):
        yield _tool(raw, f"tools[{place}]")
    for name in ("mcp_servers", "container"):
        # What the provider reaches for the model: tools, whatever the field is called.
        if (said := body.raw(name)) and said != b"[]":
            yield HostedTool(NAME, name, said)


def _tool(raw: msgspec.Raw, where: str) -> Tool | HostedTool:
    tool = decoded(_TOOL, raw, where)
    own = CLIENT_TOOLS.get(tool.type or "")
    if own is None and tool.type not in (None, "custom"):
        return HostedTool(NAME, tool.type or "", bytes(raw))
    extras = tuple(
        (name, text)
        for name, value in decoded(_RAWS, raw, where).items()
        if (name not in _OF_TOOL or (own and name == "strict"))
        and (text := bytes(value)) not in _NOTHING
    )
    about, schema = own or (tool.description or "", _without_nulls(tool.input_schema, where))
    strict = None if own else tool.strict
    return Tool(tool.name, about, schema, strict, cache=lifetime(tool.cache_control), extras=extras)


def _without_nulls(schema: msgspec.Raw, where: str) -> bytes:
    """Return a schema without members that are null, as Anthropic's types let them be."""
    text = bytes(schema)
    if b"null" not in text:
        return text
    said = decoded(_RAWS, schema, f"{where}.input_schema")
    kept = {name: value for name, value in said.items() if bytes(value) != b"null"}
    return text if len(kept) == len(said) else msgspec.json.encode(kept)


def tool_choice(body: Body) -> tuple[ToolChoice | None, bool | None]:
    """Return which tools may, or must, be called, and whether several at once.

    Raises:
        RequestInvalid: It is no choice.
    """
    choice = body.take(_CHOICE, "tool_choice")
    if choice is None:
        return None, None
    serial = choice.disable_parallel_tool_use
    parallel = None if serial is None else not serial
    match choice.type:
        case "auto" | "any" | "none":
            return ToolChoice(choice.type), parallel
        case "tool" if choice.name:
            return ToolChoice("tool", (choice.name,)), parallel
    raise RequestInvalid("`tool_choice` is none that we know", param="tool_choice")
