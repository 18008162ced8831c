"""Schemas of tools' arguments without alternatives at their top, which Claude does not bear.

"input_schema does not support oneOf, allOf, or anyOf at the top level": Anthropic and Bedrock
refuse a whole request for one tool with such a schema, which OpenAI and Google take. Its members
are those of all alternatives, and what goes with what is told in the description. A schema that
only refers to another within itself is that one: beside such a reference no member is read.
"""

from typing import Any, Final

import msgspec

from tollway.providers.conversation import Conversation, Tool
from tollway.providers.dialects.wire import UNREADABLE, object_in

_WAYS: Final = ("oneOf", "anyOf", "allOf")
_WORDS: Final = {word: b'"%b"' % word.encode() for word in (*_WAYS, "$ref")}
_TOP: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_DEFINED: Final = ("$defs", "definitions")
# A reference to a reference, and so on; those that go round end nowhere.
_MOST_HOPS: Final = 8


def flat(said: Conversation) -> Conversation:
    """Return a conversation whose tools have no alternatives at the top; what is lost is named."""
    tools = tuple(_tool(one) if isinstance(one, Tool) else one for one in said.tools)
    same = all(new is old for new, old in zip(tools, said.tools, strict=True))
    return said if same else msgspec.structs.replace(said, tools=tools)


def _tool(tool: Tool) -> Tool:
    given = object_in(tool.schema) if _is_other(tool.schema) else None
    if given is None:
        return tool
    schema = _referred(given, given)
    found: dict[str, Any] = {way: schema[way] for way in _WAYS if way in schema}
    if not found and schema is given:
        return tool
    lost = [f"parameters.{way}" for way in found]
    if found and tool.strict:
        lost.append("strict")  # a model held to all members at once may give those of none
    return msgspec.structs.replace(
        tool,
        schema=msgspec.json.encode(_flat(schema, found) if found else schema),
        strict=False if found else tool.strict,
        extras=(*tool.extras, *((name, b"") for name in lost)),
    )


def _is_other(schema: bytes) -> bool:
    """Whether a schema has any of the words at its top; within members, nearly all have."""
    if not any(word in schema for word in _WORDS.values()):
        return False
    try:
        return not _WORDS.keys().isdisjoint(_TOP.decode(schema))
    except UNREADABLE:
        return False


def _referred(said: object, within: dict[str, Any]) -> dict[str, Any]:
    """Return a schema, or the one within the tool's that it refers to; {} for none."""
    schema = _object(said)
    for _ in range(_MOST_HOPS):
        ref = schema.get("$ref")
        start, _, name = ref.rpartition("/") if isinstance(ref, str) else ("", "", "")
        if start not in {f"#/{place}" for place in _DEFINED}:
            break
        there = _object(_object(within.get(start[2:])).get(name))
        if not there:
            break
        schema = {**there, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema


def _flat(schema: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in schema.items() if name not in found}
    members = _object(kept.get("properties")).copy()
    needed = _list(kept.pop("required", None)).copy()
    for way, said in found.items():
        for one in _list(said):
            alternative = _referred(one, schema)
            for name, member in _object(alternative.get("properties")).items():
                members.setdefault(name, member)
            if way == "allOf":
                needed += _list(alternative.get("required"))
    required = dict.fromkeys(name for name in needed if isinstance(name, str))
    told = msgspec.json.encode(found).decode()
    about = kept.get("description")
    return {
        **kept,
        "type": "object",
        "properties": members,
        **({"required": list(required)} if required else {}),
        "description": f"{about}\n\n{told}" if about else told,
    }


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
