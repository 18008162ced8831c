"""Thoughts, text and tool calls of local models told apart, as the families write them."""

import json
import random
from functools import partial
from typing import Any

import pytest
from grammars import sample
from hypothesis import given
from hypothesis import strategies as st
from local_speech import calls
from local_speech import heard as heard_of

from tollway.providers.llamacpp.frames import Tool
from tollway.providers.llamacpp.manner import Manner

TOOLS = [Tool("get_weather"), Tool("add")]
HERMES, LLAMA, MISTRAL, NAMED, PLAIN = (
    "<tool_call> </think>", "<|python_tag|>", "[TOOL_CALLS]", "[TOOL_CALLS][ARGS]", "no tools",
)  # fmt: skip
PARIS = {"city": 'Pa"r}is', "days": [1, {"a": None}]}
ADD = {"a": 1, "b": 2}
LEAF: dict[str, object] = {
    "properties": {"n": {"type": "null"}}, "required": ["n"], "additionalProperties": False,
}  # fmt: skip

heard = partial(heard_of, tools=TOOLS)


def call(name: str, arguments: Any, key: str = "arguments") -> str:
    """Return a call as most families write it."""
    return json.dumps({"name": name, key: arguments})


TWO = [("get_weather", PARIS), ("add", ADD)]
WRITTEN: list[tuple[str, str, str, str, list[tuple[str, Any]]]] = [
    # template, what the model wrote, text, thought, calls
    (HERMES, f"<tool_call>\n{call(*TWO[0])}\n</tool_call>", "", "", TWO[:1]),
    (
        HERMES,
        "I look.\n" + "\n".join(f"<tool_call>\n{call(*one)}\n</tool_call>" for one in TWO),
        "I look.", "", TWO,
    ),
    (
        HERMES,
        f"<think>\nHm, <tool_call>?\n</think>\n\n<tool_call>{call(*TWO[0])}</tool_call> Done.",
        "Done.", "Hm, <tool_call>?", TWO[:1],
    ),
    (HERMES, "<think>why</think>Because <b> 1 < 2.", "Because <b> 1 < 2.", "why", []),
    (HERMES, "No call: <tool is not one", "No call: <tool is not one", "", []),
    (HERMES, '<tool_call>{"arguments": {"a": 1, "b": 2}, "name": "add"}</tool_call>', "", "",
     TWO[1:]),
    (HERMES, '<tool_call>{"name": "add"}</tool_call>', "", "", [("add", {})]),
    (HERMES, '<tool_call>{"name": "unheard", "arguments": "{\\"x\\": 1}"}</tool_call>', "", "",
     [("unheard", {"x": 1})]),
    (LLAMA, call(*TWO[0], "parameters"), "", "", TWO[:1]),
    (LLAMA, "<|python_tag|>" + "; ".join(call(*one, "parameters") for one in TWO), "", "", TWO),
    (LLAMA, '{"type": "function", "function": {"name": "add", "parameters": {"a": 1, "b": 2}}}',
     "", "", TWO[1:]),
    (LLAMA, '{"city": "Paris"} is JSON.', '{"city": "Paris"} is JSON.', "", []),
    (LLAMA, '{"name": "Bob", "age": 7}', '{"name": "Bob", "age": 7}', "", []),
    (LLAMA, "Hello {name}", "Hello {name}", "", []),
    (MISTRAL, "[TOOL_CALLS] [" + ", ".join(call(*one) for one in TWO) + "]", "", "", TWO),
    (MISTRAL,
     'Sure.[TOOL_CALLS][{"name": "add", "arguments": {"a": 1, "b": 2}, "id": "abcdefghi"}]',
     "Sure.", "", TWO[1:]),
    (NAMED,
     f"[TOOL_CALLS]get_weather[ARGS]{json.dumps(PARIS)}[TOOL_CALLS]add[ARGS]{json.dumps(ADD)}",
     "", "", TWO),
    ("<beginning_of_sentence> <tool_calls> </think>",
     f"<think>\nHm\n</think>\n\n<tool_calls>\n{call(*TWO[0])}\n{call(*TWO[1])}\n</tool_calls>",
     "", "Hm", TWO),
    ("<tool_calls>[ </think>", f"<tool_calls>[{call(*TWO[0])}, {call(*TWO[1])}]</tool_calls>", "",
     "", TWO),
    ("<minimax:tool_call> </mm:think>", "<mm:think>\nHm\n</mm:think>\n\nSo.", "So.", "Hm", []),
    (PLAIN, f"[{call(*TWO[0])}, {call(*TWO[1])}]", "", "", TWO),
    (PLAIN, f"{call(*TWO[0])}\n{call(*TWO[1])}", "", "", TWO),
    (PLAIN, "[1, 2]", "[1, 2]", "", []),
    (PLAIN, "{", "{", "", []),
]  # fmt: skip


@pytest.mark.parametrize(("template", "written", "text", "thought", "made"), WRITTEN)
def test_each_family_is_understood(
    template: str, written: str, text: str, thought: str, made: list[tuple[str, Any]]
) -> None:
    """Whole or letter by letter, what the model wrote means the same."""
    for pieces in ([written], list(written)):
        said = heard(template, pieces)
        assert (said.text, said.thought, calls(said)) == (text, thought, made)


@pytest.mark.parametrize(
    ("template", "before"),
    [(PLAIN, ""), (LLAMA, ""), (HERMES, "<tool_call>"), (MISTRAL, "[TOOL_CALLS][")],
)
def test_a_call_that_is_cut_short_is_no_text(template: str, before: str) -> None:
    """What the limit left of it is told once, as the call that it began as."""
    written = before + call(*TWO[1]) + ", " + '{"name": "get_weather", "arguments": {"city": "Pa'
    for pieces in ([written], list(written)):
        said = heard(template, pieces)
        assert said.text == ""
        assert [piece.name for piece in said.calls if piece.name] == ["add", "get_weather"]
        assert "".join(p.arguments for p in said.calls if p.index == 1) == '{"city": "Pa'


@pytest.mark.parametrize(
    ("template", "before"), [(PLAIN, ""), (LLAMA, ""), (HERMES, "<tool_call>\n"), (NAMED, "")]
)
def test_a_forced_call_that_is_cut_before_its_name_is_no_text(template: str, before: str) -> None:
    """A grammar holds it to calls: a client that forced one does not get a brace as an answer."""
    call = '[TOOL_CALLS]add[ARGS]{"a"' if template is NAMED else before + '{"name": "add", "'
    for size in range(1, len(call) + 1):
        speech = Manner(template).speech(TOOLS, thinks=False, forced=True)
        said = speech.feed(call[:size]).then(speech.finish())
        assert said.text == ""
    assert [piece.name for piece in said.calls if piece.name] == ["add"]


def test_places_in_a_list_are_no_ids() -> None:
    """Command R numbers the calls of each answer from 0: clients tell calls apart by their ids."""
    written = (
        '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {}},'
        ' {"tool_call_id": "0", "tool_name": "add", "parameters": {"a": 1, "b": 2}}]<|END_ACTION|>'
    )
    said = heard("<|START_ACTION|>", [written])
    assert calls(said) == [("get_weather", {}), ("add", ADD)]
    ids = [piece.call_id for piece in said.calls if piece.name]
    assert len({*ids, "0"}) == 3


@given(st.data())
def test_pieces_change_nothing(data: st.DataObject) -> None:
    """A token may end anywhere, also inside a tag or an escape."""
    template, written, text, thought, made = data.draw(st.sampled_from(WRITTEN))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(written) - 1)))))
    pieces = [written[a:b] for a, b in zip([0, *cuts], [*cuts, len(written)], strict=True)]
    said = heard(template, pieces)
    assert (said.text, said.thought, calls(said)) == (text, thought, made)


@given(st.text(alphabet='{}[]"\\,: <>/abtool_cnme', max_size=40), st.sampled_from([HERMES, LLAMA]))
def test_anything_is_heard_without_a_fault(text: str, template: str) -> None:
    """A model may write any nonsense; and without tools and thoughts all of it is text."""
    heard(template, list(text))
    said = heard("", list(text), tools=())
    assert (said.text, said.thought, said.calls) == (text, "", [])


def test_arguments_stream() -> None:
    """The name comes with the first piece, the arguments as they are written."""
    speech = Manner(HERMES).speech(TOOLS, thinks=False)
    speech.feed('<tool_call>{"name": "ad')
    (head,) = speech.feed('d", ').calls
    assert (head.name, head.arguments) == ("add", "")
    (piece,) = speech.feed('"arguments": {"a"').calls
    assert (piece.name, piece.arguments) == ("", '{"a"')
    assert "".join(piece.arguments for piece in speech.feed(": 1").calls) == ": 1"
    assert speech.calls_made == 1
    assert speech.calls_ended == 0
    speech.feed("}}")
    assert speech.calls_ended == 1


def test_a_prompt_may_open_the_thoughts_itself() -> None:
    """Templates of some models end with the tag; what comes first is then a thought."""
    manner = Manner("... </think> ...")
    assert manner.opens("<|assistant|><think>\n")
    assert not manner.opens("<|assistant|>")
    said = heard("</think>", ["I think", "</th", "ink>\n\nSo."], thinks=True)
    assert (said.thought, said.text) == ("I think", "So.")
    said = heard("</think>", ["cut off here"], thinks=True)
    assert (said.thought, said.text) == ("cut off here", "")


def test_without_a_tag_in_its_template_a_model_has_no_thoughts() -> None:
    """A tag that is part of what was asked for is text."""
    assert heard("plain", ["<think>x</think>y"]).text == "<think>x</think>y"


@pytest.mark.parametrize("template", [HERMES, LLAMA, MISTRAL, NAMED, PLAIN])
def test_a_forced_call_has_a_grammar(template: str) -> None:
    """It names every tool that may be called, and nothing else may be said."""
    grammar = Manner(template).calls_grammar(TOOLS, parallel=False)
    assert "get_weather" in grammar
    assert "add" in grammar
    assert grammar.startswith("root ::= ")


@pytest.mark.parametrize("template", [HERMES, LLAMA, MISTRAL, NAMED, PLAIN])
def test_a_schema_beside_tools_leaves_the_model_both(template: str) -> None:
    """It answers by the schema or calls a tool: told of tools, it must be able to use them."""
    sets: dict[str, object] = {
        "type": "object",
        "properties": {"a": {"uniqueItems": True}},
    }  # promised to nobody
    tools = [Tool("get_weather", parameters=sets), Tool("add", parameters=LEAF)]
    grammar = Manner(template).answer_or_calls({"const": {"done": 1}}, tools, parallel=True)
    chance = random.Random(7)  # noqa: S311 - not a secret
    said = [heard(template, [sample(grammar, chance)]) for _ in range(60)]
    answers = [json.loads(one.text) for one in said if one.text.strip()]
    assert answers == [{"done": 1}] * len(answers)
    assert {name for one in said for name, _ in calls(one)} == {"get_weather", "add"}
    assert all(arguments == {"n": None} for one in said for name, arguments in calls(one)
               if name == "add")  # fmt: skip
    assert 0 < len(answers) < len(said)


@pytest.mark.parametrize(
    "template",
    [
        HERMES,
        MISTRAL,
        NAMED,
        "<|tool_call|>",
        "<beginning_of_sentence> <tool_calls>",
        "<|function_call|> <|role_sep|>",
    ],
)
@pytest.mark.parametrize("parallel", [True, False])
def test_what_follows_a_mark_is_calls_to_the_end(template: str, parallel: bool) -> None:
    """Whatever its grammar lets through is read as calls of tools that are there."""
    manner = Manner(template)
    tools = [Tool("get_weather", parameters=LEAF), Tool("add", parameters=LEAF)]
    grammar = manner.later_calls(tools, parallel=parallel)
    chance = random.Random(7)  # noqa: S311 - not a secret
    counts = set()
    for _ in range(60):
        said = heard(template, ["Well. " + manner.style.begin.strip() + sample(grammar, chance)])
        assert said.text.strip() == "Well."
        assert calls(said)
        assert all(arguments == {"n": None} for _, arguments in calls(said))
        counts.add(len(calls(said)))
    assert (counts == {1}) is not parallel


@pytest.mark.parametrize("template", [LLAMA, PLAIN])
def test_a_family_without_marks_has_no_grammar_of_later_calls(template: str) -> None:
    """Where a call begins is known only once it has said its tool's name."""
    assert Manner(template).later_calls(TOOLS, parallel=True) == ""
