r"""Regular expressions of a JSON schema, as expressions of a grammar.

A part of the language, and of what it matches only what stands in a JSON string without escapes
but `\"`, `\\`, `\t`, `\n` and `\r`.
"""

import math
from bisect import bisect_left

from tollway.providers.llamacpp.formats import Format

_DIGIT, _WORD = "0-9", "A-Za-z0-9_"
_CLASSES = {"d": _DIGIT, "w": _WORD, "s": " "}
# What these leave of ASCII: which signs beyond are letters, digits or space is told differently.
_NOT_CLASSES = {"D": " !#-/:-[\\]-~", "W": " !#-/:-@[\\]^`{-~", "S": "!#-[\\]-~"}
_CONTROLS = {"t": '"\\\\t"', "n": '"\\\\n"', "r": '"\\\\r"'}
_MAX_TIMES = 1000
_MAX_BRACKETS = 20
# What a JSON string holds without an escape, within one line.
_NEVER = '"\\\\\\x00-\\x1F\\x7F'
_SPECIAL = set(".^$*+?()[]{}|\\")
_ESCAPED_IN_JSON = ('"', "\\", "\x7f")
_CAPS = (1000, 500, 256, 128, 64, 32, 16, 8, 4, 2, 1)


class PatternRefused(Exception):
    """The expression cannot be a grammar; the text says why."""


def class_of_any() -> str:
    """Return the class of all characters that need no escape in a JSON string."""
    return f"[^{_NEVER}]"


def pattern_rule(pattern: str, least: int = 0, most: float = math.inf) -> str:
    """Return what a string may hold that a pattern matches, of a length between bounds.

    Raises:
        PatternRefused: It cannot be promised.
    """
    found, cap = _read(pattern, 0, math.inf), math.inf
    if found.most > most:
        # What may be repeated without end is repeated less.
        caps = ((cap, _read(pattern, 0, cap)) for cap in _CAPS)
        cap, found = next((pair for pair in caps if pair[1].most <= most), (0, found))
    if found.least < least:
        # Or more: as little more as makes the shortest text long enough.
        floors = range(int(min(cap, _MAX_TIMES)) + 1)
        floor = bisect_left(floors, least, key=lambda floor: _read(pattern, floor, cap).least)
        found = _read(pattern, floor, cap) if floor in floors else found
    if found.least < least or found.most > most:
        raise PatternRefused(f"Texts of `{pattern}` with such a length cannot be promised")
    return f"({found.rule})"


def _read(pattern: str, floor: int, cap: float) -> Format:
    reader = _Reader(pattern, floor, cap)
    begins = reader.take("^")
    ends = pattern.endswith("$") and not pattern.endswith("\\$")
    reader.end = len(pattern) - (1 if ends else 0)
    found = reader.alternatives()
    if reader.at != reader.end:
        raise PatternRefused(f"`{pattern}` has a bracket too many")
    if reader.forked and (begins or ends):
        # `^a|b$` anchors one side of each: rarely meant, and not what a grammar would say.
        raise PatternRefused(f"Put brackets around the alternatives of `{pattern}`")
    # Where it is not anchored it may match anywhere: exactly there is anywhere.
    return found


class _Reader:
    """Reads an expression; what repeats without end does so `floor` to `cap` times."""

    def __init__(self, pattern: str, floor: int, cap: float) -> None:
        self.pattern = pattern
        self.at = 0
        self.end = len(pattern)
        self.forked = False  # has alternatives outside of brackets
        self._depth = 0
        self._floor, self._cap = floor, cap

    def take(self, text: str) -> bool:
        if self.pattern.startswith(text, self.at) and self.at < self.end:
            self.at += len(text)
            return True
        return False

    def alternatives(self) -> Format:
        found = [self._sequence()]
        while self.take("|"):
            self.forked = self.forked or self._depth == 0
            found.append(self._sequence())
        return Format(
            " | ".join(one.rule for one in found),
            min(one.least for one in found),
            max(one.most for one in found),
        )

    def _sequence(self) -> Format:
        parts: list[Format] = []
        while self.at < self.end and self.pattern[self.at] not in "|)":
            parts.append(self._times(self._one()))
        return Format(
            " ".join(one.rule for one in parts) or '""',
            sum(one.least for one in parts),
            sum(one.most for one in parts),
        )

    def _one(self) -> Format:
        char = self._next()
        match char:
            case "(":
                return self._group()
            case "[":
                return Format(self._class(), 1, 1)
            case ".":
                return Format(f"[^{_NEVER}\\u2028\\u2029]", 1, 1)
            case "\\":
                return Format(self._escaped(), 1, 1)
            case "^" | "$" | "*" | "+" | "?" | "{":
                raise PatternRefused(f"`{char}` of the pattern `{self.pattern}` is not supported")
        return Format(_literal(char), 1, 1)

    def _group(self) -> Format:
        if self.take("?") and not self.take(":"):
            raise PatternRefused(f"Look-around in `{self.pattern}` is not supported")
        self._depth += 1
        if self._depth > _MAX_BRACKETS:
            raise PatternRefused("A pattern has too many brackets in one another")
        found = self.alternatives()
        self._depth -= 1
        if not self.take(")"):
            raise PatternRefused(f"`{self.pattern}` has a bracket that is not closed")
        return Format(f"({found.rule})", found.least, found.most)

    def _escaped(self) -> str:
        char = self._next()
        if char in _CONTROLS:
            return _CONTROLS[char]
        if found := _CLASSES.get(char) or _NOT_CLASSES.get(char):
            return f"[{found}]"
        if char in _SPECIAL or not char.isalnum():
            return _literal(char)
        raise PatternRefused(f"`\\{char}` in the pattern `{self.pattern}` is not supported")

    def _class(self) -> str:
        negative = self.take("^")
        parts: list[str] = []
        while not self.take("]"):
            char = self._next()
            if char == "\\":
                char = self._next()
                if char in _CONTROLS and negative:
                    continue  # a control character is never said plainly anyhow
                if found := _CLASSES.get(char) or (not negative and _NOT_CLASSES.get(char)):
                    parts.append(found)
                    continue
                if char.isalnum():
                    raise PatternRefused(f"`\\{char}` in `{self.pattern}` is not supported")
            parts += self._range(char)
        if negative:
            return f"[^{''.join(parts)}{_NEVER}]"
        if not parts:
            raise PatternRefused(f"A class of `{self.pattern}` has nothing that JSON says plainly")
        return f"[{''.join(parts)}]"

    def _range(self, first: str) -> list[str]:
        """Return a character of a class, or a range, without what JSON must escape."""
        last = first
        if self.pattern.startswith("-", self.at) and not self.pattern.startswith("-]", self.at):
            self.at += 1
            last = self._next()
            if last == "\\":
                last = self._next()
                if last.isalnum():
                    raise PatternRefused(f"A range of `{self.pattern}` has no end")
            if last < first:
                raise PatternRefused(f"A range of `{self.pattern}` is the wrong way round")
        parts: list[str] = []
        begin = max(ord(first), 0x20)
        for hole in (*sorted(map(ord, _ESCAPED_IN_JSON)), ord(last) + 1):
            end = min(hole - 1, ord(last))
            if begin <= end:
                ends = [_in_class(chr(begin)), _in_class(chr(end))]
                parts.append(ends[0] if begin == end else "-".join(ends))
            begin = max(begin, hole + 1)
        return parts

    def _times(self, one: Format) -> Format:
        for sign, low, high in (("*", 0, math.inf), ("+", 1, math.inf), ("?", 0, 1)):
            if self.take(sign):
                self.take("?")  # as few as possible: the same strings
                return self._repeated(one, low, high)
        if not self.take("{"):
            return one
        inside, closed, _ = self.pattern[self.at : self.end].partition("}")
        least, comma, most = inside.partition(",")
        if not closed or not _is_number(least) or (most and not _is_number(most)):
            raise PatternRefused(f"`{{{inside}}}` in `{self.pattern}` is not supported")
        if max(int(least), int(most or 0)) > _MAX_TIMES or (most and int(most) < int(least)):
            raise PatternRefused(f"`{{{inside}}}` in `{self.pattern}` is too many")
        self.at += len(closed + inside)
        self.take("?")
        return self._repeated(
            one, int(least), int(most) if most else math.inf if comma else int(least)
        )

    def _repeated(self, one: Format, least: int, most: float) -> Format:
        if math.isinf(most):
            least = max(least, self._floor)
            most = max(self._cap, least)
        if one.most == 0:
            return one
        until = "" if math.isinf(most) else f"{int(most)}"
        times = f"{{{least}}}" if most == least else f"{{{least},{until}}}"
        most = 0 if most == 0 else most * one.most
        return Format(f"{one.rule}{times}", least * one.least, most)

    def _next(self) -> str:
        if self.at >= self.end:
            raise PatternRefused(f"`{self.pattern}` ends too early")
        self.at += 1
        return self.pattern[self.at - 1]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _literal(char: str) -> str:
    if ord(char) < 0x20 or char == "\x7f":
        raise PatternRefused("A pattern has a control character")
    return {'"': '"\\\\\\""', "\\": '"\\\\\\\\"'}.get(char, f'"{char}"')


def _in_class(char: str) -> str:
    return f"\\{char}" if char in "]\\" else f"\\x{ord(char):02X}" if char in "^-[" else char
