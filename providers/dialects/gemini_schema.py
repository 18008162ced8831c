"""Google's own way to write a schema (`Type.OBJECT`, `nullable`) as JSON Schema, and back."""

from typing import Any

import msgspec

from tollway.providers.dialects.gemini_request import camel

_DROPPED = frozenset({"propertyOrdering", "nullable"})
# Whose members have names, and what they are called in JSON Schema.
_OF_NAMES = {
    **{name: name for name in ("properties", "$defs", "definitions")},
    "defs": "$defs",
}
_WITHIN = frozenset({"anyOf", "items", "additionalProperties"})
# Numbers that are text in Google's JSON, as all of 64 bits.
_COUNTS = frozenset(
    {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"}
)
# No formats of JSON Schema: who holds a model to a schema refuses what it does not know.
_OPENAPI = frozenset({"enum", "float", "double", "int32", "int64", "byte", "binary"})


def as_json_schema(schema: object) -> Any:
    """Return a schema of the OpenAPI kind as JSON Schema; one that already is stays as it is."""
    if isinstance(schema, list):
        return [as_json_schema(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for name, value in schema.items():
        key = camel(name)
        if key in _DROPPED or (key == "format" and str(value) in _OPENAPI):
            continue
        if key == "type" and isinstance(value, str):
            found[key] = value.lower()
        elif key == "ref" and isinstance(value, str):
            found["$ref"] = value.replace("#/defs/", "#/$defs/", 1)
        elif key in _OF_NAMES and isinstance(value, dict):
            members = {name: as_json_schema(one) for name, one in value.items()}
            found[_OF_NAMES[key]] = members
        elif key in _WITHIN:
            found[key] = as_json_schema(value)
        elif key in _COUNTS and isinstance(value, str):
            found[key] = int(value) if value.isdigit() else value
        else:
            found[key] = value
    if schema.get("nullable"):
        _allow_null(found)
    return found


def _allow_null(found: dict[str, Any]) -> None:
    if isinstance(found.get("type"), str):
        found["type"] = [found["type"], "null"]
    if isinstance(found.get("anyOf"), list):
        found["anyOf"] = [*found["anyOf"], {"type": "null"}]
    elif isinstance(ref := found.pop("$ref", None), str):
        found["anyOf"] = [{"$ref": ref}, {"type": "null"}]
    if isinstance(found.get("enum"), list) and None not in found["enum"]:
        found["enum"] = [*found["enum"], None]


# Whose members are schemas, and what is no schema at all.
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions"})
_VALUES = frozenset({"enum", "const", "default", "examples", "required"})
# "If a schema node has $ref set, then only description and default can be set alongside it"
# (anomalyco/opencode#12295).
_BESIDE = frozenset({"description", "default", "definitions"})
# What says nothing that the schema referred to does not.
_REPEATS = frozenset({"type", "title"})


def refs_alone(schema: bytes) -> tuple[bytes, bool]:
    """Return a schema whose references have beside them what Google takes; whether it says less."""
    if b'"$ref"' not in schema:
        return schema, False
    said = msgspec.json.decode(schema)
    lost: set[str] = set()
    stack: list[Any] = [said]
    while stack:
        one = stack.pop()
        if isinstance(one, list):
            stack += one
        elif isinstance(one, dict):
            if isinstance(one.get("$ref"), str):
                beside = {name for name in one if not name.startswith("$")} - _BESIDE
                lost |= beside
                for name in beside:
                    del one[name]
            for name, value in one.items():
                if name in _NAMED and isinstance(value, dict):
                    stack += value.values()
                elif name not in _VALUES:
                    stack.append(value)
    return (msgspec.json.encode(said) if lost else schema), bool(lost - _REPEATS)
