"""Tool calls of Gemma, nearly JSON: what is read, and what a grammar lets through."""

import random
from functools import partial
from typing import Any

import pytest
from grammars import sample
from hypothesis import given
from hypothesis import strategies as st
from json_validity import valid
from local_speech import calls
from local_speech import heard as heard_of

from tollway.providers.llamacpp.frames import Tool
from tollway.providers.llamacpp.manner import Manner
from tollway.providers.llamacpp.schema_parts import SchemaRefused

GEMMA = "<|tool_call>call: <channel|>"
FUNCTION = "<start_function_call>"
TOOLS = [Tool("look"), Tool("add")]
TEXT = 'a "b", {c}: <|d\n\\é☃'
MADE = {"city": TEXT, "days": -3.5, "ok": True, "none": None, "at": {"x": [1, "two", []]}, "e": ""}

heard = partial(heard_of, tools=TOOLS)


def written(quote: str) -> str:
    """Return a call's arguments as the family's template writes them."""
    city, two = f"{quote}{TEXT}{quote}", f"{quote}two{quote}"
    return f"{{city:{city},days:-3.5,ok:true,none:None,at:{{x:[1,{two},[]]}}, e : {quote}{quote}}}"


ANSWERS = [
    (
        GEMMA,
        '<|channel>thought\nHm, <|tool_call>?\n<channel|>I look.<|tool_call>call:look'
        + written('<|"|>') + "<tool_call|><|tool_call>call:add{}<tool_call|>",
        "Hm, <|tool_call>?",
    ),
    (
        FUNCTION,
        "I look.<start_function_call>call:look" + written("<escape>")
        + "<end_function_call><start_function_call>call:add{}<end_function_call>",
        "",
    ),
]  # fmt: skip


@given(st.sampled_from(ANSWERS), st.sets(st.integers(1, 300)))
def test_calls_and_thoughts_are_read_wherever_they_are_cut(
    answer: tuple[str, str, str], cuts: set[int]
) -> None:
    """A token may end anywhere, also inside a mark."""
    family, text, thought = answer
    ends = sorted({cut for cut in cuts if cut < len(text)} | {len(text)})
    said = heard(family, [text[a:b] for a, b in zip([0, *ends], ends, strict=False)])
    assert (said.text, said.thought) == ("I look.", thought)
    assert calls(said) == [("look", MADE), ("add", {})]


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ('{"a": "b\\"}", "c": [1]}', {"a": 'b"}', "c": [1]}),
        ('{<|"|>a<|"|>:1}', {"a": 1}),
        ("{a:soon,b:12:30}", {"a": "soon", "b": "12:30"}),
        ("{a:NaN}", {"a": "NaN"}),
    ],
)
def test_what_is_not_quite_its_form_is_read_all_the_same(told: str, meant: Any) -> None:
    """A model of 1 B writes JSON now and then, or no quotes at all."""
    assert calls(heard(GEMMA, [f"<|tool_call>call:look{told}<tool_call|>"])) == [("look", meant)]


@given(st.text(alphabet='<|">{}[]:,calok\\ \n', max_size=60))
def test_anything_is_read_without_a_fault(nonsense: str) -> None:
    """A model may write any nonsense."""
    heard(GEMMA, list(nonsense))
    heard(GEMMA, list(f"<|tool_call>call:look{{{nonsense}"))


def test_the_tokens_of_its_marks_are_shown() -> None:
    """They are control tokens, which are no text otherwise."""
    marks = set(Manner(GEMMA).speech(TOOLS, thinks=False).marks)
    assert {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", '<|"|>'} <= marks


PROMISED: list[dict[str, Any]] = [
    {"properties": {"a": {"type": "string"}, "b": {"type": "integer"},
                    "c": {"enum": ["x", 1, None]}, "d": {"type": "string", "minLength": 2},
                    "e": {"type": "string", "format": "date"}, "f-g": {}, "h": {"const": ""},
                    "i": {"type": "string", "pattern": '^a"[b-d].?$'}},
     "required": ["a", "c"]},
    {"properties": {"at": {"type": "array", "items": {"type": "object"}, "maxItems": 2}}},
    {},
]  # fmt: skip


@pytest.mark.parametrize("family", [GEMMA, FUNCTION])
@pytest.mark.parametrize("schema", PROMISED)
def test_what_the_grammar_lets_through_is_valid(family: str, schema: dict[str, Any]) -> None:
    """Forced, behind a call's mark, or beside an answer that is JSON."""
    tools = [Tool("look", parameters=schema)]
    manner = Manner(family)
    chance = random.Random(7)  # noqa: S311 - not a secret
    for before, grammar in [
        ("", manner.calls_grammar(tools, parallel=True)),
        (manner.style.begin, manner.later_calls(tools, parallel=True)),
    ]:
        for _ in range(60):
            made = calls(heard(family, [before + sample(grammar, chance)]))
            assert made
            assert all(valid(arguments, {"type": "object", **schema}) for _, arguments in made)
    grammar = manner.answer_or_calls({"const": {"a": "b"}}, tools, parallel=True)
    said = [heard(family, [sample(grammar, chance)]) for _ in range(40)]
    assert {one.text.strip() for one in said if one.text.strip()} == {'{"a":"b"}'}
    assert any(one.calls for one in said)


@pytest.mark.parametrize(
    "schema",
    [{"type": "string", "pattern": "^<$"}, {"enum": ["<b>"]}, {"const": [1]}],
)
def test_what_cannot_be_promised_is_refused(schema: dict[str, Any]) -> None:
    """Never loosened where it was promised."""
    several: list[dict[str, Any]] = [{"a": schema}, {"a b": {}}]
    for properties in several:
        with pytest.raises(SchemaRefused, match="in this form"):
            Manner(GEMMA).calls_grammar(
                [Tool("look", parameters={"properties": properties})], parallel=False
            )
