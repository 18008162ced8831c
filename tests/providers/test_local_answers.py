"""What the real small model answers, through its worker."""

import asyncio
import base64
import json
import re
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from gguf_files import real_model, small_model, with_metadata
from local_models import NAME, body_of, chat, model, serving, state_of, text_of, until, whole

from tollway.providers.canon import Usage
from tollway.providers.llamacpp.adapter import LocalModels
from tollway.providers.llamacpp.formats import FORMATS

pytestmark = [
    pytest.mark.local,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]

COUNT = "Count from one to thirty in words."


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalModels]:
    """Serve the small model to all tests: each worker takes a second of CPU to begin."""
    async with serving(tmp_path_factory.mktemp("local")) as models:
        yield models


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def speaking(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalModels]:
    """Serve the whole model, which knows when it is done and what it has read."""
    async with serving(tmp_path_factory.mktemp("local"), model(real_model())) as models:
        yield models


@pytest_asyncio.fixture(loop_scope="module")
async def fresh(tmp_path: Path) -> AsyncIterator[LocalModels]:
    """Serve the small real model, which is not loaded yet and has nothing in its memory."""
    async with serving(tmp_path) as models:
        yield models


def events(stream: bytes) -> list[Any]:
    """Return the JSON of a stream's events, its end checked."""
    *blocks, done, rest = stream.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [json.loads(block.removeprefix(b"data: ")) for block in blocks]


async def test_greedy_answers_are_the_same_whole_streamed_and_again(local: LocalModels) -> None:
    """Temperature 0 leaves nothing to chance, and streaming changes no word."""
    first = await whole(local, chat(COUNT))
    said = first["choices"][0]["message"]["content"]
    assert len(said) > 20
    request = chat(COUNT, stream=True, stream_options={"include_usage": True})
    answer = await local.send(NAME, "chat", request)
    assert ("content-type", "text/event-stream") in answer.headers
    *chunks, last = events(await body_of(answer))
    streamed = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(streamed) == said
    assert chunks[-1]["choices"][0]["finish_reason"] == first["choices"][0]["finish_reason"]
    assert last["usage"]["completion_tokens"] == first["usage"]["completion_tokens"]
    assert "llama_cpp" not in sys.modules


async def test_tokens_are_counted_by_the_models_own_tokenizer(fresh: LocalModels) -> None:
    """The usage is exact: the prompt as `count` has it, the answer as it is cut into tokens."""
    local = fresh
    assert await local.count(NAME, "chat", chat(COUNT)) is None  # not loaded yet
    first = await whole(local, chat(COUNT))
    used = first["usage"]
    assert used["prompt_tokens"] == await local.count(NAME, "chat", chat(COUNT))
    assert used["completion_tokens"] == 24
    assert first["choices"][0]["finish_reason"] == "length"
    said = json.dumps({"prompt": first["choices"][0]["message"]["content"]}).encode()
    assert await local.count(NAME, "completions", said) == 24


async def test_arguments_that_nest_too_deeply_are_text_and_end_nobody_s_worker(
    local: LocalModels,
) -> None:
    """They are another call's to lose: the worker goes on counting and answering."""
    called = {"name": "look", "arguments": "[" * 100_000}
    calls = [{"id": "a", "type": "function", "function": called}]
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a", "content": "found"},
    ]
    await whole(local, chat("hi", max_tokens=2))
    before = state_of(local).pid
    async with asyncio.timeout(60):
        assert (await local.count(NAME, "chat", chat("", messages=messages)) or 0) > 1000
        refused = await local.send(NAME, "chat", chat("", messages=messages))
        assert b"context_length_exceeded" in await body_of(refused)
        assert await local.count(NAME, "chat", chat("hi"))
        await whole(local, chat("hi", max_tokens=2))
    assert state_of(local).pid == before


async def test_a_prefix_that_is_kept_changes_no_greedy_answer(local: LocalModels) -> None:
    """The second turn of a conversation reads only what is new, and says the same."""
    first = await text_of(local, chat(COUNT))
    messages = [
        {"role": "user", "content": COUNT},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "Now name a colour."},
    ]
    again = chat("", messages=messages)
    kept = await whole(local, again)
    assert kept["usage"]["prompt_tokens_details"]["cached_tokens"] > 20
    await local.unload(NAME)
    fresh = await whole(local, again)
    assert fresh["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert kept["choices"] == fresh["choices"]
    assert kept["usage"]["prompt_tokens"] == fresh["usage"]["prompt_tokens"]


async def test_a_stop_string_ends_the_answer_before_it(local: LocalModels) -> None:
    """Also where it begins in one token and ends in another."""
    said = await text_of(local, chat(COUNT))
    stop = said[12:17]
    stopped = await whole(local, chat(COUNT, stop=[stop, "never said"]))
    assert stopped["choices"][0]["message"]["content"] == said[: said.index(stop)]
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert stopped["choices"][0]["stop_reason"] == stop
    answer = await local.send(NAME, "chat", chat(COUNT, stop=[stop, "never said"], stream=True))
    last = events(await body_of(answer))[-1]["choices"][0]
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", stop)


async def test_an_answer_ends_when_the_model_is_done(speaking: LocalModels) -> None:
    """The token that ends an answer is not shown, and not counted."""
    found = await whole(speaking, chat("Say only: hi", max_tokens=200))
    assert found["choices"][0]["finish_reason"] == "stop"
    assert "<|" not in found["choices"][0]["message"]["content"]
    assert 0 < found["usage"]["completion_tokens"] < 200


async def test_characters_of_many_tokens_arrive_whole(speaking: LocalModels) -> None:
    """A snowman takes several tokens; no piece of him is ever sent."""
    bias = {"prompt": "☃" * 30, "temperature": 0, "max_tokens": 30, "stream": True}
    answer = await speaking.send(NAME, "completions", json.dumps({"model": NAME, **bias}).encode())
    texts = [chunk["choices"][0]["text"] for chunk in events(await body_of(answer))]
    assert "☃" in "".join(texts)
    assert "\ufffd" not in "".join(texts)


async def test_the_same_seed_gives_the_same_answer(local: LocalModels) -> None:
    """And another gives another; choices of one call differ among themselves."""
    hot = {"temperature": 1.5, "top_k": 0, "top_p": 1, "min_p": 0}
    ask = "Invent a name."
    first = await text_of(local, chat(ask, seed=7, **hot))
    assert await text_of(local, chat(ask, seed=7, **hot)) == first
    assert await text_of(local, chat(ask, seed=8, **hot)) != first
    three = await whole(local, chat(ask, seed=7, n=3, **hot))
    texts = [choice["message"]["content"] for choice in three["choices"]]
    assert len(set(texts)) == 3
    assert texts[0] == first
    assert three["usage"]["prompt_tokens"] == await local.count(NAME, "chat", chat(ask))


async def test_biases_and_penalties_are_obeyed(local: LocalModels) -> None:
    """A banned token is not said; a repeated one is said less often."""
    plain = await text_of(local, chat("Say only: hi", max_tokens=1))
    bias = {str(token): 100 for token in (1000, 1001)}
    forced = await whole(local, chat("Say only: hi", max_tokens=1, logit_bias=bias))
    assert forced["choices"][0]["message"]["content"] != plain
    del bias["1000"]
    again = await whole(local, chat("Say only: hi", max_tokens=2, logit_bias=bias))
    text = again["choices"][0]["message"]["content"]
    assert text[: len(text) // 2] * 2 == text  # the same token twice
    weary = chat("Say only: hi", max_tokens=2, logit_bias=bias, repeat_penalty=10)
    varied = await text_of(local, weary)
    assert varied.startswith(text[: len(text) // 2])
    assert varied != text


async def test_several_prompts_give_a_choice_each(local: LocalModels) -> None:
    """The legacy endpoint takes a list of them, also as tokens."""
    request = {"model": NAME, "prompt": ["One, two,", "Red, green,"], "temperature": 0, "n": 2}
    found = await whole(local, json.dumps(request).encode(), "completions")
    texts = [choice["text"] for choice in found["choices"]]
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2, 3]
    assert texts[0] == texts[1] != texts[2] == texts[3]
    assert found["usage"]["completion_tokens"] == 4 * 16


@pytest.mark.parametrize(
    ("endpoint", "fields", "words", "param"),
    [
        ("completions", {"prompt": "one two three " * 2000}, r"\d+ tokens.* holds 2048", "prompt"),
        ("completions", {"prompt": [49_152]}, "no token 49152; the model has 49152", "prompt"),
        ("completions", {"prompt": ""}, "no token to read in it", "prompt"),
        ("completions", {"prompt": ["a", ""]}, r"no token to read in `prompt\[1\]`", "prompt"),
        ("completions", {"prompt": ["a", "b " * 3000]}, r"`prompt\[1\]` has 3,001 tok", "prompt"),
        ("completions", {"prompt": "a", "logit_bias": {"49152": 1}}, "no token", "logit_bias"),
        ("embeddings", {"input": "a"}, "no pooling type", "model"),
    ],
)
async def test_what_the_model_cannot_do_is_a_400_with_numbers(
    local: LocalModels, endpoint: Any, fields: dict[str, Any], words: str, param: str
) -> None:
    """Never a silent cut, and never a native call that could end the worker."""
    request = json.dumps({"model": NAME, **fields}).encode()
    answer = await local.send(NAME, endpoint, request)
    error = json.loads(await body_of(answer))["error"]
    assert answer.status == 400
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert re.search(words, error["message"])
    pid = state_of(local).pid
    assert await text_of(local, chat("hi"))
    assert state_of(local).pid == pid


async def test_an_answer_is_as_long_as_the_context_leaves(tmp_path: Path) -> None:
    """A limit over what is left is cut to it, and the end is called `length`."""
    async with serving(tmp_path, model(context=128)) as local:
        assert local.context_of(NAME) == 128
        # The ends of an answer are banned, so that only the limit can end it.
        ends = {"0": -100, "2": -100, "4": -100}
        found = await whole(local, chat(COUNT, max_tokens=100_000, logit_bias=ends))
        assert found["choices"][0]["finish_reason"] == "length"
        assert found["usage"]["total_tokens"] == 128


async def test_a_client_that_leaves_ends_the_generation(local: LocalModels) -> None:
    """Within a step; what was made is counted, and the next call is not kept waiting."""
    answer = await local.send(NAME, "chat", chat(COUNT, max_tokens=2000, stream=True))
    chunks = answer.chunks()
    await anext(chunks)
    await anext(chunks)
    waiting = asyncio.create_task(local.send(NAME, "chat", chat("hi", max_tokens=1)))
    await answer.close()
    used = answer.usage_so_far
    assert 1 < used.output < 2000
    assert used.input_total == await local.count(NAME, "chat", chat(COUNT))
    await body_of(await waiting)
    assert answer.usage_so_far == used
    assert state_of(local).running == 0


async def test_a_client_that_leaves_while_its_prompt_is_read_costs_one_step(
    fresh: LocalModels,
) -> None:
    """A prompt is read in pieces, so that a cancel does not wait for all of it."""
    local = fresh
    await local.load(NAME)
    words = {"model": NAME, "prompt": "word " * 600, "max_tokens": 1}
    task = asyncio.create_task(local.send(NAME, "completions", json.dumps(words).encode()))
    await until(lambda: state_of(local).running == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    found = await whole(local, chat("hi", max_tokens=1))
    assert found["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    again = await whole(local, json.dumps(words).encode(), "completions")
    assert again["usage"]["prompt_tokens"] > 500


async def test_calls_wait_their_turn_and_whoever_leaves_is_forgotten(local: LocalModels) -> None:
    """First come, first served; a caller that gives up in the line costs nothing."""
    first = await local.send(NAME, "chat", chat(COUNT, max_tokens=2000, stream=True))
    order: list[str] = []

    async def ask(name: str) -> None:
        await text_of(local, chat(name, max_tokens=1))
        order.append(name)

    names = ["a", "b", "c", "d"]
    tasks = [asyncio.create_task(ask(name)) for name in names]
    await until(lambda: state_of(local).waiting == len(names))
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    assert (state_of(local).waiting, state_of(local).running) == (3, 1)
    await first.close()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["a", "c", "d"]
    assert first.usage_so_far != Usage()


async def test_an_embeddings_model_embeds_and_does_nothing_else(tmp_path: Path) -> None:
    """With a pooling type in its file a model makes vectors of length one, by the token."""
    path = tmp_path / "embedder.gguf"
    with_metadata(small_model(), path, "llama.pooling_type", 1)
    async with serving(tmp_path, model(path)) as local:
        texts = ["a happy dog", "a very happy dog", "the interest rate rose"]
        request = {"model": NAME, "input": texts}
        found = await whole(local, json.dumps(request).encode(), "embeddings")
        happy, happier, rate = (item["embedding"] for item in found["data"])
        assert len(happy) == 576
        assert sum(x * x for x in happy) == pytest.approx(1, abs=1e-5)
        assert _similar(happy, happier) > _similar(happy, rate)
        counted = await local.count(NAME, "embeddings", json.dumps(request).encode())
        assert found["usage"] == {"prompt_tokens": counted, "total_tokens": counted}

        request["encoding_format"] = "base64"
        coded = await whole(local, json.dumps(request).encode(), "embeddings")
        raw = base64.b64decode(coded["data"][0]["embedding"])
        assert list(struct.unpack("<576f", raw)) == pytest.approx(happy, abs=1e-6)

        answer = await local.send(NAME, "chat", chat("hi"))
        assert answer.status == 400
        assert b"makes embeddings" in await body_of(answer)
        request["dimensions"] = 8  # type: ignore[assignment]
        answer = await local.send(NAME, "embeddings", json.dumps(request).encode())
        assert (answer.status, b"576 numbers" in await body_of(answer)) == (400, True)


def _similar(one: list[float], other: list[float]) -> float:
    return sum(x * y for x, y in zip(one, other, strict=True))


def held_to(schema: Any, **fields: Any) -> bytes:
    """Return a request whose answer is held to a schema."""
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    return chat("Give me an example.", response_format=form, **fields)


async def test_a_schema_that_is_none_ends_nobody_elses_answer(local: LocalModels) -> None:
    """It is refused as what it is, while the other answer goes on in the same worker."""
    other = await local.send(NAME, "chat", chat(COUNT, stream=True, max_tokens=60))
    wrong: list[Any] = [{"minProperties": "2"}, {"$ref": {}}, {"type": "string", "pattern": "[a-"}]
    for schema in wrong:
        answer = await local.send(NAME, "chat", held_to(schema))
        refused = json.loads(await body_of(answer))
        assert answer.status == 400
        assert refused["error"]["param"] == "response_format"
    assert events(await body_of(other))[-1]["choices"][0]["finish_reason"]


async def test_a_number_that_no_frame_holds_is_a_400(local: LocalModels) -> None:
    """In a schema or for a template; the worker does not count as busy with it ever after."""
    schema = {"type": "integer", "maximum": 10**30}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    await local.load(NAME)
    for more in ({"response_format": form}, {"chat_template_kwargs": {"at": -(10**20)}}):
        answer = await local.send(NAME, "chat", chat("hi", **more))
        told = json.loads(await body_of(answer))["error"]
        assert (answer.status, "more than 64 bits" in told["message"]) == (400, True)
    assert await local.count(NAME, "chat", chat("hi", **more)) is None  # a part of the prompt
    process = local._residents[NAME]._process
    assert process is not None and not process.busy
    assert state_of(local).idle_s is not None
    assert (await whole(local, chat("hi", max_tokens=1)))["usage"]["completion_tokens"] == 1


async def test_llama_cpp_takes_the_grammar_of_every_format(local: LocalModels) -> None:
    """And of patterns whose classes have signs that its own language has a use for."""
    forms: list[Any] = [{"type": "string", "format": form} for form in FORMATS]
    patterns = (r"^.[ -~]\S\D\W[^\n\]^-]$", r"^([a-z]+-){2,}\t$", "^[a-z]*$")
    forms += [{"type": "string", "pattern": pattern} for pattern in patterns]
    forms += [{"type": "string", "pattern": "^[a-z]*$", "minLength": 3, "maxLength": 9}]
    for form in forms:
        assert await whole(local, held_to(form, max_tokens=1))
