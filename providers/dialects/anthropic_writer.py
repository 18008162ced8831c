"""Writes the events of the neutral form as an Anthropic message, streamed or whole.

One rule: exactly one block is open at a time, and each has its start, its deltas and its stop
under one index; client libraries die on anything else.
"""

import secrets
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec

from tollway.providers import events as ev
from tollway.providers.canon import Call, Usage
from tollway.providers.conversation import (
    UNPROVEN,
    Citation,
    Opaque,
    Part,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    carry,
)
from tollway.providers.dialects.anthropic_ask import tool_id
from tollway.providers.dialects.anthropic_citations import entry
from tollway.providers.dialects.anthropic_said import NAME
from tollway.providers.dialects.anthropic_usage import full_report, report
from tollway.providers.dialects.tiers import for_anthropic
from tollway.providers.dialects.wire import object_text, wrapped

STOPS = {
    "end": "end_turn",
    "length": "max_tokens",
    "window": "model_context_window_exceeded",
    "stop_sequence": "stop_sequence",
    "tools": "tool_use",
    "refusal": "refusal",
    "filtered": "refusal",
    "paused": "pause_turn",
    "other": "end_turn",
}
_json = msgspec.json.encode
_NOTHING = Usage()


class Writer:
    """Writes one answer; see `dialect.Writer` for what its methods give."""

    def __init__(self, call: Call) -> None:
        self.dropped: set[str] = set()
        self.service = ""
        self._call = call
        self._began: ev.Start | None = None
        self._head_sent = False
        self._usage = _NOTHING
        self._index = -1
        self._open = ""  # "text", "thinking", "tool": the kind of the open block
        self._is_signed = False
        self._custom: list[str] | None = None  # the text of an open plain-text call
        self._refused = False
        self._stop = ev.Stopped("end")

    def event(self, event: ev.Event) -> bytes:
        """Return the bytes that stand for an event; often none.

        The head of the message waits for the first event that has content, so that a usage
        report before it can stand in it.
        """
        if isinstance(event, ev.Start):
            self._began = event
        elif isinstance(event, ev.UsageReport):
            self._usage = event.usage
        elif isinstance(event, ev.Failed):
            return b""
        elif event.choice:
            self.dropped.add("n")
        elif isinstance(event, ev.Stopped):
            self._stop = event
        else:
            written = self._WRITES[type(event)](self, event)
            return written if self._head_sent else self._head() + written
        return b""

    def end(self) -> bytes:
        """Return what ends the open block, how the message ended, and the end mark."""
        out = b"" if self._head_sent else self._head()
        out += self._close()
        delta = _stop(self._stop, refused=self._refused)
        said = {"type": "message_delta", "delta": delta, "usage": report(self._usage)}
        stopped = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
        return out + b"event: message_delta\ndata: " + _json(said) + b"\n\n" + stopped

    def whole(self, answer: ev.Answer) -> bytes:
        """Return a whole message's body."""
        if len(answer.choices) > 1:
            self.dropped.add("n")
        choice = answer.choices[0] if answer.choices else ev.Choice()
        content: list[object] = []
        for part in choice.parts:
            content += self._blocks(part)
        if choice.logprobs or choice.refusal_logprobs:
            self.dropped.add("logprobs")
        stop = ev.Stopped(choice.stop or "end", choice.sequence)
        refused = any(isinstance(part, Refusal) for part in choice.parts)
        return _json(
            {
                **self._message(answer.id, answer.model),
                "content": content,
                **_stop(stop, refused=refused),
                "usage": full_report(answer.usage or _NOTHING, self.service),
            }
        )

    def _message(self, id_: str, model: str) -> dict[str, object]:
        # Claude Code joins the turns of messages with the same id, and not everybody's ids tell
        # answers apart: Ollama has a thousand of them, small servers a single one.
        own = id_.startswith("msg_")
        return {
            "id": id_ if own else f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": model or self._call.model,
        }

    # The pieces of a stream.

    def _head(self) -> bytes:
        self._head_sent = True
        began = self._began or ev.Start()
        message = {
            **self._message(began.id, began.model),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._first_report(),
        }
        said = {"type": "message_start", "message": message}
        return b"event: message_start\ndata: " + _json(said) + b"\n\n"

    def _first_report(self) -> dict[str, object]:
        """Return what is known of the usage; the rest is not said to be none: no event says it."""
        if self._usage is not _NOTHING:
            return full_report(self._usage, self.service)
        tier = for_anthropic(self.service)
        return {**report(_NOTHING), **({"service_tier": tier} if tier else {})}

    def _begin(self, kind: str, block: bytes) -> bytes:
        out = self._close()
        self._index += 1
        self._open = kind
        return (
            b"%bevent: content_block_start\ndata: "
            b'{"type":"content_block_start","index":%d,"content_block":%b}\n\n'
            % (out, self._index, block)
        )

    def _delta(self, delta: bytes) -> bytes:
        return (
            b"event: content_block_delta\ndata: "
            b'{"type":"content_block_delta","index":%d,"delta":{"type":%b}}\n\n'
            % (self._index, delta)
        )

    def _close(self) -> bytes:
        if not self._open:
            return b""
        out = b""
        if self._custom is not None:
            text, self._custom = "".join(self._custom), None
            out = self._delta(b'"input_json_delta","partial_json":' + _json(wrapped(text)))
        if self._open == "thinking" and not self._is_signed:
            out = self._delta(b'"signature_delta","signature":' + _json(UNPROVEN))
        self._open, self._is_signed = "", False
        return (
            b'%bevent: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'
            % (out, self._index)
        )

    def _whole_block(self, block: bytes) -> bytes:
        return self._begin("whole", block) + self._close()

    def _text(self, event: ev.TextDelta) -> bytes:
        if not event.text:
            return b""
        out = b""
        if self._open != "text":
            out = self._begin("text", b'{"type":"text","text":""}')
        return out + self._delta(b'"text_delta","text":' + _json(event.text))

    def _thought(self, event: ev.ThinkingDelta) -> bytes:
        if not event.text:
            return b""
        out = self._open_thinking()
        return out + self._delta(b'"thinking_delta","thinking":' + _json(event.text))

    def _open_thinking(self) -> bytes:
        if self._open == "thinking":
            return b""
        return self._begin("thinking", b'{"type":"thinking","thinking":"","signature":""}')

    def _signed(self, event: ev.Signed) -> bytes:
        if self._open in ("text", "tool"):
            self.dropped.add("signature")
            return b""
        out = self._open_thinking()
        self._is_signed = True
        signature = _signature(event.by, event.signature, event.encrypted, event.id)
        return out + self._delta(b'"signature_delta","signature":' + _json(signature))

    def _refusal(self, event: ev.RefusalDelta) -> bytes:
        self._refused = True
        return self._text(ev.TextDelta(event.text))

    def _tool(self, event: ev.ToolStart) -> bytes:
        before = b""
        if event.by:
            data = _for_call(event)
            before = self._whole_block(_json({"type": "redacted_thinking", "data": data}))
        id_ = tool_id(event.id)
        out = before + self._begin(
            "tool", _json({"type": "tool_use", "id": id_, "name": event.name, "input": {}})
        )
        self._custom = [] if event.kind == "custom" else None
        return out

    def _arguments(self, event: ev.ToolDelta) -> bytes:
        if self._custom is not None:
            self._custom.append(event.arguments)
            return b""
        return self._delta(b'"input_json_delta","partial_json":' + _json(event.arguments))

    def _citation(self, event: ev.CitationAdded) -> bytes:
        said = entry(event.citation)
        if said is None:
            self.dropped.add("citations")
            return b""
        self._unplaced(event.citation)
        out = b""
        if self._open != "text":
            out = self._begin("text", b'{"type":"text","text":"","citations":[]}')
        return out + self._delta(b'"citations_delta","citation":' + bytes(said))

    def _unplaced(self, citation: Citation) -> None:
        """Note that a citation is about its whole block here, and not about a piece of it."""
        if citation.start is not None and citation.by != NAME:
            self.dropped.add("citations.start_index")

    def _logprobs(self, _: ev.LogprobsDelta) -> bytes:
        self.dropped.add("logprobs")
        return b""

    def _part(self, event: ev.PartWhole) -> bytes:
        return b"".join(self._whole_block(_json(block)) for block in self._blocks(event.part))

    def _part_end(self, _: ev.PartEnd) -> bytes:
        return self._close()

    # Whole parts.

    def _blocks(self, part: Part) -> list[object]:
        match part:
            case Text():
                return self._text_blocks(part)
            case Refusal():
                return [{"type": "text", "text": part.text}]
            case Thinking():
                return [_thinking(part)]
            case ToolCall():
                return _called(part)
            case Opaque() if part.by == NAME:
                return [msgspec.Raw(part.payload)]
            case _:
                self.dropped.add(
                    part.type if isinstance(part, Opaque) else type(part).__name__.lower()
                )
                return []

    def _text_blocks(self, part: Text) -> list[object]:
        if part.by and not part.text:  # nothing but what proves what was thought
            return [_thinking(Thinking("", part.signature, by=part.by))]
        if part.by:
            self.dropped.add("signature")
        block: dict[str, object] = {"type": "text", "text": part.text}
        entries = [entry(citation) for citation in part.citations]
        if any(one is None for one in entries):
            self.dropped.add("citations")
        for citation, one in zip(part.citations, entries, strict=True):
            if one is not None:
                self._unplaced(citation)
        if kept := [one for one in entries if one is not None]:
            block["citations"] = kept
        return [block]

    # Functions, and not its own methods: those would hold it, and with it the call and its body,
    # until the collector came by.
    _WRITES: ClassVar[dict[type[ev.Event], Callable[["Writer", Any], bytes]]] = {
        ev.TextDelta: _text,
        ev.ThinkingDelta: _thought,
        ev.ToolDelta: _arguments,
        ev.Signed: _signed,
        ev.RefusalDelta: _refusal,
        ev.ToolStart: _tool,
        ev.CitationAdded: _citation,
        ev.LogprobsDelta: _logprobs,
        ev.PartWhole: _part,
        ev.PartEnd: _part_end,
    }


def _stop(stop: ev.Stopped, *, refused: bool) -> dict[str, object]:
    reason = "refusal" if refused and stop.reason == "end" else stop.reason
    sequence = stop.sequence if reason == "stop_sequence" else None
    return {"stop_reason": STOPS[reason], "stop_sequence": sequence or None}


def _signature(by: str, signature: str, encrypted: str, id_: str) -> str:
    """Return Anthropic's own signature, or another's as clients carry it."""
    if by == NAME:
        return signature
    if encrypted:
        return carry(by, f"enc:{id_}", encrypted)
    return carry(by, "sig", signature)


def _thinking(part: Thinking) -> dict[str, object]:
    if part.encrypted and not part.text:
        data = (
            part.encrypted if part.by == NAME else carry(part.by, f"enc:{part.id}", part.encrypted)
        )
        return {"type": "redacted_thinking", "data": data}
    signature = UNPROVEN
    if part.by:
        signature = _signature(part.by, part.signature, part.encrypted, part.id)
    return {"type": "thinking", "thinking": part.text, "signature": signature}


def _for_call(call: ev.ToolStart | ToolCall) -> str:
    return carry(call.by, f"call:{tool_id(call.id)}", call.signature)


def _called(call: ToolCall) -> list[object]:
    arguments = wrapped(call.arguments) if call.kind == "custom" else call.arguments
    block = {
        "type": "tool_use",
        "id": tool_id(call.id),
        "name": call.name,
        "input": msgspec.Raw(object_text(arguments)),
    }
    before = [{"type": "redacted_thinking", "data": _for_call(call)}] if call.by else []
    return [*before, block]
