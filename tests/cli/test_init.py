"""`init`: what is found is what is written, and a key never is."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import tomli_w
from gguf_files import llama_gguf
from hypothesis import given
from hypothesis import strategies as st
from one_answer import OneAnswer
from program import Home

from tollway.cli.discover import (
    PROVIDER_KEYS,
    SERVER_PORTS,
    LocalServer,
    ModelFile,
    provider_keys,
    server_ports,
)
from tollway.cli.init import Choices, Found, document
from tollway.daemon.config.load import load, parse

RING = """
import json, os, pathlib
from keyring.backend import KeyringBackend
PLACE = pathlib.Path(os.environ["RING"])
class Ring(KeyringBackend):
    priority = 1
    def _read(self):
        return json.loads(PLACE.read_text()) if PLACE.exists() else {}
    def get_password(self, service, name):
        return self._read().get(f"{service} {name}")
    def set_password(self, service, name, value):
        PLACE.write_text(json.dumps(self._read() | {f"{service} {name}": value}))
    def delete_password(self, service, name):
        kept = self._read()
        del kept[f"{service} {name}"]
        PLACE.write_text(json.dumps(kept))
"""
CANARY = "gsk_CANARYcanaryCANARYcanary42"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return a home on a box without a keyring, with one GGUF file."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "Tiny-Q8_0.gguf").write_bytes(llama_gguf())
    return Home(tmp_path)


def test_yes_asks_nothing_and_writes_a_file_that_is_right(home: Home) -> None:
    """For scripts: keys are named by their variables where no keyring works."""
    ended = home.tollway("init", "--yes", "--json", GROQ_API_KEY=CANARY)
    assert ended.returncode == 0, ended.stderr
    done = json.loads(ended.stdout)
    assert done["path"] == str(home.config)
    assert done["providers"]["groq"] == "env:GROQ_API_KEY"
    assert done["next"] == "tollway up"
    config = load(home.config)
    assert config.server.single_user
    assert config.providers["groq"].api_key == "env:GROQ_API_KEY"
    assert home.config.stat().st_mode & 0o777 == 0o600
    assert CANARY not in home.config.read_text() + ended.stderr + ended.stdout


def test_a_file_that_is_cut_short_is_left_out_and_said_to_be(home: Home) -> None:
    """A download that broke off: the daemon could not load it, the person can fetch it again."""
    (home.path / "models/Half-Q8_0.gguf").write_bytes(llama_gguf()[:-100])
    ended = home.tollway("init", "--yes")
    assert ended.returncode == 0, ended.stderr
    assert "half" not in load(home.config).models
    assert "warning: Left out: `Half-Q8_0.gguf` is cut short: 100 of " in ended.stderr
    home.config.unlink()
    done = json.loads(home.tollway("init", "--yes", "--json").stdout)
    assert [line.partition(" is ")[0] for line in done["skipped"]] == ["`Half-Q8_0.gguf`"]


def test_yes_stores_keys_where_a_store_was_chosen(home: Home) -> None:
    """The vault was chosen openly before; then it is used."""
    home.tollway("secrets", "backend", "vault")
    home.tollway("init", "--yes", GROQ_API_KEY=CANARY)
    assert load(home.config).providers["groq"].api_key == "keyring:groq"
    assert "keyring:groq" in home.tollway("secrets", "list").stdout
    assert CANARY not in home.config.read_text()


def test_answers_decide(home: Home) -> None:
    """At most four questions; here the vault, and that others need keys."""
    ended = home.on_terminal(
        "init", typed="y\n" * 4, columns=200, NO_COLOR="1", GROQ_API_KEY=CANARY
    )
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.count("?") <= 4
    assert "This system has no keyring" in ended.stdout
    config = load(home.config)
    assert not config.server.single_user
    assert config.providers["groq"].api_key == "keyring:groq"


def test_a_question_is_not_broken_inside_a_word(home: Home) -> None:
    """It is as long as what was found; the terminal alone would break it anywhere."""
    ended = home.on_terminal("init", typed="y\n" * 4, columns=60, NO_COLOR="1", GROQ_API_KEY=CANARY)
    asked, *_ = ended.stdout.replace("\r", "").partition("? [Y/n] ")
    lines = asked.splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= 60
    assert "encrypted file" in " ".join(line.strip() for line in lines)


def served(*owners: str) -> bytes:
    """Return a list of models, owned by these."""
    models = [{"id": f"m{at}", "object": "model", "owned_by": one} for at, one in enumerate(owners)]
    return json.dumps({"object": "list", "data": models}).encode()


@pytest.fixture
def servers() -> Iterator[dict[str, int]]:
    """Yield the ports of all the servers that are looked for."""
    owners = {
        "ollama": "library", "vllm": "vllm", "sglang": "sglang", "lmstudio": "organization_owner",
        "llama-server": "llamacpp",
    }  # fmt: skip
    running = {kind: OneAnswer(200, served(owner)) for kind, owner in owners.items()}
    assert set(running) == set(SERVER_PORTS.values())
    yield {kind: one.port for kind, one in running.items()}
    for one in running.values():
        one.close()


def fill(home: Home) -> dict[str, str]:
    """Make a GPU's driver and a keyring; return the environment that has them and two keys."""
    driver = home.path / "bin/nvidia-smi"
    driver.parent.mkdir()
    driver.write_text("#!/bin/sh\necho 'NVIDIA L4, 23034'\n")
    driver.chmod(0o755)
    (home.path / "filering.py").write_text(RING)
    return {
        "PATH": f"{driver.parent}:{home.env['PATH']}", "PYTHONPATH": str(home.path),
        "PYTHON_KEYRING_BACKEND": "filering.Ring", "RING": str(home.path / "ring.json"),
        "OPENAI_API_KEY": CANARY, "GROQ_API_KEY": CANARY,
    }  # fmt: skip


def test_a_full_home_is_four_questions_and_a_file_that_is_right(
    home: Home, servers: dict[str, int]
) -> None:
    """Keys into the keyring, every server, the GGUF file, the GPU; then the next command."""
    env = fill(home)
    words = [word for kind, port in servers.items() for word in ("--at", f"{kind}={port}")]
    ended = home.on_terminal("init", *words, typed="\n" * 4, columns=200, NO_COLOR="1", **env)
    assert ended.returncode == 0, ended.stdout
    llama = find_spec("llama_cpp") is not None
    assert ended.stdout.count("?") == 3 + llama
    assert "Copy OPENAI_API_KEY, GROQ_API_KEY into this system's keyring?" in ended.stdout
    assert "next: tollway up" in ended.stdout
    assert "NVIDIA L4" in ended.stdout
    config = load(home.config)
    assert {name: one.base_url for name, one in config.providers.items() if one.base_url} == {
        kind: f"http://127.0.0.1:{port}/v1" for kind, port in servers.items()
    }
    assert [config.providers[kind].api_key for kind in ("openai", "groq")] == [
        "keyring:openai", "keyring:groq",
    ]  # fmt: skip
    assert list(config.models) == (["tiny"] if llama else [])
    assert (home.path / "ring.json").read_text().count(CANARY) == 2
    assert CANARY not in home.config.read_text() + ended.stdout
    checked = home.tollway("config", "check", stdin="", fresh=True, **env)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_an_empty_home_is_one_question_and_a_file_that_is_right(tmp_path: Path) -> None:
    """Whether others will use it; then it says how to bring a model."""
    home = Home(tmp_path)
    kinds = enumerate(SERVER_PORTS.values(), start=1)  # ports that nobody listens at
    closed = [word for port, kind in kinds for word in ("--at", f"{kind}={port}")]
    home.env["PATH"] = "/nowhere"
    ended = home.on_terminal("init", *closed, typed="\n", columns=200, NO_COLOR="1")
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.count("?") == 1
    assert "next: tollway models add PATH.gguf" in ended.stdout
    assert "or: tollway providers add NAME --kind KIND" in ended.stdout
    assert "Nothing lists its models at 127.0.0.1:1" in ended.stdout
    checked = home.tollway("config", "check")
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("vlm=8001", "did you mean vllm?"),
        ("vllm", "names no port"),
        ("vllm=70000", "names no port"),
    ],
)
def test_a_place_that_cannot_be_is_refused(home: Home, said: str, words: str) -> None:
    """Before anything is looked for or written."""
    ended = home.tollway("init", "--yes", "--at", said)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert not home.config.exists()


@pytest.mark.parametrize(
    ("host", "port"),
    [("127.0.0.1:11500", 11500), ("http://localhost:11500", 11500), (":11500", 11500),
     ("0.0.0.0:11500", 11500), ("box2:11500", 11434), ("", 11434), ("127.0.0.1", 11434)],
)  # fmt: skip
def test_ollama_is_looked_for_where_its_own_variable_says(host: str, port: int) -> None:
    """On this box alone; what is said on the command line wins."""
    found = server_ports({}, {"OLLAMA_HOST": host})
    assert [at for at, kind in found.items() if kind == "ollama"] == [port]
    said = server_ports({9000: "ollama"}, {"OLLAMA_HOST": host})
    assert [at for at, kind in said.items() if kind == "ollama"] == [9000]
    assert set(found.values()) == set(said.values()) == set(SERVER_PORTS.values())


def test_a_budget_shortens_answers_before_it_refuses(home: Home) -> None:
    """`--budget` writes what people want of a first budget; a wrong one is a usage error."""
    wrong = home.tollway("init", "--yes", "--budget", "20/mont")
    assert wrong.returncode == 2
    assert "did you mean month?" in wrong.stderr
    assert not home.config.exists()
    ended = home.tollway("init", "--yes", "--budget", "20/month", GROQ_API_KEY=CANARY)
    assert ended.returncode == 0, ended.stderr
    (budget,) = load(home.config).server.budget
    assert (budget.text, budget.at) == ("20/month", "clamp")


@pytest.mark.parametrize("stdin", ["", "y\n" * 4])
def test_without_a_terminal_nothing_is_asked(home: Home, stdin: str) -> None:
    """The error says what would be asked and which options answer it; nothing is written."""
    ended = home.tollway("init", stdin=stdin, GROQ_API_KEY=CANARY)
    assert ended.returncode == 2
    error, hint = ended.stderr.splitlines()
    assert error.startswith("error: There is no terminal to ask at: ")
    assert error.endswith("?")
    assert hint.startswith("hint: `tollway init --yes` asks nothing")
    assert "`--keys`" in hint
    assert not home.config.exists()


def test_a_file_that_is_there_stays_without_force(home: Home) -> None:
    """With --force it is kept under another name."""
    home.write("# mine\n")
    refused = home.tollway("init", "--yes")
    assert refused.returncode == 2
    assert home.config.read_text() == "# mine\n"
    forced = json.loads(home.tollway("init", "--yes", "--force", "--json").stdout)
    assert Path(forced["replaced"]).read_text() == "# mine\n"
    assert load(home.config).server.single_user


def test_the_place_can_be_chosen(home: Home) -> None:
    """By the option or the variable; the next command says it again."""
    one = json.loads(
        home.tollway("init", "--yes", "--json", "--keys", "--config", "a b/g.toml").stdout
    )
    assert one["path"] == str(home.path / "a b/g.toml")
    assert f"--config '{one['path']}'" in one["next"]
    assert not load(Path(one["path"])).server.single_user
    two = home.tollway("init", "--yes", "--json", TOLLWAY_CONFIG=str(home.path / "h.toml"))
    assert json.loads(two.stdout)["path"] == str(home.path / "h.toml")


@given(
    variables=st.sets(st.sampled_from(sorted(PROVIDER_KEYS))),
    kinds=st.lists(st.sampled_from(sorted(SERVER_PORTS.values())), max_size=4),
    names=st.sets(st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True), max_size=3),
    bits=st.lists(st.booleans(), min_size=3, max_size=3),
    budgets=st.sampled_from([(), ("20/month",), ("0.5/day", "5/24h")]),
)
def test_whatever_is_found_makes_a_valid_file(
    variables: set[str],
    kinds: list[str],
    names: set[str],
    bits: list[bool],
    budgets: tuple[str, ...],
) -> None:
    """Two servers of one kind have two names; the daemon's own reading accepts every mix."""
    servers = [
        LocalServer(kind, f"http://127.0.0.1:{port}/v1", ("m",))
        for port, kind in enumerate(kinds, start=8000)
    ]
    models = [ModelFile(name[:60], Path(f"/models/{name}.gguf"), 1) for name in sorted(names)]
    found = Found(
        keys=provider_keys(dict.fromkeys(variables, "a key")),
        servers=servers,
        models=models,
        gpus=[],
        llama_cpp=True,
    )
    chosen = Choices(move="no", servers=bits[0], models=bits[1], keys=bits[2], budgets=budgets)
    references = {kind: f"env:{name}" for name, kind in found.keys.items()}
    text = tomli_w.dumps(document(found, chosen, references))
    config = parse(text, path=Path("gateway.toml"))
    assert len(config.providers) == len(found.keys) + (len(servers) if bits[0] else 0)
    assert len(config.models) == (len({one.name for one in models}) if bits[1] else 0)
    assert config.server.single_user is not bits[2]
    assert tuple(one.text for one in config.server.budget) == budgets
    assert all(one.at == "clamp" for one in config.server.budget)
    if budgets:  # nothing that is found may then be refused for want of a price
        assert all(one.price == "free" for one in config.models.values())
        assert len(config.prices) == (len(servers) if bits[0] else 0)
