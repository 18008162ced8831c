"""Halves of characters in JSON are mended, and nothing else is."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.providers.halves import without_halves


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
