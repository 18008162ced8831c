"""Tool calls of LFM2 and others, written as calls of Python's functions.

[look(city="Paris", days=3), add(a=1, b=None)]
"""

import json

from tollway.providers.llamacpp.calls import PYTHON_WORDS, escaped, new_call_id, strict_json
from tollway.providers.llamacpp.frames import CallPiece
from tollway.providers.llamacpp.schema import Grammar, Schema, quoted
from tollway.providers.llamacpp.schema_parts import SchemaRefused

_NAME_MOST = 128
_CLOSED = {"(": "]", "[": "]", "{": "}"}
_ESCAPES = {"n": "\\n", "t": "\\t", "r": "\\r", "b": "\\b", "f": "\\f", "\\": "\\\\", '"': '\\"'}


class PythonScanner:
    """Reads calls a character at a time. See `calls.CallScanner`, whose place it takes."""

    refused = False

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self._state = "between"
        self._word = ""
        self._open: list[str] = []  # the brackets that are open within an argument
        self._some = False  # arguments came before
        self._quote = ""
        self._escaped = False

    @property
    def between(self) -> bool:
        """Whether no call is being read."""
        return self._state == "between" and not self._word

    def ends(self) -> list[CallPiece]:
        """Return nothing: a call's own brackets end it."""
        return []

    def unclaimed(self) -> str:
        """Return nothing: a mark has told that this is a call."""
        return ""

    def feed(self, char: str) -> list[CallPiece]:
        """Return what one character more makes certain."""
        if self._state == "between":
            return self._between(char)
        said = getattr(self, f"_in_{self._state}")(char)
        if self._state == "between":
            self.ended += 1
        return [CallPiece(self.begun - 1, arguments=said)] if said else []

    def _between(self, char: str) -> list[CallPiece]:
        if char == "(" and self._word:
            name, self._word = self._word, ""
            self._state, self._some, self._open = "key", False, []
            self.begun += 1
            return [CallPiece(self.begun - 1, new_call_id(), name)]
        named = char.isalnum() or char in "_-."
        self._word = self._word + char if named and len(self._word) < _NAME_MOST else ""
        return []

    def _in_key(self, char: str) -> str:
        if char == ")":
            self._state, self._word = "between", ""
            return "}" if self._some else "{}"
        if char != "=":
            self._word = (self._word + char).strip(" \n\t,")
            return ""
        key, self._word = self._word, ""
        begin, self._some, self._state = ", " if self._some else "{", True, "value"
        return f"{begin}{json.dumps(key, ensure_ascii=False)}: "

    def _in_value(self, char: str) -> str:
        if char in "'\"" and not self._word.strip():
            self._quote, self._state, self._word = char, "text", ""
            return '"'
        if char not in "()[]{},:":
            self._word += char
            return ""
        word, self._word = self._word.strip(), ""
        said = _value(word) if word else ""
        if not self._open and char in ",)":
            self._state = "key"
            return said + (self._in_key(char) if char == ")" else "")
        return said + self._sign(char)

    def _sign(self, char: str) -> str:
        if char in "([{":
            self._open.append(char)
            return "{" if char == "{" else "["
        if char in ")]}":
            return _CLOSED[self._open.pop()] if self._open else ""
        return {",": ", ", ":": ": "}[char] if self._open else ""

    def _in_text(self, char: str) -> str:
        if self._escaped:
            self._escaped = False
            return _ESCAPES.get(char, escaped(char))
        if char == "\\":
            self._escaped = True
            return ""
        if char == self._quote:
            self._state = "value"
            return '"'
        return escaped(char)


def _value(word: str) -> str:
    try:
        return json.dumps(strict_json(PYTHON_WORDS.get(word, word)))
    except ValueError:
        return json.dumps(word, ensure_ascii=False)


def written(name: str, arguments: object) -> str:
    """Return a call as its model has written it."""
    given = arguments if isinstance(arguments, dict) else {}
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in given.items())})"


def call_rule(name: str, grammar: Grammar, schema: Schema) -> str:
    """Return the expression of a call of a tool; its values are JSON's, which reads the same.

    Raises:
        SchemaRefused: Its parameters have a part that cannot be promised in this form.
    """
    known, required = grammar.arguments(schema)
    if known is None:
        key = grammar.rule("[a-zA-Z_] [a-zA-Z0-9_]{0,63}")
        pair = grammar.rule(f'{key} "=" value')
        return f'{quoted(f"{name}(")} ({pair} ("," space {pair})*)? ")"'
    if not all(key.isidentifier() for key in known):
        raise SchemaRefused("A property whose name is none in Python cannot be told in this form")
    pairs = {
        key: grammar.rule(f"{quoted(f'{key}=')} {grammar.value(part)} space")
        for key, part in known.items()
    }
    return f'{quoted(f"{name}(")} {grammar.members(pairs, required)} ")"'
