"""Writes an answer as Gemini does, streamed or whole.

A function's call comes in one piece there, so its arguments wait until they are whole.
"""

from typing import Any

import msgspec

from tollway.providers import events as ev
from tollway.providers.canon import Call, Usage
from tollway.providers.conversation import (
    Citation,
    Image,
    Opaque,
    Part,
    Refusal,
    Source,
    Text,
    Thinking,
    ToolCall,
    carry,
)
from tollway.providers.dialects.gemini_request import NAME
from tollway.providers.dialects.gemini_said import packed
from tollway.providers.dialects.wire import object_text, wrapped

_REASONS: dict[ev.StopReason, str] = {
    "end": "STOP",
    "tools": "STOP",
    "stop_sequence": "STOP",
    "paused": "STOP",
    "length": "MAX_TOKENS",
    "window": "MAX_TOKENS",
    "refusal": "SAFETY",
    "filtered": "SAFETY",
    "other": "OTHER",
}
_Object = dict[str, Any]
# What stands within an open text, or beside it.
_OF_TEXT = (
    *(ev.TextDelta, ev.RefusalDelta, ev.Signed, ev.CitationAdded, ev.LogprobsDelta),
    *(ev.Start, ev.UsageReport, ev.Stopped, ev.Failed),
)


class Writer:
    """Writes one answer; see `Writer` of `dialect` for what its methods give."""

    def __init__(self, call: Call) -> None:
        self.dropped: set[str] = set()
        self.service = ""
        self._call = call
        self._start = ev.Start()
        self._usage: Usage | None = None
        self._calls: dict[int, tuple[ev.ToolStart, list[str]]] = {}
        self._thinks: set[int] = set()
        self._stopped: dict[int, ev.StopReason] = {}
        self._sources: dict[int, list[_Object]] = {}
        self._texts: dict[int, _Text] = {}

    def event(self, event: ev.Event) -> bytes:
        """Return the bytes of a stream that stand for an event."""
        choice = getattr(event, "choice", 0)
        parts: list[_Object] = []
        if not isinstance(event, ev.ToolDelta | ev.Signed) and choice in self._calls:
            parts.append(self._called(choice))
        match event:
            case ev.Start():
                self._start = event
            case ev.UsageReport():
                self._usage = event.usage
            case ev.Stopped():
                self._stopped[choice] = event.reason
            case ev.CitationAdded():
                self._cite(event.citation, choice)
            case ev.LogprobsDelta():
                return (self._chunk(choice, parts) if parts else b"") + self._weighed(event)
            case _:
                parts += self._parts(event, choice)
        self._note(event, choice)
        return self._chunk(choice, parts) if parts else b""

    def _parts(self, event: ev.Event, choice: int) -> list[_Object]:
        """Return the parts that an event shows; a call's come once it is whole."""
        parts: list[_Object] = []
        match event:
            case ev.TextDelta() | ev.RefusalDelta() if event.text:
                parts = [{"text": event.text}]
                self._text(choice).add(event.text)
            case ev.ThinkingDelta() if event.text:
                parts = [{"text": event.text, "thought": True}]
            case ev.ToolStart():
                self._calls[choice] = (event, [])
            case ev.ToolDelta() if choice in self._calls:
                self._calls[choice][1].append(event.arguments)
            case ev.Signed():
                parts = self._signed(event)
            case ev.PartWhole():
                parts = self._whole(event.part)
            case _:
                pass
        return parts

    def end(self) -> bytes:
        """Return the bytes that end a stream: why each choice stopped, and what was used."""
        written = []
        for choice, reason in sorted(self._stopped.items()):
            # Google's own last event has an empty text; programs read the first part of each.
            last: _Object = self._called(choice) if choice in self._calls else {"text": ""}
            written.append(self._candidate(choice, [last], reason))
        return self._event({"candidates": written})

    def whole(self, answer: ev.Answer) -> bytes:
        """Return a whole answer's body."""
        self._start = ev.Start(answer.id, answer.model, answer.created)
        self._usage = answer.usage
        written: list[_Object] = []
        for index, choice in enumerate(answer.choices):
            parts = [one for part in choice.parts for one in self._whole(part, index)]
            candidate = self._candidate(index, parts, choice.stop or "end")
            if choice.logprobs:
                candidate["logprobsResult"] = _logprobs(choice.logprobs)
            written.append(candidate)
        return msgspec.json.encode(self._answer({"candidates": written}))

    def _note(self, event: ev.Event, choice: int) -> None:
        """Remember what is open: a signature goes where thoughts are, a place is one in a text."""
        if not isinstance(event, _OF_TEXT):
            self._text(choice).end_part()
        if isinstance(event, ev.ThinkingDelta):
            self._thinks.add(choice)
        elif not isinstance(event, ev.Signed | ev.UsageReport | ev.Start | ev.Failed):
            self._thinks.discard(choice)

    def _called(self, choice: int) -> _Object:
        start, pieces = self._calls.pop(choice)
        call = ToolCall(
            start.id,
            start.name,
            "".join(pieces),
            start.kind,
            signature=start.signature,
            by=start.by,
        )
        return _call(call)

    def _signed(self, event: ev.Signed) -> list[_Object]:
        """Return the part that carries a signature: of the call that is open, or of its own."""
        if event.choice in self._calls:
            start, pieces = self._calls[event.choice]
            signed = msgspec.structs.replace(start, signature=event.signature, by=event.by)
            self._calls[event.choice] = (signed, pieces)
            return []
        proof = _proof(event.by, event.signature, event.encrypted)
        if not proof:
            return []
        thinks = event.choice in self._thinks or event.by != NAME
        return [{"text": "", **({"thought": True} if thinks else {}), "thoughtSignature": proof}]

    def _whole(self, part: Part, choice: int = 0) -> list[_Object]:
        written: _Object | None = None
        match part:
            case Text() | Refusal():
                written = {"text": part.text}
                self._text(choice).add(part.text)
                if isinstance(part, Text):
                    for citation in part.citations:
                        self._cite(citation, choice)
                    if part.by == NAME and part.signature:
                        written["thoughtSignature"] = part.signature
                self._text(choice).end_part()
            case Thinking():
                written = {"text": part.text, "thought": True}
                if proof := _proof(part.by, part.signature, part.encrypted):
                    written["thoughtSignature"] = proof
            case ToolCall():
                written = _call(part)
            case Image(source=Source(kind="base64" | "url")):
                written = _picture(part.source)
            case Opaque(by="gemini"):
                written = msgspec.json.decode(part.payload, type=_Object)
            case _:
                self.dropped.add(
                    part.type if isinstance(part, Opaque) else type(part).__name__.lower()
                )
        return [] if written is None else [written]

    def _cite(self, citation: Citation, choice: int) -> None:
        if not citation.url:
            self.dropped.add("citations")
            return
        place = self._text(choice).place(citation)
        source: _Object = {**place, "uri": citation.url, "title": citation.title}
        self._sources.setdefault(choice, []).append(source)

    def _text(self, choice: int) -> "_Text":
        found = self._texts.get(choice)
        if found is None:
            found = self._texts[choice] = _Text()
        return found

    def _weighed(self, event: ev.LogprobsDelta) -> bytes:
        if event.refusal:
            self.dropped.add("logprobs")  # of a refusal, which is a text like any other here
            return b""
        candidate = {"index": event.choice, "logprobsResult": _logprobs(event.tokens)}
        return self._event({"candidates": [candidate]})

    def _candidate(
        self, choice: int, parts: list[_Object], reason: ev.StopReason | None
    ) -> _Object:
        said: _Object = {"content": {"role": "model", "parts": parts}, "index": choice}
        if reason is not None:
            said["finishReason"] = _REASONS[reason]
            if sources := self._sources.pop(choice, None):
                said["citationMetadata"] = {"citationSources": sources}
        return said

    def _chunk(self, choice: int, parts: list[_Object]) -> bytes:
        return self._event({"candidates": [self._candidate(choice, parts, None)]})

    def _event(self, said: _Object) -> bytes:
        return b"data: " + msgspec.json.encode(self._answer(said)) + b"\r\n\r\n"

    def _answer(self, said: _Object) -> _Object:
        if self._usage is not None:
            said["usageMetadata"] = usage(self._usage)
        said["modelVersion"] = self._start.model or self._call.model
        if self._start.id:
            said["responseId"] = self._start.id
        return said


class _Text:
    """The text of a choice so far: Google counts places in it by bytes."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0
        self._opened = 0  # where the open part began

    def add(self, piece: str) -> None:
        self._pieces.append(piece)
        self._length += len(piece)

    def end_part(self) -> None:
        self._opened = self._length

    def place(self, citation: Citation) -> _Object:
        """Return where a citation of the open part stands; nothing where it is about all of it."""
        if citation.start is None or citation.end is None:
            return {}
        text = "".join(self._pieces)
        start, end = (max(0, self._opened + at) for at in (citation.start, citation.end))
        return {"startIndex": _size(text[:start]), "endIndex": _size(text[:end])}


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _logprobs(tokens: tuple[ev.Logprob, ...]) -> _Object:
    return {
        "chosenCandidates": [_token(one) for one in tokens],
        "topCandidates": [{"candidates": [_token(top) for top in one.top]} for one in tokens],
    }


def _token(one: ev.Logprob) -> _Object:
    return {"token": one.token, "logProbability": one.logprob}


def _picture(source: Source) -> _Object:
    kind = source.media_type or "image/png"
    if source.kind == "url":
        return {"fileData": {"mimeType": kind, "fileUri": source.value}}
    return {"inlineData": {"mimeType": kind, "data": source.value}}


def _call(call: ToolCall) -> _Object:
    text = wrapped(call.arguments) if call.kind == "custom" else call.arguments
    # Read, since a model may break its lines, which would end an event's data.
    arguments = msgspec.json.decode(object_text(text))
    written: _Object = {"functionCall": {"id": call.id, "name": call.name, "args": arguments}}
    if call.signature:
        signed = call.by == NAME
        proof = call.signature if signed else packed(carry(call.by, "call", call.signature))
        written["thoughtSignature"] = proof
    return written


def _proof(by: str, signature: str, encrypted: str) -> str:
    """Return what proves a thought, as these clients give it back: what is foreign is carried."""
    if encrypted:
        return packed(carry(by, "encrypted", encrypted))
    if by == NAME or not signature:
        return signature
    return packed(carry(by, "signature", signature))


def usage(used: Usage) -> _Object:
    """Return usage as Google reports it: cached tokens within the prompt, thoughts beside."""
    prompt = used.input_total
    made = used.output + used.audio_output + used.image_output
    said: _Object = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": made,
        "totalTokenCount": prompt + made + used.reasoning,
    }
    if used.reasoning:
        said["thoughtsTokenCount"] = used.reasoning
    if used.cache_read:
        said["cachedContentTokenCount"] = used.cache_read
    if used.audio_input or used.image_input:
        text = prompt - used.audio_input - used.image_input
        said["promptTokensDetails"] = [
            {"modality": modality, "tokenCount": count}
            for modality, count in (
                ("TEXT", text),
                ("AUDIO", used.audio_input),
                ("IMAGE", used.image_input),
            )
            if count
        ]
    return said
