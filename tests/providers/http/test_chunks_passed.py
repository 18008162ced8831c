"""A reader may take chunks as they stand on the wire, beside the parser: no byte is lost by it."""

import asyncio
import itertools
import random
import socket
from types import SimpleNamespace
from typing import Any

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transports import ask
from upstreams import drips, reads, stalls, upstream

from tollway.providers.http.answer import HttpAnswer
from tollway.providers.http.client import HttpTransport
from tollway.providers.http.connection import Connection
from tollway.providers.http.portions import Portions
from tollway.providers.transport import Request

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
# Bodies that look like framing are what could be taken for it.
PAYLOADS = st.lists(st.text("a0\r\n;", min_size=1, max_size=20).map(str.encode), max_size=12)
SIZES = st.sampled_from(["%x", "%X", "%04x", "%x;ext=1"])


class Transport(asyncio.Transport):
    """A connected transport that takes what is written."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__({"socket": sock})
        self.closed = False

    def is_closing(self) -> bool:
        """Return whether it was aborted."""
        return self.closed

    def abort(self) -> None:
        """Close."""
        self.closed = True

    def write(self, data: Any) -> None:
        """Drop it."""

    def get_write_buffer_size(self) -> int:
        """Return that nothing waits."""
        return 0


class Taker:
    """Takes pieces, and some of the whole chunks as they are."""

    def __init__(self, chance: random.Random) -> None:
        self.body = b""
        self.passed = 0
        self._chance = chance

    def take(self, piece: bytes) -> bool:
        """Take a piece without its framing."""
        self.body += piece
        return self._chance.random() < 0.8

    def passes(self, answer: HttpAnswer, data: bytes) -> bool:
        """Take a whole chunk, now and then, and now and then no more behind it."""
        at = data.find(b"\r\n")
        if at < 1 or data[:at] != b"%x" % (len(data) - at - 4) or not data.endswith(b"\r\n"):
            return False
        if data.startswith(b"0") or self._chance.random() < 0.3:  # the last chunk is the end
            return False
        self.body += data[at + 2 : -2]
        self.passed += 1
        if self._chance.random() < 0.2:
            answer.enough()
        return True


class Kept:
    """What the parser alone makes of an answer."""

    body = b""

    def on_body(self, body: bytes) -> None:
        """Keep it."""
        self.body += body


def wire(payloads: list[bytes], sizes: list[str]) -> list[bytes]:
    """Return each chunk as a provider may write it, and the last one."""
    chunks = [
        (size % len(payload)).encode() + b"\r\n" + payload + b"\r\n"
        for payload, size in zip(payloads, sizes, strict=False)
    ]
    return [*chunks, b"0\r\n\r\n"]


async def fed(pieces: list[bytes], chance: random.Random) -> Taker:
    """Return what a reader took of an answer that came in such pieces."""
    rested: list[Connection] = []

    def rests(connection: Connection) -> float:
        rested.append(connection)
        return 9.0

    owner = SimpleNamespace(opened=id, lost=id, rests=rests, portions=Portions())
    route: Any = SimpleNamespace(
        key=("up",), place=SimpleNamespace(name="up", scheme="http"), proxy=None, head_only=False
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection(asyncio.get_running_loop(), route, owner)
        connection.connection_made(Transport(ours))
        answer = connection.begin(route, b"", Request("http://up", ()))
        taker = Taker(chance)

        async def read() -> None:
            while not await answer.each(taker.take, lambda data, _: taker.passes(answer, data)):
                pass

        connection.data_received(HEAD)
        task = asyncio.ensure_future(read())
        for piece in pieces:
            if chance.random() < 0.7:
                await asyncio.sleep(0)
            connection.data_received(piece)
        await task
        assert rested == [connection], "both sides do not agree on where the answer ended"
        connection.drop()
        connection.connection_lost(None)
    return taker


@given(PAYLOADS, st.lists(SIZES, min_size=12, max_size=12), st.data(), st.randoms())
def test_chunks_that_are_passed_on_and_pieces_that_are_parsed_make_the_body(
    payloads: list[bytes], sizes: list[str], data: st.DataObject, chance: random.Random
) -> None:
    """However the wire is cut, and whichever chunks the reader takes as they are."""
    chunks = wire(payloads, sizes)
    whole = b"".join(chunks)
    ends = data.draw(st.sets(st.integers(1, len(whole))))
    bounds = sorted({0, len(whole)} | ends)
    if data.draw(st.booleans()):  # cut where providers cut
        bounds = [sum(map(len, chunks[:at])) for at in range(len(chunks) + 1)]
    pieces = [whole[begin:end] for begin, end in itertools.pairwise(bounds)]
    taker = asyncio.run(fed(pieces, chance))
    assert taker.body == b"".join(payloads)


@pytest.mark.parametrize(
    "pieces",
    [
        [b"a\r\nab\r\n", b"1\r\nc\r\n", b"\r\n"],
        [b"1\r\nx\r\n1", b"1\r\nc\r\n", b"defghijklmnopq\r\n"],
        [b"1\r\nx", b"\r\n6\r\n", b"1\r\nc\r\n", b"\r\n"],
    ],
    ids=["in a chunk", "in a size", "behind a size"],
)
def test_what_looks_like_a_chunk_and_is_none_is_parsed(pieces: list[bytes]) -> None:
    """A body may hold the very bytes of a chunk, and a network cut it just there."""
    begun = [b"1\r\na\r\n", b"1\r\nb\r\n"]
    parser = Kept()
    httptools.HttpResponseParser(parser).feed_data(b"".join([HEAD, *begun, *pieces]))
    for seed in range(20):
        chance = random.Random(seed)  # noqa: S311 - must repeat itself
        taker = asyncio.run(fed([*begun, *pieces, b"0\r\n\r\n"], chance))
        assert taker.body == parser.body


def test_a_chunk_a_piece_is_passed_on_as_it_stands() -> None:
    """All but the first, behind which the parser is known to stand between two chunks."""
    chunks = wire([b"a", b"bc", b"def"] * 30, ["%x"] * 90)
    taker = asyncio.run(fed(chunks, random.Random(1)))  # noqa: S311 - must repeat itself
    assert taker.passed > 30


async def test_a_fault_of_the_reader_is_raised_where_it_reads(transport: HttpTransport) -> None:
    """Left to the event loop it would end the connection, and seem to be the provider's."""

    def fails(_chunk: bytes, _now_s: float) -> bool:
        raise ValueError("a fault of ours")

    chunks = wire([b"a"] * 30, ["%x"] * 30)[:-1]
    async with upstream([reads(), drips([HEAD, *chunks]), stalls()]) as server:
        answered = await transport.send(ask(server.url))
        assert isinstance(answered, HttpAnswer)
        with pytest.raises(ValueError, match="a fault of ours"):
            await answered.each(lambda _: True, fails)
        await answered.close()
