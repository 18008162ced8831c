"""Requests that come compressed, or with a mark at their head: undone here, within the limits."""

import gzip
import zlib
from base64 import b64decode
from collections.abc import AsyncIterator

import msgspec
import packed
import pytest
from gateway import CHAT, KEY, Gateway, body, gateway, whole
from shell import running
from upstreams import reads, says

SAID = body()
# Made by Zstandard itself, at the level at which Codex packs (3).
BY_CODEX = b64decode(
    "KLUv/SDqpQIAIoUSGoBLMwZkjE0oUJI8s5XZPzQTRyDidpBOxuICSSG5IAtFeZzB90q4kh42K1z2jUjVjXAvJs4u5iYgu"
    "DchQ5fBcXJzAhrsGyFC8xYBAE5lVIkC"
)
LONG = SAID.replace(b'"Hi"', b'"' + b"Say hi. " * 20 + b'"')
bare = zlib.compressobj(wbits=-15)
PACKED = {
    "gzip": ("gzip", gzip.compress(SAID), SAID),
    "the old name": ("x-gzip", gzip.compress(SAID), SAID),
    "two members": ("GZip", gzip.compress(SAID[:9]) + gzip.compress(SAID[9:]), SAID),
    "deflate": ("deflate", zlib.compress(SAID), SAID),
    "bare deflate": ("deflate", bare.compress(SAID) + bare.flush(), SAID),
    "zstd": ("zstd", packed.frame(SAID), SAID),
    "zstd as Codex makes it": ("zstd", BY_CODEX, None),
    "two frames": ("zstd", packed.frame(SAID[:9]) + packed.frame(SAID[9:]), SAID),
    "a frame to pass over": ("zstd", packed.nothing(5) + packed.frame(SAID), SAID),
    "not packed": ("identity", SAID, SAID),
    "not packed, twice": ("identity, identity", SAID, SAID),
    "a character set": ("UTF-8", SAID, SAID),
    "a mark": ("identity", b"\xef\xbb\xbf" + SAID, SAID),
    "a mark inside": ("gzip", gzip.compress(b"\xef\xbb\xbf" + SAID), SAID),
}


@pytest.fixture
async def gate() -> AsyncIterator[Gateway]:
    """Yield a gateway whose upstream answers; nothing is held afterwards."""
    async with gateway([[reads(), says(whole(b"", "Connection: close"))]]) as one:
        yield one
        assert one.held() == 0


@pytest.mark.parametrize("case", PACKED)
async def test_a_body_reaches_the_provider_as_it_was_before_it_was_packed(case: str) -> None:
    """What is forwarded is plain: not every provider unpacks."""
    coding, sent, meant = PACKED[case]
    async with gateway([[reads(), says(whole())]]) as gate:
        reply = await gate.ask(sent, content_encoding=coding)
        assert reply.status == 200
        head, _, got = gate.ups[0].requests[0].partition(b"\r\n\r\n")
        assert b"content-encoding" not in head.lower()
        assert not got.startswith(b"\xef\xbb\xbf")
        asked = msgspec.json.decode(got)
        assert asked["model"] == "m"
        if meant is not None:
            assert asked["messages"] == msgspec.json.decode(meant)["messages"]
        assert (await gate.row(reply)).call.state == "settled"


@pytest.mark.parametrize("size", [1, 7, 60])
async def test_a_packed_body_may_come_in_pieces(size: int) -> None:
    """Chunks fall where they like."""
    async with gateway([[reads(), says(whole())]]) as gate:
        client = await gate.daemon.connect()
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
            "Content-Type: application/json\r\nContent-Encoding: zstd\r\n"
            "Transfer-Encoding: chunked\r\n\r\n"
        )
        await client.send(head.encode())
        for at in range(0, len(BY_CODEX), size):
            piece = BY_CODEX[at : at + size]
            await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await client.send(b"0\r\n\r\n")
        assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    "coding", ["br", "compress", "gzip, zstd", "zstd, zstd", "snappy", "x" * 300]
)
@pytest.mark.parametrize(
    ("path", "kind"),
    [(CHAT, "error"), ("/v1/responses", "error"), ("/v1/messages", "anthropic"),
     ("/v1beta/models/up/m:generateContent", "google")],
)  # fmt: skip
async def test_another_packing_is_a_415_that_names_what_is_taken(
    gate: Gateway, coding: str, path: str, kind: str
) -> None:
    """In the client's dialect."""
    reply = await gate.ask(SAID, path, content_encoding=coding)
    assert reply.status == 415
    assert reply.headers["accept-encoding"] == "gzip, deflate, zstd"
    said = reply.json()["error"]
    for word in ("gzip", "deflate", "zstd", coding[:100]):
        assert word in said["message"]
    if kind == "anthropic":
        assert reply.json()["type"] == "error"
    if kind == "google":
        assert said["code"] == 415


async def test_who_asks_whether_to_send_a_body_hears_no_at_once() -> None:
    """`Expect: 100-continue`: what cannot be unpacked, or is too large, is not asked for."""
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    async with running() as daemon:
        for line, status in (("Content-Encoding: br\r\nContent-Length: 9", 415),
                             ("Content-Length: 999999999999", 413)):  # fmt: skip
            client = await daemon.connect()
            await client.send(f"{head}{line}\r\nExpect: 100-continue\r\n\r\n".encode())
            assert (await client.answer()).status == status
            client.close()


BROKEN = {
    "no gzip": ("gzip", SAID),
    "no zstd": ("zstd", SAID),
    "gzip called zstd": ("zstd", gzip.compress(SAID)),
    "half": ("zstd", BY_CODEX[:-9]),
    "half a head": ("zstd", BY_CODEX[:5]),
    "half of gzip": ("gzip", gzip.compress(SAID)[:-4]),
    "half of deflate": ("deflate", zlib.compress(SAID)[:-4]),
    "more than deflate": ("deflate", zlib.compress(SAID) + b"x"),
    "more than a frame": ("zstd", packed.frame(SAID) + b"x" * 9),
    "a greedy window": ("zstd", packed.hungry(27)),
    "frames without end": ("zstd", packed.nothing() * 100_000),
    "members without end": ("gzip", gzip.compress(b"") * 50_000),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_broken_packing_is_refused_in_words(gate: Gateway, case: str) -> None:
    """Neither a crash nor half a body; and what is made of nothing but heads takes no time."""
    coding, sent = BROKEN[case]
    reply = await gate.ask(sent, content_encoding=coding)
    assert reply.status == 400
    assert reply.json()["error"]["source"] == "gateway"
    assert not gate.ups[0].requests


async def test_a_window_that_any_receiver_has_is_taken(gate: Gateway) -> None:
    """RFC 9659: 8 MiB, which the strongest usual packing has."""
    reply = await gate.ask(packed.hungry(23), content_encoding="zstd")
    assert "`model`" in reply.json()["error"]["message"]  # it was read: its object is empty


async def test_what_swells_or_stands_for_nothing_ends_at_the_limit() -> None:
    """The limit counts what comes and what that becomes: a gigabyte of zeros is 32 KiB."""
    async with running(server='single_user = true\nmax_body = "256KiB"') as daemon:
        for sent in (packed.bomb(8192), packed.frame(b" " * 300_000)):
            assert (await daemon.ask("POST", CHAT, sent, Content_Encoding="zstd")).status == 413
        client = await daemon.connect()
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            "Content-Encoding: zstd\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        data = packed.nothing(300_000)
        await client.send(head.encode() + b"%x\r\n" % len(data) + data)
        assert (await client.answer()).status == 413
        client.close()
