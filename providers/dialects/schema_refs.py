"""Schemas without references, for targets that know none: each stands where it is referred to."""

from typing import Any

import msgspec

from tollway.providers.dialects.wire import object_in
from tollway.providers.errors import Untranslatable

_PLACES = ("$defs", "definitions")
# References to references may multiply: what is honest has some hundreds of values, and puts some
# kilobytes in the places of its references.
_MOST = 20_000
_MOST_BYTES = 1024 * 1024


def inlined(schema: bytes) -> tuple[bytes, bool]:
    """Return a schema without references, and whether it says less: one that holds itself does.

    Raises:
        Untranslatable: It would be too large.
    """
    said = object_in(schema)
    if said is None or not any(name in said for name in _PLACES):
        return schema, False
    walk = _Walk(said)
    body = {name: value for name, value in said.items() if name not in _PLACES}
    try:
        return msgspec.json.encode(walk.plain(body, ())), walk.says_less
    except RecursionError:
        raise _too_large() from None


class _Walk:
    """Puts what is referred to in place; what refers to itself is anything at all there."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.says_less = False
        self._left = _MOST
        self._bytes = _MOST_BYTES
        self._sizes: dict[str, int] = {}
        self._known: dict[str, Any] = {
            f"#/{place}/{name}": value
            for place in _PLACES
            if isinstance(said.get(place), dict)
            for name, value in said[place].items()
        }

    def plain(self, value: Any, within: tuple[str, ...]) -> Any:
        self._left -= 1
        if self._left < 0:
            raise _too_large()
        if isinstance(value, list):
            return [self.plain(one, within) for one in value]
        if not isinstance(value, dict):
            return value
        ref = value.get("$ref")
        if not isinstance(ref, str) or ref not in self._known:
            return {name: self.plain(one, within) for name, one in value.items()}
        beside = {name: one for name, one in value.items() if name != "$ref"}
        if ref in within:
            self.says_less = True
            return self.plain(beside, within)
        self._put_in(ref)
        found = self.plain(self._known[ref], (*within, ref))
        own = self.plain(beside, within)
        return {**found, **own} if isinstance(found, dict) else found

    def _put_in(self, ref: str) -> None:
        if ref not in self._sizes:
            self._sizes[ref] = len(msgspec.json.encode(self._known[ref]))
        self._bytes -= self._sizes[ref]
        if self._bytes < 0:
            raise _too_large()


def _too_large() -> Untranslatable:
    return Untranslatable(
        "The target takes no references in a tool's schema, and without them it is too large",
        param="tools",
    )
