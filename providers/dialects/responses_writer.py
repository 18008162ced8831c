"""Writes an answer as the Responses API does, streamed or whole."""

import secrets
import time
from typing import Any, assert_never

import msgspec

from tollway.providers import events as ev
from tollway.providers.canon import Call, Usage
from tollway.providers.conversation import Citation, Opaque, Part, Thinking
from tollway.providers.dialects.responses_items import Items, Shown
from tollway.providers.dialects.responses_request import NAME
from tollway.providers.dialects.responses_tools import namespaces, searches
from tollway.providers.dialects.tiers import for_openai
from tollway.providers.dialects.wire import Body
from tollway.providers.fold import unfold

# What the answer repeats of its request, and what stands there where the request says nothing.
_REPEATED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "store": False,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
_REASONS = {"length": "max_output_tokens", "window": "max_output_tokens"}


class _Reasoning(msgspec.Struct):
    summary: str | None = None
    generate_summary: str | None = None


class _Asked(msgspec.Struct):
    reasoning: _Reasoning | None = None


_ASKED = msgspec.json.Decoder(_Asked)


class Writer:
    """Writes one answer; see `Writer` of `dialect` for what its methods give."""

    def __init__(self, call: Call) -> None:
        self.dropped: set[str] = set()
        self.service = ""
        self._call = call
        self._items = Items(
            namespaces(call), searches=searches(call), summary=_asks_for_summary(call)
        )
        self._start = ev.Start()
        self._usage: Usage | None = None
        self._stop: ev.StopReason | None = None
        self._refused = False
        self._number = 0
        self._id = f"resp_{secrets.token_hex(24)}"

    def event(self, event: ev.Event) -> bytes:
        """Return the bytes of a stream that stand for an event."""
        if isinstance(event, ev.Start):
            self._start = event
            created = self._response("in_progress")
            return self._written(
                [
                    ("response.created", {"response": created}),
                    ("response.in_progress", {"response": created}),
                ]
            )
        if isinstance(event, ev.UsageReport):
            self._usage = event.usage
            return b""
        if isinstance(event, ev.Failed):
            return b""
        if event.choice:
            self.dropped.add("n")  # there is one answer to a request; others are never asked for
            return b""
        return self._written(self._piece(event))

    def end(self) -> bytes:
        """Return the bytes that end a stream."""
        status = self._status()
        shown = self._items.finish(cut=status == "incomplete")
        return self._written([*shown, (f"response.{status}", {"response": self._response(status)})])

    def whole(self, answer: ev.Answer) -> bytes:
        """Return a whole answer's body."""
        for event in unfold(answer):
            self.event(event)
        status = self._status()
        self._items.finish(cut=status == "incomplete")
        return msgspec.json.encode(self._response(status))

    def _piece(self, event: "_OfChoice") -> Shown:
        items = self._items
        shown: Shown = []
        match event:
            case ev.TextDelta():
                shown = items.text(event.text)
            case ev.RefusalDelta():
                self._refused = True
                shown = items.text(event.text, refusal=True)
            case ev.ThinkingDelta():
                shown = items.thinking(event.text, summary=event.summary)
            case ev.ToolStart():
                shown = items.call(event)
            case ev.ToolDelta():
                shown = items.arguments(event.arguments)
            case ev.PartEnd():
                shown = items.end_part()
            case ev.LogprobsDelta():
                if event.refusal:
                    self.dropped.add("logprobs")  # there is no place for those of a refusal
                else:
                    shown = items.logprobs(event.tokens)
            case ev.Stopped():
                self._stop = event.reason
            case ev.Signed() | ev.CitationAdded() | ev.PartWhole():
                shown = self._rare(event)
            case _:
                assert_never(event)
        return shown

    def _rare(self, event: "ev.Signed | ev.CitationAdded | ev.PartWhole") -> Shown:
        if isinstance(event, ev.Signed):
            return self._items.sign(event)
        if isinstance(event, ev.CitationAdded):
            return self._cite(event.citation)
        part: Part = event.part
        if isinstance(part, Thinking) or (isinstance(part, Opaque) and part.by == NAME):
            return self._items.put(part)
        self.dropped.add(part.type if isinstance(part, Opaque) else type(part).__name__.lower())
        return []

    def _cite(self, citation: Citation) -> Shown:
        if not citation.url and citation.by != NAME:
            # A place in a document of the request: there is no annotation for that.
            self.dropped.add("citations")
            return []
        return self._items.cite(citation)

    def _status(self) -> str:
        filtered = self._stop == "filtered" or (self._stop == "refusal" and not self._refused)
        return "incomplete" if filtered or self._stop in _REASONS else "completed"

    def _response(self, status: str) -> dict[str, Any]:
        body = Body(self._call.body)
        repeated = {
            # On one line: the client's may be any number, and they end an event's data.
            name: msgspec.Raw(msgspec.json.format(text, indent=-1))
            if (text := body.raw(name))
            else value
            for name, value in _REPEATED.items()
        }
        repeated["store"] = msgspec.Raw(b"true" if self._call.adds else b"false")
        if self._call.previous:
            repeated["previous_response_id"] = self._call.previous
        now = int(time.time())
        created = self._start.created or now
        why = {"reason": _REASONS.get(self._stop or "", "content_filter")}
        return {
            "id": self._id,
            "object": "response",
            "created_at": created,
            "status": status,
            "background": False,
            "completed_at": now if status == "completed" else None,
            "error": None,
            "incomplete_details": why if status == "incomplete" else None,
            "model": self._start.model or self._call.model,
            "output": self._items.whole if status != "in_progress" else [],
            "service_tier": for_openai(self.service) or "default",
            "usage": usage(self._usage) if self._usage and status != "in_progress" else None,
            **repeated,
            **(_searched(self._usage.searches) if self._usage and self._usage.searches else {}),
        }

    def _written(self, shown: Shown) -> bytes:
        written: list[bytes] = []
        for kind, fields in shown:
            said = {"type": kind, "sequence_number": self._number, **fields}
            written += (
                b"event: " + kind.encode() + b"\ndata: ",
                msgspec.json.encode(said),
                b"\n\n",
            )
            self._number += 1
        return b"".join(written)


_OfChoice = (
    ev.TextDelta
    | ev.ThinkingDelta
    | ev.Signed
    | ev.RefusalDelta
    | ev.ToolStart
    | ev.ToolDelta
    | ev.CitationAdded
    | ev.LogprobsDelta
    | ev.PartWhole
    | ev.PartEnd
    | ev.Stopped
)


def _searched(searches: int) -> dict[str, Any]:
    none = {"image_tokens": 0, "text_tokens": 0}
    pictures = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    details = {"input_tokens_details": none, "output_tokens_details": none}
    web = {"num_requests": searches}
    return {"tool_usage": {"image_gen": {**pictures, **details}, "web_search": web}}


def usage(used: Usage) -> dict[str, object]:
    """Return usage as this API reports it: cached tokens within the input, reasoning within."""
    return {
        "input_tokens": used.input_total,
        "input_tokens_details": {
            "cached_tokens": used.cache_read,
            "cache_write_tokens": used.cache_write + used.cache_write_1h,
        },
        "output_tokens": used.output_total,
        "output_tokens_details": {"reasoning_tokens": used.reasoning},
        "total_tokens": used.input_total + used.output_total,
    }


def _asks_for_summary(call: Call) -> bool:
    """Whether a client wants to be shown what is thought; most bodies are not read for it."""
    if b"summary" not in call.body:
        return False
    try:
        said = _ASKED.decode(call.body).reasoning
    except msgspec.DecodeError:
        return False  # what is wrong with it is told where the request is read
    return said is not None and (said.summary or said.generate_summary or "none") != "none"
