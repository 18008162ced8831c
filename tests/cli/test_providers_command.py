"""`providers`: added with their key in the vault, asked for their models, removed when unused."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from program import Home

from tollway.daemon.config.load import load

pytestmark = pytest.mark.whole

SERVER = '[server]\nlisten = "127.0.0.1:0"\nsingle_user = true\nwatch = false\n'
CANARY = "sk-canary-0123456789abcdefghij"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return a home with an empty gateway and the vault chosen."""
    made = Home(tmp_path)
    made.write(SERVER)
    assert made.tollway("secrets", "backend", "vault").returncode == 0
    return made


@contextmanager
def upstream(key: str) -> Iterator[str]:
    """Yield the base URL of a provider that lists two models to who has the key."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            right = self.headers["authorization"] == f"Bearer {key}" and self.path == "/v1/models"
            body = b'{"data": [{"id": "a"}, {"id": "b"}]}' if right else b'{"error": {}}'
            self.send_response(200 if right else 401)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_key_goes_from_stdin_to_the_vault_and_nowhere_else(home: Home) -> None:
    """gateway.toml names it; no file and no answer holds it in clear."""
    ended = home.tollway("providers", "add", "openai", "--kind", "openai", stdin=CANARY + "\n")
    assert (ended.returncode, ended.stdout) == (0, "")
    assert load(home.config).providers["openai"].api_key == "keyring:openai"
    again = home.tollway("providers", "list")
    assert again.stdout.splitlines()[1].split()[:5] == [
        "openai", "openai", "https://api.openai.com/v1", "keyring:openai", "yes",
    ]  # fmt: skip
    assert CANARY not in ended.stderr + again.stdout + again.stderr
    for path in home.path.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path


def test_a_stored_key_is_used_without_asking(home: Home) -> None:
    """Removed and added again, nothing need be typed twice; removing says what stays."""
    home.tollway("providers", "add", "groq", "--kind", "groq", stdin=CANARY)
    ended = home.tollway("providers", "remove", "groq")
    assert "`tollway secrets remove groq` forgets it" in ended.stderr
    assert load(home.config).providers == {}
    assert home.tollway("providers", "add", "groq", "--kind", "groq").returncode == 0
    assert load(home.config).providers["groq"].api_key == "keyring:groq"


def test_a_provider_is_asked_with_its_key(home: Home) -> None:
    """Status, models and time; a key that is refused exits with 1."""
    with upstream(CANARY) as url:
        add = ("--kind", "openai-compatible", "--base-url", url, "--api-key")
        home.tollway("providers", "add", "box", *add, "-", stdin=CANARY)
        ended = home.tollway("providers", "test", "box", "--json")
        assert ended.returncode == 0
        found = json.loads(ended.stdout)
        assert (found["state"], found["status"], found["models"]) == ("ok", 200, 2)
        assert found["seconds"] > 0
        assert "models    2" in home.tollway("providers", "test", "box").stdout
        home.tollway("providers", "add", "other", *add, "env:OTHER")
        wrong = home.tollway("providers", "test", "other", OTHER="sk-wrong")
        assert wrong.returncode == 1
        assert "status    401" in wrong.stdout
        assert "refuses the key" in wrong.stdout
    gone = home.tollway("providers", "test", "box", "--json")
    assert (gone.returncode, json.loads(gone.stdout)["status"]) == (1, None)


def test_a_pool_of_keys_is_added_listed_and_tested_key_by_key(home: Home) -> None:
    """By their names; a key that is refused is told by its own, and exits with 1."""
    with upstream(CANARY) as url:
        add = ("--kind", "openai-compatible", "--base-url", url)
        ended = home.tollway(
            "providers", "add", "box", *add, "--api-key", "env:ONE", "--api-key", "env:TWO"
        )
        assert ended.returncode == 0, ended.stderr
        assert load(home.config).providers["box"].api_keys == ("env:ONE", "env:TWO")
        tested = home.tollway("providers", "test", "box", "--json", ONE=CANARY, TWO="sk-wrong")
        assert tested.returncode == 1
        found = json.loads(tested.stdout)
        assert [(one["key"], one["state"]) for one in found] == [
            ("env:ONE", "ok"),
            ("env:TWO", "fail"),
        ]
        (row,) = json.loads(home.tollway("providers", "list", "--json", ONE="x").stdout)
        assert row["api_keys"] == ["env:ONE", "env:TWO"]
        assert row["key_found"] is False and "`TWO` is not set" in row["problem"]
    twice = home.tollway(
        "providers", "add", "b", "--kind", "openai", "--api-key", "env:A", "--api-key", "env:A"
    )
    assert (twice.returncode, "`--api-key`: the same as another" in twice.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kind", "opnai"], "unknown kind; did you mean openai?"),
        (["--kind", "bedrock"], "such as `https://bedrock-runtime.REGION.amazonaws.com`"),
        (["--kind", "openai-compatible"], "has no address of its own"),
        (["--kind", "azure"], "has no address of its own"),
        (["--kind", "openai", "--auth", "me"], "`--auth`: expected"),
        (["--kind", "vllm", "--base-url", "nowhere"], "`--base-url`: expected a URL"),
        (["--kind", "openai", "--api-key", CANARY], "`--api-key`: expected keyring:NAME"),
    ],
)
def test_what_cannot_be_is_refused_before_a_key_is_asked_for(
    home: Home, words: list[str], said: str
) -> None:
    """Exit code 2, nothing stored, and a secret on the command line is not repeated."""
    ended = home.tollway("providers", "add", "x", *words, stdin="sk-from-stdin")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr
    assert CANARY not in ended.stderr
    assert home.config.read_text() == SERVER
    assert json.loads(home.tollway("secrets", "list", "--json").stdout) == []


def test_a_provider_is_changed_in_what_is_named_alone(home: Home) -> None:
    """Also one that routes need, and with another key; what cannot be is refused before that."""
    home.tollway("providers", "add", "up", "--kind", "openai", "--api-key", "env:A")
    home.tollway("routes", "add", "fast", "--to", "up/gpt-5")
    home.tollway("budgets", "set", "provider", "up", "5/day")
    there = home.tollway("providers", "add", "up", "--kind", "openai")
    assert "`tollway providers set up` changes it" in there.stderr
    done = home.tollway("providers", "set", "up", "--base-url", "http://box/v1", "--api-key", "-",
                        "--serves", "gpt-*", stdin=CANARY)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "The key is stored in the vault" in done.stderr
    provider = load(home.config).providers["up"]
    assert (provider.base_url, provider.keys) == ("http://box/v1", ("keyring:up",))
    assert (provider.serves, provider.budget[0].text) == (("gpt-*",), "5/day")
    pool = ("--api-key", "env:ONE", "--api-key", "env:TWO", "--no-serves", "--no-base-url")
    said = json.loads(home.tollway("providers", "set", "up", *pool, "--json").stdout)
    assert (said["api_key"], said["api_keys"], said["base_url"], said["changed"]) == (
        (None, ["env:ONE", "env:TWO"], None, True)
    )  # fmt: skip
    again = home.tollway("providers", "set", "up", *pool)
    assert "The provider `up` is so already" in again.stderr
    refused: list[tuple[tuple[str, ...], int, str]] = [
        ((), 2, "Nothing to change was named"),
        (("--base-url", "nowhere", "--api-key", "-"), 2, "`--base-url`: expected a URL"),
        (("--kind", "opnai"), 2, "unknown kind; did you mean openai?"),
        (("--api-key", "-", "--no-api-key"), 2, "`--api-key` and `--no-api-key` exclude"),
        (("--proxy", "http://[x"), 2, "`--proxy`: no URL that can be read"),
    ]
    before = home.config.read_text()
    for options, code, words in refused:
        wrong = home.tollway("providers", "set", "up", *options, stdin="sk-from-stdin")
        assert (wrong.returncode, words in wrong.stderr) == (code, True), wrong.stderr
    assert home.config.read_text() == before
    nobody = home.tollway("providers", "set", "upp", "--auth", "key")
    assert (nobody.returncode, "Did you mean up?" in nobody.stderr) == (1, True)


def test_a_key_is_stored_only_with_the_change_that_names_it(home: Home) -> None:
    """A file that could not be written left a new key that nobody named, and the old one lost."""
    home.tollway("providers", "add", "up", "--kind", "openai", stdin="sk-old")
    history = home.data / "history"
    history.rename(home.data / "away")
    history.touch()  # no version can be kept there: the change fails
    to = ("--kind", "openai", "--base-url", "http://box/v1", "--api-key", "-")
    for words in (("set", "up"), ("add", "new")):
        ended = home.tollway("providers", *words, *to, stdin=CANARY)
        assert (ended.returncode, "is in the way" in ended.stderr) == (2, True), ended.stderr
    assert [one["reference"] for one in json.loads(home.tollway("secrets", "list", "--json").stdout)
            ] == ["keyring:up"]  # fmt: skip
    history.unlink()
    with upstream("sk-old") as url:
        home.tollway("providers", "set", "up", "--base-url", url)
        assert home.tollway("providers", "test", "up").returncode == 0


def test_a_provider_that_a_route_needs_stays(home: Home) -> None:
    """The route is named; without it the provider goes, and the file is as before."""
    home.tollway("providers", "add", "box", "--kind", "vllm")
    home.tollway("routes", "add", "fast", "--to", "box/qwen3")
    ended = home.tollway("providers", "remove", "box")
    assert ended.returncode == 1
    assert "The provider `box` is needed by route fast" in ended.stderr
    assert home.tollway("routes", "remove", "fast").returncode == 0
    assert home.tollway("providers", "remove", "box").returncode == 0
    assert home.config.read_text() == SERVER


def test_a_key_that_is_not_there_is_seen_in_the_list(home: Home) -> None:
    """With why, on stderr; `found` is null where none is needed."""
    home.tollway("providers", "add", "a", "--kind", "openai", "--api-key", "env:NOT_SET")
    home.tollway("providers", "add", "b", "--kind", "ollama")
    rows = json.loads(home.tollway("providers", "list", "--json").stdout)
    assert [(row["name"], row["key_found"]) for row in rows] == [("a", False), ("b", None)]
    assert "`NOT_SET` is not set" in rows[0]["problem"]
    assert "warning: a: " in home.tollway("providers", "list").stderr


def test_a_provider_that_its_callers_pay_is_asked_for_no_key(home: Home) -> None:
    """There is none to store, and the list says whose is used."""
    ended = home.tollway("providers", "add", "claude", "--kind", "anthropic", "--auth", "caller")
    assert ended.returncode == 0, ended.stderr
    (row,) = json.loads(home.tollway("providers", "list", "--json").stdout)
    assert (row["auth"], row["api_key"], row["key_found"]) == ("caller", None, None)
    assert "the caller's own" in home.tollway("providers", "list").stdout
    assert json.loads(home.tollway("secrets", "list", "--json").stdout) == []


def test_kinds_lists_the_catalog(home: Home) -> None:
    """Each with its address; `local` is no kind to add."""
    kinds = {
        row["kind"]: row for row in json.loads(home.tollway("providers", "kinds", "--json").stdout)
    }
    assert kinds["groq"]["base_url"] == "https://api.groq.com/openai/v1"
    assert "local" not in kinds
