"""Rate limits from the command line: written, changed, shown with what is left of them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import Home

from tollway.daemon.config.load import load
from tollway.daemon.config.schema import Config, Limits

pytestmark = pytest.mark.whole

SERVER = """[server]
listen = "127.0.0.1:0"
watch = false
drain = "5s"
[groups.all]
models = ["*"]
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:9/v1"
limits = { rpm = 7 }
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Return a home with a gateway; whatever was started in it is stopped."""
    made = Home(tmp_path)
    made.write(SERVER)
    yield made
    made.tollway("down", "--now")


def done(home: Home, *words: str) -> Config:
    """Run a command that must succeed; return the file as it is then."""
    ended = home.tollway(*words)
    assert ended.returncode == 0, ended.stderr
    return load(home.config)


def test_limits_are_made_changed_and_removed_by_options(home: Home) -> None:
    """What is named changes, the rest stays; the file gets one line that a person can read."""
    words = ("--rpm", "600", "--tpm", "2000000", "--concurrent", "20")
    made = done(home, "teams", "create", "ml", "--group", "all", *words)
    assert made.teams["ml"].limits == Limits(rpm=600, tpm=2_000_000, concurrent=20)
    assert "limits = {rpm = 600, tpm = 2000000, concurrent = 20}" in home.config.read_text()
    made = done(home, "users", "create", "ada", "--team", "ml", "--rpd", "1000")
    assert made.users["ada"].limits == Limits(rpd=1000)
    made = done(home, "keys", "create", "ci", "--user", "ada", "--rpm", "60")
    assert made.keys["ci"].limits == Limits(rpm=60)
    made = done(home, "teams", "set", "ml", "--rpm", "300", "--rpd", "9")
    assert made.teams["ml"].limits == Limits(rpm=300, tpm=2_000_000, rpd=9, concurrent=20)
    made = done(home, "teams", "set", "ml", "--no-limits")
    assert made.teams["ml"].limits == Limits()
    assert made.teams["ml"].groups == ("all",)
    ended = home.tollway("users", "set", "ada", "--rpm", "3", "--no-limits")
    assert (ended.returncode, load(home.config).users["ada"].limits) == (2, Limits(rpd=1000))
    assert home.tollway("projects", "create", "bot", "--rpm", "0").returncode == 2


def test_what_is_left_is_shown_while_the_daemon_runs(home: Home) -> None:
    """`show` and `explain` say what a caller has left; without a daemon, what the file says."""
    done(home, "teams", "create", "ml", "--group", "all")
    done(home, "users", "create", "ada", "--team", "ml", "--rpm", "60", "--concurrent", "2")
    done(home, "keys", "create", "ci", "--user", "ada", "--tpm", "5000")
    shown = home.tollway("users", "show", "ada").stdout
    assert "60 calls a minute\n" in shown
    assert "2 calls at once" in shown
    home.tollway("up")
    assert "60 calls a minute: 60 left\n" in home.tollway("users", "show", "ada").stdout
    assert "5,000 tokens a minute: 5,000 left\n" in home.tollway("keys", "show", "ci").stdout
    said = json.loads(home.tollway("keys", "show", "ci", "--json").stdout)["limits"]
    assert [(one["limit"], one["most"], one["left"]) for one in said] == [("tpm", 5000, 5000)]
    ended = home.tollway("routes", "explain", "--model", "up/m", "--as", "ci", "--output", "10")
    assert ended.returncode == 0
    lines = [line.split()[:5] for line in ended.stdout.splitlines()]
    assert ["key", "ci", "tpm", "5,000", "5,000"] in lines
    assert ["user", "ada", "concurrent", "2", "2"] in lines
    assert ["provider", "up", "rpm", "7", "7"] in lines
    words = ("--model", "up/m", "--as", "ci", "--tokens", "6000", "--output", "10")
    ended = home.tollway("routes", "explain", *words)
    assert ended.returncode == 1
    assert "more than key `ci` may ever use in a minute: 5,000" in ended.stdout
