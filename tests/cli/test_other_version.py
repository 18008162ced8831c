"""A command line that is newer than the daemon beside it, or older."""

import json
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import pytest
from program import Home

OLD: dict[str, object] = {
    "version": "0.0.9",
    "pid": 1,
    "uptime_s": 5.0,
    "url": "http://127.0.0.1:1/v1",
}


class Answers(BaseHTTPRequestHandler):
    """A daemon of another time."""

    said: ClassVar[dict[str, object]] = {}

    def do_GET(self) -> None:
        """Say what there is to say, and know no other path."""
        status = self.path == "/control/status"
        error = {"error": {"message": f"There is no `{self.path}` here", "code": "not_found"}}
        content = json.dumps(self.said if status else error).encode()
        self.send_response(200 if status else 404)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        """Say the same."""
        self.do_GET()

    def address_string(self) -> str:
        """Return a name for the log; a Unix client has none."""
        return "owner"

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Yield a home in whose place for the daemon `Answers` answers."""
    made = Home(tmp_path)
    made.write(f'[server]\nsingle_user = true\nadmin_socket = "{tmp_path}/d.sock"\n')
    Answers.said = OLD | {
        "config": {"path": str(made.config), "state": "ok", "loaded_at": 1.0},
        "ledger": {"path": "ledger.db"},
    }
    with socketserver.ThreadingUnixStreamServer(f"{tmp_path}/d.sock", Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("words", [["status"], ["up"]])
def test_an_older_daemon_is_shown_and_told(home: Home, words: list[str]) -> None:
    """What it does not say has a default; what helps is named."""
    done = home.tollway(*words)
    assert done.returncode == 0, done.stderr
    assert "The daemon is of version 0.0.9" in done.stderr
    assert "`tollway restart`" in done.stderr
    assert "127.0.0.1:1" in done.stdout


HOLDS = """
import pathlib, sys, time
from tollway.daemon.ledger.lock import LedgerLock
lock = LedgerLock(pathlib.Path(sys.argv[1])).acquire(0)
print("held", flush=True)
time.sleep(600)
"""


def test_a_daemon_that_is_not_understood_is_stopped_all_the_same(home: Home) -> None:
    """Who holds the ledger is known by its lock; the hint to restart would be a circle."""
    Answers.said = {"version": "0.0.1", "pid": 1}
    home.data.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", HOLDS, str(home.data / "ledger.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        done = home.tollway("down")
        assert (done.returncode, done.stderr) == (0, f"Stopped (pid {process.pid})\n")
        assert process.wait() == -signal.SIGTERM


def test_budgets_that_are_not_understood_say_so_in_our_words(home: Home) -> None:
    """As everything that an older daemon tells."""
    Answers.said = {**Answers.said, "budgets": [{"scope": "box"}]}
    done = home.tollway("budgets", "list")
    assert done.returncode == 1
    assert "error: The daemon is of " in done.stderr


@pytest.mark.parametrize("words", [["status"], ["up"], ["top", "--once"], ["models", "load", "m"]])
def test_what_is_not_understood_says_so_in_our_words(home: Home, words: list[str]) -> None:
    """Never "Object missing required field" alone."""
    home.write(home.config.read_text() + '[models.m]\ngguf = "m.gguf"\n')
    Answers.said = {"version": "0.0.1", "pid": 1}
    done = home.tollway(*words)
    assert done.returncode == 1
    assert "error: The daemon is of" in done.stderr
    assert "hint: `tollway restart` puts this version in its place" in done.stderr
