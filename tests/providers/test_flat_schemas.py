"""Tools whose arguments are one of several objects, for Claude, which has no such tools."""

import json
from typing import Any

import pytest
from translated import ANTHROPIC, ASKS, BEDROCK, OPENAI

from tollway.providers.canon import Call
from tollway.providers.dialects.dialect import Facts

MODELS = {ANTHROPIC.name: "claude-sonnet-4-5", BEDROCK.name: "us.anthropic.claude-sonnet-4-5"}
BY_ID = {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}
BY_NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def offered(
    target: str, schema: Any, model: str = "", *, strict: bool = False
) -> tuple[Any, tuple[str, ...]]:
    """Return a tool's schema as a target is told it, and what is named as lost."""
    function = {"name": "find", "parameters": schema, "strict": strict}
    tools = [{"type": "function", "function": function}]
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "tools": tools}
    said = OPENAI.read_request(Call("chat", OPENAI.name, "m", json.dumps(body).encode()))
    written = ASKS[target].write_request(said, Facts(model or MODELS[target]))
    there = json.loads(written.body)
    if target == BEDROCK.name:
        return there["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"], written.dropped
    return there["tools"][0]["input_schema"], written.dropped


@pytest.mark.parametrize("target", MODELS)
@pytest.mark.parametrize("way", ["oneOf", "anyOf", "allOf"])
def test_alternatives_are_one_object_that_is_told_them(target: str, way: str) -> None:
    """One tool with any made every call of a session a 400."""
    member = {"properties": {"deep": {"type": "boolean"}}, "required": ["deep"]}
    schema, dropped = offered(target, {**member, "description": "Where", way: [BY_ID, BY_NAME]})
    needed = ["deep", "id", "name"] if way == "allOf" else ["deep"]
    about = schema.pop("description")
    assert schema == {
        "type": "object",
        "properties": {
            "deep": {"type": "boolean"},
            "id": {"type": "integer"},
            "name": {"type": "string"},
        },
        "required": needed,
    }
    first, told = about.split("\n\n")
    assert (first, json.loads(told)) == ("Where", {way: [BY_ID, BY_NAME]})
    assert dropped == (f"tools.parameters.{way}",)


@pytest.mark.parametrize("target", MODELS)
def test_alternatives_of_a_member_stay(target: str) -> None:
    """Only the top may have none."""
    schema = {"type": "object", "properties": {"anyOf": {"anyOf": [BY_ID, BY_NAME]}}}
    assert offered(target, schema) == (schema, ())


@pytest.mark.parametrize("way", ["anyOf", "allOf"])
@pytest.mark.parametrize(
    "odd",
    [
        *(7, "x", [7], [{"properties": 7, "required": 7}], {}, [{"required": [{}, []]}]),
        *([{"$ref": 7}], [{"$ref": "#/$defs/None"}], [{"$ref": "#/$defs/Round"}], [{"$ref": "#"}]),
    ],
)
def test_what_is_no_list_of_objects_is_no_failure(odd: object, way: str) -> None:
    """Its provider would say what is wrong with it; here it is told the model."""
    defined = {"Round": {"$ref": "#/$defs/Round"}}
    given = {"type": "object", "$defs": defined, "required": [[]], way: odd}
    schema, _ = offered(ANTHROPIC.name, given)
    assert (schema["properties"], json.loads(schema["description"])) == ({}, {way: odd})
    assert "required" not in schema


@pytest.mark.parametrize("target", MODELS)
@pytest.mark.parametrize("place", ["$defs", "definitions"])
def test_alternatives_that_stand_elsewhere_are_found(target: str, place: str) -> None:
    """As pydantic writes them: the object had no members, and a strict tool could have none."""
    refs = [{"$ref": f"#/{place}/Id"}, {"$ref": f"#/{place}/Name"}]
    defined = {place: {"Id": BY_ID, "Name": {"$ref": f"#/{place}/Own"}, "Own": BY_NAME}}
    schema, dropped = offered(target, {"anyOf": refs, **defined}, strict=True)
    assert schema["properties"] == {"id": {"type": "integer"}, "name": {"type": "string"}}
    assert schema[place] == defined[place] and "additionalProperties" not in schema
    assert dropped == ("tools.parameters.anyOf", "tools.strict")


@pytest.mark.parametrize("target", MODELS)
def test_a_schema_that_refers_to_one_within_it_is_that_one(target: str) -> None:
    """As of a recursive type; a strict tool was held to an object without any member."""
    tree = {**BY_ID, "properties": {"id": {"type": "integer"}, "in": {"$ref": "#/$defs/Tree"}}}
    given = {"$ref": "#/$defs/Tree", "description": "Where", "$defs": {"Tree": tree}}
    assert offered(target, given) == ({**tree, "description": "Where", "$defs": {"Tree": tree}}, ())
    assert offered(target, given, strict=True)[1] == ("tools.strict",)
    closed = {**BY_ID, "additionalProperties": False}
    schema, dropped = offered(target, {**given, "$defs": {"Tree": closed}}, strict=True)
    assert (schema.pop("$defs"), dropped) == ({"Tree": closed}, ())
    assert schema == {**closed, "description": "Where"}


def test_other_models_get_the_schema_as_it_is() -> None:
    """Who serves them bears it, or says so."""
    schema = {"type": "object", "anyOf": [BY_ID, BY_NAME]}
    assert offered(ANTHROPIC.name, schema, "qwen3") == (schema, ())
