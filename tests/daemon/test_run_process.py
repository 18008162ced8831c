"""The daemon as a process: how it starts, why it doesn't, how it stops."""

import asyncio
import errno
import http.client
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from broken_disks import fill, small_disk
from shell import (
    PATIENCE_S,
    Process,
    SlowUpstream,
    control,
    process,
    short_folder,
    until,
    write_config,
)

from tollway.daemon.connection import EdgeLimits
from tollway.daemon.errors import CannotStart
from tollway.daemon.process import PidFile, bind, close_all, too_poor

CHAT = {"model": "box/m", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder of the test's own."""
    with short_folder() as one:
        yield one


@pytest.fixture
def upstream() -> Iterator[SlowUpstream]:
    """Yield a provider whose streams wait for the test."""
    one = SlowUpstream()
    yield one
    one.close()


def provider(upstream: SlowUpstream) -> str:
    """Return the configuration that names it."""
    return (
        f'[providers.box]\nkind = "openai-compatible"\n'
        f'base_url = "http://127.0.0.1:{upstream.port}/v1"\n'
        '[prices."box/m"]\ninput = 1\noutput = 2\n'
    )


def get(port: int, path: str) -> int:
    """Return the status of a GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


class Stream:
    """A streamed call, read in a thread of its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.body = b""
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        headers = {"content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", msgspec.json.encode(CHAT), headers)
        answer = connection.getresponse()
        self.body = answer.read()
        connection.close()

    def whole(self) -> bytes:
        """Return the answer once it has ended."""
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        return self.body


def test_the_starter_is_told_when_calls_are_answered(folder: Path) -> None:
    """One line of JSON on the pipe: the address that is in use, and the process."""
    with process(write_config(folder)) as daemon:
        word = daemon.ready()
        assert word["ready"] is True
        assert word["pid"] == daemon.popen.pid
        assert get(daemon.port, "/healthz") == 200


def test_what_the_daemon_keeps_is_its_owners_alone(folder: Path) -> None:
    """Ledger, lock, pidfile and socket: nobody else reads or writes them."""
    with process(write_config(folder)) as daemon:
        daemon.ready()
        kept = [one for one in folder.iterdir() if one.name != "process.log"]
        assert {"ledger.db", "tollway.sock", "tollway.pid"} <= {one.name for one in kept}
        for one in kept:
            assert stat.S_IMODE(one.stat().st_mode) & 0o077 == 0, one


def test_a_crash_leaves_nothing_of_its_memory(folder: Path) -> None:
    """A core file would hold keys and prompts, wherever the shell or systemd allows one."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        with process(write_config(folder)) as daemon:
            daemon.ready()
            limits = resource.prlimit(daemon.popen.pid, resource.RLIMIT_CORE)
            daemon.popen.send_signal(signal.SIGABRT)
            assert daemon.ended() == -signal.SIGABRT
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    assert limits == (0, before[1])
    assert not list(folder.glob("core*"))


def test_it_leaves_no_socket_and_no_pidfile_behind(folder: Path) -> None:
    """SIGTERM ends it with exit code 0, and the next one starts as if it were the first."""
    config = write_config(folder)
    for _ in range(2):
        with process(config) as daemon:
            daemon.ready()
            assert int((folder / "tollway.pid").read_text()) == daemon.popen.pid
            daemon.popen.send_signal(signal.SIGTERM)
            assert daemon.ended() == 0
        assert not (folder / "tollway.pid").exists()
        assert not (folder / "tollway.sock").exists()


def test_a_pidfile_that_finds_no_room_is_none(tmp_path: Path) -> None:
    """An empty one, over a dead daemon's, stayed when the daemon ended."""
    with small_disk(tmp_path / "disk", "64k") as folder:
        dead = PidFile(folder / "tollway.pid")
        dead.path.write_text("")
        fill(folder)
        dead.write()
        assert not dead.path.exists()
        dead.remove()


def test_a_system_that_gives_too_little_is_told_with_the_way_out(folder: Path) -> None:
    """It was the traceback of an event loop, or an address that "must be of this machine"."""
    daemon = [sys.executable, "-m", "tollway.daemon", "--config", str(write_config(folder))]
    started = subprocess.run(
        ["sh", "-c", 'ulimit -n 16 && exec "$@"', "sh", *daemon],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert started.returncode == 1
    assert "error: The daemon may not open as many files as it needs\n" in started.stderr
    assert "`ulimit -n" in started.stderr
    assert "Traceback" not in started.stderr
    assert too_poor(MemoryError()) is not None
    assert too_poor(RuntimeError("can't start new thread")) is not None
    assert too_poor(RuntimeError("a mistake")) is None
    assert too_poor(OSError(errno.EACCES, "")) is None


def test_what_a_killed_daemon_left_is_in_nobodys_way(folder: Path) -> None:
    """The lock died with the process; its socket file and its pidfile say nothing."""
    config = write_config(folder)
    with process(config) as daemon:
        daemon.ready()
        daemon.popen.kill()
        daemon.popen.wait(PATIENCE_S)
    assert (folder / "tollway.sock").exists()
    with process(config) as daemon:
        assert daemon.ready()["ready"] is True
        assert control(folder / "tollway.sock", "GET", "/control/status")[0] == 200


def test_a_second_daemon_on_the_same_ledger_says_who_has_it(folder: Path) -> None:
    """One daemon a ledger; the first one is not disturbed."""
    config = write_config(folder)
    with process(config) as first:
        first.ready()
        with process(config) as second:
            word = second.ready()
            assert word["ready"] is False
            assert str(first.popen.pid) in word["error"]["message"]
            assert word["error"]["hint"]
            assert second.ended() == 1
        assert get(first.port, "/healthz") == 200
        assert control(folder / "tollway.sock", "GET", "/control/status")[0] == 200
        assert int((folder / "tollway.pid").read_text()) == first.popen.pid


def test_a_port_in_use_is_named_with_the_daemon_that_uses_it(folder: Path) -> None:
    """Another Tollway, with another ledger, has the port: its process id tells which."""
    with process(write_config(folder)) as first, short_folder() as other:
        port = first.ready()["listen"].rpartition(":")[2]
        config = write_config(other)
        config.write_text(config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
        with process(config) as second:
            message = second.ready()["error"]["message"]
            assert f"127.0.0.1:{port}" in message
            assert f"another Tollway (pid {first.popen.pid})" in message
            assert second.ended() == 1
        assert not (other / "tollway.sock").exists()


def test_a_port_of_another_program_is_named_too(folder: Path) -> None:
    """The message names the program, as far as the system lets us see."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = write_config(folder)
        config.write_text(config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
        with process(config) as daemon:
            message = daemon.ready()["error"]["message"]
            assert f"`127.0.0.1:{port}` is in use" in message
            assert f"(pid {os.getpid()})" in message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("single_user", "singel_user", "singel_user"),
        ("[server]", "[server", "gateway.toml:1"),
        (
            'listen = "127.0.0.1:0"\ndrain = "20s"\nsingle_user = true',
            'listen = "192.0.2.1:0"\nbehind_proxy = true',
            "192.0.2.1",
        ),
        (
            "[ledger]",
            '[providers.p]\nkind = "openai"\napi_key = "env:NO_SUCH"\n[ledger]',
            "NO_SUCH",
        ),
    ],
    ids=["unknown key", "broken TOML", "not our address", "missing secret"],
)
def test_a_start_that_fails_says_why_on_the_pipe_and_on_stderr(
    folder: Path, old: str, new: str, said: str
) -> None:
    """Whoever waits gets the words; nothing is left running or lying about."""
    config = write_config(folder)
    config.write_text(config.read_text().replace(old, new))
    with process(config) as daemon:
        word = daemon.ready()
        assert word["ready"] is False
        assert said in word["error"]["message"]
        assert daemon.ended() in {1, 2}
        assert f"error: {word['error']['message']}" in (folder / "process.log").read_text()
    assert not (folder / "tollway.sock").exists()


def test_a_ledger_folder_that_is_none_is_a_clear_error(folder: Path) -> None:
    """The folder is named: it is what has to be put right."""
    (folder / "file").write_text("in the way")
    config = write_config(folder)
    config.write_text(config.read_text().replace("/ledger.db", "/file/ledger.db"))
    with process(config) as daemon:
        assert f"{folder}/file" in daemon.ready()["error"]["message"]
        assert daemon.ended() == 2


def test_a_folder_that_others_may_write_to_is_refused(folder: Path) -> None:
    """They could replace the ledger or the socket."""
    inner = folder / "open"
    inner.mkdir()
    inner.chmod(0o777)
    config = write_config(folder)
    config.write_text(config.read_text().replace("/ledger.db", "/open/ledger.db"))
    with process(config) as daemon:
        word = daemon.ready()
        assert "chmod 700" in word["error"]["hint"]
        assert daemon.ended() == 2


def test_a_stream_under_way_ends_whole_before_the_daemon_does(
    folder: Path, upstream: SlowUpstream
) -> None:
    """SIGTERM drains: nothing new, and what has begun may finish."""
    with process(write_config(folder, provider(upstream))) as daemon:
        daemon.ready()
        stream = Stream(daemon.port)
        assert upstream.asked.wait(PATIENCE_S)
        daemon.popen.send_signal(signal.SIGTERM)
        _until_draining(folder)
        with pytest.raises(ConnectionRefusedError):
            get(daemon.port, "/healthz")
        status, said = control(folder / "tollway.sock", "POST", "/v1/chat/completions", CHAT)
        assert (status, said["error"]["code"]) == (503, "draining")
        upstream.go_on.set()
        assert b"[DONE]" in stream.whole()
        assert daemon.ended() == 0


def test_a_second_signal_hurries_and_the_stream_ends_with_an_error_event(
    folder: Path, upstream: SlowUpstream
) -> None:
    """It is cut, told so in its dialect, and settled; the exit code is still 0."""
    with process(write_config(folder, provider(upstream))) as daemon:
        daemon.ready()
        stream = Stream(daemon.port)
        assert upstream.asked.wait(PATIENCE_S)
        daemon.popen.send_signal(signal.SIGTERM)
        _until_draining(folder)
        daemon.popen.send_signal(signal.SIGTERM)
        body = stream.whole()
        assert b"[DONE]" not in body
        assert b'"error"' in body
        assert daemon.ended() == 0
    assert "cut off at the end of the drain: 1 call\n" in (folder / "process.log").read_text()


def test_the_drain_has_an_end(folder: Path, upstream: SlowUpstream) -> None:
    """`server.drain` is as long as a stream may hold up the stop."""
    config = write_config(folder, provider(upstream))
    config.write_text(config.read_text().replace('"20s"', '"0.1s"'))
    with process(config) as daemon:
        daemon.ready()
        stream = Stream(daemon.port)
        assert upstream.asked.wait(PATIENCE_S)
        assert control(folder / "tollway.sock", "POST", "/control/stop")[0] == 200
        assert b'"error"' in stream.whole()
        assert daemon.ended() == 0


def test_sighup_reloads(folder: Path) -> None:
    """The sign that daemons have always taken."""
    config = write_config(folder, server="single_user = true\nwatch = false")
    with process(config) as daemon:
        daemon.ready()
        config.write_text(config.read_text().replace("single_user", "bad_key"))
        daemon.popen.send_signal(signal.SIGHUP)
        asyncio.run(until(lambda: _config(folder)["state"] == "broken"))
        assert "bad_key" in _config(folder)["problem"]
        assert get(daemon.port, "/v1/models") == 200


def _config(folder: Path) -> Any:
    return control(folder / "tollway.sock", "GET", "/control/status")[1]["config"]


def _until_draining(folder: Path) -> None:
    asyncio.run(
        until(lambda: control(folder / "tollway.sock", "GET", "/control/status")[1]["draining"])
    )


def test_the_secrets_of_a_run_are_in_none_of_its_words(
    folder: Path, upstream: SlowUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log, status, errors, process list: the provider's key is in none, though calls used it."""
    canary = "sk-CANARY-0123456789abcdef"
    monkeypatch.setenv("BOX_KEY", canary)
    more = provider(upstream).replace('"\nbase_url', '"\napi_key = "env:BOX_KEY"\nbase_url')
    config = write_config(folder, more, server='single_user = true\nlog_level = "debug"')
    with process(config) as daemon:
        daemon.ready()
        upstream.go_on.set()
        assert b"[DONE]" in Stream(daemon.port).whole()

        def calls() -> tuple[int, int]:
            told = control(folder / "tollway.sock", "GET", "/control/status")[1]["calls"]
            return told["active"], told["served"]

        # Its client has the whole answer a moment before the call is over.
        asyncio.run(until(lambda: calls() == (0, 1)))
        _, status = control(folder / "tollway.sock", "GET", "/control/status")
        assert status["spend_today_nanousd"] == 3 * 1000 + 2000  # $1 and $2 a million tokens
        _, explained = control(
            folder / "tollway.sock", "POST", "/control/explain", {"model": "box/m"}
        )
        assert canary not in msgspec.json.encode([status, explained]).decode()
        command = Path(f"/proc/{daemon.popen.pid}/cmdline").read_text()
        assert canary not in command
        daemon.popen.send_signal(signal.SIGTERM)
        assert daemon.ended() == 0
    for one in folder.rglob("*"):
        if one.is_file():
            assert canary.encode() not in one.read_bytes(), one


def test_a_daemon_whose_starter_is_gone_serves_all_the_same(folder: Path) -> None:
    """The pipe has no reader any more: that is the starter's affair."""
    daemon = Process(write_config(folder), folder / "process.log")
    os.close(daemon._reading)
    try:
        asyncio.run(until((folder / "tollway.pid").exists))
        assert control(folder / "tollway.sock", "GET", "/control/status")[0] == 200
    finally:
        daemon.kill()


@pytest.mark.parametrize(("files", "room"), [(64, 16), (1000, 436)])
def test_the_system_s_limit_on_files_bounds_connections(files: int, room: int) -> None:
    """Half of them, and some for the rest; nothing else does: 10,000 was a second, silent bound."""
    code = (
        "import resource; from tollway.daemon.process import raise_file_limit;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}));"
        "print(raise_file_limit())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert int(done.stdout) == room
    assert EdgeLimits().connections >= 2**31, "the most that server.max_connections takes"


def test_a_name_is_listened_on_where_this_machine_has_one_of_its_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`localhost` is ::1 too where IPv6 is turned off, as in a container: nothing began there."""
    here, beyond = ("127.0.0.1", 0), ("192.0.2.1", 0)
    for addresses in ([here, beyond], [beyond, here]):
        infos = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", one) for one in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, infos=infos, **_more: infos)
        bound = bind("both.invalid", 0)
        assert [one.getsockname()[0] for one in bound] == ["127.0.0.1"]
        close_all(bound)
    none = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", beyond)] * 2
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **_more: none)
    with pytest.raises(CannotStart, match="cannot be listened on"):
        bind("both.invalid", 0)
    monkeypatch.undo()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ours = [("127.0.0.1", 0), taken.getsockname()]
        infos = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", one) for one in ours]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **_more: infos)
        with pytest.raises(CannotStart, match="is in use"):
            bind("both.invalid", taken.getsockname()[1])
