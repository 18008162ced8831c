"""Upstreams that misbehave on purpose: raw sockets that follow a script, step by step.

A script is a list of steps; each connection follows the next script, and the last one serves all
connections that come after. A step is an async function of the `Peer`, so a test can write its
own. A script that ends closes its connection properly.
"""

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Peer:
    """One connection, seen from the upstream."""

    def __init__(
        self, server: "Upstream", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer

    async def read_request(self) -> bytes:
        """Return the next request, head and body, and note it in `server.requests`."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        request = head + (await self.reader.readexactly(length))
        self.server.requests.append(request)
        return request

    async def say(self, data: bytes) -> None:
        """Send bytes, and wait while the other side is slow."""
        self.writer.write(data)
        await self.writer.drain()


Step = Callable[[Peer], Awaitable[None]]


def reads() -> Step:
    """Read one whole request."""

    async def step(peer: Peer) -> None:
        await peer.read_request()

    return step


def says(data: bytes) -> Step:
    """Send bytes in one go."""

    async def step(peer: Peer) -> None:
        await peer.say(data)

    return step


def drips(pieces: Sequence[bytes]) -> Step:
    """Send pieces one by one; the client's loop gets a turn after each."""

    async def step(peer: Peer) -> None:
        for piece in pieces:
            await peer.say(piece)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    return step


def floods(piece: bytes) -> Step:
    """Send a piece for ever, at the pace of the other side, until it hangs up."""

    async def step(peer: Peer) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await peer.say(piece)
                await asyncio.sleep(0)

    return step


def trickles(piece: bytes, every_s: float = 0.02) -> Step:
    """Send a piece again and again, slowly and for ever, until the other side hangs up."""

    async def step(peer: Peer) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await peer.say(piece)
                await asyncio.sleep(every_s)

    return step


def waits(event: asyncio.Event) -> Step:
    """Wait until the test says go."""

    async def step(_peer: Peer) -> None:
        await event.wait()

    return step


def notes(event: asyncio.Event) -> Step:
    """Tell the test that the script has come this far."""

    async def step(_peer: Peer) -> None:
        event.set()

    return step


def stalls() -> Step:
    """Stay silent, reading what comes, until the other side hangs up; then `server.hung_up`."""

    async def step(peer: Peer) -> None:
        with contextlib.suppress(ConnectionError):
            while await peer.reader.read(65536):
                pass
        peer.server.hung_up.set()

    return step


def resets() -> Step:
    """Send a TCP reset instead of a proper end."""

    async def step(peer: Peer) -> None:
        # With SO_LINGER at zero seconds, closing drops what is queued and sends RST.
        sock = peer.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.writer.transport.abort()

    return step


class Upstream:
    """A listening upstream: where it is, and what it has seen."""

    def __init__(self, scripts: Sequence[Sequence[Step]], *, tls: bool) -> None:
        self.port = 0
        self.requests: list[bytes] = []
        self.connections = 0
        self.hung_up = asyncio.Event()
        self.faults: list[BaseException] = []
        self._scripts = scripts
        self._tls = tls
        self._running: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The URL of a chat call at this upstream."""
        scheme = "https" if self._tls else "http"
        return f"{scheme}://127.0.0.1:{self.port}/v1/chat/completions"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Follow the next script on a new connection."""
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        peer = Peer(self, reader, writer)
        try:
            for step in script:
                await step(peer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client left, which its test looks at; or the test is over
        except Exception as fault:  # noqa: BLE001 - shown to the test when the server ends
            self.faults.append(fault)
        finally:
            writer.close()
            self._running.discard(task)

    async def end(self) -> None:
        """Cut off every script that still runs."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@contextlib.asynccontextmanager
async def upstream(
    *scripts: Sequence[Step], tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Upstream]:
    """Serve scripts while the block runs; afterwards raise what a script did wrong."""
    serving = Upstream(scripts, tls=tls is not None)
    server = await asyncio.start_server(serving.serve, host, 0, ssl=tls, limit=1 << 22)
    serving.port = server.sockets[0].getsockname()[1]
    try:
        yield serving
    finally:
        server.close()
        await serving.end()
        await server.wait_closed()
    if serving.faults:
        raise serving.faults[0]


@contextlib.contextmanager
def free_port() -> Iterator[int]:
    """Give a port on which nobody listens while the block runs, nor can."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def answer(body: bytes = b"{}", *headers: str, status: str = "200 OK") -> bytes:
    """Return a whole answer with a Content-Length."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def chunked(*pieces: bytes, headers: str = "") -> bytes:
    """Return a whole chunked answer."""
    framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n%s\r\n%s" % (
        headers.encode("latin-1"),
        framed,
    )


async def eventually(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    """Return once a condition holds; the loop runs on in between."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - conditions of all sorts, none of which signals
            await asyncio.sleep(0)


def self_signed(
    folder: Path, name: str = "127.0.0.1", days: int = 2
) -> tuple[ssl.SSLContext, Path]:
    """Return a server's TLS context, and the file that makes a client trust it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test's own server")])
    alternative: x509.GeneralName = x509.DNSName(name)
    with contextlib.suppress(ValueError):
        alternative = x509.IPAddress(ipaddress.ip_address(name))
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    trusted, private = folder / "trusted.pem", folder / "private.pem"
    trusted.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, private)
    return context, trusted
