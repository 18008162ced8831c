"""Tool calls of Kimi, DeepSeek and others: a name and, apart from it, arguments as JSON.

<|tool_call_begin|>functions.look:0<|tool_call_argument_begin|>{"city": "Paris"}<|tool_call_end|>
"""

import re
from collections.abc import Sequence

import msgspec

from tollway.providers.llamacpp.calls import new_call_id
from tollway.providers.llamacpp.frames import CallPiece, Message
from tollway.providers.llamacpp.schema import quoted
from tollway.providers.llamacpp.styles import Frame

_NAME_MOST = 256  # with what stands around it
_PLACE = re.compile(r":\d+$")


class FramedScanner:
    """Reads calls a character at a time. See `calls.CallScanner`, whose place it takes."""

    refused = False

    def __init__(self, frame: Frame) -> None:
        self.begun = 0
        self.ended = 0
        self._frame = frame
        self._state = "between"
        self._held = ""
        self._depth = 0
        self._in_text = self._escaped = False

    @property
    def between(self) -> bool:
        """Whether no call is being read, or one whose arguments have not begun."""
        return self._state in {"between", "arguments"} and not self._held.strip()

    def ends(self) -> list[CallPiece]:
        """Return the end of a call without arguments, now that what it stands in has ended."""
        return self._end("{}") if self._state == "arguments" else []

    def unclaimed(self) -> str:
        """Return nothing: a mark has told that this is a call."""
        return ""

    def feed(self, char: str) -> list[CallPiece]:
        """Return what one character more makes certain."""
        if self._state == "object":
            return self._object(char)
        self._held += char
        if self._state == "between":
            self._between()
            return []
        return self._name() if self._state == "name" else self._arguments()

    def _between(self) -> None:
        opens = self._frame.open
        ahead = self._held.lstrip()
        if ahead and ahead.startswith(opens):
            self._held, self._state = ahead[len(opens) :], "name"
            return
        # What is no call is nothing here, up to where one may begin.
        while ahead and not opens.startswith(ahead):
            ahead = ahead[1:].lstrip()
        self._held = ahead

    def _name(self) -> list[CallPiece]:
        name, found, _ = self._held.partition(self._frame.sep.strip())
        if not found:
            if len(self._held) > _NAME_MOST:
                self._held, self._state = "", "between"
            return []
        if self._frame.lead:
            name = name.rpartition(self._frame.lead)[2]
        name = (_PLACE.sub("", name.strip()) if self._frame.counted else name).strip()
        self._held, self._state = "", "arguments" if name else "between"
        if not name:
            return []
        self.begun += 1
        return [CallPiece(self.begun - 1, new_call_id(), name)]

    def _arguments(self) -> list[CallPiece]:
        """Read what stands before the arguments, or in their place."""
        ahead = self._held = self._held.lstrip()
        if ahead.startswith("{"):
            self._held, self._state, self._depth = "", "object", 1
            self._in_text = self._escaped = False
            return [CallPiece(self.begun - 1, arguments="{")]
        close = self._frame.close.strip()
        if close and ahead == close:
            return self._end("{}")
        if not close.startswith(ahead):
            self._held = ""
        return []

    def _object(self, char: str) -> list[CallPiece]:
        if self._in_text:
            ends = char == '"' and not self._escaped
            self._escaped = char == "\\" and not self._escaped
            self._in_text = not ends
        elif char == '"':
            self._in_text = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            if not self._depth:
                return self._end(char)
        return [CallPiece(self.begun - 1, arguments=char)]

    def _end(self, said: str) -> list[CallPiece]:
        self._held, self._state = "", "between"
        self.ended += 1
        return [CallPiece(self.begun - 1, arguments=said)]


def call_rule(frame: Frame, name: str, arguments: str) -> str:
    """Return the expression of a call of a tool, whose arguments have one of their own."""
    place = '":" [0-9]{1,4}' if frame.counted else ""
    close = quoted(frame.close) if frame.close else ""
    head = quoted(f"{frame.open}{frame.lead}{name}")
    return f"{head} {place} {quoted(frame.sep)} {arguments} {close}"


def written(frame: Frame, call_id: str, name: str, arguments: str) -> str:
    """Return a call as its model has written it."""
    named = call_id if frame.counted else f"{frame.lead}{name}"
    return f"{frame.open}{named}{frame.sep}{arguments}{frame.close}"


def with_places(frame: Frame, messages: Sequence[Message]) -> list[Message]:
    """Return a conversation whose calls have the ids that their model gave them.

    Templates write those in the name's place, and clients give back what others told them.
    """
    ids: dict[str, str] = {}
    found: list[Message] = []
    count = 0
    for message in messages:
        calls = []
        for call in message.calls:
            ids[call.id] = f"{frame.lead}{call.name}:{count}"
            calls.append(msgspec.structs.replace(call, id=ids[call.id]))
            count += 1
        call_id = ids.get(message.call_id, message.call_id)
        found.append(msgspec.structs.replace(message, calls=calls, call_id=call_id))
    return found
