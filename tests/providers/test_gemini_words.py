"""What other APIs say of a picture, a file or a schema, where Gemini has no field for it."""

import json
from typing import Any

import pytest
from translated import COHERE, GEMINI

from tollway.providers.conversation import (
    Conversation,
    File,
    Format,
    Image,
    Message,
    Part,
    Sampling,
    Source,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from tollway.providers.dialects.dialect import Asks, Facts

PDF = Source("base64", "aGk=", "application/pdf")
PNG = Source("base64", "aGk=", "image/png")
THIRD = "gemini-3-pro-preview"


def body(*parts: Part, model: str = THIRD, target: Asks = GEMINI, **more: Any) -> dict[str, Any]:
    """Return the request for a user's turn, and what it drops."""
    said = Conversation("", "asked", (Message("user", parts),), **more)
    found = target.write_request(said, Facts(model))
    return {**json.loads(found.body), "dropped": found.dropped}


@pytest.mark.parametrize(
    ("file", "head"),
    [
        (File(PDF, "plan.pdf"), [{"text": "plan.pdf"}]),
        (File(PDF, "Plan", context="Of 2026"), [{"text": "Plan Of 2026"}]),
        (File(PDF), []),
    ],
)
def test_what_is_said_of_a_file_stands_before_it(file: File, head: list[dict[str, str]]) -> None:
    """Its name and what it is were lost in silence; the others have fields for them."""
    (turn,) = body(file)["contents"]
    assert turn["parts"] == [
        *head,
        {"inlineData": {"mimeType": "application/pdf", "data": "aGk="}},
    ]


def test_how_closely_to_look_at_a_picture_is_named() -> None:
    """As on the way to Anthropic; "auto" asks for nothing."""
    assert body(Image(PNG, "low"))["dropped"] == ("image_url.detail",)
    assert body(Image(PNG, "auto"))["dropped"] == ()


@pytest.mark.parametrize("target", [GEMINI, COHERE], ids=lambda one: one.name)
def test_what_a_schema_is_for_stands_in_the_schema(target: Asks) -> None:
    """Where there is no place beside it."""
    shape = Format("json_schema", b'{"type":"object"}', description="A place")
    said = json.dumps(body(Text("Hi"), target=target, format=shape))
    assert '{"type": "object", "description": "A place"}' in said


def test_a_result_s_files_have_their_words_beside_its_own() -> None:
    """Within a result the third generation takes data alone: a text there was refused."""
    files = (File(PDF, "plan.pdf"), File(Source("text", "Go"), "note.txt"), Image(PNG))
    result = ToolResult("c", (Text("Found"), *files))
    turns = (
        Message("user", (Text("Hi"),)),
        Message("assistant", (ToolCall("c", "look", "{}"),)),
        Message("tool", (result,)),
    )
    written = GEMINI.write_request(Conversation("", "m", turns), Facts(THIRD))
    (part,) = json.loads(written.body)["contents"][-1]["parts"]
    said = part["functionResponse"]
    assert said["response"] == {"result": "Found", "attached": ["plan.pdf", "note.txt\n\nGo"]}
    assert [one["inlineData"]["mimeType"] for one in said["parts"]] == [
        "application/pdf",
        "image/png",
    ]


@pytest.mark.parametrize(
    ("beside", "kept", "lost"),
    [
        ({"description": "Whose", "default": None}, {"description": "Whose", "default": None}, ()),
        ({"type": "object", "title": "A"}, {}, ()),
        ({"minProperties": 1}, {}, ("tools.parameters.$ref",)),
    ],
)
def test_a_reference_has_beside_it_what_google_takes(
    beside: dict[str, Any], kept: dict[str, Any], lost: tuple[str, ...]
) -> None:
    """Anything else failed the whole call; a property may be called so all the same."""
    ref = {"$ref": "#/$defs/A"}
    schema = {
        "type": "object",
        "properties": {
            "a": {**ref, **beside},
            "$ref": {"type": "string", "enum": [{**ref, "b": 1}]},
        },
        "$defs": {"A": {"type": "object", "properties": {"next": ref}}},
    }
    there = {**schema, "properties": {**schema["properties"], "a": {**ref, **kept}}}  # type: ignore[dict-item]
    sent = body(Text("Hi"), tools=(Tool("f", "", json.dumps(schema).encode()),))
    (declared,) = sent["tools"][0]["functionDeclarations"]
    assert (declared["parametersJsonSchema"], sent["dropped"]) == (there, lost)


def schema_of(schema: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return an answer's schema as Gemini gets it, and what was named."""
    asked = Format("json_schema", json.dumps(schema).encode())
    found = body(Text("Hi"), format=asked)
    return found["generationConfig"]["responseJsonSchema"], found["dropped"]


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ({"const": "cat"}, {"enum": ["cat"]}),
        ({"type": "integer", "const": 4}, {"type": "integer", "enum": [4]}),
        ({"type": "integer", "exclusiveMinimum": 0}, {"type": "integer", "minimum": 1}),
        ({"type": "integer", "exclusiveMaximum": 9}, {"type": "integer", "maximum": 8}),
        ({"allOf": [{"type": "string"}], "title": "T"}, {"title": "T", "type": "string"}),
        ({"allOf": [{"$ref": "#/$defs/A"}]}, {"$ref": "#/$defs/A"}),
    ],
)
def test_what_google_does_not_read_is_said_in_words_that_it_reads(
    said: dict[str, Any], written: dict[str, Any]
) -> None:
    """A kind that is `const` in a union was any text: Google passes over the word in silence."""
    for place in ({"anyOf": [said]}, {"type": "array", "items": said}):
        schema, dropped = schema_of({"type": "object", "properties": {"a": place}})
        there = {"anyOf": [written]} if "anyOf" in place else {"type": "array", "items": written}
        assert (schema["properties"]["a"], dropped) == (there, ())
    tool = Tool("f", schema=json.dumps({"type": "object", "properties": {"a": said}}).encode())
    (declared,) = body(Text("Hi"), tools=(tool,))["tools"][0]["functionDeclarations"]
    assert declared["parametersJsonSchema"]["properties"]["a"] == written


def test_what_google_promises_of_no_answer_is_told_and_named() -> None:
    """The reference of `responseJsonSchema` has the words that it holds a model to."""
    text = {"type": "string", "description": "A word", "pattern": "^a", "minLength": 2}
    number = {"type": "number", "exclusiveMinimum": 0}
    truth = {"type": "boolean", "const": True}
    names = {"pattern": text, "minLength": number, "truth": truth}
    schema, dropped = schema_of({"type": "object", "properties": names})
    members = schema["properties"]
    assert members["pattern"] == text | {"description": "A word\n\n{pattern: ^a, minLength: 2}"}
    assert members["minLength"]["description"] == "{exclusiveMinimum: 0}"
    assert members["truth"]["description"] == "{const: true}"
    assert set(dropped) == {
        *("response_format.pattern", "response_format.minLength"),
        *("response_format.exclusiveMinimum", "response_format.const"),
    }
    tool = Tool("f", schema=json.dumps({"type": "object", "properties": names}).encode())
    found = body(Text("Hi"), tools=(tool,))
    (declared,) = found["tools"][0]["functionDeclarations"]
    assert (declared["parametersJsonSchema"]["properties"], found["dropped"]) == (names, ())


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        *(("gemini-2.5-flash", True), ("gemini-3.1-pro-preview", True), ("gemini-3.5-flash", True)),
        *(("gemini-3.5-flash-lite", False), ("gemini-3.6-flash", False)),
        *(("gemini-3.8-flash", False), ("gemini-4-pro", False), ("gemini-flash-latest", False)),
    ],
)
def test_how_the_next_token_is_drawn_is_named_where_google_no_longer_reads_it(
    model: str, kept: bool
) -> None:
    """These models pass over it in silence, and later ones are to refuse the call."""
    drawn = Sampling(temperature=0.2, top_p=0.9, top_k=3, seed=7)
    found = body(Text("Hi"), model=model, sampling=drawn)
    config = {"temperature": 0.2, "topP": 0.9, "topK": 3} if kept else {}
    assert found["generationConfig"] == config | {"seed": 7}
    assert found["dropped"] == (() if kept else ("temperature", "top_p", "top_k"))
    plain = body(Text("Hi"), model=model, sampling=Sampling(temperature=1.0))
    assert plain["dropped"] == ()
