"""The official `openai` package, unchanged, sees what it would see without the gateway."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import openai
import pytest
from gateway import (
    HEAD,
    KEY,
    Gateway,
    chunk,
    config,
    gateway,
    whole,
)
from gguf_files import real_model
from openai_sdk import KINDS, Kind, Sdk, plain, sdk, tool_calls
from shell import Running, running, until
from upstreams import Step, answer, reads, resets, says, stalls
from wire.recordings import Recording, recordings
from wire.replay_server import ReplayServer

from tollway.daemon.ledger.calls import recent

pytestmark = pytest.mark.parametrize("kind", KINDS)

HELLO = [{"role": "user", "content": "Hi"}]
CHAT = "chat.completions.create"
ACCESS = f"""
[groups.all]
models = ["*"]
except = ["*/secret*"]
[teams.ml]
groups = ["all"]
[users.ann]
team = "ml"
[keys.laptop]
hash = "sha256:{sha256(KEY.encode()).hexdigest()}"
user = "ann"
"""
PARALLEL = [
    found.id
    for found in recordings()
    if found.endpoint
    and found.status == 200
    and {"parallel_tool_calls", "tool_call"} & found.features
]
# What the package cannot read from the provider itself either, asked for as it was asked.
STREAMED_TOOLS = [
    found.id
    for found in recordings()
    if found.endpoint and found.streamed and "tool_call" in found.features
]


def kind_of(recording: Recording) -> str:
    """Return a kind that speaks for whom was recorded."""
    known = {"llamacpp": "llama-server", "openai": "openai", "groq": "groq", "mistral": "mistral"}
    return known.get(recording.provider, "openai-compatible")


@contextlib.asynccontextmanager
async def replayed(
    kind: Kind, *names: str
) -> AsyncIterator[tuple[Sdk, list[Sdk], list[Recording]]]:
    """Yield a client of the gateway, and for each recording a client of its provider itself."""
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(ReplayServer())
        found = [server.recordings[name] for name in names]
        tables = [
            f'[providers.up{number}]\nkind = "{kind_of(one)}"\napi_key = "env:HOME"\n'
            f'base_url = "{server.url(one.id, chunk="recorded")}"\n'
            for number, one in enumerate(found)
        ]
        daemon = await stack.enter_async_context(running("\n".join(tables) + ACCESS, server=""))
        through = await stack.enter_async_context(sdk(kind, url(daemon), KEY))
        direct = [
            await stack.enter_async_context(sdk(kind, server.url(one.id), "sk-none"))
            for one in found
        ]
        yield through, direct, found


def url(daemon: Running) -> str:
    """Return what a person puts into the client as base URL."""
    return f"http://127.0.0.1:{daemon.port}/v1"


async def both(kind: Kind, name: str, method: str, **changes: Any) -> tuple[Any, Any]:
    """Return what the library makes of a recording, through the gateway and without it."""
    async with replayed(kind, name) as (through, (direct,), (recording,)):
        said = {"model": "recorded", **recording.asked, **changes}
        said = {field: value for field, value in said.items() if value is not None}
        # What the library has no argument for, it sends as it is told.
        known = set(
            openai.types.chat.completion_create_params.CompletionCreateParamsBase.__annotations__
        )
        known |= {"stream", "prompt", "input", "dimensions", "encoding_format", "best_of"}
        extra = {field: said.pop(field) for field in list(said) if field not in known}
        if extra:
            said["extra_body"] = extra
        direct_said = dict(said)
        said["model"] = f"up0/{said['model']}"
        return await through.call(method, **said), await direct.call(method, **direct_said)


@pytest.mark.parametrize(
    "name",
    [
        "openai/chat_gpt-4o",
        "openai/chat_custom-tool_tool-call_gpt-5",
        "openai/chat_refusal_json-schema_gpt-4o",
        "openai/chat_finish-function-call_gpt-4",
        "mistral/chat_thinking_mistral-small-latest",
        "azure/chat_finish-content-filter_openllmetry-testing",
        *(name for name in PARALLEL if name not in STREAMED_TOOLS),
    ],
)
async def test_a_chat_answer_is_the_object_it_would_be_without_us(kind: Kind, name: str) -> None:
    """Tools, refusals, thoughts: every field of the parsed object."""
    through, direct = await both(kind, name, CHAT)
    assert plain(through) == plain(direct)
    assert through.choices


@pytest.mark.parametrize("name", [*STREAMED_TOOLS, "openai/chat_stream_gpt-5"])
async def test_a_stream_is_the_chunks_it_would_be_without_us(kind: Kind, name: str) -> None:
    """Every chunk of it; tool calls, put together, are whole and have arguments that are JSON."""
    asked = {"include_usage": True}
    through, direct = await both(kind, name, CHAT, stream_options=asked)
    assert plain(through) == plain(direct)
    if "tool" in name:
        calls = tool_calls(through)
        assert calls == tool_calls(direct)
        assert calls
        assert len({call["id"] for call in calls}) == len(calls)
        if "finish-length" not in name:
            assert all(json.loads(call["arguments"]) is not None for call in calls)


async def test_usage_comes_in_a_last_chunk_to_who_asks_for_it_alone(kind: Kind) -> None:
    """Without `include_usage` no chunk has usage and none lacks its choices."""
    name = "openai/chat_stream_gpt-4o"
    asked, direct = await both(kind, name, CHAT, stream_options={"include_usage": True})
    assert asked[-1].usage.total_tokens == direct[-1].usage.total_tokens > 0
    silent, _ = await both(kind, name, CHAT, stream_options=None)
    assert [one.id for one in silent] == [one.id for one in asked[:-1]]
    assert all(one.choices and one.usage is None for one in silent)
    assert "".join(one.choices[0].delta.content or "" for one in silent)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("openai/embeddings_encoding-format_text-embedding-3-small", "base64"),
        ("openai/embeddings_encoding-format_text-embedding-3-small", None),  # the library's choice
        ("mistral/embeddings_encoding-format_mistral-embed", "float"),
        ("openrouter/embeddings_dimensions_text-embedding-3-small", "float"),
    ],
)
async def test_embeddings_are_the_vectors_they_would_be(
    kind: Kind, name: str, form: str | None
) -> None:
    """As text in base64 where the program asks for that, and as numbers where it does not."""
    through, direct = await both(kind, name, "embeddings.create", encoding_format=form)
    assert plain(through) == plain(direct)
    vector = through.data[0].embedding
    assert isinstance(vector, str) if form == "base64" else isinstance(vector[0], float)


@pytest.mark.parametrize(
    "name",
    [
        "openai/completions_finish-length_gpt-3-5-turbo-instruct",
        "openai/completions_stream_finish-length_davinci-002",
    ],
)
async def test_completions_are_what_they_would_be(kind: Kind, name: str) -> None:
    """The older endpoint, whole and streamed."""
    through, direct = await both(kind, name, "completions.create")
    assert plain(through) == plain(direct)


async def test_models_are_those_that_the_key_may_call(kind: Kind) -> None:
    """Listed and looked up one by one; a forbidden one is as unknown as one that is not there."""
    more = """
[routes.fast]
to = ["up/m", "up/secret-one"]
[routes."team/deep.one"]
to = ["up/n"]
[groups.few]
models = ["fast", "team/*", "up/*"]
except = ["up/secret*"]
[users.bob]
groups = ["few"]
"""
    async with gateway([[reads(), says(whole())]], more=more) as gate:
        text = gate.daemon.config.read_text().replace('user = "ann"', 'user = "bob"')
        gate.daemon.config.write_text(text)
        await gate.daemon.server.reloader.reload()
        async with sdk(kind, url(gate.daemon), KEY) as client:
            names = await client.models()
            assert names == ["fast", "team/deep.one", "up/m", "up/n"]
            for name in names:
                found = await client.call("models.retrieve", model=name)
                assert (found.id, found.object, found.owned_by) == (name, "model", "up")
                assert isinstance(found.created, int)
            for name in ("up/secret-one", "nobody/nothing", "nothing"):
                with pytest.raises(openai.NotFoundError):
                    await client.call("models.retrieve", model=name)
                with pytest.raises(openai.NotFoundError) as refused:
                    await client.call(CHAT, model=name, messages=HELLO)
                assert refused.value.code == "model_not_found"
                assert refused.value.param == "model"
        assert gate.ups[0].requests == []


async def asked_of(gate: Gateway) -> int:
    """Return how many requests the gateway has answered, by its log."""
    await asyncio.to_thread(gate.daemon.server.output.flush)
    return gate.daemon.log.read_text().count(" POST /v1/")


async def test_a_wrong_key_is_an_authentication_error_that_is_not_tried_again(kind: Kind) -> None:
    """401: the library's own class, once, and nothing sent on."""
    async with gateway([[reads(), says(whole())]]) as gate:
        async with sdk(kind, url(gate.daemon), "tw-" + "x" * 40) as client:
            with pytest.raises(openai.AuthenticationError) as refused:
                await client.call(CHAT, model="up/m", messages=HELLO)
            assert refused.value.code == "invalid_api_key"
            assert "x" * 10 not in str(refused.value)
        assert await asked_of(gate) == 1
        assert gate.ups[0].requests == []


async def test_a_spent_budget_is_no_error_that_is_tried_again(kind: Kind) -> None:
    """402: APIStatusError, once; a program that retried would only wait longer to be refused."""
    async with gateway([[reads(), says(whole())]], budget="0.000001/day") as gate:
        async with sdk(kind, url(gate.daemon), KEY) as client:
            with pytest.raises(openai.APIStatusError) as refused:
                await client.call(CHAT, model="up/m", messages=HELLO)
            assert type(refused.value) is openai.APIStatusError
            assert (refused.value.status_code, refused.value.code) == (402, "insufficient_quota")
        assert await asked_of(gate) == 1
        assert gate.ups[0].requests == []


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"messages": "Hi"}, "messages"),
        ({"messages": HELLO, "n": 0}, "n"),
        ({"messages": HELLO, "max_tokens": -1}, "max_tokens"),
        ({"messages": HELLO, "extra_body": {"stream_options": []}}, "stream_options"),
    ],
)
async def test_a_wrong_field_is_a_bad_request_that_names_it(
    kind: Kind, said: dict[str, Any], param: str
) -> None:
    """400, once, with `param` as the program finds it with the provider."""
    if param == "stream_options":
        said = {**said, "stream": True}
    async with gateway([[reads(), says(whole())]]) as gate:
        async with sdk(kind, url(gate.daemon), KEY) as client:
            with pytest.raises(openai.BadRequestError) as refused:
                await client.call(CHAT, model="up/m", **said)
            assert refused.value.param == param
        assert await asked_of(gate) == 1
        assert gate.ups[0].requests == []


def refuses(status: int, *headers: str) -> list[Step]:
    """Return a provider that answers with an error of its own."""
    said = json.dumps({"error": {"message": "No", "type": "t", "code": "own_code"}}).encode()
    return [reads(), says(answer(said, "Content-Type: application/json", *headers,
                                 status=f"{status} Words"))]  # fmt: skip


async def test_a_provider_that_is_busy_is_a_rate_limit_error(kind: Kind) -> None:
    """429 as it came, with its code."""
    async with (
        gateway([refuses(429)]) as gate,
        sdk(kind, url(gate.daemon), KEY, retries=0) as client,
    ):
        with pytest.raises(openai.RateLimitError) as refused:
            await client.call(CHAT, model="up/m", messages=HELLO)
        assert refused.value.code == "own_code"


async def test_the_library_waits_as_the_provider_says_and_tries_again(kind: Kind) -> None:
    """`retry-after-ms` reaches it, so the second try comes soon, and is a call of its own."""
    async with (
        gateway([refuses(429, "retry-after-ms: 1"), [reads(), says(whole())]]) as gate,
        sdk(kind, url(gate.daemon), KEY) as client,
    ):
        found = await client.call(CHAT, model="up/m", messages=HELLO)
        assert found.choices[0].message.content == "Hello"
        assert len(gate.ups[0].requests) == 2
        path = gate.daemon.server.daemon.ledger.path
        await until(lambda: len(recent(path, limit=5)) == 2)


@pytest.mark.parametrize(
    ("script", "status"),
    [
        (refuses(500), 500),
        (refuses(503), 503),
        ([reads(), resets()], 502),
        ([reads(), says(whole(b"<html>")), stalls()], 502),
        ([reads(), stalls()], 504),
    ],
    ids=["500", "503", "reset", "garbage", "silence"],
)
async def test_a_provider_that_fails_is_an_internal_server_error(
    kind: Kind, script: list[Step], status: int
) -> None:
    """500 from it, 502 where it broke or made no sense, 504 where it was silent."""
    # Whoever does say something may be late with it, on a machine that has much to do.
    soon = 'timeout = { first = "200ms" }' if status == 504 else ""
    async with (
        gateway([script], provider=soon) as gate,
        sdk(kind, url(gate.daemon), KEY, retries=0) as client,
    ):
        with pytest.raises(openai.InternalServerError) as refused:
            await client.call(CHAT, model="up/m", messages=HELLO)
        assert refused.value.status_code == status
        assert refused.value.body["source"] == "provider"  # type: ignore[index]


@pytest.mark.parametrize(
    "script",
    [
        [reads(), says(HEAD + chunk("He") + b'data: {"error":{"message":"Own"}}\n\n')],
        [reads(), says(HEAD + chunk("He"))],
        [reads(), says(HEAD + chunk("He")), resets()],
        [reads(), says(HEAD + chunk("He")), stalls()],
    ],
    ids=["error event", "cut", "reset", "silence"],
)
async def test_a_stream_that_breaks_raises_and_is_never_taken_for_whole(
    kind: Kind, script: list[Step]
) -> None:
    """Whatever broke it, the program gets an APIError within its loop."""
    async with (
        gateway([script], provider='timeout = { idle = "300ms" }') as gate,
        sdk(kind, url(gate.daemon), KEY) as client,
    ):
        with pytest.raises(openai.APIError) as broken:
            await client.call(CHAT, model="up/m", messages=HELLO, stream=True)
        assert not isinstance(broken.value, openai.APIConnectionError)
        assert (await gate.only_row()).call.cost_nanousd > 0
        assert len(gate.ups[0].requests) == 1


async def test_a_stream_that_breaks_off_early_was_seen_up_to_there(kind: Kind) -> None:
    """What came before the error is the program's; it is not held back until the end."""
    script = [reads(), says(HEAD + chunk("He") + chunk("llo"))]
    async with gateway([script]) as gate:
        seen: list[str] = []

        def read() -> None:
            with openai.OpenAI(base_url=url(gate.daemon), api_key=KEY) as client:
                for one in client.chat.completions.create(
                    model="up/m", messages=[{"role": "user", "content": "Hi"}], stream=True
                ):
                    seen.append(one.choices[0].delta.content or "")

        async def read_async() -> None:
            async with openai.AsyncOpenAI(base_url=url(gate.daemon), api_key=KEY) as client:
                async for one in await client.chat.completions.create(
                    model="up/m", messages=[{"role": "user", "content": "Hi"}], stream=True
                ):
                    seen.append(one.choices[0].delta.content or "")

        with pytest.raises(openai.APIError, match="in the middle of the answer"):
            await (read_async() if kind == "async" else asyncio.to_thread(read))
        assert seen == ["He", "llo"]


async def test_a_program_that_leaves_a_stream_is_noticed(kind: Kind) -> None:
    """`close()` within the loop ends the provider's connection, and the call is booked."""
    script = [reads(), says(HEAD + chunk("He")), stalls()]
    async with gateway([script]) as gate:

        def leave() -> None:
            with openai.OpenAI(base_url=url(gate.daemon), api_key=KEY) as client:
                stream = client.chat.completions.create(
                    model="up/m", messages=[{"role": "user", "content": "Hi"}], stream=True
                )
                next(iter(stream))
                stream.close()

        async def leave_async() -> None:
            async with openai.AsyncOpenAI(base_url=url(gate.daemon), api_key=KEY) as client:
                stream = await client.chat.completions.create(
                    model="up/m", messages=[{"role": "user", "content": "Hi"}], stream=True
                )
                await anext(aiter(stream))
                await stream.close()

        await (leave_async() if kind == "async" else asyncio.to_thread(leave))
        await gate.ups[0].hung_up.wait()
        assert (await gate.only_row()).call.ending == "client_left"
        assert gate.held() == 0


@pytest.mark.local
async def test_a_model_on_this_box_is_one_more_model_to_the_library(kind: Kind) -> None:
    """Chat, a stream with its usage, and a completion, by a real model in its worker."""
    local = f'[models.smol]\ngguf = "{real_model()}"\nprice = "free"\ncontext = 2048\n'
    async with (
        running(local + config([]), server="") as daemon,
        sdk(kind, url(daemon), KEY) as client,
    ):
        said = {"model": "local/smol", "max_tokens": 8, "temperature": 0}
        assert "local/smol" in await client.models()
        found = await client.call(CHAT, messages=HELLO, **said)
        text = found.choices[0].message.content
        assert text
        assert found.usage.completion_tokens <= 8
        options = {"include_usage": True}
        chunks = await client.call(
            CHAT, messages=HELLO, stream=True, stream_options=options, **said
        )
        streamed = [one.choices[0].delta.content or "" for one in chunks if one.choices]
        assert "".join(streamed) == text
        assert chunks[-1].usage.total_tokens == found.usage.total_tokens
        done = await client.call("completions.create", prompt="One, two,", **said)
        assert done.choices[0].text
        assert done.usage.completion_tokens <= 8
        path = daemon.server.daemon.ledger.path
        await until(lambda: [row.state for row in recent(path, limit=5)] == ["settled"] * 3)
        assert {row.output_tokens for row in recent(path, limit=5)} <= set(range(1, 9))
