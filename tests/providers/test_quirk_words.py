"""Each word in `quirks` of catalog.toml does something, and only where it stands."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace
from translated import OPENAI

from tollway.providers.canon import Bound, Call
from tollway.providers.conversation import (
    Conversation,
    File,
    Format,
    Message,
    Reasoning,
    Sampling,
    Source,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from tollway.providers.dialects import openai_chat, openai_embed
from tollway.providers.dialects.dialect import Edits, Facts
from tollway.providers.dialects.openai_quirks import QUIRKS
from tollway.providers.embedding import Embedding
from tollway.providers.errors import Untranslatable
from tollway.providers.price_report import reported
from tollway.providers.prices import FREE
from tollway.providers.sse import Event as Sse
from tollway.providers.units import sold

Quirks = frozenset[str]
SAID = Conversation(
    by="anthropic_messages",
    model="m",
    messages=(
        Message("user", (Text("Hi", cache="5m"),)),
        Message("assistant", (Thinking("Hm."), ToolCall("toolu_1", "f", "{}"))),
        Message("tool", (ToolResult("toolu_1", (Text("1"),)),)),
        Message("user", (Text("Go on"),)),
    ),
    tools=(Tool("f"),),
    sampling=Sampling(top_k=5, min_p=0.5, seed=7),
    reasoning=Reasoning("on", "high"),
    output_limit=100,
    user="ann",
    metadata=b'{"job":"1"}',
    cache_key="c-1",
    stream=True,
)
CHUNK: dict[str, Any] = {
    "choices": [],
    "usage": {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "completion_tokens_details": {"reasoning_tokens": 5},
        "cost": 0.5,
        "cost_in_usd_ticks": 10_000_000_000,
    },
}


def heard(quirks: Quirks) -> tuple[int, int]:
    """Return how many seconds three of a recording are held and billed as."""
    call = Call("transcriptions", "openai_chat", "m", b"")
    reader = openai_chat.DIALECT.reader(call, quirks)
    reader.whole(b'{"text":"Hi","duration":2.4}')
    price = replace(FREE, id="x", source="gateway.toml", units=(("audio_minute", Decimal(1)),))
    _, bound = sold("transcriptions", price, Bound(0, 0, searches=3), "groq/w", quirks)
    assert reader.usage
    return bound.searches, reader.usage.searches


def asked(quirks: Quirks) -> dict[str, Any]:
    """Return a translated request."""
    body: dict[str, Any] = json.loads(OPENAI.write_request(SAID, Facts("m", quirks=quirks)).body)
    return body


def tier(quirks: Quirks, name: str) -> tuple[object, bool]:
    """Return the service tier that is asked for, and whether that is named as left out."""
    said = replace(SAID, service_tier=name)
    written = OPENAI.write_request(said, Facts("m", quirks=quirks))
    return json.loads(written.body).get("service_tier"), "service_tier" in written.dropped


def begun(quirks: Quirks) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a translated request that begins the answer, and what was left out."""
    turns = (SAID.messages[0], Message("assistant", (Text("So"),)))
    said = replace(SAID, messages=turns)
    written = OPENAI.write_request(said, Facts("m", quirks=quirks))
    return json.loads(written.body), written.dropped


def choosing(quirks: Quirks, mode: str) -> tuple[list[str], object]:
    """Return which tools are offered, and what is said of which must be called."""
    choice = ToolChoice(mode, ("g",) if mode == "tool" else ())  # type: ignore[arg-type]
    said = replace(SAID, tools=(Tool("f"), Tool("g")), tool_choice=choice)
    body = json.loads(OPENAI.write_request(said, Facts("m", quirks=quirks)).body)
    chosen = body.get("tool_choice")
    names = [tool["function"]["name"] for tool in body.get("tools", ())]
    return names, chosen["function"]["name"] if isinstance(chosen, dict) else chosen


def shaped(quirks: Quirks) -> dict[str, Any]:
    """Return how any JSON is asked for."""
    said = replace(SAID, format=Format("json_object"))
    body = json.loads(OPENAI.write_request(said, Facts("m", quirks=quirks)).body)
    found: dict[str, Any] = body["response_format"]
    return found


def held(quirks: Quirks) -> object:
    """Return how JSON of a schema is asked for beside tools; why it is refused."""
    asked = Format("json_schema", b'{"type":"object","properties":{}}', "a")
    said = replace(SAID, format=asked)
    try:
        body = json.loads(OPENAI.write_request(said, Facts("m", quirks=quirks)).body)
    except Untranslatable as refused:
        return refused.param
    return len(body["tools"]), "response_format" in body


def filed(quirks: Quirks) -> dict[str, Any]:
    """Return how a translated request holds a file."""
    file = File(Source("base64", "JVBERi0=", "application/pdf"))
    said = replace(SAID, messages=(Message("user", (file,)),))
    body = json.loads(OPENAI.write_request(said, Facts("m", quirks=quirks)).body)
    (part,) = body["messages"][0]["content"]
    found: dict[str, Any] = part
    return found


def edited(quirks: Quirks, path: str, limit: int | None = None, **more: Any) -> dict[str, Any]:
    """Return a client's own request as a target gets it."""
    said = {"model": "m", "stream": True, **more}
    if path == "chat":
        said["messages"] = [{"role": "user", "content": "Hi"}]
    call = openai_chat.DIALECT.peek(path, json.dumps(said).encode())  # type: ignore[arg-type]
    edits = Edits("m", output_limit=limit, ask_usage=True, quirks=quirks)
    body: dict[str, Any] = json.loads(openai_chat.DIALECT.edit(call, edits))
    return body


def used(quirks: Quirks, *, n: int = 1, reports: int = 1) -> tuple[int, int]:
    """Return the output and the thoughts that reports of usage come to."""
    call = Call("chat", OPENAI.name, "m", b"{}", stream=True, wants_usage=True, choices=n)
    reader = openai_chat.DIALECT.reader(call, quirks)
    for _ in range(reports):
        reader.event(Sse(b"", json.dumps(CHUNK).encode()))
    assert reader.usage is not None
    return reader.usage.output, reader.usage.reasoning


def bill(quirks: Quirks, cost: object = 0.5) -> int | None:
    """Return what a provider is believed to have charged, in nano-dollars."""
    return reported(json.dumps(CHUNK["usage"] | {"cost": cost}), quirks)


def thoughts(quirks: Quirks) -> set[str]:
    """Return the fields that say how to think."""
    names = {"reasoning_effort", "reasoning", "thinking", "chat_template_kwargs"}
    return names & set(asked(quirks))


def turn(quirks: Quirks) -> set[str]:
    """Return the fields of an earlier turn."""
    return set(asked(quirks)["messages"][1]) - {"role", "content", "tool_calls"}


def vector_size(quirks: Quirks) -> list[str]:
    """Return the fields that say how long vectors are to be: as translated, and as passed on."""
    made = openai_embed.write_request(Embedding("m", ("a",), 5), Facts("m", quirks=quirks)).body
    call = openai_chat.DIALECT.peek("embeddings", b'{"model":"m","input":"a","dimensions":5}')
    passed = openai_chat.DIALECT.edit(call, Edits("m", quirks=quirks))
    return [
        name for body in (made, passed) for name, value in json.loads(body).items() if value == 5
    ]


# What a word changes: how it is looked at, what is seen without it, and what with it.
WORDS: dict[str, tuple[Callable[[Quirks], object], object, object]] = {
    "max_completion_tokens": (
        lambda quirks: [name for name in asked(quirks) if name.startswith("max")],
        ["max_tokens"],
        ["max_completion_tokens"],
    ),
    "max_tokens_only": (
        lambda quirks: [
            name for name in edited(quirks, "chat", max_completion_tokens=5) if "max" in name
        ],
        ["max_completion_tokens"],
        ["max_tokens"],
    ),
    "completions_stop_at_16": (
        lambda quirks: edited(quirks, "completions", 16, prompt="Hi").get("max_tokens"),
        16,
        None,
    ),
    "output_dimension": (
        vector_size,
        ["dimensions", "dimensions"],
        ["output_dimension", "output_dimension"],
    ),
    "usage_unasked": (lambda quirks: "stream_options" in asked(quirks), True, False),
    "no_stream_options": (
        lambda quirks: (
            "stream_options" in edited(quirks, "chat", stream_options={"include_usage": True})
        ),
        True,
        False,
    ),
    "usage_per_choice": (lambda quirks: used(quirks, n=2, reports=2)[0], 4, 8),
    "reasoning_within": (used, (4, 5), (0, 4)),
    "reports_cost": (bill, None, 500_000_000),
    "reports_cost_in_ticks": (bill, None, 1_000_000_000),
    "reports_cost_in_total": (
        lambda quirks: bill(quirks, {"total_cost": 0.25}),
        None,
        250_000_000,
    ),
    "ten_seconds_at_least": (heard, (3, 3), (10, 10)),
    "continues": (lambda quirks: "prefill" in begun(quirks)[1], True, False),
    "continue_final_message": (
        lambda quirks: begun(quirks)[0].get("continue_final_message"),
        None,
        True,
    ),
    "prefix": (lambda quirks: begun(quirks)[0]["messages"][-1].get("prefix"), None, True),
    "user_last": (lambda quirks: begun(quirks)[0]["messages"][-1]["role"], "assistant", "user"),
    "wants_reasoning_content": (
        lambda quirks: begun(quirks)[0]["messages"][-1].get("reasoning_content"),
        None,
        "",
    ),
    "all_of_openai": (lambda quirks: asked(quirks).get("user"), None, "ann"),
    "user": (lambda quirks: asked(quirks).get("user"), None, "ann"),
    "metadata": (lambda quirks: asked(quirks).get("metadata"), None, {"job": "1"}),
    "prompt_cache_key": (lambda quirks: asked(quirks).get("prompt_cache_key"), None, "c-1"),
    "flex_tier": (lambda quirks: tier(quirks, "flex"), (None, True), ("flex", False)),
    "standard_only": (
        lambda quirks: tier(quirks, "default"),
        (None, False),
        ("standard_only", False),
    ),
    "priority_tier": (lambda quirks: tier(quirks, "priority"), (None, True), ("priority", False)),
    "top_k": (
        lambda quirks: [asked(quirks).get(name) for name in ("top_k", "min_p")],
        [None, None],
        [5, 0.5],
    ),
    "cache_control": (
        lambda quirks: b"cache_control" in json.dumps(asked(quirks)).encode(),
        False,
        True,
    ),
    "parts_of_mistral": (
        lambda quirks: filed(quirks)["type"],
        "file",
        "document_url",
    ),
    "nine_letter_tool_ids": (
        lambda quirks: len(asked(quirks)["messages"][2]["tool_call_id"]),
        len("toolu_1"),
        9,
    ),
    "random_seed": (
        lambda quirks: [name for name in asked(quirks) if "seed" in name],
        ["seed"],
        ["random_seed"],
    ),
    "assistant_after_tool": (
        lambda quirks: [one["role"] for one in asked(quirks)["messages"][2:]],
        ["tool", "user"],
        ["tool", "assistant", "user"],
    ),
    "tool_choice_in_words": (
        lambda quirks: choosing(quirks, "tool"),
        (["f", "g"], "g"),
        (["g"], "required"),
    ),
    "ignores_tool_choice": (
        lambda quirks: [choosing(quirks, mode) for mode in ("tool", "none")],
        [(["f", "g"], "g"), (["f", "g"], "none")],
        [(["g"], None), ([], None)],
    ),
    "json_by_schema": (
        lambda quirks: shaped(quirks)["type"],
        "json_object",
        "json_schema",
    ),
    "json_or_tools": (held, (1, True), (2, False)),
    "no_schemas": (held, (1, True), "response_format"),
    "reasoning_object": (thoughts, {"reasoning_effort"}, {"reasoning"}),
    "thinking_switch": (thoughts, {"reasoning_effort"}, {"thinking", "reasoning_effort"}),
    "template_switch": (
        thoughts,
        {"reasoning_effort"},
        {"reasoning_effort", "chat_template_kwargs"},
    ),
    "no_reasoning": (thoughts, {"reasoning_effort"}, set()),
    "takes_reasoning_content": (turn, set(), {"reasoning_content"}),
    "takes_reasoning": (turn, set(), {"reasoning"}),
    "takes_reasoning_details": (turn, set(), {"reasoning_details"}),
}


def test_every_word_is_here() -> None:
    """A word that nobody looks at may do nothing."""
    assert set(WORDS) == QUIRKS


@pytest.mark.parametrize("word", WORDS)
def test_a_word_does_what_it_says(word: str) -> None:
    """Without it the request, the usage or the bill is another one."""
    seen, without, within = WORDS[word]
    assert (seen(frozenset()), seen(frozenset({word}))) == (without, within)
