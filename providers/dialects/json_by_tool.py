"""Any JSON object as the answer, of a target that promises none without a schema.

There it is the argument of a tool: what a model gives a tool is an object of JSON, and one that
may have any members if the tool's schema names none. On the way back the argument is the answer's
text. Where the client's own tools are offered too, the model must call one of them or this one:
it would have done one or the other. So is JSON of a schema, where a target takes a schema or tools.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from tollway.providers import events as ev
from tollway.providers.conversation import Conversation, Part, Text, Tool, ToolCall, ToolChoice
from tollway.providers.dialects.dialect import EventReader
from tollway.providers.dialects.wire import object_in
from tollway.providers.sse import Event

_NAME: Final = "json_answer"
_TOOL = Tool(
    _NAME,
    "Gives the answer, as the JSON object that was asked for. Its members are the answer's own.",
    b'{"type":"object","additionalProperties":true}',
)


def by_tool(said: Conversation) -> Conversation:
    """Return a conversation that asks for any JSON by a tool; others as they are.

    Where a tool has to be called anyway, no text is asked for, and so no shape of it.
    """
    asked, choice = said.format, said.tool_choice
    if asked is None or asked.kind != "json_object" or (choice is not None and choice.hosted):
        return said
    if choice is not None and choice.mode in ("any", "tool"):
        return msgspec.structs.replace(said, format=None)
    only = not said.tools or (choice is not None and choice.mode == "none")
    return _asked(said, _TOOL.schema, only=only)


def beside_tools(said: Conversation) -> Conversation:
    """Return a conversation that asks for JSON by a tool if it has tools at all; others as is."""
    asked, choice = said.format, said.tool_choice
    if asked is None or asked.kind == "text" or not said.tools or (choice and choice.hosted):
        return said
    if choice is not None and choice.mode in ("any", "tool"):
        return msgspec.structs.replace(said, format=None)
    if choice is not None and choice.mode == "none":
        return msgspec.structs.replace(said, tools=(), tool_choice=None)
    schema = asked.schema or _TOOL.schema
    if (object_in(schema) or {}).get("type") != "object":
        return said  # no argument is anything else; the target says what it thinks of it
    return _asked(said, schema, only=False)


def _asked(said: Conversation, schema: bytes, *, only: bool) -> Conversation:
    name, choice = _name(said), said.tool_choice
    names = (name,) if only else (*choice.names, name) if choice and choice.names else ()
    return msgspec.structs.replace(
        said,
        format=None,
        tools=(*said.tools, msgspec.structs.replace(_TOOL, name=name, schema=schema)),
        tool_choice=ToolChoice("tool" if only else "any", names),
    )


def reader_by_tool(
    said: Conversation,
    reader: Callable[[Conversation], EventReader],
    by: Callable[[Conversation], Conversation] = by_tool,
) -> EventReader:
    """Return what reads the answer to what `by_tool`, or another, made of a conversation."""
    asked = by(said)
    inner = reader(asked)
    return inner if len(asked.tools) == len(said.tools) else _ByTool(inner, _name(said))


def _name(said: Conversation) -> str:
    """Return a name that none of the client's own tools has."""
    taken = {tool.name for tool in said.tools if isinstance(tool, Tool)}
    name = _NAME
    while name in taken:
        name += "_"
    return name


class _ByTool:
    """Reads the calls of one tool as text; see `EventReader` for what its methods give."""

    def __init__(self, inner: EventReader, name: str) -> None:
        self._inner = inner
        self._name = name
        self._in_text = False  # the open call is no call
        self._calls = False  # there was one of another tool

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
        return [self._turned(one) for one in self._inner.event(event)]

    def end(self) -> list[ev.Event]:
        """Return what was held back."""
        return [self._turned(one) for one in self._inner.end()]

    def whole(self, body: bytes) -> ev.Answer:
        """Return a whole, unstreamed answer."""
        answer = self._inner.whole(body)
        return msgspec.structs.replace(
            answer, choices=tuple(self._whole(choice) for choice in answer.choices)
        )

    def _turned(self, event: ev.Event) -> ev.Event:
        match event:
            case ev.ToolStart() if event.name == self._name:
                self._in_text = True
                return ev.TextDelta("", event.choice)
            case ev.ToolStart():
                self._in_text, self._calls = False, True
            case ev.ToolDelta() if self._in_text:
                return ev.TextDelta(event.arguments, event.choice)
            case ev.PartEnd():
                self._in_text = False
            case ev.Stopped() if event.reason == "tools" and not self._calls:
                return msgspec.structs.replace(event, reason="end")
        return event

    def _whole(self, choice: ev.Choice) -> ev.Choice:
        parts: tuple[Part, ...] = tuple(
            Text(part.arguments) if isinstance(part, ToolCall) and part.name == self._name else part
            for part in choice.parts
        )
        calls = any(isinstance(part, ToolCall) for part in parts)
        stop: ev.StopReason | None = "end" if choice.stop == "tools" and not calls else choice.stop
        return msgspec.structs.replace(choice, parts=parts, stop=stop)
