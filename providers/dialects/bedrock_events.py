"""Reads an answer of Bedrock's Converse, streamed or whole, into the events of the neutral form."""

from base64 import b64decode, b64encode
from contextlib import suppress
from typing import Any, Final

import msgspec

from tollway.providers import events as ev
from tollway.providers.conversation import (
    Citation,
    Conversation,
    Image,
    Opaque,
    Source,
    Thinking,
)
from tollway.providers.dialects.bedrock_ask import CLAUDES, tool_name
from tollway.providers.dialects.bedrock_errors import exception
from tollway.providers.dialects.bedrock_read import NAME, usage_of
from tollway.providers.dialects.open_part import OpenPart
from tollway.providers.dialects.wire import UNREADABLE, text_of
from tollway.providers.errors import UpstreamBroke, UpstreamGaveUp
from tollway.providers.eventstream import EXCEPTION
from tollway.providers.fold import fold
from tollway.providers.sse import Event

_REASONS: Final[dict[str, ev.StopReason]] = {
    "end_turn": "end",
    "tool_use": "tools",
    "max_tokens": "length",
    "stop_sequence": "stop_sequence",
    "guardrail_intervened": "filtered",
    "content_filtered": "filtered",
    "model_context_window_exceeded": "window",
}
# The model made something that is no answer (API reference of Converse).
_NO_ANSWER = frozenset({"malformed_model_output", "malformed_tool_use"})
# Where a place in a document stands, and what Anthropic calls such a place.
_PLACES = {
    "documentPage": ("page_location", "start_page_number", "end_page_number"),
    "documentChar": ("char_location", "start_char_index", "end_char_index"),
    "documentChunk": ("content_block_location", "start_block_index", "end_block_index"),
}
_OBJECT = msgspec.json.Decoder(dict[str, Any])


class Reader:
    """Reads one attempt's answer; see `EventReader` for what its methods give."""

    def __init__(self, said: Conversation) -> None:
        self.ended = False
        self.dropped: set[str] = set()
        self._model = said.model  # which no answer names
        self._part = OpenPart(said, tool_name)
        self._image: dict[str, Any] | None = None  # while it comes, and its bytes so far
        self._bytes = bytearray()

    def event(self, event: Event) -> list[ev.Event]:
        """Return what one message of a stream means.

        Raises:
            UpstreamBroke: It is no message of this dialect.
        """
        name, data = event.name or b"", event.data
        if data is None:
            return []
        if name.startswith(EXCEPTION):
            failed = exception(name, data)
            return [ev.Failed(failed.status, failed.message, data)]
        said = _decoded(data)
        out: list[ev.Event] = []
        match name:
            case b"contentBlockDelta":
                self._delta(_object(said.get("delta")), out)
            case b"contentBlockStart":
                self._part.close(out)
                self._begin(_object(said.get("start")), out)
            case b"contentBlockStop":
                self._part.close(out)
                self._shown(out)
            case b"messageStart":
                out.append(ev.Start("", self._model))
            case b"messageStop":
                self._part.close(out)
                self._stop(said, out)
            case b"metadata":
                self._report(said, out)
        return out

    def end(self) -> list[ev.Event]:
        """Return what was held back: a block that the stream did not end."""
        out: list[ev.Event] = []
        self._part.close(out)
        return out

    def whole(self, body: bytes) -> ev.Answer:
        """Return a whole, unstreamed answer.

        Raises:
            UpstreamBroke: It is no answer of this dialect.
        """
        said = _decoded(body)
        message = _object(said.get("output")).get("message")
        if not isinstance(message, dict):
            raise UpstreamBroke("The provider's answer is no message")
        out: list[ev.Event] = [ev.Start("", self._model)]
        for block in _listed(message.get("content")):
            if isinstance(block, dict):
                self._block(block, out)
                self._part.close(out)
        self._stop(said, out)
        self._report(said, out)
        return fold(out)

    def _begin(self, start: dict[str, Any], out: list[ev.Event]) -> None:
        """Open a block that says so; what has no name here is a part by itself."""
        if "toolUse" in start and not _is_hosted(start):
            self._call(_object(start["toolUse"]), out)
        elif "image" in start:
            self._image, self._bytes = _object(start["image"]), bytearray()
        elif start:
            out.append(_other(start))

    def _shown(self, out: list[ev.Event]) -> None:
        if self._image is not None:
            whole = {"bytes": b64encode(self._bytes).decode()}
            out.append(_picture({**self._image, "source": whole}))
        self._image = None

    def _block(self, block: dict[str, Any], out: list[ev.Event]) -> None:
        if "toolUse" in block and not _is_hosted(block):
            called = _object(block["toolUse"])
            self._call(called, out)
            given = msgspec.json.encode(called.get("input", {})).decode()
            self._part.arguments(given, out)
        elif "reasoningContent" in block:
            thought = _object(block["reasoningContent"])
            self._thought({**_object(thought.get("reasoningText")), **thought}, out)
        elif "citationsContent" in block:
            cited = _object(block["citationsContent"])
            for one in _listed(cited.get("content")):
                self._text(text_of(_object(one), "text"), out)
            for one in _listed(cited.get("citations")):
                out.append(ev.CitationAdded(_citation(_object(one))))
        elif "text" in block:
            self._text(text_of(block, "text"), out)
        elif "image" in block:
            out.append(_picture(_object(block["image"])))
        else:
            out.append(_other(block))

    def _delta(self, delta: dict[str, Any], out: list[ev.Event]) -> None:
        if "text" in delta:
            self._text(text_of(delta, "text"), out)
        elif "toolUse" in delta:
            self._part.arguments(text_of(_object(delta["toolUse"]), "input"), out)
        elif "reasoningContent" in delta:
            self._thought(_object(delta["reasoningContent"]), out)
        elif "citation" in delta:
            out.append(ev.CitationAdded(_citation(_object(delta["citation"]))))
        elif "image" in delta and self._image is not None:
            more = text_of(_object(_object(delta["image"]).get("source")), "bytes")
            with suppress(ValueError):
                self._bytes += b64decode(more)  # each piece is padded by itself

    def _text(self, text: str, out: list[ev.Event]) -> None:
        self._part.begin("block", out)
        if text:
            out.append(ev.TextDelta(text))

    def _thought(self, said: dict[str, Any], out: list[ev.Event]) -> None:
        self._part.begin("block", out)
        if text := text_of(said, "text"):
            out.append(ev.ThinkingDelta(text))
        if signature := text_of(said, "signature"):
            out.append(ev.Signed(CLAUDES, signature))
        if hidden := text_of(said, "redactedContent"):
            out.append(ev.PartWhole(Thinking(encrypted=hidden, by=NAME)))

    def _call(self, said: dict[str, Any], out: list[ev.Event]) -> None:
        self._part.call(text_of(said, "toolUseId"), text_of(said, "name"), "", out)

    def _stop(self, said: dict[str, Any], out: list[ev.Event]) -> None:
        reason = said.get("stopReason")
        if reason is None:
            return
        if str(reason) in _NO_ANSWER:
            raise UpstreamGaveUp(f"The model's answer is none: its `stopReason` is {reason}")
        self.ended = True
        sequence = text_of(_object(said.get("additionalModelResponseFields")), "stop_sequence")
        out.append(ev.Stopped(_REASONS.get(str(reason), "other"), sequence))

    def _report(self, said: dict[str, Any], out: list[ev.Event]) -> None:
        usage = usage_of(_object(said.get("usage")))
        if usage is not None:
            out.append(ev.UsageReport(usage))
        if said.get("trace"):
            self.dropped.add("trace")  # of a guardrail, where the request asks for it


def _is_hosted(block: dict[str, Any]) -> bool:
    """Whether a tool of the provider's own is called, which the client cannot run."""
    return _object(block["toolUse"]).get("type") == "server_tool_use"


def _other(block: dict[str, Any]) -> ev.Event:
    kind = next(iter(block), "")
    return ev.PartWhole(Opaque(NAME, msgspec.json.encode(block), kind))


def _picture(said: dict[str, Any]) -> ev.Event:
    data = text_of(_object(said.get("source")), "bytes")
    if not data:
        return _other({"image": said})  # an error in its place, or one that lies in a bucket
    source = Source("base64", data, f"image/{text_of(said, 'format') or 'png'}")
    return ev.PartWhole(Image(source))


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        return _OBJECT.decode(data)
    except UNREADABLE as fault:
        raise UpstreamBroke(f"The provider's answer cannot be read: {str(fault)[:200]}") from None


def _object(said: object) -> dict[str, Any]:
    return said if isinstance(said, dict) else {}


def _listed(said: object) -> list[Any]:
    return said if isinstance(said, list) else []


def _citation(said: dict[str, Any]) -> Citation:
    """Return a citation; a place in a document as Anthropic says it, whose documents they are."""
    title = text_of(said, "title")
    quote = "".join(text_of(_object(one), "text") for one in _listed(said.get("sourceContent")))
    location = _object(said.get("location"))
    url = text_of(_object(location.get("web")), "url")
    source = text_of(said, "source")
    if not url and "://" in source:
        url = source
    for name, (kind, start, end) in _PLACES.items():
        place = _object(location.get(name))
        if type(number := place.get("documentIndex")) is int:
            payload = {
                "type": kind,
                "cited_text": quote,
                "document_index": number,
                "document_title": title or None,
                start: place.get("start"),
                end: place.get("end"),
            }
            return Citation(url, title, quote, by=CLAUDES, payload=msgspec.json.encode(payload))
    return Citation(url, title, quote, by=NAME, payload=msgspec.json.encode(said))
