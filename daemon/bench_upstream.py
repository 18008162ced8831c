"""The upstream that measurements are made against: a provider of the OpenAI dialect on loopback.

A bare asyncio protocol, so that it costs little beside the gateway that is measured. It answers
a chat completion of 700 bytes, or streams one at an even pace.
"""

import asyncio
import re
import sys
from itertools import cycle
from types import TracebackType
from typing import Self, cast

MODEL = "bench"
_PHASES = 20  # in how many groups streams take their turn within one interval
_HEAD_END = b"\r\n\r\n"

_SAID = "The toll is small and the road is good; every call is counted once, and paid once. "


def _chunk(delta: str, finish: str = "null", usage: str = "") -> bytes:
    choices = "[]" if usage else f'[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]'
    data = (
        'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1760000000,'
        f'"model":"{MODEL}","choices":{choices}{usage}}}\n\n'
    ).encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


def _usage(output: int) -> str:
    counts = f'"prompt_tokens":100,"completion_tokens":{output},"total_tokens":{100 + output}'
    return f'"usage":{{{counts}}}'


def _whole(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + _HEAD_END + body


_ANSWER = _whole(
    "200 OK",
    (
        '{"id":"chatcmpl-bench","object":"chat.completion","created":1760000000,'
        f'"model":"{MODEL}","choices":[{{"index":0,"message":{{"role":"assistant","content":'
        f'"{_SAID * 5}"}},"finish_reason":"stop"}}],{_usage(100)}}}'
    ).encode(),
)
_MODELS = _whole(
    "200 OK", f'{{"object":"list","data":[{{"id":"{MODEL}","object":"model"}}]}}'.encode()
)
_NOT_HERE = _whole("404 Not Found", b'{"error":{"message":"no such path","code":"not_found"}}')
_TOO_CLEVER = _whole("411 Length Required", b'{"error":{"message":"a Content-Length is needed"}}')
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked" + _HEAD_END
)
_STREAM = re.compile(rb'"stream":\s*true')
_USAGE = re.compile(rb'"include_usage":\s*true')
_FIRST = _chunk('{"role":"assistant","content":""}')
_TOKEN = _chunk('{"content":" token"}')
_LAST = _chunk("{}", '"stop"')
_DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class BuiltInUpstream:
    """A provider of the OpenAI dialect for measurements, on a port of its own on loopback.

    `async with BuiltInUpstream() as upstream`, then `upstream.url`. A stream has `events` tokens
    at `events_per_s`; streams take turns within an interval, so that they don't come in bursts.
    """

    def __init__(self, *, events: int = 100, events_per_s: float = 50.0, port: int = 0) -> None:
        self.url = ""  # known once it listens: "http://127.0.0.1:PORT/v1"
        self.calls = 0
        self._events = events
        self._tick_s = 1 / events_per_s / _PHASES
        self._port = port
        self._phases: list[set[_Served]] = [set() for _ in range(_PHASES)]
        self._turn = cycle(self._phases)  # whose streams speak next
        self._joins = cycle(self._phases)  # where a new stream finds its place
        self._ticking: asyncio.TimerHandle | None = None
        self._served: set[_Served] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Served(self), "127.0.0.1", self._port, backlog=4096
        )
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._ticking:
            self._ticking.cancel()
        if self._server:
            self._server.close()
        served = list(self._served)
        for each in served:
            each.close()
        await asyncio.gather(*(each.gone for each in served))

    def joined(self, served: "_Served") -> None:
        """Keep a connection, to be closed with the server."""
        self._served.add(served)

    def left(self, served: "_Served") -> None:
        """Forget a connection that is gone."""
        self._served.discard(served)
        for phase in self._phases:
            phase.discard(served)

    def stream(self, served: "_Served") -> None:
        """Give a connection its events from now on, one each interval."""
        served.left = self._events
        next(self._joins).add(served)
        if self._ticking is None:
            loop = asyncio.get_running_loop()
            self._ticking = loop.call_later(self._tick_s, self._tick, loop.time() + self._tick_s)

    def _tick(self, due: float) -> None:
        speaking = next(self._turn)
        for served in [each for each in speaking if each.speak()]:
            speaking.discard(served)
        if any(self._phases):
            loop = asyncio.get_running_loop()
            # From when it was due: a late tick must not slow the pace.
            self._ticking = loop.call_at(due + self._tick_s, self._tick, due + self._tick_s)
        else:
            self._ticking = None


class _Served(asyncio.Protocol):
    """One connection to the upstream. Its clients are ours or a gateway: strict, and no more."""

    left = 0  # events of the stream that is under way
    _transport: asyncio.Transport

    def __init__(self, upstream: BuiltInUpstream) -> None:
        self._upstream = upstream
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._read = b""
        self._events = 0
        self._usage = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio.Transport in all but name.
        self._transport = cast(asyncio.Transport, transport)
        self._upstream.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.left(self)
        self.gone.set_result(None)

    def close(self) -> None:
        """Hang up."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(_HEAD_END)) >= 0:
            head = self._read[:end].lower()
            _, found, rest = head.partition(b"\r\ncontent-length:")
            if not found and head.startswith(b"post"):
                self._transport.write(_TOO_CLEVER)
                self._transport.close()
                return
            length = int(rest.partition(b"\r\n")[0]) if found else 0
            if len(self._read) < end + 4 + length:
                return
            body, self._read = (
                self._read[end + 4 : end + 4 + length],
                self._read[end + 4 + length :],
            )
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        path = head.split(b" ", 2)[1]
        if path.endswith(b"/models"):
            self._transport.write(_MODELS)
        elif not path.endswith(b"/chat/completions"):
            self._transport.write(_NOT_HERE)
        elif _STREAM.search(body):
            self._upstream.calls += 1
            self._usage = _USAGE.search(body) is not None
            self._upstream.stream(self)
            self._events = self.left
            self._transport.write(_STREAM_HEAD + _FIRST)
        else:
            self._upstream.calls += 1
            self._transport.write(_ANSWER)

    def speak(self) -> bool:
        """Send one event; return whether it was the last."""
        self.left -= 1
        if self.left > 0:
            self._transport.write(_TOKEN)
            return False
        end = [_TOKEN, _LAST]
        if self._usage:
            end.append(_chunk("", usage="," + _usage(self._events)))
        self._transport.write(b"".join(end) + _DONE)
        return True


async def _serve(events: int, events_per_s: float) -> None:
    async with BuiltInUpstream(events=events, events_per_s=events_per_s) as upstream:
        print(upstream.url, flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Serve until ended; the words are EVENTS and EVENTS_PER_S. Prints the base URL first."""
    import uvloop  # noqa: PLC0415 - whoever only imports this module has a loop

    uvloop.run(_serve(int(sys.argv[1]), float(sys.argv[2])))


if __name__ == "__main__":
    main()
