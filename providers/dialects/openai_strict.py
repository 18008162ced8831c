"""Schemas to which OpenAI holds a model: what stands beside a reference, and what is not strict."""

from typing import Any, Final

import msgspec

from tollway.providers.conversation import Format
from tollway.providers.dialects.wire import is_strict, object_in

# Whose members are schemas, and what is no schema at all.
_NAMED: Final = frozenset({"properties", "$defs"})
_VALUES: Final = frozenset({"enum", "const", "default", "examples"})
_NOTED: Final = frozenset({"$ref", "title", "description"})
# What is described in many places is put there as often: an honest schema has kilobytes.
_MOST_BYTES: Final = 1024 * 1024


def held(asked: Format) -> tuple[bytes, bool | None]:
    """Return the schema of an answer, and whether the model is to be held to it; None for unsaid.

    A dialect that has no such word always holds to the schema; what OpenAI refuses as strict is
    asked for without that word.
    """
    if asked.strict is False or not asked.schema:
        return asked.schema, asked.strict
    schema = alone(asked.schema)
    if asked.strict or asked.name:
        return schema, asked.strict
    return (schema, True) if is_strict(schema) else (asked.schema, None)


def alone(schema: bytes) -> bytes:
    """Return a schema with nothing beside a reference: what is described is what it refers to.

    "$ref cannot have keywords {'description'}" is OpenAI's answer to a strict schema, and its own
    libraries put in place what is referred to. Where more than a note stands beside one, or it
    would be too large, the schema stays as it is.
    """
    said, known = (object_in(schema), object_in(schema)) if b'"$ref"' in schema else (None, None)
    if said is None or known is None or not isinstance(defined := known.get("$defs"), dict):
        return schema
    left, changed = _MOST_BYTES, False
    stack: list[Any] = [said]
    while stack:
        one = stack.pop()
        if isinstance(one, list):
            stack += one
        if not isinstance(one, dict):
            continue
        while one.keys() - {"$ref"} and isinstance(ref := one.get("$ref"), str):
            there = msgspec.json.encode(defined.get(ref.removeprefix("#/$defs/")))
            left -= len(there)
            if left < 0 or one.keys() - _NOTED or (found := object_in(there)) is None:
                return schema
            del one["$ref"]
            one.update({**found, **one})
            changed = True
        for name, value in one.items():
            if name in _NAMED and isinstance(value, dict):
                stack += value.values()
            elif name not in _VALUES:
                stack.append(value)
    return msgspec.json.encode(said) if changed else schema
