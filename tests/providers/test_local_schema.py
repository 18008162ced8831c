"""JSON schemas as grammars: what they let through, by a small reader of grammars of our own."""

import contextlib
import ipaddress
import json
import random
import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from grammars import sample
from hypothesis import given, settings
from hypothesis import strategies as st
from json_validity import valid

from tollway.providers.llamacpp.formats import FORMATS
from tollway.providers.llamacpp.pattern import PatternRefused, pattern_rule
from tollway.providers.llamacpp.schema import grammar_of, one_of
from tollway.providers.llamacpp.schema_parts import ASSERTS, REFUSED, SchemaRefused

names = st.sampled_from(["a", "b", 'q"', "é", "", "long name"])
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
        ({"type": "string", "minLength": 10**6}, "1000"),
        ({"type": "string", "pattern": "^a?$", "minLength": 10**9}, "such a length"),
        ({"type": "string", "pattern": "^a{3}$", "maxLength": 2}, "such a length"),
        ({"type": "string", "format": "date", "maxLength": 9}, "`format` with a length"),
        ({"type": "integer", "minimum": 10**400}, "beyond"),
        ({"const": 1, "enum": [2]}, "allows no value"),
        ({"enum": ["a"], "minLength": 2}, "allows no value"),
        ({"const": "abc", "pattern": "^x$"}, "beside"),
        ({"$defs": {"x": {"$anchor": "x"}}, "properties": {"a": {"$ref": "#x"}}}, "their place"),
        ({"allOf": [{"properties": {"a": {}}, "additionalProperties": False},
                    {"properties": {"b": {}}, "required": ["b"]}]}, "required"),
        ({"allOf": [{"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False},
                    {"properties": {"b": {}}, "required": ["b"]}]}, "in a part"),
        ({"allOf": [{"prefixItems": [{"type": "string"}]}, {"items": {"type": "null"}}]}, "items"),
        ({"allOf": [{"enum": [1]}, {"enum": [True]}]}, "in common"),
        ({"$ref": "#"}, "nothing but itself"),
    ],
)  # fmt: skip
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
    {"enum": ["a", "bbb", 1, 5, [], [1]], "minLength": 2, "minimum": 3, "minItems": 1},
    {"enum": ["a", "b"], "const": "b"},
    {"type": "integer", "minimum": -(2**53) + 1, "maximum": 2**53 - 1},
    {"type": "number", "minimum": -1e300},
    {"type": "string", "minLength": 1, "maxLength": 5000},
    {"type": "array", "items": {"type": "null"}, "maxItems": 5000},
    {"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 1,
     "maxProperties": 2},
    {"type": "object", "properties": {"a": False, "b": {"type": "null"}}},
    {"type": "object", "properties": {"a": False}},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "null"}},
                "additionalProperties": {"type": "integer"}},
               {"properties": {"b": {"minimum": 3}}, "required": ["b"]}]},
    {"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": False,
     "anyOf": [{"properties": {"b": {"type": "null"}}}, False]},
    {"allOf": [{"type": "integer", "minimum": 1, "maximum": 9}, {"type": "number", "minimum": 5}]},
    {"allOf": [{"enum": [1, 2, 3]}, {"enum": [2, 3, 4]}]},
    *({"type": "string", "pattern": pattern, **bounds} for pattern, bounds in (
        ("^[a-z]+$", {"minLength": 3, "maxLength": 5}), ("^([a-z]+-)*x$", {"maxLength": 9}),
        ("^[A-Z]{3}$", {"minLength": 3, "maxLength": 3}), (r"^\S+@\S+$", {"maxLength": 40}),
        (r"^[ -~]*$", {}), (r"^[^\n]+$", {}), (r"^\D\W\t\n\r$", {}), (r"^[\s\S]{2}$", {}),
        ('^["\\\\a]$', {}), ("^[!-~]{2,}$", {"minLength": 4}))),
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
]  # fmt: skip


@pytest.mark.parametrize("schema", SHAPES)
def test_references_and_parts_are_followed(schema: Any) -> None:
    """As libraries write schemas of classes."""
    chance = random.Random(1)  # noqa: S311 - not a secret
    grammar = grammar_of(schema)
    for _ in range(20):
        assert valid(json.loads(sample(grammar, chance)), schema)


A: dict[str, Any] = {"properties": {"a": {"type": "null"}}}
B: dict[str, Any] = {"properties": {"b": {"type": "null"}}}


@pytest.mark.parametrize(
    ("schema", "closed"),
    [
        ({"type": "object", "unevaluatedProperties": False},
         {"type": "object", "additionalProperties": False}),
        ({**A, "anyOf": [B, {}], "unevaluatedProperties": False},
         {"anyOf": [{**A, **B, "properties": {**A["properties"], **B["properties"]}},
                    {**A, "additionalProperties": False}]}),
        ({"$defs": {"a": A}, "$ref": "#/$defs/a", "unevaluatedProperties": False}, A),
        ({"properties": {"x": {**A, "unevaluatedProperties": False}}}, {"properties": {"x": A}}),
        ({"prefixItems": [{"type": "null"}], "unevaluatedItems": False},
         {"prefixItems": [{"type": "null"}], "items": False}),
        ({"items": [{"type": "null"}], "unevaluatedItems": False},
         {"items": [{"type": "null"}], "additionalItems": False}),
    ],
)  # fmt: skip
def test_what_closes_a_schema_closes_it(schema: Any, closed: Any) -> None:
    """Unevaluated members that are forbidden are none: `$ref` and its kin are looked through."""
    assert grammar_of(schema) == grammar_of(closed)


WHOLE: dict[str, Callable[[str], object]] = {
    "email": lambda text: re.fullmatch(r"[^@.]+(\.[^@.]+)?@[^@]+\.[a-zA-Z]+", text),
    "hostname": lambda text: len(text) < 250 and all(
        re.fullmatch(r"(?!-)[a-zA-Z0-9-]{1,63}(?<!-)", label) for label in text.split(".")
    ),
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "uri": lambda text: urlsplit(text).hostname and urlsplit(text).port != 0,
    "date": date.fromisoformat,
    "date-time": datetime.fromisoformat,
    "duration": lambda text: re.fullmatch(
        r"P(?!$)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?!$)(\d+H)?(\d+M)?(\d+S)?)?)", text
    ),
    "uuid": UUID,
    "regex": re.compile,
    "json-pointer": lambda text: not text or text.startswith("/"),
}  # fmt: skip


@pytest.mark.parametrize("form", sorted(WHOLE))
@given(st.integers(0, 2**32))
def test_formats_are_kept(form: str, seed: int) -> None:
    """A format is more than a remark: what the schema's reader does with it must succeed."""
    text = sample(grammar_of({"format": form, "type": "string"}), random.Random(seed))  # noqa: S311
    said = json.loads(text)
    assert WHOLE[form](said) or said == "", said
    assert FORMATS[form].least <= len(said) <= FORMATS[form].most


words = st.sampled_from(sorted(ASSERTS | REFUSED | {"$ref", "$defs"}))
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.just(10**400)
    | st.sampled_from(["a", "#", "#/a", "#/anyOf/0", "object", "array", "[a-", "^a+$", "date"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4)
    | st.dictionaries(names, inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(words, anything, max_size=4))
def test_what_is_no_schema_is_refused_with_words(schema: Any) -> None:
    """Whatever a caller sends: another fault would end the worker, and all its answers."""
    with contextlib.suppress(SchemaRefused):
        grammar_of(schema)


@given(st.lists(st.text('ab\n"é', max_size=5), min_size=1, max_size=12), st.integers(0, 2**32))
def test_each_value_of_an_enum_can_be_said_and_no_other(values: list[str], seed: int) -> None:
    """Also where some are the beginnings of others."""
    grammar = grammar_of({"enum": values})
    chance = random.Random(seed)  # noqa: S311 - not a secret
    assert {json.loads(sample(grammar, chance)) for _ in range(300)} <= set(values)
    said = one_of(sorted(set(map(json.dumps, values))))
    assert all(_matches(said, json.dumps(value)) for value in values)


def _matches(expression: str, text: str) -> bool:
    """Return whether an expression of nothing but literals lets a text through."""
    pattern = re.sub(
        r'"((?:[^"\\]|\\.)*)"|[ ]',
        lambda found: re.escape(re.sub(r"\\(.)", r"\1", found[1])) if found[1] else "",
        expression,
    )
    return re.fullmatch(pattern, text) is not None


def test_a_thousand_values_are_told_apart_a_sign_at_a_time() -> None:
    """Else each token costs a second, in which all answers of the model stand still."""
    said = one_of(sorted(f'"value number {at}"' for at in range(1000)))
    assert said.count("value number") == 1
    assert one_of(["a" * count for count in range(1, 200)]).count("|") == 198


def test_parts_that_refer_to_parts_do_not_double_for_ever() -> None:
    """Thirty lines of references may mean a thousand million alternatives: that is refused."""
    parts: dict[str, Any] = {
        f"a{at}": {"anyOf": [{"$ref": f"#/$defs/a{at + 1}", "type": "object", "title": word}
                             for word in ("x", "y")]} for at in range(28)
    }  # fmt: skip
    parts["a28"] = {"type": "object"}
    with pytest.raises(SchemaRefused, match="too large"):
        grammar_of({"$defs": parts, "$ref": "#/$defs/a0"})


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


@pytest.mark.parametrize(
    "pattern", ["a{2", "[", "(", "a)", "\\b", "*", "[\\b]", "[a-", "[\\n]", "a{3,1}", "\\"]
)
def test_patterns_that_are_none_are_refused(pattern: str) -> None:
    """With words, whatever is wrong with them."""
    with pytest.raises(PatternRefused):
        pattern_rule(pattern)
