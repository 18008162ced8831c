"""What one call costs in the client towards providers: ours, aiohttp's, and a bare protocol.

Run with `python benchmarks/transport.py`: an upstream process on one core, the clients on another,
by turns, so that a busy machine hurts all alike. Shown are calls a second, the client's own CPU
time for a call (or for a streamed piece), and both as ratios to aiohttp's in the same run. The
bare protocol does nothing right but the sunny case: it is the floor.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import aiohttp
import httptools
import uvloop

from tollway.providers.http.client import HttpTransport
from tollway.providers.transport import Request

BODY = b'{"model": "m", "messages": [{"role": "user", "content": "%s"}]}' % (b"q" * 345)
SAID = b'{"choices": [{"message": {"role": "assistant", "content": "%s"}}]}' % (b"a" * 637)
HEADERS = {
    "Authorization": "Bearer sk-0123456789012345678901234567890123456789",
    "Content-Type": "application/json",
    "Accept": "*/*",
    "User-Agent": "tollway",
}
ANSWER_HEAD = (
    b"HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2029 00:00:00 GMT\r\nServer: uvicorn\r\n"
    b"X-Request-Id: req_0123456789\r\nX-RateLimit-Remaining: 59\r\n"
)
WHOLE = b"%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    ANSWER_HEAD,
    len(SAID),
    SAID,
)
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": " token"}}], "id": "%s"}\n\n' % (
    b"c" * 120
)
CHUNK = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)
STREAM_HEAD = b"%sContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" % (
    ANSWER_HEAD
)
EVENTS = 200  # of one stream
PACE_S = 0.002  # between two events of one stream, so that each comes alone

Caller = Callable[[], Awaitable[int]]


class Upstream(asyncio.Protocol):
    """Answers at once, or with paced events where the path says `stream`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._got = b""

    def data_received(self, data: bytes) -> None:
        """Answer each whole request; all have bodies of the same length."""
        self._got += data
        while (end := self._got.find(b"\r\n\r\n")) >= 0 and len(self._got) >= end + 4 + len(BODY):
            streamed = self._got.startswith(b"POST /stream")
            self._got = self._got[end + 4 + len(BODY) :]
            if streamed:
                self._transport.write(STREAM_HEAD)
                self._event(EVENTS)
            else:
                self._transport.write(WHOLE)

    def _event(self, left: int) -> None:
        if not left:
            self._transport.write(b"0\r\n\r\n")
            return
        self._transport.write(CHUNK)
        asyncio.get_running_loop().call_later(PACE_S, self._event, left - 1)


async def serve() -> None:
    """Be the upstream until killed; the port is the one line of output."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class Bare(asyncio.Protocol):
    """The least that a client on asyncio and httptools can do."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self.pieces: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        """Parse, then wake."""
        self._parser.feed_data(data)
        if self._waiter and not self._waiter.done() and (self.pieces or self._ended):
            self._waiter.set_result(None)

    def on_body(self, body: bytes) -> None:
        """Keep."""
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        """End."""
        self._ended = True

    async def call(self, path: str) -> int:
        """Make one call; return the pieces that its body came in."""
        self._ended, seen = False, 0
        lines = [f"{name}: {value}\r\n" for name, value in HEADERS.items()]
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{''.join(lines)}\r\n"
        self._transport.write(head.encode() + BODY)
        while not self._ended or self.pieces:
            if self.pieces:
                b"".join(self.pieces)
                self.pieces.clear()
                seen += 1
                continue
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return seen


@asynccontextmanager
async def client(kind: str, port: int, path: str) -> AsyncIterator[Callable[[], Caller]]:
    """Give a function that makes one caller, which makes one call each time it is called."""
    url = f"http://127.0.0.1:{port}{path}"
    if kind == "aiohttp":
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:

            async def by_aiohttp() -> int:
                seen = 0
                async with session.post(url, data=BODY, headers=HEADERS) as got:
                    async for _ in got.content.iter_any():
                        seen += 1
                return seen

            yield lambda: by_aiohttp
    elif kind == "tollway":
        transport = HttpTransport()
        headers = tuple(HEADERS.items())

        async def by_tollway() -> int:
            seen = 0
            got = await transport.send(Request(url=url, headers=headers, body=BODY))
            async for _ in got.chunks():
                seen += 1
            await got.close()
            return seen

        yield lambda: by_tollway
        await transport.close()
    else:
        loop = asyncio.get_running_loop()

        def bare() -> Caller:
            made: list[Bare] = []

            async def by_bare() -> int:
                if not made:
                    made.append((await loop.create_connection(Bare, "127.0.0.1", port))[1])
                return await made[0].call(path)

            return by_bare

        yield bare


async def measure(kind: str, port: int, path: str, callers: int, calls: int) -> tuple[float, float]:
    """Return calls (or pieces) a second, and the microseconds of CPU that each took."""
    async with client(kind, port, path) as new_caller:
        each = [new_caller() for _ in range(callers)]

        async def run(caller: Caller, times: int) -> int:
            return sum([await caller() for _ in range(times)])

        await asyncio.gather(*[run(caller, 1) for caller in each])
        wall, cpu = time.perf_counter(), time.process_time()
        seen = sum(await asyncio.gather(*[run(caller, calls // callers) for caller in each]))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return seen / wall, cpu / seen * 1e6


def main() -> None:
    """Measure by turns, and print the medians."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--serve", action="store_true", help="be the upstream")
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--calls", type=int, default=6400)
    options = asked.parse_args()
    if options.serve:
        uvloop.run(serve())
        return
    cores = sorted(os.sched_getaffinity(0))
    upstream = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE)
    assert upstream.stdout
    try:
        os.sched_setaffinity(upstream.pid, {cores[-1]})
        os.sched_setaffinity(0, {cores[0]})
        port = int(upstream.stdout.readline())
        for title, path, callers, calls in [
            ("1 caller, whole answers", "/v1", 1, options.calls),
            ("32 callers, whole answers", "/v1", 32, options.calls),
            (f"50 streams of {EVENTS} paced events", "/stream", 50, 100),
        ]:
            found: dict[str, list[tuple[float, float]]] = {}
            for _ in range(options.rounds):
                for kind in ("aiohttp", "tollway", "bare"):
                    got = uvloop.run(measure(kind, port, path, callers, calls))
                    found.setdefault(kind, []).append(got)
            show(title, found)
    finally:
        upstream.kill()
        upstream.wait()
        upstream.stdout.close()


def show(title: str, found: dict[str, list[tuple[float, float]]]) -> None:
    """Print one table."""
    middle = {
        kind: [statistics.median(column) for column in zip(*rows, strict=True)]
        for kind, rows in found.items()
    }
    base = middle["aiohttp"]
    print(f"\n{title}")
    for kind, (rate, cpu) in middle.items():
        print(
            f"  {kind:8} {rate:9.0f}/s  {rate / base[0]:5.2f} x"
            f"   {cpu:7.1f} us CPU each  {cpu / base[1]:5.2f} x"
        )


if __name__ == "__main__":
    main()
