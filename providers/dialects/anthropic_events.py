"""Reads an Anthropic message, streamed or whole, into the events of the neutral form."""

from typing import Any

import msgspec

from tollway.providers import events as ev
from tollway.providers.conversation import Conversation, Opaque, Thinking, Tool
from tollway.providers.dialects import anthropic_usage as reports
from tollway.providers.dialects.anthropic_ask import tool_name
from tollway.providers.dialects.anthropic_citations import citation
from tollway.providers.dialects.anthropic_errors import error_within
from tollway.providers.dialects.anthropic_said import NAME
from tollway.providers.dialects.wire import (
    UNREADABLE,
    CallIds,
    Names,
    canonical,
    text_of,
    unwrapped,
)
from tollway.providers.errors import UpstreamBroke
from tollway.providers.fold import fold
from tollway.providers.sse import Event

REASONS: dict[str, ev.StopReason] = {
    "end_turn": "end",
    "max_tokens": "length",
    "model_context_window_exceeded": "window",
    "stop_sequence": "stop_sequence",
    "tool_use": "tools",
    "refusal": "refusal",
    "pause_turn": "paused",
}


class _Block(msgspec.Struct):
    type: str
    text: str | None = None
    citations: Any = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw()


class _Delta(msgspec.Struct):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    citation: Any = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: Any = None  # of a refusal


class _Message(msgspec.Struct):
    type: str | None = None
    id: str | None = None
    model: str | None = None
    content: list[msgspec.Raw] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: Any = None
    usage: Any = None
    error: Any = None


class _Event(msgspec.Struct):
    type: str
    index: Any = None
    delta: _Delta | None = None
    content_block: msgspec.Raw = msgspec.Raw()
    message: _Message | None = None
    usage: Any = None


_KNOWN = frozenset({"text", "thinking", "redacted_thinking", "tool_use"})
_EVENT = msgspec.json.Decoder(_Event)
_MESSAGE = msgspec.json.Decoder(_Message)
_BLOCK = msgspec.json.Decoder(_Block)
_OBJECT = msgspec.json.Decoder(dict[str, Any])
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


class Reader:
    """Reads one attempt's answer; see `EventReader` for what its methods give."""

    def __init__(self, said: Conversation) -> None:
        self.ended = False
        self.dropped: set[str] = set()
        tools = [tool for tool in said.tools if isinstance(tool, Tool)]
        self._names = Names(tool_name, tuple(tool.name for tool in tools))
        # Plain-text tools stand in the request as tools with one argument.
        self._wrapped = frozenset(tool.name for tool in tools if tool.kind == "custom")
        self._counts: reports.Counts = {}
        self._id = ""
        self._ids = CallIds(said)
        self._open = ""  # the type of the open block
        self._at: Any = None  # and its index
        self._early: list[_Event] = []  # of blocks that began before the open one had ended
        self._plain = False  # it is a call of a plain-text tool
        self._pieces: list[str] = []  # its JSON, where that must be whole to be read
        self._block: dict[str, Any] = {}  # what began a block that has no events of its own
        self._empty = True  # the open call has no arguments yet
        self._cited: list[ev.Event] = []  # by the open text, of which they come first

    def event(self, event: Event) -> list[ev.Event]:
        """Return what one event of a stream means.

        Raises:
            UpstreamBroke: It is no event of a message.
        """
        data = event.data
        if data is None:
            if event.cut:
                raise UpstreamBroke("The provider sent an event that is too large to translate")
            return []
        said = _decode(data, event.name)
        if said.type == "error":
            return [_failed(data)]
        out: list[ev.Event] = []
        if self._is_early(said):
            self._early.append(said)
        else:
            self._one(said, out)
        return out

    def _is_early(self, said: _Event) -> bool:
        """Whether an event is of another block than the open one, which must end first.

        Anthropic sends one block after the other; servers that speak its dialect may mix them.
        """
        if not self._open or type(said.index) is not int or said.index == self._at:
            return False
        return type(self._at) is int

    def _catch_up(self, out: list[ev.Event]) -> None:
        """Read what came early, block by block."""
        early, self._early = self._early, []
        while early and not self._open:
            first = early[0].index
            for said in [one for one in early if one.index == first]:
                self._one(said, out)
            early = [one for one in early if one.index != first]
        self._early = early

    def _one(self, said: _Event, out: list[ev.Event]) -> None:
        match said.type:
            case "content_block_delta":
                if said.delta is not None:
                    self._delta(said.delta, out)
            case "content_block_start":
                self._begin(said.content_block, out)
                self._at = said.index
            case "content_block_stop":
                self._end_block(out)
                if self._early:
                    self._catch_up(out)
            case "message_start":
                self._start(said.message or _Message(), out)
            case "message_delta":
                self._end_all(out)
                self._report(said.usage, out)
                self._stop(said.delta or _Delta(), out)
            case "message_stop":
                self.ended = True

    def _end_all(self, out: list[ev.Event]) -> None:
        """End the open block, and those that waited for its end in vain."""
        while self._early:
            if self._open:
                self._end_block(out)
            self._catch_up(out)

    def end(self) -> list[ev.Event]:
        """Return what was held back: a block that the stream did not end."""
        out: list[ev.Event] = []
        self._end_all(out)
        if self._open:
            self._end_block(out)
        return out

    def whole(self, body: bytes) -> ev.Answer:
        """Return a whole, unstreamed answer.

        Raises:
            UpstreamBroke: It is no message.
        """
        try:
            message = _MESSAGE.decode(body)
        except UNREADABLE as fault:
            raise _unreadable(fault) from None
        if message.content is None or message.error:
            raise UpstreamBroke("The provider's answer is no message")
        out: list[ev.Event] = []
        self._start(message, out)
        for raw in message.content:
            self._begin(raw, out)
            self._end_block(out)
        self._stop(message, out)
        self.ended = True
        return fold(out)

    def _start(self, message: _Message, out: list[ev.Event]) -> None:
        self._id = message.id or ""
        out.append(ev.Start(self._id, message.model or ""))
        self._report(message.usage, out)

    def _report(self, used: object, out: list[ev.Event]) -> None:
        found = reports.counts(used)
        if found:
            self._counts = {**self._counts, **found}
            usage = reports.disjoint(self._counts)
            if usage is not None:
                out.append(ev.UsageReport(usage))

    def _stop(self, delta: _Delta | _Message, out: list[ev.Event]) -> None:
        if delta.stop_reason is not None:
            reason = REASONS.get(delta.stop_reason, "other")
            why = delta.stop_details if reason == "refusal" else None
            if isinstance(why, dict) and (words := text_of(why, "explanation")):
                out.append(ev.RefusalDelta(words))
            out.append(ev.Stopped(reason, delta.stop_sequence or ""))

    def _begin(self, raw: msgspec.Raw, out: list[ev.Event]) -> None:
        if self._open:
            self._end_block(out)
        try:
            block = _BLOCK.decode(raw)
            known = block.type in _KNOWN
            # What stands in it was skipped until now, so that it may be no text at all.
            self._block = {} if known else _OBJECT.decode(raw)
            arguments = bytes(block.input).decode()
        except UNREADABLE as fault:
            raise _unreadable(fault) from None
        self._open = block.type
        match block.type:
            case "text":
                if block.text:
                    out.append(ev.TextDelta(block.text))
                for cited in block.citations if isinstance(block.citations, list) else ():
                    self._cite(cited)
            case "thinking":
                if block.thinking:
                    out.append(ev.ThinkingDelta(block.thinking))
                if block.signature:
                    out.append(ev.Signed(NAME, block.signature))
            case "redacted_thinking":
                out.append(ev.PartWhole(Thinking(encrypted=block.data or "", by=NAME)))
            case "tool_use":
                self._call(block, arguments, out)

    def _call(self, block: _Block, arguments: str, out: list[ev.Event]) -> None:
        name = self._names.ours(block.name or "")
        self._plain = name in self._wrapped
        self._empty = True
        kind = "custom" if self._plain else "function"
        out.append(ev.ToolStart(self._ids.own(block.id or "", self._id), name, kind))  # type: ignore[arg-type]
        if arguments.strip("{} \n") and arguments != "null":
            self._json(arguments, out)

    def _delta(self, delta: _Delta, out: list[ev.Event]) -> None:
        match delta.type:
            case "text_delta":
                if delta.text:
                    out.append(ev.TextDelta(delta.text))
            case "input_json_delta":
                if delta.partial_json:
                    self._json(delta.partial_json, out)
            case "thinking_delta":
                if delta.thinking:
                    out.append(ev.ThinkingDelta(delta.thinking))
            case "signature_delta":
                if delta.signature:
                    out.append(ev.Signed(NAME, delta.signature))
            case "citations_delta":
                self._cite(delta.citation)

    def _json(self, text: str, out: list[ev.Event]) -> None:
        self._empty = False
        if self._block or self._plain:
            self._pieces.append(text)
        else:
            out.append(ev.ToolDelta(text))

    def _cite(self, said: object) -> None:
        """Keep what a text rests on until the text is there: it is about all of it."""
        if isinstance(said, dict):
            self._cited.append(ev.CitationAdded(citation(said)))

    def _end_block(self, out: list[ev.Event]) -> None:
        out += self._cited
        self._cited.clear()
        if self._block:
            self._whole_block(out)
        elif self._open == "tool_use":
            if self._plain:
                out.append(ev.ToolDelta(unwrapped("".join(self._pieces))))
            elif self._empty:
                out.append(ev.ToolDelta("{}"))
            out.append(ev.PartEnd())
        elif self._open != "redacted_thinking":
            out.append(ev.PartEnd())
        self._pieces.clear()
        self._open, self._plain, self._block = "", False, {}

    def _whole_block(self, out: list[ev.Event]) -> None:
        if self._pieces:
            try:
                self._block["input"] = _ANY.decode("".join(self._pieces))
            except UNREADABLE:
                self._block["input"] = {}  # the stream was cut within it
        payload = canonical(self._block)
        out.append(ev.PartWhole(Opaque(NAME, payload, self._open)))


def _decode(data: bytes, name: bytes | None) -> _Event:
    try:
        return _EVENT.decode(data)
    except UNREADABLE as fault:
        if name == b"error" or b'"error"' in data[:200]:
            return _Event("error")  # an error may have any shape; whoever sends one means it
        raise _unreadable(fault) from None


def _unreadable(fault: Exception) -> UpstreamBroke:
    return UpstreamBroke(f"The provider's answer cannot be read: {str(fault)[:200]}")


def _failed(data: bytes) -> ev.Failed:
    error = error_within(data)
    return ev.Failed(error.status, error.message, data)
