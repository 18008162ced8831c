"""What clients give back of one provider's answers, on its way to another that refuses it."""

import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import openai
import pytest
import pytest_asyncio
from clouds import ANN, Cloud, cloud
from gateway import KEY, WHOLE, Gateway
from shell import Reply, Running, running
from wire.recordings import recordings

from tollway.providers.catalog import KINDS

TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SIGNED = {
    "candidates": [
        {
            "content": {
                "role": "model",
                "parts": [
                    {"text": "Hm.", "thought": True},
                    {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "c2ln"},
                ],
            },
            "finishReason": "STOP",
        }
    ],
    "usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 3},
}
STRICT = [name for name, kind in KINDS.items() if kind.refuses_back]


def config(port: int) -> str:
    """Return a configuration with Google, and all that refuse something."""
    tables = [
        f'[providers.{name}]\nkind = "{name}"\nbase_url = "http://127.0.0.1:{port}/v1"\n'
        'api_key = "env:HOME"\n'
        f'[prices."{name}/m"]\ninput = 1\noutput = 1\ncontext_window = 9000\n'
        for name in ("gemini", "deepseek", "openai", "vllm", *STRICT)
    ]
    return "\n".join([*tables, '[routes.strict]\nto = ["mistral/m"]\non_loss = "refuse"\n', ANN])


@pytest_asyncio.fixture
async def both() -> AsyncIterator[tuple[Cloud, Running]]:
    """Yield providers, and the gateway before them."""
    async with cloud() as one, running(config(one.port), server="") as daemon:
        yield one, daemon


async def ask(daemon: Running, model: str, *turns: dict[str, Any]) -> Reply:
    """Ask what a conversation leads to."""
    said = {"model": model, "messages": [{"role": "user", "content": "Hi"}, *turns]}
    return await Gateway(daemon, []).ask(msgspec.json.encode(said))


@pytest.mark.parametrize("kind", STRICT)
async def test_a_session_that_began_at_google_goes_on_elsewhere(
    both: tuple[Cloud, Running], kind: str
) -> None:
    """OpenAI's library gives an answer back as it was told; these fail the call for a field."""
    up, daemon = both
    up.answer = (200, "application/json", msgspec.json.encode(SIGNED))
    url = f"http://127.0.0.1:{daemon.port}/v1"
    turns: list[Any] = [{"role": "user", "content": "Hi"}]
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        made = await client.chat.completions.create(
            model="gemini/m", messages=turns, tools=[TOOL], reasoning_effort="low"
        )
        answer = made.choices[0].message
        turns.append(answer)
        assert answer.tool_calls
        turns.append({"role": "tool", "tool_call_id": answer.tool_calls[0].id, "content": "1"})
        up.answer = (200, "application/json", WHOLE)
        await client.chat.completions.create(model=f"{kind}/m", messages=turns, tools=[TOOL])
    user, called, told = up.asked[-1][2]["messages"]
    assert (user, told["content"]) == ({"role": "user", "content": "Hi"}, "1")
    refused = KINDS[kind].refuses_back
    assert not set(refused) & (called.keys() | called["tool_calls"][0].keys())
    assert called["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert ("reasoning_content" in called) == ("reasoning_content" not in refused)


async def test_thoughts_that_are_taken_out_are_named_and_all_else_stays(
    both: tuple[Cloud, Running],
) -> None:
    """Nothing is lost in silence; who refuses nothing gets what the client wrote."""
    up, daemon = both
    up.answer = (200, "application/json", WHOLE)
    turn = {"role": "assistant", "content": 'A "reasoning_content"', "reasoning_content": "Hm."}
    reply = await ask(daemon, "mistral/m", turn, {"role": "user", "content": "Go on"})
    assert reply.headers["x-tollway-dropped"] == "messages.reasoning_content"
    assert up.asked[-1][2]["messages"][1] == {"role": "assistant", "content": turn["content"]}
    reply = await ask(daemon, "deepseek/m", turn, {"role": "user", "content": "Go on"})
    assert "x-tollway-dropped" not in reply.headers
    assert up.asked[-1][2]["messages"][1] == turn
    refused = await ask(daemon, "strict", turn, {"role": "user", "content": "Go on"})
    assert (
        refused.status == 400 and "messages.reasoning_content" in refused.json()["error"]["message"]
    )


@pytest.mark.parametrize(
    ("turn", "there"),
    [
        ({"content": "A", "refusal": None, "annotations": []}, {"content": "A"}),
        ({"content": None, "refusal": "No."}, {"content": "No."}),
        ({"content": "A", "reasoning_content": None}, {"content": "A"}),
    ],
)
async def test_what_says_nothing_is_taken_out_without_a_word(
    both: tuple[Cloud, Running], turn: dict[str, Any], there: dict[str, Any]
) -> None:
    """OpenAI's own answers have a null and an empty list; a refusal is what was said instead."""
    up, daemon = both
    up.answer = (200, "application/json", WHOLE)
    reply = await ask(
        daemon, "mistral/m", {"role": "assistant", **turn}, {"role": "user", "content": "?"}
    )
    assert "x-tollway-dropped" not in reply.headers
    assert up.asked[-1][2]["messages"][1] == {"role": "assistant", **there}


async def test_a_file_and_a_seed_pass_in_mistral_s_shape(both: tuple[Cloud, Running]) -> None:
    """It answers 422 to those of OpenAI's library; all else of the call stays as it was."""
    up, daemon = both
    up.answer = (200, "application/json", WHOLE)
    url = "data:application/pdf;base64,JVBERi0="
    file = {"type": "file", "file": {"file_data": url, "filename": "a.pdf"}}
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{daemon.port}/v1", api_key=KEY, max_retries=0
    ) as client:
        await client.chat.completions.create(
            model="mistral/m",
            messages=[{"role": "user", "content": [{"type": "text", "text": "Hi"}, file]}],  # type: ignore[misc, list-item]
            seed=5,
            max_tokens=9,
        )
    document = {"type": "document_url", "document_url": url, "document_name": "a.pdf"}
    assert up.asked[-1][2] == {
        "model": "m",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, document]}],
        "random_seed": 5,
        "max_tokens": 9,
    }


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}])
async def test_a_turn_of_thoughts_alone_goes_with_them(
    both: tuple[Cloud, Running], content: dict[str, Any]
) -> None:
    """As of an answer that its limit cut off; Mistral refuses a turn that says nothing."""
    up, daemon = both
    up.answer = (200, "application/json", WHOLE)
    thought = {"role": "assistant", **content, "tool_calls": None, "reasoning_content": "Hm"}
    reply = await ask(daemon, "mistral/m", thought, {"role": "user", "content": "?"})
    assert reply.headers["x-tollway-dropped"] == "messages.reasoning_content"
    assert [turn["role"] for turn in up.asked[-1][2]["messages"]] == ["user", "user"]


@pytest.mark.parametrize(
    "turn",
    [
        b'"reasoning_content"',
        b'{"role": "user", "content": [ {"type": "text", "text": "reasoning"} ]}',
        b'{"role": "user",  "content": {"images": "refusal"}}',
    ],
)
async def test_a_turn_that_has_no_such_field_passes_as_it_is(
    both: tuple[Cloud, Running], turn: bytes
) -> None:
    """The bytes pass as they came, also those that are the provider's to refuse."""
    up, daemon = both
    up.answer = (400, "application/json", b'{"message":"no"}')
    body = b'{"model":"mistral/m","max_tokens":9,"messages":[' + turn + b"]}"
    assert (await Gateway(daemon, []).ask(body)).status == 400
    assert up.raw == body.replace(b"mistral/m", b"m")


async def test_claude_s_clients_carry_no_proof_of_google_s_there(
    both: tuple[Cloud, Running],
) -> None:
    """A call's signature is written for Google alone; a translated call failed for it, too."""
    up, daemon = both
    up.answer = (200, "application/json", msgspec.json.encode(SIGNED))
    gate = Gateway(daemon, [])
    said: dict[str, Any] = {
        "model": "gemini/m",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
    }
    content = (await gate.ask(msgspec.json.encode(said), "/v1/messages")).json()["content"]
    (called,) = [block for block in content if block["type"] == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": called["id"], "content": "1"}
    said["messages"] += [
        {"role": "assistant", "content": content},
        {"role": "user", "content": [result]},
    ]
    up.answer = (200, "application/json", WHOLE)
    for kind in STRICT:
        reply = await gate.ask(msgspec.json.encode(said | {"model": f"{kind}/m"}), "/v1/messages")
        assert reply.status == 200, reply.body
        assert b"extra_content" not in up.raw and b"tool_calls" in up.raw


async def test_a_stream_of_mistral_s_has_its_usage_though_it_cannot_be_asked_for(
    both: tuple[Cloud, Running],
) -> None:
    """It answers 422 to what agents send with every stream, and tells its usage all the same."""
    up, daemon = both
    (recorded,) = recordings("mistral/chat_stream_cache*.json")
    up.answer = (200, "text/event-stream", recorded.body)
    url = f"http://127.0.0.1:{daemon.port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="mistral/m",
            messages=[{"role": "user", "content": "Hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        usage = [chunk.usage async for chunk in stream if chunk.usage]
    assert usage[-1].completion_tokens > 0
    assert "stream_options" not in up.asked[-1][2] and up.asked[-1][2]["stream"] is True


async def test_calls_of_others_have_ids_that_mistral_bears(both: tuple[Cloud, Running]) -> None:
    """It answers 400 to any but nine letters or digits; its own stay."""
    up, daemon = both
    up.answer = (200, "application/json", WHOLE)
    ids = ("call_abcdefghijklmnop", "a1B2c3D4e")
    calls = [
        {"id": one, "type": "function", "function": {"name": "f", "arguments": "{}"}} for one in ids
    ]
    results = [{"role": "tool", "tool_call_id": one, "content": "1"} for one in ids]
    said = {"role": "assistant", "content": "So", "tool_calls": None}
    turns: list[dict[str, Any]] = [{"role": "assistant", "tool_calls": calls}, *results, said]
    reply = await ask(daemon, "mistral/m", *turns)
    assert "x-tollway-dropped" not in reply.headers
    _, called, *told, last = up.asked[-1][2]["messages"]
    assert last == said
    there = [one["id"] for one in called["tool_calls"]]
    assert re.fullmatch("[a-zA-Z0-9]{9}", there[0]) and there[1] == ids[1]
    assert [one["tool_call_id"] for one in told] == there
    await ask(daemon, "groq/m", *turns)
    assert up.asked[-1][2]["messages"][1:] == turns


async def test_calls_of_vllm_have_ids_that_openai_bears(both: tuple[Cloud, Running]) -> None:
    """It refuses those of more than 40 letters; vLLM gives such, and gets its own as they are."""
    up, daemon = both
    up.answer = (200, "application/json", WHOLE)
    ids = ("chatcmpl-tool-0123456789abcdef0123456789abcdef", "call_1")
    calls = [
        {"id": one, "type": "function", "function": {"name": "f", "arguments": "{}"}} for one in ids
    ]
    results = [{"role": "tool", "tool_call_id": one, "content": "1"} for one in ids]
    turns: list[dict[str, Any]] = [{"role": "assistant", "tool_calls": calls}, *results]
    await ask(daemon, "openai/m", *turns)
    _, called, *told = up.asked[-1][2]["messages"]
    there = [one["id"] for one in called["tool_calls"]]
    assert len(there[0]) == 40 and there[1] == ids[1]
    assert [one["tool_call_id"] for one in told] == there
    await ask(daemon, "vllm/m", *turns)
    assert up.asked[-1][2]["messages"][1:] == turns
