"""Says whether a JSON value is valid by a schema: the keywords that the tests' schemas use."""

import re
from collections.abc import Mapping
from typing import Any

_CLASSES = {
    "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None),
}  # fmt: skip


def valid(value: Any, schema: Any, root: Any = None) -> bool:
    """Return whether a value is valid."""
    root = schema if root is None else root
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema:
        target = root
        for part in schema["$ref"].split("/")[1:]:
            target = target[part]
        return valid(value, target, root)
    return (
        all(valid(value, part, root) for part in schema.get("allOf", []))
        and any(valid(value, part, root) for part in schema.get("anyOf", [True]))
        and sum(valid(value, part, root) for part in schema.get("oneOf", [True])) == 1
        and ("const" not in schema or _same(value, schema["const"]))
        and ("enum" not in schema or any(_same(value, one) for one in schema["enum"]))
        and _typed(value, schema.get("type"))
        and _within(value, schema, root)
    )


def _typed(value: Any, said: Any) -> bool:
    if said is None:
        return True
    return any(_is(value, kind) for kind in (said if isinstance(said, list) else [said]))


def _is(value: Any, kind: str) -> bool:
    if kind in {"number", "integer"}:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and (kind == "number" or float(value).is_integer())
    return isinstance(value, _CLASSES[kind])


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _within(value: Any, schema: Mapping[str, Any], root: Any) -> bool:
    match value:
        case bool() | None:
            return True
        case int() | float():
            return (
                schema.get("minimum", value) <= value <= schema.get("maximum", value)
                and ("exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"])
                and ("exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"])
            )
        case str():
            least, most = schema.get("minLength", 0), schema.get("maxLength", len(value))
            return least <= len(value) <= most and bool(re.search(schema.get("pattern", ""), value))
        case list():
            heads = schema.get("prefixItems", [])
            items = schema.get("items", True)
            if isinstance(items, list):
                heads, items = items, True
            return (
                schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
                and all(valid(one, part, root) for one, part in zip(value, heads, strict=False))
                and all(valid(one, items, root) for one in value[len(heads) :])
            )
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value)):
        return False
    known = schema.get("properties", {})
    more = schema.get("additionalProperties", True)
    return set(schema.get("required", [])) <= set(value) and all(
        valid(one, known.get(name, more), root) for name, one in value.items()
    )
