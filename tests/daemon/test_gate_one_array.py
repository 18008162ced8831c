"""Google's stream as one JSON array, which its API gives where no `alt=sse` asks for events."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
from clouds import ANN
from gateway import DONE, HEAD, KEY, USED, Gateway, chunk, whole
from shell import Reply, parse, running
from upstreams import Step, reads, says, upstream, waits
from wire.recordings import Recording, recordings

from tollway.providers.sse import Splitter

TURN = b'{"contents":[{"role":"user","parts":[{"text":"Hi"}]}],'
ASK = TURN + b'"generationConfig":{"maxOutputTokens":9}}'
STREAMS = [one for one in recordings("gemini/*stream_*.json") if one.streamed]


@contextlib.asynccontextmanager
async def behind(kind: str, *script: Step, server: str = "") -> AsyncIterator[Gateway]:
    """Yield a gateway before an upstream of a kind."""
    async with upstream([reads(), *script]) as up:
        config = f"""
[providers.up]
kind = "{kind}"
base_url = "http://127.0.0.1:{up.port}/v1"
api_key = "env:HOME"
[prices."up/*"]
input = 1
output = 2
{ANN}"""
        async with running(config, server=server) as daemon:
            yield Gateway(daemon, [up])


async def ask(gate: Gateway, query: str = "") -> Reply:
    """Ask as curl does."""
    return await gate.ask(ASK, f"/v1beta/models/up/m:streamGenerateContent{query}")


def elements(reply: Reply) -> list[dict[str, Any]]:
    """Return the elements of an array that a client was streamed."""
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json; charset=UTF-8"
    rest, data = reply.body + reply.rest, b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        data, rest = data + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    found: list[dict[str, Any]] = msgspec.json.decode(data)
    return found


def text(chunks: Sequence[dict[str, Any]]) -> str:
    """Return the text that chunks hold."""
    found = [one["candidates"][0].get("content", {}).get("parts", ()) for one in chunks]
    return "".join(part.get("text", "") for parts in found for part in parts)


@pytest.mark.parametrize("recording", STREAMS, ids=lambda one: one.id)
async def test_each_event_of_googles_is_an_element(recording: Recording) -> None:
    """It was a 400; Google is asked for events all the same, and the call is billed alike."""
    async with behind("gemini", says(HEAD + recording.body)) as gate:
        reply = await ask(gate)
        events = [one.data for one in Splitter().feed(recording.body) if one.data]
        assert elements(reply) == [msgspec.json.decode(one) for one in events]
        (asked,) = gate.ups[0].requests
        assert asked.startswith(b"POST /v1/models/m:streamGenerateContent?alt=sse ")
        row = (await gate.row(reply)).call
        assert row.cost_nanousd and row.state == "settled"


@pytest.mark.parametrize("query", ["", "?alt=json", "?$alt=json;enum-encoding=int"])
async def test_another_apis_answer_is_an_array_too(query: str) -> None:
    """An event of OpenAI's is told as chunks of Google's, and the last has the usage."""
    stream = HEAD + chunk("He") + chunk("llo") + chunk("", "stop") + USED + DONE
    async with behind("openai-compatible", says(stream)) as gate:
        chunks = elements(await ask(gate, query))
        assert text(chunks) == "Hello"
        assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"
        assert chunks[-1]["usageMetadata"]["promptTokenCount"] == 7


HALF = b'data: {"candidates":[{"content":{"parts":[{"text":"He"}]}}]}\r\n\r\n'
BARE = b'{\n  "error": {\n    "code": 503,\n    "status": "UNAVAILABLE"\n  }\n}\n'


@pytest.mark.parametrize(
    ("kind", "stream", "status"),
    [
        ("gemini", HALF, "INTERNAL"),
        ("gemini", HALF + BARE, "UNAVAILABLE"),
        ("gemini", HALF + BARE[:-5], "INTERNAL"),
        ("openai-compatible", chunk("He"), "INTERNAL"),
    ],
)
async def test_the_error_that_breaks_a_stream_is_the_last_element(
    kind: str, stream: bytes, status: str
) -> None:
    """What is an event of a stream of events, or bare in it; the array is whole all the same."""
    async with behind(kind, says(HEAD + stream)) as gate:
        *chunks, last = elements(await ask(gate))
        assert text(chunks) == "He"
        assert last["error"]["status"] == status


@pytest.mark.parametrize("kind", ["gemini", "openai-compatible"])
async def test_a_whole_answer_is_an_array_of_one_or_of_its_pieces(kind: str) -> None:
    """Some servers do not stream; whoever wants an array gets one."""
    candidate = {"content": {"parts": [{"text": "Hello"}]}, "finishReason": "STOP"}
    google = msgspec.json.encode({"candidates": [candidate]})
    async with behind(kind, says(whole(google) if kind == "gemini" else whole())) as gate:
        reply = await ask(gate)
        chunks = reply.json() if kind == "gemini" else elements(reply)
        assert text(chunks) == "Hello"


@pytest.mark.parametrize("kind", ["gemini", "openai-compatible"])
async def test_a_silence_is_filled_with_what_an_array_may_hold(kind: str) -> None:
    """Nothing was sent until the model had thought, and proxies took that for a dead connection."""
    began, go = asyncio.Event(), asyncio.Event()
    google = b'data: {"candidates":[{"content":{"parts":[{"text":"He"}]}}]}\r\n\r\n'
    piece = google if kind == "gemini" else chunk("He")
    ended = google.replace(b"}]}}]", b'}]},"finishReason":"STOP"}]')
    rest = ended if kind == "gemini" else piece + chunk("", "stop") + USED + DONE
    script = (waits(began), says(HEAD + piece), waits(go), says(rest))
    async with behind(kind, *script, server='keepalive = "20ms"') as gate:
        client = await gate.daemon.connect()
        await client.send(
            b"POST /v1beta/models/up/m:streamGenerateContent HTTP/1.1\r\nhost: %b\r\n"
            b"x-goog-api-key: %b\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (gate.daemon.host, KEY.encode(), len(ASK), ASK)
        )
        head = await client.reader.readuntil(b"\r\n\r\n")
        seen = await client.reader.readuntil(b"[\n\r\n1\r\n\n\r\n")
        began.set()
        seen += await client.reader.readuntil(b"He")
        seen += await client.reader.readuntil(b"\r\n1\r\n\n\r\n")
        go.set()
        reply = parse(head + seen + await client.all())
        assert text(elements(reply)) == "HeHe"


async def test_what_is_refused_before_it_begins_is_an_error_like_any() -> None:
    """An object, with the upstream's status, which every library looks at first."""
    refusal = whole(b'{"error":{"message":"Slow down"}}', status="429 Too Many Requests")
    async with behind("gemini", says(refusal)) as gate:
        reply = await ask(gate)
        assert reply.status == 429 and "Slow down" in reply.json()["error"]["message"]
