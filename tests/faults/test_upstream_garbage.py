"""Whatever an upstream does: a right answer or a right error in bounded time, and clean books."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Sequence

import pytest
from gateway import (
    DONE,
    HEAD,
    SSE,
    USED,
    WHOLE,
    Gateway,
    body,
    chunk,
    error,
    events,
    gateway,
    whole,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shell import until
from upstreams import (
    Peer,
    Step,
    answer,
    chunked,
    drips,
    floods,
    free_port,
    reads,
    resets,
    says,
    stalls,
    trickles,
)

from tollway.daemon.ledger.calls import CallRow, recent
from tollway.daemon.ledger.verify import verify
from tollway.providers.http.client import HttpTransport

# For those who say nothing: who does may be late with it, on a machine that has much to do.
QUICK = 'timeout = { first = "400ms", idle = "400ms" }'
JSON = "Content-Type: application/json"


@contextlib.asynccontextmanager
async def before(script: Sequence[Step], **options: str) -> AsyncIterator[Gateway]:
    """Yield a gateway before a bad upstream; afterwards nothing of its calls is left."""
    async with gateway([script], **options) as gate:
        yield gate
        await clean(gate)


async def clean(gate: Gateway) -> None:
    """Return once nothing is held, open, or running; what is counted agrees with the rows."""
    daemon = gate.daemon.server.daemon
    await until(lambda: daemon.active == 0 and not daemon.exchanges)
    assert gate.held() == 0
    path = daemon.ledger.path
    await until(lambda: all(row.state != "open" for row in rows(gate)))
    await until(lambda: verify(path) == [])
    settled = {state.settled_nanousd for state in daemon.gate.purse.states()}
    assert settled == {sum(row.cost_nanousd for row in rows(gate))}
    transport = daemon.transport
    assert isinstance(transport, HttpTransport)
    await until(lambda: transport.open_connections == transport.idle_connections)


def rows(gate: Gateway) -> list[CallRow]:
    """Return all calls."""
    return recent(gate.daemon.server.daemon.ledger.path, limit=1000)


BAD = {
    "silence": ([reads(), stalls()], 504),
    "hangs up": ([reads()], 502),
    "resets": ([reads(), resets()], 502),
    "resets before it reads": ([resets()], 502),
    "no HTTP": ([reads(), says(b"SSH-2.0-OpenSSH_9.6\r\n")], 502),
    "TLS": ([reads(), says(b"\x15\x03\x01\x00\x02\x02\x46")], 502),
    "zeros": ([reads(), floods(bytes(4096))], 502),
    "endless headers": ([reads(), says(b"HTTP/1.1 200 OK\r\n"), floods(b"X-A: b\r\n" * 500)], 502),
    "half a head": ([reads(), says(b"HTTP/1.1 200 OK\r\nContent-Ty")], 502),
    "a head and silence": ([reads(), says(b"HTTP/1.1 200 OK\r\nContent-Ty"), stalls()], 504),
    "half a body": ([reads(), says(whole()[:-20])], 502),
    "half a body and silence": ([reads(), says(whole()[:-20]), stalls()], 504),
    "two lengths": ([reads(), says(whole(WHOLE, "Content-Length: 3"))], 502),
    "a length and chunks": ([reads(), says(whole(WHOLE, "Transfer-Encoding: chunked"))], 502),
    "bad chunks": ([reads(), says(chunked(WHOLE).replace(b"\r\n\r\n", b"\r\n\r\nzz", 1))], 502),
    "nothing": ([reads(), says(whole(b""))], 502),
    "HTML": ([reads(), says(answer(b"<html>Login</html>", "Content-Type: text/html"))], 502),
    "a list": ([reads(), says(whole(b"[1,2]"))], 502),
    "a number": ([reads(), says(whole(b"7"))], 502),
    "no choices": ([reads(), says(whole(b'{"id":"x"}'))], 502),
    "choices of no list": ([reads(), says(whole(b'{"choices":7}'))], 502),
    "half a character": ([reads(), says(whole(b'{"choices":[{"message":"\xc3"}]'))], 502),
    "deep": ([reads(), says(whole(b"[" * 200_000))], 502),
    "204": ([reads(), says(b"HTTP/1.1 204 No Content\r\n\r\n")], 502),
    "101": ([reads(), says(b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n")], 502),
    "a redirect": ([reads(), says(answer(b"", "Location: /", status="302 F"))], 502),
    "an error": ([reads(), says(whole(b'{"error":{"message":"No"}}'))], 502),
    "an error of 999": ([reads(), says(whole(b"{}", status="999 What"))], None),
    "a refusal cut short": ([reads(), says(whole(b'{"error', status="503 Busy")[:-3])], 503),
    "a refusal of zeros": ([reads(), says(answer(bytes(5000), status="500 No"))], 500),
    "bad gzip": ([reads(), says(whole(WHOLE, "Content-Encoding: gzip"))], 502),
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("how", BAD)
async def test_a_bad_upstream_is_a_clear_error(how: str, stream: bool) -> None:
    """A status, a body in the caller's dialect, a row; and the next call is served afresh."""
    script, status = BAD[how]
    async with before(script, provider=QUICK if "silence" in how else "") as gate:
        reply = await gate.ask(body(stream))
        told = error(reply)
        assert told["source"] == "provider"
        assert told["message"]
        assert told["request_id"] == reply.headers["x-tollway-request-id"]
        assert status is None or reply.status == status
        assert reply.status >= 500
        row = await gate.row(reply)
        assert row.call.state == "settled"
        assert row.call.ending != "answered"


STREAMS = {
    "cut in an event": [says(HEAD + chunk("He") + chunk("llo")[:-9])],
    "cut in a character": [says(HEAD + chunk("He") + b'data: {"choices":[{"delta":"\xe2\x82')],
    "no end": [says(HEAD + chunk("He"))],
    "silence": [says(HEAD + chunk("He")), stalls()],
    "reset": [says(HEAD + chunk("He")), resets()],
    "garbage, then its end": [says(HEAD + chunk("He") + b"\x00\xff" * 500)],
    "no length in its chunks": [says(b"HTTP/1.1 200 OK\r\n" + SSE.encode()
        + b"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n" + b"zz\r\n")],
}  # fmt: skip


@pytest.mark.parametrize("how", STREAMS)
async def test_a_stream_that_breaks_ends_with_an_error_and_a_bill(how: str) -> None:
    """An error event and no end mark, where something had been shown; an error where not."""
    provider = QUICK if how == "silence" else ""
    async with before([reads(), *STREAMS[how]], provider=provider) as gate:
        reply = await gate.ask(body(stream=True))
        assert b"[DONE]" not in reply.body + reply.rest
        assert b'"error"' in reply.body + reply.rest
        row = await gate.row(reply)
        assert row.call.ending in {"upstream_broke", "upstream_timeout", "garbage"}
        assert row.call.estimated
        assert row.call.cost_nanousd > 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_half_an_event_at_the_end_of_a_body_is_none(path: str) -> None:
    """Clients stumble over its JSON before they read that the stream broke. A whole one is one."""
    half = HEAD + chunk("Hel") + chunk("lo")[:-9]
    lacking = HEAD + chunk("Hello") + chunk("", "stop") + USED + DONE.strip()
    async with gateway([[reads(), says(half)], [reads(), says(lacking)]]) as gate:
        reply = await gate.ask(body(True), path)
        said = [line[6:] for line in b"".join(events(reply)).split(b"\n") if line[:5] == b"data:"]
        told = [json.loads(one) for one in said]
        assert "ended its stream in the middle of the answer" in json.dumps(told[-1])
        assert (await gate.row(reply)).call.ending == "upstream_broke"
        reply = await gate.ask(body(True), path)
        assert b"Hello" in reply.body + reply.rest
        assert (await gate.row(reply)).call.ending == "answered"


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
async def test_nobody_there_is_told_at_once(host: str) -> None:
    """A port where nothing listens, and a name that is none: 502, nothing sent, nothing billed."""
    with free_port() as port:
        more = f"""[providers.down]
kind = "openai"
base_url = "http://{host}:{port}/v1"
timeout = {{ connect = "2s" }}
[prices."down/*"]
input = 1
output = 2
"""
        async with before([reads()], more=more) as gate:
            reply = await gate.ask(body(model="down/m"))
            assert (reply.status, error(reply)["code"]) in (
                (502, "upstream_unreachable"), (504, "upstream_timeout"),
            )  # fmt: skip
            assert (await gate.row(reply)).call.cost_nanousd == 0


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    pieces=st.lists(
        st.sampled_from(
            [chunk("Hi"), chunk(finish="stop"), USED, DONE, b"data: {}\n\n", b": c\n\n", b"\n\n",
             b"data: [1]\n\n", b'data: {"choices":{}}\n\n', b'data: {"choices":[7]}\n\n',
             b'data: {"choices":[{"delta":{"tool_calls":{}}}]}\n\n', b"event: error\ndata: x\n\n",
             b'data: {"usage":[]}\n\n', b'data: {"usage":{"prompt_tokens":-1}}\n\n',
             b'data: {"usage":{"prompt_tokens":1e99,"completion_tokens":"x"}}\n\n', b"\xff\xfe\n\n",
             b'data: {"id":7,"choices":[{"index":"x","delta":null}]}\n\n', b"data: null\n\n",
             b"id: 1\nretry: 2\n\n", b"data:" + b"x" * 5000 + b"\n\n"]
        ), max_size=6,
    ),
    stream=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
async def test_any_events_in_any_order_leave_clean_books(
    pieces: list[bytes], stream: bool, seed: int
) -> None:
    """Cut anywhere: the client's stream ends properly, and all of it is accounted for."""
    text = HEAD + b"".join(pieces)
    chance = random.Random(seed)  # noqa: S311 - must repeat itself
    marks = sorted({len(HEAD), *(chance.randrange(len(text)) for _ in range(5)), len(text)})
    cut = [text[a:b] for a, b in zip([0, *marks], marks, strict=False)]
    async with before([reads(), drips(cut)]) as gate:
        reply = await gate.ask(body(stream))
        assert reply.status in {200, 400, 502}
        if reply.status == 200:
            said = reply.body + reply.rest
            assert said.endswith(b"0\r\n\r\n")
            whole_answer = b"data: [DONE]" in said or b'"stop"' in said
            assert whole_answer or b'"error"' in said or b"event: error" in said


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_whose_words_never_end_is_told_by_its_status(stream: bool) -> None:
    """It holds budget, slot and client, and keeps the next target from being asked."""
    head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 900000\r\n\r\n"
    script = [reads(), says(head), trickles(b"x")]
    async with before(script, provider='timeout = { idle = "400ms" }') as gate:
        reply = await gate.ask(body(stream))
        # A stream that a busy machine has had to keep alive meanwhile has its error as an event.
        assert reply.status == 503 or (stream and b"upstream_refused" in reply.body)
        await until(lambda: [row.ending for row in rows(gate)] == ["upstream_refused"])
        assert rows(gate)[0].cost_nanousd == 0


async def leave(gate: Gateway, data: bytes, seen: asyncio.Event | None) -> None:
    """Begin a call, wait for a moment of it, and hang up."""
    client = await gate.daemon.connect()
    await client.send(head_of(gate, data) + data)
    if seen:
        await seen.wait()
    client.close()


def head_of(gate: Gateway, data: bytes) -> bytes:
    """Return a call's head."""
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {gate.daemon.host.decode()}\r\n"
        f"Authorization: Bearer tw-{'k' * 40}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    ).encode()


@pytest.mark.parametrize("turns", range(0, 60, 3))
async def test_a_client_that_leaves_at_any_moment_leaves_clean_books(turns: int) -> None:
    """After any number of turns of the loop: also between admission and sending."""
    async with before([reads(), drips([HEAD, chunk("He"), chunk("llo"), USED, DONE])]) as gate:
        for stream in (False, True):
            client = await gate.daemon.connect()
            data = body(stream)
            await client.send(head_of(gate, data) + data)
            for _ in range(turns):
                await asyncio.sleep(0)
            client.writer.transport.abort()


async def test_a_client_that_closes_its_sending_side_has_left() -> None:
    """Half-closed is gone: the answer could not be told from one that nobody reads."""
    heard = asyncio.Event()

    async def hears(peer: Peer) -> None:
        heard.set()

    async with before([reads(), hears, stalls()]) as gate:
        client = await gate.daemon.connect()
        data = body()
        await client.send(head_of(gate, data) + data)
        await heard.wait()
        client.writer.write_eof()
        await gate.ups[0].hung_up.wait()
        assert (await gate.only_row()).call.ending == "client_left"


@pytest.mark.parametrize("kind", ["", "text/plain", "application/json", "application/x-ndjson"])
@pytest.mark.parametrize("size", [1, 3, 5000])
async def test_a_stream_that_is_called_something_else_is_a_stream(kind: str, size: int) -> None:
    """Servers of one's own forget the type, which no library looks at: it was a 502, and billed."""
    said = b": hi\n\n" + chunk("Hello") + chunk("", "stop") + USED + DONE
    pieces = [said[at : at + size] for at in range(0, len(said), size)]
    head = f"HTTP/1.1 200 OK\r\n{f'Content-Type: {kind}' if kind else 'X-A: b'}\r\n\r\n".encode()
    async with before([reads(), says(head), drips(pieces)]) as gate:
        reply = await gate.ask(body(True, stream_options={"include_usage": True}))
        assert reply.headers["content-type"] == "text/event-stream"
        assert b"".join(events(reply)) == said
        row = (await gate.row(reply)).call
        assert (row.ending, row.input_total, row.output_total) == ("answered", 7, 3)


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "TEXT/HTML", "application/xhtml+xml"])
async def test_a_page_is_no_stream_whatever_stands_in_it(kind: str) -> None:
    """It is another server's, on the way or in its place."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n".encode()
    async with before([reads(), says(head + chunk("Hello") + USED + DONE)]) as gate:
        assert (await gate.ask(body(True))).status == 502


@pytest.mark.parametrize("status", ["400 Bad Request", "429 Too Many Requests", "500 Oh"])
async def test_an_error_that_is_no_text_is_the_provider_s_all_the_same(status: str) -> None:
    """It was taken for a crash of the gateway, and billed at its hold."""
    said = whole(b'{"error":{"message":"caf\xe9"}}', status=status)
    async with before([reads(), says(said)]) as gate:
        reply = await gate.ask()
        assert reply.status == int(status[:3])
        assert error(reply)["source"] == "provider"
        row = (await gate.row(reply)).call
        assert (row.error, row.cost_nanousd) == ("upstream_refused", 0)


async def test_an_answer_with_the_mark_of_windows_utf_8_is_an_answer() -> None:
    """Some of its servers write it in front of JSON; it is not passed on."""
    async with before([reads(), says(whole(b"\xef\xbb\xbf" + WHOLE))]) as gate:
        reply = await gate.ask()
        assert (reply.status, reply.body) == (200, WHOLE)


HALF = rb"Hello \ud83d"


async def test_half_a_character_in_an_answer_does_not_fail_it() -> None:
    """Servers in JavaScript cut texts within an emoji, which client libraries read."""
    said = WHOLE.replace(b"Hello", HALF)
    async with before([reads(), says(whole(said, "Connection: close"))]) as gate:
        reply = await gate.ask()
        assert (reply.status, reply.body) == (200, said)
        reply = await gate.ask(body(), "/v1/messages")
        assert reply.json()["content"][0]["text"] == "Hello \ufffd"


async def test_half_a_character_in_a_stream_does_not_fail_it() -> None:
    """It was a 502 where the client speaks another API; the next event has its other half."""
    pieces = (rb'"Hi \ud83d"', rb'"\ude00 there \ud83d"')
    cut = [chunk("x").replace(b'"x"', one) for one in pieces]
    async with before([reads(), says(HEAD), drips([*cut, chunk("", "stop"), USED, DONE])]) as gate:
        reply = await gate.ask(body(True), "/v1/messages")
        told = b"".join(events(reply)).decode()
        assert '"Hi "' in told and '"\N{GRINNING FACE} there "' in told and '"\ufffd"' in told
        assert told.count("\ufffd") == 1 and "message_stop" in told
        assert (await gate.row(reply)).call.ending == "answered"
