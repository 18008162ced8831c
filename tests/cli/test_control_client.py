"""What the command line hears from the daemon's socket, and what it makes of silence."""

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tollway.cli.control import Beside, Control, refusal
from tollway.daemon.errors import ConfigError, DaemonUnreachable
from tollway.providers.errors import GatewayError


class Answers(BaseHTTPRequestHandler):
    """A small daemon: each path is one behaviour."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer, or refuse, or break off."""
        if self.path == "/control/status":
            self._json(200, {"pid": 7, "host": self.headers["host"]})
        elif self.path == "/hang":
            self.server.hanging.wait(60)  # type: ignore[attr-defined]
        elif self.path == "/cut":
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
            self.close_connection = True
        else:
            self._json(
                404, {"error": {"message": "No `x`", "hint": "Try `y`", "code": "not_found"}}
            )

    def do_POST(self) -> None:
        """Send the body back, as events or as JSON."""
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path == "/events":
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            self.wfile.write(b": quiet\n\ndata: " + body + b"\n\ndata:one\r\ndata: two\r\n\r\n")
            self.close_connection = True
        elif self.path == "/control/reload":
            broken = {"message": "gateway.toml:1: a\ngateway.toml:2: b", "code": "config_invalid"}
            self._json(500, {"error": broken})
        else:
            self._json(200, {"got": json.loads(body) if body else None})

    def _json(self, status: int, data: object) -> None:
        content = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def address_string(self) -> str:
        """Return a name for the log; a Unix client has none."""
        return "owner"

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


class Server(socketserver.ThreadingUnixStreamServer):
    """The small daemon's socket."""

    daemon_threads = True
    hanging: threading.Event


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Path]:
    """Return a socket at which `Answers` answers."""
    path = tmp_path / "d.sock"
    with Server(str(path), Answers) as server:
        server.hanging = threading.Event()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield path
        server.hanging.set()
        server.shutdown()
        thread.join()


def test_questions_and_answers_are_json(daemon: Path) -> None:
    """A GET has no body; a POST has one where there is something to say."""
    control = Control(daemon)
    assert control.get("/control/status") == {"pid": 7, "host": "localhost"}
    assert control.post("/echo", {"a": ["b"]}) == {"got": {"a": ["b"]}}
    assert control.post("/echo") == {"got": None}


def test_a_refusal_keeps_the_daemons_words(daemon: Path) -> None:
    """Message, hint and code arrive as they were sent; the code names the class."""
    with pytest.raises(GatewayError) as said:
        Control(daemon).get("/other")
    assert (said.value.message, said.value.hint) == ("No `x`", "Try `y`")
    assert (said.value.code, said.value.status) == ("not_found", 404)
    with pytest.raises(ConfigError, match=r"gateway.toml:1: a\ngateway.toml:2: b"):
        Control(daemon).post("/control/reload")


def test_events_come_one_by_one_and_comments_do_not(daemon: Path) -> None:
    """Several data lines are one event; both line endings count."""
    pieces = list(Control(daemon).stream("/events", {"x": 1}))
    assert pieces == [b'{"x":1}', b"one\ntwo"]
    assert list(Control(daemon).stream("/echo", {"x": 1})) == [b'{"got": {"x": 1}}']


def test_what_comes_beside_the_events_is_kept_apart(daemon: Path) -> None:
    """Headers and comments are not data, and whoever asks for them gets them."""
    beside = Beside()
    pieces = Control(daemon).stream("/events", {}, headers={"x-a": "b"}, beside=beside)
    assert list(pieces) == [b"{}", b"one\ntwo"]
    assert beside.comments == ["quiet"]
    assert beside.headers["content-type"] == "text/event-stream"


@pytest.mark.parametrize("leftover", [False, True])
def test_no_daemon_is_said_with_what_starts_one(tmp_path: Path, leftover: bool) -> None:
    """No socket, or one that a killed daemon left behind: both mean that nobody is there."""
    path = tmp_path / "d.sock"
    if leftover:
        Server(str(path), Answers).server_close()
        assert path.exists()
    with pytest.raises(DaemonUnreachable) as said:
        Control(path).get("/control/status")
    assert said.value.hint == "`tollway up` starts it"


def test_a_daemon_that_is_silent_or_breaks_off_is_not_reachable(daemon: Path) -> None:
    """Neither hangs the terminal, and neither is taken for an answer."""
    with pytest.raises(DaemonUnreachable, match="does not answer in time"):
        Control(daemon, timeout_s=0.2).get("/hang")
    with pytest.raises(DaemonUnreachable, match="broke off"):
        Control(daemon).get("/cut")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error":"no"}', b'{"error":{}}'])
def test_an_answer_without_words_is_still_an_error(body: bytes) -> None:
    """Whatever listens there, the status is told."""
    assert refusal(502, body).message == "The daemon answered 502 without saying why"
