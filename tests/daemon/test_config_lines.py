"""The scanner finds the line of whatever tomllib finds."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from tollway.daemon.config.lines import At, lines_of

TEXT = '''# a comment with = and [brackets]
top = 1
"quoted.key" = { inline = [1, 2], "in.side" = true }

[a.b]  # header
x.y.z = """
several # no comment
lines = 3"""
after = \'\'\'
it's''\'\'\'
list = [
  "one",  # why
  { two = 2 },
]
"esc\\u0061pe" = 'C:\\'
[[many]]
n = 1
[many.sub]
k = 1
[[many]]
n = 2
[[many.deep]]
d = 1
[[many.deep]]
d = 2
[ "prices" . 'openai/gpt-4o' ]
input = 0.5
'''


def test_lines_are_those_of_the_text() -> None:
    """Quoted and dotted keys, inline tables, arrays of tables, strings over several lines."""
    lines = lines_of(TEXT)
    expected: dict[At, int] = {
        ("top",): 2,
        ("quoted.key",): 3,
        ("quoted.key", "in.side"): 3,
        ("quoted.key", "inline", 1): 3,
        ("a",): 5,
        ("a", "b", "x", "y", "z"): 6,
        ("a", "b", "after"): 9,
        ("a", "b", "list"): 11,
        ("a", "b", "list", 0): 12,
        ("a", "b", "list", 1, "two"): 13,
        ("a", "b", "escape"): 15,
        ("many",): 16,
        ("many", 0): 16,
        ("many", 0, "n"): 17,
        ("many", 0, "sub", "k"): 19,
        ("many", 1): 20,
        ("many", 1, "n"): 21,
        ("many", 1, "deep", 0, "d"): 23,
        ("many", 1, "deep", 1, "d"): 25,
        ("prices", "openai/gpt-4o"): 26,
        ("prices", "openai/gpt-4o", "input"): 27,
    }
    assert {at: lines.get(at) for at in expected} == expected


def places(value: object, at: At = ()) -> Iterator[At]:
    """Yield where everything in a document is."""
    if at:
        yield at
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from places(inner, (*at, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from places(inner, (*at, number))


def test_everything_that_tomllib_reads_has_a_line() -> None:
    """In the hand-written text and in the example that we ship."""
    example = (Path(__file__).parents[2] / "gateway.toml.example").read_text()
    for text in (TEXT, example, example.replace("\n", "\r\n")):
        assert set(places(tomllib.loads(text))) <= set(lines_of(text))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.booleans() | st.integers(-9, 9) | texts | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(texts, values, max_size=5))
def test_any_document_that_tomlkit_writes_is_scanned_whole(data: dict[str, object]) -> None:
    """Whatever the names and values, the scanner sees the same tree as tomllib."""
    text = tomlkit.dumps(data)
    try:
        read = tomllib.loads(text)
    except tomllib.TOMLDecodeError:  # what tomlkit writes is not always TOML
        return
    assert set(places(read)) <= set(lines_of(text))
