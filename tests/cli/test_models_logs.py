"""`models logs`: the words of a model's own process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from program import Home

from tollway.providers.llamacpp.worker import LOG_BYTES

FILE = """[server]
listen = "127.0.0.1:0"
[models.qwen]
command = "server --port ${PORT}"
[models."a+b"]
command = "server --port ${PORT}"
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return a home with two models, the first of which has been loaded."""
    made = Home(tmp_path)
    made.write(FILE)
    made.data.mkdir(parents=True, mode=0o700)
    (made.data / "model-qwen.log").write_text("one\ntwo \x1b[31mred\nthree\n")
    return made


def test_the_last_lines_are_shown_and_nothing_in_them_acts_on_a_terminal(home: Home) -> None:
    """By the model's name, or as callers have it."""
    for name in ("qwen", "local/qwen"):
        done = home.tollway("models", "logs", name, "-n", "2")
        assert (done.returncode, done.stdout) == (0, "two \\x1b[31mred\nthree\n")
    said = json.loads(home.tollway("models", "logs", "qwen", "--json").stdout)
    assert said["lines"] == ["one", "two \x1b[31mred", "three"]
    assert said["path"].endswith("model-qwen.log")


def test_a_last_line_without_an_end_counts_as_one(home: Home) -> None:
    """A process that died in the middle of a line has often said most there."""
    with (home.data / "model-qwen.log").open("a") as file:
        file.write("four")
    for number, wanted in (("0", ""), ("1", "four\n"), ("2", "three\nfour\n")):
        assert home.tollway("models", "logs", "qwen", "-n", number).stdout == wanted
    said = json.loads(home.tollway("models", "logs", "qwen", "-n", "1", "--json").stdout)
    assert said["lines"] == ["four"]


def test_a_file_that_takes_no_more_says_so(home: Home) -> None:
    """Else its last line is taken for the last that the process wrote."""
    assert "not kept" not in home.tollway("models", "logs", "qwen").stderr
    (home.data / "model-qwen.log").write_bytes(b"a line\n".ljust(LOG_BYTES, b"."))
    assert "what it wrote later was not kept" in home.tollway("models", "logs", "qwen").stderr


def test_what_was_never_loaded_and_what_there_is_not_say_so(home: Home) -> None:
    """The one is no fault, the other a name that was typed wrong."""
    fresh = home.tollway("models", "logs", "a+b")
    assert (fresh.returncode, fresh.stdout) == (0, "")
    assert "has not been loaded yet" in fresh.stderr
    wrong = home.tollway("models", "logs", "qwne")
    assert wrong.returncode == 1
    assert "Did you mean qwen?" in wrong.stderr
    assert home.tollway("models", "logs", "qwen", "-f", "--json").returncode == 2


def test_it_goes_on_as_the_process_writes_and_over_the_next_load(home: Home) -> None:
    """A load begins the file anew and keeps the one before it under another name."""
    log = home.data / "model-qwen.log"
    following = subprocess.Popen(
        [sys.executable, "-m", "tollway.cli", "models", "logs", "qwen", "-f", "-n", "1"],
        env=home.env, cwd=home.path, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert following.stdout is not None
    with following:
        assert following.stdout.readline() == "three\n"
        with log.open("a") as file:
            file.write("fo")
            file.flush()
            file.write("ur\n")
        assert following.stdout.readline() == "four\n"
        log.replace(log.with_suffix(".log.1"))
        log.write_text("again\n")
        assert following.stdout.readline() == "again\n"
        following.terminate()
