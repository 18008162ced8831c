"""What shape an answer must have, in the words of servers of open models, reaches every target."""

import json
from typing import Any

import pytest
from translated import ANTHROPIC, GEMINI, OPENAI

from tollway.providers.canon import Call
from tollway.providers.conversation import Conversation, Format, Tool
from tollway.providers.dialects.dialect import Facts
from tollway.providers.errors import RequestInvalid, Untranslatable

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def read(**more: Any) -> Conversation:
    """Return what a client's body says."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | more
    return OPENAI.read_request(Call("chat", OPENAI.name, "m", json.dumps(body).encode()))


@pytest.mark.parametrize(
    "asked",
    [
        {"guided_json": SCHEMA},
        {"guided_json": json.dumps(SCHEMA)},
        {"json_schema": SCHEMA},
        {"structured_outputs": {"json": SCHEMA, "regex": None}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_a_schema_is_one_however_it_is_said(asked: dict[str, Any]) -> None:
    """Left out, the answer would be any text."""
    said = read(**asked)
    assert said.format is not None and json.loads(said.format.schema) == SCHEMA
    gemini = json.loads(GEMINI.write_request(said, Facts("gemini-2.5-flash")).body)
    assert gemini["generationConfig"]["responseJsonSchema"] == SCHEMA
    written = ANTHROPIC.write_request(said, Facts("claude-sonnet-4-5", default_output=9))
    there = json.loads(written.body)["output_config"]["format"]["schema"]
    assert there == SCHEMA | {"additionalProperties": False}
    assert not written.dropped


@pytest.mark.parametrize(
    "asked",
    [
        {"guided_regex": "a+"},
        {"guided_choice": ["a", "b"]},
        {"grammar": "root ::= x"},
        {"structured_outputs": {"choice": ["a"]}},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_a_pattern_or_a_grammar_is_refused_elsewhere(asked: dict[str, Any]) -> None:
    """No other dialect can say it, and the answer would be another one."""
    with pytest.raises(Untranslatable) as caught:
        read(**asked)
    assert caught.value.param is not None and caught.value.param.startswith(next(iter(asked)))


def test_what_is_no_schema_is_said_to_be_none() -> None:
    """By the name of its field."""
    with pytest.raises(RequestInvalid) as caught:
        read(guided_json="yes")
    assert caught.value.param == "guided_json"


def test_any_json_stays_that() -> None:
    """An empty schema says no more."""
    asked = {"type": "json_object", "schema": {}}
    assert read(response_format=asked).format == Format("json_object")


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function", "name": "ls", "description": "Lists", "parameters": SCHEMA},
        {"name": "ls", "description": "Lists", "input_schema": SCHEMA},
    ],
    ids=["as in Responses", "as at Anthropic"],
)
def test_a_tool_in_another_dialect_s_form_is_one(tool: dict[str, Any]) -> None:
    """Some editors send them so to whatever address they are given."""
    assert read(tools=[tool]).tools == (Tool("ls", "Lists", json.dumps(SCHEMA).encode()),)
