"""Reads an answer of Bedrock's over the client's shoulder: its usage, how it ended, how much came.

The one rule: it never raises and holds nothing back. What it cannot read is counted by its bytes.
"""

from typing import Any, Final

import msgspec

from tollway.providers.canon import Usage
from tollway.providers.dialects.bedrock_errors import exception
from tollway.providers.errors import UpstreamRefused
from tollway.providers.eventstream import EXCEPTION
from tollway.providers.sse import Event

NAME: Final = "bedrock"

# A tool call's own frame, which shows nowhere.
_CALL = 32
_UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)
_MOST = 2**40
_OBJECT = msgspec.json.Decoder(dict[str, Any])
# The texts of a block or of a piece of one, signatures and redacted thoughts included: they stand
# for thoughts that are billed.
_SAID = frozenset({"text", "input", "name", "signature", "redactedContent"})


class Reader:
    """Reads one attempt's answer; see `AnswerReader` for what its fields say."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.produced = 0
        self.begun = False
        self.ended = False
        self.last = False
        self.failed: UpstreamRefused | None = None
        self.raw_usage = ""
        self.upstream_id = ""  # it stands in a header alone
        self.service = ""
        self.model = ""  # its answers do not say
        self.finish_reasons: list[str] = []
        self.alike = None

    def event(self, event: Event) -> bool:
        """Read one message of a stream; the client is shown all of them, in its own dialect."""
        name, data = event.name or b"", event.data or b""
        if name.startswith(EXCEPTION):
            self.failed = exception(name, data)
            return True
        said = self._object(data)
        if said is None:
            return True
        match name:
            case b"messageStart":
                self.begun = True
            case b"contentBlockStart" | b"contentBlockDelta":
                self.begun = True
                self.produced += visible(said.get("start")) + visible(said.get("delta"))
            case b"messageStop":
                self._stop(said)
            case b"metadata":
                self._meta(said)
                self.last = self.ended  # nothing comes behind it
        return True

    def whole(self, body: bytes) -> None:
        """Read a whole, unstreamed answer."""
        said = self._object(body)
        output = said.get("output") if said is not None else None
        message = output.get("message") if isinstance(output, dict) else None
        if said is not None and output is None and isinstance(said.get("message"), str):
            self.failed = exception(b"", body)  # as its errors are
        if said is None or not isinstance(message, dict):
            return
        self.begun = True
        content = message.get("content")
        for block in content if isinstance(content, list) else ():
            self.produced += visible(block)
        self._stop(said)
        self._meta(said)

    def end_early(self) -> bytes:
        """Return nothing: whoever reads this dialect's streams is shown another's."""
        return b""

    def _object(self, data: bytes) -> dict[str, Any] | None:
        try:
            return _OBJECT.decode(data)
        except _UNREADABLE:
            self.produced += len(data)
            return None

    def _stop(self, said: dict[str, Any]) -> None:
        reason = said.get("stopReason")
        self.ended = reason is not None
        if isinstance(reason, str):
            self.finish_reasons = [reason]

    def _meta(self, said: dict[str, Any]) -> None:
        used = said.get("usage")
        if isinstance(used, dict):
            self.raw_usage = msgspec.json.encode(used).decode()
            self.usage = usage_of(used)
        tier = said.get("serviceTier")
        if isinstance(tier, dict) and type(kind := tier.get("type")) is str:
            self.service = kind


def visible(block: object) -> int:
    """Return the bytes of what a block says, or a piece of one; sources only repeat the prompt."""
    total = 0
    stack = [block]
    while stack:
        one = stack.pop()
        if isinstance(one, list):
            stack += one
        elif isinstance(one, dict):
            total += _CALL if "toolUseId" in one else 0
            for key, value in one.items():
                if key in ("citation", "citations"):
                    continue
                if key in _SAID and isinstance(value, str):
                    total += len(value.encode())
                elif key == "input":
                    total += len(msgspec.json.encode(value))
                else:
                    stack.append(value)
    return total


def usage_of(said: dict[str, Any]) -> Usage | None:
    """Return what a report of usage says, or None where the prompt's tokens are not told.

    Cached tokens stand beside the input; `cacheDetails` says which were written for an hour.
    """
    read = _count(said, "inputTokens")
    if read is None:
        return None
    written = _count(said, "cacheWriteInputTokens") or 0
    details = said.get("cacheDetails")
    hour = sum(
        _count(one, "inputTokens") or 0
        for one in (details if isinstance(details, list) else ())
        if isinstance(one, dict) and one.get("ttl") == "1h"
    )
    hour = min(hour, written)
    return Usage(
        input=read,
        cache_read=_count(said, "cacheReadInputTokens") or 0,
        cache_write=written - hour,
        cache_write_1h=hour,
        output=_count(said, "outputTokens") or 0,
    )


def _count(said: dict[str, Any], name: str) -> int | None:
    value = said.get(name)
    return value if type(value) is int and 0 <= value <= _MOST else None
