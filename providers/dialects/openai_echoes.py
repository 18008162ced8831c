"""What clients give back of an answer, taken out where a provider fails the whole call for it.

A client of a route does not know whose answer it gives back: it was told the thoughts of one
model, and the next call may go to another, whose provider takes no field that it does not know.
"""

import re

import msgspec

from tollway.providers.canon import Call
from tollway.providers.dialects import mistral_parts as mistral
from tollway.providers.dialects import openai_quirks as quirk
from tollway.providers.dialects.json_edit import Field, edit, fields
from tollway.providers.dialects.openai_chat_ask import MOST_OF_ID, tool_id
from tollway.providers.dialects.openai_request import NAME

_TURNS = msgspec.json.Decoder(list[msgspec.Raw])
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_CALLS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_NOTHING = frozenset({b"null", b'""', b"[]", b"{}"})
_SAYS, _OF_MODEL = ("content", "tool_calls", "function_call", "audio"), b'"assistant"'
_TEXT = msgspec.json.Decoder(str)
_CALL_ID = "tool_call_id"
_LONG_ID = re.compile(rb'"tool_call_id"\s*:\s*"[^"]{%d}' % (MOST_OF_ID + 1))
# Stands in a call, and proves to Google that its model made it: to others it says nothing.
_OF_CALLS = "extra_content"


def without_echoes(
    call: Call, refused: tuple[str, ...], quirks: frozenset[str] = frozenset()
) -> tuple[Call, tuple[str, ...]]:
    """Return a call without the fields of its turns that a target refuses, and what that loses.

    Ids of calls that another provider gave are such as the target bears, and so are files and
    sounds. All else stays byte for byte. A turn that cannot be read is the target's to refuse.
    """
    if call.dialect != NAME or call.endpoint != "chat":
        return call, ()
    names = [name for name in refused if _key(name) in call.body]
    unfit = _key(_CALL_ID) in call.body and _has_unfit_ids(call.body, quirks)
    shaped = quirk.MISTRALS_PARTS in quirks and mistral.is_unfit(call.body)
    if not names and not unfit and not shaped:
        return call, ()
    known = known_fields(call)
    lost: list[str] = []
    try:
        given = [bytes(turn) for turn in _TURNS.decode(known["messages"].raw)]
        turns = [_without(turn, names, lost) for turn in given]
        if unfit:
            turns = [_with_fit_ids(turn, quirks) for turn in turns]
        if shaped:
            turns = [mistral.fitted(turn) if turn else turn for turn in turns]
    except (msgspec.DecodeError, RecursionError):
        return call, ()
    if turns == given:
        return call, ()
    body = edit(call.body, known, {"messages": b"[" + b",".join(filter(None, turns)) + b"]"})
    lost = [f"messages.{name}" for name in dict.fromkeys(lost)]
    return msgspec.structs.replace(call, body=body, scan=None), tuple(lost)


def known_fields(call: Call) -> dict[str, Field]:
    """Return where a call's fields stand, as `peek` has found them if it has."""
    found = getattr(call.scan, "fields", None)
    if isinstance(found, dict) and getattr(call.scan, "body", None) is call.body:
        return found
    return fields(call.body)


def _key(name: str) -> bytes:
    return b'"' + name.encode() + b'"'


def _has_unfit_ids(body: bytes, quirks: frozenset[str]) -> bool:
    """Whether calls may have ids that a target refuses: all of Mistral's are short."""
    if quirk.SHORT_IDS in quirks:
        return True
    return quirk.ALL_OF_OPENAI in quirks and _LONG_ID.search(body) is not None


def _with_fit_ids(turn: bytes, quirks: frozenset[str]) -> bytes:
    """Return a turn whose calls and results have the ids that a translated one has there."""
    if _key(_CALL_ID) not in turn and _key("tool_calls") not in turn:
        return turn
    said = _FIELDS.decode(turn)
    given = bytes(said.get("tool_calls", b"null"))
    calls = [] if given == b"null" else _CALLS.decode(given)
    changed = _fit(said, _CALL_ID, quirks)
    for one in calls:
        changed |= _fit(one, "id", quirks)
    if changed and calls:
        said["tool_calls"] = msgspec.Raw(msgspec.json.encode(calls))
    return msgspec.json.encode(said) if changed else turn


def _fit(said: dict[str, msgspec.Raw], name: str, quirks: frozenset[str]) -> bool:
    """Make an id one that fits; return whether it was none."""
    if name not in said:
        return False
    id_ = _TEXT.decode(said[name])
    fit = tool_id(id_, quirks)
    said[name] = msgspec.Raw(msgspec.json.encode(fit))
    return fit != id_


def _without(raw: bytes, names: list[str], lost: list[str]) -> bytes:
    """Return a turn without some fields; b"" where nothing is left that its model said.

    As of an answer that its limit cut off within its thoughts: "Assistant message must have either
    content or tool_calls, but not none" (OpenHands/OpenHands#8685).
    """
    if not any(_key(name) in raw for name in names):
        return raw
    said = _FIELDS.decode(raw)
    within = _OF_CALLS in names and _key(_OF_CALLS) in bytes(said.get("tool_calls", b""))
    if not within and said.keys().isdisjoint(names):
        return raw
    for name in names:
        value = bytes(said.pop(name, b"null"))
        if (
            name == "refusal"
            and value != b"null"
            and bytes(said.get("content", b"null")) == b"null"
        ):
            said["content"] = msgspec.Raw(value)  # what was said instead
        elif value not in _NOTHING:
            lost.append(name)
    if within:
        calls = _CALLS.decode(said["tool_calls"])
        for one in calls:
            one.pop(_OF_CALLS, None)
        said["tool_calls"] = msgspec.Raw(msgspec.json.encode(calls))
    silent = all(bytes(said.get(name, b"null")) in _NOTHING for name in _SAYS)
    return (
        b"" if silent and bytes(said.get("role", b"")) == _OF_MODEL else msgspec.json.encode(said)
    )
