"""Exit codes as scripts read them: 0 done, 1 the answer is no, 2 usage or file, 3 no daemon."""

from pathlib import Path

import pytest
from program import Home

GATEWAY = """[server]
listen = "127.0.0.1:0"
single_user = true
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:9/v1"
[routes.smart]
to = ["up/large"]
[models.tiny]
gguf = "tiny.gguf"
"""
NEEDS_A_DAEMON = (
    "status", "status --json", "reload", "top --once", "top --json", "models ps",
    "models load tiny", "models unload tiny", "models bench tiny", "routes explain smart",
    "routes test smart --yes", "chat smart hello", "usage --key tw-x",
    "usage --key tw-x --url http://127.0.0.1:9",
)  # fmt: skip
NEEDS_NONE = (
    "config check", "config show", "config history", "config audit",
    "config export", "keys list", "teams list", "users list", "projects list", "groups list",
    "budgets list", "providers list", "models list", "routes list", "spend", "logs", "down",
    "prices list gpt-5*", "secrets backend", "ledger verify",
)  # fmt: skip
THE_ANSWER_IS_NO = (
    "keys show x", "teams show x", "users show x", "projects show x", "groups show x",
    "providers remove x", "models remove x", "routes remove x", "providers test up",
    "secrets remove x", "logs 0123", "prices check", "doctor --offline",
)  # fmt: skip
WRONG_FILE = (
    "config check", "keys list", "up", "serve", "reload", "restart", "spend", "logs",
    "budgets list", "keys create x", "run -- true", "chat smart hello", "prices check",
)  # fmt: skip
WRONGLY_CALLED = (
    "nothing", "keys nothing", "keys", "status --nothing", "keys show", "spend --by nothing",
    "spend --format nothing", "spend --since nothing", "logs --state nothing", "top --every x",
    "routes explain", "routes explain a --model b", "users create ada --team=",
    "run", "run -- nothing-of-this-name", "config rollback x", "ledger settle x",
    "budgets set team", "init --at nothing=1", "import nothing",
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Return a home with a good file, where no daemon runs."""
    made = Home(tmp_path_factory.mktemp("codes"))
    made.write(GATEWAY)
    wrong = made.path / "wrong/gateway.toml"
    wrong.parent.mkdir()
    wrong.write_text(f"{GATEWAY}[servers]\n")
    return made


@pytest.mark.parametrize("line", NEEDS_A_DAEMON)
def test_without_a_daemon_it_is_3(home: Home, line: str) -> None:
    """With what starts one, or where else one may be."""
    ended = home.tollway(*line.split())
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert ended.stdout == ""
    assert "hint: " in ended.stderr


@pytest.mark.parametrize("line", NEEDS_NONE)
def test_what_reads_files_needs_no_daemon(home: Home, line: str) -> None:
    """What can be said without one is said."""
    ended = home.tollway(*line.split())
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "error: " not in ended.stderr


@pytest.mark.parametrize("line", THE_ANSWER_IS_NO)
def test_no_is_1(home: Home, line: str) -> None:
    """What was asked for is not there, or not right."""
    ended = home.tollway(*line.split())
    assert ended.returncode == 1, ended.stdout + ended.stderr


@pytest.mark.parametrize("line", WRONG_FILE)
def test_a_wrong_file_is_2(home: Home, line: str) -> None:
    """With its line, whoever reads it."""
    ended = home.tollway(*line.split(), TOLLWAY_CONFIG=str(home.path / "wrong/gateway.toml"))
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "gateway.toml:11: " in ended.stdout + ended.stderr


def test_no_file_is_2(tmp_path: Path) -> None:
    """With what writes one."""
    ended = Home(tmp_path).tollway("status")
    assert ended.returncode == 2
    assert "`tollway init`" in ended.stderr


@pytest.mark.parametrize("line", WRONGLY_CALLED)
def test_a_call_that_cannot_be_is_2(home: Home, line: str) -> None:
    """Before anything is done."""
    ended = home.tollway(*line.split())
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert ended.stdout == ""
