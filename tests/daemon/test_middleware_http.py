"""HTTP is read strictly: what two readers could understand in two ways is refused."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shell import Running, running

from tollway.daemon.connection import EdgeLimits
from tollway.daemon.portions import PORTION

HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
)
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
async def daemon() -> AsyncIterator[Running]:
    """Yield a daemon for one user."""
    async with running() as one:
        yield one


REFUSED = {
    "length and chunks": HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}",
    "two equal lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": HEAD + b"Content-Length: 2, 2\r\n\r\n{}",
    "a length and an empty coding": HEAD + b"Transfer-Encoding:\r\nContent-Length: 2\r\n\r\n{}",
    "chunks in HTTP/1.0": HEAD.replace(b"/1.1", b"/1.0")
    + b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunks in HTTP/1.0 elsewhere": b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n"
    b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a negative length": HEAD + b"Content-Length: -2\r\n\r\n{}",
    "a signed length": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "a hexadecimal length": HEAD + b"Content-Length: 0x2\r\n\r\n{}",
    "an underscored length": HEAD + b"Content-Length: 1_0\r\n\r\n{}        ",
    "a huge length": HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    "an unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "identity coding": HEAD + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "chunked not last": HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "a coding before the chunks": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "identity before the chunks": HEAD
    + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two codings": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
    "tab coding": HEAD + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "space before colon": HEAD + b"Content-Length : 2\r\n\r\n{}",
    "folded header": HEAD + b"X-A: b\r\n c\r\nContent-Length: 2\r\n\r\n{}",
    "folded length": HEAD + b"Content-Length:\r\n 2\r\n\r\n{}",
    "bare line feeds": HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 2\n\n{}",
    "one bare line feed": HEAD + b"X-A: b\nContent-Length: 2\r\n\r\n{}",
    "a bare carriage return": HEAD + b"X-A: b\rContent-Length: 2\r\n\r\n{}",
    "a zero byte": HEAD + b"X-A: b\x00c\r\nContent-Length: 2\r\n\r\n{}",
    "an empty name": HEAD + b": b\r\nContent-Length: 2\r\n\r\n{}",
    "a name with a space": HEAD + b"X A: b\r\nContent-Length: 2\r\n\r\n{}",
    "no colon": HEAD + b"nonsense\r\nContent-Length: 2\r\n\r\n{}",
    "two hosts": HEAD + b"Host: evil.example\r\nContent-Length: 2\r\n\r\n{}",
    "two types": HEAD + b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
    "a whole URL": b"GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "our own whole URL": b"GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "another scheme": b"GET file:///etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a tunnel": b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an asterisk": b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no slash": b"GET healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a space in the path": b"GET /health z HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an old version": b"GET /healthz\r\n\r\n",
    "another version": b"GET /healthz HTTP/3.7\r\nHost: localhost\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n",
    "a long target": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a long header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 100_000 + b"\r\n\r\n",
    "a long name": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a" * 100_000 + b": b\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: b\r\n" * 10_000 + b"\r\n",
    "a head without end": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: bcdefgh\r\n" * 200_000,
}


@pytest.mark.parametrize("request_", REFUSED.values(), ids=REFUSED.keys())
async def test_ambiguous_or_endless_http_is_refused_and_the_connection_closed(
    daemon: Running, request_: bytes
) -> None:
    """The one answer is an error, and nothing behind the request is taken for another one."""
    answer = await daemon.raw(request_ + SMUGGLED)
    assert answer[:9] == b"HTTP/1.1 " or answer[:9] == b"HTTP/1.0 " or answer == b""
    assert answer[9:10] == b"4" or answer == b""
    assert answer.count(b"x-tollway-request-id") <= 1
    assert b"smuggled" not in answer


BROKEN_CHUNKS = {
    "a size that is no number": b"zz\r\n{}\r\n0\r\n\r\n",
    "a negative size": b"-2\r\n{}\r\n0\r\n\r\n",
    "a signed size": b"+2\r\n{}\r\n0\r\n\r\n",
    "a size with 0x": b"0x2\r\n{}\r\n0\r\n\r\n",
    "a huge size": b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    "a size with a space before it": b" 2\r\n{}\r\n0\r\n\r\n",
    "a size with a space behind it": b"2 \r\n{}\r\n0\r\n\r\n",
    "a bare line feed behind the size": b"2\n{}\r\n0\r\n\r\n",
    "no line end behind the data": b"2\r\n{}0\r\n\r\n",
    "a bare line feed in an extension": b"2;a\nb\r\n{}\r\n0\r\n\r\n",
    "a carriage return in an extension": b"2;a\rb\r\n{}\r\n0\r\n\r\n",
    "an empty line for a size": b"\r\n2\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("body", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS.keys())
async def test_broken_chunks_are_refused_and_the_connection_closed(
    daemon: Running, body: bytes
) -> None:
    """Where a chunk ends must have one answer, or the next request's beginning has two."""
    answer = await daemon.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + SMUGGLED)
    assert answer[9:12] == b"400"
    assert answer.count(b"x-tollway-request-id") == 1
    assert b"smuggled" not in answer


async def test_chunks_that_break_later_are_refused_and_the_connection_closed() -> None:
    """Whoever reads the body hears of it at once, not when a silent client would be given up."""
    async with running(limits=EdgeLimits(linger_s=0.05)) as daemon:
        for broken in (b"zz\r\n", b"2\r\n{}0\r\n\r\n", b"0\r\nno trailer\r\n\r\n"):
            client = await daemon.connect()
            head = HEAD + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
            await client.send(head)
            assert (await client.answer()).status == 100
            await client.send(broken + SMUGGLED)
            answer = await client.answer()
            assert answer.status == 400
            assert b"its chunks or its end" in answer.body
            assert await client.all() == b""


async def test_a_body_in_small_chunks_is_read_to_its_end_and_no_further(daemon: Running) -> None:
    """It is read a portion at a time; what stands behind it is another request."""
    client = await daemon.connect()
    body = b"1\r\n{\r\n" + b"1\r\n \r\n" * 30_000 + b"1\r\n}\r\n0\r\n\r\n"
    await client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + SMUGGLED)
    answer = await client.answer()
    assert answer.status == 400
    assert b"model" in answer.body  # `{}` is no chat request
    assert (await client.answer()).status == 404
    client.close()


async def test_a_body_in_large_chunks_is_read_in_few_turns(daemon: Running) -> None:
    """It does not wait a turn for each of its portions: they take no longer than their bytes do."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    client = await daemon.connect()
    body = b"1\r\n{\r\n" + b"10000\r\n%s\r\n" % (b" " * 65536) * 30 + b"1\r\n}\r\n0\r\n\r\n"
    counting = asyncio.create_task(count())
    await client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    assert (await client.answer()).status == 400
    counting.cancel()
    assert turns < len(body) // PORTION
    client.close()


async def test_a_body_whose_length_was_said_is_taken_as_it_comes(daemon: Running) -> None:
    """Reading it takes no longer than its bytes do; what is behind it is another request."""
    body = b"{%s}" % (b" " * 100_000)
    said = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    client = await daemon.connect()
    await client.send(said + said + HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
    await client.send(b"1\r\n \r\n" * 5000 + b"0\r\n\r\n" + SMUGGLED)
    assert [(await client.answer()).status for _ in range(4)] == [400, 400, 400, 404]
    client.close()


async def test_a_refusal_quotes_nothing_of_what_was_sent(daemon: Running) -> None:
    """What is malformed may be a header with a key in it."""
    sent = HEAD + b"Authorization: Bearer tw-CANARY0123456789\nX: y\r\n\r\n"
    answer = await daemon.raw(sent)
    assert answer[9:12] == b"400"
    assert b"CANARY" not in answer
    assert "CANARY" not in daemon.log.read_text()


async def test_well_formed_chunks_and_requests_on_one_connection_are_served(
    daemon: Running,
) -> None:
    """Strict is not deaf: what is right works, also pipelined."""
    client = await daemon.connect()
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;a=b\r\n}\r\n0\r\n\r\n"
    await client.send(chunked + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await client.answer()).status == 400  # `{}` is no chat request
    assert (await client.answer()).status == 200
    client.close()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(min_size=1, max_size=300))
async def test_no_bytes_make_the_daemon_crash_or_answer_200(daemon: Running, data: bytes) -> None:
    """Whatever is sent, the answer is a refusal or nothing, and the next client is served."""
    client = await daemon.connect()
    await client.send(data + b"\r\n\r\n")
    client.writer.write_eof()
    answer = await client.all()
    client.close()
    assert answer == b"" or answer[9:10] in {b"4"}
    assert b"Traceback" not in answer
    assert (await daemon.ask("GET", "/healthz")).status == 200


async def test_too_many_headers_are_called_that(daemon: Running) -> None:
    """Well-formed they are."""
    many = b"".join(b"x-%d: 1\r\n" % number for number in range(200))
    answer = await daemon.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + many + b"\r\n")
    assert b" 431 " in answer[:20]
    assert b"too many headers" in answer
