"""What goes wrong behind the gateway, as each official library hears of it, and what it costs.

Every client's dialect before every upstream's. Nothing is left held, whatever happened.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio
from aiohttp import web
from broken_streams import ALIVE, EVERY_PAIR, FAILED, GARBAGE, MODELS, opening, splitter
from eventstreams import framed
from gateway import KEY
from google.genai import errors as google
from matrix_requests import ANTHROPIC, BEDROCK, CHAT, COHERE, GEMINI, RESPONSES
from matrix_seen import seen
from matrix_world import CLIENTS, World, world
from shell import until

from tollway.daemon.ledger.calls import recent
from tollway.providers.conversation import Conversation
from tollway.providers.dialects.table import UPSTREAMS
from tollway.providers.events import TextDelta
from tollway.providers.eventstream import CONTENT_TYPE

pytestmark = pytest.mark.asyncio(loop_scope="module")

Script = Callable[[web.Request], Awaitable[web.StreamResponse]]

pairs = pytest.mark.parametrize(
    ("client", "source"), EVERY_PAIR, ids=["-".join(one) for one in EVERY_PAIR]
)
RAISED: dict[str, tuple[type[Exception], ...]] = {
    CHAT: (openai.APIError,),
    RESPONSES: (openai.APIError,),
    ANTHROPIC: (anthropic.APIStatusError,),
    GEMINI: (google.APIError,),
}
REFUSED: dict[int, dict[str, type[Exception]]] = {
    400: {
        CHAT: openai.BadRequestError,
        RESPONSES: openai.BadRequestError,
        ANTHROPIC: anthropic.BadRequestError,
        GEMINI: google.ClientError,
    },
    429: {
        CHAT: openai.RateLimitError,
        RESPONSES: openai.RateLimitError,
        ANTHROPIC: anthropic.RateLimitError,
        GEMINI: google.ClientError,
    },
    503: {
        CHAT: openai.InternalServerError,
        RESPONSES: openai.InternalServerError,
        ANTHROPIC: anthropic.InternalServerError,
        GEMINI: google.ServerError,
    },
}
REFUSALS = {
    CHAT: {"error": {"message": "Oh", "type": "x", "param": None, "code": None}},
    RESPONSES: {"error": {"message": "Oh", "type": "x", "param": None, "code": None}},
    ANTHROPIC: {"type": "error", "error": {"type": "api_error", "message": "Oh"}},
    GEMINI: {"error": {"code": 400, "message": "Oh", "status": "INVALID_ARGUMENT"}},
    COHERE: {"id": "1", "message": "Oh"},
    BEDROCK: {"message": "Oh"},
}


async def begin(request: web.Request, source: str) -> web.StreamResponse:
    """Send the opening of a stream."""
    kind = CONTENT_TYPE if source == BEDROCK else "text/event-stream"
    response = web.StreamResponse(headers={"content-type": kind})
    await response.prepare(request)
    await response.write(opening(source))
    return response


def goes_on(source: str, more: bytes) -> Script:
    """Send the opening, something else, and a proper end of the body."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = await begin(request, source)
        await response.write(more)
        return response

    return script


def is_cut(source: str) -> Script:
    """Send the opening and cut the connection."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = await begin(request, source)
        assert request.transport is not None
        request.transport.close()
        return response

    return script


def lives(source: str) -> Script:
    """Send the opening, and then signs of life until the other side hangs up."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = await begin(request, source)
        while True:
            await response.write(ALIVE[source])
            await asyncio.sleep(0.02)

    return script


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def behind() -> AsyncIterator[World]:
    """Yield a gateway before faulty upstreams, whose calls all have a hold."""
    async with world(
        more='timeout = { connect = "2s", first = "20s", idle = "300ms" }',
        budget='budget = ["1000/day"]',
    ) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def patient() -> AsyncIterator[World]:
    """Yield the same with time-outs as they are by default."""
    async with world(budget='budget = ["1000/day"]') as one:
        yield one


def settled(one: World) -> None:
    """Check that nothing is held."""
    states = one.daemon.server.daemon.gate.purse.states()
    assert states and all(state.held_nanousd == 0 for state in states)


async def told(one: World, client: str, model: str) -> tuple[bool, Exception | None]:
    """Return whether a library showed some of a stream, and what it raised then.

    Responses tell an error as an event of the stream too, which its library shows.
    """
    try:
        chunks = await one.ask(client, model, True)
    except Exception as error:  # noqa: BLE001 - of three libraries, each its own
        return False, error
    last: Any = chunks[-1]
    if client == RESPONSES and last.type in ("error", "response.failed"):
        assert isinstance(last.sequence_number, int)
        return True, openai.APIError(str(last), None, body=None)  # type: ignore[arg-type]
    return True, None


BROKEN: dict[str, tuple[Callable[[str], Script], str]] = {
    "cut": (is_cut, "upstream_broke"),
    "ended early": (lambda source: goes_on(source, b""), "upstream_broke"),
    "error event": (lambda source: goes_on(source, FAILED[source]), "upstream_broke"),
    "garbage": (
        lambda source: goes_on(source, GARBAGE.get(source, b"data: {]\n\n")),
        "upstream_broke",
    ),
    "signs of life alone": (lives, "upstream_timeout"),
}


@pytest.mark.parametrize("fault", BROKEN)
@pairs
async def test_a_stream_that_breaks_is_an_error_in_the_caller_s_words(
    behind: World, client: str, source: str, fault: str
) -> None:
    """The library raises, as it does on its own provider's errors; what came is billed, marked."""
    if client == source == GEMINI and fault == "signs of life alone":
        pytest.skip("Google sends none, and its library takes one for a broken answer")
    if source == BEDROCK and fault == "signs of life alone":
        pytest.skip("AWS's streams have none")
    script, ending = BROKEN[fault]
    behind.upstream.script = script(source)
    _, error = await told(behind, client, MODELS[source])
    row = await behind.row()
    # The client had seen some of it; garbage may come in one piece with the opening.
    assert row.call.first_ms is not None or fault == "garbage"
    if fault == "garbage" and client == source:
        # What cannot be read passes as it came; that the answer never ended is the fault.
        assert row.call.ending == "upstream_broke"
    elif error is None or not isinstance(error, RAISED[client]):
        raise AssertionError(f"{client} from {source} on {fault}: {error!r}")
    assert row.call.ending == ending
    assert row.call.estimated
    assert row.call.cost_nanousd > 0
    settled(behind)


@pytest.mark.parametrize("status", REFUSED)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pairs
async def test_a_refusal_before_the_answer_is_the_library_s_own_exception(
    behind: World, client: str, source: str, stream: bool, status: int
) -> None:
    """With the provider's status and words; it costs nothing."""
    body = web.json_response(REFUSALS[source]).body
    assert isinstance(body, bytes)
    behind.upstream.script = None
    behind.upstream.answer = (status, "application/json", body)
    with pytest.raises(REFUSED[status][client]) as caught:
        await behind.ask(client, MODELS[source], stream)
    assert "Oh" in str(caught.value)
    row = await behind.row()
    assert (row.call.ending, row.call.cost_nanousd) == ("upstream_refused", 0)
    assert row.attempts[0].status == status
    settled(behind)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pairs
async def test_a_page_with_status_200_is_no_answer(
    behind: World, client: str, source: str, stream: bool
) -> None:
    """A portal, a proxy's notice: an error of the gateway's before anything is shown."""
    behind.upstream.script = None
    behind.upstream.answer = (200, "text/html", b"<html>Log in</html>")
    with pytest.raises(RAISED[client]) as caught:
        await behind.ask(client, MODELS[source], stream)
    assert getattr(caught.value, "status_code", getattr(caught.value, "code", None)) == 502
    assert (await behind.row()).call.ending == "garbage"
    settled(behind)


@pytest.mark.parametrize(
    ("client", "source"), [one for one in EVERY_PAIR if one[0] != one[1]], ids="-".join
)
async def test_a_whole_answer_where_a_stream_was_asked_is_a_stream(
    behind: World, client: str, source: str
) -> None:
    """Some servers do not stream; the library gets its events all the same."""
    behind.upstream.script = None
    behind.upstream.answer = None
    chunks = await behind.ask(client, MODELS[source], True)
    assert len(chunks) > 0
    row = await behind.row()
    assert (row.call.ending, row.call.estimated) == ("answered", False)
    settled(behind)


PATHS = {
    CHAT: "/v1/chat/completions",
    RESPONSES: "/v1/responses",
    ANTHROPIC: "/v1/messages",
    GEMINI: "/v1beta/models/{}:streamGenerateContent?alt=sse",
}


def asking(client: str, model: str) -> tuple[str, dict[str, Any]]:
    """Return path and body of a request for a stream."""
    body: dict[str, Any] = {"model": model, "stream": True, "max_tokens": 99}
    body["messages"] = [{"role": "user", "content": "Hi"}]
    if client == RESPONSES:
        body = {"model": model, "stream": True, "input": "Hi"}
    if client == GEMINI:
        body = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}
    return PATHS[client].format(model), body


@pairs
async def test_a_client_that_leaves_ends_the_call(patient: World, client: str, source: str) -> None:
    """The upstream is hung up on, and what had come out is billed."""
    left = asyncio.Event()

    async def script(request: web.Request) -> web.StreamResponse:
        response = await begin(request, source)
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        return response

    patient.upstream.script = script
    path, body = asking(client, MODELS[source])
    before = len(recent(patient.daemon.server.daemon.ledger.path, limit=1000))
    url = f"http://127.0.0.1:{patient.daemon.port}{path}"
    headers = {"authorization": f"Bearer {KEY}"}
    async with patient.over.stream("POST", url, json=body, headers=headers) as reply:
        async for _ in reply.aiter_raw():
            break
    row = await patient.row()
    assert row.call.ending == "client_left"
    assert row.call.cost_nanousd > 0
    assert len(recent(patient.daemon.server.daemon.ledger.path, limit=1000)) == before + 1
    await until(left.is_set)
    settled(patient)


LIMITED: dict[str, dict[str, Any]] = {
    CHAT: {"max_tokens": 16},
    RESPONSES: {"max_output_tokens": 16},
    ANTHROPIC: {"max_tokens": 16},
    GEMINI: {"config": {"max_output_tokens": 16}},
}


@pairs
async def test_a_stream_that_passes_its_hold_ends_as_at_its_limit(
    patient: World, client: str, source: str
) -> None:
    """An upstream that breaks the limit it was given: the library sees a proper end."""
    last = splitter(source).feed(opening(source))[-1]
    reader = UPSTREAMS[source].codec.events(Conversation(source, "m", ()), frozenset())
    (text,) = [one.text for one in reader.event(last) if isinstance(one, TextDelta)]
    written = json.dumps(text, ensure_ascii=False)[1:-1].encode()
    assert written in last.raw
    much = last.raw.replace(written, written * 300)
    if source == BEDROCK:
        data = (last.data or b"").replace(written, written * 300)
        much = framed(data, event_type=b"contentBlockDelta")

    async def script(request: web.Request) -> web.StreamResponse:
        response = await begin(request, source)
        while True:
            await response.write(much)

    patient.upstream.script = script
    chunks = await patient.ask(client, MODELS[source], True, **LIMITED[client])
    assert seen(client, chunks)["stop"] == "length"
    if client == RESPONSES:
        assert chunks[-1].sequence_number == chunks[-2].sequence_number + 1
    row = await patient.row()
    assert row.call.ending == "at_cap"
    assert row.call.cost_nanousd > 0
    settled(patient)


@pytest.mark.parametrize("source", [CHAT, ANTHROPIC])
async def test_a_long_silence_is_filled_as_each_dialect_does(source: str) -> None:
    """OpenAI's by comments, Anthropic's by pings; Google's, whose library dies on them, by none."""
    fillers = {
        CHAT: b": keep-alive\n\n",
        RESPONSES: b": keep-alive\n\n",
        ANTHROPIC: b'event: ping\ndata: {"type": "ping"}\n\n',
    }
    go_on = asyncio.Event()

    async def script(request: web.Request) -> web.StreamResponse:
        response = await begin(request, source)
        await go_on.wait()
        return response

    async with world(server='keepalive = "50ms"') as one:
        one.upstream.script = script
        heard: dict[str, bytes] = dict.fromkeys(CLIENTS, b"")

        async def listen(client: str) -> None:
            path, body = asking(client, MODELS[source])
            url = f"http://127.0.0.1:{one.daemon.port}{path}"
            headers = {"authorization": f"Bearer {KEY}"}
            async with one.over.stream("POST", url, json=body, headers=headers) as reply:
                async for data in reply.aiter_raw():
                    heard[client] += data

        listening = [asyncio.create_task(listen(client)) for client in CLIENTS]
        await until(
            lambda: (
                all(heard[client].count(filler) >= 2 for client, filler in fillers.items())
                and bool(heard[GEMINI])
            )
        )
        go_on.set()
        await asyncio.gather(*listening)
        assert heard[GEMINI].startswith(b"data: ")
        assert b"ping" not in heard[GEMINI] and b": keep-alive" not in heard[GEMINI]
        for client, filler in fillers.items():
            others = set(fillers.values()) - {filler}
            assert not any(other in heard[client] for other in others)
