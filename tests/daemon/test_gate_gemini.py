"""Gemini behind the gateway: service tiers of its own, and what they cost."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from clouds import ANN, Cloud, cloud
from gateway import Gateway
from shell import Reply, running

ASK = "/v1beta/models/gemini/gemini-2.5-flash:generateContent"


def config(port: int, prices: str = "") -> str:
    """Return a configuration with Gemini, whose prices are the bundled ones, and a hard budget."""
    return f"""
[providers.gemini]
kind = "gemini"
base_url = "http://127.0.0.1:{port}/v1beta"
api_key = "env:HOME"
{prices}
{ANN}"""


PRICED = """
[prices."gemini/*"]
input = 1
output = 2
service_tiers = { priority = 2.0, flex = 0.5 }
"""


@pytest_asyncio.fixture
async def google() -> AsyncIterator[Cloud]:
    """Yield a cloud."""
    async with cloud() as one:
        yield one


def said(**used: object) -> tuple[int, str, bytes]:
    """Return an answer of 1,000 tokens in and 100 out."""
    usage = {"promptTokenCount": 1000, "candidatesTokenCount": 100, "totalTokenCount": 1100, **used}
    content = {"role": "model", "parts": [{"text": "Hi"}]}
    body = {
        "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
        "usageMetadata": usage,
    }
    return 200, "application/json", msgspec.json.encode(body)


async def generate(gate: Gateway, **more: object) -> Reply:
    """Ask as a client of Google's does."""
    body: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}], **more}
    body.setdefault("generationConfig", {"maxOutputTokens": 200})
    return await gate.ask(msgspec.json.encode(body), ASK)


@pytest.mark.parametrize("spelling", ["serviceTier", "service_tier"])
async def test_a_tier_without_a_price_is_refused_while_a_budget_holds_back(
    google: Cloud, spelling: str
) -> None:
    """Priority costs nearly twice as much: it went out held, and billed, at the standard price."""
    google.answer = said(serviceTier="priority")
    async with running(config(google.port), server="") as daemon:
        gate = Gateway(daemon, [])
        reply = await generate(gate, **{spelling: "priority"})
        assert (reply.status, google.asked) == (402, [])
        assert "service tier `priority`" in reply.json()["error"]["message"]
        for tier in ("standard", "flex", "unspecified", "STANDARD"):
            reply = await generate(gate, **{spelling: tier})
            assert reply.status == 200, reply.body


@pytest.mark.parametrize(
    ("asked", "used", "cost"),
    [
        ("priority", {"serviceTier": "priority"}, 2_400_000),
        ("PRIORITY", {"serviceTier": "PRIORITY"}, 2_400_000),
        ("priority", {"serviceTier": "standard"}, 1_200_000),
        ("flex", {"trafficType": "ON_DEMAND_FLEX"}, 600_000),
        ("priority", {"trafficType": "ON_DEMAND_PRIORITY"}, 2_400_000),
        ("priority", {"trafficType": "ON_DEMAND"}, 1_200_000),
        ("flex", {}, 1_200_000),
        ("", {}, 1_200_000),
    ],
)
async def test_an_answer_is_billed_at_the_tier_that_it_names(
    google: Cloud, asked: str, used: dict[str, object], cost: int
) -> None:
    """AI Studio names it in one field, Vertex in another."""
    google.answer = said(**used)
    async with running(config(google.port, PRICED), server="") as daemon:
        gate = Gateway(daemon, [])
        reply = await generate(gate, **({"serviceTier": asked} if asked else {}))
        assert reply.status == 200, reply.body
        assert (await gate.row(reply)).call.cost_nanousd == cost


@pytest.mark.parametrize(
    ("path", "model"), [("/v1/chat/completions", "gpt"), ("/v1/messages", "claude")]
)
async def test_a_tier_is_asked_for_in_google_s_words(google: Cloud, path: str, model: str) -> None:
    """OpenAI's `flex` is Google's; what leaves the choice to the provider is not said."""
    google.answer = said(serviceTier="flex")
    turn = [{"role": "user", "content": "Hi"}]
    body = {"model": "gemini/gemini-2.5-flash", "messages": turn, "max_tokens": 200}
    async with running(config(google.port, PRICED), server="") as daemon:
        gate = Gateway(daemon, [])
        for tier, there in (("flex", "flex"), ("priority", "priority"), ("auto", None)):
            reply = await gate.ask(msgspec.json.encode(body | {"service_tier": tier}), path)
            assert reply.status == 200, reply.body
            assert google.asked[-1][2].get("serviceTier") == there
            assert "x-tollway-dropped" not in reply.headers
        reply = await gate.ask(msgspec.json.encode(body | {"service_tier": "scale"}), path)
        assert reply.headers["x-tollway-dropped"] == "service_tier"


@pytest.mark.parametrize(
    ("model", "queries", "searches"),
    [
        ("gemini-3.5-flash", ["a", "b", "a", ""], 2),
        ("gemini-2.5-flash", ["a", "b"], 1),
        ("gemini-3.5-flash", [], 0),
    ],
)
async def test_searches_that_google_made_are_billed(
    google: Cloud, model: str, queries: list[str], searches: int
) -> None:
    """Each query from the third generation on, before that a prompt that was grounded by any."""
    status, kind, body = said()
    answer = msgspec.json.decode(body) | {"modelVersion": model}
    answer["candidates"][0]["groundingMetadata"] = {"webSearchQueries": queries}
    google.answer = (status, kind, msgspec.json.encode(answer))
    prices = PRICED.replace("output = 2", "output = 2\nsearch = 0.014")
    free = '[routes.r]\nto = ["gemini/gemini-2.5-flash"]\nallow_unbounded = true\n'
    async with running(config(google.port, free + prices), server="") as daemon:
        gate = Gateway(daemon, [])
        turn = {"role": "user", "parts": [{"text": "Hi"}]}
        asked = {"contents": [turn], "tools": [{"googleSearch": {}}]}
        reply = await gate.ask(
            msgspec.json.encode(asked), ASK.replace("gemini/gemini-2.5-flash", "r")
        )
        assert reply.status == 200, reply.body
        row = await gate.row(reply)
        assert row.call.cost_nanousd == 1_200_000 + searches * 14_000_000


async def test_when_to_come_again_is_told_as_each_client_reads_it(google: Cloud) -> None:
    """Google says it within its error; clients of others read a header, Google's own no other."""
    wait = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.074824224s"}
    error = {"code": 429, "message": "Slower", "status": "RESOURCE_EXHAUSTED", "details": [wait]}
    google.answer = (429, "application/json", msgspec.json.encode({"error": error}))
    async with running(config(google.port), server="") as daemon:
        gate = Gateway(daemon, [])
        reply = await generate(gate)
        assert (reply.status, reply.headers["retry-after"]) == (429, "35")
        told = msgspec.json.decode(reply.body)["error"]
        assert told["status"] == "RESOURCE_EXHAUSTED"
        (delay,) = [one["retryDelay"] for one in told["details"] if "retryDelay" in one]
        assert delay == "34.075s"
        body = {"model": "gemini/gemini-2.5-pro", "messages": [{"role": "user", "content": "Hi"}]}
        reply = await gate.ask(msgspec.json.encode({**body, "max_tokens": 9}))
        assert (reply.status, reply.headers["retry-after"]) == (429, "35")


STREAM = ASK.replace("generateContent", "streamGenerateContent?alt=sse")
FULL = b'{\n  "error": {\n    "code": 503,\n    "message": "Full"\n  }\n}\n'
HALF = b'data: {"candidates":[{"content":{"parts":[{"text":"Ha"}]},"index":0}]}\r\n\r\n'


async def streamed(google: Cloud, body: bytes, path: str, **asked: object) -> Reply:
    """Return what a client is told of a stream."""
    google.answer = (200, "text/event-stream", body)
    async with running(config(google.port, PRICED), server="") as daemon:
        return await Gateway(daemon, []).ask(msgspec.json.encode(asked), path)


async def test_a_broken_stream_ends_in_a_chunk_that_is_nothing_but_the_error(google: Cloud) -> None:
    """By which Google's library for JavaScript knows it; an event is a part of the answer to it."""
    said = [{"role": "user", "parts": [{"text": "Hi"}]}]
    reply = await streamed(google, HALF, STREAM, contents=said)
    *_, event, bare, end = reply.body.split(b"\r\n\r\n")[:-1]
    size, _, error = bare.removeprefix(b"\r\n").partition(b"\r\n")
    assert end == b"\r\n0"
    assert event.endswith(b"data: " + error)
    assert int(size, 16) == len(error) + 4
    assert msgspec.json.decode(error)["error"]["details"][0]["reason"] == "UPSTREAM_BROKE"


@pytest.mark.parametrize(
    ("before", "status"), [(b"", 503), (HALF, 200)], ids=["at once", "in the middle"]
)
async def test_an_error_that_stands_bare_in_a_stream_is_read(
    google: Cloud, before: bytes, status: int
) -> None:
    """As Google's servers tell one, and its own libraries expect it: over several lines."""
    said = [{"role": "user", "content": "Hi"}]
    asked = {"model": "gemini/gemini-2.5-flash", "messages": said, "stream": True}
    reply = await streamed(google, before + FULL, "/v1/chat/completions", **asked)
    assert reply.status == status
    assert b"The provider failed within its answer: Full" in reply.body


async def test_what_a_schema_refers_to_is_where_google_looks_for_it(google: Cloud) -> None:
    """It refuses references to other places, and a client is told of those that lead nowhere."""
    google.answer = said()

    def asking(place: str) -> bytes:
        schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"$ref": place}}}
        shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        turns = [{"role": "user", "content": "Hi"}]
        return msgspec.json.encode(
            {"model": "gemini/gemini-2.5-flash", "messages": turns, "response_format": shape}
        )

    async with running(config(google.port, PRICED), server="") as daemon:
        gate = Gateway(daemon, [])
        assert (await gate.ask(asking("#/properties/a"), "/v1/chat/completions")).status == 200
        sent = google.asked[-1][2]["generationConfig"]["responseJsonSchema"]
        assert sent["properties"]["b"] == {"$ref": "#/$defs/a"}
        assert sent["$defs"] == {"a": {"type": "string"}}
        reply = await gate.ask(asking("#/$defs/b"), "/v1/chat/completions")
        assert (reply.status, len(google.asked)) == (400, 1)
        error = reply.json()["error"]
        assert "`#/$defs/b`, which is not in it" in error["message"]
        assert error["param"] == "response_format"
