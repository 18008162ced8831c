"""Google's own way to write a schema (`Type.OBJECT`, `nullable`) as JSON Schema."""

from typing import Any

from tollway.providers.dialects.gemini_request import camel

_DROPPED = frozenset({"propertyOrdering", "nullable"})
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
        elif key == "properties" and isinstance(value, dict):
            found[key] = {name: as_json_schema(one) for name, one in value.items()}
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
    if isinstance(found.get("enum"), list) and None not in found["enum"]:
        found["enum"] = [*found["enum"], None]
