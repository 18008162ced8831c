"""Cuts texts into tokens: of one that begins like an earlier one, what is new alone.

An agent sends its whole conversation with each turn, and each is cut twice: to be counted before
it is admitted, and to be read. 110 KB take llama.cpp 100 ms each time, more than a GPU needs to
read what a turn adds.
"""

from itertools import accumulate
from typing import NamedTuple

from tollway.providers.llamacpp.native import Native

_KEPT = 16  # texts,
_KEPT_CHARACTERS = 8_000_000  # and so many of them in all
# A special token may be part of a longer one that ends behind it. None has so many characters: the
# longest known are 30 of names, and 64 blanks.
_FAR = 128


class _Cut(NamedTuple):
    """A text and its tokens."""

    text: str
    tokens: list[int]


class Tokenizer:
    """Cuts texts without begin and end marks of its own; for one thread.

    llama.cpp looks for special tokens first, and cuts what stands between two of them by itself.
    So all in front of one has the tokens that it had, where nothing near it has changed.
    """

    def __init__(self, native: Native, far: int = _FAR) -> None:
        self._native = native
        self._far = far
        self._kept: list[_Cut] = []  # the one that was used last in front
        self._controls: dict[int, str] = {}  # what tokens say that say nothing; "" for all others

    def tokenize(self, text: str) -> list[int]:
        """Return what `Native.tokenize` returns; the list must not be changed."""
        like, alike = _Cut("", []), 0
        for cut in self._kept:
            if len(cut.text) > alike and (found := common(cut.text, text)) > alike:
                like, alike = cut, found
        if like.tokens and alike == len(text) == len(like.text):
            tokens = like.tokens
        else:
            at, tokens = self._until_mark(like, alike)
            tokens = tokens + self._native.tokenize(text[at:], ends=False)
        # A conversation is not kept once for each turn.
        goes_on = alike + self._far >= len(like.text)
        self._keep(_Cut(text, tokens), like if goes_on else None)
        return tokens

    def _until_mark(self, cut: _Cut, end: int) -> tuple[int, list[int]]:
        """Return where the last special token begins that is not changed by what is behind `end`.

        And the tokens in front of it; 0 and none where there is no such token.
        """
        marks = {token: said for token in set(cut.tokens) if (said := self._control(token))}
        last = {
            cut.text.rfind(said, 0, max(0, end - self._far)): mark for mark, said in marks.items()
        }
        at = max(last, default=0)
        if at <= 0:
            return 0, []
        said, mark = marks[last[at]], last[at]
        # The same number of both, so that each of the one is one of the other.
        if cut.text.count(said) != cut.tokens.count(mark):
            return 0, []
        before = cut.text.count(said, 0, at)
        counts = accumulate(token == mark for token in cut.tokens)
        return at, cut.tokens[: next(i for i, count in enumerate(counts) if count > before)]

    def _control(self, token: int) -> str:
        known = self._controls.get(token)
        if known is None:
            said = b"" if self._native.piece(token) else self._native.piece(token, special=True)
            known = self._controls[token] = said.decode("utf-8", "replace")
        return known

    def _keep(self, cut: _Cut, instead_of: _Cut | None) -> None:
        self._kept = [cut, *(one for one in self._kept if one is not instead_of)][:_KEPT]
        sizes = accumulate(len(one.text) for one in self._kept)
        fit = sum(size <= _KEPT_CHARACTERS for size in sizes)
        del self._kept[fit:]


def common(one: str, other: str) -> int:
    """Return how many characters two texts have in common from their beginning."""
    least, most = 0, min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    while most - least > 1:
        middle = (least + most) // 2
        if one[least:middle] == other[least:middle]:
            least = middle
        else:
            most = middle
    return least
