"""Tells thoughts, text and tool calls of one answer apart as it comes."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from tollway.providers.llamacpp.calls import CallScanner
from tollway.providers.llamacpp.frames import CallPiece
from tollway.providers.llamacpp.styles import Style

# A bare call may have this before it.
_PYTHON_TAG = "<|python_tag|>"


class Said(msgspec.Struct, frozen=True):
    """What a piece of an answer turned out to be."""

    text: str = ""
    thought: str = ""
    calls: list[CallPiece] = []

    def then(self, more: "Said") -> "Said":
        """Return both, in this order."""
        return Said(self.text + more.text, self.thought + more.thought, [*self.calls, *more.calls])


def _marks(style: Style | None, thoughts: tuple[str, str] | None) -> tuple[str, ...]:
    """Return the tokens that a reader of answers must be shown."""
    found = list(thoughts or ())
    # A tag may go on behind its token, as Gemma's `<|channel>thought` does.
    found += [f"{tag.partition('>')[0]}>" for tag in found if ">" in tag[:-1]]
    if style:
        found += [style.begin.strip(), style.end.strip(), *style.marks]
        found += [_PYTHON_TAG] if style.bare else []
        found += ["[ARGS]", "[CALL_ID]"] if style.named else []
    if style and (tags := style.tags):
        found += [tags.call, tags.key, tags.head_end, tags.value, tags.value_end, tags.end]
    return tuple(filter(None, found))


def joined(pieces: Sequence[CallPiece]) -> list[CallPiece]:
    """Return the same pieces of calls, those of one call in a row as one."""
    found: list[CallPiece] = []
    for piece in pieces:
        if found and found[-1].index == piece.index and not piece.name:
            arguments = found[-1].arguments + piece.arguments
            found[-1] = msgspec.structs.replace(found[-1], arguments=arguments)
        else:
            found.append(piece)
    return found


class Scanner(Protocol):
    """Reads tool calls a character at a time."""

    begun: int
    ended: int
    refused: bool  # what was read is no call

    @property
    def between(self) -> bool:
        """Whether no call is being read."""
        ...

    def feed(self, char: str) -> list[CallPiece]:
        """Return what one character more makes certain."""
        ...

    def ends(self) -> list[CallPiece]:
        """Return the end of a call that only what it stands in ends, now that this has."""
        ...

    def unclaimed(self) -> str:
        """Return, once, the text of what turned out to be no call; one cut short is a call."""
        ...


class Hearer(Protocol):
    """Tells thoughts, text and tool calls of one answer apart as it comes.

    Nothing that may be the beginning of a tag is given out before that is clear. The pieces that
    an answer comes in change nothing about what it turns out to be.
    """

    forced: bool  # a grammar holds to calls all that is not said yet

    @property
    def marks(self) -> tuple[str, ...]:
        """Tokens that must be shown to it, though they are not text."""
        ...

    @property
    def thinking(self) -> bool:
        """Whether what comes now is a thought, or tells what the next part is."""
        ...

    @property
    def calling(self) -> bool:
        """Whether what comes now is a tool call, which a mark has begun."""
        ...

    @property
    def calls_made(self) -> int:
        """How many tool calls have begun."""
        ...

    @property
    def calls_ended(self) -> int:
        """How many of them are whole."""
        ...

    def feed(self, text: str) -> Said:
        """Return what more of the answer makes certain."""
        ...

    def finish(self) -> Said:
        """Return what was held back, now that nothing follows."""
        ...


class Speech:
    """Hears an answer whose thoughts and calls stand between tags. See `Hearer`."""

    def __init__(
        self,
        style: Style | None,
        scanner: "Scanner | None",
        thoughts: tuple[str, str] | None,
        thinks: bool,
        forced: bool,
    ) -> None:
        self.forced = forced  # a grammar holds to calls all that is not said yet
        self._begin = style.begin.strip() if style else ""
        self._end = style.end.strip() if style else ""
        self._bare = bool(style and style.bare)
        self._tags = thoughts
        self._scanner = scanner
        self._held = ""
        self._state = "thought" if thinks else "start"
        self._trim = thinks  # white space that only separates
        self.marks = _marks(style, thoughts)

    @property
    def thinking(self) -> bool:
        """Whether what comes now is a thought."""
        return self._state == "thought"

    @property
    def calling(self) -> bool:
        """Whether what comes now is a tool call, which a mark has begun."""
        return self._state == "calls"

    @property
    def calls_made(self) -> int:
        """How many tool calls have begun."""
        return self._scanner.begun if self._scanner else 0

    @property
    def calls_ended(self) -> int:
        """How many of them are whole."""
        return self._scanner.ended if self._scanner else 0

    def feed(self, text: str) -> Said:
        """Return what more of the answer makes certain."""
        self._held += text
        said = Said()
        while True:
            before = (self._state, len(self._held))
            said = said.then(getattr(self, f"_in_{self._state}")())
            if before == (self._state, len(self._held)) or not self._held:
                break
        # The scanner goes by characters; a client should get a piece for each token.
        return Said(said.text, said.thought, joined(said.calls)) if said.calls else said

    def finish(self) -> Said:
        """Return what was held back, now that nothing follows."""
        held, self._held = self._held, ""
        match self._state:
            case "thought":
                return Said(thought=held)
            case _ if self.forced:  # what was cut short before its name was no text either
                return Said()
            case "bare" | "calls" if self._scanner:
                return Said(self._scanner.unclaimed() + (held if self._state == "bare" else ""))
        return Said("" if self._trim and not held.strip() else held)

    def _in_start(self) -> Said:
        ahead = self._held.lstrip()
        begin = self._tags[0] if self._tags else ""
        if begin and ahead.startswith(begin):
            self._held, self._state, self._trim = ahead[len(begin) :], "thought", True
        elif not begin or (ahead and not begin.startswith(ahead)):
            self._state = "first"
        return Said()

    def _in_thought(self) -> Said:
        tag = self._tags[1] if self._tags else ""
        if self._trim:
            self._held = self._held.lstrip()
            if not self._held:
                return Said()
            self._trim = False
        thought, found = self._until(tag)
        if found:
            self._state, self._trim = "first", True
            thought = thought.rstrip()
        return Said(thought=thought)

    def _in_first(self) -> Said:
        """Look at the beginning of what is no thought, where a bare call may stand."""
        ahead = self._held.lstrip()
        if self._trim:
            self._held = ahead
        if not self._bare:
            if ahead or not self._trim:
                self._state = "text"
            return Said()
        if ahead.startswith(_PYTHON_TAG):
            self._held, self._state = ahead[len(_PYTHON_TAG) :], "bare"
        elif ahead[:1] in {"{", "["} and ahead:
            self._state = "bare"
        elif ahead and not _PYTHON_TAG.startswith(ahead):
            self._state = "text"
        return Said()

    def _in_text(self) -> Said:
        if self._trim:
            self._held = self._held.lstrip()
            if not self._held:
                return Said()
        if not self._begin:
            text, self._held, self._trim = self._held, "", False
            return Said(text)
        text, found = self._until(self._begin)
        if found:
            self._state = "calls"
            text = text.rstrip()
        if text:
            self._trim = False
        return Said(text)

    def _in_calls(self) -> Said:
        scanner = self._scanner or CallScanner()
        pieces: list[CallPiece] = []
        while self._held:
            if scanner.between:
                ahead = self._held.lstrip()
                if self._end and ahead.startswith(self._end):
                    pieces += scanner.ends()
                    self._held, self._state, self._trim = ahead[len(self._end) :], "text", True
                    break
                if not ahead or (self._end and self._end.startswith(ahead)):
                    break
                if ahead.startswith(self._begin):
                    self._held = ahead[len(self._begin) :]
                    continue
                if self._begin.startswith(ahead):
                    break
            pieces += scanner.feed(self._held[0])
            self._held = self._held[1:]
        return Said(calls=pieces)

    def _in_bare(self) -> Said:
        scanner = self._scanner or CallScanner()
        pieces: list[CallPiece] = []
        for at, char in enumerate(self._held):
            pieces += scanner.feed(char)
            if scanner.refused:
                text = scanner.unclaimed() + self._held[at + 1 :]
                # What is no call is text to the end: another brace in it is no call either.
                self._held, self._state, self._begin = text, "text", ""
                return Said(calls=pieces)
        self._held = ""
        return Said(calls=pieces)

    def _until(self, tag: str) -> tuple[str, bool]:
        """Take what stands before a tag and return it, and whether the tag was there."""
        text, found, rest = self._held.partition(tag)
        if found:
            self._held = rest
            return text, True
        doubtful = next(
            (n for n in range(min(len(tag) - 1, len(text)), 0, -1) if tag.startswith(text[-n:])), 0
        )
        # White space before a tag belongs to neither.
        while doubtful < len(text) and text[-doubtful - 1].isspace():
            doubtful += 1
        cut = len(text) - doubtful
        self._held = text[cut:]
        return text[:cut], False
