"""Markdown as it streams: which part of a growing text can be drawn for good."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.cli.markdown import split

LINES = ["# A head", "text", "", "- item", "1. first", "   more of it", "```python", "```", "~~~~"]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("", ""),
        ("one line", ""),
        ("one\n\ntwo", "one\n\n"),
        ("one\n\n```\na\n\nb\n", "one\n\n"),
        ("```\na\n\nb\n```\n\nrest", "```\na\n\nb\n```\n\n"),
        ("````\n```\n\n````\n\nrest", "````\n```\n\n````\n\n"),
        ("1. a\n\n2. b\n\n", ""),
        ("1. a\n\n2. b\n\nover\n", "1. a\n\n2. b\n\n"),
        ("- a\n\n1", ""),
        ("- a\n\n  goes on\n\n- b\n\nover\n\nx", "- a\n\n  goes on\n\n- b\n\nover\n\n"),
    ],
)
def test_whole_blocks_are_told_from_what_may_change(text: str, whole: str) -> None:
    """A fence may hold blank lines, and a list's numbers go on behind one."""
    assert text[: split(text)] == whole


@given(st.lists(st.sampled_from(LINES), max_size=12), st.integers(1, 9))
def test_what_was_whole_stays_whole(lines: list[str], size: int) -> None:
    """However the pieces fall, what has been drawn is the beginning of what is to be drawn."""
    text = "\n".join(lines)
    whole = 0
    for end in range(0, len(text) + 1, size):
        assert split(text[:end]) >= whole
        whole = split(text[:end])
    assert split(text) <= len(text)
