"""Servers of OpenAI's form: what each takes of a turn, of a choice of tools, of a wish to think."""

import json
from typing import Any

import pytest
from translated import ANTHROPIC, GEMINI, RESPONSES

from tollway.providers.canon import Call
from tollway.providers.catalog import KINDS
from tollway.providers.conversation import Conversation
from tollway.providers.dialects import openai_chat_codec
from tollway.providers.dialects.dialect import Codec, Facts
from tollway.providers.errors import Untranslatable

HELLO = {"role": "user", "content": "Hi"}
TOOLS = [{"name": name, "input_schema": {"type": "object"}} for name in ("f", "g")]
THOUGHT = {"type": "thinking", "thinking": "Hm", "signature": ""}
USE = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "1"}
TURNS = [
    HELLO,
    {"role": "assistant", "content": [THOUGHT, USE]},
    {"role": "user", "content": [RESULT]},
]


def read(codec: Codec, **body: Any) -> Conversation:
    """Return what a client's body says."""
    said = json.dumps({"model": "m", **body}).encode()
    return codec.read_request(Call("chat", codec.name, "m", said))


def claude(**body: Any) -> Conversation:
    """Return what a client of Anthropic's says."""
    return read(ANTHROPIC, **{"max_tokens": 9, "messages": [HELLO], **body})


def asked(said: Conversation, kind: str, model: str = "m") -> tuple[dict[str, Any], set[str]]:
    """Return the body for a provider of a kind, and what was left out."""
    row = KINDS[kind]
    facts = Facts(
        model,
        quirks=row.quirks,
        efforts=row.efforts_of(model),
        refuses=row.refused_by(model),
        refuses_back=row.refuses_back,
    )
    written = openai_chat_codec.CODEC.write_request(said, facts)
    return json.loads(written.body), set(written.dropped)


@pytest.mark.parametrize(
    ("kind", "model", "fields"),
    [
        ("vllm", "m", {"reasoning", "reasoning_content"}),
        ("sglang", "m", {"reasoning_content"}),
        ("llama-server", "m", {"reasoning_content"}),
        ("ollama", "qwen3:8b", {"reasoning"}),
        ("together", "openai/gpt-oss-120b", {"reasoning"}),
        ("fireworks", "accounts/fireworks/models/glm-4p6", {"reasoning_content"}),
        ("groq", "openai/gpt-oss-120b", {"reasoning"}),
        ("cerebras", "gpt-oss-120b", {"reasoning"}),
        ("groq", "llama-3.3-70b-versatile", set()),
        ("cerebras", "llama3.1-8b", set()),
        ("lmstudio", "m", set()),
    ],
)
def test_thoughts_between_calls_go_back_where_each_server_reads_them(
    kind: str, model: str, fields: set[str]
) -> None:
    """A model that has lost them thinks anew before each call; what no server reads is named."""
    body, dropped = asked(claude(messages=TURNS, tools=TOOLS), kind, model)
    turn = body["messages"][1]
    assert {name for name in turn if name.startswith("reasoning")} == fields
    assert {turn[name] for name in fields} <= {"Hm"}
    assert ("thinking" in dropped) is not bool(fields)


@pytest.mark.parametrize("kind", ["lmstudio", "llama-server", "perplexity"])
def test_a_tool_that_must_be_called_is_the_only_one_where_words_are_all_that_is_read(
    kind: str,
) -> None:
    """LM Studio refuses OpenAI's object, and to llama.cpp's server it says nothing."""
    body, dropped = asked(claude(tools=TOOLS, tool_choice={"type": "tool", "name": "g"}), kind)
    assert [tool["function"]["name"] for tool in body["tools"]] == ["g"]
    assert (body["tool_choice"], dropped) == ("required", set())


def test_what_ollama_passes_over_in_silence_is_named() -> None:
    """It takes the call, and knows neither which tool must be called nor that none may be."""
    body, dropped = asked(claude(tools=TOOLS, tool_choice={"type": "any"}), "ollama")
    assert (len(body["tools"]), "tool_choice" in body) == (2, False)
    assert dropped == {"tool_choice"}
    body, dropped = asked(claude(tools=TOOLS, tool_choice={"type": "none"}), "ollama")
    assert (body.keys() & {"tools", "tool_choice"}, dropped) == (set(), set())
    one = {"type": "auto", "disable_parallel_tool_use": True}
    body, dropped = asked(claude(tools=TOOLS, tool_choice=one), "ollama")
    assert ("parallel_tool_calls" in body, dropped) == (False, {"parallel_tool_calls"})
    several = read(openai_chat_codec.CODEC, messages=[HELLO], n=2)
    with pytest.raises(Untranslatable) as refused:
        asked(several, "ollama")
    assert refused.value.param == "n"


def test_any_json_is_a_schema_s_at_lm_studio() -> None:
    """Its words for the other way: 'response_format.type' must be 'json_schema' or 'text'."""
    said = read(RESPONSES, input="Hi", text={"format": {"type": "json_object"}})
    body, _ = asked(said, "lmstudio")
    shape = body["response_format"]
    assert (shape["type"], shape["json_schema"]["schema"]) == ("json_schema", {"type": "object"})


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "g"}])
def test_deepseek_does_not_think_before_a_call_that_it_must_make(choice: dict[str, str]) -> None:
    """Its models think unless told not to, and then refuse the whole call."""
    body, dropped = asked(claude(tools=TOOLS, tool_choice=choice), "deepseek")
    assert (body["thinking"], dropped) == ({"type": "disabled"}, set())
    thinks = {"type": "enabled", "budget_tokens": 2000}
    body, dropped = asked(claude(tools=TOOLS, tool_choice=choice, thinking=thinks), "deepseek")
    assert (body["thinking"], dropped) == ({"type": "disabled"}, {"reasoning"})
    body, _ = asked(claude(tools=TOOLS, tool_choice={"type": "auto"}), "deepseek")
    assert "thinking" not in body


@pytest.mark.parametrize("kind", ["ollama", "vllm", "llama-server", "openai-compatible"])
def test_arguments_that_were_cut_short_do_not_end_a_session(kind: str) -> None:
    """Servers read them for their templates: "invalid tool call arguments" is Ollama's answer."""
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": "b'}
    done = {"type": "function_call_output", "call_id": "c", "output": "no JSON"}
    body, _ = asked(read(RESPONSES, input=[{**HELLO}, call, done]), kind)
    (called,) = body["messages"][1]["tool_calls"]
    assert json.loads(called["function"]["arguments"]) == {"input": '{"a": "b'}
    body, _ = asked(read(RESPONSES, input=[{**HELLO}, call, done]), "openai", "gpt-4o")
    assert body["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"a": "b'


@pytest.mark.parametrize(
    ("kind", "model", "word"),
    [
        ("fireworks", "accounts/fireworks/models/qwen3-8b", "none"),
        ("fireworks", "accounts/fireworks/models/gpt-oss-120b", None),
        ("cerebras", "zai-glm-4.7", "none"),
        ("cerebras", "gpt-oss-120b", None),
    ],
)
def test_not_to_think_is_said_to_those_that_can_be_told(
    kind: str, model: str, word: str | None
) -> None:
    """The others answer "Invalid reasoning effort: none"."""
    body, dropped = asked(claude(thinking={"type": "disabled"}), kind, model)
    assert body.get("reasoning_effort") == word
    assert ("reasoning.off" in dropped) is (word is None)


@pytest.mark.parametrize(
    ("asks", "reasoning"),
    [
        ({"effort": "xhigh"}, {"effort": "xhigh"}),
        (
            {"effort": "minimal", "summary": "detailed"},
            {"effort": "minimal", "summary": "detailed"},
        ),
        ({"summary": "auto"}, {"enabled": True, "summary": "auto"}),
        ({"effort": "none"}, {"enabled": False}),
    ],
)
def test_openrouter_knows_every_word_of_how_to_think(
    asks: dict[str, str], reasoning: dict[str, object]
) -> None:
    """It tells each model what that knows; to it nothing need be said in other words."""
    body, dropped = asked(read(RESPONSES, input="Hi", reasoning=asks), "openrouter")
    assert (body["reasoning"], dropped) == (reasoning, set())


def test_likelihoods_are_not_asked_of_together() -> None:
    """It takes a number there, and answers in lists of its own, which nobody here reads."""
    body, dropped = asked(read(RESPONSES, input="Hi", top_logprobs=3), "together")
    assert "logprobs" not in body
    said = read(openai_chat_codec.CODEC, messages=[HELLO], logprobs=True, top_logprobs=3)
    body, dropped = asked(said, "together")
    assert (body.keys() & {"logprobs", "top_logprobs"}, dropped) == (
        set(),
        {"logprobs", "top_logprobs"},
    )


def test_an_empty_text_beside_others_is_left_out() -> None:
    """Google's clients send them, and Claude behind OpenRouter refuses the call."""
    picture = {"inlineData": {"mimeType": "image/png", "data": "iVBOR"}}
    for parts, kinds in (
        ([{"text": ""}, picture], ["image_url"]),
        ([picture, {"text": "See"}, {"text": ""}], ["image_url", "text"]),
    ):
        body, _ = asked(read(GEMINI, contents=[{"role": "user", "parts": parts}]), "openrouter")
        assert [one["type"] for one in body["messages"][0]["content"]] == kinds
    turns = [{"role": "user", "parts": parts} for parts in ([{"text": ""}], [picture, picture])]
    results = {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {}}}]}
    body, _ = asked(read(GEMINI, contents=[turns[0], results, *turns]), "openrouter")
    assert all(one.get("text") != "" for one in body["messages"][-1]["content"])
    body, _ = asked(read(GEMINI, contents=[{"role": "user", "parts": [{"text": ""}]}]), "vllm")
    assert body["messages"] == [{"role": "user", "content": ""}]
