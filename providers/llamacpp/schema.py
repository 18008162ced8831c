"""JSON schema as a grammar that llama.cpp can hold an answer to.

The rule: what the grammar lets through always validates. Where a grammar cannot say what a schema
asks, it says something narrower (no properties but the declared ones, no escapes but the short
ones); where there is nothing narrower, the schema is refused, never loosened.
"""

import math
import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any
from urllib.parse import unquote

import msgspec

from tollway.providers.llamacpp.formats import FORMATS
from tollway.providers.llamacpp.pattern import PatternRefused, class_of_any, pattern_rule
from tollway.providers.llamacpp.ranges import integer_rule, number_rule
from tollway.providers.llamacpp.schema_parts import (
    ASSERTS,
    MAX_DEPTH,
    REFUSED,
    SchemaRefused,
    checked,
    disjoint,
    kinds_of,
    merged,
    valid_literals,
)

Schema = Mapping[str, Any] | bool

MAX_REPEAT = 1000  # llama.cpp writes repetitions out, and gives up at some thousand
MAX_WORK = (
    20_000  # schemas and properties looked at: parts that refer to parts may double each time
)
LARGEST = 10**15  # what numbers of a grammar stay below

_SPACE = 'space ::= | " " | "\\n" [ \\t]{0,12}'
_BASE = {
    "space": _SPACE,
    "char": f'char ::= {class_of_any()} | "\\\\" ["\\\\/bfnrt]',
    "string": 'string ::= "\\"" char* "\\""',
    "boolean": 'boolean ::= "true" | "false"',
    "null": 'null ::= "null"',
    "whole": 'whole ::= "0" | [1-9] [0-9]{0,14}',
    "integer": 'integer ::= "-"? whole',
    "number": 'number ::= "-"? whole ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?',
    "array": 'array ::= "[" space (value ("," space value)*)? "]"',
    "pair": 'pair ::= string ":" space value',
    "object": 'object ::= "{" space (pair ("," space pair)*)? "}"',
    "value": "value ::= (object | array | string | number | boolean | null) space",
}  # fmt: skip


def grammar_of(schema: Schema) -> str:
    """Return the grammar of all answers that are valid by `schema`, or of some of them.

    Raises:
        SchemaRefused: It has a part that cannot be promised.
    """
    grammar = Grammar(schema)
    return grammar.text(grammar.value(schema))


class Grammar:
    """A grammar that grows by the schemas it is asked for.

    What JSON has of its own is told by names and small functions, for forms that are nearly JSON.
    """

    any, any_key, text_rule, letter = "value", "string", "string", "char"
    quote = '"\\""'

    def __init__(self, root: Schema) -> None:
        self.root = root
        self.rules: dict[str, str] = {}
        self._names: dict[str, str] = {}  # of rules, by what they say
        self._refs: dict[str, str] = {}
        self._count = 0
        self._work = 0

    def text(self, root: str) -> str:
        """Return all of it, with `root` as what an answer is."""
        needed = [*_BASE.values()] + [f"{name} ::= {rule}" for name, rule in self.rules.items()]
        return "\n".join([f"root ::= {root} space", *needed]) + "\n"

    def value(self, schema: Schema, depth: int = 0) -> str:
        """Return the expression for a value that is valid by a schema.

        Raises:
            SchemaRefused: It has a part that cannot be promised.
        """
        if depth > MAX_DEPTH:
            raise SchemaRefused("The schema is nested too deeply")
        if schema is True or schema == {}:
            return self.any
        if schema is False:
            raise SchemaRefused("A schema of `false` allows no value")
        schema = checked(schema)
        self._worked(1)
        self.check(schema)
        if "$ref" in schema:
            return self._ref(schema, depth)
        if "allOf" in schema:
            return self.value(self._all(schema), depth + 1)
        if parts := self.alternatives(schema):
            return self._either(self.value(part, depth + 1) for part in parts)
        if "const" in schema or "enum" in schema:
            return self.rule(self.one_of(valid_literals(schema)))
        return self._either(self._typed(kind, schema, depth) for kind in kinds_of(schema))

    def one_of(self, values: list[Any]) -> str:
        """Return the expression for one of several values."""
        return one_of(sorted({msgspec.json.encode(value).decode() for value in values}))

    def key(self, name: str) -> str:
        """Return the expression for a property's name."""
        return quoted(msgspec.json.encode(name).decode())

    def pattern(self, pattern: str, least: int, most: float) -> str:
        """Return the expression for what a text holds that a pattern matches.

        Raises:
            SchemaRefused: It cannot be promised.
        """
        try:
            return pattern_rule(pattern, least, most)
        except PatternRefused as no:
            raise SchemaRefused(str(no)) from no

    def _worked(self, much: int) -> None:
        self._work += much
        if self._work > MAX_WORK:
            raise SchemaRefused("The schema is too large, with all that it refers to")

    def _merged(self, one: Mapping[str, Any], other: Any) -> Any:
        sizes = [
            len(part.get("properties", ()))
            for part in (one, {} if other is True else checked(other))
        ]
        self._worked(1 + sum(sizes))
        return merged(one, other)

    def _all(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        rest = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            rest = self._merged(rest, self._resolved(part))
        return rest

    def rule(self, expression: str) -> str:
        """Return a new rule's name."""
        if name := self._names.get(expression):
            return name
        self._count += 1
        name = self._names[expression] = f"r{self._count}"
        self.rules[name] = expression
        return name

    def renamed(self, prefix: str, expression: str) -> str:
        """Give all rules names with a prefix, and return the expression with them."""
        names = {name: f"{prefix}{name}" for name in self.rules}
        self._names.clear()
        self.rules = {names[name]: _renamed(rule, names) for name, rule in self.rules.items()}
        return _renamed(expression, names)

    def check(self, schema: Mapping[str, Any]) -> None:
        """Return if a schema has no keyword, of its own level, that no grammar can promise.

        Raises:
            SchemaRefused: It has one.
        """
        for word in REFUSED & schema.keys():
            if schema[word] in (False, {}, []) and word != "not":
                continue
            raise SchemaRefused(f"`{word}` in a schema cannot be promised by a grammar")
        multiple = schema.get("multipleOf", 1)
        if multiple != 1 or ("multipleOf" in schema and "number" in kinds_of(schema)):
            raise SchemaRefused("`multipleOf` in a schema cannot be promised by a grammar")

    def _ref(self, schema: dict[str, Any], depth: int) -> str:
        ref = schema.pop("$ref")
        rest = {key: value for key, value in schema.items() if key not in {"$defs", "definitions"}}
        if any(key in ASSERTS for key in rest):
            return self.value(self._merged(rest, self.target(ref)), depth + 1)
        if ref not in self._refs:
            self._count += 1
            name = self._refs[ref] = f"ref{self._count}"
            self.rules[name] = ""  # its place, for schemas that refer to themselves
            found = self.value(self.target(ref), depth + 1)
            if found == name:
                raise SchemaRefused(f"`{ref}` refers to nothing but itself")
            self.rules[name] = found
        return self._refs[ref]

    def target(self, ref: str) -> Any:
        """Return what a reference within the schema refers to.

        Raises:
            SchemaRefused: It refers to something else, or to nothing.
        """
        if ref != "#" and not ref.startswith("#/"):
            raise SchemaRefused(
                f"A schema can only refer to its own parts by their place, not to `{ref}`"
            )
        found: Any = self.root
        for part in ref[1:].split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, Mapping) and key in found:
                found = found[key]
            else:
                raise SchemaRefused(f"There is no `{ref}` in the schema")
        return found

    def _resolved(self, part: Any) -> dict[str, Any]:
        seen = 0
        while isinstance(part, Mapping) and set(part) == {"$ref"} and seen < MAX_DEPTH:
            part, seen = self.target(part["$ref"]), seen + 1
        return {} if part is True else checked(part)

    def alternatives(self, schema: Mapping[str, Any]) -> list[Any]:
        """Return the schemas of which one must hold, each with what stands beside them.

        Empty where there are no alternatives.

        Raises:
            SchemaRefused: Not one of them can hold, or more than one where that is forbidden.
        """
        word = next((word for word in ("anyOf", "oneOf") if word in schema), "")
        if not word:
            return []
        rest = {key: value for key, value in schema.items() if key != word}
        # What is never valid is no alternative.
        parts = [part for part in schema[word] if part is not False]
        if not parts:
            raise SchemaRefused(f"`{word}` of the schema allows no value")
        if word == "oneOf" and not disjoint([self._resolved(part) for part in parts]):
            raise SchemaRefused(
                "The alternatives of a `oneOf` must differ in type or in a required constant"
                " property; use `anyOf`"
            )
        asserts = any(key in ASSERTS for key in rest)
        return [self._merged(rest, self._resolved(part)) if asserts else part for part in parts]

    def flat(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """Return a schema without references and `allOf`, of its own level.

        Raises:
            SchemaRefused: They have no end, or nothing is valid by all.
        """
        found = checked(schema)
        for _ in range(MAX_DEPTH):
            if "$ref" in found:
                target = self.target(found.pop("$ref"))
                rest = {key: found[key] for key in found if key not in {"$defs", "definitions"}}
                found = checked(self._merged(rest, target))
            elif "allOf" in found:
                found = checked(self._all(found))
            else:
                return found
        raise SchemaRefused("The schema is nested too deeply")

    def _either(self, expressions: Iterable[str]) -> str:
        found = list(dict.fromkeys(expressions))
        return found[0] if len(found) == 1 else self.rule(" | ".join(found))

    def _typed(self, kind: str, schema: Mapping[str, Any], depth: int) -> str:
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "string":
                return self._string(schema)
            case "number" | "integer":
                return self._number(kind, schema)
            case _:
                return kind

    def _object(self, schema: Mapping[str, Any], depth: int) -> str:
        required = list(dict.fromkeys(schema.get("required", [])))
        more = schema.get("additionalProperties", True)
        properties = schema.get("properties", {})
        known = {**properties, **{name: more for name in required if name not in properties}}
        if any(known[name] is False for name in required):
            raise SchemaRefused("A required property is not among the properties")
        known = {name: part for name, part in known.items() if part is not False}
        least, most = schema.get("minProperties", 0), schema.get("maxProperties", math.inf)
        if not known and not properties and more is not False:
            return self._open_object(more, least, most, depth)
        if least > len(required) or most < len(known):
            raise SchemaRefused("The number of properties cannot be promised by a grammar")
        if not known:
            return self.rule('"{" space "}"')
        pairs = {
            name: self.rule(f'{self.key(name)} ":" space {self.value(part, depth + 1)} space')
            for name, part in known.items()
        }
        return self.rule(f'"{{" space {self.members(pairs, set(required))} "}}"')

    def _open_object(self, more: Schema, least: int, most: float, depth: int) -> str:
        """Return an object of names that nobody knows before; two of them may be the same."""
        if least > 1 or most < least:
            raise SchemaRefused("The number of properties cannot be promised by a grammar")
        if most == 0:
            return self.rule('"{" space "}"')
        pair = self.rule(f'{self.any_key} ":" space {self.value(more, depth + 1)} space')
        many = "*" if most == math.inf else f"{{0,{min(int(most), MAX_REPEAT) - 1}}}"
        sign = "" if least else "?"
        return self.rule(f'"{{" space ({pair} ("," space {pair}){many}){sign} "}}"')

    def arguments(self, schema: Schema) -> tuple[dict[str, Any] | None, set[str]]:
        """Return a tool's parameters, None where any will do, and which of them must be there.

        Raises:
            SchemaRefused: They are more than a list of parameters.
        """
        schema = self.flat({} if isinstance(schema, bool) else schema)
        if any(word in schema for word in ("anyOf", "oneOf", "enum", "const")):
            raise SchemaRefused("Parameters of several alternatives cannot be promised")
        self.check(schema)
        required = set(schema.get("required", []))
        properties = schema.get("properties", {})
        known = {name: part for name, part in properties.items() if part is not False}
        if schema.get("minProperties", 0) > len(required) or not required <= known.keys():
            raise SchemaRefused("The properties cannot be promised by a grammar")
        free = not known and schema.get("additionalProperties", True) is not False
        return (None if free else known), required

    def members(self, pairs: dict[str, str], required: set[str]) -> str:
        """Return the members in the schema's order, the optional ones with their commas."""
        # From the end: `rest` is what may follow, each with a comma before it.
        rest, first = "", ""
        for name in reversed(pairs):
            pair = pairs[name]
            begin = f"{pair} {rest}".rstrip()
            follow = f'"," space {begin}'
            if name in required:
                first, rest = begin, self.rule(follow)
            else:
                first = self.rule(f"{begin} | {first}" if first else f"({begin})?")
                rest = self.rule(f"({follow}) | {rest}" if rest else f"({follow})?")
        return first

    def _array(self, schema: Mapping[str, Any], depth: int) -> str:
        heads = [self.value(part, depth + 1) for part in schema.get("prefixItems") or []]
        items = schema.get("items", True)
        if isinstance(items, list):  # as it was written before 2020
            heads, items = (
                [self.value(part, depth + 1) for part in items],
                schema.get("additionalItems", True),
            )
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if least > MAX_REPEAT:
            raise SchemaRefused(f"Arrays of over {MAX_REPEAT} items cannot be promised")
        if most is not None and most < least:
            raise SchemaRefused("`maxItems` is less than `minItems`")
        most = None if most is None else min(most, MAX_REPEAT)
        if items is False:
            most = len(heads) if most is None else min(most, len(heads))
            if least > len(heads):
                raise SchemaRefused("`minItems` is more than there are items")
        each = "" if items is False else self.value(items, depth + 1)
        return self.rule(f'"[" space {self._elements(heads, each, least, most)} "]"')

    def _elements(self, heads: list[str], each: str, least: int, most: int | None) -> str:
        if most == 0:
            return ""
        heads = heads if most is None else heads[:most]
        extra_least = max(0, least - len(heads))
        extra_most = "" if most is None else str(max(0, most - len(heads)))
        comma = '"," space '
        rest = f"({comma}{each} space){{{extra_least},{extra_most}}}" if each else ""
        if extra_most == "0":
            rest = ""
        if not heads:
            if extra_least:
                left = "" if most is None else str(most - 1)
                many = f"({comma}{each} space){{{extra_least - 1},{left}}}" if left != "0" else ""
                return f"{each} space {many}"
            left = "" if most is None else str(int(extra_most) - 1)
            many = f"({comma}{each} space){{0,{left}}}" if left != "0" else ""
            return f"({each} space {many})?"
        # Items of the front may be left out from the end on, where that many need not be there.
        out = rest
        for at in range(len(heads) - 1, -1, -1):
            here = f"{comma if at else ''}{heads[at]} space {out}".rstrip()
            out = f"{self.rule(here)}" if at < least else f"({self.rule(here)})?"
        return out

    def _string(self, schema: Mapping[str, Any]) -> str:
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        quote = self.quote
        if "pattern" in schema:
            rule = self.pattern(schema["pattern"], least, math.inf if most is None else most)
            return self.rule(f"{quote} {rule} {quote}")
        if form := FORMATS.get(schema.get("format", "")):
            if least > form.least or (most is not None and most < form.most):
                raise SchemaRefused("A `format` with a length cannot be promised by a grammar")
            return self.rule(f"{quote} ({form.rule}) {quote}")
        if not least and most is None:
            return self.text_rule
        if least > MAX_REPEAT:
            raise SchemaRefused(f"Strings of over {MAX_REPEAT} characters can't be promised")
        if most is not None and most < least:
            raise SchemaRefused("`maxLength` is less than `minLength`")
        most = None if most is None else min(most, MAX_REPEAT)
        if most == 0:
            return self.rule(f"{quote} {quote}")
        many = f"{{{least},{'' if most is None else most}}}"
        return self.rule(f"{quote} {self.letter}{many} {quote}")

    def _number(self, kind: str, schema: Mapping[str, Any]) -> str:
        low, high = schema.get("minimum"), schema.get("maximum")
        over, under = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        if over is True or under is True:  # as it was written before 2019
            over, under = (low if over is True else over), (high if under is True else under)
        over, under = (None if x is False else x for x in (over, under))
        bottom = [x for x in (low, over) if x is not None]
        top = [x for x in (high, under) if x is not None]
        if any(x >= LARGEST for x in bottom) or any(x <= -LARGEST for x in top):
            raise SchemaRefused(f"Numbers beyond {LARGEST:.0e} cannot be promised by a grammar")
        # A bound that no number here reaches is none.
        low, over = (None if x is None or x <= -LARGEST else x for x in (low, over))
        high, under = (None if x is None or x >= LARGEST else x for x in (high, under))
        if not bottom and not top:
            return kind
        least = max((math.ceil(low) if low is not None else -math.inf),
                    (math.floor(over) + 1 if over is not None else -math.inf))  # fmt: skip
        most = min((math.floor(high) if high is not None else math.inf),
                   (math.ceil(under) - 1 if under is not None else math.inf))  # fmt: skip
        if kind == "integer":
            rule = integer_rule(least, most)
        else:
            floor = max(x for x in (low, over, -math.inf) if x is not None)
            ceiling = min(x for x in (high, under, math.inf) if x is not None)
            rule = number_rule(least, most, math.ceil(floor) if floor > -math.inf else floor,
                               math.floor(ceiling) if ceiling < math.inf else ceiling)  # fmt: skip
        if not rule:
            raise SchemaRefused("Between a number's bounds there is none that a grammar can say")
        return self.rule(rule)


_LITERAL_OR_NAME = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|[a-z][a-z0-9]*')


def _renamed(rule: str, names: Mapping[str, str]) -> str:
    return _LITERAL_OR_NAME.sub(lambda found: names.get(found[0], found[0]), rule)


def one_of(texts: list[str], depth: int = 0) -> str:
    """Return the expression for one of several texts, told in order and once each.

    What they begin with is said once: llama.cpp holds each token that it might choose against all
    that may come next, and a thousand alternatives are a second of that.
    """
    if len(texts) == 1 or depth > MAX_DEPTH:
        return " | ".join(map(quoted, texts))
    first, last = texts[0], texts[-1]  # in order: all others begin as both of these do
    differ = (at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1])
    begin = first[: next(differ, len(first))]
    rest = [text[len(begin) :] for text in texts]
    parts = [one_of(list(group), depth + 1) for _, group in groupby(rest, itemgetter(slice(1)))]
    either = " | ".join(parts)
    return f"{quoted(begin)} ({either})" if begin else either


def quoted(text: str) -> str:
    """Return a text as a grammar's literal."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'.replace("\n", "\\n").replace("\r", "\\r")
