"""What people and programs read: amounts, tables, JSON."""

import json
import os
import pty
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.cli import show


@pytest.mark.parametrize(
    ("nanousd", "text"),
    [
        (None, "-"),
        (0, "$0.00"),
        (1, "$0.000000001"),
        (12_345, "$0.000012"),
        (4_200_000, "$0.0042"),
        (123_456_000, "$0.1235"),
        (150_000_000, "$0.15"),
        (12_500_000_000, "$12.50"),
        (1_234_567_890_123, "$1,234.57"),
        (-5_000_000, "-$0.005"),
    ],
)
def test_money_is_shown_as_people_write_it(nanousd: int | None, text: str) -> None:
    """Cents from a dollar up; below that as many places as the amount needs."""
    assert show.money(nanousd) == text


@given(st.integers(-(10**18), 10**18))
def test_money_shown_is_never_nothing_for_something(nanousd: int) -> None:
    """A cost is within half a per cent of a dollar, or two digits, of what is shown, and not $0."""
    shown = Decimal(show.money(nanousd).replace("$", "").replace(",", ""))
    exact = Decimal(nanousd) / 10**9
    assert (shown == 0) == (nanousd == 0)
    assert abs(shown - exact) <= max(Decimal("0.005") * (abs(exact) >= 1), abs(exact) / 20)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0"),
        (999, "999"),
        (12_345, "12.3k"),
        (999_999, "999k"),
        (4_560_000, "4.56M"),
    ],
)
def test_tokens_are_short(count: int | None, text: str) -> None:
    """Three digits tell what a person wants to know."""
    assert show.tokens(count) == text


def test_times_and_sizes_have_their_units() -> None:
    """Two units at most."""
    times = [show.duration(value) for value in (None, 0.35, 4.2, 42, 185, 3700, 190_000)]
    assert times == ["-", "350ms", "4.2s", "42s", "3m 05s", "1h 01m", "2d 4h"]
    assert show.age(100.0, now=112.0) == "12s ago"
    assert [show.size(count) for count in (None, 512, 1536, 2**30)] == [
        "-",
        "512 B",
        "1.5 KiB",
        "1 GiB",
    ]
    assert [show.percent(*share) for share in ((0, 9), (1, 900), (1, 3), (1, 0))] == [
        "0%",
        "<1%",
        "33%",
        "-",
    ]


@given(st.integers(-5, 10**12), st.integers(-5, 10**12), st.integers(1, 60))
def test_a_bar_never_leaves_its_width(part: int, whole: int, width: int) -> None:
    """Something shows as at least a sliver, nothing as nothing, all as the whole width."""
    drawn = show.bar(part, whole, width)
    assert len(drawn) <= width
    assert bool(drawn) == (part > 0 and whole > 0)


def test_a_piped_table_is_plain_and_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    """Away from a terminal: no boxes, no colour, one line a row, `-` for nothing."""
    show.table(
        ["name", show.Column("cost", number=True)],
        [["[bold]a", "$1.00"], ["b\x1b[31m", ""], [show.Painted("c", "red"), "$10.00"]],
    )
    assert capsys.readouterr().out == (
        "name         cost\n[bold]a     $1.00\nb\\x1b[31m       -\nc          $10.00\n"
    )


def on_a_terminal(code: str, **env: str) -> str:
    """Run code with a terminal of 60 columns as its stdout; return what it wrote."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", f"from tollway.cli import show\n{code}"],
        stdout=follower,
        stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "60", "TERM": "xterm", **env},
    ) as process:
        os.close(follower)
        written = b""
        try:
            while piece := os.read(leader, 65536):
                written += piece
        except OSError:
            # Linux's way to say that the other end has closed.
            pass
        finally:
            os.close(leader)
        assert process.stderr
        assert process.stderr.read() == b""
    return written.decode()


def test_a_terminal_of_sixty_columns_breaks_nothing() -> None:
    """Text folds and numbers stay whole; what looks like markup survives."""
    drawn = on_a_terminal(
        "show.table(['name', 'note', show.Column('cost', number=True)],"
        "[['[providers.x]', 'long ' * 30, '$1,234.57'], ['b', '', '-']])",
        NO_COLOR="1",
    )
    assert all(len(line) <= 60 for line in drawn.splitlines())
    assert "[providers.x]" in drawn
    assert "$1,234.57" in drawn


def test_colour_is_for_terminals_that_want_it() -> None:
    """NO_COLOR is obeyed; a pipe never gets colour."""
    code = (
        "show.say(show.Painted('x', 'red')); show.pairs([('a', [show.Painted('y', 'green'), 'z'])])"
    )
    assert "\x1b[31mx" in on_a_terminal(code, NO_COLOR="")
    assert "\x1b" not in on_a_terminal(code, NO_COLOR="1")


def test_the_home_folder_is_short_at_a_terminal_alone(tmp_path: Path) -> None:
    """A program that reads a path cannot be asked to know whose `~` it is."""
    code = "show.say(show.place('/home/ann/a.toml')); show.say(show.place('/home/anna/a.toml'))"
    assert on_a_terminal(code, HOME="/home/ann").split() == ["~/a.toml", "/home/anna/a.toml"]
    piped = subprocess.run(
        [sys.executable, "-c", f"from tollway.cli import show\n{code}"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HOME": "/home/ann"},
    )
    assert piped.stdout.split() == ["/home/ann/a.toml", "/home/anna/a.toml"]


def test_json_has_stable_names_and_plain_values(capsys: pytest.CaptureFixture[str]) -> None:
    """Structs keep their field names; paths and amounts are values that JSON has."""

    class Found(msgspec.Struct):
        path: Path
        cost_nanousd: int
        price: Decimal

    show.emit([Found(Path("/a"), 5, Decimal("0.10"))])
    assert json.loads(capsys.readouterr().out) == [
        {"path": "/a", "cost_nanousd": 5, "price": "0.10"}
    ]


def test_a_block_aligns_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    """Names to the left, values in one column, further lines under the first."""
    show.pairs([("pid", "12"), ("problems", "one\ntwo"), ("config", "")])
    assert capsys.readouterr().out == "pid       12\nproblems  one\n          two\nconfig    -\n"
