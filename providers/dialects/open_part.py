"""The open part of an answer that comes in pieces, as readers of several dialects keep it."""

from collections.abc import Callable

from tollway.providers import events as ev
from tollway.providers.conversation import Conversation, Tool
from tollway.providers.dialects.wire import CallIds, Names, unwrapped

CALL = "call"


class OpenPart:
    """Which part is open, and the arguments of a call that must be whole to be read.

    A plain-text tool stands in a request as one that takes JSON with a single text in it; its
    calls are held back until they are whole, and turned back. Names are turned back too.
    """

    def __init__(self, said: Conversation, tool_name: Callable[[str], str]) -> None:
        """Take what was asked, and how a tool's name was fitted to the target."""
        tools = [tool for tool in said.tools if isinstance(tool, Tool)]
        self._names = Names(tool_name, tuple(tool.name for tool in tools))
        self._wrapped = frozenset(tool.name for tool in tools if tool.kind == "custom")
        self._ids = CallIds(said)
        self._open = ""
        self._plain = False
        self._pieces: list[str] = []

    def begin(self, kind: str, out: list[ev.Event]) -> None:
        """Open a part of a kind, where that is not the one that is open."""
        if self._open != kind:
            self.close(out)
            self._open = kind

    def call(self, id_: str, name: str, answer: str, out: list[ev.Event]) -> None:
        """Open a call; where it came without an id of its own, it gets one."""
        self.close(out)
        ours = self._names.ours(name)
        self._open, self._plain = CALL, ours in self._wrapped
        made = self._ids.own(id_, answer)
        out.append(ev.ToolStart(made, ours, "custom" if self._plain else "function"))

    def arguments(self, text: str, out: list[ev.Event]) -> None:
        """Take more of the open call's arguments."""
        if self._open != CALL or not text:
            return
        self._pieces.append(text)
        if not self._plain:
            out.append(ev.ToolDelta(text))

    def close(self, out: list[ev.Event]) -> None:
        """End the open part, if there is one."""
        if self._open == CALL:
            if self._plain:
                out.append(ev.ToolDelta(unwrapped("".join(self._pieces))))
            elif not self._pieces:
                out.append(ev.ToolDelta("{}"))
        if self._open:
            out.append(ev.PartEnd())
        self._pieces.clear()
        self._open, self._plain = "", False
