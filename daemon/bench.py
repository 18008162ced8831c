"""What `tollway bench` and `benchmarks/` measure with: callers that keep time.

Bare asyncio protocols, as is the upstream behind the gateway, so that what is measured is the
gateway between them.
"""

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import cast
from urllib.parse import urlsplit

import httptools
import msgspec

from tollway.daemon.bench_upstream import MODEL, BuiltInUpstream

__all__ = ["BenchResult", "BuiltInUpstream", "StreamResult", "measure", "measure_streams"]

_PATIENCE_S = 30


class BenchResult(msgspec.Struct, frozen=True):
    """Calls one after the other on each of some connections; times in milliseconds."""

    calls: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int = 0
    first_error: str = ""

    @property
    def calls_per_s(self) -> float:
        """Answered calls a second."""
        return self.calls / self.seconds


class StreamResult(msgspec.Struct, frozen=True):
    """Streams open at once. A gap is the silence between two reads of one stream."""

    streams: int
    events: int
    seconds: float
    first_p50_ms: float
    first_p99_ms: float
    gap_p99_ms: float  # of each stream's longest gap
    max_gap_ms: float
    errors: int = 0
    first_error: str = ""
    # While all of them streamed: from the last one's first event to the first one's end.
    steady_events: int = 0
    steady_cpu_s: float = 0.0  # that `cpu_s` grew by


def _percentile(values: list[float], part: float) -> float:
    """Return the value that `part` of all values do not pass; 0 where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0


async def measure(
    url: str, key: str, *, seconds: float, connections: int, model: str = MODEL
) -> BenchResult:
    """Return how fast chat completions come back, asked for in turn on each connection.

    `url` is a base URL as client libraries take it, "http://127.0.0.1:4141/v1". A fifth of a
    second goes by uncounted first. A connection that fails ends its part and counts as an error.

    Raises:
        OSError: Nobody answers there.
        ValueError: The URL is not plain HTTP.
    """
    callers = [_Caller() for _ in range(connections)]
    host, port, request = _request(url, key, model, stream=False)
    try:
        for caller in callers:
            await caller.connect(host, port)
        await asyncio.gather(*(caller.repeat(request, 0.2) for caller in callers))
        for caller in callers:
            caller.times_s.clear()
        began = perf_counter()
        await asyncio.gather(*(caller.repeat(request, seconds) for caller in callers))
        took = perf_counter() - began
    finally:
        await asyncio.gather(*(caller.hang_up() for caller in callers))
    times = [1000 * each for caller in callers for each in caller.times_s]
    faults = [caller.fault for caller in callers if caller.fault]
    return BenchResult(
        calls=len(times),
        seconds=took,
        p50_ms=_percentile(times, 0.5),
        p99_ms=_percentile(times, 0.99),
        errors=len(faults),
        first_error=faults[0] if faults else "",
    )


async def measure_streams(
    url: str,
    key: str,
    *,
    streams: int,
    within_s: float = 1.0,
    model: str = MODEL,
    cpu_s: Callable[[], float] = float,
) -> StreamResult:
    """Return how evenly that many streamed completions come in, opened within `within_s`.

    `cpu_s` returns the seconds of CPU that whoever stands between has used so far. Ends with the
    last stream, or 30 s after the last one spoke.

    Raises:
        OSError: Nobody answers there.
        ValueError: The URL is not plain HTTP.
    """
    host, port, request = _request(url, key, model, stream=True)
    steady = _Steady(streams, cpu_s)
    listeners = [_Listener(steady) for _ in range(streams)]
    began = perf_counter()

    async def listen(listener: _Listener, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        await listener.connect(host, port)
        await listener.listen(request)

    try:
        async with asyncio.TaskGroup() as tasks:
            for number, listener in enumerate(listeners):
                tasks.create_task(listen(listener, within_s * number / streams))
    except* OSError as faults:
        raise faults.exceptions[0] from None
    finally:
        await asyncio.gather(*(listener.hang_up() for listener in listeners))
    faulty = [listener.fault for listener in listeners if listener.fault]
    heard = [listener for listener in listeners if listener.events]
    firsts = [1000 * listener.first_s for listener in heard]
    gaps = [1000 * listener.gap_s for listener in heard]
    return StreamResult(
        streams=streams,
        events=sum(listener.events for listener in heard),
        seconds=perf_counter() - began,
        first_p50_ms=_percentile(firsts, 0.5),
        first_p99_ms=_percentile(firsts, 0.99),
        gap_p99_ms=_percentile(gaps, 0.99),
        max_gap_ms=max(gaps, default=0.0),
        errors=len(faulty),
        first_error=faulty[0] if faulty else "",
        steady_events=steady.events,
        steady_cpu_s=steady.cpu_s,
    )


def _request(url: str, key: str, model: str, *, stream: bool) -> tuple[str, int, bytes]:
    """Return where to connect and a request of about 400 bytes."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"only plain http:// is measured, not {parts.scheme or url}")
    body = msgspec.json.encode(
        {
            "model": model,
            "messages": [
                {"role": "system", "content": "You keep the gate. Answer in one sentence."},
                {"role": "user", "content": "What does it cost to pass? " * 2},
            ],
            "max_tokens": 200,
            "stream": stream,
        }
    )
    head = (
        f"POST {parts.path.rstrip('/')}/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\n"
        f"authorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return parts.hostname, parts.port or 80, head.encode() + body


class _Reader(asyncio.Protocol):
    """What both callers share: a connection, a parser, and the first thing that went wrong."""

    def __init__(self) -> None:
        self.fault = ""
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiting: asyncio.Future[None] | None = None
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._refusal = b""

    async def connect(self, host: str, port: int) -> None:
        """Open the connection."""
        await asyncio.get_running_loop().create_connection(lambda: self, host, port)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio.Transport in all but name.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"the connection was closed: {exc or 'by the other side'}")
        self._gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as fault:
            self._end(f"not HTTP: {fault}")
            if self._transport:
                self._transport.abort()

    def on_body(self, data: bytes) -> None:
        if self._parser.get_status_code() != 200:
            self._refusal += data[:500]

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        refusal = self._refusal[:500].decode(errors="replace")
        self._end("" if status == 200 else f"{status}: {refusal}")

    async def hang_up(self) -> None:
        """Close the connection, if there is one."""
        if self._transport:
            self._transport.abort()
            await self._gone

    async def ask(self, request: bytes) -> None:
        """Send a request and return when its answer has ended, or something went wrong."""
        if self._transport is None or self._transport.is_closing():
            self.fault = self.fault or "the connection was closed: by the other side"
            return
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._waiting

    def _end(self, fault: str) -> None:
        if self._waiting and not self._waiting.done():
            self.fault = self.fault or fault
            self._waiting.set_result(None)


class _Caller(_Reader):
    """Asks again as soon as it has an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.times_s: list[float] = []

    async def repeat(self, request: bytes, seconds: float) -> None:
        """Ask for so long, and a last time; stop at the first fault."""
        began = end = perf_counter()
        try:
            async with asyncio.timeout(seconds + _PATIENCE_S):
                while not self.fault and end - began < seconds:
                    start = perf_counter()
                    await self.ask(request)
                    end = perf_counter()
                    if not self.fault:
                        self.times_s.append(end - start)
        except TimeoutError:
            self.fault = f"no answer within {_PATIENCE_S} s"


class _Steady:
    """What happened while all streams were heard: none began, and none ended."""

    def __init__(self, streams: int, cpu_s: Callable[[], float]) -> None:
        self.events = 0
        self.cpu_s = 0.0
        self._count = cpu_s
        self._silent = streams  # that have not begun
        self._heard = 0
        self._began: tuple[int, float] | None = None

    def heard(self, events: int, *, first: bool) -> None:
        self._heard += events
        self._silent -= first
        if first and not self._silent:
            self._began = self._heard, self._count()

    def ended(self) -> None:
        if self._began is not None:
            self.events, self.cpu_s = self._heard - self._began[0], self._count() - self._began[1]
        self._began, self._silent = None, 0  # the first end is the last of it


class _Listener(_Reader):
    """Hears one stream and keeps its times, not its words."""

    def __init__(self, steady: _Steady) -> None:
        super().__init__()
        self._steady = steady
        self.events = 0
        self.first_s = 0.0
        self.gap_s = 0.0
        self._heard_s = 0.0
        self._tail = b""

    async def listen(self, request: bytes) -> None:
        """Hear one stream to its end."""
        self._heard_s = perf_counter()
        asked = asyncio.ensure_future(self.ask(request))
        try:
            while not (await asyncio.wait({asked}, timeout=1))[0]:
                if perf_counter() - self._heard_s > _PATIENCE_S:
                    self.fault = f"silent for {_PATIENCE_S} s"
                    return
        finally:
            asked.cancel()
            self._steady.ended()
        if not self.fault and b"[DONE]" not in self._tail:
            self.fault = "the stream ended without `[DONE]`"

    def on_body(self, data: bytes) -> None:
        super().on_body(data)
        now = perf_counter()
        silence, self._heard_s = now - self._heard_s, now
        # A blank line may fall between two reads.
        events = (self._tail[-1:] + data).count(b"\n\n")
        first = not self.events and events > 0
        self._steady.heard(events, first=first)
        if first:
            self.first_s = silence
        elif silence > self.gap_s:
            self.gap_s = silence
        self.events += events
        self._tail = (self._tail + data)[-20:]
