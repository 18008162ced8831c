"""Recorded refusals, counts and answers that broke, of each dialect, through the whole gateway.

Whole conversations are elsewhere: OpenAI's in `test_recordings_through.py`, those of every dialect
through every other in `test_dialect_matrix.py` and `test_translation.py`.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio
from gateway import KEY
from google.genai import errors as google
from matrix_requests import ANTHROPIC, CHAT, GEMINI, RESPONSES
from matrix_world import CLIENTS, TARGETS, World, world
from translated import answered, codec_of
from wire.recordings import UPSTREAM_ALONE, Recording, recordings

from tollway.providers.sse import Splitter

pytestmark = pytest.mark.asyncio(loop_scope="module")

ERRORS = (openai.APIError, anthropic.APIStatusError, google.APIError)
FROM = {
    CHAT: TARGETS["openai-compatible"],
    RESPONSES: TARGETS["openai, reasoning"],
    ANTHROPIC: TARGETS["anthropic"],
    GEMINI: TARGETS["gemini"],
}
TALKS = [one for one in recordings() if (codec := codec_of(one)) is not None and codec.name in FROM]
REFUSALS = [one for one in TALKS if one.status >= 400 and not one.endpoint]
BROKEN = [
    one
    for one in TALKS
    if one.status == 200 and "mid_stream_error" in one.features and not one.endpoint
]
COUNTS = {
    "anthropic/count-tokens_claude-opus-4-6": "/v1/messages/count_tokens",
    "gemini/counttokens_gemini-2-5-flash": f"/v1beta/models/{FROM[GEMINI]}:countTokens",
    "openai/responses-input-tokens_tool-choice-required_gpt-4-1-mini": "/v1/responses/input_tokens",
}
PUT_OFF = "openai/responses_background_gpt-5-6-sol"
LISTS = ("openai/models", "anthropic/models")
ELSEWHERE = {
    "openai/responses-get": "test_responses_kept.py",
    # Asked for by clients of OpenAI's alone.
    "gemini/batchembedcontents_gemini-embedding-001": "test_gate_embeddings.py",
    # As an array of JSON, which no target is asked for.
    "gemini/streamgeneratecontent_stream_thinking_gemini-flash-latest": "test_gemini_recordings.py",
    "gemini/streamgeneratecontent_stream_thinking_thought-parts_tool-call_gemini-2-5-flash": (
        "test_gemini_recordings.py"
    ),
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def through() -> AsyncIterator[World]:
    """Yield a gateway before all upstreams; in the end nothing is held."""
    async with world() as one:
        yield one
        states = one.daemon.server.daemon.gate.purse.states()
        assert all(state.held_nanousd == 0 for state in states)


def name(recording: Recording) -> str:
    """Name a test after its recording."""
    return recording.id


def source_of(recording: Recording) -> str:
    """Return the dialect that a recording is in."""
    codec = codec_of(recording)
    assert codec is not None
    return codec.name


def words_of(recording: Recording) -> str:
    """Return what a provider said was wrong."""
    said = json.loads(recording.body)
    error = said[0]["error"] if isinstance(said, list) else said["error"]
    return str(error["message"])


@pytest.mark.parametrize("recording", REFUSALS, ids=name)
async def test_a_recorded_refusal_is_raised_by_each_library_as_its_own(
    through: World, recording: Recording
) -> None:
    """The status and the provider's words, whatever both sides speak; and nothing is billed.

    A refusal of the gateway's own credential is not the caller's 401.
    """
    # Google says 400 of a key that it does not know.
    own = recording.status in (401, 403) or "API key not valid" in words_of(recording)
    status = 502 if own else recording.status
    kind = recording.headers.get("content-type", "application/json")
    through.upstream.answer = (recording.status, kind, recording.body)
    for client in CLIENTS:
        for stream in (False, True):
            with pytest.raises(ERRORS) as raised:
                await through.ask(client, FROM[source_of(recording)], stream)
            error: Any = raised.value
            assert getattr(error, "status_code", None) == status or error.code == status
            if status != 502:
                assert words_of(recording)[:40].rstrip(".") in str(error), (client, error)
            row = await through.row()
            assert (row.call.ending, row.call.cost_nanousd) == ("upstream_refused", 0)


@pytest.mark.parametrize("recording", BROKEN, ids=name)
async def test_a_recorded_error_within_a_stream_is_raised_by_each_library(
    through: World, recording: Recording
) -> None:
    """Behind what came before it; in the same dialect the event is the provider's own."""
    through.upstream.answer = (200, "text/event-stream", recording.body)
    for client in CLIENTS:
        with pytest.raises(ERRORS) as raised:
            await through.ask(client, FROM[source_of(recording)], True)
        assert str(raised.value)
        row = await through.row()
        assert row.call.ending in ("upstream_broke", "upstream_refused")
    if source_of(recording) == ANTHROPIC:
        body = {"model": FROM[ANTHROPIC], "max_tokens": 9, "messages": [], "stream": True}
        reply = await through.post("/v1/messages", body)
        events = Splitter().feed(recording.body)
        broke = next(at for at, one in enumerate(events) if one.name == b"error")
        raw = b"".join(one.raw for one in events[: broke + 1])
        assert reply.content == raw or reply.status_code >= 400


@pytest.mark.parametrize("recording", [*COUNTS, PUT_OFF])
async def test_what_is_no_conversation_passes_byte_for_byte(through: World, recording: str) -> None:
    """Counts of tokens, and the note that an answer is being made in the background."""
    (found,) = [one for one in recordings() if one.id == recording]
    through.upstream.answer = (200, "application/json", found.body)
    body: dict[str, Any] = {**found.asked, "model": FROM[RESPONSES]}
    if "anthropic" in recording:
        body["model"] = FROM[ANTHROPIC]
    if "gemini" in recording:
        body.pop("model")
    reply = await through.post(COUNTS.get(recording, "/v1/responses"), body)
    assert (reply.status_code, reply.content) == (200, found.body)
    row = await through.row()
    assert row.call.cost_nanousd == 0 or recording == PUT_OFF


@pytest.mark.parametrize("recording", LISTS)
async def test_models_are_listed_as_a_provider_lists_them(through: World, recording: str) -> None:
    """Every field of the list, and of an entry that libraries demand, of the same type."""
    (found,) = [one for one in recordings() if one.id == recording]
    heads = {"authorization": f"Bearer {KEY}"}
    if "anthropic" in recording:
        heads["anthropic-version"] = "2023-06-01"
    url = f"http://127.0.0.1:{through.daemon.port}/v1/models"
    ours, theirs = (await through.over.get(url, headers=heads)).json(), json.loads(found.body)
    assert set(theirs) <= set(ours)
    wanted = {"id", "object", "created", "owned_by", "type", "display_name", "created_at"}
    for field in wanted & set(theirs["data"][0]):
        assert type(ours["data"][0][field]) is type(theirs["data"][0][field]), field


async def test_every_recording_is_used() -> None:
    """Whoever adds one sees where it belongs."""
    used = {one.id for one in (*answered(), *REFUSALS, *BROKEN)}
    used |= {*COUNTS, PUT_OFF, *LISTS, *ELSEWHERE}
    left = [
        one.id
        for one in recordings()
        if one.id not in used and not one.endpoint and one.provider not in UPSTREAM_ALONE
    ]
    assert left == []
