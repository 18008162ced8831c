"""Reads tool calls out of a model's text, a character at a time, so that arguments can stream."""

import json
import secrets
import string
from collections.abc import Sequence
from typing import Any, NoReturn

from tollway.providers.llamacpp.frames import CallPiece

_NAMES = {"name", "function", "tool_name"}
_ARGUMENTS = {"arguments", "parameters", "args", "input"}
_OTHER = {"id", "type", "index", "tool_call_id"}
_APART = set(" \t\r\n,;")
_LETTERS = string.ascii_letters + string.digits
_NAME_MOST = 128


class CallScanner:
    """Reads calls: objects with a name and arguments, lists of such, or NAME[ARGS]{...}.

    With `names`, `refused` turns true where a text is no call of one of them; `unclaimed` is then
    what was taken for one.
    """

    def __init__(self, names: Sequence[str] | None = None) -> None:
        self._names = None if names is None else set(names)
        self.begun = 0
        self.ended = 0
        self.refused = False
        self._raw = ""  # since the call began that has no name yet
        self._state = "between"
        self._word = ""
        self._reset()

    @property
    def between(self) -> bool:
        """Whether no call is being read."""
        return self._state == "between"

    def feed(self, char: str) -> list[CallPiece]:
        """Return what one character more makes certain."""
        self._raw += char
        match self._state:
            case "between":
                return self._between(char)
            case "named":
                return self._named(char)
        return self._object(char)

    def ends(self) -> list[CallPiece]:
        """Return nothing: a call's own brackets end it."""
        return []

    def unclaimed(self) -> str:
        """Return, once, the text of what turned out to be no call; one cut short is a call."""
        raw, self._raw = "" if self._sent and not self.between else self._raw, ""
        return raw

    def _reset(self) -> None:
        self._depth = 0
        self._base = 1  # the depth at which a call's own keys stand
        self._in_string = self._escaped = False
        self._key = ""
        self._string = ""
        self._wants = "key"
        self._name = self._id = ""
        self._sent = False
        self._arguments = ""  # not given out yet
        self._has_arguments = self._text_arguments = False
        self._any = False  # arguments were given out

    def _between(self, char: str) -> list[CallPiece]:
        if char in _APART or char in "[]":
            if self.ended:
                self._raw = ""
        elif char == "{":
            self._reset()
            self._state, self._depth = "object", 1
        elif char.isalnum() or char in "_-.":
            self._reset()
            self._state, self._word = "named", char
        else:
            self._doubt()
        return []

    def _named(self, char: str) -> list[CallPiece]:
        if char == "{":
            name, _, call_id = self._word.partition("[CALL_ID]")
            self._name = name.replace("[ARGS]", "").strip()
            self._id = call_id.replace("[ARGS]", "").strip()
            self._state, self._depth, self._base = "object", 1, 0
            self._key, self._has_arguments = "arguments", True
            self._doubt(self._name)
            return [*self._head(), *self._give("{")]
        self._word += char
        if len(self._word) > _NAME_MOST:
            self._doubt()
            self._state = "between"
        return []

    def _object(self, char: str) -> list[CallPiece]:
        inside = self._depth > self._base or self._base == 0
        pieces: list[CallPiece] = []
        if self._has_arguments and inside and not self._text_arguments:
            pieces = self._give(char)
        if self._in_string:
            return pieces + self._in_text(char)
        match char:
            case '"':
                self._in_string, self._string = True, ""
                self._begins()
            case "{" | "[":
                self._depth += 1
                pieces += self._opens(char)
            case "}" | "]":
                pieces += self._closes()
            case ":" if self._depth == self._base:
                self._wants = "value"
            case "," if self._depth == self._base:
                self._wants, self._key = "key", ""
            case _ if self._depth == self._base and self._is_value() and not char.isspace():
                # Arguments that are no object: null, a number.
                self._has_arguments = True
        return pieces

    def _is_value(self) -> bool:
        return self._wants == "value" and self._key in _ARGUMENTS and not self._text_arguments

    def _begins(self) -> None:
        if self._depth == self._base and self._is_value() and not self._has_arguments:
            self._has_arguments = self._text_arguments = True

    def _opens(self, char: str) -> list[CallPiece]:
        if self._wants == "value" and self._depth == self._base + 1:
            if self._key == "function" and char == "{":
                self._base, self._wants, self._key = self._depth, "key", ""
            elif self._key in _ARGUMENTS and not self._has_arguments:
                self._has_arguments = True
                return self._give(char)
        return []

    def _closes(self) -> list[CallPiece]:
        self._depth -= 1
        if self._depth == self._base and self._has_arguments and self._base:
            # Nothing of what follows belongs to them.
            self._has_arguments, self._key = False, ""
            return self._flush()
        if self._depth < self._base and self._base > 1 and self._depth:
            self._base = self._depth  # out of {"function": {...}}
            return []
        if self._depth <= 0:
            return self._ended()
        return []

    def _in_text(self, char: str) -> list[CallPiece]:
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._in_string = False
            return self._string_ends() if self._depth == self._base else []
        self._string += char
        return []

    def _string_ends(self) -> list[CallPiece]:
        text = _unquoted(self._string)
        if self._wants == "key":
            self._key = text
            if not self._sent and not self._name:
                known = _NAMES | _ARGUMENTS | _OTHER
                if text not in known:
                    self._doubt()
            return []
        if self._text_arguments:
            self._arguments += text
            self._text_arguments = self._has_arguments = False
            self._key = ""
            return self._flush()
        if self._key in _NAMES and not self._name:
            self._name = text
            self._doubt(text)
            return [*self._head(), *self._flush()]
        if self._key == "id" and not self._sent:
            self._id = text
        return []

    def _doubt(self, name: str = "") -> None:
        """Take note that this is no call, unless it names a tool or calls came before it."""
        if self._names is not None and name not in self._names and not self.ended:
            self.refused = True

    def _head(self) -> list[CallPiece]:
        if self.refused:
            return []
        self._sent, self._raw = True, ""
        call_id = self._id or "".join(secrets.choice(_LETTERS) for _ in range(9))
        self.begun += 1
        self._any = False
        return [CallPiece(self.begun - 1, call_id, self._name)]

    def _give(self, text: str) -> list[CallPiece]:
        self._arguments += text
        return self._flush()

    def _flush(self) -> list[CallPiece]:
        if not self._sent or not self._arguments:
            return []
        text, self._arguments, self._any = self._arguments, "", True
        return [CallPiece(self.begun - 1, arguments=text)]

    def _ended(self) -> list[CallPiece]:
        self._state = "between"
        if not self._sent:
            self._doubt()
            return []
        pieces = self._flush()
        if not self._any:
            pieces.append(CallPiece(self.begun - 1, arguments="{}"))
        self.ended += 1
        self._raw = ""
        return pieces


# Values as Python writes them: some models do so within calls that are nearly JSON.
PYTHON_WORDS = {"None": "null", "True": "true", "False": "false"}


def new_call_id() -> str:
    """Return an id for a call whose model gives it none."""
    return f"call_{secrets.token_hex(12)}"


def escaped(text: str) -> str:
    """Return what stands between the quotation marks of a text in JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def strict_json(text: str) -> Any:
    """Return the value of a JSON text, which Python's `NaN` is none.

    Raises:
        ValueError: It is none.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError as fault:
        raise ValueError("nested too deeply") from fault


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"', strict=False))
    except ValueError:
        return text
