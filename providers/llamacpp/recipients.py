"""Reads answers of Muse: messages to somebody, to itself where it thinks, to a tool where it calls.

     to=self<|message|>Hm.<|eom|><|start|>assistant to=look<|message|><atem:function_calls>
    <atem:invoke name="look">
    <atem:parameter name="city">Paris</atem:parameter>
    </atem:invoke>
    </atem:function_calls><|eot|>

The prompt ends behind `<|start|>assistant`, so that the first header has no beginning.
"""

import re
from collections.abc import Sequence

import msgspec

from tollway.providers.llamacpp.frames import Message, Tool
from tollway.providers.llamacpp.harmony import Channels
from tollway.providers.llamacpp.schema import quoted
from tollway.providers.llamacpp.speech import Said, Speech
from tollway.providers.llamacpp.styles import Style
from tollway.providers.llamacpp.tagged import TaggedScanner

_TO = re.compile(r"to=([\w.-]+)")
_TO_ITSELF = "self"


class Recipients(Channels):
    """Tells thoughts, text and tool calls of one answer apart. See `speech.Hearer`.

    To whom a message is says what it is; where a call begins, its own tags do.
    """

    ends = ("<|eom|>", "<|eot|>", "<|start|>")

    def __init__(self, style: Style, tools: Sequence[Tool], *, forced: bool = False) -> None:
        """Begin at the first header; without `tools` calls are text."""
        super().__init__(calls=bool(tools), forced=forced)
        scanner = TaggedScanner(style.tags, tools) if style.tags and tools else None
        self._speech = Speech(style if tools else None, scanner, None, False, forced)
        self.marks = (*self.ends, "<|message|>", *self._speech.marks)

    @property
    def calling(self) -> bool:
        """Whether what comes now is a tool call, which a mark has begun."""
        return self._state == "text" and self._speech.calling

    def finish(self) -> Said:
        """Return what was held back, now that nothing follows."""
        self._speech.forced = self.forced
        return self._counted(super().finish().then(self._speech.finish()))

    def _opened(self, head: str) -> Said:
        to = _TO.search(head)
        self._state = "thought" if to and to[1] == _TO_ITSELF else "text"
        return Said()

    def _give(self, text: str) -> Said:
        said = super()._give(text)
        return self._counted(self._speech.feed(said.text)) if said.text else said

    def _counted(self, said: Said) -> Said:
        self.calls_made, self.calls_ended = self._speech.calls_made, self._speech.calls_ended
        return said


def apart(messages: Sequence[Message]) -> list[Message]:
    """Return a conversation in which no message both calls and says something.

    Each is to one recipient: a template that tells a call leaves out what is said beside it.
    """
    found: list[Message] = []
    for message in messages:
        if message.calls and message.content:
            found.append(msgspec.structs.replace(message, calls=[]))
            found.append(Message(message.role, "", calls=message.calls))
        else:
            found.append(message)
    return found


def calls_rule(style: Style, call: str, tools: Sequence[Tool], *, begun: bool) -> str:
    """Return the expression of a message to a tool, that calls it; `begun`: from its mark on."""
    if begun:
        return f'"\\n"? {call} "\\n"? {quoted(style.end)}'
    names = " | ".join(quoted(tool.name) for tool in tools)
    head = f'" to=" ({names}) "<|message|>" {quoted(style.begin)}'
    return f'{head} {call} "\\n"? {quoted(style.end)}'
