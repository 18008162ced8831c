"""Schemas that hold themselves, as far as Google takes them.

"ref loops are only supported if they include optional or nullable property values, or a
potentially-zero-length array items, but a ref loop of required fields was found at ..."
(juspay/juspay-mcp#132) is its answer to the whole request. Where such a loop closes, the arguments
of a tool may be anything at all; an answer is not asked for in that shape.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from tollway.providers.dialects.wire import object_in
from tollway.providers.errors import Untranslatable

_DEFINED: Final = ("$defs", "definitions")
_EITHER: Final = ("anyOf", "oneOf")
_Node = dict[str, Any]


def unlooped(schema: bytes) -> tuple[bytes, bool]:
    """Return a schema without loops that Google refuses, and whether it had one."""
    said = object_in(schema) if b'"$ref"' in schema else None
    if said is None:
        return schema, False
    known: dict[str, Any] = {
        f"#/{place}/{name}": one
        for place in _DEFINED
        if isinstance(said.get(place), dict)
        for name, one in said[place].items()
    }
    closing = _closing({ref: list(_must(one)) for ref, one in known.items()})
    for node in closing:
        del node["$ref"]
    return (msgspec.json.encode(said) if closing else schema), bool(closing)


def ended(schema: bytes) -> bytes:
    """Return the schema of an answer.

    Raises:
        Untranslatable: It has a loop that Google refuses.
    """
    if unlooped(schema)[1]:
        raise Untranslatable(
            "The target holds no answer to a schema whose values must hold themselves",
            hint="Let the member be left out, or be null, or write out the levels that are needed",
            param="response_format",
        )
    return schema


def _must(said: Any) -> Iterator[_Node]:
    """Yield the references within a schema to what any value of it must hold."""
    stack = [said]
    while stack:
        one = stack.pop()
        if not isinstance(one, dict) or _may_be_null(one):
            continue
        if isinstance(one.get("$ref"), str):
            yield one
            continue
        members, needed = one.get("properties"), one.get("required")
        if isinstance(members, dict) and isinstance(needed, list):
            stack += [members[name] for name in needed if isinstance(name, str) and name in members]
        if one.get("minItems"):
            stack.append(one.get("items"))
        for way in _EITHER:
            if isinstance(either := one.get(way), list):
                stack += either


def _may_be_null(said: _Node) -> bool:
    kind = said.get("type")
    if said.get("nullable") is True or (isinstance(kind, list) and "null" in kind):
        return True
    ways = [said.get(way) for way in _EITHER]
    return any({"type": "null"} in either for either in ways if isinstance(either, list))


def _closing(led: dict[str, list[_Node]]) -> list[_Node]:
    """Return the references that close a loop, by what each schema leads to."""
    found: list[_Node] = []
    done: set[str] = set()
    for start, nodes in led.items():
        if start in done:
            continue
        way = {start: iter(nodes)}  # from the first to where we are, in order
        while way:
            here = next(reversed(way))
            node = next(way[here], None)
            if node is None:
                done.add(here)
                del way[here]
            elif (ref := node["$ref"]) in way:
                found.append(node)
            elif ref in led and ref not in done:
                way[ref] = iter(led[ref])
    return found
