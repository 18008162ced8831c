"""Writes the events of the neutral form as a chat completion, streamed or whole."""

import secrets
import time
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec

from tollway.providers import events as ev
from tollway.providers.canon import Call, Usage
from tollway.providers.conversation import (
    Citation,
    Image,
    Opaque,
    Part,
    Refusal,
    Text,
    Thinking,
    ToolCall,
)
from tollway.providers.dialects.openai_chat_parts import NAME
from tollway.providers.dialects.openai_chat_reasoning import details
from tollway.providers.dialects.tiers import for_openai
from tollway.providers.dialects.wire import as_url, made_id, object_in

FINISH = {
    "end": "stop",
    "length": "length",
    "window": "length",
    "stop_sequence": "stop",
    "tools": "tool_calls",
    "refusal": "content_filter",
    "filtered": "content_filter",
    "paused": "stop",
    "other": "stop",
}
_CHOICES = b',"choices":['
_json = msgspec.json.encode


class Writer:
    """Writes one answer; see `dialect.Writer` for what its methods give."""

    def __init__(self, call: Call) -> None:
        self.dropped: set[str] = set()
        self.service = ""
        self._call = call
        self._head = b""
        self._tier = ""  # that it says
        self._choices: dict[int, _Choice] = {}
        self._usage: Usage | None = None
        self._functions = _offers_functions(call)

    def event(self, event: ev.Event) -> bytes:
        """Return the bytes that stand for an event; often none."""
        return self._WRITES[type(event)](self, event)

    def end(self) -> bytes:
        """Return how each choice ended, the usage if it was asked for, and the end mark."""
        self._begun()
        if not self._tier:
            self._tiered()
        out: list[bytes] = []
        for index, choice in sorted(self._choices.items()):
            reason = self._finish(choice.stop)
            out.append(self._chunk(index, b"", _json(reason)))
        if self._call.wants_usage and self._usage is not None:
            out.append(self._head + b'],"usage":' + _json(usage(self._usage)) + b"}\n\n")
        out.append(b"data: [DONE]\n\n")
        return b"".join(out)

    def whole(self, answer: ev.Answer) -> bytes:
        """Return a whole answer's body."""
        choices = [
            {
                "index": index,
                "message": self._message(choice),
                "logprobs": _logprobs_of(choice),
                "finish_reason": self._finish(choice.stop),
            }
            for index, choice in enumerate(answer.choices)
        ]
        body: dict[str, object] = {
            "id": answer.id or _new_id(),
            "object": "chat.completion",
            "created": answer.created or int(time.time()),
            "model": answer.model or self._call.model,
            "choices": choices,
            # As OpenAI's often is; OpenRouter's library reads no whole answer without it.
            "system_fingerprint": None,
        }
        if tier := for_openai(self.service):
            body["service_tier"] = tier
        if answer.usage is not None:
            body["usage"] = usage(answer.usage)
        return _json(body)

    def _finish(self, stop: ev.StopReason | None) -> str:
        reason = FINISH.get(stop or "", "stop")
        return "function_call" if self._functions and reason == "tool_calls" else reason

    # The pieces of a stream.

    def _start(self, event: ev.Start) -> bytes:
        self._head = (
            b'data: {"id":'
            + _json(event.id or _new_id())
            + b',"object":"chat.completion.chunk","created":'
            + str(event.created or int(time.time())).encode()
            + b',"model":'
            + _json(event.model or self._call.model)
        )
        self._tiered()
        self._choice(0)
        return self._chunk(0, b'"role":"assistant","content":""', b"null")

    def _tiered(self) -> None:
        """Let the next chunks say in which service tier the answer is made, where that is known."""
        self._tier = for_openai(self.service)
        self._head = self._head.removesuffix(_CHOICES)
        self._head += (b',"service_tier":' + _json(self._tier) if self._tier else b"") + _CHOICES

    def _begun(self) -> None:
        if not self._head:
            self._start(ev.Start())

    def _chunk(self, index: int, delta: bytes, finish: bytes) -> bytes:
        return b'%b{"index":%d,"delta":{%b},"logprobs":null,"finish_reason":%b}]}\n\n' % (
            self._head,
            index,
            delta,
            finish,
        )

    def _delta(self, index: int, delta: bytes) -> bytes:
        if index in self._choices:
            return self._chunk(index, delta, b"null")
        self._begun()
        self._choice(index)
        return self._chunk(index, b'"role":"assistant",' + delta, b"null")

    def _choice(self, index: int) -> "_Choice":
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice()
        return choice

    def _text(self, event: ev.TextDelta) -> bytes:
        text = event.text
        if not text:
            return b""
        index = event.choice
        out = self._delta(index, b'"content":' + _json(text))
        choice = self._choices[index]
        if not choice.speaks:
            choice.speaks, choice.part_start = True, choice.length
        choice.length += len(text)
        return out

    def _thought(self, event: ev.ThinkingDelta) -> bytes:
        if not event.text:
            return b""
        out = self._delta(event.choice, b'"reasoning_content":' + _json(event.text))
        choice = self._choices[event.choice]
        choice.speaks = False
        choice.thoughts.append(event.text)
        choice.sums_up = event.summary
        return out

    def _signed(self, event: ev.Signed) -> bytes:
        choice = self._choice(event.choice)
        text, summary = "".join(choice.thoughts), choice.sums_up
        part = Thinking(text, event.signature, event.encrypted, event.by, event.id, summary)
        choice.thoughts.clear()
        return self._details(event.choice, part)

    def _details(self, index: int, part: Thinking) -> bytes:
        choice = self._choice(index)
        said = details([part], choice.details)
        choice.details += len(said)
        return self._delta(index, b'"reasoning_details":' + _json(said))

    def _refusal(self, event: ev.RefusalDelta) -> bytes:
        if not event.text:
            return b""
        return self._delta(event.choice, b'"refusal":' + _json(event.text))

    def _tool(self, event: ev.ToolStart) -> bytes:
        choice = self._choice(event.choice)
        choice.tools += 1
        choice.speaks = False
        choice.custom = event.kind == "custom"
        what: dict[str, object] = {"name": event.name}
        if self._functions:
            if choice.tools:
                self.dropped.add("tool_calls")
                return b""
            return self._delta(event.choice, b'"function_call":' + _json({**what, "arguments": ""}))
        what["input" if choice.custom else "arguments"] = ""
        call: dict[str, object] = {
            "index": choice.tools,
            "id": event.id,
            "type": event.kind,
            event.kind: what,
        }
        if event.by == "gemini":
            call["extra_content"] = {"google": {"thought_signature": event.signature}}
        return self._delta(event.choice, b'"tool_calls":' + _json([call]))

    def _arguments(self, event: ev.ToolDelta) -> bytes:
        choice = self._choice(event.choice)
        if self._functions:
            if choice.tools:
                return b""
            delta = b'"function_call":{"arguments":%b}' % _json(event.arguments)
            return self._chunk(event.choice, delta, b"null")
        what = b'"custom":{"input":' if choice.custom else b'"function":{"arguments":'
        delta = b'"tool_calls":[{"index":%d,%b%b}}]' % (choice.tools, what, _json(event.arguments))
        return self._chunk(event.choice, delta, b"null")

    def _citation(self, event: ev.CitationAdded) -> bytes:
        choice = self._choice(event.choice)
        start = choice.part_start if choice.speaks else choice.length
        said = self._annotation(event.citation, start, choice.length)
        if said is None:
            return b""
        # Without an index OpenAI's library raises where there are two.
        numbered = b'[{"index":%d,%b]' % (choice.notes, _json(said)[1:])
        choice.notes += 1
        return self._delta(event.choice, b'"annotations":' + numbered)

    def _annotation(self, citation: Citation, start: int, end: int) -> object:
        """Return a citation as OpenAI has them: by URL, at a place in the whole content."""
        if citation.by == NAME and citation.payload:
            return msgspec.Raw(citation.payload)
        if not citation.url:
            self.dropped.add("citations")
            return None
        first = start if citation.start is None else start + citation.start
        last = end if citation.end is None else start + citation.end
        return {
            "type": "url_citation",
            "url_citation": {
                "start_index": first,
                "end_index": last,
                "url": citation.url,
                "title": citation.title,
            },
        }

    def _logprobs(self, event: ev.LogprobsDelta) -> bytes:
        name = b"refusal" if event.refusal else b"content"
        said = _json(_tokens(event.tokens))
        self._begun()
        self._choice(event.choice)
        return b'%b{"index":%d,"delta":{},"logprobs":{"%b":%b},"finish_reason":null}]}\n\n' % (
            self._head,
            event.choice,
            name,
            said,
        )

    def _part(self, event: ev.PartWhole) -> bytes:
        part = event.part
        self._choice(event.choice).speaks = False
        if isinstance(part, Thinking):
            return self._details(event.choice, part)
        if isinstance(part, Opaque) and part.by == NAME and part.type == "audio":
            return self._delta(event.choice, b'"audio":' + part.payload)
        if isinstance(part, Image):
            choice = self._choice(event.choice)
            picture = {"index": choice.pictures, **_pictured(part)}
            choice.pictures += 1
            return self._delta(event.choice, b'"images":' + _json([picture]))
        self.dropped.add(_kind(part))
        return b""

    def _part_end(self, event: ev.PartEnd) -> bytes:
        choice = self._choice(event.choice)
        choice.speaks = False
        choice.thoughts.clear()
        return b""

    def _stopped(self, event: ev.Stopped) -> bytes:
        self._choice(event.choice).stop = event.reason
        return b""

    def _used(self, event: ev.UsageReport) -> bytes:
        self._usage = event.usage
        return b""

    # A whole answer.

    def _message(self, choice: ev.Choice) -> dict[str, object]:
        texts: list[str] = []
        length = 0
        refusals: list[str] = []
        thoughts: list[Thinking] = []
        calls: list[dict[str, object]] = []
        annotations: list[object] = []
        pictures: list[object] = []
        message: dict[str, object] = {"role": "assistant"}
        for place, part in enumerate(choice.parts):
            match part:
                case Text():
                    end = length + len(part.text)
                    said = [self._annotation(c, length, end) for c in part.citations]
                    annotations += [one for one in said if one is not None]
                    texts.append(part.text)
                    length = end
                    if part.by and part.signature:  # as in a stream
                        thoughts.append(Thinking("", part.signature, by=part.by))
                case Refusal():
                    refusals.append(part.text)
                case Thinking():
                    thoughts.append(part)
                case ToolCall():
                    calls.append(_called(part, place))
                case Opaque() if part.by == NAME and part.type == "audio":
                    message["audio"] = msgspec.Raw(part.payload)
                case Image():
                    pictures.append(_pictured(part))
                case _:
                    self.dropped.add(_kind(part))
        message["content"] = "".join(texts) if texts or not (calls or refusals) else None
        message["refusal"] = "".join(refusals) or None
        if any(part.text for part in thoughts):
            message["reasoning_content"] = "".join(part.text for part in thoughts)
        if any(part.by for part in thoughts):
            message["reasoning_details"] = details(thoughts)
        more = {"annotations": annotations, "images": pictures}
        message.update((name, said) for name, said in more.items() if said)
        if calls:
            message.update([self._calls(calls)])
        return message

    def _calls(self, calls: list[dict[str, object]]) -> tuple[str, object]:
        if not self._functions:
            return "tool_calls", calls
        if len(calls) > 1:
            self.dropped.add("tool_calls")
        return "function_call", calls[0]["function"]

    # Functions, and not its own methods: those would hold it, and with it the call and its body,
    # until the collector came by.
    _WRITES: ClassVar[dict[type[ev.Event], Callable[["Writer", Any], bytes]]] = {
        ev.TextDelta: _text,
        ev.ThinkingDelta: _thought,
        ev.ToolDelta: _arguments,
        ev.Start: _start,
        ev.Signed: _signed,
        ev.RefusalDelta: _refusal,
        ev.ToolStart: _tool,
        ev.CitationAdded: _citation,
        ev.LogprobsDelta: _logprobs,
        ev.PartWhole: _part,
        ev.PartEnd: _part_end,
        ev.Stopped: _stopped,
        ev.UsageReport: _used,
        ev.Failed: lambda *_: b"",
    }


class _Choice:
    """How far one choice has come."""

    def __init__(self) -> None:
        self.tools = -1  # the index of the last tool call
        self.custom = False  # it is a plain-text one
        self.length = 0  # of the content
        self.part_start = 0  # where the last text part began in it
        self.speaks = False  # it is open
        self.thoughts: list[str] = []
        self.sums_up = False  # they are a summary
        self.details = 0
        self.notes = 0  # annotations
        self.pictures = 0
        self.stop: ev.StopReason | None = None


def _offers_functions(call: Call) -> bool:
    """Whether a client knows but functions, as before there were tools: it reads no other calls."""
    if b'"functions"' not in call.body:
        return False
    said = object_in(call.body) or {}
    return bool(said.get("functions")) and not said.get("tools")


def _new_id() -> str:
    """Return an id for an answer whose provider gave it none; clients key their logs by it."""
    return f"chatcmpl-{secrets.token_hex(12)}"


def _pictured(part: Image) -> dict[str, object]:
    """Return a picture as OpenRouter has those of an answer; OpenAI has no place for them."""
    return {"type": "image_url", "image_url": {"url": as_url(part.source)}}


def _kind(part: Part) -> str:
    return part.type if isinstance(part, Opaque) else type(part).__name__.lower()


def _called(call: ToolCall, place: int) -> dict[str, object]:
    named: dict[str, object] = {"name": call.name}
    named["input" if call.kind == "custom" else "arguments"] = call.arguments
    said: dict[str, object] = {
        "id": call.id or made_id("", place),
        "type": call.kind,
        call.kind: named,
    }
    if call.by == "gemini":
        said["extra_content"] = {"google": {"thought_signature": call.signature}}
    return said


def _tokens(tokens: tuple[ev.Logprob, ...]) -> list[dict[str, object]]:
    return [
        {
            "token": one.token,
            "logprob": one.logprob,
            "bytes": one.bytes,
            "top_logprobs": [
                {"token": top.token, "logprob": top.logprob, "bytes": top.bytes} for top in one.top
            ],
        }
        for one in tokens
    ]


def _logprobs_of(choice: ev.Choice) -> dict[str, object] | None:
    if not (choice.logprobs or choice.refusal_logprobs):
        return None
    return {
        "content": _tokens(choice.logprobs) or None,
        "refusal": _tokens(choice.refusal_logprobs) or None,
    }


def usage(used: Usage) -> dict[str, object]:
    """Return usage as OpenAI reports it: cached tokens within the prompt, reasoning within."""
    searched = {"server_tool_use_details": {"web_search_requests": used.searches}}
    return {
        "prompt_tokens": used.input_total,
        "completion_tokens": used.output_total,
        "total_tokens": used.input_total + used.output_total,
        "prompt_tokens_details": {
            "cached_tokens": used.cache_read,
            "cache_write_tokens": used.cache_write + used.cache_write_1h,
            "audio_tokens": used.audio_input,
        },
        "completion_tokens_details": {
            "reasoning_tokens": used.reasoning,
            "audio_tokens": used.audio_output,
        },
        **(searched if used.searches else {}),  # as OpenRouter says it
    }
