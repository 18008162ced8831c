"""A stream is the same bytes whatever frames it: the provider's HTTP, the client's, TLS or none."""

import asyncio
import contextlib
import gzip
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from gateway import CHAT, DONE, KEY, SSE, USED, Gateway, body, chunk, config
from shell import Client, running, until
from upstreams import Peer, Step, drips, reads, says, self_signed, stalls, upstream

from tollway.daemon.ledger.verify import verify

EVENTS = [chunk("Hel"), chunk("lo"), chunk("", "stop"), USED, DONE]
SAID = b"".join(EVENTS)
CHUNKED = "Transfer-Encoding: chunked"
LAST = b"0\r\n\r\n"
PACKED = gzip.compress(SAID)
ASKED = body(True, stream_options={"include_usage": True})


def head(*lines: str, version: str = "1.1") -> bytes:
    """Return the head of a stream."""
    return "\r\n".join([f"HTTP/{version} 200 OK", SSE, *lines, "", ""]).encode()


def chunks(*pieces: bytes, behind: bytes = b"") -> list[bytes]:
    """Return each piece as a chunk; `behind` stands behind each size."""
    return [b"%x%b\r\n%b\r\n" % (len(one), behind, one) for one in pieces]


def each_byte(pieces: Sequence[bytes]) -> list[bytes]:
    """Return pieces byte by byte."""
    whole = b"".join(pieces)
    return [whole[at : at + 1] for at in range(len(whole))]


async def half_closes(peer: Peer) -> None:
    """End the sending side, and read on until the other side hangs up."""
    if peer.writer.can_write_eof():  # TLS cannot
        peer.writer.write_eof()
    await stalls()(peer)


async def reads_the_head_alone(peer: Peer) -> None:
    """Answer before the request's body has come."""
    await peer.reader.readuntil(b"\r\n\r\n")


FRAMINGS: dict[str, tuple[Step, ...]] = {
    "a chunk for each event": (reads(), says(head(CHUNKED)), drips([*chunks(*EVENTS), LAST])),
    "chunks in one write": (reads(), says(head(CHUNKED) + b"".join(chunks(*EVENTS)) + LAST)),
    "one chunk": (reads(), says(head(CHUNKED) + chunks(SAID)[0] + LAST)),
    "bytes": (reads(), says(head(CHUNKED)), drips(each_byte([*chunks(*EVENTS), LAST]))),
    "chunks of bytes": (reads(), says(head(CHUNKED)), drips([*chunks(*each_byte(EVENTS)), LAST])),
    "extensions": (
        reads(),
        says(head(CHUNKED)),
        drips([*chunks(*EVENTS, behind=b';a="b"'), b"000;c\r\n\r\n"]),
    ),
    "trailers": (
        reads(),
        says(head(CHUNKED, "Trailer: x-a")),
        drips([*chunks(*EVENTS), b"0\r\nx-a: b\r\n\r\n"]),
    ),
    "a length": (reads(), says(head(f"Content-Length: {len(SAID)}")), drips(EVENTS)),
    "the connection's end": (reads(), says(head("Connection: close")), drips(EVENTS)),
    "HTTP/1.0": (reads(), says(head(version="1.0")), drips(EVENTS)),
    "gzip": (
        reads(),
        says(head(CHUNKED, "Content-Encoding: gzip")),
        drips([*chunks(*each_byte([PACKED])), LAST]),
    ),
    "1xx before": (
        reads(),
        says(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
        says(head(CHUNKED)),
        drips([*chunks(*EVENTS), LAST]),
    ),
    "before the request was read": (
        reads_the_head_alone,
        says(head(CHUNKED)),
        drips([*chunks(*EVENTS), LAST]),
        stalls(),
    ),
    "half closed behind it": (
        reads(),
        says(head(CHUNKED)),
        drips([*chunks(*EVENTS), LAST]),
        half_closes,
    ),
    "an answer behind the answer": (
        reads(),
        says(head(CHUNKED)),
        drips([*chunks(*EVENTS), LAST + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"]),
    ),
}
CLIENTS = {
    "plain": ("1.1", False, ()),
    "HTTP/1.0": ("1.0", False, ()),
    "to be closed": ("1.1", False, ("Connection: close",)),
    "in chunks": ("1.1", True, ()),
    "gzip": ("1.1", False, ("Accept-Encoding: gzip, br, zstd",)),
    "asks first": ("1.1", False, ("Expect: 100-continue",)),
}


def certified(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return an upstream's TLS, and the file that it and the gateway are trusted by."""
    server, trusted = self_signed(folder)
    (folder / "private.pem").chmod(0o600)
    return server, trusted


@contextlib.asynccontextmanager
async def world(
    script: Sequence[Step], folder: Path, *, secure: bool
) -> AsyncIterator[tuple[Gateway, ssl.SSLContext | None]]:
    """Yield a gateway before a script, both over TLS or both without; nothing is left of it."""
    server, trusted = certified(folder)
    async with upstream(script, tls=server if secure else None) as up:
        text = config([up])
        ours = ""
        if secure:
            text = text.replace("http://", "https://").replace(
                'kind = "openai"', f'kind = "openai"\nca_file = "{trusted}"'
            )
            ours = f'tls = {{ cert = "{trusted}", key = "{folder}/private.pem" }}'
        async with running(text, server=ours) as daemon:
            gate = Gateway(daemon, [up])
            yield gate, ssl.create_default_context(cafile=trusted) if secure else None
            inside = daemon.server.daemon
            await until(lambda: inside.active == 0 and not inside.exchanges)
            assert (gate.held(), inside.room.held) == (0, 0)
            await until(lambda: verify(inside.ledger.path) == [])


def request(version: str, in_chunks: bool, lines: Sequence[str]) -> bytes:
    """Return a call as a client of some kind sends it."""
    how, sent = f"Content-Length: {len(ASKED)}", ASKED
    if in_chunks:
        how = CHUNKED
        sent = b"".join(chunks(*each_byte([ASKED]))) + b"0\r\nx-trailer: 1\r\n\r\n"
    said = [f"POST {CHAT} HTTP/{version}", "Host: 127.0.0.1", f"Authorization: Bearer {KEY}"]
    said += ["Content-Type: application/json", *lines, how, "", ""]
    return "\r\n".join(said).encode() + sent


async def answered(client: Client) -> tuple[bytes, bytes]:
    """Return the head and the unframed body of an answer."""
    async with asyncio.timeout(30):
        found = await client.reader.readuntil(b"\r\n\r\n")
        while found.startswith(b"HTTP/1.1 100 "):
            found = await client.reader.readuntil(b"\r\n\r\n")
        if b"chunked" not in found:
            return found, await client.reader.read()
        made = b""
        while size := int(await client.reader.readuntil(b"\r\n"), 16):
            made += (await client.reader.readexactly(size + 2))[:-2]
        assert await client.reader.readexactly(2) == b"\r\n"
        return found, made


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_stream_is_the_same_bytes_in_any_framing(
    framing: str, secure: bool, tmp_path: Path
) -> None:
    """One row with its usage, too; and nothing of the framing comes through."""
    async with world(FRAMINGS[framing], tmp_path, secure=secure) as (gate, trusting):
        client = Client(*await asyncio.open_connection("127.0.0.1", gate.daemon.port, ssl=trusting))
        await client.send(request(*CLIENTS["plain"]))
        found, made = await answered(client)
        client.close()
        assert found.startswith(b"HTTP/1.1 200 ")
        assert made == SAID
        assert b"x-a" not in found.lower() and b"gzip" not in found.lower()
        row = (await gate.only_row()).call
        assert (row.ending, row.input_total, row.output_total) == ("answered", 7, 3)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("kind", CLIENTS)
async def test_a_stream_is_the_same_bytes_to_any_client(
    kind: str, secure: bool, tmp_path: Path
) -> None:
    """In chunks where those can be read, else up to the connection's end; never compressed."""
    framing = FRAMINGS["a chunk for each event"]
    async with world(framing, tmp_path, secure=secure) as (gate, trusting):
        client = Client(*await asyncio.open_connection("127.0.0.1", gate.daemon.port, ssl=trusting))
        await client.send(request(*CLIENTS[kind]))
        found, made = await answered(client)
        client.close()
        assert made == SAID
        ends = kind in ("HTTP/1.0", "to be closed")
        assert (b"\r\nConnection: close\r\n" in found) is ends
        assert (await gate.only_row()).call.ending == "answered"
