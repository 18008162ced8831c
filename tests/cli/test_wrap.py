"""Lines and columns that fit a terminal, and characters that it has."""

import os
import pty
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.cli.wrap import Piece, ascii_json, cells, shares, wrapped

TEXT = st.text("ab `é中", max_size=80)


def plain(lines: list[list[Piece]]) -> list[str]:
    """Return lines without their colours."""
    return ["".join(piece.text for piece in line) for line in lines]


@given(
    parts=st.lists(st.tuples(TEXT, st.sampled_from(["", "31"])), max_size=4),
    width=st.integers(24, 60),
)
def test_no_line_is_wider_than_the_terminal(parts: list[tuple[str, str]], width: int) -> None:
    """Nothing is lost, changed or recoloured."""
    line = [Piece(text, colour) for text, colour in parts]
    lines = wrapped(line, width)
    text = "".join(piece.text for piece in line)
    assert "".join("".join(plain(lines)).split()) == "".join(text.split())
    assert all(cells(one) <= width for one in plain(lines))
    coloured = "".join(one.text for each in lines for one in each if one.colour)
    wanted = "".join(text for text, colour in parts if colour)
    assert "".join(coloured.split()) == "".join(wanted.split())


@given(words=st.lists(st.text("ab`é中", min_size=1, max_size=20), max_size=9))
def test_a_line_is_broken_at_blanks_alone_where_its_words_fit(words: list[str]) -> None:
    """So that what is copied is whole."""
    lines = wrapped([Piece(" ".join(words))], 60)
    assert " ".join(plain(lines)).split() == " ".join(words).split()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "config  /home/alexandra/projects/gateway/tollway.toml",
            ["config  /home/alexandra/", "  projects/gateway/tollway.toml"],
        ),
        ("x" * 40, ["x" * 32, "  " + "x" * 8]),
        (
            "hint: `pip install --extra-index-url https://a.test/b tollway` does",
            ["hint: `pip install", "  --extra-index-url", "  https://a.test/b tollway` does"],
        ),
    ],
)
def test_what_is_wider_than_a_line_is_broken_behind_a_mark(text: str, lines: list[str]) -> None:
    """A path between its folders, a command between its words, anything else where it must."""
    assert plain(wrapped([Piece(text)], 32)) == lines


def test_what_an_ascii_terminal_spells_out_is_counted_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is measured as it will stand there."""
    assert cells("José…") == 5
    monkeypatch.setenv("LC_ALL", "C")
    assert cells("José…") == len("Jos\\u00e9...")


def test_what_goes_on_is_set_in() -> None:
    """A reader sees which lines are one; a command in backticks stays whole."""
    told = [Piece("hint", "36"), Piece(": Take another road, or `tollway routes explain` one")]
    assert plain(wrapped(told, 32)) == [
        "hint: Take another road, or",
        "  `tollway routes explain` one",
    ]


def test_blanks_of_two_pieces_stay() -> None:
    """A word that is padded for its column keeps that where the line is broken behind it."""
    told = [Piece("ok   ", "32"), Piece(" python: a long way to where it is")]
    assert plain(wrapped(told, 30)) == ["ok    python: a long way to", "  where it is"]


@given(
    pairs=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=9),
    room=st.integers(20, 120),
)
def test_columns_share_the_room_there_is(pairs: list[tuple[int, int]], room: int) -> None:
    """Together never more than that, none wider than it needs, all of it where that fits."""
    needed = [max(pair) for pair in pairs]
    least = [min(pair) for pair in pairs]
    widths = shares(needed, least, room)
    assert sum(widths) <= room
    assert all(1 <= width <= need for width, need in zip(widths, needed, strict=True))
    if sum(needed) <= room:
        assert widths == needed
    elif sum(least) <= room:
        assert all(width >= most for width, most in zip(widths, least, strict=True))
        assert sum(widths) == room


def test_json_stays_what_it_says_in_ascii() -> None:
    """Beyond the first plane as the two halves that JSON has."""
    assert ascii_json('"é😀"') == '"\\u00e9\\ud83d\\ude00"'


def shown_on_a_terminal(code: str, **env: str) -> bytes:
    """Run code on a terminal of its own; return all that it wrote there."""
    ours, theirs = pty.openpty()
    env = {"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": "60", **env}
    program = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, env=env
    )
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 65536):
            said += piece
    except OSError:  # it has ended
        assert program.wait() == 0, said
    os.close(ours)
    return said


@pytest.mark.parametrize(("locale", "shown"), [("C", b"----"), ("C.UTF-8", "━━━━".encode())])
def test_bars_and_names_are_ascii_where_the_terminal_is(locale: str, shown: bytes) -> None:
    """LC_ALL=C is a terminal without lines and dots: Rich's bars are told of it."""
    code = (
        "from tollway.cli import show, wrap\n"
        "wrap.settle()\n"
        "with show.waiting('Looking'): pass\n"
        "with show.progress('Copying') as done: done(1, 2)\n"
        "show.say('José · 1…')\n"
    )
    said = shown_on_a_terminal(code, LC_ALL=locale)
    assert shown in said
    assert said.isascii() is (locale == "C")
    name = rb"Jos\u00e9 - 1..." if locale == "C" else "José · 1…".encode()
    assert name in said


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_what_takes_long_writes_no_escape_codes_where_none_are_wanted(env: dict[str, str]) -> None:
    """A spinner is nothing there, and a bar is a line now and then."""
    code = (
        "from tollway.cli import show\n"
        "with show.waiting('Looking'): pass\n"
        "with show.progress('Copying') as done: done(0, 2)\n"
        "show._TOLD_EVERY_S = 0\n"
        "with show.progress('Copying') as done: done(1, 2)\n"
    )
    assert shown_on_a_terminal(code, **env) == b"Copying: 50%\r\n"
