"""Edit a JSON object in place: only the bytes of the edited values change.

The bug that teaches the rule: two parsers that meet `{"n": 1, "n": 100}` may each take another
`n`. What the gate reads must be what the provider reads, so a key that stands twice is refused,
and so is one that only a parser that ignores case would take for another.
"""

import re
from collections.abc import Mapping

import msgspec

from tollway.providers.errors import RequestInvalid

_SPACE = rb"[ \t\r\n]*+"
# What stands before a value: a brace or comma, the key, a colon. Possessive, so that it cannot
# backtrack.
_KEY = re.compile(
    _SPACE + rb"[{,]" + _SPACE + rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")' + _SPACE + b":" + _SPACE,
    re.DOTALL,
)
_OPEN = re.compile(_SPACE + rb"\{")
_CLOSE = re.compile(_SPACE + rb"\}" + _SPACE + rb"\Z")

# Each costs microseconds to find; an honest request has some ten.
_MOST = 1000

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_STRING = msgspec.json.Decoder(str)

# msgspec's words for a lone surrogate are those for a cut text.
_WHY = {"Input data was truncated": "it is cut short, or holds half a character"}


class Field(msgspec.Struct, frozen=True, gc=False):
    """Where a member of an object stands: its key from `key` on, its value `start` to `end`."""

    key: int
    start: int
    end: int
    raw: msgspec.Raw  # the value's own bytes


def fields(body: bytes, *, where: str = "") -> dict[str, Field]:
    """Return where each member of the object that `body` holds stands.

    Args:
        body: The object's JSON text.
        where: What to call the object in messages: "" for the body, else the field it is in.

    Raises:
        RequestInvalid: It is no JSON object, is not UTF-8, is nested too deeply, or has a key
            twice.
    """
    found: dict[str, Field] = {}
    at, mark = 0, b"{"
    for name, raw in _members(body, where).items():
        plain = b'%b"%b":' % (mark, name.encode())
        begin, start, mark = at + 1, at + len(plain), b","
        # Without spaces, as most clients write it: a fifth of what a pattern takes.
        if not (body.startswith(plain, at) and body.startswith(raw, start) and name.isidentifier()):
            key = _KEY.match(body, at)
            if key is None:
                raise _twice(body, at, where, found)
            begin, end = key.span(1)
            if body[begin + 1 : end - 1] != name.encode() and _STRING.decode(key[1]) != name:
                raise _twice(body, at, where, found)
            start = key.end()
            # A JSON value is no other value's beginning (but a number: then no comma follows), so
            # equal bytes here mean that this is the value that was read, and no earlier one.
            if not body.startswith(raw, start):
                raise _twice(body, at, where, found)
        at = start + memoryview(raw).nbytes
        found[name] = Field(begin, start, at, raw)
    if found and not _CLOSE.match(body, at):
        raise _twice(body, at, where, found)
    return found


def _members(body: bytes, where: str) -> dict[str, msgspec.Raw]:
    try:
        members = _FIELDS.decode(body)
        if not body.isascii():
            body.decode()  # the scanner skips strings without looking into them
    except RecursionError:
        raise RequestInvalid(f"{_the(where)} is nested too deeply", param=where or None) from None
    except UnicodeDecodeError as fault:
        raise RequestInvalid(
            f"{_the(where)} is not UTF-8 (byte {fault.start})", param=where or None
        ) from None
    except msgspec.ValidationError:
        raise RequestInvalid(f"{_the(where)} must be a JSON object", param=where or None) from None
    except msgspec.DecodeError as fault:
        if not body.strip():
            raise RequestInvalid(f"{_the(where)} is empty", hint="Send JSON") from None
        why = _WHY.get(str(fault), str(fault).removeprefix("JSON is malformed: "))
        if "surrogate" in why or "hex escape" in why:
            why = f"it holds half a character, such as half an emoji{why[why.rfind(' (') :]}"
        raise RequestInvalid(f"{_the(where)} is not JSON: {why}", param=where or None) from None
    if len(members) > _MOST:
        raise RequestInvalid(f"{_the(where)} has more than {_MOST:,} fields", param=where or None)
    return members


def _the(where: str) -> str:
    return f"`{where}`" if where else "The request's body"


def _twice(body: bytes, at: int, where: str, before: Mapping[str, Field]) -> RequestInvalid:
    # No key here means that we are inside a number: the last value was not the one read.
    key = _KEY.match(body, at)
    name = (_STRING.decode(key[1]) if key else list(before)[-1])[:200]
    full = f"{where}.{name}" if where else name
    return RequestInvalid(f"`{full}` stands twice in the request", param=full)


def edit(
    body: bytes,
    known: Mapping[str, Field],
    values: Mapping[str, bytes],
    renames: Mapping[str, str] | None = None,
    without: str | None = None,
) -> bytes:
    """Return `body` with members replaced or, where they are missing, put in at its front.

    Args:
        body: The object's JSON text.
        known: What `fields` found in it.
        values: The JSON text of each member's new value.
        renames: Members that get another key, together with a value in `values` under the old.
        without: A member that is taken out.
    """
    if not values and without not in known:
        return body
    changes: list[tuple[int, int, bytes]] = []
    if without is not None and without in known:
        changes.append((*_span(known, without), b""))
    missing: list[bytes] = []
    for name, value in values.items():
        field = known.get(name)
        if field is None:
            missing.append(msgspec.json.encode(name) + b":" + value)
        elif renames and name in renames:
            member = msgspec.json.encode(renames[name]) + b":" + value
            changes.append((field.key, field.end, member))
        else:
            changes.append((field.start, field.end, value))
    if missing:
        opened = _OPEN.match(body)
        at = opened.end() if opened else 0
        others = known.keys() - {without}
        changes.append((at, at, b",".join(missing) + (b"," if others else b"")))
    pieces: list[bytes] = []
    done = 0
    for start, end, value in sorted(changes):
        pieces += (body[done:start], value)
        done = end
    pieces.append(body[done:])
    return b"".join(pieces)


def _span(known: Mapping[str, Field], name: str) -> tuple[int, int]:
    """Return from where to where a member stands with the comma that goes with it."""
    field = known[name]
    before = [one.end for one in known.values() if one.end < field.key]
    if before:
        return max(before), field.end
    behind = [one.key for one in known.values() if one.key > field.key]
    return field.key, min(behind, default=field.end)
