"""The beginning of an answer, which the model is to go on with, at targets that can and cannot."""

import json
from typing import Any

import pytest
from translated import ANTHROPIC, BEDROCK, COHERE, GEMINI, OPENAI, RESPONSES, events, fold_of

from tollway.providers.canon import Call
from tollway.providers.catalog import KINDS
from tollway.providers.conversation import Conversation, Text
from tollway.providers.dialects.dialect import Asks, Codec, Facts

USER = {"role": "user", "content": "Who won?"}
PREFIX = "The winner is"
BEGUN = {"role": "assistant", "content": PREFIX}
NEW, OLD = "claude-opus-4-6", "claude-sonnet-4-5"


def claude(**more: Any) -> Conversation:
    """Return what a client of Anthropic's says, who has begun the answer."""
    return read(ANTHROPIC, max_tokens=100, messages=[USER, BEGUN], **more)


def chat(**more: Any) -> Conversation:
    """Return what a client of chat completions says, whose last message is the assistant's."""
    return read(OPENAI, messages=[USER, BEGUN | more])


def read(codec: Codec, **body: Any) -> Conversation:
    """Return what a client's body says."""
    said = json.dumps({"model": "m", **body}).encode()
    return codec.read_request(Call("chat", codec.name, "m", said))


def asked(said: Conversation, kind: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the body for a provider of a kind, and what was left out."""
    written = OPENAI.write_request(said, Facts("m", quirks=KINDS[kind].quirks))
    return json.loads(written.body), written.dropped


def test_mistral_is_told_that_the_answer_has_begun() -> None:
    """It refuses an assistant's turn that stands last without the word."""
    body, dropped = asked(claude(), "mistral")
    assert body["messages"][-1] == BEGUN | {"prefix": True}
    assert dropped == ()


@pytest.mark.parametrize("kind", ["groq", "llama-server", "ollama", "openrouter"])
def test_who_goes_on_unasked_loses_nothing(kind: str) -> None:
    """It was named as dropped, and a route that allows no loss refused the call."""
    body, dropped = asked(claude(), kind)
    assert body["messages"][-1] == BEGUN
    assert dropped == ()


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_who_must_be_asked_to_go_on_is(kind: str) -> None:
    """Their templates would end the turn, and begin another."""
    body, dropped = asked(claude(), kind)
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert dropped == ()
    assert "continue_final_message" not in asked(read(ANTHROPIC, messages=[USER]), kind)[0]


@pytest.mark.parametrize("kind", ["llama-server", "vllm", "sglang"])
def test_what_has_begun_is_not_thought_about_first(kind: str) -> None:
    """llama.cpp's server refuses the two together, as Anthropic does."""
    off = {"enable_thinking": False, "thinking": False}
    assert asked(claude(), kind)[0]["chat_template_kwargs"] == off
    thinking = {"type": "enabled", "budget_tokens": 50}
    body, dropped = asked(claude(thinking=thinking), kind)
    assert (body["chat_template_kwargs"], dropped) == (off, ("reasoning",))


@pytest.mark.parametrize("kind", ["openai", "openai-compatible"])
def test_who_cannot_go_on_is_named(kind: str) -> None:
    """There the turn is over; of a server that nobody knows it may be."""
    body, dropped = asked(claude(), kind)
    assert body["messages"][-1] == BEGUN
    assert dropped == ("prefill",)


@pytest.mark.parametrize("kind", ["mistral", "deepseek", "perplexity"])
def test_who_hears_users_alone_hears_one_last(kind: str) -> None:
    """They refuse another turn that stands last, as clients of Responses may send it."""
    said = read(RESPONSES, input=[USER, BEGUN])
    body, dropped = asked(said, kind)
    assert [one["role"] for one in body["messages"]] == ["user", "assistant", "user"]
    assert dropped == ()
    body, dropped = asked(claude(), kind)
    goes_on = kind == "mistral"
    assert body["messages"][-1]["role"] == ("assistant" if goes_on else "user")
    assert dropped == (() if goes_on else ("prefill",))


@pytest.mark.parametrize("target", [ANTHROPIC, BEDROCK, GEMINI])
def test_a_chat_s_prefix_is_anthropic_s_and_google_s(target: Asks) -> None:
    """It was named as dropped, though the answer goes on there."""
    said = chat(prefix=True)
    model = f"anthropic.{OLD}-v1:0" if target is BEDROCK else OLD
    written = target.write_request(
        said, Facts("gemini-3-pro-preview" if target is GEMINI else model)
    )
    assert said.unread + written.dropped == ()
    body = json.loads(written.body)
    last = (body.get("messages") or body["contents"])[-1]
    assert last["role"] in ("assistant", "model")
    assert PREFIX in json.dumps(last)


def test_vllm_s_word_for_it_is_read_too() -> None:
    """Its clients must take back the usual flag with it."""
    said = read(
        OPENAI,
        messages=[USER, BEGUN],
        continue_final_message=True,
        add_generation_prompt=False,
    )
    assert ANTHROPIC.write_request(said, Facts(OLD)).dropped == ()
    assert RESPONSES.write_request(said, Facts("gpt-5")).dropped == ("prefill",)


def test_a_chat_s_last_turn_is_over_at_openai() -> None:
    """Nothing is lost where nothing was asked; of Mistral's word something is."""
    assert RESPONSES.write_request(chat(), Facts("gpt-5")).dropped == ()
    assert RESPONSES.write_request(chat(prefix=True), Facts("gpt-5")).dropped == ("prefill",)


@pytest.mark.parametrize(
    ("target", "model"), [(ANTHROPIC, NEW), (BEDROCK, f"us.anthropic.{NEW}-v1")]
)
def test_a_newer_claude_hears_a_user_last(target: Asks, model: str) -> None:
    """It refuses an assistant's turn that stands last, which OpenAI's clients may well send."""
    written = target.write_request(chat(), Facts(model))
    turns = json.loads(written.body)["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert written.dropped == ("prefill",)


def test_cohere_begins_anew() -> None:
    """It takes such a turn and writes another answer behind it; that was told to be translated."""
    assert COHERE.write_request(claude(), Facts("command-a")).dropped == ("prefill",)
    assert COHERE.write_request(chat(), Facts("command-a")).dropped == ()


def stream(*texts: str) -> bytes:
    """Return a stream of texts, each in a chunk, and its end."""
    head = {"id": "c", "model": "m"}
    deltas = [{"index": 0, "delta": {"content": text}} for text in texts]
    stop = {"index": 0, "delta": {}, "finish_reason": "stop"}
    chunks = [head | {"choices": [one]} for one in (*deltas, stop)]
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)


@pytest.mark.parametrize(
    ("texts", "heard"),
    [
        ((PREFIX, " France", "."), " France."),
        (("The winn", "er is Fr", "ance."), " France."),
        (("The winn", "ing team"), "The winning team"),
        (("The winn",), "The winn"),
        ((PREFIX,), ""),
        (("France", PREFIX), "France" + PREFIX),
    ],
)
def test_what_mistral_repeats_is_not_heard_twice(texts: tuple[str, ...], heard: str) -> None:
    """Its answer begins with the prefix; those of other dialects go on behind it."""
    quirks = KINDS["mistral"].quirks
    parts = (Text(heard),) if heard else ()
    streamed = fold_of(events(OPENAI, claude(), quirks, stream(*texts)))
    assert (streamed.parts, streamed.stop) == (parts, "end")
    message = {"role": "assistant", "content": "".join(texts)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode()
    whole = OPENAI.events(claude(), quirks).whole(body)
    assert (whole.parts, whole.stop) == (parts, "end")


@pytest.mark.parametrize("mark", [{}, {"cache_control": {"type": "ephemeral"}}])
@pytest.mark.parametrize("target", [ANTHROPIC, BEDROCK])
def test_claude_goes_on_from_where_its_last_word_ends(target: Asks, mark: dict[str, Any]) -> None:
    """It refuses a beginning that ends in white space, wherever it runs; Bedrock was sent one.

    There the mark of a cache stands behind it.
    """
    content = [{"type": "text", "text": "{ \n", **mark}]
    said = read(OPENAI, messages=[USER, {**BEGUN, "content": content, "prefix": True}])
    model = f"anthropic.{OLD}-v1:0" if target is BEDROCK else OLD
    last = json.loads(target.write_request(said, Facts(model)).body)["messages"][-1]
    assert json.dumps("{") in json.dumps(last)


@pytest.mark.parametrize(
    "model", ["gemini-3.6-flash", "gemini-3.5-flash-lite", "gemini-flash-latest"]
)
def test_a_newer_gemini_hears_a_user_last(model: str) -> None:
    """It refuses to go on with what has begun, and a conversation whose last turn is over."""
    for said, lost in ((chat(prefix=True), ("prefill",)), (chat(), ())):
        written = GEMINI.write_request(said, Facts(model))
        roles = [turn["role"] for turn in json.loads(written.body)["contents"]]
        assert (roles, written.dropped) == (["user", "model", "user"], lost)


def test_gemini_hears_a_user_first() -> None:
    """A session that was cut short begins with a call, which it refuses."""
    called = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = read(
        OPENAI,
        messages=[
            {"role": "assistant", "tool_calls": [called]},
            {"role": "tool", "tool_call_id": "a", "content": "1"},
        ],
    )
    contents = json.loads(GEMINI.write_request(said, Facts("gemini-2.5-flash")).body)["contents"]
    assert [turn["role"] for turn in contents] == ["user", "model", "user"]
