"""JSON schema as a grammar that llama.cpp can hold an answer to.

The rule: what the grammar lets through always validates. Where a grammar cannot say what a schema
asks, it says something narrower (no properties but the declared ones, no escapes but the short
ones); where there is nothing narrower, the schema is refused, never loosened.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from tollway.providers.llamacpp.pattern import PatternRefused, class_of_any, pattern_rule
from tollway.providers.llamacpp.ranges import integer_rule, number_rule

Schema = Mapping[str, Any] | bool

MAX_REPEAT = 1000  # llama.cpp writes repetitions out, and gives up at some thousand
MAX_DEPTH = 60

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
_DATE = '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | "1" [0-9] | "2" [0-8])'
_TIME = '("0" [0-9] | "1" [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,3})? "Z"'
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f'{_DATE} "T" {_TIME}',
    "uuid": ' "-" '.join(f"[0-9a-f]{{{count}}}" for count in (8, 4, 4, 4, 12)),
}
# Keywords that restrict what is valid and that no grammar here can hold an answer to.
_REFUSED = {
    "not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems",
    "patternProperties", "propertyNames", "dependentRequired", "dependentSchemas",
    "dependencies", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef",
}  # fmt: skip
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_MEANS = {
    "properties": "object", "required": "object", "additionalProperties": "object",
    "items": "array", "prefixItems": "array", "minItems": "array", "maxItems": "array",
    "pattern": "string", "minLength": "string", "maxLength": "string",
}  # fmt: skip


class SchemaRefused(Exception):
    """The schema asks for what no grammar can promise; the text says what."""


def grammar_of(schema: Schema) -> str:
    """Return the grammar of all answers that are valid by `schema`, or of some of them.

    Raises:
        SchemaRefused: It has a part that cannot be promised.
    """
    grammar = Grammar(schema)
    return grammar.text(grammar.value(schema))


class Grammar:
    """A grammar that grows by the schemas it is asked for."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self.rules: dict[str, str] = {}
        self._refs: dict[str, str] = {}
        self._count = 0

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
            return "value"
        if schema is False or not isinstance(schema, Mapping):
            raise SchemaRefused("A schema must be an object or true; `false` allows no value")
        schema = dict(schema)
        self._check(schema)
        if "$ref" in schema:
            return self._ref(schema, depth)
        if "allOf" in schema:
            return self.value(self._all(schema), depth + 1)
        word = next((word for word in ("anyOf", "oneOf") if word in schema), "")
        if word:
            return self._alternatives(schema, word, depth)
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else _list(schema, "enum")
            return self._literals(values, schema)
        return self._either(self._typed(kind, schema, depth) for kind in _kinds(schema))

    def _all(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        rest = {key: value for key, value in schema.items() if key != "allOf"}
        for part in _list(schema, "allOf"):
            rest = _merge(rest, self._resolved(part))
        return rest

    def rule(self, expression: str) -> str:
        """Return a new rule's name."""
        for name, known in self.rules.items():
            if known == expression:
                return name
        self._count += 1
        name = f"r{self._count}"
        self.rules[name] = expression
        return name

    def renamed(self, prefix: str, expression: str) -> str:
        """Give all rules names with a prefix, and return the expression with them."""
        names = {name: f"{prefix}{name}" for name in self.rules}
        self.rules = {names[name]: _renamed(rule, names) for name, rule in self.rules.items()}
        return _renamed(expression, names)

    def _check(self, schema: Mapping[str, Any]) -> None:
        for word in _REFUSED & schema.keys():
            if schema[word] in (False, {}, []) and word != "not":
                continue
            raise SchemaRefused(f"`{word}` in a schema cannot be promised by a grammar")
        multiple = schema.get("multipleOf", 1)
        if multiple != 1 or ("multipleOf" in schema and "number" in _kinds(schema)):
            raise SchemaRefused("`multipleOf` in a schema cannot be promised by a grammar")

    def _ref(self, schema: dict[str, Any], depth: int) -> str:
        ref = schema.pop("$ref")
        rest = {key: value for key, value in schema.items() if key not in {"$defs", "definitions"}}
        if any(key in _ASSERTS for key in rest):
            return self.value(_merge(rest, self._target(ref)), depth + 1)
        if ref not in self._refs:
            self._count += 1
            name = self._refs[ref] = f"ref{self._count}"
            self.rules[name] = ""  # its place, for schemas that refer to themselves
            found = self.value(self._target(ref), depth + 1)
            if found == name:
                raise SchemaRefused(f"`{ref}` refers to nothing but itself")
            self.rules[name] = found
        return self._refs[ref]

    def _target(self, ref: object) -> Any:
        if not isinstance(ref, str) or not ref.startswith("#"):
            raise SchemaRefused(f"A schema can only refer to its own parts, not to `{ref}`")
        found: Any = self._root
        for part in ref[1:].split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
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
            part, seen = self._target(part["$ref"]), seen + 1
        if part is True:
            return {}
        if not isinstance(part, Mapping):
            raise SchemaRefused("`allOf` needs a list of schemas")
        return dict(part)

    def _alternatives(self, schema: dict[str, Any], word: str, depth: int) -> str:
        rest = {key: value for key, value in schema.items() if key != word}
        parts = _list(schema, word)
        if word == "oneOf" and not _disjoint([self._resolved(part) for part in parts]):
            raise SchemaRefused(
                "The alternatives of a `oneOf` must differ in type or in a required constant"
                " property; use `anyOf`"
            )
        asserts = any(key in _ASSERTS for key in rest)
        merged = [_merge(rest, self._resolved(part)) if asserts else part for part in parts]
        return self._either(self.value(part, depth + 1) for part in merged)

    def _either(self, expressions: Iterable[str]) -> str:
        found = list(dict.fromkeys(expressions))
        return found[0] if len(found) == 1 else self.rule(" | ".join(found))

    def _literals(self, values: list[Any], schema: Mapping[str, Any]) -> str:
        kinds = set(_kinds(schema)) if "type" in schema else set(_TYPES)
        valid = [value for value in values if _kind(value) & kinds]
        if not valid:
            raise SchemaRefused("An `enum` or `const` of the schema allows no value")
        return self.rule(" | ".join(quoted(msgspec.json.encode(value).decode()) for value in valid))

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
        properties = schema.get("properties", {})
        required = _list(schema, "required") if "required" in schema else []
        more = schema.get("additionalProperties", True)
        if not isinstance(properties, Mapping):
            raise SchemaRefused("`properties` of a schema must be an object")
        if more is False and not set(required) <= set(properties):
            raise SchemaRefused("A required property is not among the properties")
        known: dict[str, Any] = dict(properties)
        for name in required:
            known.setdefault(str(name), more)
        least, most = schema.get("minProperties", 0), schema.get("maxProperties", math.inf)
        if least > len(required) or most < len(known):
            raise SchemaRefused("The number of properties cannot be promised by a grammar")
        if not known:
            if more is False or most == 0:
                return self.rule('"{" space "}"')
            if most != math.inf:
                raise SchemaRefused("The number of properties cannot be promised by a grammar")
            pair = f'string ":" space {self.value(more, depth + 1)} space'
            return self.rule(f'"{{" space ({pair} ("," space {pair})*)? "}}"')
        pairs = {
            name: self.rule(
                f'{quoted(msgspec.json.encode(name).decode())} ":" space'
                f" {self.value(part, depth + 1)} space"
            )
            for name, part in known.items()
        }
        return self.rule(f'"{{" space {self._members(pairs, set(map(str, required)))} "}}"')

    def _members(self, pairs: dict[str, str], required: set[str]) -> str:
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
        for bound in (least, most):
            if bound is not None and not 0 <= _whole(bound) <= MAX_REPEAT:
                raise SchemaRefused(f"Arrays of over {MAX_REPEAT} items cannot be promised")
        if most is not None and most < least:
            raise SchemaRefused("`maxItems` is less than `minItems`")
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
        if "pattern" in schema:
            if least or most is not None:
                raise SchemaRefused("A `pattern` with a length cannot be promised by a grammar")
            try:
                return self.rule(f'"\\"" {pattern_rule(str(schema["pattern"]))} "\\""')
            except PatternRefused as no:
                raise SchemaRefused(str(no)) from no
        if not least and most is None:
            inner = _FORMATS.get(str(schema.get("format")))
            return self.rule(f'"\\"" {inner} "\\""') if inner else "string"
        for bound in (least, most):
            if bound is not None and not 0 <= _whole(bound) <= MAX_REPEAT:
                raise SchemaRefused(f"Strings bound to over {MAX_REPEAT} characters can't be made")
        if most is not None and most < least:
            raise SchemaRefused("`maxLength` is less than `minLength`")
        if most == 0:
            return self.rule('"\\"\\""')
        return self.rule(f'"\\"" char{{{least},{"" if most is None else most}}} "\\""')

    def _number(self, kind: str, schema: Mapping[str, Any]) -> str:
        low, high = schema.get("minimum"), schema.get("maximum")
        over, under = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        if over is True or under is True:  # as it was written before 2019
            over, under = (low if over is True else over), (high if under is True else under)
        over, under = (None if x is False else x for x in (over, under))
        if all(x is None for x in (low, high, over, under)):
            return kind
        for bound in (low, high, over, under):
            if bound is not None and (
                isinstance(bound, bool) or not isinstance(bound, int | float)
                or not math.isfinite(bound) or abs(bound) > 10**15
            ):  # fmt: skip
                raise SchemaRefused("A bound of a number is none, or too large")
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


_ASSERTS = {
    "type", "enum", "const", "anyOf", "oneOf", "allOf", "multipleOf", "minimum", "maximum",
    "exclusiveMinimum", "exclusiveMaximum", "minProperties", "maxProperties", *_MEANS,
}  # fmt: skip


_LITERAL_OR_NAME = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|[a-z][a-z0-9]*')


def _renamed(rule: str, names: Mapping[str, str]) -> str:
    return _LITERAL_OR_NAME.sub(lambda found: names.get(found[0], found[0]), rule)


def quoted(text: str) -> str:
    """Return a text as a grammar's literal."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'.replace("\n", "\\n").replace("\r", "\\r")


def _kinds(schema: Mapping[str, Any]) -> tuple[str, ...]:
    said = schema.get("type")
    if said is None:
        # Without a type, a keyword binds only values of its own type: of those we make one.
        meant = [_MEANS[word] for word in schema if word in _MEANS]
        if any(word in schema for word in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")):  # fmt: skip  # noqa: E501
            meant.append("number")
        return tuple(dict.fromkeys(meant)) or _TYPES
    kinds = said if isinstance(said, list) else [said]
    if not kinds or not all(kind in _TYPES for kind in kinds):
        raise SchemaRefused(f"`{said}` is no type of a JSON schema")
    return tuple(kinds)


def _kind(value: Any) -> set[str]:
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int):
        return {"integer", "number"}
    if isinstance(value, float):
        return {"number"} | ({"integer"} if value.is_integer() else set())
    if value is None:
        return {"null"}
    return {
        "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"
    }


def _list(schema: Mapping[str, Any], word: str) -> list[Any]:
    found = schema[word]
    if not isinstance(found, list) or (not found and word != "required"):
        raise SchemaRefused(f"`{word}` of a schema must be a list with something in it")
    return found


def _whole(bound: Any) -> int:
    if isinstance(bound, bool) or not isinstance(bound, int):
        raise SchemaRefused("A bound of the schema is no whole number")
    return bound


def _merge(one: Mapping[str, Any], other: Any) -> dict[str, Any]:
    """Return a schema of what is valid by both."""
    if other is True:
        return dict(one)
    if not isinstance(other, Mapping):
        raise SchemaRefused("A schema must be an object, true or false")
    found = dict(one)
    for word, said in other.items():
        if word not in found or found[word] == said or word not in _ASSERTS | _REFUSED | {"$ref"}:
            found[word] = said
        elif word == "required":
            found[word] = list(dict.fromkeys([*found[word], *said]))
        elif word == "properties":
            both = dict(found[word])
            for name, part in said.items():
                both[name] = _merge(both[name], part) if name in both else part
            found[word] = both
        elif word == "type":
            kinds = [kind for kind in _kinds(found) if kind in _kinds(other)]
            if not kinds:
                raise SchemaRefused("Parts of the schema ask for different types")
            found[word] = kinds
        else:
            raise SchemaRefused(f"`{word}` stands in several parts that all must hold")
    return found


def _disjoint(parts: list[dict[str, Any]]) -> bool:
    return all(_apart(one, other) for at, one in enumerate(parts) for other in parts[at + 1 :])


def _apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if "type" in one and "type" in other:
        kinds = [set(_kinds(part)) for part in (one, other)]
        for found in kinds:
            if "number" in found:
                found.add("integer")
        if not kinds[0] & kinds[1]:
            return True
    values = [_values(part) for part in (one, other)]
    if values[0] is not None and values[1] is not None:
        return not any(value in values[1] for value in values[0])
    shared = set(one.get("required", [])) & set(other.get("required", []))
    return any(
        (here := _values(one.get("properties", {}).get(name, {}))) is not None
        and (there := _values(other.get("properties", {}).get(name, {}))) is not None
        and not any(value in there for value in here)
        for name in shared
    )


def _values(part: Any) -> list[Any] | None:
    if not isinstance(part, Mapping):
        return None
    return [part["const"]] if "const" in part else part.get("enum")
