"""Errors become `error:` and `hint:` lines and an exit code, in one place."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.cli.boundary import UsageProblem, boundary, printable
from tollway.daemon.errors import BudgetSpent, ConfigError, DaemonUnreachable
from tollway.providers.errors import GatewayError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("gateway.toml:7: server.lisen: unknown key"), 2),
        (UsageProblem("No such thing"), 2),
        (DaemonUnreachable("No daemon"), 3),
        (BudgetSpent("The budget is spent"), 1),
    ],
)
def test_each_kind_of_error_has_its_exit_code(
    error: GatewayError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 ok, 1 the answer is no, 2 usage or configuration, 3 no daemon."""
    with pytest.raises(SystemExit) as ended, boundary():
        raise error
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err) == (code, "", f"error: {error.message}\n")


def test_every_line_of_a_message_is_an_error_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A file with three mistakes is three lines that grep finds."""
    with pytest.raises(SystemExit), boundary():
        raise ConfigError("gateway.toml:1: a\ngateway.toml:2: [providers.x]", hint="Mend it")
    assert capsys.readouterr().err.splitlines() == [
        "error: gateway.toml:1: a",
        "error: gateway.toml:2: [providers.x]",
        "hint: Mend it",
    ]


def test_a_word_that_is_no_text_is_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes of another encoding come as halves of characters, which nothing can send on."""
    with pytest.raises(SystemExit) as ended, boundary():
        "h\udcffi".encode()
    assert ended.value.code == 2
    assert "no text in UTF-8" in capsys.readouterr().err


def test_a_bug_is_one_line_and_a_traceback_only_with_debug(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A person sees what failed; whoever reports it can see where."""
    with pytest.raises(SystemExit) as ended, boundary():
        raise ZeroDivisionError("by zero")
    plain = capsys.readouterr().err
    assert ended.value.code == 1
    assert "Traceback" not in plain
    assert "ZeroDivisionError: by zero" in plain
    assert "--debug" in plain
    with pytest.raises(SystemExit), boundary(debug=True):
        raise ZeroDivisionError("by zero")
    assert "Traceback" in capsys.readouterr().err


def test_a_files_trouble_names_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    """What the system refuses is said with the path."""
    with pytest.raises(SystemExit), boundary(), open("/nowhere/at-all"):
        pass
    assert capsys.readouterr().err == "error: No such file or directory: `/nowhere/at-all`\n"


def test_ctrl_c_ends_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """130 is what shells expect of a program that Ctrl-C ended."""
    with pytest.raises(SystemExit) as ended, boundary():
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err.strip() == ""


@pytest.fixture
def closed_pipe() -> Iterator[int]:
    """Return a pipe's writing end whose reader has gone."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


def test_a_reader_that_leaves_is_no_error(closed_pipe: int) -> None:
    """`tollway ... | head` ends quietly."""
    ended = subprocess.run(
        [sys.executable, "-m", "tollway.cli", "--help"],
        stdout=closed_pipe,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (1, "")


@given(st.text())
def test_nothing_printed_can_act_on_a_terminal(text: str) -> None:
    """An escape sequence in a name or an upstream's message is shown, not obeyed."""
    assert printable(text).isprintable()
