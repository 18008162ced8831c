"""From events to a whole answer and back: one fold for every dialect."""

from collections.abc import Iterable, Iterator
from typing import assert_never

import msgspec

from tollway.providers.canon import Usage
from tollway.providers.conversation import Citation, Part, Refusal, Text, Thinking, ToolCall
from tollway.providers.events import (
    Answer,
    Choice,
    CitationAdded,
    Event,
    Failed,
    Logprob,
    LogprobsDelta,
    PartEnd,
    PartWhole,
    RefusalDelta,
    Signed,
    Start,
    Stopped,
    StopReason,
    TextDelta,
    ThinkingDelta,
    ToolDelta,
    ToolStart,
    UsageReport,
)


class Fold:
    """Collects the events of one answer. It never raises: what is out of order is kept."""

    def __init__(self) -> None:
        self.failed: Failed | None = None
        self._start = Start()
        self._usage: Usage | None = None
        self._choices: dict[int, _Open] = {}

    def add(self, event: Event) -> None:
        """Take the next event."""
        if isinstance(event, Start):
            self._start = event
        elif isinstance(event, UsageReport):
            self._usage = event.usage
        elif isinstance(event, Failed):
            self.failed = event
        else:
            choice = self._choices.get(event.choice)
            if choice is None:
                choice = self._choices[event.choice] = _Open()
            choice.add(event)

    def answer(self) -> Answer:
        """Return what has come so far as a whole answer; parts that hold nothing are left out."""
        return Answer(
            choices=tuple(self._choices[index].whole() for index in sorted(self._choices)),
            usage=self._usage,
            id=self._start.id,
            model=self._start.model,
            created=self._start.created,
        )


_OfChoice = (
    TextDelta
    | ThinkingDelta
    | Signed
    | RefusalDelta
    | ToolStart
    | ToolDelta
    | CitationAdded
    | LogprobsDelta
    | PartWhole
    | PartEnd
    | Stopped
)


class _Open:
    """One choice while it comes: the parts that are whole, and the pieces of the open one."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._open: Part | None = None  # without its text, which is in pieces
        self._pieces: list[str] = []
        self._citations: list[Citation] = []
        self._logprobs: list[Logprob] = []
        self._refusal_logprobs: list[Logprob] = []
        self._stop: StopReason | None = None
        self._sequence = ""

    def add(self, event: _OfChoice) -> None:
        match event:
            case TextDelta():
                self._piece(Text(""), event.text)
            case ThinkingDelta():
                self._piece(Thinking(summary=event.summary), event.text)
            case RefusalDelta():
                self._piece(Refusal(""), event.text)
            case ToolDelta():
                self._piece(ToolCall("", "", ""), event.arguments)
            case ToolStart():
                self._close()
                self._open = ToolCall(
                    event.id, event.name, "", event.kind, signature=event.signature, by=event.by
                )
            case Signed():
                self._sign(event)
            case CitationAdded():
                self._piece(Text(""), "")
                self._citations.append(event.citation)
            case PartWhole():
                self._close()
                self._parts.append(event.part)
            case PartEnd():
                self._close()
            case LogprobsDelta():
                into = self._refusal_logprobs if event.refusal else self._logprobs
                into += event.tokens
            case Stopped():
                self._close()
                self._stop, self._sequence = event.reason, event.sequence
            case _:
                assert_never(event)

    def whole(self) -> Choice:
        self._close()
        return Choice(
            tuple(self._parts),
            self._stop,
            self._sequence,
            tuple(self._logprobs),
            tuple(self._refusal_logprobs),
        )

    def _piece(self, part: Part, text: str) -> None:
        if type(self._open) is not type(part):
            self._close()
            self._open = part
        self._pieces.append(text)

    def _sign(self, event: Signed) -> None:
        part = self._open or Thinking()
        if isinstance(part, Text | ToolCall | Thinking):
            signature = event.signature or part.signature
            part = msgspec.structs.replace(part, by=event.by, signature=signature)
        if isinstance(part, Thinking):
            part = msgspec.structs.replace(
                part, encrypted=event.encrypted or part.encrypted, id=event.id or part.id
            )
        self._open = part

    def _close(self) -> None:
        part, self._open = self._open, None
        text = "".join(self._pieces)
        self._pieces.clear()
        match part:
            case Text():
                citations = tuple(self._citations)
                part = msgspec.structs.replace(part, text=text, citations=citations)
                self._citations.clear()
            case Thinking() | Refusal():
                part = msgspec.structs.replace(part, text=text)
            case ToolCall():
                part = msgspec.structs.replace(part, arguments=text)
        if part is not None and not is_empty(part):
            self._parts.append(part)


def is_empty(part: Part) -> bool:
    """Whether a part says nothing, so that an answer is the same without it."""
    match part:
        case Text():
            return not (part.text or part.citations or part.signature)
        case Thinking():
            return not (part.text or part.signature or part.encrypted)
        case Refusal():
            return not part.text
        case _:
            return False


def fold(events: Iterable[Event]) -> Answer:
    """Return the whole answer that events make."""
    folded = Fold()
    for event in events:
        folded.add(event)
    return folded.answer()


def unfold(answer: Answer) -> Iterator[Event]:
    """Yield events that fold to an answer: for a client that wants a stream of it."""
    yield Start(answer.id, answer.model, answer.created)
    for index, choice in enumerate(answer.choices):
        shares = _shares(choice)
        refusal = choice.refusal_logprobs
        for place, part in enumerate(choice.parts):
            for event in _unfolded(part, index):
                yield event
                if isinstance(event, TextDelta) and place in shares:
                    yield LogprobsDelta(shares.pop(place), index)
                elif isinstance(event, RefusalDelta) and refusal:
                    yield LogprobsDelta(refusal, index, refusal=True)
                    refusal = ()
        for tokens in shares.values():  # of an answer without a text
            yield LogprobsDelta(tokens, index)
        if refusal:
            yield LogprobsDelta(refusal, index, refusal=True)
        if choice.stop is not None:
            yield Stopped(choice.stop, choice.sequence, index)
    if answer.usage is not None:
        yield UsageReport(answer.usage)


def _shares(choice: Choice) -> dict[int, tuple[Logprob, ...]]:
    """Return how likely the tokens of each text were, by its place; at -1 where there is none."""
    tokens = choice.logprobs
    texts = [place for place, part in enumerate(choice.parts) if isinstance(part, Text)]
    found: dict[int, tuple[Logprob, ...]] = {}
    for place in texts[:-1]:
        part, taken, length = choice.parts[place], 0, 0
        while taken < len(tokens) and isinstance(part, Text) and length < len(part.text):
            length += len(tokens[taken].token)
            taken += 1
        found[place], tokens = tokens[:taken], tokens[taken:]
    found[texts[-1] if texts else -1] = tokens
    return {place: share for place, share in found.items() if share}


def _unfolded(part: Part, index: int) -> Iterator[Event]:
    match part:
        case Text():
            yield TextDelta(part.text, index)
            for citation in part.citations:
                yield CitationAdded(citation, index)
            if part.by:
                yield Signed(part.by, part.signature, choice=index)
        case Thinking(text="", signature="", encrypted=_) if part.encrypted:
            yield PartWhole(part, index)
            return
        case Thinking():
            yield ThinkingDelta(part.text, index, summary=part.summary)
            if part.by:
                yield Signed(part.by, part.signature, part.encrypted, part.id, index)
        case Refusal():
            yield RefusalDelta(part.text, index)
        case ToolCall():
            yield ToolStart(part.id, part.name, part.kind, index, part.signature, part.by)
            yield ToolDelta(part.arguments, index)
        case _:
            yield PartWhole(part, index)
            return
    yield PartEnd(index)
