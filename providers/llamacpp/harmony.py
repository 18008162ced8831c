"""Reads answers of gpt-oss: messages with headers, of which one thinks, one calls, one answers.

    <|channel|>analysis<|message|>Hm.<|end|>
    <|start|>assistant to=functions.look<|channel|>commentary json<|message|>{"at": 1}<|call|>

The prompt ends behind `<|start|>assistant`, so that the first header has no beginning.
"""

import re
from collections.abc import Sequence

from tollway.providers.llamacpp.calls import new_call_id
from tollway.providers.llamacpp.frames import CallPiece
from tollway.providers.llamacpp.speech import Said

OPENING = "<|start|>assistant"
CALLS = "to=functions."
# What follows the name of a call's tool, up to its arguments: the channel is told before or here.
HEAD_RULE = (
    '("<|channel|>" ("commentary" | "analysis"))? (" "? "<|constrain|>json" | " json")?'
    ' "<|message|>"'
)

_START, _BODY = "<|start|>", "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>", _START)
_MARKS = (*_ENDS, _BODY, "<|channel|>", "<|constrain|>")
_LONGEST = 300  # characters of a header
# What a header may begin with; all else is an answer without one.
_HEADS = ("<|channel|>", _START, _BODY, "to=")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_CALLED = re.compile(r"to=functions\.([\w.-]+)")


class Channels:
    """Tells thoughts, text and tool calls of one answer apart. See `speech.Hearer`."""

    marks: tuple[str, ...] = _MARKS
    ends: tuple[str, ...] = _ENDS
    start = _START  # what a header begins with

    def __init__(self, *, calls: bool, forced: bool = False) -> None:
        """Begin at the first header; without `calls` there are no tools, and calls are text."""
        self._calls = calls
        self.forced = forced
        self.calls_made = 0
        self.calls_ended = 0
        self._held = ""
        self._state = "head"
        self._said = {"thought": False, "text": False}  # in an earlier message
        self._gave = False  # something in this one

    @property
    def thinking(self) -> bool:
        """Whether what comes now is no part of the answer: a thought, or a header."""
        return not self.forced and self._state in {"head", "thought"}

    @property
    def calling(self) -> bool:
        """Whether what comes now is a tool call, or the rest of its header."""
        heads = self._calls and self._state == "head"
        return self._state == "call" or (heads and CALLS in self._held)

    def feed(self, text: str) -> Said:
        """Return what more of the answer makes certain."""
        self._held += text
        said = Said()
        while self._held:
            before = (self._state, len(self._held))
            said = said.then(self._in_head() if self._state == "head" else self._in_body())
            if before == (self._state, len(self._held)):
                break
        return said

    def finish(self) -> Said:
        """Return what was held back, now that nothing follows."""
        held, self._held = self._held, ""
        if self._state == "head":
            # A header that is cut short says nothing.
            return Said() if self.forced or self._is_head(held) else Said(held)
        said = self._give(held)
        return said.then(self._end()) if self._state == "call" else said

    def _in_head(self) -> Said:
        head, found, rest = self._held.partition(_BODY)
        if not found:
            if not self._is_head(head) or len(head) > _LONGEST:
                self._state, self._gave = "text", False
            return Said()
        self._held, self._gave = rest, False
        return self._opened(head)

    def _opened(self, head: str) -> Said:
        """Take note of a header that is whole."""
        if self._calls and (called := _CALLED.search(head)):
            self._state = "call"
            self.calls_made += 1
            return Said(calls=[CallPiece(self.calls_made - 1, new_call_id(), called[1])])
        channel = _CHANNEL.search(head)
        self._state = "thought" if channel and channel[1] == "analysis" else "text"
        return Said()

    def _in_body(self) -> Said:
        ends = [(at, mark) for mark in self.ends if (at := self._held.find(mark)) >= 0]
        if not ends:
            cut = len(self._held) - _doubtful(self._held, self.ends)
            text, self._held = self._held[:cut], self._held[cut:]
            return self._give(text)
        at, mark = min(ends)
        # The next header begins with the mark, where that is one.
        kept = at if mark.startswith(self.start) else at + len(mark)
        text, self._held = self._held[:at], self._held[kept:]
        return self._give(text).then(self._end())

    def _give(self, text: str) -> Said:
        if not text:
            return Said()
        first, self._gave = not self._gave, True
        if self._state == "call":
            return Said(calls=[CallPiece(self.calls_made - 1, arguments=text)])
        # Messages of one kind are one text to clients.
        text = f"\n\n{text}" if first and self._said[self._state] else text
        self._said[self._state] = True
        return Said(thought=text) if self._state == "thought" else Said(text)

    def _end(self) -> Said:
        state, self._state = self._state, "head"
        if state != "call":
            return Said()
        self.calls_ended += 1
        if self._gave:
            return Said()
        return Said(calls=[CallPiece(self.calls_made - 1, arguments="{}")])

    def _is_head(self, text: str) -> bool:
        """Whether a text is a header as far as it goes."""
        text = text.lstrip()
        return any(text.startswith(head) or head.startswith(text) for head in _HEADS)


def _doubtful(text: str, marks: Sequence[str]) -> int:
    """Return how many characters at the end may be the beginning of a mark."""
    return next(
        (
            count
            for count in range(min(len(text), max(map(len, marks)) - 1), 0, -1)
            if any(mark.startswith(text[-count:]) for mark in marks)
        ),
        0,
    )
