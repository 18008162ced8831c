"""What is taken out of calls that pass, whatever the calls hold."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tollway.providers.catalog import KINDS
from tollway.providers.dialects.dialect import InUrl
from tollway.providers.dialects.echoes import To, without_echoes
from tollway.providers.dialects.table import DIALECTS
from tollway.providers.errors import GatewayError

_KEYS = st.sampled_from(
    [
        *("role", "content", "parts", "type", "signature", "data", "thinking", "text", "id"),
        *("thoughtSignature", "functionCall", "tool_calls", "tool_call_id", "extra_content"),
        *("function_response", "name", "function", "allowed_tools"),
        *("reasoning_content", "refusal", "encrypted_content"),
        *("input_audio", "file", "file_data", "file_id"),
    ]
)
_WORDS = st.sampled_from(
    [
        "",
        "tollway.gemini.sig.x",
        "dG9sbHdheS5hbnRocm9waWNfbWVzc2FnZXMuc2lnbmF0dXJlLlkydz0=",
        "thinking",
        "reasoning",
        "tool_use",
        "model",
        "assistant",
        "user",
        "file",
        "input_audio",
        "x" * 50,
    ]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)
_TURNS = st.lists(st.dictionaries(_KEYS, _VALUES, max_size=5) | _VALUES, max_size=3)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", ["mistral", "openai", "vertex", "lmstudio"])
@given(turns=_TURNS, thinking=_VALUES, store=_VALUES)
@example(turns=[{"content": [{"type": {}}]}], thinking={"type": "enabled"}, store=False)
def test_no_call_fails_for_what_is_looked_for_in_it(
    dialect: str, kind: str, turns: list[Any], thinking: Any, store: Any
) -> None:
    """A turn of any shape is the provider's to refuse; what is sent is JSON in any case."""
    named = dict.fromkeys(("messages", "contents", "input"), turns)
    named |= {"tools": turns, "tool_choice": thinking}
    said = {"model": "m", **named, "thinking": thinking, "store": store, "a": '"tollway.'}
    try:
        call = DIALECTS[dialect].dialect.peek("chat", json.dumps(said).encode(), InUrl("m"))
    except GatewayError:
        return
    row = KINDS[kind]
    model = "gemini-2.5-flash" if kind == "vertex" else "gemini-3-pro-preview"
    to = To(model, row.refuses_back, quirks=row.quirks)
    found, lost = without_echoes(call, to)
    assert json.loads(found.body)["model"] == "m"
    assert found is call or found.body != call.body
    assert found is not call or not lost


def test_claude_is_not_asked_to_think_on_behind_a_result_and_words() -> None:
    """Anthropic's own clients may say in a turn of its own what stands with a result there."""
    result = {"type": "tool_result", "tool_use_id": "a", "content": "ok"}
    call = {"type": "tool_use", "id": "a", "name": "ls", "input": {}}
    turns: list[Any] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
        {"role": "user", "content": "Go on"},
    ]
    asked = {"type": "enabled", "budget_tokens": 2000}
    said = {"model": "m", "max_tokens": 4000, "thinking": asked, "messages": turns}

    def sent() -> tuple[Any, tuple[str, ...]]:
        call = DIALECTS["anthropic_messages"].dialect.peek("chat", json.dumps(said).encode())
        found, lost = without_echoes(call, To("claude-sonnet-4-5"))
        return json.loads(found.body)["thinking"], lost

    assert sent() == ({"type": "disabled"}, ("reasoning",))
    turns[-1:-1] = [{"role": "assistant", "content": "Done"}]
    assert sent() == (asked, ())


@pytest.mark.parametrize("checks", [True, False])
def test_what_says_nothing_is_not_given_back_to_anthropic(checks: bool) -> None:
    """Other models write white space before a call, or nothing; what the user says stays."""
    call = {"type": "tool_use", "id": "a", "name": "ls", "input": {}}
    blank = {"type": "text", "text": " \n"}
    result = {"type": "tool_result", "tool_use_id": "a", "content": ""}
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [blank, call]},
        {"role": "user", "content": [result, {"type": "text", "text": "Go on"}]},
        {"role": "assistant", "content": []},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "\n"},
        {"role": "user", "content": [blank]},
    ]
    said = {"model": "m", "max_tokens": 9, "messages": turns}
    asked = DIALECTS["anthropic_messages"].dialect.peek("chat", json.dumps(said).encode())
    found, lost = without_echoes(asked, To("claude-sonnet-4-5", checks=checks))
    left = json.loads(found.body)["messages"]
    if checks:
        turns[1]["content"] = [call]
        assert left == [*turns[:3], turns[4], turns[6]]
    else:
        assert found is asked
    assert lost == ()


def test_ids_of_calls_do_not_reach_vertex_s_second_generation() -> None:
    """It refuses them as an unknown name; results are then known by the order of their calls."""
    calls = [{"functionCall": {"id": one, "name": "ls", "args": {}}} for one in "ab"]
    words = {"text": "There:"}
    results = [
        {"function_response": {"id": one, "name": "ls", "response": {"result": one}}}
        for one in "ba"
    ]
    turns = [
        {"role": "user", "parts": [{"text": "Hi"}]},
        {"role": "model", "parts": calls},
        {"role": "user", "parts": [results[0], words, results[1]]},
    ]
    body = json.dumps({"contents": turns}).encode()
    asked = DIALECTS["gemini"].dialect.peek("chat", body, InUrl("m"))
    for kind, model in (("gemini", "gemini-2.5-pro"), ("vertex", "gemini-3-flash-preview")):
        found, _ = without_echoes(asked, To(model, quirks=KINDS[kind].quirks))
        assert b'"id":"a"' in found.body.replace(b" ", b"")
    found, lost = without_echoes(asked, To("gemini-2.5-pro", quirks=KINDS["vertex"].quirks))
    said = [turn["parts"] for turn in json.loads(found.body)["contents"][1:]]
    assert b'"id"' not in found.body
    assert said[0] == [{"functionCall": {"name": "ls", "args": {}}}] * 2
    told = [part.get("function_response", {}).get("response") for part in said[1]]
    assert told == [{"result": "a"}, None, {"result": "b"}]
    assert lost == ()


def test_proofs_of_google_s_go_with_the_thoughts_that_a_provider_cannot_read() -> None:
    """OpenRouter refuses one of another account's in a call, too, and was given it again."""
    call = {"id": "a", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
    proof = {"extra_content": {"google": {"thought_signature": "QUJD"}}}
    turn = {"role": "assistant", "reasoning": "Hm", "tool_calls": [call | proof]}
    body = json.dumps({"model": "m", "messages": [turn]}).encode()
    asked = DIALECTS["openai_chat"].dialect.peek("chat", body)
    quirks = KINDS["openrouter"].quirks
    assert without_echoes(asked, To("m", quirks=quirks)) == (asked, ())
    found, lost = without_echoes(asked, To("m", quirks=quirks, bare=True))
    assert json.loads(found.body)["messages"] == [{"role": "assistant", "tool_calls": [call]}]
    assert lost == ("messages.reasoning",)


@pytest.mark.parametrize("kind", ["lmstudio", "llama-server", "ollama", "vllm"])
def test_a_tool_that_must_be_called_is_the_only_one_where_no_choice_names_it(kind: str) -> None:
    """LM Studio refused the call, and the others passed over the choice in silence."""
    tools = [{"type": "function", "function": {"name": name}} for name in "abc"]
    allowed = {"mode": "auto", "tools": tools[1:]}
    cases: list[tuple[Any, Any, list[Any]]] = [
        (tools[1], "required", tools[1:2]),
        ({"type": "allowed_tools", "allowed_tools": allowed}, "auto", tools[1:]),
        ("required", "required", tools),
        ({"type": "function", "function": {"name": "z"}}, None, tools),
    ]
    for choice, word, offered in cases:
        said = {"model": "m", "messages": [], "tools": tools, "tool_choice": choice}
        call = DIALECTS["openai_chat"].dialect.peek("chat", json.dumps(said).encode())
        found, lost = without_echoes(call, To("m", quirks=KINDS[kind].quirks))
        wanted = {"tools": offered, "tool_choice": word} if word and kind != "vllm" else {}
        assert json.loads(found.body) == said | wanted
        assert lost == ()
