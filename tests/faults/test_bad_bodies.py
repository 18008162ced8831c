"""Malformed, wrongly typed and enormous requests: a clear refusal, no hold left, memory flat."""

import asyncio
import contextlib
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from gateway import CHAT, KEY, Gateway, body, error, gateway, whole
from hypothesis import example, given, settings
from hypothesis import strategies as st
from shell import Client, control, process, running, short_folder, until, write_config
from upstreams import Peer, Step

from tollway.daemon.config.load import load
from tollway.daemon.ledger.calls import recent
from tollway.daemon.ledger.verify import verify
from tollway.providers.dialects.openai_request import READ

pytestmark = pytest.mark.asyncio(loop_scope="module")

# A wrong request is the caller's fault, or has no room or bound; never ours, never nobody's.
REFUSALS = {400, 402, 404, 413, 415}
EMBEDDED = b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5]}],\
"model":"m","usage":{"prompt_tokens":2,"total_tokens":2}}'


def serves() -> Step:
    """Answer every request on the connection, whatever it says."""

    async def step(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            embeds = request.startswith(b"POST /v1/embeddings")
            await peer.say(whole(EMBEDDED) if embeds else whole())

    return step


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gate() -> AsyncIterator[Gateway]:
    """Yield a gateway that everything is thrown at; afterwards nothing of it is left open."""
    async with gateway([[serves()]], budget="1000000/day") as one:
        yield one
        daemon = one.daemon.server.daemon
        await until(lambda: daemon.active == 0)
        assert one.held() == 0
        assert not daemon.exchanges
        path = daemon.ledger.path
        await until(lambda: verify(path) == [])
        assert {row.state for row in recent(path, limit=1000)} <= {"settled", "refused"}


async def send(gate: Gateway, data: bytes, path: str = CHAT, **headers: str) -> int:
    """Send a body and return the status, once everything held for it is let go."""
    reply = await gate.ask(data, path, **headers)
    if reply.status != 200:
        said = error(reply)
        assert said["message"]
        assert said["source"] == "gateway"
    await until(lambda: gate.held() == 0)
    return reply.status


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**30, "", "auto", "flex", "x" * 5000])
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["role", "content", "type", "text", "function", "name", "parameters",
                         "image_url", "url", "include_usage", "file", "input_audio", ""]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
# What no JSON writer writes, and some readers take.
odd = st.sampled_from(
    [b"NaN", b"-Infinity", b"1e999", b"-0", b"01", b"1.", b'"\\ud800"', b'"\\u0000"', b"\xff",
     b'"\xed\xa0\x80"', b"9" * 400, b"1e-999", b"[" * 3000, b'{"a":' * 3000, b"[1,]", b"'a'",
     b'{"a":1,"a":2}', b"tru", b"", b'"' + b"\\" * 7]
)  # fmt: skip


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings"])
@pytest.mark.parametrize("name", [*sorted(READ), "temperature", "unknown"])
@settings(max_examples=10)  # of each of 75 fields
@given(value=values.map(msgspec.json.encode) | odd)
async def test_any_value_in_any_field_is_taken_or_refused_in_words(
    gate: Gateway, path: str, name: str, value: bytes
) -> None:
    """Never a 500, never a hold that stays: whatever a program puts into a field."""
    await put(gate, path, name, value)


@pytest.mark.long
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings"])
@pytest.mark.parametrize("name", [*sorted(READ), "temperature", "unknown"])
@settings(max_examples=200)
@given(value=values.map(msgspec.json.encode) | odd)
async def test_any_of_many_values_in_any_field_is_taken_or_refused_in_words(
    gate: Gateway, path: str, name: str, value: bytes
) -> None:
    """The same with more of them; slow, so not in every run."""
    await put(gate, path, name, value)


async def put(gate: Gateway, path: str, name: str, value: bytes) -> None:
    """Send a request with a value in a field, and check what becomes of it."""
    said = json.loads(body(prompt="Hi", input="Hi"))
    said.pop(name, None)
    data = msgspec.json.encode(said)[:-1] + b"," + json.dumps(name).encode() + b":" + value + b"}"
    assert await send(gate, data, path) in REFUSALS | {200}


@given(data=st.binary(max_size=60) | values.map(msgspec.json.encode) | odd)
@example(b"{")
@example(b"\xef\xbb\xbf{}")
async def test_any_body_at_all_is_refused_in_words(gate: Gateway, data: bytes) -> None:
    """What is no JSON object, or lacks what its endpoint needs, is a 400."""
    for path in (CHAT, "/v1/completions", "/v1/embeddings"):
        reply = await gate.daemon.ask(
            "POST", path, authorization=f"Bearer {KEY}", content_type="application/json",
            content_length=str(len(data)),
        ) if not data else await gate.ask(data, path)  # fmt: skip
        assert reply.status == 400
        assert error(reply)["code"] == "invalid_request"


@given(name=st.text(min_size=1, max_size=300))
@example("up/m\r\nx-injected: 1")
@example("up/\x00")
@example("up/" + "ü" * 200)
@example("up/m\x1b[31m")
@example("up/ m ")
async def test_any_model_name_is_carried_whole_or_refused(gate: Gateway, name: str) -> None:
    """Control characters, line ends and long names: in no header, no log line, no crash."""
    for model in (name, f"up/{name}"):
        try:
            data = body(model=model)
        except UnicodeEncodeError:
            return
        before = len(gate.ups[0].requests)
        status = await send(gate, data)
        assert status in REFUSALS | {200}
        if status == 200:
            sent = gate.ups[0].requests[before:][-1]
            assert json.loads(sent.partition(b"\r\n\r\n")[2])["model"] == model.removeprefix("up/")
    await asyncio.to_thread(gate.daemon.server.output.flush)


async def test_a_body_nested_too_deep_is_refused(gate: Gateway) -> None:
    """A hundred thousand brackets, wherever they stand."""
    for nested in (b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000):
        for name in (b"messages", b"tools", b"metadata", b"response_format"):
            data = body(messages=None)[:-1] + b',"' + name + b'":' + nested + b"}"
            assert await send(gate, data) == 400
        assert await send(gate, nested) == 400


@pytest.mark.parametrize("how", ["gzip", "deflate"])
async def test_a_body_that_swells_is_cut_off_at_the_limit(gate: Gateway, how: str) -> None:
    """A gigabyte of zeros in a megabyte: 413, and never more than the limit in memory."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31 if how == "gzip" else 15)
    # A block behind a full flush depends on nothing before it, so that one stands for all.
    first, again = (
        packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    packed = first + again * 63 + packer.flush()
    assert len(packed) < 2**21
    before = peak_kib()
    client = await gate.daemon.connect()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Encoding: {how}\r\n"
        f"Content-Length: {len(packed)}\r\n\r\n"
    )
    await client.send(head.encode() + packed)
    assert (await client.answer()).status == 413
    assert peak_kib() - before < 200 * 1024


async def test_a_packed_body_is_not_unpacked_for_nothing() -> None:
    """Refused before it was read: it is dropped as it comes, and the connection goes on."""
    bomb = gzip.compress(bytes(2**28))
    async with running(server="") as daemon:
        client = await daemon.connect()
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n"
        )
        before = peak_kib()
        for _ in range(2):
            await client.send(head.encode() + bomb)
            assert (await client.answer()).status == 401
        assert peak_kib() - before < 64 * 1024
        client.close()


async def test_a_packed_body_that_is_broken_is_refused(gate: Gateway) -> None:
    """Not gzip at all, cut short, or of a kind nobody knows."""
    packed = gzip.compress(body())
    assert await send(gate, packed, content_encoding="gzip") == 200
    assert await send(gate, body(), content_encoding="gzip") == 400
    assert await send(gate, packed[: len(packed) // 2], content_encoding="gzip") == 400
    assert await send(gate, packed, content_encoding="br") == 415


def peak_kib(pid: int | str = "self") -> int:
    """Return the most memory that a process ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise AssertionError("no peak is known")


async def pour(client: Client, piece: bytes, sent: list[int]) -> None:
    """Send a piece again and again until the daemon hangs up, counting."""
    with contextlib.suppress(ConnectionError):
        while True:
            await client.send(piece)
            sent.append(len(piece))


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_gigabyte_is_refused_early_and_takes_no_memory(framing: str) -> None:
    """413 by its Content-Length before a byte of it came, or as soon as the limit is passed."""
    with short_folder() as folder, process(config := write_config(folder)) as daemon:
        assert await asyncio.to_thread(daemon.ready)
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
        client = Client(reader, writer)
        before = peak_kib(daemon.popen.pid)
        said = "Content-Length: 1073741824" if framing == "length" else "Transfer-Encoding: chunked"
        await client.send(
            f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"{said}\r\n\r\n".encode()
        )
        mebibyte = b"x" * 2**20
        piece = b"%x\r\n%s\r\n" % (len(mebibyte), mebibyte)
        sent: list[int] = []
        pouring = asyncio.create_task(
            pour(client, mebibyte if framing == "length" else piece, sent)
        )
        reply = await client.answer()
        assert reply.status == 413
        assert error(reply)["code"] == "request_too_large"
        assert sum(sent) < 2**28  # a limit of 32 MiB, and what was on its way
        await pouring  # it hangs up on who goes on sending
        client.close()
        assert peak_kib(daemon.popen.pid) - before < 150 * 1024
        admin = load(config).admin_socket
        status, _ = await asyncio.to_thread(control, admin, "GET", "/control/status")
        assert status == 200
