"""Tool calls whose name stands apart from their JSON: what is read, and held to by a grammar."""

import json
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

KIMI = "tool_declare <|im_middle|> </think>"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS = [Tool("look", parameters=SCHEMA), Tool("add", parameters=NOTHING)]
MADE = {"city": 'Pa"}{\\<|tool_call_end|></function>ris\n', "days": 3}
LOOK = json.dumps(MADE)


def deepseek(text: str) -> str:
    """Return a text whose tags are DeepSeek's, with its own bars and blanks."""
    for name in ("calls-begin", "calls-end", "call-begin", "call-end", "sep"):
        blank = name.replace("-", "\u2581")
        text = text.replace(f"<tool-{name}>", f"<\uff5ctool\u2581{blank}\uff5c>")
    return text


# A template's signs, the marks of thoughts, and two calls as the family writes them.
FAMILIES = {
    "kimi": (
        KIMI, ("<think>", "</think>"),
        "<|tool_calls_section_begin|>"
        f"<|tool_call_begin|>functions.look:0<|tool_call_argument_begin|>{LOOK}<|tool_call_end|>"
        "<|tool_call_begin|>functions.add:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
        "<|tool_calls_section_end|>",
    ),
    "deepseek r1": (
        deepseek("<tool-calls-begin> ```json </think>"), ("<think>", "</think>"),
        deepseek(
            "<tool-calls-begin>"
            f"<tool-call-begin>function<tool-sep>look\n```json\n{LOOK}\n```<tool-call-end>\n"
            "<tool-call-begin>function<tool-sep>add\n```json\n{}\n```<tool-call-end>"
            "<tool-calls-end>"
        ),
    ),
    "deepseek v3.1": (
        deepseek("<tool-calls-begin> </think>"), ("<think>", "</think>"),
        deepseek(
            f"<tool-calls-begin><tool-call-begin>look<tool-sep>{LOOK}<tool-call-end>"
            "<tool-call-begin>add<tool-sep>{}<tool-call-end><tool-calls-end>"
        ),
    ),
    "apertus": (
        "<|tools_prefix|> <|inner_suffix|>", ("<|inner_prefix|>", "<|inner_suffix|>"),
        f'<|tools_prefix|>[{{"look": {LOOK}}}, {{"add": {{}}}}]<|tools_suffix|>',
    ),
    "functionary": (
        "<function= <|start_header_id|> </think>", ("<think>", "</think>"),
        f"<function=look>{LOOK}</function><function=add>{{}}</function>",
    ),
}  # fmt: skip
PROMPTED = "{{ tools }}{{ tool_calls }}>>>all <|start_header_id|>"
# Behind the `>>>` of its prompt: what it says, its text and its calls.
AFTER_PROMPT: list[tuple[str, str, list[tuple[str, Any]]]] = [
    ("all\nIt >>> rains.", "It >>> rains.", []),
    (f"all\nI look.>>>look\n{LOOK}>>>add\n{{}}", "I look.", [("look", MADE), ("add", {})]),
    (f"look\n{LOOK}\n>>>add\n", "", [("look", MADE), ("add", {})]),
    ("look at it\n>>>else\n{}", "look at it\n>>>else\n{}", []),
    ("No header", "No header", []),
    ("al", "", []),
]
families = pytest.mark.parametrize("family", FAMILIES)
heard = partial(heard_of, tools=TOOLS)


@given(st.sampled_from(sorted(FAMILIES)), st.sets(st.integers(1, 400)))
def test_calls_and_thoughts_are_read_wherever_they_are_cut(family: str, cuts: set[int]) -> None:
    """A token may end anywhere, also inside a mark."""
    template, (opens, closes), written = FAMILIES[family]
    text = f"{opens}Hm{closes}I look.\n{written}"
    ends = sorted({cut for cut in cuts if cut < len(text)} | {len(text)})
    said = heard(template, [text[a:b] for a, b in zip([0, *ends], ends, strict=False)])
    assert (said.thought, said.text) == ("Hm", "I look.")
    assert calls(said) == [("look", MADE), ("add", {})]


@families
def test_a_call_without_arguments_has_none(family: str) -> None:
    """What ends it may come at once."""
    template, _, written = FAMILIES[family]
    for pieces in ([written.replace("{}", "")], list(written.replace("{}", ""))):
        assert calls(heard(template, pieces)) == [("look", MADE), ("add", {})]


@given(st.sampled_from(sorted(FAMILIES)), st.text(alphabet='<|>{}[]":\\functioal_ \n', max_size=60))
def test_anything_is_read_without_a_fault(family: str, nonsense: str) -> None:
    """A model may write any nonsense, before a call or within one."""
    template, _, written = FAMILIES[family]
    heard(template, list(nonsense))
    heard(template, list(written[:70] + nonsense))


@families
@pytest.mark.parametrize("forced", [True, False])
def test_what_the_grammar_lets_through_is_valid(family: str, forced: bool) -> None:
    """Forced or behind the mark of a call, it is calls of tools that are there."""
    manner = Manner(FAMILIES[family][0])
    make = manner.calls_grammar if forced else manner.later_calls
    grammar, before = make(TOOLS, parallel=True), "" if forced else manner.style.begin
    chance = random.Random(7)  # noqa: S311 - not a secret
    counts, names = set(), set()
    for _ in range(40):
        said = heard(FAMILIES[family][0], [before + sample(grammar, chance)])
        assert said.text.strip() == ""
        for name, arguments in calls(said):
            assert valid(arguments, SCHEMA if name == "look" else NOTHING)
            names.add(name)
        counts.add(len(calls(said)))
    assert names == {"look", "add"}
    assert min(counts) == 1 < max(counts)


@families
def test_the_tokens_of_its_marks_are_shown(family: str) -> None:
    """Control tokens are no text else, and no call would be seen."""
    template, _, written = FAMILIES[family]
    marks = Manner(template).speech(TOOLS, thinks=False).marks
    tags = {tag for tag in ("<|tool_call_end|>", deepseek("<tool-sep>"), "<|tools_prefix|>",
                            deepseek("<tool-call-begin>"), "<|tool_call_argument_begin|>")
            if tag in written.replace(LOOK, "")}  # fmt: skip
    assert tags <= set(marks)


@given(st.sampled_from(AFTER_PROMPT), st.sets(st.integers(1, 150)))
def test_functionary_s_messages_are_told_apart(
    answer: tuple[str, str, list[tuple[str, Any]]], cuts: set[int]
) -> None:
    """To all is text, to a tool is a call; its prompt ends within the first header."""
    written, text, made = answer
    ends = sorted({cut for cut in cuts if cut < len(written)} | {len(written)})
    pieces = [written[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    said = heard(PROMPTED, pieces, thinks=True)
    assert (said.text, calls(said)) == (text, made)


def test_a_call_of_functionary_ends_before_another_is_told() -> None:
    """Who takes no two at once is shown one alone."""
    speech = Manner(PROMPTED).speech(TOOLS, thinks=True)
    told = [(speech.feed(char), speech.calls_ended)[1] for char in f"look\n{LOOK}"]
    assert told[-2:] == [0, 1]


def test_what_functionary_s_grammar_lets_through_is_valid() -> None:
    """Forced calls are of tools that are there."""
    grammar = Manner(PROMPTED).calls_grammar(TOOLS, parallel=True)
    chance = random.Random(7)  # noqa: S311 - not a secret
    for _ in range(20):
        said = heard(PROMPTED, [sample(grammar, chance)])
        (call,) = calls(said)
        assert valid(call[1], SCHEMA if call[0] == "look" else NOTHING)


def test_kimi_s_template_is_given_the_ids_that_kimi_gives() -> None:
    """It writes an id where the name stands: another client's would hide whose call it was."""
    calls_made = [ToolCall("call_a", "look", "{}"), ToolCall("call_b", "add", "{}")]
    messages = [
        Message("assistant", "", calls=calls_made),
        Message("tool", "1", call_id="call_b"),
        Message("assistant", "", calls=[ToolCall("call_a", "add", "{}")]),
        Message("tool", "2", call_id="call_a"),
    ]
    source = (
        "{% for m in messages %}{% for c in m.tool_calls %}{{ c.id }} {% endfor %}"
        "{% if m.tool_call_id %}({{ m.tool_call_id }}) {% endif %}{% endfor %}"
        "{# tool_declare <|im_middle|> tools #}"
    )
    assert ChatTemplate(source, bos="", eos="").render(messages) == (
        "functions.look:0 functions.add:1 (functions.add:1) functions.add:2 (functions.add:2) "
    )


def test_a_template_that_forgets_calls_is_given_them_as_kimi_writes_them() -> None:
    """The first ones of Kimi K2 know tools, and no calls of theirs."""
    source = "{{ messages[0].content }}{# tool_declare <|im_middle|> tools #}"
    said = Message("assistant", "Well.", calls=[ToolCall("x", "look", '{"city": "Rome"}')])
    assert ChatTemplate(source, bos="", eos="").render([said]) == (
        "Well.<|tool_calls_section_begin|><|tool_call_begin|>functions.look:0"
        '<|tool_call_argument_begin|>{"city": "Rome"}<|tool_call_end|><|tool_calls_section_end|>'
    )
