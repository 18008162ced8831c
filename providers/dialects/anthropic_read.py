"""Reads an Anthropic answer over the client's shoulder: its usage, how it ended, how much came.

The one rule: it never raises and holds nothing back. What it cannot read is counted by its bytes.
"""

from typing import Any

import msgspec

from tollway.providers.canon import Call, Usage
from tollway.providers.dialects import anthropic_usage as reports
from tollway.providers.dialects.alike import Alike
from tollway.providers.dialects.anthropic_errors import error_within
from tollway.providers.errors import UpstreamRefused
from tollway.providers.sse import Event

# A block's own frame, which shows nowhere: a tool's brackets and name, marks of thinking.
_BLOCK = 32


class _Delta(msgspec.Struct):
    type: Any = None
    text: Any = None
    thinking: Any = None
    partial_json: Any = None
    citation: Any = None
    stop_reason: Any = None


class _Message(msgspec.Struct):
    id: Any = None
    model: Any = None
    usage: Any = None


class _Event(msgspec.Struct):
    type: Any = None
    index: Any = None
    delta: _Delta | None = None
    content_block: Any = None
    message: _Message | None = None
    usage: Any = None


class _Whole(msgspec.Struct):
    type: Any = None
    id: Any = None
    model: Any = None
    stop_reason: Any = None
    content: Any = None
    usage: Any = None
    error: Any = None
    input_tokens: Any = None


_EVENT = msgspec.json.Decoder(_Event)
_WHOLE = msgspec.json.Decoder(_Whole)
_UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)


class Reader:
    """Reads one attempt's answer; see `AnswerReader` for what its fields say.

    `last` is set by the event that ends the stream, which is to be kept back until the call is
    settled. `begun` waits for the first block: a provider that is overloaded often says so right
    behind `message_start`, and then another target can still answer.
    """

    def __init__(self, call: Call) -> None:
        self.usage: Usage | None = None
        self.produced = 0
        self.begun = False
        self.ended = False
        self.last = False
        self.failed: UpstreamRefused | None = None
        self.raw_usage = ""
        self.upstream_id = ""
        self.service = ""
        self.model = ""
        self.finish_reasons: list[str] = []
        self.alike = Alike()
        self._call = call
        self._counts: reports.Counts = {}
        self._report: dict[str, Any] = {}
        self._open: int | None = None  # the index of the open block
        self._started = False

    def event(self, event: Event) -> bool:
        """Read one event of a stream; the client sees all of them."""
        data = event.data
        if data is None:
            self.produced += len(event.raw) if event.cut else 0
            return True
        if (size := self.alike.text(event.raw)) >= 0:
            self.produced += size
            return True
        try:
            said = _EVENT.decode(data)
        except _UNREADABLE:
            self._unread(data, failed=event.name == b"error")
            return True
        match said.type:
            case "content_block_delta" if said.delta is not None:
                self._grew(said.delta, event)
            case "content_block_start":
                self.begun = True
                self._open = said.index if type(said.index) is int else 0
                self.produced += _BLOCK + _bytes(said.content_block)
            case "content_block_stop":
                self._open = None
            case "message_start":
                self._start(said.message)
            case "message_delta":
                self.begun = True
                self._stopped(said.delta and said.delta.stop_reason)
                self._used(said.usage)
            case "message_stop":
                if self.failed is None:
                    self.begun = self.ended = self.last = True
            case "error":
                self.failed = error_within(data)
        return True

    def whole(self, body: bytes) -> None:
        """Read a whole, unstreamed answer, or the answer to a count."""
        try:
            said = _WHOLE.decode(body)
        except _UNREADABLE:
            self._unread(body, failed=False)
            return
        if self._call.endpoint == "count_tokens":
            self.begun = self.ended = type(said.input_tokens) is int
            self.usage = Usage() if self.ended else None
            return
        if said.error or said.type == "error":
            self.failed = error_within(body)
            return
        if type(said.id) is str:
            self.upstream_id = said.id
        if type(said.model) is str:
            self.model = said.model
        self._stopped(said.stop_reason)
        for block in said.content if type(said.content) is list else ():
            self.produced += _BLOCK + _bytes(block)
        self._used(said.usage)
        self.begun = self.ended = type(said.content) is list

    def end_early(self) -> bytes:
        """Return the events that end the stream here, as if the output limit had been reached."""
        out = b""
        if not self._started:
            message = {
                **{"id": "msg_ended", "type": "message", "role": "assistant", "content": []},
                **{"model": self._call.model, "stop_reason": None, "stop_sequence": None},
                "usage": {"input_tokens": 0, "output_tokens": 0},
            }
            out += _written("message_start", {"message": message})
        if self._open is not None:
            out += _written("content_block_stop", {"index": self._open})
        used = {"output_tokens": 0, **self._report}
        stop = {"stop_reason": "max_tokens", "stop_sequence": None}
        out += _written("message_delta", {"delta": stop, "usage": used})
        return out + _written("message_stop", {})

    def _grew(self, delta: _Delta, event: Event) -> None:
        size = _visible(delta)
        self.produced += size
        text = delta.text or delta.thinking
        if not self.alike.hopeless and type(text) is str and _bytes(text) == size:
            self.alike.learn(event.raw, text)

    def _start(self, message: _Message | None) -> None:
        self._started = True
        if message is not None:
            if type(message.id) is str:
                self.upstream_id = message.id
            if type(message.model) is str:
                self.model = message.model
            self._used(message.usage)

    def _stopped(self, reason: object) -> None:
        if type(reason) is str:
            self.finish_reasons = [reason]

    def _used(self, report: object) -> None:
        if type(report) is not dict:
            return
        self._report = {**self._report, **report}
        self.raw_usage = msgspec.json.encode(self._report).decode()
        self._counts = {**self._counts, **reports.counts(report)}
        usage = reports.disjoint(self._counts)
        if usage is not None:
            self.usage = usage
        tier = report.get("service_tier")
        self.service = tier if type(tier) is str else self.service
        if type(speed := report.get("speed")) is str and speed != "standard":
            self.service = speed

    def _unread(self, data: bytes, *, failed: bool) -> None:
        self.produced += len(data)
        if failed:
            self.failed = error_within(data)


def _written(name: str, said: dict[str, object]) -> bytes:
    data = msgspec.json.encode({"type": name, **said})
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


def _visible(delta: _Delta) -> int:
    """Return the bytes of all that a delta shows; a signature stands for what was thought."""
    total = 0
    for text in (delta.text, delta.thinking, delta.partial_json):
        if type(text) is str:
            total += len(text) if text.isascii() else len(text.encode())
    return total + (_bytes(delta.citation) if delta.citation else 0)


def _bytes(value: object) -> int:
    """Return the UTF-8 bytes of every string in a value."""
    total = 0
    stack = [value]
    while stack:
        one = stack.pop()
        if type(one) is str:
            total += len(one.encode())
        elif type(one) is dict:
            stack += one.values()
        elif type(one) is list:
            stack += one
    return total
