"""Reads answers of functionary 3.2: messages to all, or to a tool, which that calls.

    all
    I look.>>>look
    {"city": "Paris"}

The prompt ends behind `>>>`, so that the first header has no beginning.
"""

from collections.abc import Sequence

from tollway.providers.llamacpp.framed import FramedScanner
from tollway.providers.llamacpp.frames import Tool
from tollway.providers.llamacpp.harmony import Channels
from tollway.providers.llamacpp.speech import Said, joined
from tollway.providers.llamacpp.styles import Frame

OPENING = ">>>"
_ALL = "all"


class Prompted(Channels):
    """Tells text and tool calls of one answer apart. See `speech.Hearer`."""

    marks = ()
    start = OPENING

    def __init__(self, tools: Sequence[Tool], *, forced: bool = False) -> None:
        """Begin at the first header; what names none of the tools is text."""
        super().__init__(calls=bool(tools), forced=forced)
        # A call ends with its arguments, before another one is told.
        self._scanner = FramedScanner(Frame("<", ">"))
        self._names = (_ALL, *(tool.name for tool in tools))
        self.ends = tuple(f"{OPENING}{name}\n" for name in self._names)

    @property
    def calling(self) -> bool:
        """Whether what comes now is a tool call."""
        return self._state == "call"

    def finish(self) -> Said:
        """Return what was held back, now that nothing follows."""
        if self._state != "call":
            return super().finish()
        return self._counted(Said(calls=self._scanner.ends()))

    def _in_head(self) -> Said:
        ahead = self._held.lstrip().removeprefix(OPENING)
        name, found, rest = ahead.partition("\n")
        if not found or name not in self._names:
            if not self._is_head(self._held):
                self._state, self._gave = "text", False
            return Said()
        self._held, self._gave = rest, False
        if name == _ALL:
            self._state = "text"
            return Said()
        self._state = "call"
        return self._scanned(f"<{name}>")[0]

    def _in_body(self) -> Said:
        if self._state != "call":
            return super()._in_body()
        said, self._held = self._scanned(self._held)
        return said

    def _scanned(self, text: str) -> tuple[Said, str]:
        """Read of a call what there is of it; return that and what follows the call."""
        pieces, ended = [], self._scanner.ended
        for at, char in enumerate(text, 1):
            pieces += self._scanner.feed(char)
            if self._scanner.ended > ended:
                self._state = "head"
                return self._counted(Said(calls=joined(pieces))), text[at:]
        return self._counted(Said(calls=joined(pieces))), ""

    def _counted(self, said: Said) -> Said:
        self.calls_made, self.calls_ended = self._scanner.begun, self._scanner.ended
        return said

    def _is_head(self, text: str) -> bool:
        text = text.lstrip()
        return any(end.startswith((text, f"{OPENING}{text}")) for end in self.ends)
