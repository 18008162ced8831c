"""Ids of functions' calls, taken out of calls that pass to who knows none of them.

Google's own libraries send back the ids that an answer bore. Vertex AI takes none for models of the
second generation, so that a conversation which another model had a part in failed there.
"""

from typing import Any, Final

import msgspec

from tollway.providers.dialects.gemini_request import camel

# The parts that bear ids, each in two spellings, and how their names stand in a body.
_CALL, _RESULT = "functionCall", "functionResponse"
QUOTED: Final = (
    b'"functionCall"',
    b'"function_call"',
    b'"functionResponse"',
    b'"function_response"',
)

_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


def without_ids(turns: list[bytes]) -> list[bytes]:
    """Return turns without ids of calls; results stand in the order of their calls.

    All else of a turn stays byte for byte.

    Raises:
        msgspec.DecodeError: A turn is none that can be read.
    """
    called: dict[str, int] = {}
    return [_turn(raw, called) if any(word in raw for word in QUOTED) else raw for raw in turns]


def _turn(raw: bytes, called: dict[str, int]) -> bytes:
    said = _FIELDS.decode(raw)
    given = bytes(said.get("parts", b""))
    if not given.startswith(b"["):
        return raw
    parts = [bytes(one) for one in _LIST.decode(given)]
    left: list[bytes] = []
    results: list[tuple[int, bytes]] = []
    places: list[int] = []
    for part in parts:
        kind, id_, without = _part(part)
        if kind == _CALL and id_:
            called.setdefault(id_, len(called))
        elif kind == _RESULT:
            places.append(len(left))
            results.append((called.get(id_, len(called)), without))
        left.append(without)
    results.sort(key=lambda one: one[0])  # those of no known call last, as they came
    for place, (_, result) in zip(places, results, strict=True):
        left[place] = result
    if left == parts:
        return raw
    return msgspec.json.encode({**said, "parts": msgspec.Raw(b"[" + b",".join(left) + b"]")})


def _part(raw: bytes) -> tuple[str, str, bytes]:
    """Return which of the two a part is ("" for neither), its id, and the part without it."""
    if not any(word in raw for word in QUOTED):
        return "", "", raw
    part = _FIELDS.decode(raw)
    for name, value in part.items():
        kind = camel(name)
        if kind not in (_CALL, _RESULT) or not bytes(value).startswith(b"{"):
            continue
        inner = _FIELDS.decode(value)
        if "id" not in inner:
            return kind, "", raw
        id_ = _ANY.decode(inner.pop("id"))
        part[name] = msgspec.Raw(msgspec.json.encode(inner))
        return kind, id_ if isinstance(id_, str) else "", msgspec.json.encode(part)
    return "", "", raw
