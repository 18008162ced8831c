"""Every recorded answer, taken through the whole gateway: its bytes, its tokens, its price."""

import contextlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from gateway import error
from shell import Reply, Running, running, until
from wire.recordings import WIRE, Recording, recordings
from wire.replay_server import ReplayServer

from tollway.daemon.ledger.calls import CallDetail, one
from tollway.daemon.ledger.verify import verify
from tollway.providers.catalog import KINDS

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALL = [found for found in recordings() if found.endpoint]
MEANT = json.loads((WIRE / "openai_usage.json").read_text())
BROKEN = [name for name, meant in MEANT.items() if meant["failed"]]
ANSWERS = [found for found in ALL if found.status == 200 and found.id not in BROKEN]
STREAMS = [found for found in ANSWERS if found.streamed]
REFUSALS = [found for found in ALL if found.status >= 400]
SLICES = ("whole", "1", "recorded")
_MOST_SINGLY = 4000
# Every class of tokens at a price of its own, in nano-dollars a token, so that none can stand
# for another unseen.
RATES = {
    "input": 1000,
    "cache_read": 100,
    "cache_write": 3000,
    "audio_input": 7000,
    "output": 2000,
    "reasoning": 5000,
    "audio_output": 11000,
    "image_input": 13000,
    "image_output": 17000,
    "searches": 1_000_000,  # each
}
PRICES = """
input = 1
cached_input = 0.1
cache_write = 3
audio_input = 7
output = 2
reasoning = 5
audio_output = 11
image_input = 13
image_output = 17
search = 0.001
"""


def name(recording: Recording) -> str:
    """Name a test after its recording."""
    return recording.id


# Byte by byte a long body takes its time and shows no more than a short one.
SLICED = [
    pytest.param(
        one,
        slices,
        marks=[pytest.mark.long] if slices == "1" and len(one.body) > _MOST_SINGLY else [],
        id=f"{one.id}-{slices}",
    )
    for one in ANSWERS
    for slices in SLICES
]


@dataclass(frozen=True)
class Through:
    """A gateway with a provider for each recording and each way to slice it."""

    daemon: Running
    server: ReplayServer

    async def ask(self, recording: Recording, slices: str = "whole", **changes: object) -> Reply:
        """Ask what was asked, changed as told (None takes a field out); return the answer."""
        said: dict[str, object] = json.loads(recording.request) | changes
        said["model"] = f"{provider(recording, slices)}/{said['model']}"
        request = {field: value for field, value in said.items() if value is not None}
        path = {"chat": "/v1/chat/completions"}.get(
            str(recording.endpoint), f"/v1/{recording.endpoint}"
        )
        return await self.daemon.ask("POST", path, msgspec.json.encode(request))

    async def row(self, reply: Reply) -> CallDetail:
        """Return an answer's row once it is settled."""
        path = self.daemon.server.daemon.ledger.path
        call_id = reply.headers["x-tollway-request-id"]
        await until(lambda: one(path, call_id).call.state != "open")
        return one(path, call_id)


def provider(recording: Recording, slices: str) -> str:
    """Return the name of the provider that gives a recording in such slices."""
    return f"r{ALL.index(recording)}-{slices}"


def kind(recording: Recording) -> str:
    """Return the kind of the provider that was recorded."""
    said = {"llamacpp": "llama-server"}.get(recording.provider, recording.provider)
    return said if said in KINDS else "openai-compatible"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def through() -> AsyncIterator[Through]:
    """Yield a gateway before every recording."""
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(ReplayServer())
        tables = [
            f'[providers.{provider(found, slices)}]\nkind = "{kind(found)}"\n'
            f'base_url = "{server.url(found.id, chunk=slices)}"\napi_key = "env:HOME"\n'
            f'[prices."{provider(found, slices)}/*"]{PRICES}'
            for found in ALL
            for slices in SLICES
        ]
        daemon = await stack.enter_async_context(running("\n".join(tables)))
        yield Through(daemon, server)
        # However many odd answers went through, the books are whole and nothing is left over.
        inner = daemon.server.daemon
        await until(lambda: inner.active == 0)
        assert verify(inner.ledger.path) == []
        assert all(state.held_nanousd == 0 for state in inner.gate.purse.states())


def content(reply: Reply) -> bytes:
    """Return a body, out of its chunks where it came in some."""
    if "content-length" in reply.headers:
        return reply.body
    rest, data = reply.body + reply.rest, b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        if not int(size, 16):
            assert rest == b"\r\n"
            return data
        data, rest = data + rest[: int(size, 16)], rest[int(size, 16) + 2 :]


def split(body: bytes) -> list[bytes]:
    """Return the events of a stream with their line ends; joined they are the stream."""
    return [piece for piece in re.split(rb"(?<=\n\n)|(?<=\r\n\r\n)", body) if piece]


def parsed(event: bytes) -> Any:
    """Return the JSON of an event; None for comments and end marks."""
    lines = [line[5:] for line in event.splitlines() if line.startswith(b"data:")]
    text = b"\n".join(lines).strip()
    return json.loads(text) if text.startswith(b"{") else None


def only_usage(event: bytes) -> bool:
    """Whether an event holds usage and no choices: the chunk that is sent to who asks for it."""
    chunk = parsed(event) or {}
    return bool(chunk.get("usage")) and not chunk.get("choices")


def seen_by_who_did_not_ask(recording: Recording) -> bytes:
    """Return a stream without what only we had asked for."""
    if "usage_unasked" in KINDS[kind(recording)].quirks:
        return recording.body
    return b"".join(event for event in split(recording.body) if not only_usage(event))


def up_to_its_end(body: bytes) -> bytes:
    """Return a stream up to its end mark; nothing that could follow it is an answer's."""
    done = re.search(rb"data: ?\[DONE\](\r?\n){2}", body)
    return body[: done.end()] if done else body


def check_row(recording: Recording, row: CallDetail) -> None:
    """Compare a call's row with what stands beside the recording."""
    meant = MEANT[recording.id]["usage"]
    columns = {field: f"{field}_tokens" for field in RATES} | {"searches": "searches"}
    found = {field: getattr(row.call, column) for field, column in columns.items()}
    if meant is None:
        assert (row.call.ending, row.call.estimated) == ("no_usage", True)
        assert row.call.cost_nanousd > 0
        return
    assert {field: count for field, count in found.items() if count} == meant
    assert row.call.cost_nanousd == sum(RATES[field] * count for field, count in meant.items())
    assert (row.call.ending, row.call.estimated, row.call.overrun_nanousd) == ("answered", False, 0)
    assert row.call.attempts == 1


@pytest.mark.parametrize(("recording", "slices"), SLICED)
async def test_an_answer_comes_through_byte_for_byte_and_is_booked_as_reported(
    through: Through, recording: Recording, slices: str
) -> None:
    """Asked as it was asked: the same bytes, the tokens of its report, and their price."""
    reply = await through.ask(recording, slices)
    assert reply.status == 200, reply
    asked = bool((recording.asked.get("stream_options") or {}).get("include_usage"))
    whole = not recording.streamed or asked
    body = recording.body if whole else seen_by_who_did_not_ask(recording)
    assert content(reply) == (up_to_its_end(body) if recording.streamed else body)
    check_row(recording, await through.row(reply))


@pytest.mark.parametrize("recording", STREAMS, ids=name)
async def test_a_client_that_asks_for_usage_sees_every_byte(
    through: Through, recording: Recording
) -> None:
    """`include_usage` said by the client: nothing at all is kept back."""
    reply = await through.ask(recording, "recorded", stream_options={"include_usage": True})
    assert content(reply) == up_to_its_end(recording.body)
    check_row(recording, await through.row(reply))


@pytest.mark.parametrize("recording", STREAMS, ids=name)
async def test_a_client_that_does_not_ask_loses_the_usage_chunk_alone(
    through: Through, recording: Recording
) -> None:
    """We ask in its place, so the row is as exact; the chunk is ours, and the rest is its own."""
    reply = await through.ask(recording, "recorded", stream_options=None)
    assert content(reply) == up_to_its_end(seen_by_who_did_not_ask(recording))
    check_row(recording, await through.row(reply))
    unasked = "usage_unasked" in KINDS[kind(recording)].quirks
    _, sent = through.server.received[-1]
    assert (json.loads(sent).get("stream_options") == {"include_usage": True}) is not unasked


@pytest.mark.parametrize("recording", ALL, ids=name)
async def test_a_provider_is_sent_what_its_client_said(
    through: Through, recording: Recording
) -> None:
    """But for the model's name, a limit where there was none, and the wish for usage."""
    await through.ask(recording)
    headers, sent = through.server.received[-1]
    said = json.loads(sent)
    ours = {"stream_options", "max_tokens", "max_completion_tokens"}
    assert {field for field, value in json.loads(recording.request).items()
            if said.get(field) != value} <= ours  # fmt: skip
    assert set(said) - set(json.loads(recording.request)) <= ours
    if kind(recording) == "azure":
        assert headers["api-key"] and "Authorization" not in headers
    else:
        assert headers["Authorization"].startswith("Bearer ")


@pytest.mark.parametrize("slices", SLICES)
@pytest.mark.parametrize("recording", REFUSALS, ids=name)
async def test_a_refusal_keeps_its_status_and_its_words(
    through: Through, recording: Recording, slices: str
) -> None:
    """A provider's 4xx is the caller's, in OpenAI's shape; a refused credential is ours, 502.

    So is a call of a tool that the model spoilt, which Groq says with 400.
    """
    reply = await through.ask(recording, slices)
    said = error(reply)
    assert said["source"] == "provider"
    assert said["request_id"] == reply.headers["x-tollway-request-id"]
    row = await through.row(reply)
    assert (row.call.ending, row.call.cost_nanousd) == ("upstream_refused", 0)
    assert row.attempts[0].status == recording.status
    if recording.status in {401, 403}:
        assert (reply.status, said["code"]) == (502, "upstream_auth")
        assert "credential" in said["message"]
        return
    own = json.loads(recording.body)["error"]
    assert reply.status == (502 if own["code"] == "tool_use_failed" else recording.status)
    if isinstance(own["code"], str):
        assert said["code"] == own["code"]
    assert own["message"][:40].rstrip(".") in said["message"]
    if "retry-after" in recording.headers:
        assert reply.headers["retry-after"] == recording.headers["retry-after"]


@pytest.mark.parametrize("slices", SLICES)
@pytest.mark.parametrize("recording", [found for found in ALL if found.id in BROKEN], ids=name)
async def test_an_error_inside_a_stream_reaches_the_client_and_is_billed(
    through: Through, recording: Recording, slices: str
) -> None:
    """The provider's own event, as it came, ends the stream; what had come out is no gift.

    Where the answer itself had ended, its report is final; else only an upper bound is known.
    """
    reply = await through.ask(recording, slices)
    row = await through.row(reply)
    events = split(recording.body)
    if len(events) == 2:  # the error and the end mark: a refusal like any other
        assert (reply.status, error(reply)["source"]) == (MEANT[recording.id]["failed"], "provider")
        assert (row.call.ending, row.call.cost_nanousd) == ("upstream_refused", 0)
        return
    broke = next(
        at for at, event in enumerate(events)
        if b"event: error" in event or (parsed(event) or {}).get("error")
    )  # fmt: skip
    assert reply.status == 200
    assert content(reply) == b"".join(events[: broke + 1])
    meant = MEANT[recording.id]
    final = meant["ended"] and meant["usage"]
    assert (row.call.ending, row.call.estimated) == ("upstream_broke", not final)
    if final:
        paid = sum(RATES[field] * count for field, count in meant["usage"].items())
        assert row.call.cost_nanousd == paid
    assert row.call.cost_nanousd > 0
    assert row.call.error == row.attempts[0].error == "upstream_refused"
