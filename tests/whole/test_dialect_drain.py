"""A client that leaves a stream which its provider bills on: read to the end, in every dialect."""

import asyncio
import json
from hashlib import sha256
from typing import Any

import pytest
from gateway import HEAD, KEY
from shell import running, until
from upstreams import Peer, upstream
from wire.recordings import recordings

from tollway.daemon.ledger.calls import recent
from tollway.providers import eventstream
from tollway.providers.dialects.dialect import InUrl
from tollway.providers.dialects.table import UPSTREAMS
from tollway.providers.sse import Splitter

# The kind that speaks a dialect, and a recorded stream of it.
SOURCES = {
    "openai_chat": ("openai-compatible", "openai/chat_stream_cache-read_finish-length_gpt-4o"),
    "openai_responses": ("openai", "openai/responses_stream_gpt-4o-mini"),
    "anthropic_messages": ("anthropic", "anthropic/messages_stream_claude-haiku-4-5"),
    "gemini": ("gemini", "gemini/streamgeneratecontent_stream_gemini-2-5-flash"),
    "bedrock": ("bedrock", "bedrock/converse-stream_stream_cache-write_claude-3-7-sonnet"),
    "cohere": (
        "cohere",
        "cohere/v2-chat_stream_citations_cache-read_tool-result_command-a-03-2025",
    ),
}

USER = {"role": "user", "content": "Hi"}
# A path of each dialect, and what a client asks there.
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "openai_chat": ("/v1/chat/completions", {"messages": [USER], "max_tokens": 2000}),
    "openai_responses": ("/v1/responses", {"input": "Hi", "max_output_tokens": 2000}),
    "anthropic_messages": ("/v1/messages", {"messages": [USER], "max_tokens": 2000}),
    "gemini": (
        "/v1beta/models/up/MODEL:streamGenerateContent?alt=sse",
        {
            "contents": [{"parts": [{"text": "Hi"}]}],
            "generationConfig": {"maxOutputTokens": 2000},
        },
    ),
}
# Whoever speaks the Responses API also speaks chat, so such a pair is never translated.
PAIRS = [
    (client, source)
    for client in ASKED
    for source in SOURCES
    if (client, source) != ("openai_chat", "openai_responses")
]


def config(port: int, kind: str) -> str:
    """Return a configuration with an upstream of a kind, which is drained."""
    return f"""
[providers.up]
kind = "{kind}"
api_key = "env:UP_KEY"
base_url = "http://127.0.0.1:{port}/v1"
on_disconnect = "drain"
[prices."up/*"]
input = 1
output = 2
[groups.all]
models = ["*"]
[users.ann]
groups = ["all"]
budget = ["1/day"]
[keys.laptop]
hash = "sha256:{sha256(KEY.encode()).hexdigest()}"
user = "ann"
"""


def halves(source: str) -> tuple[bytes, bytes, int, int]:
    """Return a recorded stream in two pieces, and the tokens that its end reports."""
    (recording,) = [one for one in recordings() if one.id == SOURCES[source][1]]
    dialect = UPSTREAMS[source].dialect
    body = b'{"model":"m","messages":[],"input":"","max_tokens":9,"contents":[]}'
    meter = dialect.reader(dialect.peek("chat", body, InUrl("m", stream=True)), frozenset())
    splitter = eventstream.Splitter() if source == "bedrock" else Splitter()
    events = splitter.feed(recording.body)
    cut = 0
    for event in events:
        meter.event(event)
        if not cut and meter.begun:
            cut = recording.body.index(event.raw) + len(event.raw)
    assert meter.ended
    assert meter.usage
    usage = meter.usage
    return recording.body[:cut], recording.body[cut:], usage.input_total, usage.output_total


@pytest.mark.parametrize(("client", "source"), PAIRS, ids=["-".join(one) for one in PAIRS])
async def test_a_drained_stream_is_billed_by_its_true_usage_in_every_dialect(
    client: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the provider reports at the end is what is billed, though nobody hears it."""
    monkeypatch.setenv("UP_KEY", "sk-upstream")
    first, rest, took, made = halves(source)
    gone = asyncio.Event()

    async def answers(peer: Peer) -> None:
        await peer.read_request()
        head = HEAD
        if source == "bedrock":
            head = HEAD.replace(b"text/event-stream", eventstream.CONTENT_TYPE.encode())
        await peer.say(head + first)
        await gone.wait()
        await peer.say(rest)

    path, said = ASKED[client]
    # Of OpenAI's models those that reason are asked by the Responses API.
    model = "gpt-5" if source == "openai_responses" else "m"
    path = path.replace("MODEL", model)
    asked = json.dumps({"model": f"up/{model}", "stream": True, **said}).encode()
    if client == "gemini":
        asked = json.dumps(said).encode()
    async with (
        upstream([answers]) as up,
        running(config(up.port, SOURCES[source][0]), server="") as daemon,
    ):
        one = await daemon.connect()
        await one.send(
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(asked)}\r\n\r\n".encode()
            + asked
        )
        head = await one.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        one.close()
        exchanges = daemon.server.daemon.exchanges
        await until(lambda: bool(exchanges) and all(each.pipe._closed for each in exchanges))
        gone.set()
        ledger = daemon.server.daemon.ledger.path
        await until(lambda: [row.state for row in recent(ledger, limit=2)] == ["settled"])
        (row,) = recent(ledger, limit=2)
        assert (row.ending, row.estimated) == ("answered", False)
        assert (row.input_total, row.output_total) == (took, made)
        assert row.dialect == client
        states = daemon.server.daemon.gate.purse.states()
        assert sum(state.held_nanousd for state in states) == 0
