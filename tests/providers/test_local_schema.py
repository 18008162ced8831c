"""JSON schemas as grammars: what they let through, by a small reader of grammars of our own."""

import json
import random
from typing import Any

import pytest
from grammars import sample
from hypothesis import given, settings
from hypothesis import strategies as st
from json_validity import valid

from tollway.providers.llamacpp.pattern import PatternRefused, pattern_rule
from tollway.providers.llamacpp.schema import SchemaRefused, grammar_of

names = st.sampled_from(["a", "b", 'q"', "é", "long name"])
numbers = st.integers(-120, 1200)


def _ordered(pair: tuple[int, int]) -> dict[str, int]:
    return {"minimum": min(pair), "maximum": max(pair)}


leaves = st.one_of(
    st.sampled_from([{}, True, {"type": "string"}, {"type": "null"}, {"type": "boolean"}]),
    st.sampled_from([{"type": "number"}, {"type": "integer"}, {"type": ["string", "null"]}]),
    st.sampled_from([{"type": "string", "format": f} for f in ("date", "uuid", "time", "email")]),
    st.sampled_from(
        [{"type": "string", "pattern": p} for p in ("^[a-f]{2,4}-\\d+$", "^(x|yy)?z$")]
    ),
    st.builds(lambda pair: {"type": "integer", **_ordered(pair)}, st.tuples(numbers, numbers)),
    st.builds(
        lambda pair: {"type": "number", **_ordered((pair[0], pair[0] + 1 + abs(pair[1])))},
        st.tuples(numbers, numbers),
    ),
    st.builds(lambda low: {"type": "integer", "exclusiveMinimum": low}, numbers),
    st.builds(
        lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more},
        st.integers(0, 4), st.integers(0, 4),
    ),
    st.builds(
        lambda values: {"enum": values},
        st.lists(st.none() | st.booleans() | numbers | st.text(max_size=3), min_size=1, max_size=3),
    ),
    st.builds(lambda value: {"const": value}, st.text(max_size=4) | st.just({"k": [1, "\n"]})),
)  # fmt: skip


def _larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    properties = st.dictionaries(names, inner, max_size=4)
    objects = st.builds(
        lambda props, drop, more: {
            "type": "object",
            "properties": props,
            "required": [name for at, name in enumerate(props) if at % 3 != drop],
            "additionalProperties": more,
        },
        properties, st.integers(0, 3), st.booleans(),
    )  # fmt: skip
    arrays = st.builds(
        lambda items, low, more: {
            "type": "array", "items": items, "minItems": low, "maxItems": low + more,
        },
        inner, st.integers(0, 2), st.integers(0, 3),
    )  # fmt: skip
    tuples = st.builds(
        lambda heads, low: {"type": "array", "prefixItems": heads, "items": False, "minItems": low},
        st.lists(inner, min_size=1, max_size=3), st.integers(0, 1),
    )  # fmt: skip
    either = st.builds(lambda parts: {"anyOf": parts}, st.lists(inner, min_size=1, max_size=3))
    return objects | arrays | tuples | either


schemas = st.recursive(leaves, _larger, max_leaves=6)


@settings(max_examples=50, deadline=None)
@given(schemas, st.integers(0, 2**32))
def test_what_a_grammar_lets_through_is_valid(schema: Any, seed: int) -> None:
    """Walked at random, each grammar gives only JSON that its schema takes."""
    grammar = grammar_of(schema)
    chance = random.Random(seed)  # noqa: S311 - not a secret
    for _ in range(5):
        text = sample(grammar, chance)
        assert valid(json.loads(text), schema), (text, grammar)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (False, "false"),
        ({"not": {"type": "string"}}, "`not`"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "number", "multipleOf": 0.1}, "multipleOf"),
        ({"type": "string", "pattern": "(?=a)"}, "Look-around"),
        ({"type": "string", "pattern": "^a|b$"}, "brackets"),
        ({"$ref": "https://example.com/x"}, "its own parts"),
        ({"$ref": "#/$defs/none"}, "There is no"),
        ({"type": "colour"}, "no type"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "bounds"),
        ({"type": "number", "minimum": 0.2, "maximum": 0.8}, "bounds"),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, "required"),
        ({"oneOf": [{"type": "string"}, {"enum": ["a"]}]}, "oneOf"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "different types"),
        ({"enum": [1], "type": "string"}, "no value"),
        ({"type": "string", "maxLength": 10**6}, "1000"),
        ({"$ref": "#"}, "nothing but itself"),
    ],
)
def test_what_cannot_be_promised_is_refused(schema: Any, words: str) -> None:
    """With words; never a grammar that lets more through."""
    with pytest.raises(SchemaRefused, match=words):
        grammar_of(schema)


SHAPES: list[Any] = [
    {"$defs": {"n": {"type": "object", "properties": {"next": {"anyOf": [
        {"$ref": "#/$defs/n"}, {"type": "null"}]}}, "required": ["next"]}}, "$ref": "#/$defs/n"},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
               {"properties": {"b": {"const": 1}}, "required": ["b"]}]},
    {"oneOf": [{"type": "object", "properties": {"k": {"const": "x"}}, "required": ["k"]},
               {"type": "object", "properties": {"k": {"const": "y"}}, "required": ["k"]}]},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"type": "object", "properties": {"a": {}}, "title": "T", "description": "d", "default": {}},
    {"type": "array", "items": [{"type": "string"}, {"type": "integer"}], "minItems": 2},
    {"minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
]  # fmt: skip


@pytest.mark.parametrize("schema", SHAPES)
def test_references_and_parts_are_followed(schema: Any) -> None:
    """As libraries write schemas of classes."""
    chance = random.Random(1)  # noqa: S311 - not a secret
    grammar = grammar_of(schema)
    for _ in range(20):
        assert valid(json.loads(sample(grammar, chance)), schema)


@given(st.integers(-3000, 3000), st.integers(0, 4000), st.integers(0, 2**32))
def test_bounds_of_whole_numbers_are_exact(low: int, more: int, seed: int) -> None:
    """Neither end is passed, and both are reached by some walk."""
    schema = {"type": "integer", "minimum": low, "maximum": low + more}
    chance = random.Random(seed)  # noqa: S311 - not a secret
    for _ in range(10):
        assert low <= json.loads(sample(grammar_of(schema), chance)) <= low + more


def test_small_ranges_are_whole() -> None:
    """Every number between the bounds can be said."""
    grammar = grammar_of({"type": "integer", "minimum": -12, "maximum": 105})
    chance = random.Random(3)  # noqa: S311 - not a secret
    said = {json.loads(sample(grammar, chance)) for _ in range(6000)}
    assert said == set(range(-12, 106))


@pytest.mark.parametrize("pattern", ["a{2", "[", "(", "a)", "\\b", "*", "[\\n]", "a{3,1}", "\\"])
def test_patterns_that_are_none_are_refused(pattern: str) -> None:
    """With words, whatever is wrong with them."""
    with pytest.raises(PatternRefused):
        pattern_rule(pattern)
