"""What JSON schemas say before they are grammars: well formed, and several of them as one."""

import math
from collections.abc import Mapping
from typing import Any

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
MEANS = {
    "properties": "object", "required": "object", "additionalProperties": "object",
    "items": "array", "prefixItems": "array", "minItems": "array", "maxItems": "array",
    "pattern": "string", "minLength": "string", "maxLength": "string",
}  # fmt: skip
# Keywords that restrict what is valid and that no grammar here can hold an answer to.
REFUSED = {
    "not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems",
    "patternProperties", "propertyNames", "dependentRequired", "dependentSchemas",
    "dependencies", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef",
}  # fmt: skip
ASSERTS = {
    "type", "enum", "const", "anyOf", "oneOf", "allOf", "multipleOf", "minimum", "maximum",
    "exclusiveMinimum", "exclusiveMaximum", "minProperties", "maxProperties", "format",
    "additionalItems", "unevaluatedProperties", "unevaluatedItems", *MEANS,
}  # fmt: skip
MAX_DEPTH = 60

_COUNTS = {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"}
_NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_OVER_OR_UNDER = ("exclusiveMinimum", "exclusiveMaximum")  # true or false before 2019
_BOUNDS = _COUNTS | _NUMBERS - {"multipleOf"}
_LISTS = {"anyOf", "oneOf", "allOf", "enum", "prefixItems", "required"}
_MAY_BE_EMPTY = {"prefixItems", "required"}
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(_LISTS, list),
    **dict.fromkeys(("pattern", "format", "$ref"), str),
    **dict.fromkeys(("additionalItems", "additionalProperties"), (Mapping, bool)),
    "properties": Mapping,
    "items": (Mapping, bool, list),
}
_ITEMS = {"items", "prefixItems", "additionalItems"}
_UNEVALUATED = ("unevaluatedProperties", "unevaluatedItems")
# What stands beside these is told of the same value elsewhere.
_ELSEWHERE = {"$ref", "allOf", "anyOf", "oneOf"}


class SchemaRefused(Exception):
    """The schema asks for what no grammar can promise; the text says what."""


def checked(schema: Any) -> dict[str, Any]:
    """Return a schema whose keywords hold what their names promise, of its own level.

    A count or bound of null is none.

    Raises:
        SchemaRefused: One of them does not.
    """
    if not isinstance(schema, Mapping):
        raise SchemaRefused("A schema must be an object, true or false")
    found = {
        word: said
        for word, said in schema.items()
        if said is not None or word not in _COUNTS | _NUMBERS
    }
    for word, said in found.items():
        if not _fits(word, said):
            raise SchemaRefused(f"`{word}` of a schema does not hold what it should")
        if word in _LISTS - _MAY_BE_EMPTY and not said:
            raise SchemaRefused(f"`{word}` of a schema must be a list with something in it")
    return found if _ELSEWHERE & found.keys() else _closed(found)


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that says all of its value itself, closed by the older words for it."""
    found = {word: said for word, said in schema.items()
             if word not in _UNEVALUATED or said is not False}  # fmt: skip
    if schema.get("unevaluatedProperties") is False:
        found.setdefault("additionalProperties", False)
    if schema.get("unevaluatedItems") is False:
        old = isinstance(found.get("items"), list)
        found.setdefault("additionalItems" if old else "items", False)
    return found


def _fits(word: str, said: Any) -> bool:
    flag = isinstance(said, bool)
    if word in _COUNTS:
        return isinstance(said, int) and not flag and said >= 0
    if word in _NUMBERS:
        finite = isinstance(said, int) or (isinstance(said, float) and math.isfinite(said))
        return finite and (not flag or word in _OVER_OR_UNDER)
    if word == "required":
        return isinstance(said, list) and all(isinstance(name, str) for name in said)
    kinds = _KINDS.get(word)
    return kinds is None or isinstance(said, kinds)


def kinds_of(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the types of the values that are made for a schema.

    Raises:
        SchemaRefused: It names a type that there is none of.
    """
    said = schema.get("type")
    if said is None:
        # Without a type, a keyword binds only values of its own type: of those we make one.
        meant = [MEANS[word] for word in schema if word in MEANS]
        if any(word in schema for word in ("minimum", "maximum", *_OVER_OR_UNDER)):
            meant.append("number")
        return tuple(dict.fromkeys(meant)) or TYPES
    kinds = said if isinstance(said, list) else [said]
    if not kinds or not all(kind in TYPES for kind in kinds):
        raise SchemaRefused(f"`{said}` is no type of a JSON schema")
    return tuple(kinds)


def kinds_of_value(value: Any) -> set[str]:
    """Return the types that a value has."""
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


def same(one: Any, other: Any) -> bool:
    """Return whether two values are one by JSON, where true is no 1."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def valid_literals(schema: Mapping[str, Any]) -> list[Any]:
    """Return the values of an `enum` or `const` that the rest of their schema takes.

    Raises:
        SchemaRefused: There is none, or the rest is more than can be looked at here.
    """
    found = list(schema.get("enum", [schema.get("const")]))
    if "const" in schema:
        found = [value for value in found if same(value, schema["const"])]
    kinds = set(kinds_of(schema)) if "type" in schema else set(TYPES)
    found = [value for value in found if kinds_of_value(value) & kinds]
    for word in ("pattern", "properties", "required", "additionalProperties", *sorted(_ITEMS)):
        bound = MEANS.get(word, "array")
        if word in schema and any(bound in kinds_of_value(value) for value in found):
            raise SchemaRefused(f"`{word}` beside an `enum` or `const` cannot be promised")
    found = [value for value in found if _within(value, schema)]
    if not found:
        raise SchemaRefused("An `enum` or `const` of the schema allows no value")
    return found


def _within(value: Any, schema: Mapping[str, Any]) -> bool:
    match value:
        case bool() | None:
            return True
        case int() | float():
            least, most = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
            over, under = (schema.get(word) for word in _OVER_OR_UNDER)
            over, under = (least if over is True else over), (most if under is True else under)
            return bool(
                least <= value <= most
                and (over in (None, False) or value > over)
                and (under in (None, False) or value < under)
            )
    word = "Length" if isinstance(value, str) else "Items"
    word = "Properties" if isinstance(value, dict) else word
    return bool(schema.get(f"min{word}", 0) <= len(value) <= schema.get(f"max{word}", math.inf))


def merged(one: Mapping[str, Any], other: Any, depth: int = 0) -> Any:
    """Return a schema of what is valid by both.

    Raises:
        SchemaRefused: There is no such value, or no schema here that says which.
    """
    if depth > MAX_DEPTH:
        raise SchemaRefused("The schema is nested too deeply")
    if other is True:
        return dict(one)
    other = checked(other)
    for word in _UNEVALUATED:
        if other.get(word) is False:
            # It closes its own part alone, whose members stand in yet other parts.
            raise SchemaRefused(f"`{word}` in a part of a schema cannot be promised by a grammar")
    # Of a list, one part speaks of the items that the other part's own words leave.
    if _ITEMS & one.keys() and _ITEMS & other.keys() and any(
        not same(one.get(word), other.get(word)) for word in _ITEMS
    ):  # fmt: skip
        raise SchemaRefused("The items of a list stand in several parts that all must hold")
    found = dict(one)
    for word, said in other.items():
        if word in {"properties", "additionalProperties"}:
            continue  # below
        if word in found and not same(found[word], said):
            found[word] = _both(word, found, other)
        else:
            found[word] = said
    return _with_properties(found, one, other, depth)


def _both(word: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> Any:
    here, there = one[word], other[word]
    if word not in ASSERTS | REFUSED | {"$ref"}:
        return there
    if word in _BOUNDS and not isinstance(here, bool) and not isinstance(there, bool):
        return max(here, there) if "min" in word.lower() else min(here, there)
    match word:
        case "required":
            return list(dict.fromkeys([*here, *there]))
        case "enum":
            if shared := [value for value in here if any(same(value, each) for each in there)]:
                return shared
            raise SchemaRefused("Parts of the schema have no value of their `enum` in common")
        case "type":
            return _types(kinds_of(one), kinds_of(other))
    raise SchemaRefused(f"`{word}` stands in several parts that all must hold")


def _types(one: tuple[str, ...], other: tuple[str, ...]) -> list[str]:
    found = [kind for kind in one if kind in other]
    if ("integer" in one and "number" in other) or ("number" in one and "integer" in other):
        found = list(dict.fromkeys([*found, "integer"]))
    if not found:
        raise SchemaRefused("Parts of the schema ask for different types")
    return found


def _with_properties(
    found: dict[str, Any], one: Mapping[str, Any], other: Mapping[str, Any], depth: int
) -> dict[str, Any]:
    """Return `found` with what both say of an object's properties.

    What one part declares, the other one takes for a further property if it does not.
    """
    here, there = one.get("properties", {}), other.get("properties", {})
    more = [part.get("additionalProperties", True) for part in (one, other)]
    both = {
        name: _part(here.get(name, more[0]), there.get(name, more[1]), depth)
        for name in [*here, *(name for name in there if name not in here)]
    }
    if "properties" in one or "properties" in other:
        found["properties"] = both
    if "additionalProperties" in one or "additionalProperties" in other:
        found["additionalProperties"] = _part(more[0], more[1], depth)
    return found


def _part(one: Any, other: Any, depth: int) -> Any:
    if one is False or other is False:
        return False
    if one is True or same(one, other):
        return other
    # Neither is a part of the other one: what one leaves open, the other one may not close.
    return merged(merged({}, one, depth + 1), other, depth + 1)


def disjoint(parts: list[dict[str, Any]]) -> bool:
    """Return whether no value that is made for one of the schemas is valid by another."""
    return all(_apart(one, other) for at, one in enumerate(parts) for other in parts[at + 1 :])


def _apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if "type" in one and "type" in other:
        kinds = [set(kinds_of(part)) for part in (one, other)]
        for found in kinds:
            if "number" in found:
                found.add("integer")
        if not kinds[0] & kinds[1]:
            return True
    if _differ(_values(one), _values(other)):
        return True
    shared = set(one.get("required", [])) & set(other.get("required", []))
    return any(
        _differ(*(_values(part.get("properties", {}).get(name)) for part in (one, other)))
        for name in shared
    )


def _differ(here: list[Any] | None, there: list[Any] | None) -> bool:
    if here is None or there is None:
        return False
    return not any(same(value, each) for value in here for each in there)


def _values(part: Any) -> list[Any] | None:
    if not isinstance(part, Mapping):
        return None
    found = [part["const"]] if "const" in part else part.get("enum")
    return found if isinstance(found, list) else None
