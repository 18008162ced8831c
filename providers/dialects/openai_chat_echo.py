"""Takes from an answer what it repeats of its request: Mistral's begin with their `prefix`.

To clients of other dialects an answer goes on where its beginning ended. Whether it repeats that
is seen by its first words, which wait until they differ from it or hold all of it.
"""

import msgspec

from tollway.providers import events as ev
from tollway.providers.conversation import Conversation, Text, beginning
from tollway.providers.dialects.dialect import EventReader
from tollway.providers.sse import Event


def unechoed(reader: EventReader, said: Conversation) -> EventReader:
    """Return a reader of an answer without the beginning that its request gives, if any."""
    begun = beginning(said)
    texts = [part.text for part in begun.parts if isinstance(part, Text)] if begun else []
    echo = "".join(texts)
    return _Unechoed(reader, echo) if echo else reader


class _Unechoed:
    """See `EventReader` for what its methods give."""

    def __init__(self, reader: EventReader, echo: str) -> None:
        self._reader = reader
        self._echo = echo
        self._held: dict[int, str] = {}  # by choice: what so far is the same
        self._over: set[int] = set()

    @property
    def ended(self) -> bool:
        """Whether the dialect's own end was seen."""
        return self._reader.ended

    @property
    def dropped(self) -> set[str]:
        """What of the answer no event says."""
        return self._reader.dropped

    def event(self, event: Event) -> list[ev.Event]:
        """Return what one event of a stream means.

        Raises:
            UpstreamBroke: It is no event of the reader's dialect.
        """
        return self._without(self._reader.event(event))

    def end(self) -> list[ev.Event]:
        """Return what was held back."""
        rest = self._without(self._reader.end())
        return [*(one for choice in sorted(self._held) for one in self._let_go(choice)), *rest]

    def whole(self, body: bytes) -> ev.Answer:
        """Return a whole, unstreamed answer.

        Raises:
            UpstreamBroke: It is no answer of the reader's dialect.
        """
        answer = self._reader.whole(body)
        choices = tuple(self._choice(choice) for choice in answer.choices)
        return msgspec.structs.replace(answer, choices=choices)

    def _choice(self, choice: ev.Choice) -> ev.Choice:
        first = next((part for part in choice.parts if isinstance(part, Text)), None)
        if first is None or not first.text.startswith(self._echo):
            return choice
        rest = msgspec.structs.replace(first, text=first.text.removeprefix(self._echo))
        parts = [rest if part is first else part for part in choice.parts]
        kept = tuple(part for part in parts if part is not rest or rest.text)
        return msgspec.structs.replace(choice, parts=kept)

    def _without(self, found: list[ev.Event]) -> list[ev.Event]:
        out: list[ev.Event] = []
        for one in found:
            if isinstance(one, ev.TextDelta) and one.choice not in self._over:
                out += self._text(one)
            elif (choice := getattr(one, "choice", None)) is None:
                out.append(one)
            else:
                out += [*self._let_go(choice), one]
        return out

    def _text(self, delta: ev.TextDelta) -> list[ev.Event]:
        choice = delta.choice
        text = self._held.pop(choice, "") + delta.text
        if len(text) < len(self._echo) and self._echo.startswith(text):
            self._held[choice] = text
            return []
        self._over.add(choice)
        rest = text.removeprefix(self._echo)
        return [ev.TextDelta(rest, choice)] if rest else []

    def _let_go(self, choice: int) -> list[ev.Event]:
        """Return what is held of a choice whose text is over, or waits for more no longer."""
        held = self._held.pop(choice, "")
        if held:
            self._over.add(choice)
        return [ev.TextDelta(held, choice)] if held else []
