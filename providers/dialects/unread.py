"""What of a request no codec reads: fields of messages, parts and tools that are unknown here.

A codec says which fields it knows of each kind of object (`Shape`); what else a request holds
there is named, so that it is not lost in silence where the request is translated.
"""

from collections.abc import Callable, Iterator

import msgspec

# What says nothing: left out, it means the same.
_NOTHING: tuple[object, ...] = (None, False, "", [], {})
# Of a call that the model made by itself; another one, made by its code, is named.
_DIRECT = {"type": "direct"}


class Shape(msgspec.Struct, frozen=True):
    """The fields of an object that its reader knows; `within` are those that hold objects.

    With `kinds` an object's `type` says which of them it is ("" where it has none). One of no
    such type is the reader's to drop, or to refuse, as a whole.
    """

    fields: frozenset[str] = frozenset()
    within: dict[str, "Shape"] = {}
    kinds: dict[str, "Shape"] | None = None


def shape(fields: str, **within: Shape) -> Shape:
    """Return a shape of fields, whose names stand in one text; those of `within` are known too."""
    return Shape(frozenset((*fields.split(), *within)), within)


def kinds(untyped: Shape | None = None, /, **by_type: Shape) -> Shape:
    """Return a shape of objects of several types; `untyped` are those that do not say it."""
    return Shape(kinds=by_type if untyped is None else {"": untyped, **by_type})


def unread(
    value: object, known: Shape, where: str = "", spelt: Callable[[str], str] = str
) -> Iterator[str]:
    """Yield the names of fields that are unknown, as `messages.content.NAME`; some twice.

    `spelt` returns a field's name in the spelling that `known` has.
    """
    if isinstance(value, list):
        for one in value:
            yield from unread(one, known, where, spelt)
        return
    if not isinstance(value, dict):
        return
    if known.kinds is not None:
        kind = value.get("type", "")
        of_kind = known.kinds.get(kind) if isinstance(kind, str) else None
        if of_kind is None:
            return
        known = of_kind
    if spelt is not str:
        value = {spelt(name): said for name, said in value.items()}
    for name, said in value.items():
        if name in known.fields or name == "type" or said in _NOTHING or said == _DIRECT:
            continue
        yield f"{where}{name}"
    for name, inner in known.within.items():
        if name in value:
            yield from unread(value[name], inner, f"{where}{name}.", spelt)
