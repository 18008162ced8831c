"""Reads an answer of Cohere's over the client's shoulder: its usage, how it ended, how much came.

The one rule: it never raises and holds nothing back. What it cannot read is counted by its bytes.
"""

from typing import Any, Final

import msgspec

from tollway.providers.canon import Call, Usage
from tollway.providers.dialects.error_words import error_within
from tollway.providers.errors import UpstreamRefused
from tollway.providers.sse import Event

NAME: Final = "cohere"
FAILED: Final = frozenset({"ERROR", "TIMEOUT"})

# A tool call's own frame, which shows nowhere.
_CALL = 32
_UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)
_MOST = 2**40
_DONE = b"[DONE]"
_OBJECT = msgspec.json.Decoder(dict[str, Any])


class Reader:
    """Reads one attempt's answer; see `AnswerReader` for what its fields say."""

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
        self.model = ""  # its answers do not say
        self.finish_reasons: list[str] = []
        self.alike = None
        self._embeds = call.endpoint == "embeddings"

    def event(self, event: Event) -> bool:
        """Read one event of a stream; the client is shown all of them, in its own dialect."""
        if event.data is None:
            self.produced += len(event.raw) if event.cut else 0
        elif event.data.strip() == _DONE:
            self.last = True
        else:
            self._read(event.data)
        return True

    def whole(self, body: bytes) -> None:
        """Read a whole, unstreamed answer."""
        try:
            said = _OBJECT.decode(body)
        except _UNREADABLE:
            self.produced += len(body)
            return
        self.upstream_id = _text(said, "id")
        if self._embeds:
            self.begun = self.ended = isinstance(said.get("embeddings"), dict | list)
            meta = said.get("meta")
            self._used(meta if isinstance(meta, dict) else {})
            return
        message = said.get("message")
        if isinstance(message, str):  # as in its errors
            self.failed = error_within(body)
        if not isinstance(message, dict):
            return
        self.begun = True
        self.produced += visible(message)
        self._end(said)

    def end_early(self) -> bytes:
        """Return nothing: whoever reads this dialect's streams is shown another's."""
        return b""

    def _read(self, data: bytes) -> None:
        try:
            said = _OBJECT.decode(data)
        except _UNREADABLE:
            self.produced += len(data)
            return
        kind = said.get("type")
        delta = said.get("delta")
        if kind == "message-start":
            self.begun = True
            self.upstream_id = _text(said, "id")
        elif kind == "message-end":
            self.begun = True
            self._end(delta if isinstance(delta, dict) else {})
        elif isinstance(delta, dict) and isinstance(message := delta.get("message"), dict):
            self.begun = True
            self.produced += visible(message)

    def _end(self, said: dict[str, Any]) -> None:
        used = said.get("usage")
        self._used(used if isinstance(used, dict) else {})
        reason = said.get("finish_reason")
        if isinstance(reason, str) and reason in FAILED:
            self.failed = error_within(msgspec.json.encode(said))
        elif reason is not None:
            self.ended = True
            if isinstance(reason, str):
                self.finish_reasons = [reason]

    def _used(self, said: dict[str, Any]) -> None:
        if said:
            self.raw_usage = msgspec.json.encode(said).decode()
            self.usage = usage_of(said)


def visible(message: dict[str, Any]) -> int:
    """Return the bytes of what a message, or a piece of one, says; citations only repeat it."""
    total = len(_text(message, "tool_plan").encode())
    for name in ("content", "tool_calls"):
        said = message.get(name)
        for one in said if isinstance(said, list) else [said]:
            if isinstance(one, dict):
                total += _part(one)
            elif isinstance(one, str):
                total += len(one.encode())
    return total


def _part(part: dict[str, Any]) -> int:
    total = len(_text(part, "text").encode()) + len(_text(part, "thinking").encode())
    if isinstance(called := part.get("function"), dict):
        name, arguments = _text(called, "name"), _text(called, "arguments")
        total += (_CALL if name else 0) + len(name.encode()) + len(arguments.encode())
    return total


def usage_of(said: dict[str, Any]) -> Usage | None:
    """Return what a report of usage bills, or None where it tells no tokens.

    `billed_units` are what is paid for; `tokens` beside them count Cohere's own instructions and
    thoughts too, for which nothing is charged, and which stay in the ledger's raw report.
    """
    for name in ("billed_units", "tokens"):
        units = said.get(name)
        if isinstance(units, dict) and (read := _count(units, "input_tokens")) is not None:
            seen = _count(units, "image_tokens") or 0
            return Usage(input=read, image_input=seen, output=_count(units, "output_tokens") or 0)
    return None


def _count(said: dict[str, Any], name: str) -> int | None:
    value = said.get(name)
    if type(value) is float and value.is_integer():
        value = int(value)  # as their own library has them
    return value if type(value) is int and 0 <= value <= _MOST else None


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name)
    return value if type(value) is str else ""
