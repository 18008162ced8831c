"""Embeddings for Google's clients, from Google's models and from others', and what they cost."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import msgspec
import pytest
import pytest_asyncio
from clouds import ANN, Cloud, cloud
from gateway import KEY, Gateway
from google import genai
from google.genai import types
from shell import Reply, Running, running

AT = "/v1/projects/p/locations/global"
COHERE = {"embeddings": {"float": [[0.5]]}, "meta": {"billed_units": {"input_tokens": 3}}}


def config(port: int) -> str:
    """Return a configuration with Google's clouds, Cohere, and OpenAI's API."""
    return f"""
[providers.gemini]
kind = "gemini"
base_url = "http://127.0.0.1:{port}/v1beta"
api_key = "env:HOME"
[providers.vertex]
kind = "vertex"
base_url = "http://127.0.0.1:{port}{AT}"
api_key = "env:HOME"
[providers.cohere]
kind = "cohere"
base_url = "http://127.0.0.1:{port}"
api_key = "env:HOME"
[providers.mistral]
kind = "mistral"
base_url = "http://127.0.0.1:{port}/v1"
api_key = "env:HOME"
[providers.openai]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
api_key = "env:HOME"
[providers.anthropic]
kind = "anthropic"
base_url = "http://127.0.0.1:{port}/v1"
api_key = "env:HOME"
[routes.embed]
to = ["gemini/gemini-embedding-001"]
[prices."gemini/other"]
input = 1
output = 0
context_window = 1000
[prices."cohere/*"]
input = 1
output = 0
[prices."vertex/text-embedding-005"]
input = 1
output = 0
[prices."mistral/codestral-embed"]
input = 1
output = 0
{ANN}"""


@pytest_asyncio.fixture
async def both() -> AsyncIterator[tuple[Cloud, Running]]:
    """Yield a cloud and the gateway before it."""
    async with cloud() as one, running(config(one.port), server="") as daemon:
        yield one, daemon


def said(**body: object) -> tuple[int, str, bytes]:
    """Return an answer."""
    return 200, "application/json", msgspec.json.encode(body)


def vectors(*values: float) -> list[dict[str, Any]]:
    """Return vectors as OpenAI gives them, in no order."""
    found = [{"index": place, "embedding": [one]} for place, one in enumerate(values)]
    return found[::-1]


async def embed(
    daemon: Running, model: str, *texts: str, **more: Any
) -> types.EmbedContentResponse:
    """Ask as Google's library does."""
    url = f"http://127.0.0.1:{daemon.port}"
    async with httpx2.AsyncClient() as over:  # its own choice, aiohttp, makes it warn
        options = types.HttpOptions(base_url=url, httpx_async_client=over)
        client = genai.Client(api_key=KEY, http_options=options).aio
        settings = types.EmbedContentConfig(**more)
        return await client.models.embed_content(model=model, contents=list(texts), config=settings)


async def ask(daemon: Running, model: str, body: object, method: str) -> Reply:
    """Ask as curl does."""
    path = f"/v1beta/models/{model}:{method}"
    return await Gateway(daemon, []).ask(msgspec.json.encode(body), path)


def content(*texts: str) -> dict[str, Any]:
    """Return a content of a part for each text."""
    return {"content": {"parts": [{"text": text} for text in texts]}}


@pytest.mark.parametrize("model", ["gemini/gemini-embedding-001", "embed", "gemini-embedding-001"])
async def test_a_batch_passes_to_google_but_for_the_model_s_name(
    both: tuple[Cloud, Running], model: str
) -> None:
    """It was a 404; the name stands in each request too, and Google wants it to be the URL's."""
    up, daemon = both
    up.answer = said(
        embeddings=[{"values": [0.5]}, {"values": [1.5]}], usageMetadata={"promptTokenCount": 4}
    )
    found = await embed(
        daemon, model, "a", "b", task_type="CLUSTERING", title="T", output_dimensionality=64
    )
    assert found.embeddings and [one.values for one in found.embeddings] == [[0.5], [1.5]]
    path, heads, body = up.asked[-1]
    assert path == "/v1beta/models/gemini-embedding-001:batchEmbedContents"
    assert heads["x-goog-api-key"] != KEY
    options = {"taskType": "CLUSTERING", "title": "T", "outputDimensionality": 64}
    named = {"model": "models/gemini-embedding-001", **options}
    assert [{**one, "content": None} for one in body["requests"]] == [
        {**named, "content": None}
    ] * 2
    assert [one["content"]["parts"] for one in body["requests"]] == [
        [{"text": "a"}],
        [{"text": "b"}],
    ]
    row = (await Gateway(daemon, []).only_row()).call
    assert (row.dialect, row.endpoint, row.input_total) == ("gemini", "embeddings", 4)
    assert (row.cost_nanousd, row.estimated) == (600, False)


async def test_one_text_passes_byte_by_byte(both: tuple[Cloud, Running]) -> None:
    """By a method of its own; what it answers is read for its tokens, or they are estimated."""
    up, daemon = both
    up.answer = said(embedding={"values": [0.5]}, anything=1)
    body = {**content("Hello, world!"), "anything": [1, {"more": True}]}
    reply = await ask(daemon, "embed", body, "embedContent")
    assert reply.body == up.answer[2]
    assert up.asked[-1][0] == "/v1beta/models/gemini-embedding-001:embedContent"
    assert up.raw == msgspec.json.encode(body)
    row = (await Gateway(daemon, []).row(reply)).call
    assert row.ending == "answered" and row.estimated and row.cost_nanousd == row.input_total * 150


async def test_a_picture_passes_and_is_held_by_the_window(both: tuple[Cloud, Running]) -> None:
    """Its bytes say nothing of its tokens; where nobody tells these, it is billed what was held."""
    up, daemon = both
    up.answer = said(embedding={"values": [0.5]})
    picture = {"parts": [{"inlineData": {"mimeType": "image/png", "data": "aGk="}}, {"text": "A"}]}
    reply = await ask(daemon, "gemini/other", {"content": picture}, "embedContent")
    assert reply.status == 200, reply.body
    row = (await Gateway(daemon, []).row(reply)).call
    assert row.cost_nanousd == row.hold_nanousd == 1_000_000
    for other in ("vertex/gemini-embedding-001", "openai/text-embedding-3-small"):
        refused = await ask(daemon, other, {"content": picture}, "embedContent")
        assert refused.status == 400
        assert "not of pictures" in refused.json()["error"]["message"]


async def test_openai_s_vectors_come_in_the_order_of_the_texts(both: tuple[Cloud, Running]) -> None:
    """What its API has no word for is named."""
    up, daemon = both
    up.answer = said(data=vectors(0.5, 1.5), usage={"prompt_tokens": 7, "total_tokens": 7})
    found = await embed(daemon, "openai/text-embedding-3-small", "a", "b", output_dimensionality=64)
    assert found.embeddings and [one.values for one in found.embeddings] == [[0.5], [1.5]]
    path, _, body = up.asked[-1]
    assert path == "/v1/embeddings"
    assert body == {
        "model": "text-embedding-3-small",
        "input": ["a", "b"],
        "encoding_format": "float",
        "dimensions": 64,
    }
    up.answer = said(data=[{"embedding": "AAAAPw=="}], usage={"prompt_tokens": 7})
    one = {**content("a"), "taskType": "RETRIEVAL_QUERY", "title": "T"}
    reply = await ask(daemon, "openai/text-embedding-3-small", one, "embedContent")
    assert reply.json() == {
        "embedding": {"values": [0.5]},
        "usageMetadata": {"promptTokenCount": 7},
    }
    assert reply.headers["x-tollway-dropped"] == "title, taskType"
    assert (await Gateway(daemon, []).row(reply)).call.input_total == 7


@pytest.mark.parametrize(
    ("purpose", "there", "dropped"),
    [
        ("RETRIEVAL_QUERY", "search_query", None),
        ("RETRIEVAL_DOCUMENT", "search_document", None),
        ("CLUSTERING", "clustering", None),
        ("SEMANTIC_SIMILARITY", "search_document", "taskType"),
        ("TASK_TYPE_UNSPECIFIED", "search_document", None),
    ],
)
async def test_cohere_is_told_what_they_are_for_in_its_words(
    both: tuple[Cloud, Running], purpose: str, there: str, dropped: str | None
) -> None:
    """It refuses Google's."""
    up, daemon = both
    up.answer = said(**COHERE)
    body = {"requests": [{**content("a"), "task_type": purpose}]}
    reply = await ask(daemon, "cohere/embed-v4.0", body, "batchEmbedContents")
    assert reply.json() == {
        "embeddings": [{"values": [0.5]}],
        "usageMetadata": {"promptTokenCount": 3},
    }
    assert up.asked[-1][2]["input_type"] == there
    assert reply.headers.get("x-tollway-dropped") == dropped


async def test_vertex_is_asked_in_its_own_words(both: tuple[Cloud, Running]) -> None:
    """It speaks Google's dialect, and asks for vectors otherwise than AI Studio."""
    up, daemon = both
    up.answer = said(embeddings=[{"values": [0.5]}], usageMetadata={"promptTokenCount": 4})
    body = {**content("a"), "taskType": "CLUSTERING", "model": "models/anything"}
    reply = await ask(daemon, "vertex/gemini-embedding-001", body, "embedContent")
    assert reply.json()["embedding"] == {"values": [0.5]}
    path, _, there = up.asked[-1]
    assert path == f"{AT}/publishers/google/models/gemini-embedding-001:batchEmbedContents"
    assert there == {
        "requests": [{**content("a"), "embedContentConfig": {"taskType": "CLUSTERING"}}]
    }


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"requests": []}, "must be an array"),
        ({"requests": {}}, "must be an array"),
        ({"requests": [1]}, "vector of one text"),
        ({}, "vector of one text"),
        (content(), "vector of one text"),
        (content("a", "b"), "vector of one text"),
        ({"requests": [content("a"), {**content("b"), "title": "T"}]}, "one kind at a time"),
    ],
)
async def test_what_no_other_target_can_be_asked_is_refused(
    both: tuple[Cloud, Running], body: object, words: str
) -> None:
    """A vector of something else than what was given is worse than none."""
    up, daemon = both
    reply = await ask(daemon, "openai/text-embedding-3-small", body, "batchEmbedContents")
    assert reply.status == 400 and words in reply.json()["error"]["message"]
    assert not up.asked


async def test_a_request_with_two_models_goes_nowhere(both: tuple[Cloud, Running]) -> None:
    """Which of them Google would read is not said; nor has Anthropic any vectors."""
    up, daemon = both
    gate = Gateway(daemon, [])
    path = "/v1beta/models/embed:batchEmbedContents"
    twice = b'{"requests":[{"model":"a","content":{"parts":[{"text":"a"}]},"model":"b"}]}'
    assert (await gate.ask(twice, path)).status == 400
    refused = await ask(daemon, "claude-haiku-4-5", content("a"), "embedContent")
    assert "no endpoint for embeddings" in refused.json()["error"]["message"]
    assert not up.asked


@pytest.mark.parametrize("cuts", [True, False])
async def test_a_title_and_what_becomes_of_long_texts_reach_vertex(
    both: tuple[Cloud, Running], cuts: bool
) -> None:
    """They were left out, and that nothing is to be cut short was not even named."""
    up, daemon = both
    up.answer = said(embeddings=[{"values": [0.5]}], usageMetadata={"promptTokenCount": 4})
    body = {**content("a"), "title": "T", "autoTruncate": cuts}
    reply = await ask(daemon, "vertex/gemini-embedding-001", body, "embedContent")
    assert "x-tollway-dropped" not in reply.headers
    (there,) = up.asked[-1][2]["requests"]
    assert there["embedContentConfig"] == {"title": "T", "autoTruncate": cuts}
    up.answer = said(predictions=[{"embeddings": {"values": [0.5], "statistics": {}}}])
    reply = await ask(daemon, "vertex/text-embedding-005", body, "embedContent")
    assert reply.json()["embedding"] == {"values": [0.5]}
    assert "x-tollway-dropped" not in reply.headers
    assert up.asked[-1][2] == {
        "instances": [{"content": "a", "title": "T"}],
        "parameters": {"autoTruncate": cuts},
    }


async def test_others_are_told_of_long_texts_where_they_know_of_them(
    both: tuple[Cloud, Running],
) -> None:
    """Cohere does; OpenAI's form has no word for it, and none for titles."""
    up, daemon = both
    body = {**content("a"), "title": "T", "autoTruncate": False, "outputDimensionality": 64}
    up.answer = said(**COHERE)
    reply = await ask(daemon, "cohere/embed-v4.0", body, "embedContent")
    assert up.asked[-1][2]["truncate"] == "NONE"
    assert reply.headers["x-tollway-dropped"] == "title"
    up.answer = said(data=[{"embedding": [0.5]}], usage={"prompt_tokens": 7})
    reply = await ask(daemon, "mistral/codestral-embed", body, "embedContent")
    assert reply.headers["x-tollway-dropped"] == "title, autoTruncate"
    assert up.asked[-1][2] == {
        "model": "codestral-embed",
        "input": ["a"],
        "encoding_format": "float",
        "output_dimension": 64,
    }


async def test_mistral_is_told_how_long_vectors_are_to_be_in_its_word(
    both: tuple[Cloud, Running],
) -> None:
    """It answers 422 to OpenAI's; all else of the body stays, and who knows the word is obeyed."""
    up, daemon = both
    up.answer = said(data=[{"embedding": [0.5]}], usage={"prompt_tokens": 7})
    gate = Gateway(daemon, [])
    rest = b'"input": "a", "output_dtype":"int8", "dimensions" : 64'
    body = b'{"model":"mistral/codestral-embed", %s}'
    reply = await gate.ask(body % rest, "/v1/embeddings")
    assert reply.status == 200, reply.body
    wanted = (
        b'{"model":"codestral-embed", "input": "a", "output_dtype":"int8", "output_dimension":64}'
    )
    assert up.raw == wanted
    await gate.ask(body % b'"input":"a","dimensions":9,"output_dimension":64', "/v1/embeddings")
    assert up.asked[-1][2]["dimensions"] == 9
