"""What the gate reads of a request, what it refuses, and what it changes on the way out."""

import json
from typing import Any

import msgspec
import pytest

from tollway.providers.canon import Call, Endpoint
from tollway.providers.catalog import KINDS
from tollway.providers.dialects.dialect import Edits
from tollway.providers.dialects.openai_chat import DIALECT
from tollway.providers.errors import RequestInvalid

CHAT: dict[str, Any] = {"model": "fast", "messages": [{"role": "user", "content": "hi"}]}


def peek(endpoint: Endpoint = "chat", **said: Any) -> Call:
    """Peek at a request of an endpoint, with the fields that it needs and those given."""
    base = {
        "chat": CHAT,
        "completions": {"model": "fast", "prompt": "hi"},
        "embeddings": {"model": "fast", "input": "hi"},
    }[endpoint]
    return DIALECT.peek(endpoint, json.dumps({**base, **said}).encode())


def sent(call: Call, kind: str = "openai-compatible", **edits: Any) -> dict[str, Any]:
    """Return the request that a kind of provider gets."""
    out = DIALECT.edit(call, Edits(model="there", quirks=KINDS[kind].quirks, **edits))
    said: dict[str, Any] = json.loads(out)
    return said


def test_the_gate_sees_what_it_must() -> None:
    """Model, streaming, limit, choices, and whether the client wants a usage chunk."""
    call = peek(stream=True, stream_options={"include_usage": True}, max_tokens=7, n=3)
    assert (call.model, call.stream, call.wants_usage) == ("fast", True, True)
    assert (call.output_limit, call.choices, call.endpoint) == (7, 3, "chat")


def test_null_is_as_good_as_missing() -> None:
    """OpenAI's reference marks these fields as nullable."""
    nothing: dict[str, Any]
    nothing = dict.fromkeys(["stream", "stream_options", "n", "max_tokens", "best_of"])
    call = peek(**nothing, max_completion_tokens=None)
    assert call == msgspec.structs.replace(peek(), body=call.body, scan=call.scan)


def test_of_two_limits_the_larger_counts() -> None:
    """A provider may go by either, so the dearer one must be held."""
    assert peek(max_tokens=10, max_completion_tokens=300).output_limit == 300
    assert peek(max_tokens=400, max_completion_tokens=300).output_limit == 400


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"model": 3}, "model"),
        ({"model": ""}, "model"),
        ({"messages": "hi"}, "messages"),
        ({"messages": None}, "messages"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": True}, "n"),
        ({"best_of": -1}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "10"}, "max_tokens"),
        ({"max_tokens": 10.0}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_completion_tokens": []}, "max_completion_tokens"),
        ({"stream": True, "stream_options": 5}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(said: dict[str, Any], param: str) -> None:
    """The message says what it must be, and `param` is where OpenAI's clients look."""
    with pytest.raises(RequestInvalid, match="must") as caught:
        peek(**said)
    assert caught.value.param == param
    assert f"`{param}`" in caught.value.message


def test_a_missing_field_is_named() -> None:
    """Before anything is held or sent."""
    for endpoint, missing in (("chat", "messages"), ("embeddings", "input")):
        with pytest.raises(RequestInvalid) as caught:
            DIALECT.peek(endpoint, b'{"model": "fast"}')  # type: ignore[arg-type]
        assert caught.value.param == missing
    with pytest.raises(RequestInvalid) as caught:
        DIALECT.peek("chat", b"{}")
    assert caught.value.param == "model"


def test_a_field_in_other_case_is_refused() -> None:
    """Go's JSON reader takes `Max_Tokens` for `max_tokens`, and the gate would not see it."""
    for name in ("Max_Tokens", "N", "modeL", "\u017ftream", "web_search_optionS"):
        with pytest.raises(RequestInvalid) as caught:
            said: dict[str, Any] = {name: 1}
            peek(**said)
        assert caught.value.param == name


def test_prompts_and_choices_multiply() -> None:
    """`n` is for each prompt; a list of tokens is one prompt."""
    assert peek("completions", prompt=["a", "b"], n=3).choices == 6
    assert peek("completions", prompt=[1, 2, 3]).choices == 1
    assert peek("completions", prompt=[[1, 2], [3]]).choices == 2
    assert peek("completions", prompt=None).choices == 1
    with pytest.raises(RequestInvalid):
        peek("completions", prompt={"a": 1})


def test_embeddings_take_strings_and_tokens_and_do_not_stream() -> None:
    """The four shapes of OpenAI's reference, and no other."""
    for given in ("a", ["a", "b"], [1, 2], [[1], [2, 3]]):
        call = peek("embeddings", input=given, stream=True, max_tokens=5)
        assert (call.stream, call.output_limit, call.choices) == (False, None, 1)
    with pytest.raises(RequestInvalid):
        peek("embeddings", input=[{"text": "a"}])


def test_only_the_model_changes_where_nothing_else_must() -> None:
    """The bytes of the client stay, unknown fields and odd spacing included."""
    body = b' {"new_field" : [1.0,1e3], "model"\t:"fast","messages":[ ]}\n'
    call = DIALECT.peek("chat", body)
    assert DIALECT.edit(call, Edits(model='a"b')) == body.replace(b'"fast"', b'"a\\"b"')
    assert DIALECT.edit(call, Edits(model="fast")) is body


def test_usage_is_asked_for_where_the_client_did_not() -> None:
    """Its other stream options stay; a provider that tells unasked is not asked."""
    asked = {"include_usage": True}
    plain = peek(stream=True)
    assert sent(plain, ask_usage=True)["stream_options"] == asked
    assert sent(peek(stream=True, stream_options=None), ask_usage=True)["stream_options"] == asked
    other = peek(stream=True, stream_options={"include_usage": False, "include_obfuscation": False})
    expected = {"include_usage": True, "include_obfuscation": False}
    assert sent(other, ask_usage=True)["stream_options"] == expected
    for kind in ("mistral", "together", "perplexity"):
        assert "stream_options" not in sent(plain, kind, ask_usage=True)
    assert "stream_options" not in sent(peek(), ask_usage=True)


def test_a_limit_goes_where_the_target_reads_it() -> None:
    """OpenAI's reasoning models refuse `max_tokens`; most others know nothing else."""
    assert sent(peek(), "openai", output_limit=50)["max_completion_tokens"] == 50
    for kind in ("mistral", "deepseek", "groq", "ollama", "openai-compatible", "llama-server"):
        out = sent(peek(), kind, output_limit=50)
        assert out["max_tokens"] == 50, kind
        assert "max_completion_tokens" not in out, kind


def test_a_limit_that_the_target_would_ignore_is_renamed() -> None:
    """DeepSeek drops `max_completion_tokens` in silence, and the answer would have no end."""
    call = peek(max_completion_tokens=50)
    for kind in ("deepseek", "mistral", "llama-server"):
        out = sent(call, kind)
        assert (out["max_tokens"], "max_completion_tokens" in out) == (50, False), kind
    both = peek(max_completion_tokens=50, max_tokens=None)
    assert sent(both, "deepseek")["max_tokens"] == 50
    assert sent(call, "openai")["max_completion_tokens"] == 50
    assert "max_tokens" not in sent(call, "openai-compatible")


def test_a_lowered_limit_replaces_what_the_client_wrote() -> None:
    """Every limit that a provider may go by is lowered, and none is added beside one."""
    assert sent(peek(max_tokens=500), "openai", output_limit=50)["max_tokens"] == 50
    out = sent(peek(max_tokens=500, max_completion_tokens=600), output_limit=50)
    assert (out["max_tokens"], out["max_completion_tokens"]) == (50, 50)
    assert sent(peek(max_tokens=None), "groq", output_limit=50)["max_tokens"] == 50
    assert "max_completion_tokens" not in sent(peek(max_tokens=500), "openai", output_limit=50)


def test_a_completion_keeps_its_provider_own_short_default() -> None:
    """OpenAI and vLLM end a completion without a limit after 16 tokens: ours would lengthen it."""
    call = peek("completions")
    for kind in ("openai", "vllm"):
        assert "max_tokens" not in sent(call, kind, output_limit=16_384)
        assert sent(call, kind, output_limit=10)["max_tokens"] == 10
    assert sent(call, "llama-server", output_limit=16_384)["max_tokens"] == 16_384
    assert "max_completion_tokens" not in sent(call, "openai", output_limit=10)


def test_embeddings_get_no_limit() -> None:
    """They make no tokens, and some servers refuse the field."""
    assert set(sent(peek("embeddings"), "openai", output_limit=10)) == {"model", "input"}


def test_paths_follow_base_urls_that_end_in_v1() -> None:
    """As OpenAI's own client builds them."""
    assert DIALECT.path("chat") == "/chat/completions"
    assert DIALECT.path("completions") == "/completions"
    assert DIALECT.path("embeddings") == "/embeddings"
