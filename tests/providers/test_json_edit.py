"""Editing JSON in place: what changes, what does not, and what is too ambiguous to edit."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.providers.dialects.json_edit import edit, fields
from tollway.providers.errors import RequestInvalid

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | TEXT | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["model", "n", "max_tokens", "a", 'quo"te', "back\\", "é", "{", ""])
OBJECTS = st.dictionaries(KEYS | TEXT, VALUES, max_size=7)
SPACE = st.text(st.sampled_from(" \t\r\n"), max_size=3)


@st.composite
def written(draw: st.DrawFn, value: Any) -> str:
    """Write a value as JSON with white space and escapes anywhere that they may be."""

    def gap() -> str:
        return draw(SPACE)

    def text(said: str) -> str:
        plain = json.dumps(said, ensure_ascii=draw(st.booleans()))
        if said[:1].isalpha() and said[:1].isascii() and draw(st.booleans()):
            plain = f'"\\u{ord(said[0]):04x}{plain[2:]}'
        return plain

    def one(said: Any) -> str:
        if isinstance(said, dict):
            members = (
                f"{gap()}{text(key)}{gap()}:{gap()}{one(value)}{gap()}"
                for key, value in said.items()
            )
            return "{" + (",".join(members) or gap()) + "}"
        if isinstance(said, list):
            return "[" + (",".join(gap() + one(value) + gap() for value in said) or gap()) + "]"
        return text(said) if isinstance(said, str) else json.dumps(said)

    return gap() + one(value) + gap()


@given(OBJECTS.flatmap(lambda value: st.tuples(st.just(value), written(value))))
def test_every_member_is_found_where_it_stands(made: tuple[dict[str, Any], str]) -> None:
    """Whatever white space and escapes stand around it."""
    value, text = made
    body = text.encode()
    found = fields(body)
    assert list(found) == list(value)
    for name, field in found.items():
        assert json.loads(body[field.start : field.end]) == value[name]
        assert bytes(field.raw) == body[field.start : field.end]
        assert json.JSONDecoder().raw_decode(body[field.key :].decode())[0] == name


@given(
    OBJECTS.flatmap(lambda value: st.tuples(st.just(value), written(value))),
    st.dictionaries(KEYS, VALUES, max_size=3),
)
def test_an_edit_changes_what_it_names_and_nothing_else(
    made: tuple[dict[str, Any], str], wanted: dict[str, Any]
) -> None:
    """The result reads as it should, and every byte outside the edited values is as it was."""
    value, text = made
    body = text.encode()
    found = fields(body)
    values = {name: json.dumps(new).encode() for name, new in wanted.items()}
    out = edit(body, found, values)
    assert json.loads(out) == {**value, **wanted}
    # Put the old values back, last first, and take the new members out again: the same bytes.
    for name in sorted(set(wanted) & set(found), key=lambda one: -found[one].start):
        now = fields(out)[name]
        out = out[: now.start] + body[found[name].start : found[name].end] + out[now.end :]
    front = len(out) - len(body)
    opened = body.index(b"{") + 1
    assert out[:opened] + out[opened + front :] == body


@given(
    OBJECTS.map(lambda value: {**value, "a": 1}).flatmap(
        lambda value: st.tuples(st.just(value), written(value))
    ),
    VALUES,
)
def test_a_member_can_get_another_name(made: tuple[dict[str, Any], str], new: Any) -> None:
    """Its place stays, and its neighbours with it."""
    value, text = made
    body = text.encode()
    out = edit(body, fields(body), {"a": json.dumps(new).encode()}, {"a": "renamed"})
    expected = [("renamed", new) if key == "a" else (key, old) for key, old in value.items()]
    assert json.loads(out, object_pairs_hook=list) == json.loads(
        json.dumps(dict(expected)), object_pairs_hook=list
    )


@given(OBJECTS, KEYS, VALUES, VALUES)
def test_a_key_that_stands_twice_is_refused(
    value: dict[str, Any], key: str, one: Any, two: Any
) -> None:
    """Two parsers may take different values of it, equal ones included; ours must not guess."""
    rest = json.dumps({name: said for name, said in value.items() if name != key})[1:-1]
    again = "".join(f"\\u{ord(char):04x}" for char in key)
    members = [f"{json.dumps(key)}:{json.dumps(one)}", rest, f'"{again}":{json.dumps(two)}']
    body = ("{" + ",".join(filter(None, members)) + "}").encode()
    with pytest.raises(RequestInvalid, match="stands twice"):
        fields(body)


def test_the_key_that_stands_twice_is_named() -> None:
    """Escaped or not, and also where one value is the beginning of the other."""
    for body, named in (
        (b'{"model":"a","x":1,"mod\\u0065l":"b"}', "model"),
        (b'{"n":12,"n":1}', "n"),
        (b'{"n":1,"n":12}', "n"),
        (b'{"x":0,"n":[1],"y":"\\",\\"n\\":", "n":[2]}', "n"),
    ):
        with pytest.raises(RequestInvalid) as caught:
            fields(body)
        assert caught.value.param == named, body


def test_a_key_that_reads_like_other_members_hides_none() -> None:
    """Its name holds quotes, which is more than the short way of finding it may pass over."""
    hidden = b'{"a":1,"b":2,"a":1,"b":2,"a\\":1,\\"b":2}'
    with pytest.raises(RequestInvalid):
        fields(hidden)
    alone = b'{"a":1,"b":2,"a\\":1,\\"b":2}'
    assert list(fields(alone)) == ["a", "b", 'a":1,"b']


def test_what_is_not_json_is_refused_and_never_crashes() -> None:
    """Depth bombs, half characters, bytes that are no UTF-8, numbers that JSON has not."""
    for body in (
        b"",
        b"[1]",
        b"null",
        b'{"a":1',
        b'{"a":1}x',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":"\xff"}',
        b'{"\xff":1}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\\ud800"}',
        b"\xef\xbb\xbf{}",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    ):
        with pytest.raises(RequestInvalid):
            fields(body)


@given(st.binary(max_size=60))
def test_any_bytes_are_either_fields_or_refused(body: bytes) -> None:
    """Nothing that a client can send raises anything but a refusal."""
    try:
        found = fields(body)
    except RequestInvalid:
        return
    assert list(found) == list(json.loads(body))


@given(OBJECTS.flatmap(lambda value: st.tuples(st.just(value), written(value))), st.data(), VALUES)
def test_a_member_can_be_taken_out(
    made: tuple[dict[str, Any], str], data: st.DataObject, new: Any
) -> None:
    """With its comma, wherever it stands, also where others are changed or put in beside it."""
    value, text = made
    body = text.encode()
    name = data.draw(st.sampled_from(sorted(value) or ["n"]))
    others = [*sorted(value.keys() - {name}), "quite new"]
    changes = dict.fromkeys(data.draw(st.sets(st.sampled_from(others), max_size=2)), new)
    raw = {key: json.dumps(one).encode() for key, one in changes.items()}
    rest = {key: one for key, one in value.items() if key != name}
    assert json.loads(edit(body, fields(body), raw, without=name)) == rest | changes


@pytest.mark.parametrize("text", [rb"\ud800", rb"\ud800 x", rb"\ud83d\u0041", rb"\udc00"])
def test_half_a_character_is_called_that(text: bytes) -> None:
    """Clients cut texts within an emoji; "unexpected end of hex escape" tells nobody so."""
    with pytest.raises(RequestInvalid, match="half a character"):
        fields(b'{"a":"' + text + b'"}')
