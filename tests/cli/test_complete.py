"""What Tab offers for values: names of gateway.toml, whatever state that is in."""

from collections.abc import Iterator

import pytest
from program import Home

GATEWAY = """[server]
listen = "127.0.0.1:0"
[providers.openai]
kind = "openai"
api_key = "keyring:first"
[routes.smart]
to = ["openai/gpt-5", "local/tiny"]
aliases = ["clever"]
[groups.builders]
models = ["*"]
[teams.ml]
[users.ada]
[users.alan]
[projects.bot]
[keys.ci]
user = "ada"
hash = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
[models.tiny]
gguf = "tiny.gguf"
price = "free"
[models.bare]
gguf = "bare.gguf"
[prices]
"openai/gpt-4o" = { input = 1, output = 2 }
"""
OFFERED = [
    ("users show a", {"ada", "alan"}),
    ("keys show ", {"ci"}),
    ("keys create new --user ad", {"ada"}),
    ("keys set ci --project ", {"bot"}),
    ("users set ada --team ", {"ml"}),
    ("users set ada --group bu", {"builders"}),
    ("providers test o", {"openai"}),
    ("providers add mine --kind openai-c", {"openai-compatible"}),
    ("models load ", {"tiny", "bare"}),
    ("routes explain --model ", {"smart", "clever", "openai/gpt-5", "local/tiny", "local/bare"}),
    ("routes explain --as ", {"ci"}),
    ("routes add new --to op", {"openai/gpt-5"}),
    ("chat sm", {"smart"}),
    ("logs --user al", {"alan"}),
    ("logs --state op", {"open"}),
    ("spend --by te", {"team"}),
    ("spend --by team,mo", {"team,model", "team,month"}),
    ("spend --since y", {"yesterday"}),
    ("spend --tz Europe/Berl", {"Europe/Berlin"}),
    ("spend --format ma", {"markdown"}),
    ("secrets remove ", {"first"}),
    ("budgets set te", {"team"}),
    ("budgets set team ", {"ml"}),
    ("prices set op", {"openai/gpt-5"}),
    ("prices unset ", {"openai/gpt-4o", "local/tiny"}),
    ("config rollback ", {"2", "1"}),
    ("config diff ", {"2", "1"}),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Yield a home with one of each, and a version in its history."""
    made = Home(tmp_path_factory.mktemp("complete"))
    made.write(GATEWAY)
    assert made.tollway("groups", "set", "builders", "--except", "x/*").returncode == 0
    yield made


def offered(home: Home, line: str, shell: str = "bash") -> set[str]:
    """Return what a shell is offered for a line's last word."""
    words = f"tollway {line}"
    said = home.tollway(
        _TOLLWAY_COMPLETE=f"complete_{shell}",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split()) - (not words.endswith(" "))),
        _TYPER_COMPLETE_ARGS=words,
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    assert said.stderr == ""
    return {one for one in said.stdout.splitlines() if one}


@pytest.mark.parametrize(("line", "wanted"), OFFERED, ids=[line for line, _ in OFFERED])
def test_values_are_offered(home: Home, line: str, wanted: set[str]) -> None:
    """Keys, users, teams, routes, models, providers, versions, and words that are fixed."""
    assert offered(home, line) == wanted


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_each_shell_is_offered_the_same(home: Home, shell: str) -> None:
    """In its own way of writing them."""
    said = "".join(offered(home, "users show a", shell))
    assert "ada" in said
    assert "alan" in said


def test_a_file_that_is_being_edited_still_has_its_headings(home: Home) -> None:
    """A broken line ends no completion; no file at all ends it without a word."""
    broken = Home(home.path / "broken")
    broken.path.mkdir()
    broken.write(GATEWAY + "[users.adele\n")
    assert offered(broken, "users show ad") == {"ada"}
    empty = Home(home.path / "empty")
    empty.path.mkdir()
    assert offered(empty, "users show ad") == set()
    assert offered(empty, "config rollback ") == set()
