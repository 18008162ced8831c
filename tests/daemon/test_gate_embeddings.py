"""Vectors of Google's and Bedrock's models for clients of OpenAI's, and what they cost."""

import struct
from base64 import b64decode
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import openai
import pytest
import pytest_asyncio
from clouds import ANN, Cloud, cloud
from gateway import KEY, Gateway
from shell import Reply, Running, running
from wire.recordings import recordings

AT = "/v1/projects/p/locations/global"
PATH = "/v1/embeddings"


def config(port: int) -> str:
    """Return a configuration with both clouds of Google's and Bedrock, at bundled prices."""
    return f"""
[providers.gemini]
kind = "gemini"
base_url = "http://127.0.0.1:{port}/v1beta"
api_key = "env:HOME"
[providers.vertex]
kind = "vertex"
base_url = "http://127.0.0.1:{port}{AT}"
api_key = "env:HOME"
[providers.bedrock]
kind = "bedrock"
base_url = "http://127.0.0.1:{port}"
api_key = "env:HOME"
[providers.anthropic]
kind = "anthropic"
api_key = "env:HOME"
[prices."gemini/small"]
input = 1
output = 0
context_window = 100
[prices."vertex/text-embedding-005"]
input = 1
output = 0
[prices."bedrock/*cohere.*"]
input = 1
output = 0
[prices."bedrock/some.*"]
input = 1
output = 0
{ANN}"""


@pytest_asyncio.fixture
async def both() -> AsyncIterator[tuple[Cloud, Running]]:
    """Yield Google and the gateway before it."""
    async with cloud() as one, running(config(one.port), server="") as daemon:
        yield one, daemon


def made(*vectors: list[float], **more: object) -> tuple[int, str, bytes]:
    """Return an answer with vectors."""
    body = {"embeddings": [{"values": one} for one in vectors], **more}
    return 200, "application/json", msgspec.json.encode(body)


async def embed(daemon: Running, model: str, said: object, **more: object) -> Reply:
    """Ask as a client of OpenAI's does."""
    body = {"model": model, "input": said, **more}
    return await Gateway(daemon, []).ask(msgspec.json.encode(body), PATH)


async def test_openai_s_library_gets_the_vectors_that_gemini_made(
    both: tuple[Cloud, Running],
) -> None:
    """In the order of the texts, as the base64 that it asks for by itself, or as numbers."""
    up, daemon = both
    up.answer = made([0.25, -1.5], [0.5, 2.0])
    url = f"http://127.0.0.1:{daemon.port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        found = await client.embeddings.create(
            model="gemini-embedding-001", input=["Hello, world!", "Bye"], dimensions=256
        )
    assert [one.embedding for one in found.data] == [[0.25, -1.5], [0.5, 2.0]]
    assert [one.index for one in found.data] == [0, 1]
    assert found.usage.prompt_tokens == found.usage.total_tokens > 0
    path, heads, _ = up.asked[-1]
    assert path == "/v1beta/models/gemini-embedding-001:batchEmbedContents"
    assert heads["x-goog-api-key"]
    up.answer = made([0.1, 2.0])
    reply = await embed(daemon, "gemini/gemini-embedding-001", "Hi", encoding_format="base64")
    (one,) = reply.json()["data"]
    assert b64decode(one["embedding"]) == struct.pack("<2f", 0.1, 2.0)
    reply = await embed(daemon, "gemini/gemini-embedding-001", "Hi", encoding_format="float")
    assert reply.json()["data"][0]["embedding"] == [0.1, 2.0]


async def test_it_is_asked_as_it_was_recorded(both: tuple[Cloud, Running]) -> None:
    """But for the spelling, of which Google takes either."""
    up, daemon = both
    (recorded,) = recordings("gemini/batchembed*.json")
    up.answer = (200, "application/json", recorded.body)
    texts = [one["content"]["parts"][0]["text"] for one in recorded.asked["requests"]]
    reply = await embed(daemon, "gemini/gemini-embedding-001", texts, dimensions=256)
    there = msgspec.json.encode(up.asked[-1][2]).replace(
        b"outputDimensionality", b"output_dimensionality"
    )
    assert msgspec.json.decode(there) == recorded.asked
    vectors = [one["values"] for one in msgspec.json.decode(recorded.body)["embeddings"]]
    assert [one["embedding"] for one in reply.json()["data"]] == vectors


async def test_tokens_that_gemini_does_not_tell_are_estimated_and_marked(
    both: tuple[Cloud, Running],
) -> None:
    """What is held is a token for each byte; the bill is near the truth, and not below it."""
    up, daemon = both
    up.answer = made([0.5])
    text = "Embeddings turn text into numeric vectors for similarity search. " * 20
    reply = await embed(daemon, "gemini/gemini-embedding-001", text)
    row = (await Gateway(daemon, []).row(reply)).call
    assert (row.ending, row.estimated) == ("answered", True)
    # Ten words and a full stop: OpenAI's tokenizers make eleven or so of it.
    assert 11 * 20 <= row.input_total < len(text) / 2
    assert reply.json()["usage"]["prompt_tokens"] == row.input_total
    assert row.cost_nanousd == row.input_total * 150
    up.answer = made([0.5], usageMetadata={"promptTokenCount": 7})
    reply = await embed(daemon, "gemini/gemini-embedding-001", text)
    row = (await Gateway(daemon, []).row(reply)).call
    assert (row.input_total, row.estimated, row.cost_nanousd) == (7, False, 1050)


@pytest.mark.parametrize(
    ("model", "text"),
    [("small", "Vectors of texts. " * 500), ("gemini-embedding-001", "\n" * 9999)],
)
async def test_an_estimate_never_passes_what_was_held(
    both: tuple[Cloud, Running], model: str, text: str
) -> None:
    """Google cuts a text at the model's window; what we guess of it is nobody's overrun."""
    up, daemon = both
    up.answer = made([0.5])
    reply = await embed(daemon, f"gemini/{model}", text)
    found = await Gateway(daemon, []).row(reply)
    assert found.call.estimated
    assert 0 < found.call.cost_nanousd <= found.call.hold_nanousd
    assert found.call.overrun_nanousd == 0
    if model == "small":
        assert found.call.input_total == 100


@pytest.mark.parametrize(
    ("said", "there", "dropped"),
    [
        ("search_query", "RETRIEVAL_QUERY", None),
        ("CODE_RETRIEVAL_QUERY", "CODE_RETRIEVAL_QUERY", None),
        ("clustering", "CLUSTERING", None),
        ("anything", None, "input_type"),
    ],
)
async def test_what_vectors_are_for_is_said_in_google_s_words(
    both: tuple[Cloud, Running], said: str, there: str | None, dropped: str | None
) -> None:
    """Clients say it as they do for Cohere; a word that Google does not have is named."""
    up, daemon = both
    up.answer = made([0.5])
    reply = await embed(daemon, "gemini/gemini-embedding-001", "Hi", input_type=said)
    assert reply.status == 200, reply.body
    assert up.asked[-1][2]["requests"][0].get("taskType") == there
    assert reply.headers.get("x-tollway-dropped") == dropped


async def test_vertex_is_asked_as_its_models_want_it(both: tuple[Cloud, Running]) -> None:
    """Gemini's by batches with options of their own, older ones by `predict`, which counts."""
    up, daemon = both
    up.answer = made([0.5], [1.5], usageMetadata={"promptTokenCount": 4})
    more = {"dimensions": 64, "input_type": "query"}
    reply = await embed(daemon, "vertex/gemini-embedding-001", ["a", "b"], **more)
    assert reply.status == 200, reply.body
    path, _, body = up.asked[-1]
    assert path == f"{AT}/publishers/google/models/gemini-embedding-001:batchEmbedContents"
    options = {"outputDimensionality": 64, "taskType": "RETRIEVAL_QUERY"}
    assert body["requests"] == [
        {"content": {"parts": [{"text": text}]}, "embedContentConfig": options} for text in "ab"
    ]
    told: list[dict[str, Any]] = [
        {"embeddings": {"values": [0.5], "statistics": {"truncated": False, "token_count": 3}}},
        {"embeddings": {"values": [1.5], "statistics": {"token_count": 2.0}}},
    ]
    up.answer = (200, "application/json", msgspec.json.encode({"predictions": told}))
    reply = await embed(daemon, "vertex/text-embedding-005", ["a", "b"], **more)
    assert [one["embedding"] for one in reply.json()["data"]] == [[0.5], [1.5]]
    path, _, body = up.asked[-1]
    assert path == f"{AT}/publishers/google/models/text-embedding-005:predict"
    assert body == {
        "instances": [{"content": text, "task_type": "RETRIEVAL_QUERY"} for text in "ab"],
        "parameters": {"outputDimensionality": 64},
    }
    row = (await Gateway(daemon, []).row(reply)).call
    assert (row.input_total, row.estimated, row.cost_nanousd) == (5, False, 5000)


async def test_what_cannot_be_embedded_is_refused_before_it_is_sent(
    both: tuple[Cloud, Running],
) -> None:
    """More texts than Google takes at a time, and the tokens of another model."""
    up, daemon = both
    for said, word in ((["a"] * 101, "100 texts"), ([[1, 2]], "token ids")):
        reply = await embed(daemon, "gemini/gemini-embedding-001", said)
        assert (reply.status, reply.json()["error"]["param"]) == (400, "input")
        assert word in reply.json()["error"]["message"]
    assert not up.asked


async def test_an_answer_without_a_vector_for_each_text_is_none(
    both: tuple[Cloud, Running],
) -> None:
    """Whoever stores them by their place would store the wrong ones."""
    up, daemon = both
    up.answer = made([0.5])
    reply = await embed(daemon, "gemini/gemini-embedding-001", ["a", "b"])
    assert (reply.status, reply.json()["error"]["code"]) == (502, "upstream_garbage")
    up.answer = (200, "application/json", b'{"embeddings":[{"values":"?"}]}')
    assert (await embed(daemon, "gemini/gemini-embedding-001", "a")).status == 502
    error = b'{"error":{"code":400,"message":"No such model","status":"INVALID_ARGUMENT"}}'
    up.answer = (400, "application/json", error)
    reply = await embed(daemon, "gemini/gemini-embedding-001", "a")
    assert (reply.status, reply.json()["error"]["message"]) == (
        400,
        "The provider answered 400: No such model",
    )


TITAN = "bedrock/amazon.titan-embed-text-v2:0"


async def test_titan_is_asked_for_one_text_and_tells_its_tokens(
    both: tuple[Cloud, Running],
) -> None:
    """As Amazon's user guide has it; two texts would be two calls."""
    up, daemon = both
    told = {"embedding": [0.5, -1.0], "inputTextTokenCount": 5, "embeddingsByType": {"float": [1]}}
    up.answer = (200, "application/json", msgspec.json.encode(told))
    for said in ("Hi", ["Hi"]):
        reply = await embed(daemon, TITAN, said, dimensions=256)
        assert reply.json()["data"][0]["embedding"] == [0.5, -1.0]
        path, _, body = up.asked[-1]
        assert path.replace("%3A", ":") == "/model/amazon.titan-embed-text-v2:0/invoke"
        assert body == {"inputText": "Hi", "dimensions": 256}
    row = (await Gateway(daemon, []).row(reply)).call
    assert (row.input_total, row.estimated, row.cost_nanousd) == (5, False, 100)
    reply = await embed(daemon, TITAN, ["Hi", "Bye"])
    assert (reply.status, reply.json()["error"]["param"]) == (400, "input")
    reply = await embed(daemon, TITAN.replace("v2:0", "v1"), "Hi", dimensions=256)
    assert (reply.status, reply.json()["error"]["param"]) == (400, "dimensions")


@pytest.mark.parametrize(
    ("model", "more", "answer"),
    [
        ("cohere.embed-english-v3", {}, {"embeddings": [[0.5], [1.5]]}),
        (
            "us.cohere.embed-v4:0",
            {"embedding_types": ["float"], "output_dimension": 256},
            {"embeddings": {"float": [[0.5], [1.5]]}},
        ),
    ],
)
async def test_cohere_s_models_at_bedrock_are_asked_in_their_words(
    both: tuple[Cloud, Running], model: str, more: dict[str, Any], answer: dict[str, Any]
) -> None:
    """Their tokens stand in a header alone, so they are estimated."""
    up, daemon = both
    up.answer = (200, "application/json", msgspec.json.encode({"id": "x", **answer}))
    size = {"dimensions": 256} if "output_dimension" in more else {}
    reply = await embed(daemon, f"bedrock/{model}", ["a", "b"], **size)
    assert [one["embedding"] for one in reply.json()["data"]] == [[0.5], [1.5]]
    assert up.asked[-1][2] == {"texts": ["a", "b"], "input_type": "search_document", **more}
    assert (await Gateway(daemon, []).row(reply)).call.estimated


async def test_a_model_of_a_maker_whose_words_are_not_known_is_refused(
    both: tuple[Cloud, Running],
) -> None:
    """Each maker has a request of its own there."""
    up, daemon = both
    reply = await embed(daemon, "bedrock/some.embedding-v1", "Hi")
    assert (reply.status, reply.json()["error"]["param"]) == (400, "model")
    assert not up.asked


async def test_explain_knows_where_there_are_no_vectors(both: tuple[Cloud, Running]) -> None:
    """It said that a call would be sent, which is refused with 400."""
    _, daemon = both
    for model, words in (
        ("anthropic/claude-sonnet-4-5", "no endpoint for embeddings"),
        (TITAN, ""),
        ("gemini/gemini-embedding-001", ""),
    ):
        said = {"model": model, "key": "laptop", "tokens": 10, "endpoint": "embeddings"}
        reply = await daemon.ask("POST", "/control/explain", msgspec.json.encode(said), admin=True)
        found = reply.json()
        assert words in found["refused"] if words else found["refused"] == "", found
