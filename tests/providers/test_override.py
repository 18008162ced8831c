"""What a route changes of a request: in each dialect in place, and in the neutral form."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.providers.canon import Call, Overrides
from tollway.providers.conversation import Conversation, Message, Reasoning, Sampling, Text
from tollway.providers.dialects.dialect import InUrl
from tollway.providers.dialects.override import changed, overridden
from tollway.providers.dialects.table import DIALECTS

ALL = Overrides(max_temperature=0.5, max_output=100, system_prefix="P", reasoning_effort="low")
HI = {"role": "user", "content": "Hi"}


def call(dialect: str, **said: Any) -> Call:
    """Return a call as its client's dialect reads it."""
    named = {} if dialect == "gemini" else {"model": "r"}
    body = msgspec.json.encode({**named, **said})
    return DIALECTS[dialect].dialect.peek("chat", body, InUrl("r", stream=False))


def after(dialect: str, overrides: Overrides, model: str = "m", **said: Any) -> dict[str, Any]:
    """Return a body after a route's changes; the call must say the same as its body."""
    found = overridden(call(dialect, **said), overrides, model)
    again = DIALECTS[dialect].dialect.peek("chat", found.call.body, InUrl("r", stream=False))
    assert again.output_limit == found.call.output_limit
    decoded: dict[str, Any] = msgspec.json.decode(found.call.body)
    return decoded


def test_a_chat_completion_is_changed_in_place() -> None:
    """Only what the route names; the first instructions are added to, as templates take one."""
    messages = [{"role": "system", "content": "S", "name": "x"}, HI]
    said = after("openai_chat", ALL, messages=messages, temperature=1.5, max_tokens=500, seed=1)
    assert said == {
        "model": "r",
        "messages": [{"role": "system", "content": "P\n\nS", "name": "x"}, HI],
        "temperature": 0.5,
        "max_tokens": 100,
        "seed": 1,
        "reasoning_effort": "low",
    }
    parts = [{"role": "developer", "content": [{"type": "text", "text": "S"}]}]
    prefixed = after("openai_chat", Overrides(system_prefix="P"), messages=parts)["messages"]
    assert [part["text"] for part in prefixed[0]["content"]] == ["P", "S"]
    bare = after("openai_chat", Overrides(system_prefix="P"), messages=[HI])["messages"]
    assert bare == [{"role": "system", "content": "P"}, HI]
    none = after("openai_chat", Overrides(system_prefix="P"), messages=[])["messages"]
    assert none == [{"role": "system", "content": "P"}]


def test_a_response_is_changed_in_place() -> None:
    """Instructions and effort have fields of their own; what stands beside the effort stays."""
    said = after("openai_responses", ALL, input="x", instructions="S", max_output_tokens=99,
                 reasoning={"effort": "high", "summary": "auto"})  # fmt: skip
    assert said["instructions"] == "P\n\nS"
    assert said["reasoning"] == {"effort": "low", "summary": "auto"}
    assert (said["max_output_tokens"], said["temperature"]) == (99, 0.5)


def test_a_message_is_changed_in_place() -> None:
    """As its model takes it: a budget, an effort, or neither; who thinks samples as it likes."""
    base = {"max_tokens": 8000, "messages": [HI]}
    system = [{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}]
    cut = Overrides(max_temperature=0.5, system_prefix="P")
    said = after("anthropic_messages", cut, "claude-sonnet-4-5", **base, system=system)
    assert said["system"] == [{"type": "text", "text": "P"}, *system]
    assert said["temperature"] == 0.5
    effort = Overrides(reasoning_effort="low", max_temperature=0.5)
    budget = after("anthropic_messages", effort, "claude-sonnet-4-5", **base)
    assert budget["thinking"] == {"type": "enabled", "budget_tokens": 2048}
    assert "temperature" not in budget
    newest = after("anthropic_messages", effort, "claude-opus-4-8", **base)
    assert newest["thinking"] == {"type": "adaptive"}
    assert newest["output_config"] == {"effort": "low"}
    never = after("anthropic_messages", effort, "claude-3-haiku", **base)
    assert "thinking" not in never and never["temperature"] == 0.5
    off = Overrides(reasoning_effort="none")
    thinks = {"type": "enabled", "budget_tokens": 2000}
    quiet = after("anthropic_messages", off, "claude-sonnet-4-5", **base, thinking=thinks)
    assert quiet["thinking"] == {"type": "disabled"}
    short = after("anthropic_messages", ALL, "claude-sonnet-4-5", **base, thinking=thinks)
    assert short["max_tokens"] == 100 and short["thinking"]["type"] == "disabled"


def test_a_gemini_request_is_changed_in_place() -> None:
    """Options are a table of their own, in either spelling."""
    contents = [{"role": "user", "parts": [{"text": "Hi"}]}]
    config = {"max_output_tokens": 500, "thinkingConfig": {"includeThoughts": True}}
    said = after("gemini", ALL, "gemini-2.5-flash", contents=contents, generation_config=config,
                 systemInstruction={"parts": [{"text": "S"}]})  # fmt: skip
    options = said["generation_config"]
    assert options["max_output_tokens"] == 100
    assert options["temperature"] == 0.5
    assert options["thinkingConfig"] == {"includeThoughts": True, "thinkingBudget": 2048}
    assert said["systemInstruction"] == {"parts": [{"text": "P"}, {"text": "S"}]}


def test_what_a_model_would_refuse_is_left_alone() -> None:
    """No temperature for models that take only their own, no effort for those that do not think."""
    cap, effort = Overrides(max_temperature=0.5), Overrides(reasoning_effort="low")
    assert "temperature" not in after("openai_chat", cap, "o3", messages=[HI])
    assert "reasoning_effort" not in after("openai_chat", effort, "gpt-4o", messages=[HI])
    assert after("openai_chat", effort, "gpt-5", messages=[HI])["reasoning_effort"] == "low"


@pytest.mark.parametrize("endpoint", ["embeddings", "completions"])
def test_only_chats_are_changed(endpoint: Any) -> None:
    """An embedding has no temperature, and a completion no instructions."""
    body = msgspec.json.encode({"model": "m", "input": "x", "prompt": "x"})
    said = DIALECTS["openai_chat"].dialect.peek(endpoint, body)
    assert overridden(said, ALL, "m").call is said


@given(
    own=st.none() | st.floats(0, 2),
    cap=st.floats(0, 2),
    limit=st.none() | st.integers(1, 10_000),
    most=st.integers(1, 10_000),
)
def test_a_cap_only_lowers(own: float | None, cap: float, limit: int | None, most: int) -> None:
    """In place and in the neutral form alike: what is within it stays, and nothing is named."""
    overrides = Overrides(max_temperature=cap, max_output=most)
    given_ = {"temperature": own, "max_tokens": limit}
    said = {name: value for name, value in given_.items() if value is not None}
    found = overridden(call("openai_chat", messages=[HI], **said), overrides, "m")
    body = msgspec.json.decode(found.call.body)
    assert body.get("temperature", 1.0) == min(cap, 1.0 if own is None else own)
    assert found.call.output_limit == min(most, most if limit is None else limit)
    neutral = Conversation("x", "m", (), sampling=Sampling(temperature=own), output_limit=limit)
    after_, names = changed(neutral, overrides)
    wanted = min(cap, 1.0 if own is None else own)
    sampled = after_.sampling.temperature
    assert (1.0 if sampled is None else sampled) == wanted
    assert after_.output_limit == found.call.output_limit
    assert names == found.names


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9), max_size=5))
def test_unknown_fields_pass_untouched(more: dict[str, Any]) -> None:
    """What the route does not name is the client's, byte for byte."""
    known = {"model", "messages", "temperature", "max_tokens", "reasoning_effort"}
    taken = {name.casefold() for name in known}
    fields = {f"x_{name}": value for name, value in more.items() if name.casefold() not in taken}
    said = after("openai_chat", ALL, messages=[HI], **fields)
    assert {name: said[name] for name in fields} == fields


def test_a_conversation_is_changed_in_the_neutral_form() -> None:
    """Its codec then finds the words for its target."""
    hello = Message("user", (Text("Hi"),))
    said, names = changed(Conversation("x", "m", (hello,)), ALL)
    assert said.messages == (Message("system", (Text("P"),)), hello)
    assert said.reasoning == Reasoning(mode="on", effort="low")
    assert names == ("output=100", "temperature=0.5", "reasoning_effort=low", "system_prefix")
    off, _ = changed(Conversation("x", "m", ()), Overrides(reasoning_effort="none"))
    assert off.reasoning == Reasoning(mode="off")
