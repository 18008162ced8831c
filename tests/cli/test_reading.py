"""Every command that only reads, where output is at its narrowest: 60 columns, ASCII, a pipe."""

import http.client
import json
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from chat_upstream import ChatUpstream
from gguf_shapes import shaped
from program import Home

from tollway.cli.app import COMMANDS
from tollway.cli.wrap import cells

WIDTH = 60
GATEWAY = """[server]
listen = "127.0.0.1:0"
watch = false
budget = ["1000/month"]
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{port}/v1"
[providers.another-provider-with-a-long-name]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{port}/v1"
[routes.smart]
to = ["up/large-model-of-the-fourth-generation", "another-provider-with-a-long-name/medium"]
[routes.fast]
to = ["up/small"]
aliases = ["quick"]
[groups.everyone]
models = ["*"]
except = ["up/secret"]
[teams.research]
groups = ["everyone"]
budget = ["500/month", "50/day"]
[users.ada]
team = "research"
budget = ["5/day"]
[projects.chatbot]
team = "research"
[prices."*/*"]
input = 1
output = 2
[models.tiny]
gguf = "tiny.gguf"
price = "free"
[models.qwen3-30b-a3b-instruct-2507-q4-k-m-from-the-shared-disk]
gguf = "{shared}/Qwen3-30B-A3B-Instruct-2507-Q4_K_M-00001-of-00003.gguf"
price = "free"
[teams.customer-experience-and-retention-engineering]
budget = ["250/month"]
[users."alexandra.konstantinopoulos@engineering.example.com"]
team = "customer-experience-and-retention-engineering"
budget = ["25/day"]
[projects.quarterly-report-summaries-for-the-management]
team = "customer-experience-and-retention-engineering"
[routes.everything-that-customers-ask-in-the-evening]
to = ["another-provider-with-a-long-name/accounts/fireworks/models/llama-v3p1-405b-instruct"]
fallback = ["smart"]
"""
# What is run, and its exit code where that is not 0.
READING: list[tuple[str, int]] = [
    ("--help", 0),
    ("keys --help", 0),
    ("spend --help", 0),
    ("routes explain --help", 0),
    ("status", 0),
    ("top --once", 0),
    ("doctor --offline", 1),
    ("config check", 0),
    ("config show", 0),
    ("config show --effective", 0),
    ("config diff", 0),
    ("config history", 0),
    ("config audit", 0),
    ("config export", 0),
    ("secrets list", 0),
    ("secrets backend", 0),
    ("keys list", 0),
    ("keys show ci", 0),
    ("keys show for-the-nightly-integration-tests", 0),
    ("teams show customer-experience-and-retention-engineering", 0),
    ("users show alexandra.konstantinopoulos@engineering.example.com", 0),
    ("projects show quarterly-report-summaries-for-the-management", 0),
    ("models info qwen3-30b-a3b-instruct-2507-q4-k-m-from-the-shared-disk", 1),
    ("routes explain --model everything-that-customers-ask-in-the-evening", 0),
    ("teams list", 0),
    ("teams show research", 0),
    ("users list", 0),
    ("users show ada", 0),
    ("projects list", 0),
    ("projects show chatbot", 0),
    ("budgets list", 0),
    ("groups list", 0),
    ("groups show everyone", 0),
    ("providers list", 0),
    ("providers kinds", 0),
    ("providers test up", 0),
    ("models list", 0),
    ("models info tiny", 0),
    ("models ps", 0),
    ("routes list", 0),
    ("routes explain --model smart --as ci", 0),
    ("routes test smart --yes", 0),
    ("prices list gpt-5*", 0),
    ("prices show openai/gpt-5", 0),
    ("prices check", 0),
    ("spend", 0),
    ("spend --by team,user,model", 0),
    ("spend --by day", 0),
    ("logs", 0),
    ("logs CALL", 0),
    ("ledger verify", 0),
    ("ledger reprice --since 30d", 0),
    ("service status", 1),
    ("import --dry-run --user ada", 0),
    ("usage --key KEY", 0),
    ("stauts", 2),
    ("keys show cj", 1),
    ("status --jsno", 2),
]
# What these print is a file's text.
AS_IT_IS = ("config show", "config show --effective", "config export")
# They write, ask, or go on until they are stopped; each has its own tests.
NOT_READING = {
    "init", "up", "down", "restart", "reload", "serve", "service install", "service uninstall",
    "config edit", "config import-litellm", "config rollback", "completion", "secrets set",
    "secrets remove", "keys create", "keys set", "keys rotate", "keys revoke", "teams create",
    "teams set", "teams remove", "users create", "users set", "users remove", "projects create",
    "projects set", "projects remove", "budgets set", "budgets remove", "budgets raise",
    "groups create", "groups set", "groups remove", "providers add", "providers set",
    "providers remove",
    "models add", "models pull", "models load", "models bench", "models import-llama-swap",
    "models unload", "models remove", "models logs", "routes add", "routes set", "routes remove",
    "run", "chat",
    "prices update", "prices set", "prices unset", "bench", "ledger settle",
    "ledger export", "ledger backup", "ledger vacuum",
}  # fmt: skip
BOXES = re.compile("[\u2500-\u259f\u2800-\u28ff]")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class World:
    """A home with a daemon that has answered calls."""

    def __init__(self, home: Home, key: str, call: str) -> None:
        self.home = home
        self._said = {"KEY": key, "CALL": call}

    def words(self, line: str) -> list[str]:
        """Return the words of a line, with this world's own key and call."""
        return [self._said.get(word, word) for word in line.split()]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Yield a home whose daemon has answered a few calls; one for all tests, which only read."""
    home = Home(tmp_path_factory.mktemp("reading") / "home/alexandra.konstantinopoulos/workspace")
    home.path.mkdir(parents=True)
    upstream = ChatUpstream()
    home.write(GATEWAY.format(port=upstream.port, shared=home.path / "a shared disk/models"))
    shaped(home.config.with_name("tiny.gguf"))
    made = home.tollway("keys", "create", "ci", "--user", "ada", "--project", "chatbot")
    key = made.stdout.strip()
    user = "alexandra.konstantinopoulos@engineering.example.com"
    home.tollway("keys", "create", "for-the-nightly-integration-tests", "--user", user)
    try:
        started = home.tollway("up", "--json")
        assert started.returncode == 0, started.stderr
        for model in ("smart", "fast", "fast", "nothing-of-this-name"):
            ask(json.loads(started.stdout)["url"], key, model)
        [*_, first] = json.loads(home.tollway("logs", "--json").stdout)
        yield World(home, key, first["id"])
    finally:
        home.tollway("down", "--now")
        upstream.close()


def ask(url: str, key: str, model: str) -> None:
    """Ask for one answer."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    body = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    connection.getresponse().read()
    connection.close()


def too_wide(text: str) -> list[str]:
    """Return the lines that are wider than the terminal."""
    return [line for line in text.split("\n") if cells(line) > WIDTH]


def test_every_command_that_reads_is_here() -> None:
    """A new one is tried at its narrowest too, or named with those that write or go on."""
    tried = {line for line, _ in READING}
    untried = {
        row.name
        for row in COMMANDS
        if row.home and not any(f"{line} ".startswith(f"{row.name} ") for line in tried)
    }
    assert untried == NOT_READING


@pytest.mark.parametrize(("line", "code"), READING, ids=[line for line, _ in READING])
def test_it_fits_a_narrow_ascii_terminal(world: World, line: str, code: int) -> None:
    """60 columns under LC_ALL=C: nothing is cut by the terminal, and nothing is not ASCII."""
    seen = world.home.on_terminal(*world.words(line), columns=WIDTH, LC_ALL="C")
    text = ESCAPES.sub("", seen.stdout)
    assert seen.returncode == code, text
    assert text.isascii(), [one for one in text.split("\n") if not one.isascii()]
    assert "Traceback" not in text
    assert "mistake of its own" not in text
    assert line in AS_IT_IS or not too_wide(text.replace("\r", "\n")), text


@pytest.mark.parametrize(("line", "code"), READING, ids=[line for line, _ in READING])
def test_a_pipe_is_as_narrow_as_columns_says(world: World, line: str, code: int) -> None:
    """Somebody asked for it; without $COLUMNS a pipe's lines are as wide as they need."""
    seen = world.home.tollway(*world.words(line), COLUMNS=str(WIDTH))
    assert seen.returncode == code, seen.stderr
    assert line in AS_IT_IS or not too_wide(seen.stdout), seen.stdout
    assert not too_wide(seen.stderr), seen.stderr
    assert "\x1b" not in seen.stdout + seen.stderr


@pytest.mark.parametrize("line", ["keys list", "providers list", "status", "budgets list"])
def test_a_pipe_without_a_width_has_a_line_for_each_row(world: World, line: str) -> None:
    """However long the names are: what reads it counts lines."""
    lines = world.home.tollway(*line.split()).stdout.splitlines()
    assert any(cells(one) > WIDTH for one in lines)


@pytest.mark.parametrize(("line", "code"), READING, ids=[line for line, _ in READING])
def test_a_pipe_gets_no_colours_and_no_boxes(world: World, line: str, code: int) -> None:
    """What `grep` and `awk` read is text."""
    seen = world.home.tollway(*world.words(line))
    assert seen.returncode == code, seen.stderr
    assert "\x1b" not in seen.stdout + seen.stderr
    assert not BOXES.search(seen.stdout + seen.stderr)


@pytest.mark.parametrize(
    ("line", "whole"),
    [
        ("budgets list", ["1000/month", "$1,000.00", "team research"]),
        ("keys list", ["for-the-nightly-integration-tests", "research"]),
        (
            "routes explain --model smart",
            ["up/large-model-of-the-fourth-generation", "gateway.toml"],
        ),
    ],
)
def test_a_table_that_is_too_wide_is_a_block_for_each_row(
    world: World, line: str, whole: list[str]
) -> None:
    """No amount is cut and no name is broken where columns cannot stand side by side."""
    seen = world.home.on_terminal(*world.words(line), columns=WIDTH, NO_COLOR="1")
    assert all(one in seen.stdout for one in whole), seen.stdout


@pytest.mark.parametrize(("line", "code"), READING, ids=[line for line, _ in READING])
def test_who_wants_no_colour_gets_no_escape_code(world: World, line: str, code: int) -> None:
    """No colour, nor bold, nor a spinner: text is what was asked for."""
    seen = world.home.on_terminal(*world.words(line), columns=WIDTH, NO_COLOR="1")
    assert seen.returncode == code, seen.stdout
    assert "\x1b" not in seen.stdout
    assert line in AS_IT_IS or not too_wide(seen.stdout), seen.stdout


@pytest.mark.parametrize("line", ["status", "budgets list", "spend", "doctor --offline", "top"])
def test_a_dumb_terminal_gets_no_escape_code(world: World, line: str) -> None:
    """`top` shows one moment there, as in a pipe."""
    seen = world.home.on_terminal(*line.split(), columns=WIDTH, TERM="dumb")
    assert "\x1b" not in seen.stdout, seen.stdout
