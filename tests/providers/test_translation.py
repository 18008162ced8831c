"""Every recorded answer, in the other dialect: what the official clients make of it, and ours."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestServer
from anthropic.types import Message, RawMessageStreamEvent
from google import genai
from google.genai.types import GenerateContentConfig, GenerateContentResponse, HttpOptions
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from translated import (
    ANTHROPIC,
    CODECS,
    GEMINI,
    OPENAI,
    RESPONSES,
    answered,
    asked,
    client_call,
    codec_of,
    countable,
    events,
    fold_of,
    gist,
    loose,
    no_request,
    recorded,
    spoken,
    streamed,
)
from wire.recordings import Recording

from tollway.providers.canon import Call
from tollway.providers.conversation import Text
from tollway.providers.dialects.dialect import Facts
from tollway.providers.dialects.json_by_tool import by_tool
from tollway.providers.errors import Untranslatable
from tollway.providers.events import Answer, Choice, Event
from tollway.providers.fold import unfold
from tollway.providers.sse import Splitter

ANSWERS = answered()
ANTHROPIC_EVENTS: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
RESPONSES_EVENTS: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
HELLO: Any = [{"role": "user", "content": "Hi"}]

every_answer = pytest.mark.parametrize("recording", ANSWERS, ids=lambda one: one.id)


def of(recording: Recording) -> tuple[list[Event], Answer]:
    """Return an answer's events, made of the whole where it was not streamed, and the whole."""
    found, answer = recorded(recording)
    return found or list(unfold(answer)), answer


@every_answer
def test_a_streamed_answer_says_the_same_in_every_dialect(recording: Recording) -> None:
    """What a stream says survives: text, thoughts, calls, why it stopped, each class of usage.

    Cached, written, reasoned, searched for: each class has a price of its own.
    """
    found, answer = of(recording)
    for codec in CODECS.values():
        written = streamed(codec, found)
        again = fold_of(events(codec, no_request(codec), frozenset(), written))
        same = loose if codec is GEMINI else dict  # where calls come whole, as in whole answers
        assert same(gist(again, codec)) == same(gist(answer, codec)), codec.name
        assert again.usage == (answer.usage and countable(answer.usage, codec)), codec.name


@every_answer
def test_a_whole_answer_says_the_same_in_every_dialect(recording: Recording) -> None:
    """So does what a client gets that asked for no stream."""
    _, answer = of(recording)
    for codec in CODECS.values():
        written = codec.writer(client_call(codec, stream=False)).whole(answer)
        again = codec.events(no_request(codec), frozenset()).whole(written)
        assert loose(gist(again, codec)) == loose(gist(answer, codec)), codec.name


@pytest.mark.parametrize(
    "recording", [one for one in ANSWERS if codec_of(one) is ANTHROPIC], ids=lambda one: one.id
)
def test_in_its_own_words_nothing_at_all_is_lost(recording: Recording) -> None:
    """Hosted tools and their results, citations, redacted thoughts, the life of cache entries."""
    found, answer = of(recording)
    written = streamed(ANTHROPIC, found)
    again = fold_of(events(ANTHROPIC, no_request(ANTHROPIC), frozenset(), written))
    assert again == answer
    whole = ANTHROPIC.writer(client_call(ANTHROPIC)).whole(answer)
    assert ANTHROPIC.events(no_request(ANTHROPIC), frozenset()).whole(whole) == answer


@every_answer
def test_anthropics_types_take_every_event(recording: Recording) -> None:
    """Each event is one of the dialect's, and blocks begin and end in order, one at a time."""
    found, answer = of(recording)
    written = streamed(ANTHROPIC, found)
    last, opened = -1, False
    for event in Splitter().feed(written):
        assert event.data is not None and event.name is not None
        said = json.loads(event.data)
        assert event.name.decode() == said["type"]
        if "content_block" in said and said["content_block"]["type"].startswith("mcp_"):
            last += 1  # of a beta, whose blocks the types do not have
            opened = True
            continue
        ANTHROPIC_EVENTS.validate_python(said)
        match said["type"]:
            case "content_block_start":
                assert not opened and said["index"] == last + 1
                last, opened = said["index"], True
            case "content_block_delta":
                assert opened and said["index"] == last
            case "content_block_stop":
                assert opened and said["index"] == last
                opened = False
            case "message_delta" | "message_stop":
                assert not opened
    body = json.loads(ANTHROPIC.writer(client_call(ANTHROPIC)).whole(answer))
    if not any(block["type"].startswith("mcp_") for block in body["content"]):
        Message.model_validate(body)


@every_answer
def test_openais_types_take_every_chunk(recording: Recording) -> None:
    """Each chunk is one of the dialect's, and all belong to one answer."""
    found, answer = of(recording)
    ids = set()
    written = Splitter().feed(streamed(OPENAI, found))
    for event in written[:-1]:
        if b'"type":"custom"' in (event.data or b""):
            continue  # the types of streams do not have plain-text tools, though OpenAI does
        chunk = ChatCompletionChunk.model_validate_json(event.data or b"")
        ids.add(chunk.id)
    assert len(ids) == 1
    assert written[-1].data == b"[DONE]"
    body = json.loads(OPENAI.writer(client_call(OPENAI)).whole(answer))
    if answer.usage is None:
        assert "usage" not in body
    ChatCompletion.model_validate(body)


@every_answer
def test_the_types_of_responses_take_every_event(recording: Recording) -> None:
    """Events are numbered; each item and part has its beginning, and an end that repeats it."""
    found, answer = of(recording)
    last = -1
    begun: list[dict[str, Any]] = []
    ended: list[dict[str, Any]] = []
    final: dict[str, Any] = {}
    for event in Splitter().feed(streamed(RESPONSES, found)):
        assert event.data is not None and event.name is not None
        said = json.loads(event.data)
        RESPONSES_EVENTS.validate_python(said)
        assert event.name.decode() == said["type"]
        assert said["sequence_number"] == last + 1
        last += 1
        if said["type"] == "response.output_item.added":
            assert len(begun) == len(ended)  # one at a time
            begun.append(said["item"])
        elif said["type"] == "response.output_item.done":
            ended.append(said["item"])
        final = said.get("response") or final
    assert ended == final["output"]
    for first, whole in zip(begun, ended, strict=True):
        # What encrypted thoughts are called is told behind them.
        assert first["type"] == whole["type"]
        assert first["id"] == whole["id"] or whole.get("encrypted_content")
    Response.model_validate_json(RESPONSES.writer(client_call(RESPONSES)).whole(answer))


@every_answer
def test_googles_types_take_every_chunk(recording: Recording) -> None:
    """Each chunk is an answer of its own; the last says why it stopped.

    Google's own last one has an empty text: programs read the first part of each without a look.
    """
    found, answer = of(recording)
    chunks = [event.data or b"" for event in Splitter().feed(streamed(GEMINI, found))]
    read = [GenerateContentResponse.model_validate_json(chunk) for chunk in chunks]
    if answer.choices:
        assert all(one.finish_reason for one in read[-1].candidates or ())
        assert read[-1].candidates
    assert not any(one.finish_reason for chunk in read[:-1] for one in chunk.candidates or ())
    shown = [one.content for chunk in read for one in chunk.candidates or () if one.content]
    assert all(content.parts for content in shown)
    GenerateContentResponse.model_validate_json(GEMINI.writer(client_call(GEMINI)).whole(answer))


@pytest.fixture(scope="module")
def written_streams() -> dict[str, bytes]:
    """Every recorded answer in each dialect, by the path to ask for it at."""
    return {
        f"/{name}/{place}": streamed(codec, of(recording)[0])
        for name, codec in CODECS.items()
        for place, recording in enumerate(ANSWERS)
    }


@pytest.fixture
async def server(written_streams: dict[str, bytes]) -> AsyncIterator[BaseTestServer]:
    """Serve every answer in each dialect."""

    async def answer(request: web.Request) -> web.Response:
        path = "/" + "/".join(request.path.split("/")[1:3])
        return web.Response(body=written_streams[path], content_type="text/event-stream")

    app = web.Application()
    app.router.add_post("/{tail:.*}", answer)
    async with TestServer(app) as started:
        yield started


async def test_anthropics_client_makes_the_same_of_every_stream(
    server: BaseTestServer,
) -> None:
    """The official library, over a socket: its final message has the text and calls recorded."""
    client = anthropic.AsyncAnthropic(api_key="none", max_retries=0)
    for place, recording in enumerate(ANSWERS):
        url = str(server.make_url(f"/{ANTHROPIC.name}/{place}"))
        asking = client.with_options(base_url=url).messages
        async with asking.stream(model="m", max_tokens=9, messages=HELLO) as stream:
            message = await stream.get_final_message()
        meant = gist(of(recording)[1], ANTHROPIC)
        choice = meant["choices"][0] if meant["choices"] else None
        if choice is None:
            continue
        texts = [block.text for block in message.content if block.type == "text"]
        calls = [block for block in message.content if block.type == "tool_use"]
        assert "".join(texts) == choice["text"], recording.id
        assert [call.name for call in calls] == [name for _, name, _ in choice["calls"]]
        if message.stop_reason == "tool_use":
            assert [call.input for call in calls] == [said for _, _, said in choice["calls"]]
        if meant["usage"]:
            assert message.usage.output_tokens == meant["usage"]["output"], recording.id
            assert message.usage.cache_read_input_tokens == meant["usage"]["cached"]
    await client.close()


async def test_openais_client_makes_the_same_of_every_stream(server: BaseTestServer) -> None:
    """The official library, over a socket: its chunks add up to the text and calls recorded."""
    client = openai.AsyncOpenAI(api_key="none", max_retries=0)
    for place, recording in enumerate(ANSWERS):
        url = str(server.make_url(f"/{OPENAI.name}/{place}"))
        asking = client.with_options(base_url=url).chat.completions
        stream = await asking.create(model="m", messages=HELLO, stream=True)
        chunks = [chunk async for chunk in stream]
        meant = gist(of(recording)[1], OPENAI)
        for index, said in enumerate(meant["choices"]):
            choices = [one for chunk in chunks for one in chunk.choices if one.index == index]
            assert "".join(one.delta.content or "" for one in choices) == said["text"]
            assert "".join(one.delta.refusal or "" for one in choices) == said["refusal"]
            begun = [call.id for one in choices for call in one.delta.tool_calls or () if call.id]
            assert len(begun) == len(said["calls"]), recording.id
            assert [one.finish_reason for one in choices if one.finish_reason]
        if meant["usage"]:
            used = chunks[-1].usage
            assert used is not None
            assert used.prompt_tokens == meant["usage"]["input"]
            assert used.completion_tokens == meant["usage"]["output"]
    await client.close()


async def test_openais_client_makes_the_same_of_every_response(server: BaseTestServer) -> None:
    """The official library, over a socket: its last event holds the answer recorded."""
    client = openai.AsyncOpenAI(api_key="none", max_retries=0)
    for place, recording in enumerate(ANSWERS):
        url = str(server.make_url(f"/{RESPONSES.name}/{place}"))
        asking = client.with_options(base_url=url).responses
        stream = await asking.create(model="m", input="Hi", stream=True)
        last = [event async for event in stream][-1]
        assert last.type in ("response.completed", "response.incomplete"), recording.id
        response = last.response
        meant = gist(of(recording)[1], RESPONSES)
        if not meant["choices"]:
            continue
        choice = meant["choices"][0]
        assert response.output_text == choice["text"], recording.id
        calls = [
            item.name
            for item in response.output
            if item.type in ("function_call", "custom_tool_call")
        ]
        assert calls == [name for _, name, _ in choice["calls"]], recording.id
        if meant["usage"]:
            assert response.usage is not None
            assert response.usage.input_tokens == meant["usage"]["input"]
            assert response.usage.output_tokens == meant["usage"]["output"]
    await client.close()


async def test_googles_client_makes_the_same_of_every_stream(server: BaseTestServer) -> None:
    """The official library, over a socket: its chunks add up to the text and calls recorded."""
    over = httpx2.AsyncClient()  # its own choice, aiohttp, makes that one warn
    client = genai.Client(api_key="none", http_options=HttpOptions(httpx_async_client=over))
    for place, recording in enumerate(ANSWERS):
        url = str(server.make_url(f"/{GEMINI.name}/{place}"))
        stream = await client.aio.models.generate_content_stream(
            model="m",
            contents="Hi",
            config=GenerateContentConfig(http_options=HttpOptions(base_url=url)),
        )
        chunks = [chunk async for chunk in stream]
        meant = gist(of(recording)[1], GEMINI)
        for index, said in enumerate(meant["choices"]):
            parts = [
                part
                for chunk in chunks
                for one in chunk.candidates or ()
                if (one.index or 0) == index and one.content
                for part in one.content.parts or ()
            ]
            text = "".join(part.text or "" for part in parts if not part.thought)
            assert text == said["text"], recording.id
            calls = [part.function_call for part in parts if part.function_call]
            assert [call.name for call in calls] == [name for _, name, _ in said["calls"]]
        if meant["usage"]:
            used = chunks[-1].usage_metadata
            assert used is not None
            assert used.prompt_token_count == meant["usage"]["input"]
            made = (used.candidates_token_count or 0) + (used.thoughts_token_count or 0)
            assert made == meant["usage"]["output"]
    await over.aclose()


STREAMED = [one for one in spoken() if one.streamed and one.body[:1] != b"["]
# The other two dialects have the same test in files of their own.
CHUNKED = [one for one in STREAMED if codec_of(one) in (OPENAI, ANTHROPIC)]


@pytest.mark.parametrize("recording", CHUNKED, ids=lambda one: one.id)
def test_events_do_not_depend_on_where_a_stream_is_cut(recording: Recording) -> None:
    """Byte by byte, within characters and between CR and LF, a stream means the same."""
    codec = codec_of(recording)
    assert codec is not None
    said, body = asked(recording), recording.body
    if len(body) > 20_000 and (end := body.find(b"\n\n", 10_000)) > 0:
        body = body[: end + 2]
    meant = events(codec, said, recording.quirks, body)
    single = [body[at : at + 1] for at in range(len(body))]
    assert events(codec, said, recording.quirks, *single) == meant
    for at in range(1, len(body), max(1, len(body) // 10)):
        assert events(codec, said, recording.quirks, body[:at], body[at:]) == meant


@pytest.mark.long
@pytest.mark.parametrize("recording", STREAMED, ids=lambda one: one.id)
def test_events_do_not_depend_on_any_cut(recording: Recording) -> None:
    """The same for a cut at every byte; slow, so not in every run."""
    codec = codec_of(recording)
    assert codec is not None
    said = asked(recording)
    body = b"\n\n".join(recording.body.replace(b"\r\n", b"\n").split(b"\n\n")[:60]) + b"\n\n"
    meant = events(codec, said, recording.quirks, body)
    for at in range(1, len(body)):
        assert events(codec, said, recording.quirks, body[:at], body[at:]) == meant


@pytest.mark.parametrize("recording", CHUNKED, ids=lambda one: one.id)
def test_line_ends_do_not_matter(recording: Recording) -> None:
    """A stream with CRLF means what it means with LF."""
    codec = codec_of(recording)
    assert codec is not None
    plain = recording.body.replace(b"\r\n", b"\n")
    said = asked(recording)
    meant = events(codec, said, recording.quirks, plain)
    assert events(codec, said, recording.quirks, plain.replace(b"\n", b"\r\n")) == meant


@pytest.mark.parametrize("recording", spoken(), ids=lambda one: one.id)
def test_a_recorded_request_is_said_in_every_dialect_or_refused(recording: Recording) -> None:
    """What one dialect writes, it reads as the same conversation, but for what it names."""
    said = asked(recording)
    for codec in CODECS.values():
        try:
            written = codec.write_request(said, Facts("claude-sonnet-4-5"))
        except Untranslatable as refusal:
            assert refusal.param in ("tools", "n", "messages", "response_format", "modalities")
            continue
        again = codec.read_request(Call("chat", codec.name, "claude-sonnet-4-5", written.body))
        # Any JSON is asked for by a tool where the target promises none otherwise.
        tools = by_tool(said).tools if codec is CODECS["anthropic_messages"] else said.tools
        assert [tool.name for tool in again.tools if hasattr(tool, "name")] == [
            tool.name for tool in tools if hasattr(tool, "name")
        ]
        once = codec.write_request(again, Facts("claude-sonnet-4-5"))
        assert json.loads(once.body) == json.loads(written.body), codec.name


def test_a_whole_chat_answer_has_all_that_openai_s_have() -> None:
    """OpenRouter's library reads none without a fingerprint, and takes null for one."""
    answer = Answer((Choice((Text("Hi"),), "end"),), id="a", model="m")
    body = json.loads(OPENAI.writer(client_call(OPENAI)).whole(answer))
    said = {"id", "object", "created", "model", "choices", "system_fingerprint"}
    assert said <= set(body) and body["system_fingerprint"] is None
