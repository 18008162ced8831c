"""A whole daemon for tests, in this process or in one of its own, and raw HTTP to ask it with."""

import asyncio
import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from tollway.daemon.config.load import load
from tollway.daemon.connection import EdgeLimits
from tollway.daemon.log import Log
from tollway.daemon.server import Server

PATIENCE_S = 30.0


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """Yield a private folder whose path leaves room for a socket's name."""
    folder = Path(tempfile.mkdtemp(prefix="tw"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_config(folder: Path, more: str = "", *, server: str = "single_user = true") -> Path:
    """Write a gateway.toml with its ledger in the same folder; return its path."""
    path = folder / "gateway.toml"
    path.write_text(
        f"""[server]
listen = "127.0.0.1:0"
drain = "20s"
{server}

[ledger]
path = "{folder}/ledger.db"

{more}
"""
    )
    path.chmod(0o600)
    return path


class Reply(msgspec.Struct, frozen=True):
    """An HTTP answer taken apart; header names in lower case, the last of each."""

    status: int
    headers: dict[str, str]
    body: bytes
    rest: bytes = b""  # what came behind it on the connection

    def json(self) -> Any:
        """Return the body, decoded."""
        return msgspec.json.decode(self.body)


def parse(data: bytes) -> Reply:
    """Take one answer with a Content-Length apart."""
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    length = int(headers.get("content-length", len(body)))
    return Reply(int(status.split(" ")[1]), headers, body[:length], body[length:])


class Client:
    """One raw connection to a daemon."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes as they stand."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> Reply:
        """Return the next answer on the connection."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            reply = parse(head)
            length = int(reply.headers.get("content-length", 0))
            return parse(head + await self.reader.readexactly(length))

    async def all(self) -> bytes:
        """Return everything up to the end of the connection."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    def close(self) -> None:
        """Hang up."""
        self.writer.close()


class Running:
    """A daemon in this process, and its log."""

    def __init__(self, server: Server, folder: Path, config: Path, log: Path) -> None:
        self.server = server
        self.folder = folder
        self.config = config
        self.log = log
        self._clients: list[Client] = []

    def hang_up(self) -> None:
        """Close every connection that a test left open."""
        for client in self._clients:
            client.close()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self.server.addresses[0][1]

    @property
    def host(self) -> bytes:
        """What a well-behaved client sends as Host."""
        return b"127.0.0.1:%d" % self.port

    @property
    def socket(self) -> Path:
        """The admin socket."""
        return self.server.daemon.config.admin_socket

    async def connect(self, *, admin: bool = False) -> Client:
        """Open a connection to the public address, or to the admin socket."""
        client = Client(
            *await (
                asyncio.open_unix_connection(self.socket)
                if admin
                else asyncio.open_connection("127.0.0.1", self.port)
            )
        )
        self._clients.append(client)
        return client

    async def raw(self, data: bytes, *, admin: bool = False) -> bytes:
        """Send bytes, end our side of nothing, and return all until the daemon hangs up."""
        client = await self.connect(admin=admin)
        try:
            await client.send(data)
            return await client.all()
        finally:
            client.close()

    async def ask(
        self, method: str, path: str, body: bytes = b"", *, admin: bool = False, **headers: str
    ) -> Reply:
        """Send one request and return its answer; `_` in a header's name stands for `-`."""
        said = {"host": self.host.decode(), "connection": "close"}
        if body:
            said |= {"content-length": str(len(body)), "content-type": "application/json"}
        said |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{name}: {value}" for name, value in said.items() if value != "-"]
        head = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""])
        return parse(await self.raw(head.encode() + body, admin=admin))


@contextlib.asynccontextmanager
async def running(
    more: str = "",
    *,
    server: str = "single_user = true",
    limits: EdgeLimits | None = None,
    folder: Path | None = None,
) -> AsyncIterator[Running]:
    """Yield a daemon in this process; afterwards it is drained and closed."""
    with contextlib.nullcontext(folder) if folder else short_folder() as where:
        config = write_config(where, more, server=server)
        log_file = where / "test.log"
        fd = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        log = Log(fd)
        loaded = load(config)
        log.install(loaded.server.log_level, loaded.server.log_format)
        daemon = Server(loaded, log, limits=limits)
        try:
            await daemon.start()
            one = Running(daemon, where, config, log_file)
            try:
                yield one
            finally:
                one.hang_up()
                daemon.stop()
                daemon.stop()
                await daemon.drain()
                await daemon.close()
        finally:
            log.close()
            os.close(fd)


async def until(true: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    """Return once something holds; it is looked at often, and for a long time."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = true()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.01)


class Process:
    """The daemon as a process of its own."""

    def __init__(self, config: Path, log: Path, *, take_over: bool = False) -> None:
        """Start it; `word` is what it tells its starter, once `ready` has returned.

        With `take_over` it asks the daemon that runs to make way.
        """
        self.config = config
        reading, writing = os.pipe()
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "tollway.daemon", "--config", str(config),
                 "--ready-fd", str(writing), *(["--take-over"] if take_over else [])],
                pass_fds=[writing], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        os.close(writing)
        self._reading = reading
        self.word: dict[str, Any] = {}

    def ready(self) -> dict[str, Any]:
        """Return what the daemon tells its starter."""
        with os.fdopen(self._reading, "rb") as pipe:
            line = pipe.readline()
        self.word = msgspec.json.decode(line) if line else {}
        return self.word

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.word["listen"].rpartition(":")[2])

    def ended(self) -> int:
        """Return its exit code once it has ended."""
        return self.popen.wait(PATIENCE_S)

    def kill(self) -> None:
        """End it if it still runs."""
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait(PATIENCE_S)


@contextlib.contextmanager
def process(config: Path) -> Iterator[Process]:
    """Yield a daemon's process that was started, and kill it in the end."""
    one = Process(config, config.parent / "process.log")
    try:
        yield one
    finally:
        one.kill()


def control(path: Path, method: str, target: str, body: object = None) -> tuple[int, Any]:
    """Ask the admin socket at `path`; return the status and the decoded answer."""
    connection = http.client.HTTPConnection("localhost", timeout=PATIENCE_S)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(PATIENCE_S)
    connection.sock.connect(str(path))
    try:
        content = None if body is None else msgspec.json.encode(body)
        connection.request(method, target, content)
        answer = connection.getresponse()
        return answer.status, msgspec.json.decode(answer.read())
    finally:
        connection.close()


class SlowUpstream:
    """A provider that begins a stream and goes on when told to; it speaks OpenAI's dialect."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.asked = threading.Event()
        self.go_on = threading.Event()
        self._closed = False
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            first = b'{"choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"}}]}'
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Connection: close\r\n\r\ndata: " + first + b"\n\n"
            )
            self.asked.set()
            self.go_on.wait(PATIENCE_S)
            last = (
                b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
                b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}',
                b"[DONE]",
            )
            connection.sendall(b"".join(b"data: " + data + b"\n\n" for data in last))

    def close(self) -> None:
        """Let every answer end, and take no more."""
        self.go_on.set()
        self._listener.close()
