"""Writes the events of the neutral form as a legacy completion, streamed or whole: its text."""

import secrets
import time

import msgspec

from tollway.providers import events as ev
from tollway.providers.canon import Call, Usage
from tollway.providers.conversation import Opaque, Part, Refusal, Text
from tollway.providers.dialects.openai_chat_writer import FINISH, usage

_json = msgspec.json.encode


class Writer:
    """Writes one answer; see `dialect.Writer` for what its methods give."""

    def __init__(self, call: Call) -> None:
        self.dropped: set[str] = set()
        self.service = ""
        self._call = call
        self._start = ev.Start()
        self._id = f"cmpl-{secrets.token_hex(12)}"
        self._usage: Usage | None = None
        self._stops: dict[int, ev.StopReason] = {}

    def event(self, event: ev.Event) -> bytes:
        """Return the bytes of a stream that stand for an event; often none."""
        match event:
            case ev.Start():
                self._start = event
            case ev.UsageReport():
                self._usage = event.usage
            case ev.TextDelta() | ev.RefusalDelta():
                self._stops.setdefault(event.choice, "end")
                return self._chunk([_choice(event.choice, event.text)]) if event.text else b""
            case ev.Stopped():
                self._stops[event.choice] = event.reason
            case ev.ThinkingDelta():
                self.dropped.add("thinking")
            case ev.ToolStart():
                self.dropped.add("toolcall")
            case ev.CitationAdded():
                self.dropped.add("citations")
            case ev.PartWhole():
                self.dropped.add(_kind(event.part))
        return b""

    def end(self) -> bytes:
        """Return how each choice ended, the usage if it was asked for, and the end mark."""
        out = [
            self._chunk([_choice(index, "", FINISH[reason])])
            for index, reason in sorted(self._stops.items() or [(0, "end")])
        ]
        if self._call.wants_usage and self._usage is not None:
            out.append(self._chunk([], self._usage))
        return b"".join([*out, b"data: [DONE]\n\n"])

    def whole(self, answer: ev.Answer) -> bytes:
        """Return a whole answer's body."""
        self._start = ev.Start(answer.id, answer.model, answer.created)
        choices: list[object] = []
        for index, choice in enumerate(answer.choices):
            texts = [part.text for part in choice.parts if isinstance(part, Text | Refusal)]
            others = [part for part in choice.parts if not isinstance(part, Text | Refusal)]
            self.dropped.update(map(_kind, others))
            if any(part.citations for part in choice.parts if isinstance(part, Text)):
                self.dropped.add("citations")
            choices.append(_choice(index, "".join(texts), FINISH[choice.stop or "end"]))
        return _json(self._body(choices, answer.usage))

    def _chunk(self, choices: list[object], used: Usage | None = None) -> bytes:
        return b"data: " + _json(self._body(choices, used)) + b"\n\n"

    def _body(self, choices: list[object], used: Usage | None) -> dict[str, object]:
        start = self._start
        made = self._start.created or int(time.time())
        self._start = msgspec.structs.replace(start, created=made)
        return {
            "id": start.id or self._id,
            "object": "text_completion",
            "created": made,
            "model": start.model or self._call.model,
            "choices": choices,
            **({"usage": usage(used)} if used is not None else {}),
        }


def _choice(index: int, text: str, finish: str | None = None) -> dict[str, object]:
    finish = "stop" if finish == "tool_calls" else finish
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


def _kind(part: Part) -> str:
    return part.type if isinstance(part, Opaque) else type(part).__name__.lower()
