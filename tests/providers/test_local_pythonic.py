"""Tool calls of LFM2, written as Python's: what is read, and what a grammar lets through."""

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

LFM = "<|tool_list_start|> </think>"
TOOLS = [Tool("look.up"), Tool("add")]
BEGIN, END = "<|tool_call_start|>", "<|tool_call_end|>"
MADE = {
    "city": 'P"a\'r\\is, [é☃]=(\n', "days": -3, "ok": True, "none": None,
    "at": {"x": [1, "two", []]}, "e": "", "soon": "now", "pair": [1, 2],
}  # fmt: skip
WRITTEN = (
    "[look.up(city='P\"a\\'r\\\\is, [é☃]=(\\n', days=-3, ok=True, none=None,"
    " at={'x': [1, \"two\", []]}, e='', soon=now, pair=(1, 2)), add()]"
)

heard = partial(heard_of, LFM, tools=TOOLS)


@given(st.sets(st.integers(1, 250)))
def test_calls_are_read_wherever_they_are_cut(cuts: set[int]) -> None:
    """A token may end anywhere, also in an escape."""
    text = f"<think>Hm.</think>I look.{BEGIN}{WRITTEN}{END}Done."
    ends = sorted({cut for cut in cuts if cut < len(text)} | {len(text)})
    said = heard([text[a:b] for a, b in zip([0, *ends], ends, strict=False)])
    assert (said.thought, said.text) == ("Hm.", "I look.Done.")
    assert calls(said) == [("look.up", MADE), ("add", {})]


@given(st.text(alphabet="[](){}'\"\\,:= aT1\n", max_size=60))
def test_anything_is_read_without_a_fault(nonsense: str) -> None:
    """A model may write any nonsense."""
    heard(list(BEGIN + nonsense))
    heard(list(f"{BEGIN}[add(a={nonsense}"))


PROMISED: list[dict[str, Any]] = [
    {"properties": {"a": {"type": "string"}, "b": {"type": "integer"},
                    "c": {"enum": ["x", 1, None]}, "d": {"type": "string", "pattern": "^a+$"},
                    "e": {"type": ["boolean", "null"]}, "f": {}},
     "required": ["a", "c"]},
    {"properties": {"at": {"type": "array", "items": {"type": "object"}, "maxItems": 2}}},
    {"properties": {}, "additionalProperties": False},
    {},
]  # fmt: skip


@pytest.mark.parametrize("schema", PROMISED)
@pytest.mark.parametrize("forced", [True, False])
def test_what_the_grammar_lets_through_is_valid(schema: dict[str, Any], forced: bool) -> None:
    """Forced, or behind the mark of calls."""
    tools = [Tool("look.up", parameters=schema)]
    manner = Manner(LFM)
    if forced:
        before, grammar = "", manner.calls_grammar(tools, parallel=True)
    else:
        before, grammar = BEGIN, manner.later_calls(tools, parallel=True)
    chance = random.Random(7)  # noqa: S311 - not a secret
    for _ in range(60):
        made = calls(heard([before + sample(grammar, chance)]))
        assert made
        assert all(valid(arguments, {"type": "object", **schema}) for _, arguments in made)


def test_what_python_has_no_word_for_is_refused() -> None:
    """A parameter is a name there."""
    tools = [Tool("look", parameters={"properties": {"a-b": {}}})]
    with pytest.raises(SchemaRefused, match="none in Python"):
        Manner(LFM).calls_grammar(tools, parallel=False)
