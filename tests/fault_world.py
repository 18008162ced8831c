"""A gateway before upstreams that fail in every way, and one of each dialect that answers.

`FAULTS` has each fault as a function of the dialect that the upstream speaks and of whether a
stream was asked for; it returns what the upstream does and what must come of it.
"""

import asyncio
import contextlib
import gzip
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from hashlib import sha256
from pathlib import Path
from time import time
from typing import Any, Literal

import httpx2
import msgspec
from broken_streams import ALIVE, FAILED, FRAMED, GARBAGE, MODELS, STREAMS, opening
from gateway import KEY
from matrix_requests import ANTHROPIC, BEDROCK, CHAT, COHERE, GEMINI, RESPONSES
from matrix_world import _BODIES as WHOLE
from matrix_world import CLIENTS
from shell import Running, running
from upstreams import (
    Peer,
    Step,
    Upstream,
    answer,
    drips,
    floods,
    free_port,
    reads,
    resets,
    says,
    self_signed,
    stalls,
    upstream,
)
from wire.recordings import recordings

from tollway.daemon.gate.health import Health
from tollway.providers.eventstream import CONTENT_TYPE

Bill = Literal["nothing", "hold", "some", "answer"]
# What the gateway calls them in the ledger.
UNREACHABLE, TIMEOUT, BROKE = "upstream_unreachable", "upstream_timeout", "upstream_broke"
NO_ANSWER, REFUSED, ANSWERED = "garbage", "upstream_refused", "answered"
STREAMED = {
    dialect: next(one.body for one in recordings() if one.id == name)
    for dialect, name in (STREAMS | FRAMED).items()
}
REFUSALS = {
    CHAT: b'{"error":{"message":"Oh","type":"x","param":null,"code":null}}',
    RESPONSES: b'{"error":{"message":"Oh","type":"x","param":null,"code":null}}',
    ANTHROPIC: b'{"type":"error","error":{"type":"api_error","message":"Oh"}}',
    GEMINI: b'{"error":{"code":500,"message":"Oh","status":"INTERNAL"}}',
    COHERE: b'{"id":"1","message":"Oh"}',
    BEDROCK: b'{"message":"Oh"}',
}
RETRY_INFO = (
    b'{"error":{"code":429,"message":"Oh","status":"RESOURCE_EXHAUSTED","details":[{"@type":'
    b'"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"30s"}]}}'
)


@dataclass(frozen=True)
class Fault:
    """What an upstream does, and what must come of it where nobody else is asked.

    `shows` says that a client may have seen some of the answer before it broke.
    """

    steps: Sequence[Step] = ()
    at: str = "faulty"  # which provider; "silent" is the same, and is soon waited for no longer
    statuses: tuple[int, ...] = (502,)
    ending: str = BROKE
    or_ending: str = ""  # where it is a matter of time
    bill: Bill = "hold"
    shows: bool = False
    passes_on: bool = True  # another target is asked


def head(source: str, stream: bool, *more: str, kind: str = "") -> bytes:
    """Return the head of an answer that ends with its connection."""
    kind = kind or kind_of(source, stream)
    lines = ["HTTP/1.1 200 OK", f"Content-Type: {kind}", "Connection: close", *more, "", ""]
    return "\r\n".join(lines).encode()


def kind_of(source: str, stream: bool) -> str:
    """Return the content type of a good answer."""
    streamed = CONTENT_TYPE if source in FRAMED else "text/event-stream"
    return streamed if stream else "application/json"


def body(source: str, stream: bool) -> bytes:
    """Return a good answer's body."""
    return STREAMED[source] if stream else WHOLE[source]


def trickles(piece: bytes) -> Step:
    """Send a piece again and again, slowly, until the other side hangs up."""

    async def step(peer: Peer) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await peer.say(piece)
                await asyncio.sleep(0.01)

    return step


def lets_go() -> Step:
    """Give what was sent before a moment to be read."""

    async def step(_peer: Peer) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    return step


def _at(place: str, ending: str = UNREACHABLE, status: int = 502) -> Callable[[str, bool], Fault]:
    steps = [says(b"HTTP/1.1 400 Bad Request\r\n\r\n")]
    return lambda _source, _stream: Fault(steps, place, (status,), ending, bill="nothing")


def _early(*steps: Step, ending: str = BROKE) -> Callable[[str, bool], Fault]:
    return lambda _source, _stream: Fault([reads(), *steps], ending=ending)


def _silent(*steps: Step) -> Callable[[str, bool], Fault]:
    return lambda _source, _stream: Fault(
        [reads(), *steps], "silent", statuses=(504,), ending=TIMEOUT
    )


def _wrong_type(source: str, stream: bool) -> Fault:
    kind = "text/html" if stream else "text/event-stream"
    said = [reads(), says(head(source, stream, kind=kind) + body(source, stream))]
    if stream:
        return Fault(said, ending=NO_ANSWER)
    return Fault(said, statuses=(200,), ending=ANSWERED, bill="answer", passes_on=False)


def _drip(source: str, stream: bool) -> Fault:
    whole = head(source, stream) + body(source, stream)
    pieces = [whole[at : at + 61] for at in range(0, len(whole), 61)]
    return Fault(
        [reads(), drips(pieces)],
        statuses=(200,),
        ending=ANSWERED,
        bill="answer",
        passes_on=False,
    )


def _error_within(source: str, stream: bool) -> Fault:
    said = head(source, stream) + (FAILED[source] if stream else REFUSALS[source])
    return Fault(
        [reads(), says(said)], statuses=(429, 500, 502, 503, 529), ending=REFUSED, bill="nothing"
    )


def _half_gzip(source: str, stream: bool) -> Fault:
    packed = gzip.compress(body(source, stream))[:40]
    return Fault([reads(), says(head(source, stream, "Content-Encoding: gzip") + packed)])


def _silent_body(source: str, stream: bool) -> Fault:
    return _silent(says(head(source, stream)), stalls())(source, stream)


def _alive(source: str, stream: bool) -> Fault:
    sign = ALIVE.get(source, b"") if stream else b" \n"
    lives = trickles(sign) if sign else stalls()  # AWS has no signs of life
    return _silent(says(head(source, stream)), lives)(source, stream)


def _endless(source: str, stream: bool) -> Fault:
    """Return drops that never make an event or a body; AWS's frames say how long they are."""
    begun, drops = (b"data: {", trickles(b"x")) if stream else (b'{"x":"', trickles(b"x"))
    if stream and source in FRAMED:
        begun, drops = b"", stalls()
    return _silent(says(head(source, stream) + begun), drops)(source, stream)


def _midway(
    *steps: Step, ending: str = BROKE, whole: str = "", status: int = 502, at: str = "faulty"
) -> Callable[[str, bool], Fault]:
    """Return a fault after some of the answer; a whole one that ends there is garbage."""

    def fault(source: str, stream: bool) -> Fault:
        begun = opening(source) if stream else WHOLE[source][:-20]
        return Fault(
            [reads(), says(head(source, stream) + begun), lets_go(), *steps],
            at,
            statuses=(status,),
            ending=ending if stream else whole or ending,
            bill="some" if stream else "hold",
            shows=stream,
        )

    return fault


def _garbage_midway(source: str, stream: bool) -> Fault:
    garbage = GARBAGE.get(source, b"data: {]\n\n\xff\xfe")
    return _midway(says(garbage), whole=NO_ANSWER)(source, stream)


def _half_a_character(source: str, stream: bool) -> Fault:
    half = FAILED[source][:-9] if source in FRAMED else b'data: {"x": "\xe2\x82'
    return _midway(says(half), whole=NO_ANSWER)(source, stream)


def _cut(source: str, stream: bool) -> Fault:
    begun = opening(source) if stream else WHOLE[source][:-20]
    framed = head(source, stream, "Transfer-Encoding: chunked") + b"%x\r\n%s\r\n" % (
        len(begun),
        begun,
    )
    return Fault(
        [reads(), says(framed), lets_go()], bill="some" if stream else "hold", shows=stream
    )


def _error_midway(source: str, stream: bool) -> Fault:
    if not stream:
        return _error_within(source, stream)
    said = head(source, stream) + opening(source)
    return Fault([reads(), says(said), lets_go(), says(FAILED[source])], bill="some", shows=True)


def refusal(status: int, *headers: str, said: bytes = b"") -> Callable[[str, bool], Fault]:
    """Return a fault that is a refusal, told as the provider told it."""

    def fault(source: str, _stream: bool) -> Fault:
        told = answer(
            said or REFUSALS[source],
            "Content-Type: application/json",
            *headers,
            status=f"{status} Oh",
        )
        return Fault([reads(), says(told)], statuses=(status,), ending=REFUSED, bill="nothing")

    return fault


FAULTS: dict[str, Callable[[str, bool], Fault]] = {
    "connection refused": _at("refused"),
    # A resolver may take longer to say no than a connection may take.
    "no such name": lambda *_: Fault(
        (), "nowhere", (502, 504), UNREACHABLE, or_ending=TIMEOUT, bill="nothing"
    ),
    "no TLS": _at("plain"),
    "untrusted TLS": _at("untrusted"),
    "hang at connect": _at("full", TIMEOUT, 504),
    "hang before headers": _silent(stalls()),
    "hang in the headers": _silent(says(b"HTTP/1.1 200 OK\r\nA"), stalls()),
    "headers without end": _early(says(b"HTTP/1.1 200 OK\r\n"), floods(b"X-A: b\r\n" * 500)),
    "headers that trickle": _silent(says(b"HTTP/1.1 200 OK\r\nX: "), trickles(b"x")),
    "reset": _early(resets()),
    "hang up": _early(),
    "no HTTP": _early(says(b"SSH-2.0-OpenSSH_9.6\r\n")),
    "a page with 200": _early(
        says(answer(b"<html>Log in</html>", "Content-Type: text/html")), ending=NO_ANSWER
    ),
    "zeros with 200": _early(says(answer(bytes(500))), ending=NO_ANSWER),
    "an error with 200": _error_within,
    "wrong content type": _wrong_type,
    "half of a gzip": _half_gzip,
    "hang before the first event": _silent_body,
    "signs of life alone": _alive,
    "drops without end": _endless,
    "slow drip": _drip,
    "cut midway": _cut,
    "hang midway": _midway(stalls(), ending=TIMEOUT, status=504, at="silent"),
    "reset midway": _midway(resets()),
    "garbage midway": _garbage_midway,
    "error midway": _error_midway,
    "no end": _midway(whole=NO_ANSWER),
    "half a character": _half_a_character,
    "429": refusal(429),
    "429, seconds": refusal(429, "Retry-After: 30"),
    "429, a date": refusal(429, f"Retry-After: {formatdate(time() + 3600, usegmt=True)}"),
    "429, milliseconds": refusal(429, "retry-after-ms: 30000"),
    "429, OpenAI's reset": refusal(
        429, "x-ratelimit-remaining-tokens: 0", "x-ratelimit-reset-tokens: 6m0s"
    ),
    "429, Anthropic's reset": refusal(
        429,
        "anthropic-ratelimit-requests-remaining: 0",
        "anthropic-ratelimit-requests-reset: 2100-01-01T00:00:00Z",
    ),
    "429, Gemini's RetryInfo": refusal(429, said=RETRY_INFO),
    "500": refusal(500),
    "502": refusal(502),
    "503": refusal(503, "Retry-After: 30"),
    "504": refusal(504),
    "529": refusal(529),
}  # fmt: skip


@dataclass
class FaultWorld:
    """The gateway, and the upstream whose next answers are `fault`'s."""

    daemon: Running
    faulty: Upstream
    over: httpx2.AsyncClient
    served: list[str] = field(default_factory=list)

    def now_does(self, fault: Fault) -> None:
        """Let every call to come meet a fault, and nobody remember the faults before it."""
        daemon = self.daemon.server.daemon
        daemon.health = Health()
        daemon.health.configure(daemon.config)
        self.faulty._scripts = [fault.steps]

    async def ask(self, client: str, model: str, stream: bool) -> httpx2.Response:
        """Send a call in a client's dialect, and return all of its answer."""
        path, said = asking(client, model, stream)
        url = f"http://127.0.0.1:{self.daemon.port}{path}"
        headers = {"authorization": f"Bearer {KEY}"}
        return await self.over.post(url, json=said, headers=headers)


def asking(client: str, model: str, stream: bool) -> tuple[str, dict[str, Any]]:
    """Return path and body of a request that has an output limit."""
    if client == GEMINI:
        verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
        said: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}
        return f"/v1beta/models/{model}:{verb}", said | {
            "generationConfig": {"maxOutputTokens": 99}
        }
    said = {"model": model, "stream": stream}
    if client == RESPONSES:
        return "/v1/responses", said | {"input": "Hi", "max_output_tokens": 99}
    said |= {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 99}
    return ("/v1/messages" if client == ANTHROPIC else "/v1/chat/completions"), said


def dialect_of(request: bytes) -> tuple[str, bool]:
    """Return the dialect that a request's path tells, and whether it asks for a stream."""
    line, _, said = request.partition(b"\r\n")
    source = GEMINI
    for mark, dialect in (
        (b"/chat/completions", CHAT),
        (b"/responses", RESPONSES),
        (b"/messages", ANTHROPIC),
        (b"/v2/chat ", COHERE),
        (b"/model/", BEDROCK),
    ):
        source = dialect if mark in line else source
    stream = b"streamGenerateContent" in line
    stream = stream or b"/converse-stream" in line
    return source, stream or b'"stream":true' in said.replace(b" ", b"")


def well_answered(request: bytes) -> bytes:
    """Return an answer in the dialect that a request's path tells, a stream if it asks for one."""
    source, stream = dialect_of(request)
    return answer(body(source, stream), f"Content-Type: {kind_of(source, stream)}")


def answers_well() -> Step:
    """Answer each request of a connection well."""

    async def step(peer: Peer) -> None:
        while True:
            await peer.say(well_answered(await peer.read_request()))

    return step


KINDS_AT = {
    CHAT: ("openai-compatible", "v1"),
    RESPONSES: ("openai", "v1"),
    ANTHROPIC: ("anthropic", "v1"),
    GEMINI: ("gemini", "v1beta"),
    COHERE: ("cohere", ""),
    BEDROCK: ("bedrock", ""),
}
# Where nothing comes that a machine at work on other things could be late with.
_TIMEOUTS = {
    "silent": 'timeout = { first = "400ms", idle = "400ms" }\n',
    "full": 'timeout = { connect = "200ms" }\n',
    "nowhere": 'timeout = { connect = "200ms" }\n',
}
_PRICES = "input = 1\noutput = 2\ncached_input = 0.5\ncache_write = 3\nsearch = 0.001\n"


def name_of(place: str, source: str) -> str:
    """Return the route to one faulty provider of a dialect, alone."""
    return f"{place}-{source}"


def _tables(places: dict[str, str]) -> str:
    tables = []
    for place, base in places.items():
        for source, (kind, path) in KINDS_AT.items():
            provider, model = name_of(place, source), MODELS[source].partition("/")[2]
            tables.append(
                f'[providers.{provider}]\nkind = "{kind}"\napi_key = "env:HOME"\n'
                f'base_url = "{base}/{path}"\n{_TIMEOUTS.get(place, "")}'
                f'[prices."{provider}/*"]\n{_PRICES}'
            )
            if place != "good":
                good = f"good-{source}/{model}"
                tables.append(
                    f'[routes."alone/{provider}"]\nto = ["{provider}/{model}"]\n'
                    f'[routes."next/{provider}"]\nto = ["{provider}/{model}", "{good}"]\n'
                )
    return "\n".join(tables)


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """Yield a port to which no further connection is ever made: its queue is full."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(listening.getsockname())
        yield listening.getsockname()[1]


@contextlib.asynccontextmanager
async def fault_world(folder: Path) -> AsyncIterator[FaultWorld]:
    """Yield a world whose certificates are in a folder."""
    async with contextlib.AsyncExitStack() as stack:
        faulty = await stack.enter_async_context(upstream([stalls()]))
        good = await stack.enter_async_context(upstream([answers_well()]))
        tls = await stack.enter_async_context(upstream([stalls()], tls=self_signed(folder)[0]))
        full = stack.enter_context(full_backlog())
        refused = stack.enter_context(free_port())
        places = {
            "good": f"http://127.0.0.1:{good.port}",
            "faulty": f"http://127.0.0.1:{faulty.port}",
            "silent": f"http://127.0.0.1:{faulty.port}",
            "refused": f"http://127.0.0.1:{refused}",
            "nowhere": "http://no-such-host.invalid",
            "plain": f"https://127.0.0.1:{faulty.port}",
            "untrusted": f"https://127.0.0.1:{tls.port}",
            "full": f"http://127.0.0.1:{full}",
        }
        more = (
            _tables(places) + '[groups.all]\nmodels = ["*"]\n'
            '[users.ann]\ngroups = ["all"]\nbudget = ["100000/day"]\n'
            f'[keys.laptop]\nhash = "sha256:{sha256(KEY.encode()).hexdigest()}"\nuser = "ann"\n'
        )
        daemon = await stack.enter_async_context(running(more, server=""))
        over = await stack.enter_async_context(httpx2.AsyncClient(timeout=20))
        yield FaultWorld(daemon, faulty, over)


def error_of(client: str, said: Any) -> str:
    """Return the message of an error in a client's dialect; "" where it is none."""
    if not isinstance(said, dict):
        return ""
    if client == RESPONSES and said.get("type") == "error":
        return str(said.get("message", ""))
    if client == RESPONSES and said.get("type") == "response.failed":
        said = said["response"]
    error = said.get("error")
    if not isinstance(error, dict):
        return ""
    wanted = {
        CHAT: {"message", "type", "code"},
        RESPONSES: {"message", "code"},
        ANTHROPIC: {"message", "type"},
        GEMINI: {"message", "code", "status"},
    }[client]
    if client == ANTHROPIC and said.get("type") != "error":
        return ""
    return str(error["message"]) if wanted <= error.keys() else ""


def data_of(stream: bytes) -> list[Any]:
    """Return what the events of a stream say, as far as it is JSON."""
    found = []
    for line in stream.replace(b"\r\n", b"\n").split(b"\n"):
        if line.startswith(b"data: ") and line != b"data: [DONE]":
            with contextlib.suppress(msgspec.DecodeError):
                found.append(msgspec.json.decode(line[6:]))
    return found


__all__ = ["CLIENTS", "FAULTS", "Fault", "FaultWorld", "data_of", "error_of", "fault_world"]
