"""Reads a Gemini answer, streamed or whole, into the events of the neutral form.

A chunk is a whole answer of its own with less in it, so both are read alike.
"""

from typing import Any

import msgspec

from tollway.providers import events as ev
from tollway.providers.conversation import Conversation, Opaque, Source, Tool
from tollway.providers.dialects.gemini_ask import tool_name
from tollway.providers.dialects.gemini_errors import error_within, said_in
from tollway.providers.dialects.gemini_read import usage_of
from tollway.providers.dialects.gemini_request import NAME
from tollway.providers.dialects.gemini_said import media
from tollway.providers.dialects.gemini_sources import Sources
from tollway.providers.dialects.wire import UNREADABLE, CallIds, Names, text_of
from tollway.providers.errors import UpstreamBroke, UpstreamGaveUp
from tollway.providers.fold import fold
from tollway.providers.sse import Event

_REASONS: dict[str, ev.StopReason] = {
    "STOP": "end",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",  # of one request; Google's libraries go on with another
    **dict.fromkeys(
        (
            *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE"),
            *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR"),
            *("ESCALATION", "PUP_LIMITED_DISABLED"),
        ),
        "filtered",
    ),
}
# The model made something that is no answer; to ask again helps.
_NO_ANSWER = frozenset(
    {
        *("MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "MISSING_THOUGHT_SIGNATURE"),
        *("UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS"),
    }
)


class _Chunk(msgspec.Struct):
    candidates: list[Any] | None = None
    usageMetadata: Any = None  # noqa: N815 - Google's name
    promptFeedback: Any = None  # noqa: N815 - Google's name
    modelVersion: Any = None  # noqa: N815 - Google's name
    responseId: Any = None  # noqa: N815 - Google's name
    error: Any = None


_CHUNK = msgspec.json.Decoder(_Chunk)


class Reader:
    """Reads one attempt's answer; see `EventReader` for what its methods give."""

    def __init__(self, said: Conversation) -> None:
        self.ended = False
        self.dropped: set[str] = set()
        self._n = said.n
        self._names = Names(
            tool_name, tuple(tool.name for tool in said.tools if isinstance(tool, Tool))
        )
        self._custom = frozenset(
            tool.name for tool in said.tools if isinstance(tool, Tool) and tool.kind == "custom"
        )
        self._id = ""
        self._started = False
        self._ids = CallIds(said)
        self._called: set[int] = set()
        self._sources: dict[int, Sources] = {}
        self._signed: set[int] = set()  # whose text is signed, so that more would be another one
        self._stopped: dict[int, ev.Stopped] = {}

    def event(self, event: Event) -> list[ev.Event]:
        """Return what one event of a stream means.

        Raises:
            UpstreamBroke: It is no event of this dialect, or says that there is no answer.
        """
        said = said_in(event)
        return [] if said is None else self._read(said)

    def end(self) -> list[ev.Event]:
        """Return the sources that wait, and how each choice stopped.

        Early models say in every chunk that they stopped, so that waits too.
        """
        rest = [event for one in self._sources.values() for event in one.rest()]
        stopped, self._stopped = self._stopped, {}
        return [*rest, *(stopped[index] for index in sorted(stopped))]

    def whole(self, body: bytes) -> ev.Answer:
        """Return a whole, unstreamed answer.

        Raises:
            UpstreamBroke: It is no answer of this dialect.
        """
        found = self._read(body)
        self.ended = True
        return fold([*found, *self.end()])

    def _read(self, data: bytes) -> list[ev.Event]:
        try:
            said = _CHUNK.decode(data)
        except UNREADABLE:
            raise UpstreamBroke("The provider sent an event that cannot be read") from None
        if said.error is not None:
            failed = error_within(data)
            return [ev.Failed(failed.status, failed.message, data)]
        found: list[ev.Event] = []
        if not self._started:
            self._started = True
            self._id = said.responseId if isinstance(said.responseId, str) else ""
            model = said.modelVersion if isinstance(said.modelVersion, str) else ""
            found.append(ev.Start(self._id, model))
        for place, candidate in enumerate(said.candidates or ()):
            if isinstance(candidate, dict):
                found += self._candidate(candidate, place)
        if not said.candidates and isinstance(said.promptFeedback, dict):
            if why := text_of(said.promptFeedback, "blockReasonMessage"):
                found.append(ev.RefusalDelta(why))
            self._stop(0, "filtered")
        if isinstance(said.usageMetadata, dict):
            usage = usage_of(said.usageMetadata)
            if usage is not None:
                found.append(ev.UsageReport(usage))
        return found

    def _candidate(self, said: dict[str, Any], place: int) -> list[ev.Event]:
        index = said.get("index")
        choice = index if type(index) is int else place
        content = said.get("content")
        parts = content.get("parts") if isinstance(content, dict) else None
        found: list[ev.Event] = []
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict):
                found += self._part(part, choice)
        found = self._sourced(choice).placed(found, said)
        found += _logprobs(said.get("logprobsResult"), choice)
        if (found_reason := said.get("finishReason")) is not None:
            reason = str(found_reason)
            # A call of a tool that was not declared is one that the client can refuse.
            if reason in _NO_ANSWER and choice not in self._called:
                why = text_of(said, "finishMessage") or f"its `finishReason` is {reason}"
                raise UpstreamGaveUp(f"The model's answer is none: {why[:300]}")
            known: ev.StopReason = "end" if reason in _NO_ANSWER else "other"
            stop = _REASONS.get(reason, known)
            if stop == "filtered" and (why := text_of(said, "finishMessage")):
                found.append(ev.RefusalDelta(why, choice))
            self._stop(choice, stop)
        return found

    def _sourced(self, choice: int) -> Sources:
        if choice not in self._sources:
            self._sources[choice] = Sources(choice)
        return self._sources[choice]

    def _stop(self, choice: int, reason: ev.StopReason) -> None:
        if reason == "end" and choice in self._called:
            reason = "tools"
        self._stopped[choice] = ev.Stopped(reason, choice=choice)
        self.ended = len(self._stopped) >= self._n

    def _part(self, part: dict[str, Any], choice: int) -> list[ev.Event]:
        signature = text_of(part, "thoughtSignature")
        signed: list[ev.Event] = [ev.Signed(NAME, signature, choice=choice)] if signature else []
        found: list[ev.Event]
        if isinstance(call := part.get("functionCall"), dict):
            found = self._call(call, signature, choice)
        elif part.get("thought") and "inlineData" in part:
            self.dropped.add("thought.inlineData")  # a draft, which is not the picture asked for
            found = signed
        elif isinstance(data := part.get("inlineData"), dict):
            source = Source("base64", text_of(data, "data"), text_of(data, "mimeType"))
            found = [ev.PartWhole(media(source), choice)]
        elif part.get("thought"):
            found = [ev.ThinkingDelta(text_of(part, "text"), choice, summary=True), *signed]
            found += [ev.PartEnd(choice)] if signed else []
        elif isinstance(text := part.get("text"), str):
            found = self._text(text, signed, choice)
        else:
            kind = next((name for name in part if name != "thoughtSignature"), "")
            found = [ev.PartWhole(Opaque(NAME, msgspec.json.encode(part), kind), choice)]
        return found

    def _text(self, text: str, signed: list[ev.Event], choice: int) -> list[ev.Event]:
        """Return more of a text.

        One that is signed ends where another text begins, and not before: its sources may come
        behind.
        """
        found: list[ev.Event] = []
        if text and choice in self._signed:
            self._signed.discard(choice)
            found.append(ev.PartEnd(choice))
        if signed:
            self._signed.add(choice)
        return [*found, ev.TextDelta(text, choice), *signed]

    def _call(self, call: dict[str, Any], signature: str, choice: int) -> list[ev.Event]:
        self._called.add(choice)
        id_ = self._ids.own(text_of(call, "id"), self._id)
        name = self._names.ours(text_of(call, "name"))
        given = call.get("args")
        arguments = msgspec.json.encode(given if given is not None else {}).decode()
        kind: Any = "function"
        if name in self._custom:
            kind = "custom"
            arguments = text_of(given, "input") if isinstance(given, dict) else arguments
        by = NAME if signature else ""
        return [
            ev.ToolStart(id_, name, kind, choice, signature, by),
            ev.ToolDelta(arguments, choice),
            ev.PartEnd(choice),
        ]


def _logprobs(said: object, choice: int) -> list[ev.Event]:
    chosen = said.get("chosenCandidates") if isinstance(said, dict) else None
    tops = said.get("topCandidates") if isinstance(said, dict) else None
    tokens: list[ev.Logprob] = []
    for place, one in enumerate(chosen if isinstance(chosen, list) else ()):
        top = tops[place] if isinstance(tops, list) and place < len(tops) else {}
        listed = top.get("candidates") if isinstance(top, dict) else None
        others = listed if isinstance(listed, list) else []
        tokens.append(_token(one, tuple(_token(other) for other in others)))
    return [ev.LogprobsDelta(tuple(tokens), choice)] if tokens else []


def _token(said: object, top: tuple[ev.Logprob, ...] = ()) -> ev.Logprob:
    one = said if isinstance(said, dict) else {}
    number = one.get("logProbability")
    likely = float(number) if isinstance(number, int | float) else 0.0
    return ev.Logprob(text_of(one, "token"), likely, top=top)
