"""Schemas to which OpenAI holds a model: what stands beside a reference, and what is not strict."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from tollway.providers.conversation import Format, HostedTool, Tool
from tollway.providers.dialects.plain_refs import Room
from tollway.providers.dialects.wire import is_strict, object_in

# Whose members are schemas, and what is no schema at all.
_NAMED: Final = frozenset({"properties", "$defs"})
_VALUES: Final = frozenset({"enum", "const", "default", "examples"})
_NOTED: Final = frozenset({"$ref", "title", "description"})
# How often what is put in place may have something put in its place: honest ones, some times.
_MOST_DEPTH: Final = 32


def held(asked: Format) -> tuple[bytes, bool | None]:
    """Return the schema of an answer, and whether the model is to be held to it; None for unsaid.

    A dialect that has no such word always holds to the schema; what OpenAI refuses as strict is
    asked for without that word.
    """
    if asked.strict is False or not asked.schema:
        return asked.schema, asked.strict
    schema = _alone(asked.schema, Room())
    if asked.strict or asked.name:
        return schema, asked.strict
    return (schema, True) if is_strict(schema) else (asked.schema, None)


def bare(tools: Iterable[Tool | HostedTool]) -> Iterator[Tool | HostedTool]:
    """Yield a request's tools, those that are strict with nothing beside a reference."""
    room = Room()
    for tool in tools:
        if isinstance(tool, Tool) and tool.strict and tool.kind != "custom":
            yield msgspec.structs.replace(tool, schema=_alone(tool.schema, room))
        else:
            yield tool


def _alone(schema: bytes, room: Room) -> bytes:
    """Return a schema with nothing beside a reference: what is described is what it refers to.

    "$ref cannot have keywords {'description'}" is OpenAI's answer to a strict schema, and its own
    libraries put in place what is referred to. Where more than a note stands beside one, or what
    is described holds itself, or it would be too deep, or the request has no `room` left, the
    schema stays as it is.
    """
    try:
        return _put_in(schema, room)
    except RecursionError:
        return schema


def _put_in(schema: bytes, room: Room) -> bytes:
    said, known = (object_in(schema), object_in(schema)) if b'"$ref"' in schema else (None, None)
    if said is None or known is None or not isinstance(defined := known.get("$defs"), dict):
        return schema
    changed = False
    stack: list[tuple[Any, tuple[str, ...]]] = [(said, ())]  # and what it was put in place of
    while stack:
        one, within = stack.pop()
        if isinstance(one, list):
            stack += ((each, within) for each in one)
        if not isinstance(one, dict):
            continue
        while one.keys() - {"$ref"} and isinstance(ref := one.get("$ref"), str):
            there = msgspec.json.encode(defined.get(ref.removeprefix("#/$defs/")))
            found = object_in(there)
            ends = ref not in within and len(within) < _MOST_DEPTH
            if found is None or one.keys() - _NOTED or not (ends and room.takes(len(there))):
                return schema
            del one["$ref"]
            one.update({**found, **one})
            within, changed = (*within, ref), True
        for name, value in one.items():
            if name in _NAMED and isinstance(value, dict):
                stack += ((each, within) for each in value.values())
            elif name not in _VALUES:
                stack.append((value, within))
    return msgspec.json.encode(said) if changed else schema
