"""OpenAI's requests as a local model reads them, and its answers as they are written."""

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.providers.errors import RequestInvalid
from tollway.providers.llamacpp.frames import (
    ChoiceEnded,
    Done,
    Message,
    Prompt,
    Sampling,
    Shape,
    Token,
    Up,
    Used,
    Vectors,
)
from tollway.providers.llamacpp.openai import read_request
from tollway.providers.llamacpp.writing import writer

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
ANSWER: list[Up] = [
    Token(1, 0, "Hel"),
    Token(1, 0, ""),
    Token(1, 0, "lo"),
    ChoiceEnded(1, 0, "stop", "!"),
    Done(1, Used(prompt=9, cached=4, completion=3)),
]


LOOK = [{"type": "function", "function": {"name": "look"}}]


def body(**fields: Any) -> bytes:
    """Return a chat request with changed fields."""
    return json.dumps({**CHAT, **fields}).encode()


def written(request: bytes, endpoint: Any = "chat", ups: list[Up] = ANSWER) -> bytes:
    """Return all bytes of an answer to a request."""
    writes = writer(read_request(endpoint, request))
    return b"".join(writes.write(up) for up in ups)


def events(stream: bytes) -> list[Any]:
    """Return the JSON of a stream's events, its end checked."""
    *blocks, done, rest = stream.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [json.loads(block.removeprefix(b"data: ")) for block in blocks]


def test_every_option_reaches_the_sampler() -> None:
    """What a client asks for is what the engine is told."""
    asked = read_request(
        "chat",
        body(
            temperature=0, top_p=0.5, top_k=7, min_p=0.1, seed=-1, n=2, stop="\n",
            presence_penalty=1, frequency_penalty=-1, repeat_penalty=1.1, repeat_last_n=9,
            logit_bias={"5": -100}, max_tokens=3, max_completion_tokens=4, user="u",
        ),
    )  # fmt: skip
    assert asked.job.sampling == Sampling(
        temperature=0, top_p=0.5, top_k=7, min_p=0.1, seed=2**32 - 1, presence=1, frequency=-1,
        repeat=1.1, repeat_last=9, bias={5: -100},
    )  # fmt: skip
    assert (asked.job.n, asked.job.stop, asked.job.max_tokens) == (2, ["\n"], 4)
    assert read_request("chat", body()).job.sampling == Sampling()


def test_what_llama_server_samples_by_is_understood() -> None:
    """Under its names, and "all" as it says that; `repetition_penalty` is vLLM's word."""
    asked = read_request(
        "chat",
        body(
            top_k=-1, repetition_penalty=1.2, repeat_last_n=-1, ignore_eos=True, top_n_sigma=1.5,
            dynatemp_range=0.5, dynatemp_exponent=2, xtc_probability=0.5, xtc_threshold=0.2,
            dry_multiplier=0.8, dry_base=2, dry_allowed_length=3, dry_penalty_last_n=-1,
            dry_sequence_breakers=["x"], mirostat=2, mirostat_tau=4, mirostat_eta=0.2,
            cache_prompt=True, samplers=["temperature", "typical_p"], n_probs=0, id_slot=3,
        ),
    )  # fmt: skip
    sampling = asked.job.sampling
    assert sampling == Sampling(
        top_k=0, repeat=1.2, repeat_last=-1, endless=True, sigma=1.5, spread=0.5, exponent=2,
        xtc=0.5, xtc_threshold=0.2, dry=0.8, dry_base=2, dry_allowed=3, dry_last=-1,
        dry_breakers=("x",), mirostat=2, tau=4, eta=0.2, order=("temperature", "typ_p"),
    )  # fmt: skip
    within = sampling.within(99)
    assert (within.repeat_last, within.dry_last, within.looks_back) == (99, 99, 99)
    assert (sampling.looks_back, Sampling(repeat_last=5, dry_last=9).looks_back) == (-1, 5)


def test_what_llama_server_is_asked_for_is_understood() -> None:
    """Its words for a limit, a schema and a prompt that is read afresh."""
    limits: list[tuple[dict[str, Any], int | None]] = [
        ({"n_predict": 7}, 7),
        ({"n_predict": -1}, None),
        ({"n_predict": 7, "max_tokens": 9}, 7),
        ({"n_predict": -1, "max_tokens": 9}, 9),
    ]
    for fields, most in limits:
        assert read_request("chat", body(**fields)).job.max_tokens == most
    request = json.dumps({"model": "m", "prompt": "x", "n_predict": -1}).encode()
    assert read_request("completions", request).job.max_tokens is None
    schema: dict[str, Any] = {"type": "object", "required": ["a"]}
    for fields in (
        {"json_schema": schema},
        {"response_format": {"type": "json_object", "schema": schema}},
    ):
        assert read_request("chat", body(**fields)).job.shape == Shape(schema=schema)
    assert read_request("chat", body(cache_prompt=False)).job.fresh
    assert not read_request("chat", body()).job.fresh


def test_allowed_tools_are_all_that_the_model_is_told_of() -> None:
    """OpenAI's way to offer a part of the tools; the others may not be called."""
    tools = [{"type": "function", "function": {"name": name}} for name in "abc"]
    for mode, auto in (("auto", True), ("required", False)):
        choice = {
            "type": "allowed_tools",
            "allowed_tools": {"mode": mode, "tools": tools[1:]},
        }
        job = read_request("chat", body(tools=tools, tool_choice=choice)).job
        assert [tool.name for tool in job.prompts[0].tools] == ["b", "c"]
        assert job.shape == Shape(calls="", auto=auto)


def test_messages_are_joined_from_their_text_parts() -> None:
    """Content may be a text or text parts; `developer` is what newer clients call `system`."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    said = [{"role": "developer", "content": "d"}, {"role": "user", "content": parts}]
    asked = read_request("chat", body(messages=said))
    expected = Prompt(messages=[Message("system", "d"), Message("user", "a\nb")])
    assert asked.job.prompts == [expected]


@pytest.mark.parametrize(
    ("endpoint", "fields", "prompts"),
    [
        ("completions", {"prompt": "a"}, [Prompt(text="a")]),
        ("completions", {"prompt": ["a", "b"]}, [Prompt(text="a"), Prompt(text="b")]),
        ("completions", {"prompt": [1, 2]}, [Prompt(tokens=[1, 2])]),
        ("embeddings", {"input": [[1], [2]]}, [Prompt(tokens=[1]), Prompt(tokens=[2])]),
    ],
)
def test_prompts_come_in_four_forms(
    endpoint: Any, fields: dict[str, Any], prompts: list[Prompt]
) -> None:
    """A text, texts, tokens, lists of tokens."""
    request = json.dumps({"model": "m", **fields}).encode()
    assert read_request(endpoint, request).job.prompts == prompts


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [1]}, "messages[0]"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{}], "content": ""}]},
            "messages[0].tool_calls[0]",
        ),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_object"}, "grammar": "root ::= x"}, "response_format"),
        ({"json_schema": {}, "grammar": "root ::= x"}, "json_schema"),
        ({"tools": LOOK, "tool_choice": "required", "grammar": "root ::= x"}, "grammar"),
        ({"logprobs": 1}, "logprobs"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"add_generation_prompt": False}}, "chat_template_kwargs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stream": 1}, "stream"),
        ({"top_k": -2}, "top_k"),
        ({"xtc_probability": 1.1}, "xtc_probability"),
        ({"mirostat": 3}, "mirostat"),
        ({"dry_sequence_breakers": ["a\0"]}, "dry_sequence_breakers"),
        ({"dry_sequence_breakers": ["", "a"]}, "dry_sequence_breakers"),
        ({"dry_sequence_breakers": "a"}, "dry_sequence_breakers"),
        ({"ignore_eos": True, "response_format": {"type": "json_object"}}, "ignore_eos"),
        ({"cache_prompt": "no"}, "cache_prompt"),
        ({"n_predict": 0}, "n_predict"),
        ({"samplers": ["top_k", "tfs_z"]}, "samplers"),
        ({"samplers": "kpm"}, "samplers"),
        ({"json_schema": {}, "response_format": {"type": "text"}}, "json_schema"),
        ({"json_schema": "{}"}, "json_schema"),
        ({"response_format": {"type": "json_object", "schema": "{}"}}, "response_format"),
        ({"n_probs": 2}, "n_probs"),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}},
            "tool_choice",
        ),
        ({"seed": 1.5}, "seed"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"1" * 10: 1}}, "logit_bias"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    """Never ignored: an option without effect is an answer to another question."""
    with pytest.raises(RequestInvalid) as refused:
        read_request("chat", body(**fields))
    assert refused.value.param == param
    assert refused.value.status == 400


def test_options_that_ask_for_nothing_are_fine() -> None:
    """Libraries write defaults out; those change no answer."""
    read_request(
        "chat",
        body(tools=[], tool_choice="auto", response_format={"type": "text"}, logprobs=False,
             metadata={"a": "b"}, store=True, temperature=None, parallel_tool_calls=True),
    )  # fmt: skip


def test_a_tool_that_is_named_is_called_once() -> None:
    """Who names a tool waits for its one call; `required` leaves their number to the model."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    named = {"type": "function", "function": {"name": "f"}}
    asked = [
        read_request("chat", body(tools=tools, tool_choice=choice, parallel_tool_calls=True))
        for choice in (named, "required", "auto")
    ]
    assert [one.job.parallel for one in asked] == [False, True, True]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
NAMES = ["messages", "prompt", "input", "stop", "n", "seed", "logit_bias", "stream_options", "x"]


@given(
    endpoint=st.sampled_from(["chat", "completions", "embeddings"]),
    fields=st.dictionaries(st.sampled_from(NAMES), json_values, max_size=4),
)
def test_any_json_is_read_or_refused(endpoint: Any, fields: dict[str, Any]) -> None:
    """Wrongly typed bodies are the caller's fault, with words."""
    try:
        read_request(endpoint, json.dumps(fields).encode())
    except RequestInvalid as refused:
        assert refused.message


@given(st.binary(max_size=30))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Bodies that are not JSON at all."""
    with pytest.raises(RequestInvalid):
        read_request("chat", data)


def test_a_stream_has_the_role_first_and_usage_only_when_asked() -> None:
    """The shape that OpenAI's client libraries read."""
    plain = events(written(body(stream=True)))
    assert [chunk["choices"][0]["delta"] for chunk in plain] == [
        {"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo"},
        {"content": "!"}, {},
    ]  # fmt: skip
    assert [chunk["choices"][0]["finish_reason"] for chunk in plain] == [None] * 4 + ["stop"]
    assert len({chunk["id"] for chunk in plain}) == 1
    assert not any("usage" in chunk for chunk in plain)

    *chunks, last = events(written(body(stream=True, stream_options={"include_usage": True})))
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": 3,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


def test_a_whole_answer_says_what_the_stream_says() -> None:
    """The same text, reason and usage, in one body."""
    whole = json.loads(written(body()))
    assert whole["object"] == "chat.completion"
    assert whole["model"] == "m"
    assert whole["choices"][0]["message"]["content"] == "Hello!"
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert whole["usage"]["total_tokens"] == 12


def test_completions_have_their_own_shape() -> None:
    """Text instead of messages; sixteen tokens where no limit is asked for."""
    request = json.dumps({"model": "m", "prompt": "x"}).encode()
    assert read_request("completions", request).job.max_tokens == 16
    whole = json.loads(written(request, "completions"))
    assert (whole["object"], whole["choices"][0]["text"]) == ("text_completion", "Hello!")
    streamed = events(written(request[:-1] + b', "stream": true}', "completions"))
    assert "".join(chunk["choices"][0]["text"] for chunk in streamed) == "Hello!"


def test_embeddings_are_numbers_or_base64() -> None:
    """Both are the same little-endian floats."""
    vector = struct.pack("<3f", 1.0, 0.5, -0.25)
    ups: list[Up] = [Vectors(1, 0, vector), Done(1, Used(prompt=5))]
    request = json.dumps({"model": "m", "input": "x"}).encode()
    whole = json.loads(written(request, "embeddings", ups))
    assert whole["data"][0]["embedding"] == [1.0, 0.5, -0.25]
    assert whole["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    request = request[:-1] + b', "encoding_format": "base64"}'
    whole = json.loads(written(request, "embeddings", ups))
    assert base64.b64decode(whole["data"][0]["embedding"]) == vector
