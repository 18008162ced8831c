"""Reads an answer of Cohere's, streamed or whole, into the events of the neutral form."""

from typing import Any, Final

import msgspec

from tollway.providers import events as ev
from tollway.providers.conversation import Citation, Conversation
from tollway.providers.dialects.cohere_ask import tool_name
from tollway.providers.dialects.cohere_read import FAILED, NAME, usage_of
from tollway.providers.dialects.error_words import error_within
from tollway.providers.dialects.open_part import OpenPart
from tollway.providers.dialects.wire import UNREADABLE, text_of
from tollway.providers.errors import UpstreamBroke
from tollway.providers.fold import fold
from tollway.providers.sse import Event

_REASONS: Final[dict[str, ev.StopReason]] = {
    "COMPLETE": "end",
    "STOP_SEQUENCE": "stop_sequence",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tools",
    "ERROR_LIMIT": "window",
    "ERROR_TOXIC": "filtered",
}
_DONE = b"[DONE]"
_OBJECT = msgspec.json.Decoder(dict[str, Any])


class Reader:
    """Reads one attempt's answer; see `EventReader` for what its methods give."""

    def __init__(self, said: Conversation) -> None:
        self.ended = False
        self.dropped: set[str] = set()
        self._model = said.model  # which no answer names
        self._id = ""
        self._part = OpenPart(said, tool_name)

    def event(self, event: Event) -> list[ev.Event]:
        """Return what one event of a stream means.

        Raises:
            UpstreamBroke: It is no event of this dialect.
        """
        data = event.data
        if data is None:
            if event.cut:
                raise UpstreamBroke("The provider sent an event that is too large to translate")
            return []
        if data.strip() == _DONE:
            return []
        said = _decoded(data)
        out: list[ev.Event] = []
        delta = said.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        message = delta.get("message")
        message = message if isinstance(message, dict) else {}
        match said.get("type"):
            case "content-delta" | "content-start":
                self._content(message.get("content"), out)
            case "tool-call-delta":
                self._arguments(message.get("tool_calls"), out)
            case "tool-call-start":
                self._call(message.get("tool_calls"), out)
            case "tool-plan-delta":
                self._plan(text_of(message, "tool_plan"), out)
            case "content-end" | "tool-call-end":
                self._part.close(out)
            case "citation-start":
                self._cite(message.get("citations"), out)
            case "message-start":
                self._id = text_of(said, "id")
                out.append(ev.Start(self._id, self._model))
            case "message-end":
                self._end(delta, out)
        return out

    def end(self) -> list[ev.Event]:
        """Return what was held back: a call that the stream did not end."""
        out: list[ev.Event] = []
        self._part.close(out)
        return out

    def whole(self, body: bytes) -> ev.Answer:
        """Return a whole, unstreamed answer.

        Raises:
            UpstreamBroke: It is no answer of this dialect.
        """
        said = _decoded(body)
        message = said.get("message")
        if not isinstance(message, dict):
            raise UpstreamBroke("The provider's answer is no message")
        self._id = text_of(said, "id")
        out: list[ev.Event] = [ev.Start(self._id, self._model)]
        if plan := text_of(message, "tool_plan"):
            self._plan(plan, out)
        cited = _listed(message.get("citations"))
        for place, content in enumerate(_listed(message.get("content"))):
            self._content(content, out)
            of_it = [one for one in cited if _place(one) == place]
            cited = [one for one in cited if one not in of_it]
            for one in of_it:
                self._cite(one, out)
            self._part.close(out)
        if cited:
            self.dropped.add("citations")  # of the plan, behind which there may be no text
        for call in _listed(message.get("tool_calls")):
            self._call(call, out)
            self._part.close(out)
        self._end(said, out)
        self.ended = True
        return fold(out)

    def _plan(self, text: str, out: list[ev.Event]) -> None:
        """Take what the model says before it calls tools: a text of its own, without a place."""
        self._part.begin("plan", out)
        if text:
            out.append(ev.TextDelta(text))

    def _content(self, content: object, out: list[ev.Event]) -> None:
        self._part.begin("content", out)
        if not isinstance(content, dict):
            return
        if text := text_of(content, "text"):
            out.append(ev.TextDelta(text))
        if thought := text_of(content, "thinking"):
            out.append(ev.ThinkingDelta(thought))

    def _call(self, call: object, out: list[ev.Event]) -> None:
        said = call if isinstance(call, dict) else {}
        function = said.get("function")
        name = text_of(function, "name") if isinstance(function, dict) else ""
        self._part.call(text_of(said, "id"), name, self._id, out)
        self._arguments(said, out)

    def _arguments(self, call: object, out: list[ev.Event]) -> None:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            self._part.arguments(text_of(function, "arguments"), out)

    def _cite(self, said: object, out: list[ev.Event]) -> None:
        """Take a citation; those of plans and thoughts have no place anywhere else."""
        if isinstance(said, dict) and said.get("type", "TEXT_CONTENT") == "TEXT_CONTENT":
            _cite(said, out)
        elif said:
            self.dropped.add("citations")

    def _end(self, said: dict[str, Any], out: list[ev.Event]) -> None:
        self._part.close(out)
        used = said.get("usage")
        usage = usage_of(used) if isinstance(used, dict) else None
        if usage is not None:
            out.append(ev.UsageReport(usage))
        reason = said.get("finish_reason")
        if isinstance(reason, str) and reason in FAILED:
            body = msgspec.json.encode(said)
            failed = error_within(body)
            out.append(ev.Failed(failed.status, failed.message, body))
        elif reason is not None:
            self.ended = True
            out.append(ev.Stopped(_REASONS.get(str(reason), "other")))


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        return _OBJECT.decode(data)
    except UNREADABLE as fault:
        raise UpstreamBroke(f"The provider's answer cannot be read: {str(fault)[:200]}") from None


def _listed(said: object) -> list[Any]:
    return said if isinstance(said, list) else []


def _place(citation: object) -> object:
    """Return of which of an answer's contents a citation is."""
    return citation.get("content_index", 0) if isinstance(citation, dict) else None


def _cite(said: dict[str, Any], out: list[ev.Event]) -> None:
    """Add a citation of the open text, one for each source."""
    start, end = said.get("start"), said.get("end")
    payload = msgspec.json.encode(said)
    for source in _listed(said.get("sources")) or [{}]:
        found = source if isinstance(source, dict) else {}
        document = found.get("document") or found.get("tool_output")
        about = document if isinstance(document, dict) else {}
        name = text_of(found, "id")
        url = text_of(about, "url") or (name if "://" in name else "")
        citation = Citation(
            url=url,
            title=text_of(about, "title") or (name if not url else ""),
            start=start if type(start) is int else None,
            end=end if type(end) is int else None,
            by=NAME,
            payload=payload,
        )
        out.append(ev.CitationAdded(citation))
