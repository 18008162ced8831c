"""Google's own way to write a schema (`Type.OBJECT`, `nullable`) as JSON Schema."""

from typing import Any

_RENAMED = {"anyOf": "anyOf", "any_of": "anyOf"}
_DROPPED = frozenset({"propertyOrdering", "property_ordering", "nullable"})
_WITHIN = frozenset({"items", "additionalProperties", "additional_properties"})


def as_json_schema(schema: object) -> Any:
    """Return a schema of the OpenAPI kind as JSON Schema; one that already is stays as it is."""
    if isinstance(schema, list):
        return [as_json_schema(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _DROPPED:
            continue
        if key == "type" and isinstance(value, str):
            found[key] = value.lower()
        elif key == "properties" and isinstance(value, dict):
            found[key] = {name: as_json_schema(one) for name, one in value.items()}
        elif key in _RENAMED:
            found[_RENAMED[key]] = as_json_schema(value)
        elif key in _WITHIN:
            found[key.replace("additional_properties", "additionalProperties")] = as_json_schema(
                value
            )
        elif key in ("minItems", "maxItems", "minLength", "maxLength") and isinstance(value, str):
            found[key] = int(value) if value.isdigit() else value  # int64 is text in Google's JSON
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
