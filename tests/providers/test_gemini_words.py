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
