"""Halves of characters in JSON are mended, and nothing else is."""

import json
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.providers import events as ev
from tollway.providers.canon import Usage
from tollway.providers.halves import Halves, with_signs, without_halves


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (rb'"a \ud83d\ude00 b"', "a 😀 b"),
        (rb'"a \uD83D b"', "a � b"),
        (rb'"\ude00 b"', "� b"),
        (rb'"\ud83d\ud83d\ude00"', "�😀"),
        (rb'"\ude00\ud83d"', "��"),
        (rb'"\ud83dx\ude00"', "�x�"),
        (rb'"\\ud83d"', r"\ud83d"),
        (rb'"\\\ud83d"', "\\�"),
        (rb'"\ud55c\ud7a3"', "한힣"),
        (b'"caf\xe9"', "caf�"),
        (b'"caf\xc3\xa9"', "café"),
    ],
)
def test_what_is_no_whole_character_is_marked(said: bytes, read: str) -> None:
    """What is one stays, as does an escape that is itself escaped."""
    assert msgspec.json.decode(without_halves(said)) == read


@given(st.recursive(st.text(st.characters()), st.lists), st.booleans())
def test_any_text_that_another_parser_reads_can_be_read(said: object, ascii_only: bool) -> None:
    """Lone halves included; and what has none is not touched."""
    text = json.dumps(said, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    msgspec.json.decode(without_halves(text))
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    assert without_halves(text) == text


FACE = "\N{GRINNING FACE}"
FIRST, OTHER = rb"\ud83d", rb"\uDE00"


def _sign(half: bytes) -> str:
    said: str = msgspec.json.decode(with_signs(b'"' + half + b'"'))
    return said


def _put_together(said: Sequence[ev.Event]) -> list[ev.Event]:
    halves = Halves()
    return [*(each for one in said for each in halves.event(one)), *halves.end()]


@pytest.mark.parametrize("kind", [ev.TextDelta, ev.ThinkingDelta, ev.RefusalDelta, ev.ToolDelta])
def test_the_other_half_comes_with_the_next_piece(kind: type) -> None:
    """Of whatever kind the text is; likelihoods and counts between the two are no end of it."""
    weighed = ev.LogprobsDelta((ev.Logprob("x", -1.0),))
    cut = [kind("a" + _sign(FIRST)), weighed, ev.UsageReport(Usage()), kind(_sign(OTHER) + "b")]
    assert _put_together(cut) == [kind("a"), weighed, ev.UsageReport(Usage()), kind(FACE + "b")]


@pytest.mark.parametrize(
    "then",
    [ev.PartEnd(), ev.Stopped("end"), ev.ToolStart("1", "f"), ev.ThinkingDelta("no"), None],
)
def test_a_half_that_stays_alone_is_marked_once(then: ev.Event | None) -> None:
    """At the end of its text, wherever that is."""
    rest = [then] if then else []
    said = [ev.TextDelta("a" + _sign(FIRST)), *rest]
    assert _put_together(said) == [ev.TextDelta("a"), ev.TextDelta("\ufffd"), *rest]
    assert _put_together([ev.TextDelta(_sign(OTHER)), *rest]) == [ev.TextDelta("\ufffd"), *rest]


def test_each_answer_has_its_own_halves() -> None:
    """Events of two choices may alternate."""
    cut = [ev.TextDelta(_sign(half), choice) for half in (FIRST, OTHER) for choice in (0, 1)]
    assert _put_together(cut) == [ev.TextDelta(FACE, 0), ev.TextDelta(FACE, 1)]


def test_no_sign_is_written() -> None:
    """What is no piece of a text is no less mended: a picture's name, arguments that come whole."""
    assert Halves.mended(f"a{_sign(FIRST)}b{FACE}".encode()) == f"a\ufffdb{FACE}".encode()
    assert Halves.mended(f"{_sign(FIRST)}{_sign(OTHER)}".encode()) == FACE.encode()
