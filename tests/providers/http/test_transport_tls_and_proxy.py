"""TLS is always verified, a proxy is only a way through, and no error tells a secret."""

import asyncio
import contextlib
import os
import ssl
from pathlib import Path

import pytest
from transports import ask, whole
from upstreams import (
    Peer,
    Step,
    Upstream,
    answer,
    eventually,
    reads,
    says,
    self_signed,
    stalls,
    upstream,
)

from tollway.providers.errors import UpstreamBroke, UpstreamTimeout, UpstreamUnreachable
from tollway.providers.http.client import HttpTransport
from tollway.providers.http.tls import Contexts
from tollway.providers.transport import Request, Timeouts

OK = [reads(), says(answer(b"ok"))]
NO_CONNECT = Timeouts(connect_s=0.05, first_s=30.0, idle_s=30.0)


def secure(url: str, ca_file: Path | None, proxy: str | None = None) -> Request:
    """Return a POST that trusts an authority, by way of a proxy where one is named."""
    return Request(
        url=url,
        headers=(("Authorization", "Bearer canary"),),
        body=b"{}",
        ca_file=str(ca_file) if ca_file else None,
        proxy=proxy,
    )


async def unreachable(transport: HttpTransport, asked: Request) -> UpstreamUnreachable:
    """Return why a request was not sent; afterwards nothing may be open."""
    with pytest.raises(UpstreamUnreachable) as caught:
        await transport.send(asked)
    await eventually(lambda: transport.open_connections == 0)
    assert not caught.value.sent
    assert "canary" not in caught.value.message + caught.value.hint
    return caught.value


async def test_a_server_that_the_ca_file_vouches_for_is_called(
    transport: HttpTransport, tmp_path: Path
) -> None:
    """And its connection is kept like any other."""
    context, trusted = self_signed(tmp_path)
    async with upstream([*OK, *OK, stalls()], tls=context) as server:
        for _ in range(2):
            assert await whole(await transport.send(secure(server.url, trusted))) == b"ok"
        assert server.connections == 1


async def test_a_large_exchange_over_tls_is_whole(transport: HttpTransport, tmp_path: Path) -> None:
    """Flow control works through TLS too, both ways."""
    context, trusted = self_signed(tmp_path)
    body = bytes(range(256)) * 20_000
    async with upstream([reads(), says(answer(body)), stalls()], tls=context) as server:
        asked = Request(url=server.url, headers=(), body=body, ca_file=str(trusted))
        assert await whole(await transport.send(asked)) == body
        assert server.requests[0].endswith(body)


async def test_a_server_that_nobody_vouches_for_is_refused(
    transport: HttpTransport, tmp_path: Path
) -> None:
    """The request, with its key, never leaves."""
    context, _ = self_signed(tmp_path)
    async with upstream(OK, tls=context) as server:
        fault = await unreachable(transport, secure(server.url, None))
        assert not server.requests
    assert fault.message.startswith(
        f"`127.0.0.1:{server.port}` could not be trusted: certificate verify failed: self"
    )
    assert "`ca_file`" in fault.hint


async def test_a_certificate_for_another_name_or_time_is_refused(
    transport: HttpTransport, tmp_path: Path
) -> None:
    """Trusting an authority is not trusting every host that it knows, nor for ever."""
    context, trusted = self_signed(tmp_path, "elsewhere.example")
    async with upstream(OK, tls=context) as server:
        fault = await unreachable(transport, secure(server.url, trusted))
        assert not server.requests
    assert "certificate verify failed: IP address mismatch" in fault.message
    assert "`base_url`" in fault.hint
    context, trusted = self_signed(tmp_path, days=-1)
    async with upstream(OK, tls=context) as server:
        fault = await unreachable(transport, secure(server.url, trusted))
    assert "certificate has expired" in fault.message
    assert "must renew it" in fault.hint


async def test_connections_are_not_shared_across_ca_files(
    transport: HttpTransport, tmp_path: Path
) -> None:
    """A connection made under one trust must not serve a request under another."""
    context, trusted = self_signed(tmp_path)
    async with upstream([*OK, stalls()], tls=context) as server:
        await whole(await transport.send(secure(server.url, trusted)))
        with pytest.raises(UpstreamUnreachable, match="could not be trusted"):
            await transport.send(secure(server.url, None))


async def test_a_server_without_tls_says_so(transport: HttpTransport) -> None:
    """`https` on a plain port is a common slip."""
    async with upstream([says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), stalls()]) as server:
        fault = await unreachable(transport, secure(server.url.replace("http:", "https:"), None))
    assert fault.message.startswith(
        f"`127.0.0.1:{server.port}` did not complete a TLS handshake: wrong version number"
    )


async def test_a_handshake_that_hangs_is_given_up(transport: HttpTransport) -> None:
    """`connect_s` covers name, TCP, proxy and TLS together."""
    async with upstream([stalls()]) as server:
        asked = ask(server.url.replace("http:", "https:"), timeouts=NO_CONNECT)
        with pytest.raises(UpstreamTimeout) as caught:
            await transport.send(asked)
        await server.hung_up.wait()
    assert (caught.value.phase, caught.value.sent) == ("connect", False)
    await eventually(lambda: transport.open_connections == 0)


async def test_a_handshake_that_is_cut_off_says_so(transport: HttpTransport) -> None:
    """Nothing was sent but a greeting."""

    async def greeted(peer: Peer) -> None:
        await peer.reader.read(1)

    async with upstream([greeted]) as server:
        fault = await unreachable(transport, secure(server.url.replace("http:", "https:"), None))
    assert "during the TLS handshake" in fault.message or "TLS handshake: " in fault.message


@pytest.mark.parametrize("proper", [True, False])
async def test_a_body_until_close_needs_a_proper_end_of_tls(
    transport: HttpTransport, tmp_path: Path, proper: bool
) -> None:
    """Without TLS's own goodbye anyone on the way may have cut the answer short."""
    context, trusted = self_signed(tmp_path)
    go = asyncio.Event()

    async def ends(peer: Peer) -> None:
        await go.wait()
        if not proper:
            peer.writer.transport.abort()

    said = says(b"HTTP/1.1 200 OK\r\n\r\nhalf")
    async with upstream([reads(), said, ends], tls=context) as server:
        chunks = (await transport.send(secure(server.url, trusted))).chunks()
        assert await anext(chunks) == b"half"
        go.set()
        if proper:
            assert await anext(chunks, b"end") == b"end"
        else:
            with pytest.raises(UpstreamBroke, match="in the middle of its answer"):
                await anext(chunks)


async def test_contexts_are_made_once_for_each_version_of_a_file(tmp_path: Path) -> None:
    """Reading a hundred authorities takes milliseconds; a renewed file must count all the same."""
    contexts = Contexts()
    _, trusted = self_signed(tmp_path)
    first = await contexts.get(str(trusted))
    assert await contexts.get(str(trusted)) is first
    assert await contexts.get(None) is await contexts.get(None)
    os.utime(trusted, ns=(1, 1))
    assert await contexts.get(str(trusted)) is not first
    for context in (first, await contexts.get(None)):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname


async def test_a_box_without_authorities_falls_back_on_certifi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slim containers have none; without any, no provider could be called."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert len((await Contexts().get(None)).get_ca_certs()) > 50


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_ca_file_that_cannot_be_used_is_named(
    transport: HttpTransport, tmp_path: Path, content: str | None
) -> None:
    """The fault is in the file, not at the provider."""
    file = tmp_path / "ca.pem"
    if content:
        file.write_text(content)
    fault = await unreachable(transport, secure("https://127.0.0.1:9/", file))
    why = "it holds no certificate" if content else "No such file or directory"
    assert fault.message == f"The CA file `{file}` cannot be used: {why}"


def tunnels(to: Upstream) -> Step:
    """Obey one CONNECT: open a connection to an upstream and carry bytes both ways."""

    async def step(peer: Peer) -> None:
        await peer.read_request()
        reader, writer = await asyncio.open_connection("127.0.0.1", to.port)
        await peer.say(b"HTTP/1.1 200 Connection established\r\nVia: us\r\n\r\n")
        back = asyncio.create_task(_carry(reader, peer.writer))
        try:
            await _carry(peer.reader, writer)
        finally:
            back.cancel()
            writer.close()

    return step


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


async def test_https_goes_through_a_tunnel(transport: HttpTransport, tmp_path: Path) -> None:
    """The proxy sees a host and a port, never the key; the tunnel is kept and used again."""
    context, trusted = self_signed(tmp_path)
    async with (
        upstream([*OK, *OK, stalls()], tls=context) as server,
        upstream([tunnels(server)]) as proxy,
    ):
        way = f"http://user:p%40ss@127.0.0.1:{proxy.port}"
        for _ in range(2):
            assert await whole(await transport.send(secure(server.url, trusted, way))) == b"ok"
        place = f"127.0.0.1:{server.port}"
        assert proxy.requests == [
            f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n"
            "Proxy-Authorization: Basic dXNlcjpwQHNz\r\n\r\n".encode()
        ]
        assert b"Proxy-Authorization" not in server.requests[0]
        await transport.close()


async def test_tls_is_verified_through_a_tunnel(transport: HttpTransport, tmp_path: Path) -> None:
    """The proxy may not speak for the provider."""
    context, _ = self_signed(tmp_path)
    async with upstream(OK, tls=context) as server, upstream([tunnels(server)]) as proxy:
        way = f"http://127.0.0.1:{proxy.port}"
        fault = await unreachable(transport, secure(server.url, None, way))
        assert not server.requests
    assert "certificate verify failed" in fault.message


async def test_plain_http_asks_the_proxy_itself(transport: HttpTransport) -> None:
    """In absolute form, with the way in beside it."""
    async with upstream([*OK, stalls()]) as proxy:
        asked = Request(
            url="http://models.example:8000/v1/models?a=b",
            headers=(("X-A", "b"),),
            method="GET",
            proxy=f"http://user:pass@127.0.0.1:{proxy.port}",
        )
        assert await whole(await transport.send(asked)) == b"ok"
        assert proxy.requests == [
            b"GET http://models.example:8000/v1/models?a=b HTTP/1.1\r\n"
            b"Host: models.example:8000\r\nProxy-Authorization: Basic dXNlcjpwYXNz\r\n"
            b"X-A: b\r\nAccept-Encoding: identity\r\n\r\n"
        ]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            b"HTTP/1.1 407 canary wants\r\nContent-Length: 0\r\n\r\n",
            "refused to connect to `models.example:443`: 407 Proxy Authentication Required",
        ),
        (b"HTTP/1.0 503 Full\r\n\r\n<html>canary", "`models.example:443`: 503 Service Unavailable"),
        (b"HTTP/1.1 999 Odd\r\n\r\n", "refused to connect to `models.example:443`: 999"),
        (b"HTTP/1.1 200 OK\r\n\r\nplanted", "gave no proper answer when asked for"),
        (b"garbage\r\n\r\n", "gave no proper answer when asked for"),
        (b"HTTP/1.1 200 OK\r\nHalf", "gave no proper answer when asked for"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000, "gave no proper answer when asked for"),
    ],
    ids=["407", "503", "999", "planted bytes", "garbage", "half", "endless"],
)
async def test_a_proxy_that_refuses_is_named(
    transport: HttpTransport, said: bytes, words: str
) -> None:
    """With its status, in our words; nothing reached the provider."""
    async with upstream([reads(), says(said)]) as proxy:
        way = f"http://user:canary@127.0.0.1:{proxy.port}"
        fault = await unreachable(transport, secure("https://models.example/", None, way))
    assert fault.message.startswith(f"The proxy `127.0.0.1:{proxy.port}` ")
    assert words in fault.message


async def test_a_plain_proxy_that_wants_a_password_is_no_provider(
    transport: HttpTransport,
) -> None:
    """407 can only be the proxy's: it says nothing of the provider, and nothing is billed."""
    said = answer(b"canary", status="407 Proxy Authentication Required")
    async with upstream([reads(), says(said), stalls()]) as proxy:
        way = f"http://127.0.0.1:{proxy.port}"
        fault = await unreachable(transport, secure("http://models.example/", None, way))
    assert "407 Proxy Authentication Required" in fault.message


async def test_a_proxy_that_is_not_there_is_named(transport: HttpTransport) -> None:
    """Not the provider, which was never asked."""
    async with upstream([stalls()]) as gone:
        port = gone.port
    way = f"http://user:canary@127.0.0.1:{port}"
    fault = await unreachable(transport, secure("https://models.example/", None, way))
    assert fault.message == f"The proxy `127.0.0.1:{port}` refused the connection"


async def test_a_proxy_that_hangs_is_given_up(transport: HttpTransport) -> None:
    """While it is asked for a tunnel."""
    async with upstream([reads(), stalls()]) as proxy:
        asked = Request(
            url="https://models.example/",
            headers=(),
            timeouts=NO_CONNECT,
            proxy=f"http://127.0.0.1:{proxy.port}",
        )
        with pytest.raises(UpstreamTimeout, match="by way of the proxy") as caught:
            await transport.send(asked)
        await proxy.hung_up.wait()
    assert not caught.value.sent
    await eventually(lambda: transport.open_connections == 0)


async def test_proxies_in_the_environment_are_not_heard(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a key travels stands in the file alone."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with upstream([*OK, stalls()]) as server:
        assert await whole(await transport.send(ask(server.url))) == b"ok"


async def test_an_authority_whose_file_is_slow_to_read_holds_nobody_up(
    transport: HttpTransport, tmp_path: Path
) -> None:
    """Reading authorities takes as long as it takes; the loop that serves all others turns on."""
    context, trusted = self_signed(tmp_path)
    slow = tmp_path / "slow.pem"
    os.mkfifo(slow)  # whoever reads it waits until somebody writes
    async with upstream(OK, tls=context) as server, upstream(OK) as other:
        waits = [asyncio.create_task(transport.send(secure(server.url, slow))) for _ in range(3)]
        for _ in range(3):
            assert (await transport.send(secure(other.url, None))).status == 200
        assert not any(one.done() for one in waits)
        # One reader for all who wait: a second one would find nothing.
        await asyncio.to_thread(slow.write_bytes, trusted.read_bytes())
        assert [(await one).status for one in waits] == [200] * 3


async def test_authorities_are_read_before_anybody_calls(
    transport: HttpTransport, tmp_path: Path
) -> None:
    """What cannot be read is told to whoever calls, and by then it may be there."""
    context, trusted = self_signed(tmp_path)
    absent = tmp_path / "absent.pem"
    await transport.prepare({str(trusted), str(absent), None})
    made = transport._contexts.known(str(trusted))
    assert made is not None
    assert transport._contexts.known(None) is not None
    assert transport._contexts.known(str(absent)) is None
    async with upstream(OK, tls=context) as server:
        assert (await transport.send(secure(server.url, trusted))).status == 200
        assert (
            "absent.pem` cannot be used"
            in (await unreachable(transport, secure(server.url, absent))).message
        )
    assert transport._contexts.known(str(trusted)) is made
