"""The upstream and the callers that measurements are made with."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import openai
import pytest

from tollway.daemon.bench import BuiltInUpstream, measure, measure_streams

# A stream's first chunk names the role, the last two say why it ended and that it did.
FRAME = 3


class Canned(asyncio.Protocol):
    """Says the same to every request that comes in, and hangs up if told to."""

    def __init__(self, answer: bytes, close: bool) -> None:
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answer = answer
        self._close = close
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer whatever it was."""
        self.transport.write(self._answer)
        if self._close:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so."""
        self.gone.set_result(None)


@asynccontextmanager
async def server(answer: bytes, *, close: bool = False) -> AsyncIterator[str]:
    """Serve the same bytes to every request that comes in."""
    made: list[Canned] = []

    def make() -> Canned:
        made.append(Canned(answer, close))
        return made[-1]

    listening = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
        for each in made:
            each.transport.abort()
        await asyncio.gather(*(each.gone for each in made))


def client(upstream: BuiltInUpstream) -> openai.AsyncOpenAI:
    """Return OpenAI's own client of an upstream."""
    return openai.AsyncOpenAI(base_url=upstream.url, api_key="any", max_retries=0)


async def test_the_upstream_answers_as_openai_does() -> None:
    """The official client reads its answer, its usage and its list of models."""
    async with BuiltInUpstream() as upstream, client(upstream) as asking:
        answer = await asking.chat.completions.create(
            model="bench", messages=[{"role": "user", "content": "Hello"}]
        )
        assert answer.choices[0].message.content
        assert answer.usage
        assert answer.usage.total_tokens == 200
        assert [model.id async for model in asking.models.list()] == ["bench"]
        assert upstream.calls == 1
        with pytest.raises(openai.NotFoundError):
            await asking.embeddings.create(model="bench", input="Hello")


@pytest.mark.parametrize("usage", [True, False])
async def test_the_upstream_streams_as_openai_does(usage: bool) -> None:
    """Every token in a chunk of its own; usage at the end for those who ask for it."""
    async with BuiltInUpstream(events=5, events_per_s=500) as upstream, client(upstream) as asking:
        stream = await asking.chat.completions.create(
            model="bench",
            messages=[{"role": "user", "content": "Hello"}],
            stream=True,
            stream_options={"include_usage": usage},
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        counts = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]
    assert text == " token" * 5
    assert counts == ([5] if usage else [])


async def test_a_measurement_counts_the_calls_that_were_answered() -> None:
    """What the caller counts is what the upstream saw, but for the warm-up."""
    async with BuiltInUpstream() as upstream:
        result = await measure(upstream.url, "any", seconds=0.05, connections=3)
        assert 0 < result.calls < upstream.calls
    assert not result.errors
    assert 0 < result.p50_ms <= result.p99_ms
    assert result.calls_per_s == pytest.approx(result.calls / result.seconds)


async def test_every_event_of_every_stream_is_heard() -> None:
    """No event is lost or counted twice where reads cut them anywhere."""
    async with BuiltInUpstream(events=30, events_per_s=500) as upstream:
        result = await measure_streams(upstream.url, "any", streams=40, within_s=0.01)
    assert not result.errors, result.first_error
    assert result.events == 40 * (30 + FRAME)
    assert 0 < result.first_p50_ms <= result.first_p99_ms
    assert 0 < result.gap_p99_ms <= result.max_gap_ms


async def test_what_an_event_costs_is_counted_while_all_stream() -> None:
    """Neither what the streams' beginnings took, nor what their ends took, is the events'."""
    asked = 0

    def cpu_s() -> float:
        nonlocal asked
        asked += 1
        return 2.5**asked

    async with BuiltInUpstream(events=200, events_per_s=100) as upstream:
        result = await measure_streams(upstream.url, "any", streams=5, within_s=0, cpu_s=cpu_s)
    assert not result.errors, result.first_error
    assert asked == 2
    assert result.steady_cpu_s == 2.5**2 - 2.5
    assert 0 < result.steady_events < result.events


async def test_a_connection_serves_one_stream_after_the_other() -> None:
    """A gateway keeps its connections: what a stream leaves behind must not reach the next."""
    async with BuiltInUpstream(events=2, events_per_s=500) as upstream, client(upstream) as asking:
        for _ in range(3):
            stream = await asking.chat.completions.create(
                model="bench", messages=[{"role": "user", "content": "Hello"}], stream=True
            )
            words = [chunk.choices[0].delta.content async for chunk in stream]
            assert words == ["", " token", " token", None]


REFUSAL = b'HTTP/1.1 401 Unauthorized\r\ncontent-length: 13\r\n\r\n{"error":"no"}'[:-1]


@pytest.mark.parametrize(
    ("answer", "close", "expected"),
    [
        (REFUSAL, False, '401: {"error":"no"'),
        (b"what?\r\n\r\n", False, "not HTTP"),
        (b"", True, "the connection was closed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", True, "the connection was closed"),
    ],
    ids=["refused", "garbage", "closed", "cut"],
)
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_bad_answer_is_an_error_and_not_a_fast_call(
    answer: bytes, close: bool, expected: str, streamed: bool
) -> None:
    """A gateway that refuses quickly must not look quick."""
    async with server(answer, close=close) as url:
        if streamed:
            streams = await measure_streams(url, "any", streams=2, within_s=0)
            assert (streams.errors, streams.events) == (2, 0)
            assert (streams.steady_events, streams.steady_cpu_s) == (0, 0.0)
            assert streams.first_error.startswith(expected)
        else:
            calls = await measure(url, "any", seconds=0.05, connections=2)
            assert (calls.errors, calls.calls) == (2, 0)
            assert calls.first_error.startswith(expected)


async def test_a_stream_without_its_end_is_an_error() -> None:
    """An answer that is whole as HTTP but lacks `[DONE]` was cut off on the way."""
    body = b'data: {"choices":[]}\n\n'
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    async with server(answer) as url:
        result = await measure_streams(url, "any", streams=1)
    assert result.first_error == "the stream ended without `[DONE]`"


MEASURES: list[Callable[[str], Awaitable[object]]] = [
    lambda url: measure(url, "any", seconds=0.01, connections=1),
    lambda url: measure_streams(url, "any", streams=2),
]


@pytest.mark.parametrize("measuring", MEASURES, ids=["calls", "streams"])
async def test_a_port_where_nobody_listens_is_told_at_once(
    measuring: Callable[[str], Awaitable[object]],
) -> None:
    """Nothing to measure is no measurement of nothing."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match=r"refused|Connect"):
            await measuring(f"http://127.0.0.1:{bound.getsockname()[1]}/v1")


@pytest.mark.parametrize("measuring", MEASURES, ids=["calls", "streams"])
@pytest.mark.parametrize("url", ["https://127.0.0.1/v1", "127.0.0.1:4141", "http:///v1"])
async def test_only_plain_http_is_measured(
    measuring: Callable[[str], Awaitable[object]], url: str
) -> None:
    """TLS would be measured with it, and nothing says so."""
    with pytest.raises(ValueError, match="only plain http"):
        await measuring(url)


async def test_the_upstream_hangs_up_when_it_closes() -> None:
    """A benchmark that ends early leaves no connection and no timer behind."""
    async with BuiltInUpstream(events=10_000, events_per_s=50) as upstream:
        listening = asyncio.ensure_future(measure_streams(upstream.url, "any", streams=3))
        async with asyncio.timeout(30):
            while upstream.calls < 3:  # noqa: ASYNC110 - it counts, and does not announce
                await asyncio.sleep(0)
    result = await listening
    assert result.errors == 3
    assert result.first_error.startswith("the connection was closed")
