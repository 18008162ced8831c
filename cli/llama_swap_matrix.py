"""A matrix of llama-swap's: which models may run together, in its little language of sets."""

import re
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from tollway.cli.taken_over import NotUnderstood

Sets = frozenset[frozenset[str]]

_WORD = re.compile(r"\s*([&|()]|\+?[A-Za-z0-9_.-]+|\S)")
_MOST = 4096  # sets that one expression may stand for
_DEEPEST = 50


class Matrix:
    """The sets of models that may run together, by the models' own names."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        """Read a matrix.

        Raises:
            NotUnderstood: It is not one.
        """
        self._vars = _texts(said.get("vars"), "vars")
        self._sets = _texts(said.get("sets"), "sets")
        self._found: dict[str, Sets] = {}
        every = frozenset[frozenset[str]]().union(*(self._set(name) for name in self._sets))
        self._together = {pair for one in every for pair in combinations(sorted(one), 2)}
        self._every = every

    def apart(self, one: str, other: str) -> bool:
        """Return whether two models are together in no set."""
        first, second = sorted((one, other))
        return (first, second) not in self._together

    @property
    def is_pairs(self) -> bool:
        """Whether who may run together two by two may also run together three by three."""
        members = sorted({name for one in self._every for name in one})
        return all(
            any(one.issuperset(three) for one in self._every)
            for three in combinations(members, 3)
            if not any(self.apart(*pair) for pair in combinations(three, 2))
        )

    def unknown(self, models: Mapping[str, object]) -> Iterator[str]:
        """Yield each name that stands for no model."""
        return (name for name in self._vars.values() if name not in models)

    def _set(self, name: str, depth: int = 0) -> Sets:
        if name not in self._sets or depth > _DEEPEST:
            raise NotUnderstood(f"matrix.sets: there is no set `{name}`, or it contains itself")
        if name not in self._found:
            words = _WORD.findall(self._sets[name])
            where = f"matrix.sets.{name}"
            found = self._either(words, where, depth)
            if words:
                raise NotUnderstood(f"{where}: `{words[0]}` stands where nothing was expected")
            self._found[name] = found
        return self._found[name]

    def _either(self, words: list[str], where: str, depth: int) -> Sets:
        found = self._all(words, where, depth)
        while words and words[0] == "|":
            words.pop(0)
            found |= self._all(words, where, depth)
        return found

    def _all(self, words: list[str], where: str, depth: int) -> Sets:
        found = self._one(words, where, depth)
        while words and words[0] == "&":
            words.pop(0)
            more = self._one(words, where, depth)
            if len(found) * len(more) > _MOST:
                raise NotUnderstood(f"{where}: it stands for more than {_MOST} sets")
            found = frozenset(one | other for one in found for other in more)
        return found

    def _one(self, words: list[str], where: str, depth: int) -> Sets:
        word = words.pop(0) if words else "the end"
        if depth > _DEEPEST:
            raise NotUnderstood(f"{where}: it is too deep")
        if word == "(":
            found = self._either(words, where, depth + 1)
            if not words or words.pop(0) != ")":
                raise NotUnderstood(f"{where}: a parenthesis is not closed")
            return found
        if word.startswith("+"):
            return self._set(word[1:], depth + 1)
        if word not in self._vars:
            raise NotUnderstood(f"{where}: there is no `{word}` in `matrix.vars`")
        return frozenset({frozenset({self._vars[word]})})


def _texts(said: object, what: str) -> dict[str, str]:
    if not isinstance(said, dict):
        raise NotUnderstood(f"matrix.{what}: expected a mapping")
    return {str(name): str(value) for name, value in said.items()}
