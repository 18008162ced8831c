"""Cohere behind the gateway: vectors for clients of OpenAI's, and its errors and bills."""

import struct
from base64 import b64decode
from collections.abc import AsyncIterator

import msgspec
import openai
import pytest_asyncio
from clouds import ANN, Cloud, cloud
from gateway import KEY, Gateway
from shell import Running, running
from wire.recordings import recordings

RECORDED = {one.id.rpartition("/")[2]: one for one in recordings("cohere/*.json")}
VECTORS = RECORDED["v2-embed_embed-v4-0"]


def config(port: int) -> str:
    """Return a configuration with Cohere, whose prices are the bundled ones."""
    return f"""
[providers.cohere]
kind = "cohere"
base_url = "http://127.0.0.1:{port}"
api_key = "env:HOME"
{ANN}"""


@pytest_asyncio.fixture
async def both() -> AsyncIterator[tuple[Cloud, Running]]:
    """Yield Cohere and the gateway before it."""
    async with cloud() as one, running(config(one.port), server="") as daemon:
        yield one, daemon


async def test_vectors_are_those_that_cohere_made(both: tuple[Cloud, Running]) -> None:
    """OpenAI's library asks for base64 by itself, and gets the same numbers either way."""
    up, daemon = both
    up.answer = (200, "application/json", VECTORS.body)
    made = msgspec.json.decode(VECTORS.body)["embeddings"]["float"][0]
    url = f"http://127.0.0.1:{daemon.port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        found = await client.embeddings.create(
            model="embed-v4.0", input=["Hello, world!"], dimensions=256,
            extra_body={"input_type": "search_query"},
        )  # fmt: skip
        assert len(found.data[0].embedding) == len(made)
        assert max(abs(a - b) for a, b in zip(found.data[0].embedding, made, strict=True)) < 1e-6
        assert (found.usage.prompt_tokens, found.model) == (4, "embed-v4.0")
    path, _, body = up.asked[-1]
    assert (path, body["texts"], body["input_type"]) == (
        "/v2/embed",
        ["Hello, world!"],
        "search_query",
    )
    assert (body["output_dimension"], body["embedding_types"]) == (256, ["float"])
    gate = Gateway(daemon, [])
    said = {"model": "cohere/embed-v4.0", "input": "Hi", "encoding_format": "base64", "user": "u"}
    reply = await gate.ask(msgspec.json.encode(said), "/v1/embeddings")
    vector = b64decode(reply.json()["data"][0]["embedding"])
    assert (
        struct.unpack(f"<{len(made)}f", vector)[0]
        == struct.unpack("<f", struct.pack("<f", made[0]))[0]
    )
    assert reply.headers["x-tollway-dropped"] == "user"
    row = await gate.row(reply)
    assert (row.call.input_total, row.call.cost_nanousd) == (4, 480)
    assert (row.call.ending, row.call.estimated) == ("answered", False)


async def test_token_ids_of_another_model_are_refused(both: tuple[Cloud, Running]) -> None:
    """They would be embedded as something that nobody wrote."""
    up, daemon = both
    said = {"model": "cohere/embed-v4.0", "input": [[1, 2], [3]]}
    reply = await Gateway(daemon, []).ask(msgspec.json.encode(said), "/v1/embeddings")
    assert (reply.status, reply.json()["error"]["param"]) == (400, "input")
    assert not up.asked


async def test_its_errors_keep_their_words(both: tuple[Cloud, Running]) -> None:
    """A refusal is the caller's, a refused key the gateway's."""
    up, daemon = both
    gate = Gateway(daemon, [])
    said = {"model": "command-a-03-2025", "messages": [{"role": "user", "content": "Hi"}]}
    up.answer = (400, "application/json", RECORDED["v2-chat_err400_command-a-03-2025"].body)
    reply = await gate.ask(msgspec.json.encode(said))
    assert (reply.status, b"too many tokens" in reply.body) == (400, True)
    up.answer = (401, "application/json", RECORDED["v2-chat_err401_command-a-03-2025"].body)
    reply = await gate.ask(msgspec.json.encode(said))
    assert (reply.status, reply.json()["error"]["code"]) == (502, "upstream_auth")
    row = await gate.row(reply)
    assert (row.call.ending, row.call.cost_nanousd) == ("upstream_refused", 0)
