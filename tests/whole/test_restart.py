"""`tollway restart` under load: no connection is refused, no call fails, nothing is lost."""

import asyncio
import json
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from gateway import CHAT, DONE, HEAD, USED, WHOLE, chunk, whole
from program import Home
from shell import PATIENCE_S, Client, until
from upstreams import Peer, Upstream, upstream

from tollway.daemon.ledger.verify import verify

pytestmark = pytest.mark.whole


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Return a home; whatever was started in it is stopped."""
    made = Home(tmp_path)
    yield made
    made.tollway("down", "--now")


def text(port: int, listen: str = "127.0.0.1:0", more: str = "") -> str:
    """Return a configuration with one provider."""
    return f"""[server]
listen = "{listen}"
single_user = true
watch = false
drain = "20s"
{more}
[providers.up]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
[prices."up/m"]
input = 1
output = 2
"""


async def answers(peer: Peer) -> None:
    """Answer whole, or stream slowly enough that a restart falls into it."""
    request = await peer.read_request()
    if b'"stream":true' not in request:
        await peer.say(whole(WHOLE, "Connection: close"))
        return
    await peer.say(HEAD)
    for word in ["one", "two", "three", "four", "five"]:
        await peer.say(chunk(word))
        await asyncio.sleep(0.02)
    await peer.say(chunk(finish="stop") + USED + DONE)


def request(*, stream: bool, close: bool) -> bytes:
    """Return a call as bytes."""
    body = json.dumps(
        {"model": "up/m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
        | ({"stream": True} if stream else {}),
        separators=(",", ":"),
    ).encode()
    wish = "close" if close else "keep-alive"
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: {wish}\r\n\r\n"
    )
    return head.encode() + body


class Load:
    """Callers that never stop; `calls` counts what was answered, all of it right."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.calls = 0
        self.over = False

    async def _connect(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port))

    async def new_connections(self, *, stream: bool) -> None:
        """Connect for each call."""
        while not self.over:
            client = await self._connect()
            await client.send(request(stream=stream, close=True))
            said = await client.all()
            client.close()
            assert said.startswith(b"HTTP/1.1 200"), said[:500]
            assert (b"[DONE]" if stream else b"Hello") in said
            self.calls += 1

    async def one_connection(self) -> None:
        """Keep the connection for as long as the gateway does."""
        client = await self._connect()
        while not self.over:
            await client.send(request(stream=False, close=False))
            reply = await client.answer()
            assert reply.status == 200, reply
            self.calls += 1
            if reply.headers.get("connection") == "close":
                client.close()
                client = await self._connect()
        client.close()


@asynccontextmanager
async def load(port: int) -> AsyncIterator[Load]:
    """Run callers of every kind; in the end none of them has failed."""
    one = Load(port)
    callers = asyncio.gather(
        *(one.new_connections(stream=False) for _ in range(2)),
        *(one.new_connections(stream=True) for _ in range(4)),
        *(one.one_connection() for _ in range(3)),
    )
    try:
        yield one
    finally:
        one.over = True
        async with asyncio.timeout(PATIENCE_S):
            await callers


def port_of(started: dict[str, object]) -> int:
    """Return the port that `up --json` or `restart --json` tells."""
    return int(str(started["url"]).rpartition(":")[2].removesuffix("/v1"))


async def up(home: Home, provider: Upstream) -> dict[str, object]:
    """Start a daemon before a provider."""
    home.write(text(provider.port))
    ended = await asyncio.to_thread(home.tollway, "up", "--json")
    assert ended.returncode == 0, ended.stderr
    found: dict[str, object] = json.loads(ended.stdout)
    return found


async def test_three_restarts_under_load_refuse_no_connection_and_fail_no_call(home: Home) -> None:
    """Connections wait in the socket's backlog while the one daemon ends and the next begins."""
    async with upstream([answers]) as provider:
        started = await up(home, provider)
        pids = {started["pid"]}
        async with load(port_of(started)) as seen:
            for _ in range(3):
                least = seen.calls + 20
                await until(lambda least=least: seen.calls >= least)
                ended = await asyncio.to_thread(home.tollway, "restart", "--json")
                assert ended.returncode == 0, ended.stderr
                now = json.loads(ended.stdout)
                assert (now["url"], now["how"]) == (started["url"], "handed over")
                assert now["was_pid"] in pids
                pids.add(now["pid"])
            least = seen.calls + 20
            await until(lambda: seen.calls >= least)
        assert len(pids) == 4
    ledger = home.data / "ledger.db"
    status = json.loads(home.tollway("status", "--json").stdout)
    assert status["ledger"]["recovered"] == 0
    home.tollway("down")
    assert verify(ledger) == []
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as db:
        endings = dict(db.execute("SELECT ending, count(*) FROM calls_readable GROUP BY ending"))
    assert endings == {"answered": seen.calls}


async def test_a_daemon_of_a_terminal_begins_anew_in_its_own_process(home: Home) -> None:
    """Whoever ran `tollway serve` watches over the process: it goes on under its own id."""
    async with upstream([answers]) as provider:
        home.write(text(provider.port))
        serving = subprocess.Popen(  # noqa: ASYNC220 - it takes a moment
            [sys.executable, "-m", "tollway.cli", "serve"],
            env=home.env,
            cwd=home.path,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            await until(lambda: home.tollway("status").returncode == 0)
            status = json.loads(home.tollway("status", "--json").stdout)
            assert (status["pid"], status["started_by"]) == (serving.pid, "serve")
            async with load(int(status["listen"].rpartition(":")[2])) as seen:
                await until(lambda: seen.calls >= 10)
                ended = await asyncio.to_thread(home.tollway, "restart", "--json")
                assert ended.returncode == 0, ended.stderr
                now = json.loads(ended.stdout)
                assert (now["how"], now["pid"]) == ("anew", serving.pid)
                assert now["url"].endswith(status["listen"] + "/v1")
                least = seen.calls + 10
                await until(lambda: seen.calls >= least)
            home.write(text(provider.port).replace("[providers.up]", "[providers.up]\nbad = 1"))
            assert home.tollway("restart").returncode == 2
            home.write(text(provider.port, more="").replace("[prices", '[providers.o]\nkind = '
                       '"openai"\napi_key = "env:NOT_SET"\n[prices'))  # fmt: skip
            ended = await asyncio.to_thread(home.tollway, "restart")
            assert ended.returncode == 1
            assert "`NOT_SET` is not set" in ended.stderr
            assert json.loads(home.tollway("status", "--json").stdout)["pid"] == serving.pid
            serving.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(serving.wait, PATIENCE_S) == 0
        finally:
            if serving.poll() is None:
                serving.kill()
                serving.wait()


async def test_a_new_daemon_that_could_not_serve_leaves_the_old_one_untouched(home: Home) -> None:
    """A secret, the ledger, the address: each is looked at before anything is stopped."""
    async with upstream([answers]) as provider:
        started = await up(home, provider)
        goes_on = f"hint: The daemon that runs (pid {started['pid']}) goes on as it was"
        good = text(provider.port)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            for bad, why in (
                (good.replace('kind = "openai"', 'kind = "openai"\napi_key = "env:NO"'), "`NO` is"),
                (text(provider.port, f"127.0.0.1:{port}"), f"`127.0.0.1:{port}` is in use"),
            ):
                home.write(bad)
                ended = await asyncio.to_thread(home.tollway, "restart")
                assert ended.returncode == 1
                assert why in ended.stderr
                assert goes_on in ended.stderr
        home.write(good)
        linked = home.data / "linked.db"
        linked.hardlink_to(home.data / "ledger.db")
        ended = await asyncio.to_thread(home.tollway, "restart")
        assert (ended.returncode, "hard link" in ended.stderr) == (1, True)
        assert goes_on in ended.stderr
        linked.unlink()
        status = json.loads(home.tollway("status", "--json").stdout)
        assert (status["pid"], status["draining"]) == (started["pid"], False)
        client = Client(*await asyncio.open_connection("127.0.0.1", port_of(started)))
        await client.send(request(stream=False, close=True))
        assert (await client.answer()).status == 200
        client.close()


async def test_a_restart_moves_to_another_address(home: Home) -> None:
    """What a reload cannot: `server.listen` is taken up, and the old address is free."""
    async with upstream([answers]) as provider:
        started = await up(home, provider)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        home.write(text(provider.port, f"127.0.0.1:{port}"))
        ended = await asyncio.to_thread(home.tollway, "restart", "--json")
        assert ended.returncode == 0, ended.stderr
        assert port_of(json.loads(ended.stdout)) == port
        with socket.socket() as one:
            assert one.connect_ex(("127.0.0.1", port_of(started))) != 0


def test_a_restart_of_nothing_starts_it(home: Home) -> None:
    """And says so."""
    home.write(text(1))
    ended = home.tollway("restart")
    assert ended.returncode == 0
    assert ended.stderr == "The daemon was not running\n"


async def test_a_restart_now_cuts_the_calls_and_settles_them(home: Home) -> None:
    """However long the drain is; the client is told in its dialect."""
    hangs = asyncio.Event()

    async def begins(peer: Peer) -> None:
        await peer.read_request()
        await peer.say(HEAD + chunk("one"))
        await hangs.wait()

    async with upstream([begins]) as provider:
        started = await up(home, provider)
        client = Client(*await asyncio.open_connection("127.0.0.1", port_of(started)))
        await client.send(request(stream=True, close=True))
        await client.reader.readuntil(b"one")
        ended = await asyncio.to_thread(home.tollway, "restart", "--now", "--json")
        assert ended.returncode == 0, ended.stderr
        assert b'"draining"' in await client.all()
        client.close()
        assert json.loads(ended.stdout)["pid"] != started["pid"]
        hangs.set()
