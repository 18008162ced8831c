"""Schemas to which Anthropic and Bedrock hold a model: they refuse a request with any other."""

import json
from typing import Any

import pytest
from anthropic import transform_schema
from translated import ANTHROPIC, ASKS, BEDROCK, OPENAI, RESPONSES

from tollway.providers.canon import Call
from tollway.providers.dialects.dialect import Facts
from tollway.providers.dialects.strict_schema import held_to
from tollway.providers.dialects.wire import is_strict
from tollway.providers.errors import Untranslatable

CLAUDE = {ANTHROPIC.name: "claude-sonnet-4-5", BEDROCK.name: "us.anthropic.claude-sonnet-4-5"}
AGE = {"type": "integer", "minimum": 1, "maximum": 99, "description": "In years"}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9, "pattern": "^[A-Z]", "format": "uuid"},
        "age": AGE,
        "tags": {"type": "array", "items": {"type": "string", "minLength": 2}, "maxItems": 3},
        "home": {"$ref": "#/$defs/Home"},
        "pet": {"oneOf": [{"type": "object", "properties": {"minimum": AGE}}, {"type": "null"}]},
    },
    "required": ["name", "age", "tags", "home", "pet"],
    "$schema": "http://json-schema.org/draft-07/schema#",
    "$defs": {"Home": {"type": ["object", "null"], "properties": {"zip": {"type": "string"}}}},
}


def read(schema: Any) -> Any:
    """Return what becomes of a schema."""
    return json.loads(held_to(json.dumps(schema).encode())[0])


def asked(target: str, model: str = "", **more: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what a chat client's request is to a target, and what is named as left out."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | more
    said = OPENAI.read_request(Call("chat", OPENAI.name, "m", json.dumps(body).encode()))
    written = ASKS[target].write_request(said, Facts(model or CLAUDE[target]))
    return json.loads(written.body), written.dropped


def shaped(schema: Any) -> dict[str, Any]:
    """Return the field by which a chat client asks for an answer of a schema."""
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


def offered(*schemas: Any) -> list[dict[str, Any]]:
    """Return strict tools with such parameters."""
    return [
        {"type": "function", "function": {"name": f"f{n}", "strict": True, "parameters": schema}}
        for n, schema in enumerate(schemas)
    ]


def test_what_no_model_is_held_to_is_told_in_the_description() -> None:
    """As in Anthropic's own library: bounds are words there, and every object is closed."""
    found = read(PERSON)
    members = found["properties"]
    assert members["age"] == {
        "type": "integer",
        "description": "In years\n\n{minimum: 1, maximum: 99}",
    }
    assert transform_schema(AGE) == members["age"]
    assert members["name"] == {
        "type": "string",
        "pattern": "^[A-Z]",
        "format": "uuid",
        "description": "{maxLength: 9}",
    }
    assert members["tags"]["items"] == {"type": "string", "description": "{minLength: 2}"}
    assert members["tags"]["description"] == "{maxItems: 3}"
    pet, nothing = members["pet"]["anyOf"]
    assert nothing == {"type": "null"}
    assert pet["properties"]["minimum"] == members["age"]  # a member's name is no word
    closed = (found, pet, found["$defs"]["Home"])
    assert [one["additionalProperties"] for one in closed] == [False] * 3
    assert "$schema" not in found


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("minItems", 2),
        ("uniqueItems", True),
        ("multipleOf", 0.5),
        ("exclusiveMinimum", 0),
        ("format", "phone"),
        ("format", ["uuid"]),
        ("pattern", "(?=a)"),
        ("pattern", r"\bword"),
        ("not", {"type": "null"}),
    ],
)
def test_each_such_word_is_named(word: str, value: Any) -> None:
    """The answer may be another one than the client can take."""
    schema = {"type": "object", "properties": {"a": {"type": "string", word: value}}}
    for target in CLAUDE:
        body, dropped = asked(target, response_format=shaped(schema))
        assert dropped == (f"response_format.{word}",)
        assert f"{{{word}: " in json.dumps(body)


def test_a_schema_that_a_model_can_be_held_to_is_not_touched() -> None:
    """To the byte: the provider keeps what it has made of it."""
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"type": "string"}, "minItems": 1}},
        "required": ["a"],
        "additionalProperties": False,
    }
    text = json.dumps(schema, indent=3).encode()
    assert held_to(text) == (text, ())


def test_an_object_that_says_it_is_open_is_closed_around_its_members() -> None:
    """Genkit says so of each: such an answer fits the client's schema, and the word is named."""
    schema = {
        **{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        **{"additionalProperties": True, "$schema": "http://json-schema.org/draft-07/schema#"},
    }
    for target in CLAUDE:
        body, dropped = asked(target, response_format=shaped(schema))
        assert dropped == ("response_format.additionalProperties",)
        text = json.dumps(body)
        assert '"additionalProperties": false' in text or '\\"additionalProperties\\":false' in text


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "additionalProperties": True, "properties": {}},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"type": "object", "patternProperties": {"^a": {}}, "properties": {}},
    ],
)
def test_members_of_any_name_are_refused(schema: dict[str, Any]) -> None:
    """Closed, it would be another object; a strict tool is offered as one that is not strict."""
    within = {"type": "object", "properties": {"a": schema}}
    for target in CLAUDE:
        with pytest.raises(Untranslatable, match="any name"):
            asked(target, response_format=shaped(within))
        body, dropped = asked(target, tools=offered(within))
        assert dropped == ("tools.strict",)
        assert json.dumps(within) in json.dumps(body)
        assert '"strict"' not in json.dumps(body)


def test_a_strict_tool_is_held_to_what_can_be_held() -> None:
    """And the rest is named."""
    schema = {"type": "object", "properties": {"age": AGE}, "required": ["age"]}
    for target in CLAUDE:
        body, dropped = asked(target, tools=offered(schema))
        assert dropped == ("tools.parameters.minimum", "tools.parameters.maximum")
        assert '"strict": true' in json.dumps(body)
        assert json.dumps(read(schema)) in json.dumps(body)


@pytest.mark.parametrize(
    ("schemas", "strict"),
    [
        ([{"type": "object", "properties": {}}] * 22, 20),
        ([{"type": "object", "properties": {f"p{n}": {} for n in range(10)}}] * 3, 2),
        (
            [
                {
                    "type": "object",
                    "properties": {"a": {"type": ["string", "null"]}},
                    "required": ["a"],
                }
            ]
            * 18,
            16,
        ),
    ],
    ids=["tools", "optional", "unions"],
)
def test_more_strict_tools_than_a_request_may_hold_are_offered_as_others(
    schemas: list[dict[str, Any]], strict: int
) -> None:
    """Anthropic refuses the whole request for them."""
    for target in CLAUDE:
        body, dropped = asked(target, tools=offered(*schemas))
        text = json.dumps(body)
        assert (text.count('"strict": true'), dropped) == (strict, ("tools.strict",))
        assert text.count('"f') == len(schemas)


def test_a_server_of_other_models_gets_the_schema_as_it_is() -> None:
    """Nobody knows to what it holds them."""
    body, dropped = asked(ANTHROPIC.name, "qwen3", response_format=shaped(PERSON))
    assert (body["output_config"]["format"]["schema"], dropped) == (PERSON, ())


@pytest.mark.parametrize("depth", [100, 300, 440, 480, 2000])
def test_a_schema_without_an_end_is_no_failure(depth: int) -> None:
    """It is refused where it is too deep to be read, if the provider does not do so."""
    text = b'{"type":"object","properties":{"a":' * depth + b"{}" + b"}}" * depth
    try:
        held_to(text)
    except Untranslatable as refusal:
        assert "deeply" in refusal.message


@pytest.mark.parametrize("target", [OPENAI.name, RESPONSES.name])
@pytest.mark.parametrize(
    ("member", "is_strict"),
    [
        ({"type": "string", "pattern": "^a"}, True),
        ({"type": "object", "properties": {"default": {"type": "null"}}}, False),
        ({"type": "string", "default": "a"}, False),
        ({"type": "string", "maxLength": 9}, False),
        ({"allOf": [{"type": "string"}]}, False),
        ({"enum": [{"default": 1}]}, True),
    ],
)
def test_openai_is_asked_for_as_much_as_it_takes(
    target: str, member: dict[str, Any], is_strict: bool
) -> None:
    """Anthropic holds models to schemas that OpenAI refuses as strict; to others it may be held."""
    schema: dict[str, Any] = {"type": "object", "properties": {"a": member}, "required": ["a"]}
    schema |= {"additionalProperties": False}
    tool = {"name": "f", "strict": True, "input_schema": schema}
    body = {
        "model": "m",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [tool],
        "output_config": {"format": {"type": "json_schema", "schema": schema}},
    }
    call = Call("chat", ANTHROPIC.name, "m", json.dumps(body).encode())
    written = ASKS[target].write_request(ANTHROPIC.read_request(call), Facts("gpt-5.2"))
    said = json.loads(written.body)
    assert written.dropped == (() if is_strict else ("tools.strict",))
    offered = said["tools"][0]
    assert offered.get("function", offered)["strict"] is is_strict
    asked = said["text"]["format"] if "text" in said else said["response_format"]["json_schema"]
    assert asked.get("strict", False) is is_strict
    if target == RESPONSES.name:
        assert "strict" in asked  # which takes a schema for strict where nothing is said


def test_a_schema_that_cannot_be_looked_through_is_not_strict() -> None:
    """One level before a body is nested too deeply, the schemas in it failed the gateway."""
    assert is_strict(b'{"type":"object","properties":{},"additionalProperties":false}')
    assert not is_strict(b'{"properties":' * 5000 + b"1" + b"}" * 5000)


@pytest.mark.parametrize("target", CLAUDE)
def test_a_schema_that_holds_itself_is_refused_here_and_a_strict_tool_of_it_is_free(
    target: str,
) -> None:
    """OpenAI holds answers to a tree; Claude refused the call, also for a tool of such a schema."""
    leaf = {"type": "object", "properties": {"name": {"type": "string"}}}
    for tree in (
        {**leaf, "properties": {"below": {"type": "array", "items": {"$ref": "#"}}}},
        {
            "$ref": "#/$defs/A",
            "$defs": {
                "A": {**leaf, "properties": {"b": {"$ref": "#/$defs/B"}}},
                "B": {**leaf, "properties": {"a": {"anyOf": [{"$ref": "#/$defs/A"}]}}},
            },
        },
    ):
        with pytest.raises(Untranslatable, match="holds itself") as refused:
            asked(target, response_format=shaped(tree))
        assert refused.value.param == "response_format"
        assert "levels" in refused.value.hint
        _, dropped = asked(target, tools=offered(leaf, tree))
        assert dropped == ("tools.strict",)


def test_a_reference_in_all_of_stands_as_what_it_refers_to() -> None:
    """Older pydantic writes each member with a description so; Anthropic takes none there."""
    member = {"allOf": [{"$ref": "#/$defs/Home"}], "description": "Where they live"}
    home = {"type": "object", "properties": {"zip": {"type": "string"}}}
    schema = {"type": "object", "properties": {"home": member}, "$defs": {"Home": home}}
    assert read(schema)["properties"]["home"] == {
        "allOf": [home | {"additionalProperties": False}],
        "description": "Where they live",
    }


def test_references_that_many_share_are_held_to_and_those_that_multiply_are_refused() -> None:
    """A request of a kilobyte was one of 88 MB, and nobody else was answered for half a minute."""
    ends: dict[str, Any] = {"type": "object", "properties": {"zip": {"type": "string"}}}
    for depth, is_held in ((3, True), (16, False)):
        known = {
            f"A{at}": {"allOf": [{"$ref": f"#/$defs/A{at + 1}"}] * 2} for at in range(depth)
        } | {f"A{depth}": ends}
        said = json.dumps({"allOf": [{"$ref": "#/$defs/A0"}], "$defs": known}).encode()
        if is_held:
            assert held_to(said)[0].count(b"zip") > 2**depth
        else:
            with pytest.raises(Untranslatable, match="too large"):
                held_to(said)
