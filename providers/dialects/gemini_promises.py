"""JSON Schema in the words that Google holds a model to.

Of an answer's schema the whole may be sent, and a part of it is read (reference of
`responseJsonSchema`): the rest holds for nothing, and no error says so. What has an equal among
those words is said by it; of what has none the model is told, and the client too.
"""

from typing import Any, Final

import msgspec

from tollway.providers.dialects.wire import object_in

# What it passes over in silence.
_UNREAD: Final = (
    *("const", "allOf", "not", "if", "then", "else", "pattern", "minLength", "maxLength"),
    *("exclusiveMinimum", "exclusiveMaximum", "multipleOf", "uniqueItems", "contains"),
    *("minContains", "maxContains", "minProperties", "maxProperties", "patternProperties"),
    *("propertyNames", "dependentRequired", "dependentSchemas", "dependencies"),
    *("unevaluatedProperties", "unevaluatedItems"),
)
_MARKS = tuple(f'"{name}"'.encode() for name in _UNREAD)
_NAMED = ("properties", "$defs", "definitions")
_LISTED = ("anyOf", "oneOf", "prefixItems")
_WITHIN = ("items", "additionalProperties")
_BOUNDS = {"exclusiveMinimum": ("minimum", 1), "exclusiveMaximum": ("maximum", -1)}


def promised(schema: bytes, *, tells: bool) -> tuple[bytes, tuple[str, ...]]:
    """Return a schema in Google's words, and the words of it to which it holds no model.

    Args:
        schema: Of an answer, or of a tool's arguments.
        tells: Whether the model is told those words in a description.
    """
    if not any(mark in schema for mark in _MARKS) or (said := object_in(schema)) is None:
        return schema, ()
    walk = _Walk(tells=tells)
    try:
        written = walk.schema(said)
    except RecursionError:
        return schema, ()
    return (schema if written == said else msgspec.json.encode(written)), tuple(walk.told)


class _Walk:
    """Writes schemas within schemas, and notes in `told` which words hold for nothing."""

    def __init__(self, *, tells: bool) -> None:
        self.told: dict[str, None] = {}
        self._tells = tells

    def schema(self, said: object) -> Any:
        if not isinstance(said, dict):
            return said
        said = _equal(said)
        written: dict[str, Any] = {}
        for name, value in said.items():
            if name in _NAMED and isinstance(value, dict):
                written[name] = {key: self.schema(one) for key, one in value.items()}
            elif name in _LISTED and isinstance(value, list):
                written[name] = [self.schema(one) for one in value]
            else:
                written[name] = self.schema(value) if name in _WITHIN else value
        words = {name: said[name] for name in _UNREAD if name in said}
        if words and self._tells:
            self.told.update(dict.fromkeys(words))
            about = f"{{{', '.join(f'{name}: {_text(value)}' for name, value in words.items())}}}"
            before = said.get("description")
            written["description"] = f"{before}\n\n{about}" if before else about
        return written


def _equal(said: dict[str, Any]) -> dict[str, Any]:
    """Return a schema in which what has an equal among the words that are read is said by it."""
    parts = said.get("allOf")
    if isinstance(parts, list) and len(parts) == 1 and isinstance(only := parts[0], dict):
        rest = {name: value for name, value in said.items() if name != "allOf"}
        if not only.keys() & rest.keys():
            said = {**rest, **only}
    value = said.get("const")
    if isinstance(value, str | int | float) and not isinstance(value, bool) and "enum" not in said:
        rest = {name: one for name, one in said.items() if name != "const"}
        said = {**rest, "enum": [value]}
    for name, (bound, step) in _BOUNDS.items():
        limit = said.get(name)
        if said.get("type") == "integer" and type(limit) is int and bound not in said:
            rest = {key: one for key, one in said.items() if key != name}
            said = {**rest, bound: limit + step}
    return said


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
