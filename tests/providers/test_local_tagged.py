"""Tool calls whose arguments stand between tags: what is read, and what a grammar lets through."""

import json
import random
import re
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
from gguf_files import needs_llama_cpp, real_model, with_template
from grammars import sample
from hypothesis import given
from hypothesis import strategies as st
from json_validity import valid
from local_models import chat, model, serving, whole
from local_speech import calls
from local_speech import heard as heard_of

from tollway.providers.llamacpp.adapter import LocalModels
from tollway.providers.llamacpp.frames import Tool
from tollway.providers.llamacpp.manner import Manner
from tollway.providers.llamacpp.schema_parts import SchemaRefused

BAR = "\uff5cDSML\uff5c"
QWEN = "<tool_call> <function= <parameter= </think>"
SEED = "<seed:tool_call> <function= </seed:think>"
GLM = "<tool_call> <arg_key> </think>"
MINIMAX = "<minimax:tool_call> </think>"
DEEPSEEK = f"{BAR} function_calls </think>"
HUNYUAN = "'<tool_sep{}>' ':opensource'"
MINICPM = '<function name=" <param name=" </think>'
FAMILIES = (QWEN, SEED, GLM, MINIMAX, DEEPSEEK, f"{BAR} tool_calls", HUNYUAN, MINICPM)

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "unit": {"enum": ["C", "F"]},
        "any": {},
        "tags": {"type": "array", "items": {"type": "string"}},
        "at": {"$ref": "#/$defs/at"},
        "flag": {"type": ["boolean", "null"]},
    },
    "required": ["city", "days"],
    "$defs": {"at": {"type": "object", "properties": {"x": {"type": "number"}}}},
}
TOOLS = [Tool("look", parameters=SCHEMA), Tool("add")]
TEXT = ' a "b"\n\n<c> </para \\ é☃\n'
MADE = {
    "city": TEXT, "days": 3, "note": None, "unit": "C", "any": [1], "tags": ["</x>", "b"],
    "at": {"x": 1.5}, "flag": True,
}  # fmt: skip
RAW = {key: value if isinstance(value, str) else json.dumps(value) for key, value in MADE.items()}

heard = partial(heard_of, tools=TOOLS)


def written(family: str) -> str:  # noqa: PLR0911 - a return for each family
    """Return two calls as a family's template writes them."""
    sort = {key: str(key in {"city", "unit"}).lower() for key in RAW}
    match family:
        case _ if family == QWEN:
            each = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in RAW.items())
            return (f"<tool_call>\n<function=look>\n{each}</function>\n</tool_call>\n"
                    "<tool_call>\n<function=add>\n</function>\n</tool_call>")  # fmt: skip
        case _ if family == SEED:
            each = "".join(f"<parameter={k}>{v}</parameter>\n" for k, v in RAW.items())
            return (f"<seed:tool_call>\n<function=look>\n{each}</function>\n</seed:tool_call>\n"
                    "<seed:tool_call>\n<function=add>\n</function>\n</seed:tool_call>")  # fmt: skip
        case _ if family == GLM:
            each = "".join(
                f"<arg_key>{k}</arg_key>\n<arg_value>{v}</arg_value>\n" for k, v in RAW.items()
            )
            return f"<tool_call>look\n{each}</tool_call>\n<tool_call>add</tool_call>"
        case _ if family == MINIMAX:
            each = "".join(f'<parameter name="{k}">{v}</parameter>\n' for k, v in RAW.items())
            return (f'<minimax:tool_call>\n<invoke name="look">\n{each}</invoke>\n'
                    '<invoke name="add">\n</invoke>\n</minimax:tool_call>')  # fmt: skip
        case _ if family == HUNYUAN:
            each = "".join(
                f"<arg_key>{k}</arg_key>\n<arg_value>{v}</arg_value>\n" for k, v in RAW.items()
            )
            plain = (f"<tool_calls>\n<tool_call>look<tool_sep>\n{each}</tool_call>\n"
                     "<tool_call>add<tool_sep>\n</tool_call>\n</tool_calls>")  # fmt: skip
            marks = "</?(tool_calls?|tool_sep|arg_key|arg_value)(?=>)"
            return re.sub(marks, lambda found: f"{found[0]}:opensource", plain)
        case _ if family == MINICPM:
            each = "".join(
                f'<param name="{k}">{f"<![CDATA[{v}]]>" if v == TEXT else v}</param>'
                for k, v in RAW.items()
            )
            return f'<function name="look">{each}</function>\n<function name="add"></function>'
    block = "function_calls" if "function" in family else "tool_calls"
    each = "".join(
        f'<{BAR}parameter name="{k}" string="{sort[k]}">{v}</{BAR}parameter>\n'
        for k, v in RAW.items()
    )
    return (f'<{BAR}{block}>\n<{BAR}invoke name="look">\n{each}</{BAR}invoke>\n'
            f'<{BAR}invoke name="add">\n</{BAR}invoke>\n</{BAR}{block}>')  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_s_calls_are_read(family: str) -> None:
    """Texts stay what they are, all else is JSON; whole or letter by letter."""
    for pieces in ([f"I look.\n{written(family)}"], list(f"I look.\n{written(family)}")):
        said = heard(family, pieces)
        assert said.text == "I look."
        assert calls(said) == [("look", MADE), ("add", {})]


@given(st.sampled_from(FAMILIES), st.sets(st.integers(1, 700)))
def test_pieces_change_nothing(family: str, cuts: set[int]) -> None:
    """A token may end anywhere, also inside a tag."""
    text = written(family)
    ends = sorted({cut for cut in cuts if cut < len(text)} | {len(text)})
    pieces = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    assert calls(heard(family, pieces)) == [("look", MADE), ("add", {})]


@given(st.sampled_from(FAMILIES), st.text(alphabet='<>/="toolcarg_key \n{}p', max_size=60))
def test_anything_is_read_without_a_fault(family: str, nonsense: str) -> None:
    """A model may write any nonsense, before a call or within one."""
    heard(family, list(nonsense))
    heard(family, list(written(family)[:40] + nonsense))


def test_a_text_streams_as_it_is_written() -> None:
    """A file's content comes as it is made, not when it is whole."""
    speech = Manner(QWEN).speech(TOOLS, thinks=False)
    speech.feed("<tool_call>\n<function=look>\n<parameter=city>\n")
    assert "".join(piece.arguments for piece in speech.feed('Pa"r\nis').calls) == 'Pa\\"r\\nis'
    assert speech.calls_ended == 0
    speech.feed("\n</parameter>\n</function>\n")
    assert speech.calls_ended == 1


@pytest.mark.parametrize(
    ("schema", "told", "meant"),
    [
        ({"type": "string"}, "12", "12"),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "integer"]}, "12", 12),
        ({"type": ["string", "null"]}, "12", "12"),
        ({"type": "boolean"}, "True", True),
        ({"type": "integer"}, "many", "many"),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({}, "12", 12),
        ({}, "twelve", "twelve"),
        ({"type": ["string", "number"]}, "NaN", "NaN"),
        ({"type": "number"}, "-Infinity", "-Infinity"),
        ({"$ref": "#/nowhere"}, "12", 12),
        ({"type": "object"}, '{"a": "</parameter"}', {"a": "</parameter"}),
        (True, '"quoted"', '"quoted"'),
    ],
)
def test_an_argument_is_what_its_schema_says(schema: Any, told: str, meant: Any) -> None:
    """The text alone does not say whether `12` is a number."""
    tools = [Tool("look", parameters={"properties": {"a": schema}})]
    text = f"<tool_call>\n<function=look>\n<parameter=a>\n{told}\n</parameter>\n</function>"
    assert calls(heard(QWEN, [text], tools=tools)) == [("look", {"a": meant})]


@pytest.mark.parametrize(
    ("told", "meant"),
    [("a]]>b</param>\n&", "a]]>b</param>\n&"), ("]", "]"), ("]]", "]]"), ("", ""), ("<", "<")],
)
def test_a_text_within_bounds_of_its_own_is_all_that_they_hold(told: str, meant: str) -> None:
    """MiniCPM writes what looks like a tag so."""
    text = f'<function name="look"><param name="city"><![CDATA[{told}]]></param></function>'
    for pieces in ([text], list(text)):
        assert calls(heard(MINICPM, pieces)) == [("look", {"city": meant})]


PROMISED: list[dict[str, Any]] = [
    {**SCHEMA, "properties": {**SCHEMA["properties"], "any": {"type": "number"}}},
    {"properties": {"a": {"type": "string", "minLength": 2, "maxLength": 5},
                    "b": {"type": "string", "format": "date"}}, "required": ["a", "b"]},
    {"properties": {"a": {"type": ["string", "integer"], "maxLength": 3},
                    "b": {"enum": ["x", 1, None]},
                    "c": {"anyOf": [{"const": "on"}, {"type": "integer", "minimum": 5}]}},
     "required": ["a", "b", "c"]},
    {"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"const": 1}}]},
                    "b": {"type": ["string", "integer"], "minimum": 5, "maxLength": 4},
                    "c": {"anyOf": [{"type": "string"}, {"type": "null"}], "maxLength": 2},
                    "d": {"allOf": [{"$ref": "#/$defs/color"}], "default": "1"},
                    "e": {"type": "string", "pattern": r'^a"[b-d]\n.?$'},
                    "f": {"anyOf": [{"const": "on"}, {"type": "integer", "minimum": 5}]}},
     "required": ["a", "b", "c", "d", "e", "f"], "$defs": {"color": {"enum": ["1", "red"]}}},
    {"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}]},
    {"properties": {}, "additionalProperties": False},
    {},
]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("schema", PROMISED)
@pytest.mark.parametrize("forced", [True, False])
def test_what_the_grammar_lets_through_is_valid(
    family: str, schema: dict[str, Any], forced: bool
) -> None:
    """Forced or behind the mark of a call, arguments are those of the tool."""
    tools = [Tool("look", parameters=schema)]
    manner = Manner(family)
    if forced:
        before, grammar = "", manner.calls_grammar(tools, parallel=True)
    else:
        before, grammar = manner.style.begin.strip(), manner.later_calls(tools, parallel=True)
    chance = random.Random(7)  # noqa: S311 - not a secret
    counts = set()
    for _ in range(40):
        made = calls(heard(family, [before + sample(grammar, chance)], tools=tools))
        counts.add(len(made))
        for name, arguments in made:
            assert name == "look"
            assert valid(arguments, {"type": "object", **schema})
    assert min(counts) == 1 < max(counts)


@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": {"a": {"type": "string", "pattern": "^<a+$"}}},
        {"properties": {"a": {"type": "string", "pattern": "^\\S+$"}}},
        {"properties": {"a": {"type": ["string", "array"], "pattern": "^a+$"}}},
        {"properties": {"a": {"enum": ["1", 1]}}},
        {"properties": {"a": {"anyOf": [{"const": "5"}, {"type": "integer", "minimum": 9}]}}},
        {"properties": {"a": {"type": "string", "not": {"const": "a"}}}},
        {"anyOf": [{"required": ["a"]}]},
        {"properties": {"a": {}}, "minProperties": 1},
        {"properties": {"a": {"type": "string", "format": "date", "maxLength": 3}}},
        {"properties": {"a": {"type": "string", "minLength": 3, "maxLength": 2}}},
    ],
)
def test_what_cannot_be_promised_is_refused_or_free(parameters: dict[str, Any]) -> None:
    """Refused where it was promised, by a forced call or a strict tool, and any arguments else."""
    tools = [Tool("look", parameters=parameters)]
    manner = Manner(QWEN)
    with pytest.raises(SchemaRefused, match="`look`"):
        manner.calls_grammar(tools, parallel=False)
    with pytest.raises(SchemaRefused, match="`look`"):
        manner.later_calls([Tool("look", parameters=parameters, strict=True)], parallel=False)
    assert "look" in manner.later_calls(tools, parallel=False)


# It leads the small model to write as Qwen3-Coder does, with arguments that are not the tool's.
LEADING = (
    "{% for m in messages %}{% endfor %}{% for city in ['Rome', 'Oslo', 'Bern'] %}"
    "<|im_start|>user\nWeather in {{ city }}?<|im_end|>\n<|im_start|>assistant\nI will look.\n"
    "<tool_call>\n<function=get_weather>\n<parameter=place>\n{{ city }}\n</parameter>\n"
    "<parameter=days>\ntwo\n</parameter>\n</function>\n</tool_call><|im_end|>\n{% endfor %}"
    "<|im_start|>user\nWeather in Paris?<|im_end|>\n<|im_start|>assistant\n"
    "{{ '' if tools else '' }}"
)
PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
LOOK = [{"type": "function", "function": {"name": "get_weather", "parameters": PLACE}}]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalModels]:
    """Serve the small real model as one that writes as Qwen3-Coder does."""
    needs_llama_cpp()
    folder = tmp_path_factory.mktemp("tagged")
    path = folder / "tagged.gguf"
    with_template(real_model(), path, LEADING)
    async with serving(folder, model(path, slots=1)) as models:
        yield models


@pytest.mark.local
@pytest.mark.timeout(300)
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("fields", [{}, {"tool_choice": "required"}])
async def test_llama_cpp_holds_calls_to_the_grammar(
    local: LocalModels, fields: dict[str, Any]
) -> None:
    """The model would name a `place`, and "two" days."""
    told = await whole(local, chat("hi", tools=LOOK, temperature=0, max_tokens=120,
                                   parallel_tool_calls=False, **fields))  # fmt: skip
    (choice,) = told["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    arguments = json.loads(call["function"]["arguments"])
    assert valid(arguments, PLACE)
    assert arguments["city"] == "Paris"
