"""How one daemon makes way for the next, and what supervisors are told."""

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import pytest
from shell import (
    PATIENCE_S,
    Process,
    Running,
    control,
    parse,
    process,
    running,
    short_folder,
    until,
    write_config,
)

from tollway.daemon.connection import EdgeLimits
from tollway.daemon.ledger.lock import LedgerLock, holder
from tollway.daemon.supervisor import notify


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder of the test's own."""
    with short_folder() as one:
        yield one


def offer(daemon: Running, **more: object) -> bytes:
    """Return what a new daemon sends."""
    server = daemon.server.daemon.config.server
    return msgspec.json.encode({"host": server.host, "port": server.port, **more})


def asked(body: bytes) -> bytes:
    """Return the offer as a request."""
    return (
        b"POST /control/handover HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"
        b"Connection: close\r\n\r\n" % len(body)
    ) + body


@contextlib.asynccontextmanager
async def successor(daemon: Running) -> AsyncIterator[socket.socket]:
    """Yield the connection of a new daemon for which the old one has begun to stop."""
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(daemon.socket))
        one.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(one, asked(offer(daemon, begin=True)))
        await daemon.server.stopped()
        yield one


async def test_the_sockets_come_only_once_the_ledger_is_free() -> None:
    """Calls are settled and the lock is let go of; then, not before, the socket changes hands."""
    async with running() as daemon:
        ledger = daemon.server.daemon.ledger.path
        async with successor(daemon) as one:
            answer = parse(await asyncio.get_running_loop().sock_recv(one, 65536))
            assert (answer.status, answer.json()) == (200, {"same": True})
            assert await daemon.server.drain()
            assert holder(ledger)
            # A client that comes now waits: it is neither refused nor answered.
            early = await asyncio.open_connection("127.0.0.1", daemon.port)
            await daemon.server.close()
            assert not holder(ledger)
            word, fds, _, _ = socket.recv_fds(one, len(b"listen\n"), 8)
            assert word == b"listen\n"
            assert one.recv(64) == b"[]"  # the runs of `tollway run`
            with socket.socket(fileno=fds[0]) as handed:
                assert handed.getsockname()[1] == daemon.port
                handed.settimeout(PATIENCE_S)
                accepted, _ = handed.accept()
                accepted.close()
            early[1].close()


async def test_an_old_daemon_goes_on_where_the_new_one_ends_before_its_turn() -> None:
    """It drained for a daemon that was killed meanwhile: it takes connections again."""
    async with running() as daemon:
        client = await daemon.connect()
        await client.send(b"GET /healthz HTTP/1.1\r\n")  # so that it is not still
        async with successor(daemon):
            drained = asyncio.create_task(daemon.server.drain())
            await until(lambda: daemon.server.daemon.leaving)
            assert (await daemon.ask("GET", "/control/status", admin=True)).json()["draining"]
        assert await drained is False
        assert (await daemon.ask("GET", "/readyz")).status == 200
        assert not (await daemon.ask("GET", "/control/status", admin=True)).json()["draining"]
        await client.send(b"Host: localhost\r\n\r\n")
        assert (await client.answer()).status == 200


async def test_an_old_daemon_that_is_told_to_stop_does_not_go_on() -> None:
    """A machine that shuts down ends both at once, the old one and the new one that waits."""
    async with running() as daemon:
        client = await daemon.connect()
        await client.send(b"GET /healthz HTTP/1.1\r\n")  # so that it is not still
        async with successor(daemon):
            drained = asyncio.create_task(daemon.server.drain())
            await until(lambda: daemon.server.daemon.leaving)
            daemon.server.stop()
        assert await drained is True


async def test_a_daemon_that_is_told_to_stop_does_not_begin_anew() -> None:
    """`docker stop` during a restart: the signal would be lost, and a kill end what began anew."""
    async with running() as daemon:
        client = await daemon.connect()
        await client.send(b"GET /healthz HTTP/1.1\r\n")  # so that it is not still
        daemon.server.begin_anew(hurry=False)
        drained = asyncio.create_task(daemon.server.drain())
        await until(lambda: daemon.server.daemon.leaving)
        daemon.server.stop()
        assert await drained is True
        assert await daemon.server.close() is None


async def test_who_is_connected_may_ask_once_more_and_is_then_let_go() -> None:
    """A request that was on its way when the restart began is answered, and the connection ends."""
    async with running() as daemon:
        client = await daemon.connect()
        await client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET")
        assert "connection" not in (await client.answer()).headers
        async with successor(daemon):
            drained = asyncio.create_task(daemon.server.drain())
            await until(lambda: daemon.server.daemon.leaving)
            await client.send(b" /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
            last = await client.answer()
            assert (last.status, last.headers["connection"]) == (200, "close")
            assert await drained is True


async def test_who_has_just_connected_is_waited_for() -> None:
    """A request is about to come on it, however busy its machine: it must not meet a refusal."""
    async with running(limits=EdgeLimits(still_s=0.0, new_s=inf)) as daemon:
        client = await daemon.connect()
        await until(lambda: daemon.server.connections.public == 1)
        assert not daemon.server.connections.still()
        await client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await client.answer()).status == 200
        await until(daemon.server.connections.still)


async def test_two_restarts_at_once_are_one() -> None:
    """The second is refused, and does not hurry the first."""
    async with running() as daemon:
        first = await daemon.ask("POST", "/control/stop", admin=True)
        assert first.status == 200
        second = await daemon.ask(
            "POST", "/control/handover", offer(daemon, begin=True), admin=True
        )
        assert second.status == 503
        assert second.json()["error"]["message"] == "The daemon is stopping already"


async def test_a_question_about_the_address_changes_nothing() -> None:
    """A new daemon asks first, so that it can bind another address before anything stops."""
    async with running() as daemon:
        for body, same in ((offer(daemon), True), (offer(daemon, port=1), False)):
            said = await daemon.ask("POST", "/control/handover", body, admin=True)
            assert said.json() == {"same": same}
        assert (await daemon.ask("GET", "/readyz")).status == 200


class Passed:
    """A daemon that is given listening sockets as systemd gives them, and a place to notify."""

    def __init__(self, config: Path, listening: list[socket.socket], **env: str) -> None:
        fds = [one.fileno() for one in listening]
        code = (
            "import os, sys\n"
            "fds = [int(one) for one in sys.argv[1].split(',') if one]\n"
            "high = [os.dup(one) for one in fds]\n"
            "high = [os.dup2(one, 100 + at) for at, one in enumerate(high)]\n"
            "for at, one in enumerate(high): os.dup2(one, 3 + at, inheritable=True)\n"
            "os.environ['LISTEN_PID'] = os.environ['WATCHDOG_PID'] = str(os.getpid())\n"
            "os.execv(sys.executable, [sys.executable, '-m', 'tollway.daemon', '--config',"
            " sys.argv[2]])\n"
        )
        self.log = config.parent / "passed.log"
        with self.log.open("ab") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "-c", code, ",".join(map(str, fds)), str(config)],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "LISTEN_FDS": str(len(fds)), **env},
            )


@contextlib.contextmanager
def passed(config: Path, listening: list[socket.socket], **env: str) -> Iterator[Passed]:
    """Yield such a daemon, killed in the end."""
    one = Passed(config, listening, **env)
    try:
        yield one
    finally:
        if one.popen.poll() is None:
            one.popen.kill()
        one.popen.wait(PATIENCE_S)


@contextlib.contextmanager
def notified(folder: Path) -> Iterator[socket.socket]:
    """Yield the socket of a supervisor."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(folder / "notify"))
        one.settimeout(PATIENCE_S)
        yield one


def heard(supervisor: socket.socket, word: str) -> str:
    """Return the next message that has a word in it."""
    while True:
        said = supervisor.recv(4096).decode()
        if word in said:
            return said


def test_systemds_socket_is_served_and_systemd_is_told_what_happens(folder: Path) -> None:
    """Ready, alive, reloading, stopping: each in the words of sd_notify."""
    config = write_config(folder)
    with socket.create_server(("127.0.0.1", 0)) as listening, notified(folder) as supervisor:
        env = {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "200000"}
        with passed(config, [listening], **env) as daemon:
            port = listening.getsockname()[1]
            assert heard(supervisor, "READY=1") == f"READY=1\nSTATUS=Serving 127.0.0.1:{port}"
            assert heard(supervisor, "WATCHDOG=1") == "WATCHDOG=1"
            _, status = control(folder / "tollway.sock", "GET", "/control/status")
            assert (status["started_by"], status["listen"]) == ("systemd", f"127.0.0.1:{port}")
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
                client.sendall(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
                assert client.recv(4096).startswith(b"HTTP/1.0 200")
            daemon.popen.send_signal(signal.SIGHUP)
            assert heard(supervisor, "RELOADING=1").startswith("RELOADING=1\nMONOTONIC_USEC=")
            assert heard(supervisor, "READY=1") == "READY=1"
            daemon.popen.send_signal(signal.SIGTERM)
            assert heard(supervisor, "STOPPING=1") == "STOPPING=1"
            assert daemon.popen.wait(PATIENCE_S) == 0


def test_a_supervisor_that_reads_nothing_is_not_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop would stand still for as long as the supervisor does."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
    with notified(folder):
        while notify("WATCHDOG=1"):
            pass


def test_a_socket_of_another_address_than_the_files_is_refused(folder: Path) -> None:
    """Loopback asks for less than the network does: nobody else chooses where a daemon listens."""
    listening = socket.create_server(("0.0.0.0", 0))  # noqa: S104 - that is the point
    with listening, passed(write_config(folder), [listening]) as daemon:
        assert daemon.popen.wait(PATIENCE_S) == 1
        assert "is not of `server.listen`" in daemon.log.read_text()


def test_sockets_of_another_process_are_none_of_ours(folder: Path) -> None:
    """`LISTEN_PID` says whose they are; a child inherits the words, not the sockets."""
    config = write_config(folder)
    os.environ |= {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
    try:
        with process(config) as daemon:
            assert daemon.ready()["ready"] is True
    finally:
        del os.environ["LISTEN_PID"], os.environ["LISTEN_FDS"]


def test_a_new_daemon_of_an_older_one_that_died_on_the_way_takes_the_address(folder: Path) -> None:
    """Nobody is left to hand it over; it is free."""
    config = write_config(folder)
    with process(config) as old:
        old.ready()
        config.write_text(config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{old.port}"))
        old.kill()
        word = _take_over(config)
        assert word["listen"] == f"127.0.0.1:{old.port}"


def _take_over(config: Path) -> dict[str, Any]:
    reading, writing = os.pipe()
    # As a daemon of an earlier version names its process.
    command = [sys.executable, "-m", "tollway.daemon.run", "--config", str(config), "--take-over"]
    with subprocess.Popen([*command, "--ready-fd", str(writing)], pass_fds=[writing]) as new:
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            word: dict[str, Any] = msgspec.json.decode(pipe.readline())
        new.terminate()
        assert new.wait(PATIENCE_S) == 0
    return word


SECRET = "tw-run-" + "r" * 64
CARRIED = {
    "id": "261129-00000001",
    "hash": "sha256:" + sha256(SECRET.encode()).hexdigest(),
    "left_s": 60.0,
    "budget_nanousd": 1,
    "of a later version": True,
}
ASKED = b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}'
TOLD = {
    "its runs": (msgspec.json.encode([CARRIED]), 404),
    "that it had none": (b"[]", 401),
    "nothing of runs, as an older one does": (b"", 503),
    "what is no list of runs": (b'[{"id": ', 503),
}


@pytest.mark.parametrize(("said", "wanted"), TOLD.values(), ids=TOLD)
def test_a_new_daemon_knows_the_runs_that_the_old_one_told_it_of(
    folder: Path, said: bytes, wanted: int
) -> None:
    """Before it answers: none is unknown then. Where it was told nothing, it asks for patience."""
    config = write_config(folder)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.socket(socket.AF_UNIX) as admin,
    ):
        port = listening.getsockname()[1]
        config.write_text(config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
        admin.bind(str(folder / "tollway.sock"))
        admin.listen()
        new = Process(config, folder / "new.log", take_over=True)
        try:
            _be_the_old_one(admin, listening, said)
            assert new.ready()["listen"] == f"127.0.0.1:{port}"
            asked = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
            with contextlib.closing(asked):
                headers = {"Authorization": f"Bearer {SECRET}", "Content-Type": "application/json"}
                asked.request("POST", "/v1/chat/completions", ASKED, headers)
                assert asked.getresponse().status == wanted
        finally:
            new.kill()
    assert SECRET not in (folder / "new.log").read_text()


def test_a_new_daemon_waits_for_the_ledger_of_one_whose_disk_does_not_answer(
    folder: Path,
) -> None:
    """The old one gives up on it after a while, and keeps the lock until its process can end."""
    config = write_config(folder)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.socket(socket.AF_UNIX) as admin,
    ):
        port = listening.getsockname()[1]
        config.write_text(config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
        admin.bind(str(folder / "tollway.sock"))
        admin.listen()
        lock = LedgerLock(folder / "ledger.db").acquire(1)
        new = Process(config, folder / "new.log", take_over=True)
        try:
            _be_the_old_one(admin, listening, b"[]")
            with contextlib.suppress(subprocess.TimeoutExpired):
                new.popen.wait(1.0)  # it would end at once; a slow machine only tests less
            lock.release()
            assert new.ready().get("listen") == f"127.0.0.1:{port}", new.word
        finally:
            new.kill()


def _be_the_old_one(admin: socket.socket, listening: socket.socket, said: bytes) -> None:
    """Answer a new daemon's two questions, and give it what an old one gives."""
    for begin in (False, True):
        one, _ = admin.accept()
        with one:
            one.settimeout(PATIENCE_S)
            while b"}" not in one.recv(65536):
                pass
            if begin:
                path = admin.getsockname()
                admin.close()
                Path(path).unlink()
            body = b'{"same":true}'
            one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            if begin:
                socket.send_fds(one, [b"listen\n"], [listening.fileno()])
                one.sendall(said)
