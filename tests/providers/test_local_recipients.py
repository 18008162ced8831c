"""Answers of Muse: messages to itself, a tool or the user, told apart as clients know them."""

import random
from functools import partial
from typing import Any

import pytest

pytest.importorskip("jinja2", reason="jinja2 comes with the `local` extra")
from grammars import sample
from hypothesis import given
from hypothesis import strategies as st
from json_validity import valid
from local_speech import calls
from local_speech import heard as heard_of

from tollway.providers.llamacpp.frames import Message, Tool, ToolCall
from tollway.providers.llamacpp.manner import Manner
from tollway.providers.llamacpp.template import ChatTemplate

MUSE = "to=self <|start|>assistant <atem:function_calls> tools tool_calls"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [Tool("look", parameters=SCHEMA), Tool("add", parameters={"additionalProperties": False})]
START = "<|start|>assistant"
THINKS = " to=self<|message|>Hm, <b> to=add?<|eom|>"
SAYS = " to=user<|message|>It <rains>."
CALLS = (
    ' to=look<|message|><atem:function_calls>\n<atem:invoke name="look">\n'
    '<atem:parameter name="city">Pa"r\nis </atem:parameter>\n'
    '<atem:parameter name="days">3</atem:parameter>\n</atem:invoke>\n</atem:function_calls>'
)
MADE = [("look", {"city": 'Pa"r\nis ', "days": 3})]
ADDS = CALLS.split("<atem:invoke", maxsplit=1)[0] + '<atem:invoke name="add">\n</atem:invoke>\n'
# As its prompts' ends leave it to the model: behind `<|start|>assistant`.
WRITTEN: list[tuple[str, str, str, list[tuple[str, Any]]]] = [
    (SAYS, "It <rains>.", "", []),
    (f"{SAYS}<|eot|>", "It <rains>.", "", []),
    (f"{THINKS}{START}{SAYS}<|eot|>", "It <rains>.", "Hm, <b> to=add?", []),
    (f"{THINKS}{START}{THINKS}{START}{SAYS}", "It <rains>.",
     "Hm, <b> to=add?\n\nHm, <b> to=add?", []),
    (f"{THINKS}{START}{CALLS}<|eot|>", "", "Hm, <b> to=add?", MADE),
    (f" to=user<|message|>I look.<|eom|>{START}{CALLS}<|eom|>{START}{ADDS}", "I look.", "",
     [*MADE, ("add", {})]),
    ("<|message|>It rains.", "It rains.", "", []),
    ("No header <|at all", "No header <|at all", "", []),
    (" to=us", "", "", []),
]  # fmt: skip

heard = partial(heard_of, MUSE, tools=TOOLS, thinks=True)


@given(st.data())
def test_an_answer_is_told_apart_wherever_it_is_cut(data: st.DataObject) -> None:
    """A token may end anywhere, also where marks are no tokens of their own."""
    written, text, thought, made = data.draw(st.sampled_from(WRITTEN))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(written) - 1)))))
    pieces = [written[a:b] for a, b in zip([0, *cuts], [*cuts, len(written)], strict=True)]
    said = heard(pieces)
    assert (said.text, said.thought, calls(said)) == (text, thought, made)


@given(st.text(alphabet="<|>/ to=selfuratm:invk\n", max_size=60), st.booleans())
def test_anything_is_read_without_a_fault(nonsense: str, within: bool) -> None:
    """A model may write any nonsense, before a call or within one."""
    heard(list((CALLS[:70] if within else "") + nonsense))


def test_without_tools_nothing_is_a_call() -> None:
    """A client that offered none is told what the model said."""
    said = heard([CALLS], tools=())
    assert (said.text, said.calls) == (CALLS.partition("<|message|>")[2], [])


@pytest.mark.parametrize("forced", [True, False])
def test_what_the_grammar_lets_through_is_valid(forced: bool) -> None:
    """Forced it begins with its header, else behind the mark of a call, in a message to a tool."""
    manner = Manner(MUSE)
    make = manner.calls_grammar if forced else manner.later_calls
    before = "" if forced else f" to=look<|message|>{manner.style.begin.strip()}"
    grammar, chance = make(TOOLS, parallel=True), random.Random(7)  # noqa: S311 - no secret
    names = set()
    for _ in range(40):
        ((name, arguments),) = calls(heard([before + sample(grammar, chance)]))
        assert valid(arguments, SCHEMA) if name == "look" else arguments == {}
        names.add(name)
    assert names == {"look", "add"}


def test_a_call_is_one_only_behind_its_mark() -> None:
    """Until then a grammar would hold what is said to the user, or thought, to calls."""
    speech = Manner(MUSE).speech(TOOLS, thinks=True)
    head, mark, call = CALLS.partition("<atem:function_calls>")
    for piece, thinking, calling in ((THINKS + START, True, False), (head, False, False),
                                     (mark, False, True), (call, False, False)):  # fmt: skip
        speech.feed(piece)
        assert (speech.thinking, speech.calling) == (thinking, calling)
    assert (speech.calls_made, speech.calls_ended) == (1, 1)


def test_what_is_said_beside_a_call_is_a_message_of_its_own() -> None:
    """Its template tells a call's message without its text."""
    source = (
        "{% for m in messages %}[{{ m.reasoning_content }}|"
        "{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}{% else %}{{ m.content }}"
        "{% endif %}]{% endfor %}{# " + MUSE + " #}"
    )
    said = Message("assistant", "I look.", thought="Hm.", calls=[ToolCall("a", "look", "{}")])
    assert ChatTemplate(source, bos="", eos="").render([said]) == "[Hm.|I look.][|look]"
