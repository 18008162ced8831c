"""A small reader of llama.cpp's grammars that walks them at random, for tests of what they say."""

import random
import re
from typing import Any

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|\{\d*,?\d*\}|[a-z][a-z0-9]*|[()|*+?]')
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
_DEEP = 40  # from here on the shortest way is taken
_ANY = 'abz é☃{}[]:,"\\0'


def sample(grammar: str, chance: random.Random) -> str:
    """Return one text that a grammar lets through."""
    rules = dict(line.split(" ::= ", 1) for line in grammar.splitlines())
    walker = _Walker({name: _parse(text) for name, text in rules.items()}, chance)
    return walker.walk(("name", "root"), 0)


class _Walker:
    def __init__(self, rules: dict[str, Any], chance: random.Random) -> None:
        self.rules = rules
        self.chance = chance

    def walk(self, node: Any, depth: int) -> str:  # noqa: PLR0911 - a return for each kind
        kind, *parts = node
        match kind:
            case "name":
                return self.walk(self.rules[parts[0]], depth + 1)
            case "text":
                return str(parts[0])
            case "class":
                return str(self.chance.choice(parts[0]))
            case "all":
                return "".join(self.walk(part, depth) for part in parts[0])
            case "one":
                if depth > _DEEP:
                    return self.walk(min(parts[0], key=lambda part: self._cost(part, 6)), depth)
                return self.walk(self.chance.choice(parts[0]), depth)
        inner, least, most = parts
        count = least
        while depth <= _DEEP and (most is None or count < most) and self.chance.random() < 0.5:
            count += 1
        return "".join(self.walk(inner, depth) for _ in range(count))

    def _cost(self, node: Any, left: int) -> int:
        kind, *parts = node
        if left == 0:
            return 10**6
        match kind:
            case "name":
                return 1 + self._cost(self.rules[parts[0]], left - 1)
            case "all":
                return sum(self._cost(part, left) for part in parts[0])
            case "one":
                return min(self._cost(part, left) for part in parts[0])
            case "many":
                return int(parts[1]) * self._cost(parts[0], left)
        return 1


def _parse(text: str) -> Any:
    tokens = _TOKEN.findall(text)
    assert not re.sub(_TOKEN, "", text).strip(), text
    node, rest = _either(tokens)
    assert not rest, text
    return node


def _either(tokens: list[str]) -> tuple[Any, list[str]]:
    ways = []
    while True:
        node, tokens = _sequence(tokens)
        ways.append(node)
        if tokens[:1] != ["|"]:
            return ("one", ways), tokens
        tokens = tokens[1:]


def _sequence(tokens: list[str]) -> tuple[Any, list[str]]:
    parts: list[Any] = []
    while tokens and tokens[0] not in {"|", ")"}:
        token, *tokens = tokens
        if token == "(":
            node, tokens = _either(tokens)
            assert tokens[0] == ")"
            tokens = tokens[1:]
        elif token[0] == '"':
            node = ("text", _plain(token[1:-1]))
        elif token[0] == "[":
            node = ("class", _members(token[1:-1]))
        else:
            node = ("name", token)
        if tokens and tokens[0] in {"*", "+", "?"}:
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[tokens[0]]
            node, tokens = ("many", node, least, most), tokens[1:]
        elif tokens and tokens[0][0] == "{":
            low, comma, high = tokens[0][1:-1].partition(",")
            most = (int(high) if high else None) if comma else int(low)
            node, tokens = ("many", node, int(low or 0), most), tokens[1:]
        parts.append(node)
    return ("all", parts), tokens


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), text)


def _members(text: str) -> list[str]:
    negative = text.startswith("^")
    units = re.findall(r"\\x[0-9A-F]{2}|\\.|.", text[1:] if negative else text, re.DOTALL)
    found: list[str] = []
    at = 0
    while at < len(units):
        first = _unit(units[at])
        if at + 2 < len(units) and units[at + 1] == "-":
            found += [chr(code) for code in range(ord(first), ord(_unit(units[at + 2])) + 1)]
            at += 3
        else:
            found.append(first)
            at += 1
    return [char for char in _ANY if char not in found] if negative else found


def _unit(unit: str) -> str:
    if unit.startswith("\\x"):
        return chr(int(unit[2:], 16))
    return _ESCAPES.get(unit[1], unit[1]) if unit[0] == "\\" else unit
