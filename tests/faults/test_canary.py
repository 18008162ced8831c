"""Canaries: secrets and texts nobody else would write, taken down every path, then looked for."""

import base64
import contextlib
import json
import socket
import sqlite3
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest
from gguf_files import real_model
from program import Home

pytestmark = pytest.mark.whole

# Of no known form, so that nothing finds them by how they look.
KEY = "tw-" + "canaryoftollway" * 3
WRONG = "tw-" + "wrongcanary" * 4
BY_ENV, BY_FILE, BY_VAULT = "envcanary7plumage", "filecanary7plumage", "vaultcanary7plumage"
LITERAL = "sk-proj-literalcanary7plumage7abcdef"
SECRETS = (KEY, WRONG, BY_ENV, BY_FILE, BY_VAULT, LITERAL)
PROMPT, ANSWER = "promptcanary plumage", "answercanary plumage"
TEXTS = (PROMPT, ANSWER)

CHAT = "/v1/chat/completions"


# What the program may be asked, with the exit code that it has for it.
COMMANDS = (
    *("status", "doctor", "config check", "config show", "config show --effective"),
    *("config history", "secrets list", "keys list", "keys show laptop", "users list"),
    *("providers list", "providers test env", "routes list", "routes explain --model all"),
    *("models list", "models ps", "spend", "spend --by key,model", "logs", "ledger verify"),
    *("reload", "chat -m env/right Hello", "chat -m env/status-400 Hello"),
)


class Echo:
    """An upstream that tells everybody what it was sent, credential and all."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.heads: list[bytes] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, contextlib.suppress(OSError):
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as reading:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                if not (line := reading.readline()):
                    return
                head += line
            lengths = [
                int(line.partition(b":")[2])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            ]
            body = reading.read(sum(lengths)) or b"{}"
        self.heads.append(head)
        connection.sendall(_echoed(head, body))

    def close(self) -> None:
        """Stop."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def _echoed(head: bytes, body: bytes) -> bytes:
    """Return the answer that the request's model asks for, with the request in it."""
    asked = json.loads(body)
    secret = next(
        (line.split(b" ")[-1].decode() for line in head.split(b"\r\n")
         if line.lower().startswith(b"authorization:")), "none",
    )  # fmt: skip
    told = f"You sent {head.decode('latin-1')} and {body.decode()}"
    error = {"error": {"message": told, "type": secret, "code": secret, "param": secret}}
    model, _, code = str(asked.get("model", "status-400")).partition("-")
    kind, status, said = "application/json", "200 OK", json.dumps(error).encode()
    first = b'data: {"choices":[{"index":0,"delta":{"content":"' + ANSWER.encode() + b'"}}]}\n\n'
    if model == "status":
        status = f"{code} {secret}"
    elif model == "text":
        status, kind, said = "400 No", "text/plain", told.encode()
    elif model == "bare":
        status, said = "400 No", json.dumps(f"key={secret};").encode()
    elif model == "garbage":
        said = told.encode()
    elif model == "stream":
        kind = "text/event-stream"
        said = first + b"data: " + json.dumps(error).encode() + b"\n\n"
    elif model == "event":
        kind, said = (
            "text/event-stream",
            first + b"event: error\ndata: " + secret.encode() + b"\n\n",
        )
    elif model == "cut":
        kind, said = "text/event-stream", first
    elif model == "right":
        choice = {"index": 0, "message": {"content": ANSWER}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "for": secret}
        said = json.dumps({"id": secret, "choices": [choice], "usage": usage}).encode()
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nX-Echo: {secret}\r\nX-Request-Id: {secret}"
        f"\r\nConnection: close\r\nContent-Length: {len(said)}\r\n\r\n"
    ).encode() + said


def config(port: int, folder: Path) -> str:
    """Return a configuration with a provider for each place of a secret."""
    providers = "".join(
        f'[providers.{name}]\nkind = "openai-compatible"\napi_key = "{ref}"\n'
        f'base_url = "http://127.0.0.1:{where}/v1"\n{more}\n'
        for name, ref, where, more in (
            ("env", "env:CANARY", port, ""),
            ("file", f"file:{folder}/key", port, ""),
            ("vault", "keyring:canary", port, ""),
            ("down", "env:CANARY", 1, ""),
            ("proxied", "env:CANARY", port, 'proxy = "http://127.0.0.1:1"'),
            ("badproxy", "env:CANARY", port, f'proxy = "http://127.0.0.1:{port}"'),
        )
    )
    return f"""
[server]
listen = "127.0.0.1:0"
drain = "5s"
watch = false
log_level = "debug"
{providers}
[routes.all]
to = ["env/status-500", "file/status-429", "down/m", "vault/right"]
[groups.all]
models = ["*"]
[users.ann]
groups = ["all"]
[keys.laptop]
hash = "sha256:{sha256(KEY.encode()).hexdigest()}"
user = "ann"
"""


@pytest.fixture
def echo() -> Iterator[Echo]:
    """Yield an upstream that echoes."""
    one = Echo()
    yield one
    one.close()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Yield a home; whatever was started in it is stopped."""
    made = Home(tmp_path)
    made.env["CANARY"] = BY_ENV
    yield made
    made.tollway("down", "--now")


def told(found: dict[str, str], of: tuple[str, ...]) -> dict[str, str]:
    """Return where one of some texts stands, in clear or in base64."""
    forms = {text: (text, base64.b64encode(text.encode()).decode()[:-4]) for text in of}
    return {
        place: text
        for place, said in found.items()
        for text, ways in forms.items()
        if any(way in said for way in ways)
    }


def request(host: str, body: bytes, path: str = CHAT, **headers: str) -> str:
    """Send a call and return all of its answer, head and body."""
    connection = HTTPConnection(host, timeout=60)
    sent = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request("POST", path, body, sent)
        answer: HTTPResponse = connection.getresponse()
        return f"{answer.status} {answer.reason}\n{answer.headers}\n{answer.read().decode()}"
    finally:
        connection.close()


def calls(host: str) -> dict[str, str]:
    """Make every kind of call that fails, and some that do not; return their answers."""
    models = [
        *(f"status-{code}" for code in (400, 401, 403, 404, 422, 429, 500, 502, 503, 307)),
        *("text", "bare", "garbage", "error", "stream", "event", "cut", "right"),
    ]
    found: dict[str, str] = {}
    said = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 5}
    for provider in ("env", "file", "vault", "down", "proxied", "badproxy"):
        for model in models:
            for stream in (False, True):
                body = json.dumps({**said, "model": f"{provider}/{model}", "stream": stream})
                found[f"{provider}/{model} {stream}"] = request(host, body.encode())
    route = json.dumps({**said, "model": "all"}).encode()
    found["route"] = request(host, route)
    found["no json"] = request(host, f'{{"model": "{PROMPT}'.encode())
    found["wrong type"] = request(host, json.dumps({**said, "model": "env/m",
                                                    "n": PROMPT}).encode())  # fmt: skip
    found["wrong key"] = request(host, route, Authorization=f"Bearer {WRONG}")
    found["two keys"] = request(host, route, x_api_key=WRONG)
    found["key in the query"] = request(host, route, f"{CHAT}?key={WRONG}")
    found["key in the path"] = request(host, route, f"/v1/{WRONG}")
    found["right key in the query"] = request(host, route, f"{CHAT}?key={KEY}", Authorization="-")
    found["key as model"] = request(host, json.dumps({**said, "model": KEY}).encode())
    return found


def on_disk(root: Path, but: frozenset[Path]) -> dict[str, str]:
    """Return every file below a folder, bytes as they stand: ledger, its log, history, state."""
    return {
        str(path.relative_to(root)): path.read_bytes().decode("latin-1")
        for path in root.rglob("*")
        if path.is_file() and path not in but
    }


def processes(pids: set[int]) -> dict[str, str]:
    """Return what every user may see of all processes, and the environment of those given."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found[f"{folder.name} command"] = (folder / "cmdline").read_bytes().decode("latin-1")
    for pid in pids:
        found[f"{pid} environment"] = Path(f"/proc/{pid}/environ").read_bytes().decode("latin-1")
    return found


def ledger_columns(home: Home) -> str:
    """Return every value of every table."""
    with contextlib.closing(sqlite3.connect(home.data / "ledger.db")) as db:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        return repr([db.execute(f"SELECT * FROM {table}").fetchall() for table in tables])  # noqa: S608


def workers(daemon: int) -> set[int]:
    """Return the children of a daemon."""
    tasks = Path(f"/proc/{daemon}/task").glob("*/children")
    return {int(pid) for task in tasks for pid in task.read_text().split()}


def commands(home: Home) -> dict[str, str]:
    """Return what the program says, in words and as JSON."""
    found = {}
    for line in COMMANDS:
        for json_too in ("", " --json"):
            done = home.tollway(*(line + json_too).split())
            assert done.returncode != 2, (line, done.stderr)  # no such command or option
            found[line + json_too] = f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return found


def broken_files(home: Home, good: str) -> dict[str, str]:
    """Return what is said of files that hold a secret where none may be; the good one is back."""
    found = {}
    for name, text in {
        "literal": good.replace('"env:CANARY"', f'"{LITERAL}"'),
        "unknown key": good.replace("[server]", f'[server]\n"{LITERAL}" = 1'),
        "unknown value": good.replace('log_level = "debug"', f'log_level = "{LITERAL}"'),
        "proxy": good.replace('http://127.0.0.1:1"', f'http://me:{LITERAL}@127.0.0.1:1"'),
        "no TOML": good.replace("[routes.all]", f'[routes.all]\nkey = "{LITERAL}'),
        "no hash": good.replace("sha256:", f"{LITERAL}"),
        "clear key": good.replace('hash = "sha256:', f'key = "{KEY}"\nhash = "sha256:'),
    }.items():
        assert text != good, name
        home.write(text)
        for line in ("config check", "reload", "status", "doctor", "config show"):
            done = home.tollway(*line.split())
            if line == "reload":
                assert done.returncode != 0, name
            # `show` prints the person's own file, as an editor would.
            found[f"{name}: {line}"] = "" if line == "config show" else done.stdout + done.stderr
    home.write(good)
    return found


def test_no_secret_and_no_text_of_a_call_is_anywhere_it_should_not_be(
    home: Home, echo: Echo
) -> None:
    """Answers, errors, log, ledger, history, state, processes and every command: then we look."""
    key_file = home.path / "key"
    key_file.write_text(BY_FILE)
    key_file.chmod(0o600)
    assert home.tollway("secrets", "backend", "vault").returncode == 0
    assert home.tollway("secrets", "set", "canary", stdin=BY_VAULT).returncode == 0
    good = config(echo.port, home.path)
    home.write(good)
    started = home.tollway("up", "--json")
    assert started.returncode == 0, started
    daemon = json.loads(started.stdout)
    host = daemon["url"].removeprefix("http://").removesuffix("/v1")

    answers = calls(host)
    sent = b"".join(echo.heads)
    assert all(secret.encode() in sent for secret in (BY_ENV, BY_FILE, BY_VAULT))
    assert KEY.encode() not in sent
    assert [place for place, said in answers.items() if said[:3] not in
            {"200", "400", "401", "404", "422", "429", "500", "502", "503"}] == []  # fmt: skip
    # What the client sent it may be told again; what the provider was sent, never, but in the
    # body of a right answer, whose bytes are passed on as they are.
    del answers["key as model"], answers["key in the path"]
    answered = ("route", "right key in the query")
    heads = {place: text.partition("\n\n")[0] if "/right" in place or place in answered else text
             for place, text in answers.items()}  # fmt: skip
    assert told(heads, SECRETS) == {}

    said = commands(home) | broken_files(home, good)
    assert home.tollway("reload").returncode == 0
    assert told(said, SECRETS) == {}
    own = frozenset({home.config, key_file})
    assert told(on_disk(home.path, own), (*SECRETS, *TEXTS)) == {}  # the write-ahead log, too
    seen = processes(set())
    assert told(seen, (*SECRETS, *TEXTS)) == {}
    assert home.tollway("down").returncode == 0
    columns = {"columns": ledger_columns(home)}
    assert told(columns, (*SECRETS, *TEXTS)) == {}
    assert told(on_disk(home.path, own), (*SECRETS, *TEXTS)) == {}


@pytest.mark.local
def test_the_worker_of_a_model_knows_no_secret(home: Home) -> None:
    """Neither its command nor its environment; and its log says nothing of what was asked."""
    home.write(
        config(1, home.path).replace("file:", "env:CANARY#").replace("keyring:canary", "env:CANARY")
        .replace(f"env:CANARY#{home.path}/key", "env:CANARY")
        + f'[models.smol]\ngguf = "{real_model()}"\nprice = "free"\ncontext = 2048\n'
    )  # fmt: skip
    started = home.tollway("up", "--json")
    assert started.returncode == 0, started
    daemon = json.loads(started.stdout)
    host = daemon["url"].removeprefix("http://").removesuffix("/v1")
    said = {"model": "local/smol", "max_tokens": 5,
            "messages": [{"role": "user", "content": PROMPT}]}  # fmt: skip
    assert request(host, json.dumps(said).encode()).startswith("200")
    children = workers(daemon["pid"])
    assert children
    assert told(processes(children), (*SECRETS, *TEXTS)) == {}
    bad = json.dumps({**said, "messages": [{"role": PROMPT, "content": [PROMPT]}]}).encode()
    request(host, bad)
    assert home.tollway("down").returncode == 0
    assert told(on_disk(home.path, frozenset({home.config})), (*SECRETS, *TEXTS)) == {}
