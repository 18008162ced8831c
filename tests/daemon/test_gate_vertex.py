"""Vertex by its recordings: two dialects behind another address, and Google's own credentials."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from clouds import ANN, Cloud, cloud
from gateway import Gateway
from shell import Reply, running, until
from wire.recordings import Recording, recordings

pytest.importorskip("google.auth")

AT = "/v1/projects/example-project/locations/global"
RECORDINGS = recordings("vertex/*.json")
(CLAUDE,) = [one for one in RECORDINGS if "anthropic" in one.api]
HAIKU = "claude-haiku-4-5@20251001"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
TOLD = msgspec.json.encode(
    {"error": {"code": 429, "message": "Slowly", "status": "RESOURCE_EXHAUSTED"}}
)


def config(port: int, key: str) -> str:
    """Return a configuration with a project on Vertex."""
    return f"""
[providers.vertex]
kind = "vertex"
base_url = "http://127.0.0.1:{port}{AT}"
{key}
{ANN}"""


@pytest_asyncio.fixture
async def google() -> AsyncIterator[Cloud]:
    """Yield a cloud."""
    async with cloud() as one:
        yield one


def request_of(recording: Recording) -> tuple[str, dict[str, Any]]:
    """Return the path and the body with which a client of the same dialect asks for it here."""
    model = recording.path.partition("/models/")[2].partition(":")[0]
    if recording is CLAUDE:
        said = {name: value for name, value in recording.asked.items() if "version" not in name}
        return "/v1/messages", said | {"model": f"vertex/{model}"}
    method = recording.path.rpartition(":")[2]
    return f"/v1beta/models/vertex/{model}:{method}", recording.asked


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda one: one.id)
async def test_what_vertex_said_arrives_and_is_billed(
    google: Cloud, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the path that was recorded, with the body that was, and an access token as it is."""
    monkeypatch.setenv("TOKEN", "ya29.token")
    kind = "text/event-stream" if recording.streamed else "application/json"
    google.answer = (200, kind, recording.body)
    async with running(config(google.port, 'api_key = "env:TOKEN"'), server="") as daemon:
        gate = Gateway(daemon, [])
        path, body = request_of(recording)
        reply = await gate.ask(msgspec.json.encode(body), path)
        assert reply.status == 200, reply.body
        assert recording.body in reply.body
        (asked,) = google.asked
        assert asked[0].replace("%40", "@") == recording.path.replace("/v1beta1/", "/v1/")
        assert asked[1]["authorization"] == "Bearer ya29.token"
        config_ = {"generationConfig": asked[2].get("generationConfig")}
        assert asked[2] == recording.asked | (config_ if recording is not CLAUDE else {})
        row = await gate.row(reply)
        assert row.call.cost_nanousd > 0
        assert (row.call.ending, row.call.estimated) == ("answered", False)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
async def test_a_stream_that_is_cut_costs_the_input_that_was_told(
    google: Cloud, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Claude's begins with it: nearly all was cached, where bytes say only how much it could be."""
    monkeypatch.setenv("TOKEN", "ya29.token")
    used = {"input_tokens": 5, "cache_read_input_tokens": 900, "output_tokens": 1}
    start = {"type": "message_start", "message": {"id": "msg_1", "model": HAIKU, "usage": used}}
    text = {"type": "text", "text": ""}
    said = [start, {"type": "content_block_start", "index": 0, "content_block": text}]
    body = b"".join(b"data: " + msgspec.json.encode(one) + b"\n\n" for one in said)
    google.answer = (200, "text/event-stream", body)
    asked = {
        "model": f"vertex/{HAIKU}", "stream": True, "max_tokens": 50,
        "messages": [{"role": "user", "content": "word " * 2000}],
    }  # fmt: skip
    priced = f"""
[prices."vertex/{HAIKU}"]
input = 1
output = 5
cached_input = 0.1
search = 0.01
context_window = 200000
"""
    searching = {
        **asked,
        "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 2}],
    }
    async with running(config(google.port, 'api_key = "env:TOKEN"') + priced, server="") as daemon:
        gate = Gateway(daemon, [])
        (one,) = (await gate.row(await gate.ask(msgspec.json.encode(asked), path))).attempts
        assert (one.ending, one.estimated) == ("upstream_broke", True)
        assert (one.input_tokens, one.cache_read_tokens, one.output_tokens) == (5, 900, 50)
        assert one.cost_nanousd == 5 * 1000 + 900 * 100 + 50 * 5000
        if path == "/v1/messages":  # each search is a prompt of its own, which nobody has told yet
            reply = await gate.ask(msgspec.json.encode(searching), path)
            (one,) = (await gate.row(reply)).attempts
            assert one.input_tokens > 10_000


async def chat(gate: Gateway, model: str, **more: object) -> Reply:
    """Ask as a client of OpenAI's does."""
    said = {"model": f"vertex/{model}", "messages": [{"role": "user", "content": "Hi"}], **more}
    return await gate.ask(msgspec.json.encode(said), "/v1/chat/completions")


async def test_a_service_account_s_token_is_fetched_once_and_renewed_in_time(
    google: Cloud, tmp_path: Path
) -> None:
    """However many calls need it at once; one that ends within minutes is no longer fresh."""
    path = tmp_path / "sa.json"
    path.write_text(google.service_account())
    path.chmod(0o600)
    google.answer = (200, "application/json", CLAUDE.body)
    async with running(config(google.port, f'api_key = "file:{path}"'), server="") as daemon:
        gate = Gateway(daemon, [])
        replies = await asyncio.gather(*(chat(gate, HAIKU) for _ in range(5)))
        assert [reply.status for reply in replies] == [200] * 5, replies
        assert google.tokens == 1
        assert {heads["authorization"] for _, heads, _ in google.asked} == {"Bearer token-1"}
        assert {path for path, _, _ in google.asked} == {
            f"{AT}/publishers/anthropic/models/claude-haiku-4-5%4020251001:rawPredict"
        }
        assert all(body["anthropic_version"] == "vertex-2023-10-16" for _, _, body in google.asked)
        assert all("model" not in body for _, _, body in google.asked)
    google.lasts_s = 60
    async with running(config(google.port, f'api_key = "file:{path}"'), server="") as daemon:
        gate = Gateway(daemon, [])
        for _ in range(3):
            assert (await chat(gate, HAIKU)).status == 200
        assert google.tokens == 4


async def test_each_publisher_is_asked_in_its_own_way(
    google: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Google's, Anthropic's, and open models, which are named with their maker."""
    monkeypatch.setenv("TOKEN", "ya29.token")
    google.answer = (429, "application/json", TOLD)
    paths = {
        "gemini-2.5-flash": "/publishers/google/models/gemini-2.5-flash:generateContent",
        "claude-opus-4-6": "/publishers/anthropic/models/claude-opus-4-6:rawPredict",
        "meta/llama-4-maverick-17b-128e-instruct-maas": "/endpoints/openapi/chat/completions",
    }
    prices = '[prices."vertex/meta/*"]\ninput = 1\noutput = 1\n'
    said = config(google.port, 'api_key = "env:TOKEN"') + prices
    async with running(said, server="") as daemon:
        gate = Gateway(daemon, [])
        for model, path in paths.items():
            reply = await chat(gate, model)
            assert (reply.status, b"Slowly" in reply.body) == (429, True)
            assert google.asked[-1][0] == AT + path
        counted = {"model": f"vertex/{HAIKU}", "messages": [{"role": "user", "content": "Hi"}]}
        google.answer = (200, "application/json", b'{"input_tokens":8}')
        path = "/v1/messages/count_tokens"
        reply = await gate.ask(msgspec.json.encode(counted), path)
        assert reply.json() == {"input_tokens": 8}
        path, _, body = google.asked[-1]
        assert path == f"{AT}/publishers/anthropic/models/count-tokens:rawPredict"
        assert body["model"] == HAIKU


async def test_without_a_token_nothing_is_sent(google: Cloud, tmp_path: Path) -> None:
    """The caller is told that the gateway's own credential failed, and nothing of it."""
    path = tmp_path / "sa.json"
    path.write_text(google.service_account())
    path.chmod(0o600)
    google.refuses = True
    async with running(config(google.port, f'api_key = "file:{path}"'), server="") as daemon:
        gate = Gateway(daemon, [])
        reply = await chat(gate, HAIKU)
        assert (reply.status, reply.json()["error"]["code"]) == (502, "upstream_auth")
        assert b"PRIVATE" not in reply.body and b"invalid_grant" not in reply.body
        row = await gate.row(reply)
        assert (row.call.ending, row.call.cost_nanousd) == ("upstream_refused", 0)
        assert not google.asked
        hidden = daemon.server.daemon.gate.mask
        key = json.loads(path.read_text())["private_key"]
        assert hidden(f"a {key}") == "a ***"


async def test_a_token_that_cannot_be_had_is_asked_for_once_for_all_who_wait(
    google: Cloud, tmp_path: Path
) -> None:
    """One after the other each would wait as long as the server lets it, and hold a thread."""
    path = tmp_path / "sa.json"
    path.write_text(google.service_account())
    path.chmod(0o600)
    google.refuses, google.tokens_from = True, asyncio.Event()
    async with running(config(google.port, f'api_key = "file:{path}"'), server="") as daemon:
        gate = Gateway(daemon, [])
        calls = [asyncio.create_task(chat(gate, HAIKU)) for _ in range(5)]
        exchanges = daemon.server.daemon.exchanges
        await until(lambda: sum(one.attempt is not None for one in exchanges) == 5)
        await until(lambda: google.token_asked == 1)
        next(iter(exchanges)).cut("client_left")  # who leaves takes nothing from the others
        await until(lambda: len(exchanges) == 4)
        google.tokens_from.set()
        await asyncio.gather(*calls)
        assert google.token_asked == 1


async def test_a_header_that_chooses_a_dearer_tier_stays_behind(
    google: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would raise the price that the hold was taken at, or have another project pay."""
    monkeypatch.setenv("TOKEN", "ya29.token")
    google.answer = (200, "application/json", RECORDINGS[1].body)
    async with running(config(google.port, 'api_key = "env:TOKEN"'), server="") as daemon:
        gate = Gateway(daemon, [])
        body = msgspec.json.encode({"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]})
        path = "/v1beta/models/vertex/gemini-3-flash-preview:generateContent"
        heads = {"x_vertex_ai_llm_shared_request_type": "priority", "x_goog_user_project": "other"}
        await gate.ask(body, path, **heads)
        _, sent, _ = google.asked[-1]
        assert not [name for name in sent if name.startswith(("x-vertex", "x-goog"))]


@pytest.mark.parametrize(
    ("model", "named"),
    [("gemini-2.5-flash", ["1", "2"]), ("gemini-3-flash-preview", ["b", "2", "a", "1"])],
)
async def test_calls_are_told_as_vertex_takes_them(
    google: Cloud, monkeypatch: pytest.MonkeyPatch, model: str, named: list[str]
) -> None:
    """It refused ids, where the order says whose a result is; of the tier it reads a header."""
    monkeypatch.setenv("TOKEN", "ya29.token")
    google.answer = (200, "application/json", RECORDINGS[1].body)
    called = [{"id": id_, "function": {"name": "f", "arguments": "{}"}} for id_ in ("a", "b")]
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": [{"type": "function", **one} for one in called]},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
    ]
    async with running(config(google.port, 'api_key = "env:TOKEN"'), server="") as daemon:
        reply = await chat(
            Gateway(daemon, []), model, messages=messages, service_tier="flex", tools=[TOOL]
        )
        assert reply.headers["x-tollway-dropped"] == "service_tier"
        (_, _, body) = google.asked[-1]
        assert "serviceTier" not in body
        _, calls, results = body["contents"]
        ids = [part["functionCall"].get("id") for part in calls["parts"]]
        told = [part["functionResponse"] for part in results["parts"]]
        assert ids == (["a", "b"] if "b" in named else [None, None])
        words = [[one.get("id"), one["response"]["result"]] for one in told]
        assert [word for pair in words for word in pair if word] == named
