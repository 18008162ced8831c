"""Names of tools' arguments that Claude does not bear, as others that it does, and back.

Anthropic and Bedrock refuse a whole request for one of them: "Property keys should match pattern
'^[a-zA-Z0-9_.-]{1,64}$'". Tools of MCP servers have them (`$top`, `filter[id]`, names in other
scripts), and other APIs take them. Members of members may be called anything.
"""

import re
from functools import partial
from typing import Any, TypeAlias

import msgspec

from tollway.providers import events as ev
from tollway.providers.conversation import Conversation, Message, Part, Tool, ToolCall
from tollway.providers.dialects.dialect import EventReader
from tollway.providers.dialects.wire import UNREADABLE, fitting, object_in
from tollway.providers.halves import without_halves
from tollway.providers.sse import Event

_fit = partial(fitting, allowed=re.compile(r"[a-zA-Z0-9_.-]"), most=64)
_FITS = re.compile(r"[a-zA-Z0-9_.-]{1,64}")

# By the names of tools: their own names of arguments, and what these are called there.
_Names: TypeAlias = dict[str, dict[str, str]]


class _Schema(msgspec.Struct):
    properties: dict[str, msgspec.Raw] | None = None


_SCHEMA = msgspec.json.Decoder(_Schema)
# What the members hold stays as it is written, as numbers of any size.
_ARGUMENTS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def borne(said: Conversation) -> Conversation:
    """Return a conversation whose tools, and the calls of them, Claude bears."""
    names = _names(said)
    if not names:
        return said
    return msgspec.structs.replace(
        said,
        tools=tuple(_tool(t, names) if isinstance(t, Tool) else t for t in said.tools),
        messages=tuple(_message(message, names) for message in said.messages),
    )


def borne_back(said: Conversation, reader: EventReader) -> EventReader:
    """Return what reads the answer to what `borne` made of a conversation."""
    names = _names(said)
    return _Renamed(reader, names) if names else reader


def _names(said: Conversation) -> _Names:
    found: _Names = {}
    for tool in said.tools:
        if not isinstance(tool, Tool) or tool.kind != "function" or not tool.schema:
            continue
        try:
            members = _SCHEMA.decode(tool.schema).properties or {}
        except UNREADABLE:
            continue
        if renamed := {ours: _fit(ours) for ours in members if not _FITS.fullmatch(ours)}:
            found[tool.name] = renamed
    return found


def _tool(tool: Tool, names: _Names) -> Tool:
    there = names.get(tool.name)
    schema = object_in(tool.schema) if there else None
    if there is None or schema is None:
        return tool
    members = {
        there.get(ours, ours): _told(one, ours, there) for ours, one in schema["properties"].items()
    }
    written = {**schema, "properties": members}
    if isinstance(needed := schema.get("required"), list):
        written["required"] = [
            there.get(one, one) if isinstance(one, str) else one for one in needed
        ]
    return msgspec.structs.replace(tool, schema=msgspec.json.encode(written))


def _told(member: Any, ours: str, there: dict[str, str]) -> Any:
    """Return what a member may be, with the name by which the tool's own words know it."""
    if ours not in there or not isinstance(member, dict):
        return member
    about = member.get("description")
    return {**member, "description": f"`{ours}`: {about}" if about else f"`{ours}`"}


def _message(message: Message, names: _Names) -> Message:
    if not any(isinstance(part, ToolCall) and part.name in names for part in message.parts):
        return message
    parts = tuple(_part(part, names) for part in message.parts)
    return msgspec.structs.replace(message, parts=parts)


def _part(part: Part, names: _Names) -> Part:
    if not isinstance(part, ToolCall) or part.name not in names:
        return part
    return msgspec.structs.replace(part, arguments=_called(part.arguments, names[part.name]))


def _called(arguments: str, names: dict[str, str]) -> str:
    """Return arguments by other names; those that are no object, or cut short, as they are."""
    try:
        said = _ARGUMENTS.decode(without_halves(arguments.encode()))
    except UNREADABLE:
        return arguments
    if names.keys().isdisjoint(said):
        return arguments
    return msgspec.json.encode({names.get(name, name): said[name] for name in said}).decode()


class _Renamed:
    """Reads calls by the client's names; see `EventReader` for what its methods give.

    The arguments of such a tool wait until they are whole.
    """

    def __init__(self, inner: EventReader, names: _Names) -> None:
        self._inner = inner
        self._names = {
            tool: {there: ours for ours, there in renamed.items()}
            for tool, renamed in names.items()
        }
        self._open: dict[str, str] | None = None
        self._pieces: list[str] = []

    @property
    def ended(self) -> bool:
        """Whether the dialect's own end was seen."""
        return self._inner.ended

    @property
    def dropped(self) -> set[str]:
        """What of the answer no event says."""
        return self._inner.dropped

    def event(self, event: Event) -> list[ev.Event]:
        """Return what one event of a stream means."""
        return self._turned(self._inner.event(event))

    def end(self) -> list[ev.Event]:
        """Return what was held back."""
        return [*self._turned(self._inner.end()), *self._whole_call()]

    def whole(self, body: bytes) -> ev.Answer:
        """Return a whole, unstreamed answer."""
        answer = self._inner.whole(body)
        choices = tuple(
            msgspec.structs.replace(
                choice, parts=tuple(_part(part, self._names) for part in choice.parts)
            )
            for choice in answer.choices
        )
        return msgspec.structs.replace(answer, choices=choices)

    def _turned(self, found: list[ev.Event]) -> list[ev.Event]:
        out: list[ev.Event] = []
        for event in found:
            if self._open is not None and isinstance(event, ev.ToolDelta):
                self._pieces.append(event.arguments)
                continue
            if not isinstance(event, ev.UsageReport):
                out += self._whole_call()
            if isinstance(event, ev.ToolStart):
                self._open = self._names.get(event.name)
            out.append(event)
        return out

    def _whole_call(self) -> list[ev.Event]:
        names, self._open = self._open, None
        arguments = "".join(self._pieces)
        self._pieces.clear()
        return [] if names is None else [ev.ToolDelta(_called(arguments, names))]
