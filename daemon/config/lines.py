"""On which line of a TOML text each key stands.

tomllib keeps no positions, and tomlkit is too slow to load for a command that only reads. This
scanner runs only when there is something to report, and only over text that tomllib has taken,
so it may trust that text to be TOML.
"""

import re
from bisect import bisect_right

# What leads to a value: table names, keys, and indexes into arrays.
At = tuple[str | int, ...]

_SPACE = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_STRING = r'"""(?:\\.|[^\\])*?"{3,5}|' + r"'''.*?'{3,5}|" + r'"(?:\\.|[^"\\])*"|' + r"'[^']*'"
_KEY = re.compile(rf"[A-Za-z0-9_-]+|{_STRING}", re.DOTALL)
_SCALAR = re.compile(rf"{_STRING}|[^,\]}}#\n]*", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|x([0-9A-Fa-f]{2})|(.))")
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}


def lines_of(text: str) -> dict[At, int]:
    """Return the line, counted from 1, of every table, key and array item of a valid TOML text.

    A table that is named more than once stands where it is named first.
    """
    scan = _Scan(text)
    scan.document()
    return scan.lines


class _Scan:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[At, int] = {}
        self._ends = [found.start() for found in re.finditer("\n", text)]
        self._counts: dict[At, int] = {}  # arrays of tables: how many so far

    def document(self) -> None:
        table: At = ()
        while self._peek():
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> At:
        many = self.text.startswith("[[", self.at)
        line = self._line()
        self.at += 2 if many else 1
        names = self._key()
        self._peek()
        self.at += 2 if many else 1
        table: At = ()
        for number, name in enumerate(names, start=1):
            table = (*table, name)
            self.lines.setdefault(table, line)
            if many and number == len(names):
                self._counts[table] = self._counts.get(table, 0) + 1
            if table in self._counts:
                table = (*table, self._counts[table] - 1)
                self.lines.setdefault(table, line)
        return table

    def _pair(self, table: At) -> None:
        line = self._line()
        for name in self._key():
            table = (*table, name)
            self.lines.setdefault(table, line)
        self._peek()
        self.at += 1  # the equals sign
        self._value(table)

    def _key(self) -> list[str]:
        names = []
        while True:
            self._peek()
            names.append(_unquoted(self._take(_KEY)))
            if self._peek() != ".":
                return names
            self.at += 1

    def _value(self, place: At) -> None:
        match self._peek():
            case "[":
                self._items(place)
            case "{":
                self._inline(place)
            case _:
                self._take(_SCALAR)

    def _items(self, place: At) -> None:
        self.at += 1
        number = 0
        while self._peek() != "]":
            self.lines[(*place, number)] = self._line()
            self._value((*place, number))
            number += 1
            if self._peek() == ",":
                self.at += 1
        self.at += 1

    def _inline(self, place: At) -> None:
        self.at += 1
        while self._peek() != "}":
            self._pair(place)
            if self._peek() == ",":
                self.at += 1
        self.at += 1

    def _peek(self) -> str:
        """Skip space and comments; return the next character, "" at the end."""
        self._take(_SPACE)
        return self.text[self.at : self.at + 1]

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise ValueError("text that is no TOML came to the scanner")
        self.at = found.end()
        return found[0]

    def _line(self) -> int:
        return bisect_right(self._ends, self.at) + 1


def _unquoted(text: str) -> str:
    if text[0] == "'":
        return text[1:-1]
    if text[0] != '"':
        return text
    return _ESCAPE.sub(_meaning, text[1:-1])


def _meaning(found: re.Match[str]) -> str:
    code = found[1] or found[2] or found[3]
    return chr(int(code, 16)) if code else _ESCAPED.get(found[4], found[4])
