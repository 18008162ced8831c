"""`up`, `status`, `reload`, `restart`, `down`: a real daemon's life from the terminal."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest
from program import Home

pytestmark = pytest.mark.whole

QUIET = '[server]\nlisten = "127.0.0.1:0"\nsingle_user = true\nwatch = false\ndrain = "5s"\n'


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Return a home with a small gateway.toml; whatever was started in it is stopped."""
    made = Home(tmp_path)
    made.write(QUIET)
    yield made
    made.write(QUIET)
    made.tollway("down", "--now")


def gone(pid: int) -> bool:
    """Return whether a process has ended; a zombie, whose parent is not reading, has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_up_answers_when_it_returns_and_down_when_it_is_gone(home: Home) -> None:
    """`up` means ready, `down` means ended; both say so again, also where two ask at once."""
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: home.tollway("up", "--json"), range(2)))
    sooner, later = sorted(
        (json.loads(one.stdout) for one in both), key=lambda one: bool(one["already_running"])
    )
    assert (sooner["already_running"], later["already_running"]) == (False, True)
    assert sooner | {"already_running": True} == later
    started = sooner
    host = started["url"].removeprefix("http://").removesuffix("/v1")
    connection = HTTPConnection(host, timeout=30)
    connection.request("GET", "/readyz")
    assert connection.getresponse().status == 200
    connection.close()

    again = json.loads(home.tollway("up", "--json").stdout)
    assert (again["already_running"], again["pid"]) == (True, started["pid"])
    assert (again["url"], again["log"]) == (started["url"], started["log"])

    stopped = home.tollway("down")
    assert (stopped.returncode, stopped.stderr) == (0, f"Stopped (pid {started['pid']})\n")
    assert gone(started["pid"])
    assert home.tollway("down").stderr == "The daemon was not running\n"


def test_status_shows_what_runs(home: Home) -> None:
    """For people a block, for programs the daemon's own answer."""
    home.write(QUIET + 'budget = ["5/day"]\n')
    assert home.tollway("up").returncode == 0
    data = json.loads(home.tollway("status", "--json").stdout)
    assert data["config"]["state"] == "ok"
    assert data["config"]["path"] == str(home.config)
    text = home.tollway("status").stdout
    assert f"pid {data['pid']}" in text
    assert f"http://{data['listen']}/v1" in text
    assert "5/day" in text
    assert "$5.00" in text
    looked = json.loads(home.tollway("doctor", "--json", "--offline").stdout)
    daemon = next(check for check in looked["checks"] if check["name"] == "daemon")
    assert (daemon["state"], daemon["fix"]) == ("ok", "")


def test_what_only_a_daemon_knows_exits_with_three_without_one(home: Home) -> None:
    """Stdout stays empty, so that a program never reads half an answer."""
    for words in (["status"], ["status", "--json"], ["reload"]):
        ended = home.tollway(*words)
        assert (ended.returncode, ended.stdout) == (3, "")
        assert ended.stderr.splitlines()[-1] == "hint: `tollway up` starts it"


def test_reload_says_what_changed(home: Home) -> None:
    """And what waits for a restart."""
    home.tollway("up")
    # The daemon keeps what it serves behind its start; an edit before that would be the first one.
    while not json.loads(home.tollway("config", "history", "--json").stdout):
        pass
    home.write(QUIET.replace("5s", "6s").replace(":0", ":1"))
    ended = home.tollway("reload")
    assert ended.returncode == 0
    assert ended.stdout.splitlines() == ["changed  server.drain", "changed  server.listen"]
    waits = "`server.listen` takes effect at the next `tollway restart`"
    assert waits in ended.stderr
    same = home.tollway("reload")
    assert re.match(r"Reloaded; nothing changed since it was last read, \S+ ago\n", same.stderr)
    looked = json.loads(home.tollway("doctor", "--json", "--offline").stdout)
    (told,) = [check for check in looked["checks"] if check["name"] == "daemon"]
    assert (told["state"], told["fix"]) == ("fail", "`tollway restart`")
    undone = home.tollway("config", "rollback", "1")
    assert undone.returncode == 0
    assert "The daemon has taken it up" in undone.stderr
    assert waits not in undone.stderr
    again = home.tollway("config", "rollback", "2")
    assert waits in again.stderr


def test_a_reload_of_a_file_that_no_daemon_serves_says_so(home: Home) -> None:
    """A copy with the same ledger was "reloaded; nothing changed", whatever stood in it."""
    home.tollway("up")
    other = home.path / "other.toml"
    other.write_text(home.config.read_text().replace("5s", "6s"))
    ended = home.tollway("reload", "--config", str(other))
    assert ended.returncode == 1
    assert f"The running daemon serves `{home.config}`" in ended.stderr


def test_a_daemon_whose_socket_was_moved_in_the_file_is_told_from_none(home: Home) -> None:
    """`up` was said to start it, and then that the ledger was in use."""
    pid = json.loads(home.tollway("up", "--json").stdout)["pid"]
    before = home.config.read_text()
    home.write(before.replace("[server]", '[server]\nadmin_socket = "other.sock"'))
    for words in ("status", "reload"):
        ended = home.tollway(words)
        assert ended.returncode == 3
        assert f"process {pid} has its ledger" in ended.stderr
        assert "`tollway restart`" in ended.stderr
    assert home.tollway("restart").returncode == 0
    assert home.tollway("status").returncode == 0


def test_a_log_that_was_moved_away_is_begun_anew(home: Home) -> None:
    """As logrotate moves it: the daemon of `up` knows its own file, and follows its path."""
    home.tollway("up")
    log = home.data / "tollway.log"
    log.rename(home.data / "moved")
    home.tollway("reload")
    home.tollway("down")
    # It looks behind what it writes: in which of the two the reload stands is chance.
    assert "nothing changed" in (home.data / "moved").read_text() + log.read_text()


@pytest.mark.parametrize("broken", ['[server]\nlisen = "x"\n', "[server\n"])
def test_a_broken_file_changes_nothing_and_status_says_where(home: Home, broken: str) -> None:
    """Reload exits with 2 and the line; `status` still finds the daemon, and `down` too."""
    home.tollway("up")
    home.write(broken)
    ended = home.tollway("reload")
    assert ended.returncode == 2
    assert f"error: {home.config}:" in ended.stderr
    shown = home.tollway("status")
    assert shown.returncode == 0
    assert "broken" in shown.stdout
    assert f"problem: {home.config}:" in shown.stdout
    assert home.tollway("down").returncode == 0


def test_a_daemon_whose_file_is_gone_is_found_by_who_asks_for_that_file(home: Home) -> None:
    """It goes on serving, so it must be seen and stopped; a path typed wrong stops nobody."""
    home.tollway("up")
    home.config.unlink()
    other = home.tollway("down", "--config", str(home.path / "typo.toml"))
    assert (other.returncode, "typo.toml:1: there is no such file" in other.stderr) == (2, True)
    reload = home.tollway("reload")
    assert (reload.returncode, "` brings back version 1 of it" in reload.stderr) == (2, True)
    shown = home.tollway("status")
    assert shown.returncode == 0
    assert f"problem: {home.config}:1: there is no such file" in shown.stdout
    stopped = home.tollway("down", TOLLWAY_CONFIG=str(home.config))
    assert (stopped.returncode, stopped.stderr[:8]) == (0, "Stopped ")
    assert "No gateway.toml here" in home.tollway("status").stderr


def test_up_says_which_line_is_wrong(home: Home) -> None:
    """Nothing is started for a file that cannot be served."""
    home.write('[server]\nlisen = "x"\n')
    ended = home.tollway("up")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"error: {home.config}:2: server.lisen" in ended.stderr


def test_up_says_who_has_the_port(home: Home) -> None:
    """The reason comes from the daemon itself, with what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        home.write(QUIET.replace(":0", f":{port}"))
        ended = home.tollway("up")
    assert ended.returncode == 1
    assert f"`127.0.0.1:{port}` is in use" in ended.stderr
    assert "hint: " in ended.stderr


def test_up_says_which_secrets_are_missing(home: Home) -> None:
    """All of them at once, each with its place; the daemon's hints reach the terminal."""
    line = QUIET.count("\n") + 3
    home.write(
        QUIET + '[providers.g]\nkind = "groq"\napi_key = "env:NO_SUCH_KEY"\n'
        '[providers.o]\nkind = "openai"\napi_key = "env:NOR_THIS"\n'
    )
    ended = home.tollway("up")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines()[:2] == [
        f"error: {home.config}:{line}: providers.g.api_key: "
        "The environment variable `NO_SUCH_KEY` is not set",
        f"error: {home.config}:{line + 3}: providers.o.api_key: "
        "The environment variable `NOR_THIS` is not set",
    ]
    assert '`tollway secrets set NOR_THIS` and write `api_key = "keyring:NOR_THIS"`' in ended.stderr


def test_up_says_that_its_log_cannot_be_written_and_how_to_move_it(home: Home) -> None:
    """The log stands there too and nothing is started, so the hint names the ledger's path."""
    home.data.mkdir(parents=True, mode=0o700)
    (home.data / "tollway.log").mkdir()  # what even root cannot write to
    ended = home.tollway("up")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"error: The daemon's log `{home.data}/tollway.log` cannot be written: is a dir" in (
        ended.stderr
    )
    assert "hint: It stands beside the ledger: " in ended.stderr
    assert "`ledger.path` in gateway.toml" in ended.stderr


def test_up_refuses_while_the_daemon_serves_another_file(home: Home) -> None:
    """Both files name one ledger: the settings of the second would not be in force."""
    pid = json.loads(home.tollway("up", "--json").stdout)["pid"]
    other = home.path / "other.toml"
    other.write_text(QUIET)
    other.chmod(0o600)
    ended = home.tollway("up", "--config", str(other))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(
        f"error: The running daemon serves `{home.config}`\n"
        f"hint: `tollway restart --config {other}` serves this file in its place; "
    )
    assert not gone(pid)
    link = home.path / "link.toml"
    link.symlink_to(home.config)
    same = json.loads(home.tollway("up", "--json", "--config", str(link)).stdout)
    assert (same["already_running"], same["pid"]) == (True, pid)
    assert same["config"] == str(home.config)


def test_up_shows_the_last_words_of_a_daemon_that_dies(home: Home) -> None:
    """A daemon that ends without telling why has written it to its log."""
    (home.path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if '--ready-fd' in sys.orig_argv:\n"
        "    os.write(2, b'no room in here\\n')\n"
        "    os._exit(9)\n"
    )
    ended = home.tollway("up", PYTHONPATH=str(home.path))
    assert ended.returncode == 1
    assert "error: The daemon ended before it was ready" in ended.stderr
    assert "error: no room in here" in ended.stderr


def test_restart_keeps_a_running_daemon_when_the_file_is_broken(home: Home) -> None:
    """It is checked before anything is stopped; a right file gives a new process."""
    first = json.loads(home.tollway("up", "--json").stdout)
    home.write("[server\n")
    assert home.tollway("restart").returncode == 2
    assert not gone(first["pid"])
    home.write(QUIET)
    second = json.loads(home.tollway("restart", "--json").stdout)
    assert second["pid"] != first["pid"]
    assert gone(first["pid"])


def test_a_daemon_that_hangs_can_be_stopped(home: Home) -> None:
    """One that is stopped by a debugger answers nobody; the ledger's lock says who it is."""
    pid = json.loads(home.tollway("up", "--json").stdout)["pid"]
    os.kill(pid, signal.SIGSTOP)
    command = [sys.executable, "-m", "tollway.cli", "down"]
    with subprocess.Popen(command, env=home.env, cwd=home.path, stderr=subprocess.PIPE) as down:
        # It has to give up asking first; then its SIGTERM waits for the daemon to wake.
        pending = f"/proc/{pid}/status"
        while not shared_pending(Path(pending).read_text()) and down.poll() is None:
            down_is_still_asking(down)
        os.kill(pid, signal.SIGCONT)
        assert down.stderr
        assert down.stderr.read().decode() == f"Stopped (pid {pid})\n"
    assert gone(pid)


def test_down_now_cuts_the_calls_in_flight(home: Home) -> None:
    """However long the drain is; the client gets an answer and not a dead connection."""
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        url = f"http://127.0.0.1:{upstream.getsockname()[1]}/v1"
        home.write(
            QUIET.replace("5s", "1h")
            + f'[providers.up]\nkind = "openai"\nbase_url = "{url}"\n[prices."up/m"]\n'
            "input = 1\noutput = 1\n"
        )
        started = json.loads(home.tollway("up", "--json").stdout)
        host = started["url"].removeprefix("http://").removesuffix("/v1")
        client = HTTPConnection(host, timeout=60)
        with closing(client):
            asked = {"model": "up/m", "messages": [{"role": "user", "content": "Hi"}]}
            head = {"content-type": "application/json"}
            client.request("POST", "/v1/chat/completions", json.dumps(asked), head)
            in_flight, _ = upstream.accept()
            with in_flight:
                ended = home.tollway("down", "--now")
                assert ended.stderr == f"Stopped (pid {started['pid']})\n"
                assert client.getresponse().status == 503


def shared_pending(status: str) -> bool:
    """Return whether SIGTERM waits for a process, by its /proc status."""
    line = next(line for line in status.splitlines() if line.startswith("ShdPnd:"))
    return bool(int(line.split()[1], 16) & 1 << (signal.SIGTERM - 1))


def down_is_still_asking(down: subprocess.Popen[bytes]) -> None:
    """Wait a moment for the process, without caring whether it ends."""
    try:
        down.wait(0.05)
    except subprocess.TimeoutExpired:
        return


def test_serve_is_the_daemon_in_the_foreground(home: Home) -> None:
    """One process: a supervisor's SIGTERM reaches it, and a clean end is exit code 0."""
    command = [sys.executable, "-m", "tollway.cli", "serve"]
    with subprocess.Popen(command, env=home.env, cwd=home.path, stderr=subprocess.PIPE) as serving:
        assert serving.stderr
        for line in serving.stderr:
            if b"ready on" in line:
                break
        status = json.loads(home.tollway("status", "--json").stdout)
        assert status["pid"] == serving.pid
        serving.terminate()
        serving.stderr.read()
    assert serving.returncode == 0


def test_serve_refuses_a_broken_file_like_every_command(home: Home) -> None:
    """The error is the same wherever the file is read."""
    home.write("[server\n")
    ended = home.tollway("serve")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"error: {home.config}:1: ")
