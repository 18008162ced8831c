r"""Regular expressions of a JSON schema, as expressions of a grammar.

A part of the language, and of what it matches only what stands in a JSON string without escapes
but `\"` and `\\`.
"""

_DIGIT, _WORD = "0-9", "A-Za-z0-9_"
_CLASSES = {"d": _DIGIT, "w": _WORD, "s": " "}
_MAX_TIMES = 1000
# What a JSON string holds without an escape, within one line.
_NEVER = '"\\\\\\x00-\\x1F\\x7F'
_SPECIAL = set(".^$*+?()[]{}|\\")


class PatternRefused(Exception):
    """The expression cannot be a grammar; the text says why."""


def class_of_any() -> str:
    """Return the class of all characters that need no escape in a JSON string."""
    return f"[^{_NEVER}]"


def pattern_rule(pattern: str) -> str:
    """Return what a string that a pattern matches may hold.

    Raises:
        PatternRefused: It cannot be promised.
    """
    reader = _Reader(pattern)
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
    return f"({found})"


class _Reader:
    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0
        self.end = len(pattern)
        self.forked = False  # has alternatives outside of brackets
        self._depth = 0

    def take(self, text: str) -> bool:
        if self.pattern.startswith(text, self.at) and self.at < self.end:
            self.at += len(text)
            return True
        return False

    def alternatives(self) -> str:
        found = [self._sequence()]
        while self.take("|"):
            self.forked = self.forked or self._depth == 0
            found.append(self._sequence())
        return " | ".join(found)

    def _sequence(self) -> str:
        parts: list[str] = []
        while self.at < self.end and self.pattern[self.at] not in "|)":
            parts.append(self._times(self._one()))
        return " ".join(parts) or '""'

    def _one(self) -> str:
        char = self._next()
        match char:
            case "(":
                return self._group()
            case "[":
                return self._class()
            case ".":
                return class_of_any()
            case "\\":
                return self._escaped()
            case "^" | "$" | "*" | "+" | "?" | "{":
                raise PatternRefused(f"`{char}` of the pattern `{self.pattern}` is not supported")
        return _literal(char)

    def _group(self) -> str:
        if self.take("?") and not self.take(":"):
            raise PatternRefused(f"Look-around in `{self.pattern}` is not supported")
        self._depth += 1
        found = self.alternatives()
        self._depth -= 1
        if not self.take(")"):
            raise PatternRefused(f"`{self.pattern}` has a bracket that is not closed")
        return f"({found})"

    def _escaped(self) -> str:
        char = self._next()
        if char in _CLASSES:
            return f"[{_CLASSES[char]}]"
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
                if char in _CLASSES:
                    parts.append(_CLASSES[char])
                    continue
                if char.isalnum():
                    raise PatternRefused(f"`\\{char}` in `{self.pattern}` is not supported")
            if ord(char) < 0x20 or (char in '"\\' and not negative):
                raise PatternRefused(f"A class of `{self.pattern}` has what JSON must escape")
            last = char
            if self.pattern[self.at : self.at + 1] == "-" and self.pattern[self.at + 1] != "]":
                self.at += 1
                last = self._next()
                if last < char or char <= '"' <= last or char <= "\\" <= last:
                    raise PatternRefused(f"A range of `{self.pattern}` has what JSON must escape")
                parts.append(f"{_in_class(char)}-{_in_class(last)}")
            else:
                parts.append(_in_class(char))
        if not parts:
            raise PatternRefused(f"A class of `{self.pattern}` is empty")
        return f"[^{''.join(parts)}{_NEVER}]" if negative else f"[{''.join(parts)}]"

    def _times(self, one: str) -> str:
        for sign in "*+?":
            if self.take(sign):
                self.take("?")  # as few as possible: the same strings
                return f"{one}{sign}"
        if not self.take("{"):
            return one
        inside, closed, _ = self.pattern[self.at : self.end].partition("}")
        least, comma, most = inside.partition(",")
        if not closed or not least.isdecimal() or (most and not most.isdecimal()):
            raise PatternRefused(f"`{{{inside}}}` in `{self.pattern}` is not supported")
        if max(int(least), int(most or 0)) > _MAX_TIMES or (most and int(most) < int(least)):
            raise PatternRefused(f"`{{{inside}}}` in `{self.pattern}` is too many")
        self.at += len(closed + inside)
        self.take("?")
        return f"{one}{{{least}{comma}{most}}}"

    def _next(self) -> str:
        if self.at >= self.end:
            raise PatternRefused(f"`{self.pattern}` ends too early")
        self.at += 1
        return self.pattern[self.at - 1]


def _literal(char: str) -> str:
    if ord(char) < 0x20 or char == "\x7f":
        raise PatternRefused("A pattern has a control character")
    return {'"': '"\\\\\\""', "\\": '"\\\\\\\\"'}.get(char, f'"{char}"')


def _in_class(char: str) -> str:
    return f"\\{char}" if char in "]\\" else f"\\x{ord(char):02X}" if char in "^-[" else char
