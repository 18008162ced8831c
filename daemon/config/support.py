"""The keys that the format has and this version does not bring to life: refused, never ignored.

A key of the format is in `schema.py` (it works) or in this table. A row goes when its key works.
"""

import re
from typing import NamedTuple

from tollway.daemon.config.lines import At


class Later(NamedTuple):
    """A key, or some of its values, that a later version brings to life.

    `key` is a path in which `*` stands for any one name, and a leading `**` for any path.
    `does` completes "it will ...". `live` are the values that say what happens today anyway,
    and are taken. With `values`, a pattern, only the values that it matches whole are refused,
    and the key is read like any other.
    """

    key: str
    does: str
    live: tuple[object, ...] = ()
    values: str | None = None


LATER = (
    Later("models.*.hold", "hold by learned token counts instead of the bound", live=("strict",)),
    Later("models.*.kwh", "charge for energy"),
)


def refusal(at: At, value: object) -> str | None:
    """Return why a key with this value is refused, or None where this table has nothing on it."""
    row = _row(at)
    if row is None or _taken(row, value):
        return None
    # The value is one of the table's own words, so it holds no secret.
    said = f'"{value}" is ' if row.values is not None else ""
    return f"{said}not supported yet: it will {row.does}"


def is_later(at: At) -> bool:
    """Whether the key is one of the format that the structs do not know."""
    row = _row(at)
    return row is not None and row.values is None


def _taken(row: Later, value: object) -> bool:
    if row.values is not None:
        return not (isinstance(value, str) and re.fullmatch(row.values, value))
    # `1 == True` and `0 == False`, in the file's eyes different values.
    return any(type(value) is type(live) and value == live for live in row.live)


def _row(at: At) -> Later | None:
    for row, pattern in _BY_NAME.get(at[-1], ()):
        place = at[-len(pattern) :] if row.key.startswith("**.") else at
        if len(place) == len(pattern) and all(
            one in {"*", part} for one, part in zip(pattern, place, strict=True)
        ):
            return row
    return None


def _by_name() -> dict[str | int, list[tuple[Later, list[str]]]]:
    found: dict[str | int, list[tuple[Later, list[str]]]] = {}
    for row in LATER:
        pattern = row.key.removeprefix("**.").split(".")
        found.setdefault(pattern[-1], []).append((row, pattern))
    return found


_BY_NAME = _by_name()
