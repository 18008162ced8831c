"""Schemas of tools' arguments without alternatives at their top, which Claude does not bear.

"input_schema does not support oneOf, allOf, or anyOf at the top level": Anthropic and Bedrock
refuse a whole request for one tool with such a schema, which OpenAI and Google take. Its members
are those of all alternatives, and what goes with what is told in the description.
"""

from typing import Any

import msgspec

from tollway.providers.conversation import Conversation, Tool
from tollway.providers.dialects.wire import object_in

_WAYS: tuple[str, ...] = ("oneOf", "anyOf", "allOf")


def flat(said: Conversation) -> Conversation:
    """Return a conversation whose tools have no alternatives at the top; what is lost is named."""
    tools = tuple(_tool(one) if isinstance(one, Tool) else one for one in said.tools)
    same = all(new is old for new, old in zip(tools, said.tools, strict=True))
    return said if same else msgspec.structs.replace(said, tools=tools)


def _tool(tool: Tool) -> Tool:
    if not any(b'"%b"' % way.encode() in tool.schema for way in _WAYS):
        return tool
    schema = object_in(tool.schema)
    found = {} if schema is None else {way: schema[way] for way in _WAYS if way in schema}
    if schema is None or not found:
        return tool
    lost = tuple((f"parameters.{way}", b"") for way in found)
    written = msgspec.json.encode(_flat(schema, found))
    return msgspec.structs.replace(tool, schema=written, extras=(*tool.extras, *lost))


def _flat(schema: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in schema.items() if name not in found}
    members = _object(kept.get("properties")).copy()
    needed = _list(kept.get("required")).copy()
    for way, said in found.items():
        for one in _list(said):
            for name, member in _object(_object(one).get("properties")).items():
                members.setdefault(name, member)
            if way == "allOf":
                needed += [name for name in _list(_object(one).get("required"))]
    told = msgspec.json.encode(found).decode()
    about = kept.get("description")
    return {
        **kept,
        "type": "object",
        "properties": members,
        **({"required": list(dict.fromkeys(needed))} if needed else {}),
        "description": f"{about}\n\n{told}" if about else told,
    }


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
