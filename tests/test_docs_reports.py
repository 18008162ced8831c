"""The page on reports: every command in it runs, and every setting is one."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import spend_year
from program import Home

from tollway.daemon.config.load import parse
from tollway.daemon.ledger.spend import TAG, By

TEXT = (Path(__file__).parent.parent / "docs/reports.md").read_text()
WIRE = Path(__file__).parent / "wire/agents"


def blocks(language: str) -> list[str]:
    """Return the page's blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Return a home with the page's settings, a year of calls until now, and an agent's log."""
    made = Home(tmp_path_factory.mktemp("docs"))
    (settings,) = blocks("toml")
    made.write(settings)
    made.data.mkdir(parents=True, mode=0o700)
    now_ms = time.time_ns() // 1_000_000
    # The last of them now: "today" and "month" have something to show at any time.
    *_, last = spend_year.calls(800)
    begin_ms = spend_year.BEGIN_MS + now_ms - 1000 - last.at_ms
    spend_year.write(made.data / "ledger.db", 800, begin_ms=begin_ms)
    logs = made.path / ".claude/projects/work"
    logs.mkdir(parents=True)
    shutil.copy(WIRE / "claude-code-2.1.197.jsonl", logs)
    return made


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_page_runs(home: Home, line: str) -> None:
    """As it stands, redirections included: it ends well and says something."""
    words, _, file = line.partition(" > ")
    program, *rest = shlex.split(words)
    assert program == "tollway"
    ended = home.tollway(*rest)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout
    if file:
        path = home.path / file
        path.write_text(ended.stdout)
        assert path.suffix in {".html", ".csv"}
    if "--json" in rest:
        json.loads(ended.stdout)


def test_the_settings_of_the_page_are_right(tmp_path: Path) -> None:
    """Without a fault and without a doubt."""
    (settings,) = blocks("toml")
    assert parse(settings, path=tmp_path / "gateway.toml").warnings == ()


def test_the_page_names_every_dimension() -> None:
    """One that is not named is not found."""
    row = next(line for line in TEXT.splitlines() if line.startswith("| `--by` |"))
    assert set(re.findall(r"`([a-z:A-Z]+)`", row)) == {*By, f"{TAG}NAME"}


def test_a_page_without_pygal_says_what_to_install(home: Home) -> None:
    """The extra is named; the other forms need nothing."""
    blocked = (
        "import sys; sys.modules['pygal'] = None; sys.argv = ['tollway', 'spend', '--format',"
        " 'html']; from tollway.cli.app import main; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", blocked],
        capture_output=True,
        text=True,
        check=False,
        env=home.env,
        cwd=home.path,
    )
    assert ended.returncode == 2
    assert "pip install 'tollway[reports]'" in ended.stderr
