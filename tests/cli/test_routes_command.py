"""`tollway routes`: explained on a terminal, and tested with one token each."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from program import Home

from tollway.daemon.config.load import load

pytestmark = pytest.mark.whole

STREAM = (
    b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"yes"}}]}\n\n'
    b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":1}}\n\n'
    b"data: [DONE]\n\n"
)


class Handler(BaseHTTPRequestHandler):
    """An upstream that says yes, and keeps what it was asked."""

    asked: list[dict[str, object]] = []  # noqa: RUF012 - one upstream, one list

    def do_POST(self) -> None:
        """Answer a chat."""
        length = int(self.headers["content-length"])
        self.asked.append(json.loads(self.rfile.read(length)))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(STREAM)))
        self.end_headers()
        self.wfile.write(STREAM)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Return a home with a gateway before two upstreams, one of which is not there."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made = Home(tmp_path)
    made.write(f"""[server]
listen = "127.0.0.1:0"
watch = false
drain = "5s"
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{server.server_port}/v1"
[providers.gone]
kind = "openai-compatible"
base_url = "http://127.0.0.1:9/v1"
[prices."*/*"]
input = 1
output = 2
[routes.fast]
to = ["up/m", "gone/m"]
retries = 2
when = [{{ header.x-tier = "batch", to = ["up/o3-x"], max_output = 9 }}]
[routes.good]
to = ["up/m"]
""")
    try:
        ended = made.tollway("up")
        assert ended.returncode == 0, ended.stderr
        yield made
    finally:
        made.tollway("down", "--now")
        server.shutdown()
        server.server_close()


def test_routes_are_explained_and_tested(home: Home) -> None:
    """Nothing is sent before a person has agreed to its cost; then each target gets one token."""
    Handler.asked.clear()
    told = home.tollway("routes", "explain", "fast", "--header", "x-tier: batch")
    assert told.returncode == 0, told.stderr
    assert "header.x-tier = batch" in told.stdout
    assert "up/o3-x would be asked with output=9" in told.stdout
    assert "2 times each, out of what all calls to a provider share: up has 20 left" in told.stdout
    wrong = home.tollway("routes", "explain", "--model", "fast", "--header", "x-tier")
    assert (wrong.returncode, "is no header" in wrong.stderr) == (2, True)
    unasked = home.tollway("routes", "test", "fast")
    assert unasked.returncode == 2
    assert "Ask 3 targets, which may cost up to $" in unasked.stderr
    assert Handler.asked == []
    tested = home.tollway("routes", "test", "--yes", "--json")
    assert tested.returncode == 1
    found = {one["target"]: one for one in json.loads(tested.stdout)}
    assert {name: one["result"] for name, one in found.items()} == {
        "up/m": "ok",
        "gone/m": "error",
        "up/o3-x": "ok",
    }
    assert found["up/m"]["cost_nanousd"] == 7 * 1000 + 2000
    assert found["up/m"]["first_ms"] is not None
    assert "refused the connection" in found["gone/m"]["error"]
    # One token; a model that reasons takes no fewer than sixteen.
    limits = {said["model"]: said.get("max_tokens", said.get("max_completion_tokens"))
              for said in Handler.asked}  # fmt: skip
    assert limits == {"m": 1, "o3-x": 16}
    logged = home.tollway("logs", str(found["up/m"]["call"]), "--json")
    assert json.loads(json.loads(logged.stdout)["call"]["tags"]) == {"tollway": "test"}
    table = home.tollway("routes", "test", "good", "--yes")
    assert table.returncode == 0
    assert "up/m" in table.stdout and "ok" in table.stdout
    shared = ("--to", "up/m=3", "--to", "up/n=1", "--strategy", "weighted", "--alias", "gpt-4*")
    added = home.tollway("routes", "add", "shared", *shared)
    assert added.returncode == 0, added.stderr
    route = load(home.config).routes["shared"]
    assert [(aim.target, aim.weight) for aim in route.aims] == [("up/m", 3), ("up/n", 1)]
    assert (route.strategy, route.aliases) == ("weighted", ("gpt-4*",))
    listed = json.loads(home.tollway("routes", "list", "--json").stdout)
    assert [one["cases"] for one in listed] == [1, 0, 0]
    assert (listed[2]["to"], listed[2]["weights"]) == (["up/m", "up/n"], [3, 1])
    alias = home.tollway("routes", "explain", "--model", "gpt-4o")
    assert "route gpt-4*" in alias.stdout
    home.config.write_text(home.config.read_text().replace('[prices."*/*"]', '[prices."gone/*"]'))
    assert home.tollway("reload").returncode == 0
    _no_price_is_no_zero(home)
    unknown = home.tollway("routes", "test", "godo")
    assert (unknown.returncode, "is no route" in unknown.stderr) == (1, True)


def test_a_route_is_changed_in_what_is_named_alone(home: Home) -> None:
    """As a key or a team is: comments and what has no option stay."""
    more = (
        '[routes.two]  # mine\nto = ["up/m", "gone/m"]  # both\n'
        'retries = 2  # twice\naliases = ["other"]\n'
    )
    home.config.write_text(home.config.read_text() + more)
    words = ("--to", "up/n=3", "--to", "up/m", "--strategy", "weighted", "--no-aliases")
    changed = home.tollway("routes", "set", "two", *words, "--fallback", "good")
    assert changed.returncode == 0, changed.stderr
    route = load(home.config).routes["two"]
    assert [(aim.target, aim.weight) for aim in route.aims] == [("up/n", 3), ("up/m", None)]
    assert (route.strategy, route.aliases, route.fallback) == ("weighted", (), ("good",))
    to = 'to = [{target = "up/n", weight = 3}, "up/m"]  # both\n'
    assert f"[routes.two]  # mine\n{to}" in home.config.read_text()
    assert "retries = 2  # twice" in home.config.read_text()
    listed = home.tollway("routes", "list").stdout
    assert "up/n=3, up/m" in listed
    plain = ("--strategy", "ordered", "--to", "up/m")  # weights would do nothing there
    again = home.tollway("routes", "set", "two", *plain, "--no-fallback")
    assert again.returncode == 0, again.stderr
    route = load(home.config).routes["two"]
    assert (route.strategy, route.fallback) == ("ordered", ())
    refused: list[tuple[tuple[str, ...], int, str]] = [
        ((), 2, "Nothing to change was named"),
        (("--to", "anthropic/x"), 2, "`tollway providers add anthropic --kind anthropic`"),
        (("--alias", "a", "--no-aliases"), 2, "`--alias` and `--no-aliases` exclude each other"),
    ]
    for options, code, said in refused:
        wrong = home.tollway("routes", "set", "two", *options)
        assert (wrong.returncode, said in wrong.stderr) == (code, True), wrong.stderr
    there = home.tollway("routes", "add", "two", "--to", "up/m")
    assert "`tollway routes set two` changes it" in there.stderr


def _no_price_is_no_zero(home: Home) -> None:
    """See that what has no price is told so: nobody knows what it costs, which is not $0."""
    told = home.tollway("routes", "explain", "--model", "good")
    (line,) = [one for one in told.stdout.splitlines() if "up/m" in one and "passing" in one]
    assert "no price" in line
    assert "$" not in line
    said = json.loads(home.tollway("routes", "explain", "--model", "good", "--json").stdout)
    target = said["targets"][0]
    assert (target["price"], target["hold_nanousd"], target["expected_nanousd"]) == ("", None, None)
    tested = json.loads(home.tollway("routes", "test", "good", "--json").stdout)
    assert [(one["result"], one["cost_nanousd"], one["unpriced"]) for one in tested] == [
        ("ok", None, True)
    ]
    table = home.tollway("routes", "test", "good").stdout
    assert "no price" in table
    assert "$" not in table
    asked = home.tollway("routes", "test", "fast").stderr
    assert "Ask 3 targets, which may cost up to $" in asked
    assert ", and 2 without a price?" in asked
