"""Finds where in an answer its first tool call begins, to the byte: from there a grammar binds."""

from copy import deepcopy

from tollway.providers.llamacpp.speech import Hearer
from tollway.providers.llamacpp.text import TextOut


class Onset:
    """Reads an answer as its tokens come, beside what is told of it: stop strings hold that up."""

    def __init__(self, speech: Hearer, mark: str) -> None:
        self._speech = speech
        self._text = TextOut([])
        self._mark = mark.encode()
        self._tail = b""  # of what came: where the mark may have begun

    def before(self, piece: bytes) -> int:
        """Return how many bytes a token may have before a call has begun; all, where none does.

        A token may end the mark and go on: with what no grammar has seen, if it were taken.
        """
        if self._mark not in self._tail + piece:
            return len(piece)
        speech, text = deepcopy(self._speech), deepcopy(self._text)
        for at in range(len(piece)):
            speech.feed(text.feed(piece[at : at + 1]))
            if speech.calling:
                return at + 1
        return len(piece)

    def take(self, piece: bytes) -> bool:
        """Take a token; return whether a call has begun."""
        self._speech.feed(self._text.feed(piece))
        self._tail = (self._tail + piece)[-len(self._mark) :]
        return self._speech.calling
