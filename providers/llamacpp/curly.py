"""Tool calls of Gemma: JSON without quotes around keys, and a token of its own around texts.

call:look{city:<|"|>Paris<|"|>,days:3}
"""

import json
from typing import Any

import msgspec

from tollway.providers.llamacpp.calls import PYTHON_WORDS, escaped, new_call_id, strict_json
from tollway.providers.llamacpp.frames import CallPiece
from tollway.providers.llamacpp.plain import plain_rule
from tollway.providers.llamacpp.schema import Grammar, Schema, quoted
from tollway.providers.llamacpp.schema_parts import SchemaRefused

_CALL = "call:"
_NAME_MOST = 128


class CurlyScanner:
    """Reads calls a character at a time. See `calls.CallScanner`, whose place it takes."""

    refused = False

    def __init__(self, quote: str) -> None:
        self.begun = 0
        self.ended = 0
        self._quote = quote
        self._state = "between"
        self._held = ""
        self._open: list[str] = []  # the brackets that are open
        self._key = False  # a key comes next

    @property
    def between(self) -> bool:
        """Whether no call is being read."""
        return self._state == "between" and not self._held.strip()

    def ends(self) -> list[CallPiece]:
        """Return nothing: a call's own brackets end it."""
        return []

    def unclaimed(self) -> str:
        """Return nothing: a mark has told that this is a call."""
        return ""

    def feed(self, char: str) -> list[CallPiece]:
        """Return what one character more makes certain."""
        self._held += char
        if self._state == "between":
            return self._between()
        said = getattr(self, f"_in_{self._state}")()
        if self._open:
            return [CallPiece(self.begun - 1, arguments=said)] if said else []
        self._state, self._held = "between", ""
        self.ended += 1
        return [CallPiece(self.begun - 1, arguments=said)]

    def _between(self) -> list[CallPiece]:
        ahead = self._held.lstrip()
        if not ahead.startswith(_CALL):
            self._held = ahead if _CALL.startswith(ahead) else ""
            return []
        name, found, _ = ahead[len(_CALL) :].partition("{")
        if not found:
            if len(name) > _NAME_MOST:
                self._held = ""
            return []
        self._held, self._state, self._open, self._key = "", "plain", ["{"], True
        self.begun += 1
        return [CallPiece(self.begun - 1, new_call_id(), name.strip(), "{")]

    def _in_plain(self) -> str:
        """Read what is no text: brackets, words, and where a text begins."""
        held = self._held
        if self._quote.startswith(held.lstrip()) and held.strip():
            if held.lstrip() != self._quote:
                return ""
            self._held, self._state = "", "text"
            return '"'
        char = held[-1]
        if char == '"' and not self._quote.startswith(held.lstrip()):  # as in JSON
            self._held, self._state = "", "json"
            return '"'
        if char not in "{}[],:" or (char == ":" and not self._key):
            self._held = held.lstrip()
            return ""
        word, self._held = held[:-1].strip(), ""
        return self._word(word) + self._sign(char)

    def _word(self, word: str) -> str:
        if not word:
            return ""
        word = PYTHON_WORDS.get(word, word)
        with_quotes = json.dumps(word, ensure_ascii=False)
        try:
            return with_quotes if self._key else json.dumps(strict_json(word))
        except ValueError:
            return with_quotes

    def _sign(self, char: str) -> str:
        match char:
            case "{" | "[":
                self._open.append(char)
            case "}" | "]":
                self._open.pop()
        inside = bool(self._open) and self._open[-1] == "{"
        self._key = inside and char in "{,"
        return {",": ", ", ":": ": "}.get(char, char)

    def _in_text(self) -> str:
        text, found, _ = self._held.partition(self._quote)
        if found:
            self._held, self._state = "", "plain"
            return f'{escaped(text)}"'
        most = min(len(text), len(self._quote) - 1)
        doubt = next((n for n in range(most, 0, -1) if self._quote.startswith(text[-n:])), 0)
        cut = len(text) - doubt
        self._held = text[cut:]
        return escaped(text[:cut])

    def _in_json(self) -> str:
        if self._held == "\\":
            return ""
        said, self._held = self._held, ""
        if said == '"':
            self._state = "plain"
        return said


class CurlyGrammar(Grammar):
    """The grammar of such arguments; `base` are the rules that it has in place of JSON's."""

    any, any_key, text_rule, letter = "cvalue", "ckey", "ctext", "cletter"

    def __init__(self, root: Schema, quote: str) -> None:
        super().__init__(root)
        self.quote = quoted(quote)
        self.base = {
            # No sign of the quote's beginning is within a text: all that is lost is that sign.
            "cletter": "[^<\\x00]",
            "ctext": f"{self.quote} cletter* {self.quote}",
            "ckey": "[a-zA-Z_] [a-zA-Z0-9_]{0,63}",
            "cpair": 'ckey ":" cvalue',
            "cobject": '"{" (cpair ("," cpair)*)? "}"',
            "carray": '"[" (cvalue ("," cvalue)*)? "]"',
            "cvalue": "cobject | carray | ctext | number | boolean | null",
        }

    def call(self, name: str, schema: Schema, whole: Grammar) -> str:
        """Return the expression of a call of a tool by this name; `whole` gets the base's rules.

        Raises:
            SchemaRefused: Its parameters have a part that cannot be promised in this form.
        """
        whole.rules.update(self.base)
        return f"{quoted(_CALL + name)} {self.value(schema)}"

    def key(self, name: str) -> str:
        """See `Grammar`."""
        if not name.replace("_", "a").replace("-", "a").replace(".", "a").isalnum():
            raise SchemaRefused(f"The property `{name}` cannot be told in this form")
        return quoted(name)

    def one_of(self, values: list[Any]) -> str:
        """See `Grammar`."""
        return " | ".join(dict.fromkeys(map(self._literal, values)))

    def _literal(self, value: Any) -> str:
        match value:
            case str():
                if "<" in value:
                    raise SchemaRefused(f"`{value}` cannot be told in this form")
                return f"{self.quote} {quoted(value)} {self.quote}"
            case list() | dict() if value:
                raise SchemaRefused("Constant lists and objects cannot be told in this form")
        return quoted(msgspec.json.encode(value).decode())

    def pattern(self, pattern: str, least: int, most: float) -> str:
        """See `Grammar`."""
        return plain_rule(super().pattern(pattern, least, most))
