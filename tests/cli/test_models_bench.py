"""`models bench`, and what is left of a model when its daemon ends: with the real program."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from program import Home

pytestmark = pytest.mark.whole

SERVER = Path(__file__).parent.parent / "command_server.py"
TOML = f"""[server]
listen = "127.0.0.1:0"
single_user = true
watch = false
drain = "5s"
[models.qwen]
command = "{sys.executable} {SERVER} ${{PORT}}"
slots = 3
price = {{ input = 1, output = 2 }}
"""
WITHIN_S = 60.0


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Return a home with a running daemon; whatever was started in it is stopped."""
    made = Home(tmp_path)
    made.write(TOML)
    up = made.tollway("up")
    assert up.returncode == 0, up.stderr
    yield made
    made.tollway("down", "--now")


def said(home: Home, *words: str) -> Any:
    """Return what a command prints as JSON."""
    done = home.tollway(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def until_gone(pid: int) -> None:
    """Return once a process group has ended."""
    give_up = time.monotonic() + WITHIN_S
    while time.monotonic() < give_up:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return
        os.sched_yield()
    raise AssertionError(f"the group {pid} is still there")


def test_bench_calls_through_the_gateway_and_its_calls_are_in_the_ledger(home: Home) -> None:
    """One caller, two, and as many as there are slots; each with its tokens and first tokens."""
    found = said(home, "models", "bench", "qwen", "--rounds", "1", "--tokens", "8")
    assert [level["callers"] for level in found["levels"]] == [1, 2, 3]
    for level in found["levels"]:
        assert (level["calls"], level["failed"]) == (level["callers"], 0)
        assert level["output_tokens"] == 3 * level["calls"]
        assert level["cost_nanousd"] == level["calls"] * (7 * 1000 + 3 * 2000)
        assert 0 <= level["first_p50_ms"] <= level["first_max_ms"]
        assert level["tokens_per_s"] > 0
    assert said(home, "spend")["total"]["calls"] == 6
    table = home.tollway("models", "bench", "qwen", "--callers", "2", "--rounds", "1").stdout
    assert table.split()[:2] == ["callers", "tokens/s"]
    wrong = home.tollway("models", "bench", "qwen", "--callers", "two")
    assert (wrong.returncode, "expected numbers" in wrong.stderr) == (2, True)


def test_nothing_of_a_model_outlives_its_daemon(home: Home) -> None:
    """Stopped by `down` or killed: the process group is gone."""
    loaded = said(home, "models", "load", "qwen")
    assert loaded["state"] == "ready"
    assert home.tollway("down").returncode == 0
    until_gone(loaded["pid"])
    assert home.tollway("up").returncode == 0
    loaded = said(home, "models", "load", "qwen")
    os.kill(said(home, "status")["pid"], signal.SIGKILL)
    until_gone(loaded["pid"])
