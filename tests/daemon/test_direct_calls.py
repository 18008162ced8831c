"""Model calls are answered by their connection: HTTP stays what aiohttp made of it."""

import asyncio

import pytest
from gateway import CHAT, DONE, HEAD, KEY, USED, WHOLE, body, chunk, gateway, whole
from shell import until
from upstreams import reads, says, waits

_STREAM = HEAD + chunk("Hello") + chunk(finish="stop") + USED + DONE


def _request(data: bytes, *lines: str, version: str = "1.1", path: str = CHAT) -> bytes:
    said = [
        f"POST {path} HTTP/{version}",
        "Host: localhost",
        f"Authorization: Bearer {KEY}",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        *lines,
    ]
    return "\r\n".join([*said, "", ""]).encode() + data


async def test_calls_and_other_requests_share_a_connection() -> None:
    """Keep-alive and order hold, pipelined, whoever answers each of them."""
    health = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with gateway([[reads(), says(whole())], [reads(), says(whole())]]) as gate:
        client = await gate.daemon.connect()
        await client.send(_request(body()) + health + _request(body()) + health)
        answers = [await client.answer() for _ in range(4)]
        client.close()
        assert [one.status for one in answers] == [200] * 4
        assert [one.body for one in answers] == [WHOLE, b"ok\n"] * 2


@pytest.mark.parametrize("late", [0, 30])
async def test_more_requests_in_a_row_than_are_queued_are_all_answered(late: int) -> None:
    """The parser keeps the rest to itself, also where the first one's body came late."""
    health = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    call = _request(body())
    async with gateway([[reads(), says(whole())]] * 4) as gate:
        client = await gate.daemon.connect()
        await client.send(call[: len(call) - late])
        if late:
            await until(lambda: any(one.has_asked for one in gate.daemon.server.connections.open))
        await client.send(call[len(call) - late :] + (health * 35 + call) * 3 + health)
        answers = [await client.answer() for _ in range(1 + 36 * 3 + 1)]
        client.close()
    assert [one.status for one in answers] == [200] * len(answers)
    assert [one.body for one in answers[::36]] == [WHOLE] * 4


async def test_a_client_that_waits_to_be_told_to_go_on_is_told() -> None:
    """`Expect: 100-continue`, which curl sends with larger bodies."""
    data = body()
    async with gateway([[reads(), says(whole())]]) as gate:
        client = await gate.daemon.connect()
        request = _request(data, "Expect: 100-continue")
        await client.send(request[: -len(data)])
        async with asyncio.timeout(30):
            told = await client.reader.readuntil(b"\r\n\r\n")
        assert told == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(data)
        assert (await client.answer()).body == WHOLE
        client.close()


async def test_what_else_a_client_expects_is_refused() -> None:
    """There is but one expectation in HTTP (RFC 9110, 10.1.1)."""
    async with gateway([]) as gate:
        answer = await gate.daemon.raw(_request(body(), "Expect: magic", "Connection: close"))
        assert answer.startswith(b"HTTP/1.1 417 ")


@pytest.mark.parametrize("wish", ["Connection: keep-alive", "X-None: 1"])
async def test_a_client_of_http_1_0_gets_no_chunks(wish: str) -> None:
    """It knows none: its stream ends with the connection."""
    async with gateway([[reads(), says(_STREAM)]]) as gate:
        answer = await gate.daemon.raw(_request(body(True), wish, version="1.0"))
        head, _, stream = answer.partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert b"connection: close" in head.lower()
        assert stream == chunk("Hello") + chunk(finish="stop") + DONE


async def test_a_header_of_the_provider_comes_as_the_bytes_that_it_sent() -> None:
    """A value may hold bytes that are no ASCII; they are nobody's to change."""
    sent = whole().replace(b"\r\n\r\n", b"\r\nX-Place: M\xfcnchen\r\n\r\n", 1)
    async with gateway([[reads(), says(sent)]]) as gate:
        answer = await gate.daemon.raw(_request(body(), "Connection: close"))
        assert b"\r\nx-place: M\xfcnchen\r\n" in answer


@pytest.mark.parametrize("value", ["東京".encode(), "München".encode(), b"M\xfcnchen"])
async def test_a_header_of_the_client_goes_as_the_bytes_that_it_sent(value: bytes) -> None:
    """What is no Latin, or no UTF-8 at all, is dropped no more than plain words are."""
    asked = _request(body(), "X-Title: ?", "Connection: close").replace(b"?", value, 1)
    async with gateway([[reads(), says(whole())]]) as gate:
        answer = await gate.daemon.raw(asked)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nx-title: " + value + b"\r\n" in gate.ups[0].requests[0]


async def test_a_status_without_a_name_is_passed_on() -> None:
    """Providers have some of their own; HTTP asks for the digits alone."""
    refusal = whole(b'{"error":{"message":"busy"}}', status="529 Overloaded")
    async with gateway([[reads(), says(refusal)]]) as gate:
        answer = await gate.daemon.raw(_request(body(), "Connection: close"))
        assert answer.startswith(b"HTTP/1.1 529 ")


async def test_a_stream_larger_than_what_a_slow_client_leaves_unread_comes_whole() -> None:
    """The provider waits for the client, and nothing is lost or doubled when that reads again."""
    piece = chunk("x" * 65_536)
    many = 400  # 26 MB: more than the kernel keeps for both of them
    said = HEAD + piece * many + chunk(finish="stop") + USED + DONE
    async with gateway([[reads(), says(said)]]) as gate:
        client = await gate.daemon.connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(_request(body(True, max_tokens=100_000), version="1.0"))
        exchanges = gate.daemon.server.daemon.exchanges
        await until(lambda: any(one.pipe.was_full for one in exchanges))
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        answer = await client.all()
        assert answer.partition(b"\r\n\r\n")[2] == piece * many + chunk(finish="stop") + DONE


async def test_a_key_in_the_query_opens_and_is_no_part_of_the_path() -> None:
    """Some clients put their key there; the call is the same one."""
    async with gateway([[reads(), says(whole())]]) as gate:
        asked = _request(body(), "Connection: close", path=f"{CHAT}?key={KEY}")
        answer = await gate.daemon.raw(asked.replace(b"Bearer " + KEY.encode(), b"none"))
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_client_that_leaves_early_is_logged_as_one_that_left() -> None:
    """499, as nginx has it, although its answer had begun with a 200."""
    never = asyncio.Event()
    async with gateway([[reads(), says(HEAD + chunk("Hello")), waits(never)]]) as gate:
        client = await gate.daemon.connect()
        await client.send(_request(body(True)))
        async with asyncio.timeout(30):
            await client.reader.readuntil(b"Hello")
        client.close()
        await gate.only_row()

        def told() -> bool:  # once its bill is known
            gate.daemon.server.output.flush()
            return f"POST {CHAT} 499" in gate.daemon.log.read_text()

        await until(told)
        never.set()


async def test_who_is_refused_before_it_sent_its_body_is_told_that_the_connection_ends() -> None:
    """It may never send that, and what it sent instead, another call, was read as the body."""
    data = body()
    cases = {
        401: _request(data, "Expect: 100-continue").replace(KEY.encode(), b"tw-unknown"),
        413: _request(data, "Expect: 100-continue").replace(b"Length: ", b"Length: 99999999"),
        415: _request(data, "Expect: 100-continue", "Content-Encoding: br"),
    }
    async with gateway([[reads(), says(whole())]]) as gate:
        for status, said in cases.items():
            client = await gate.daemon.connect()
            await client.send(said.removesuffix(data))
            answer = await client.answer()
            client.close()
            assert (answer.status, answer.headers["connection"]) == (status, "close")
        client = await gate.daemon.connect()
        await client.send(_request(b"{}", "Expect: 100-continue").removesuffix(b"{}"))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"{}")
        answer = await client.answer()
        client.close()
        assert (answer.status, answer.headers.get("connection")) == (400, None)
