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
        *("reasoning_content", "refusal", "encrypted_content"),
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
@pytest.mark.parametrize("kind", ["mistral", "openai"])
@given(turns=_TURNS, thinking=_VALUES, store=_VALUES)
@example(turns=[{"content": [{"type": {}}]}], thinking={"type": "enabled"}, store=False)
def test_no_call_fails_for_what_is_looked_for_in_it(
    dialect: str, kind: str, turns: list[Any], thinking: Any, store: Any
) -> None:
    """A turn of any shape is the provider's to refuse; what is sent is JSON in any case."""
    named = dict.fromkeys(("messages", "contents", "input"), turns)
    said = {"model": "m", **named, "thinking": thinking, "store": store, "a": '"tollway.'}
    try:
        call = DIALECTS[dialect].dialect.peek("chat", json.dumps(said).encode(), InUrl("m"))
    except GatewayError:
        return
    row = KINDS[kind]
    to = To("gemini-3-pro-preview", row.refuses_back, quirks=row.quirks)
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
