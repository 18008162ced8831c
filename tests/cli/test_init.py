"""`init`: what is found is what is written, and a key never is."""

import json
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from program import Home

from tollway.cli.discover import (
    PROVIDER_KEYS,
    SERVER_PORTS,
    LocalServer,
    ModelFile,
    provider_keys,
)
from tollway.cli.init import Choices, Found, document
from tollway.daemon.config.load import load, parse

CANARY = "gsk_CANARYcanaryCANARYcanary42"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return a home on a box without a keyring, with one GGUF file."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "Tiny-Q8_0.gguf").write_bytes(b"GGUF\x03\0\0\0")
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


def test_yes_stores_keys_where_a_store_was_chosen(home: Home) -> None:
    """The vault was chosen openly before; then it is used."""
    home.tollway("secrets", "backend", "vault")
    home.tollway("init", "--yes", GROQ_API_KEY=CANARY)
    assert load(home.config).providers["groq"].api_key == "keyring:groq"
    assert "keyring:groq" in home.tollway("secrets", "list").stdout
    assert CANARY not in home.config.read_text()


def test_answers_decide(home: Home) -> None:
    """At most four questions, asked on stderr; here the vault, and that others need keys."""
    ended = home.tollway("init", stdin="y\n" * 4, GROQ_API_KEY=CANARY)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("?") <= 4
    assert "This system has no keyring" in ended.stderr
    assert "?" not in ended.stdout
    config = load(home.config)
    assert not config.server.single_user
    assert config.providers["groq"].api_key == "keyring:groq"


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


def test_nobody_to_ask_is_a_usage_error(home: Home) -> None:
    """A script without --yes is told so, and nothing is written."""
    ended = home.tollway("init", GROQ_API_KEY=CANARY)
    assert ended.returncode == 2
    assert "`tollway init --yes` asks nothing" in ended.stderr
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
