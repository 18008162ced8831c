"""Reads an OpenAI answer over the client's shoulder: its usage, how it ended, how much came.

The one rule: it never raises and never holds anything back but the usage chunk that we asked
for ourselves. What it cannot read is counted by its bytes.
"""

import time
from typing import Any

import msgspec

from tollway.providers.canon import Call, Usage
from tollway.providers.dialects import openai_quirks as quirk
from tollway.providers.dialects import openai_usage as reports
from tollway.providers.dialects.alike import Alike
from tollway.providers.dialects.openai_errors import error_within, stopped_early
from tollway.providers.errors import UpstreamRefused
from tollway.providers.sse import Event

# A tool call's own frame, which shows nowhere: brackets, the function's place, an end mark.
_TOOL_CALL = 32


class _Said(msgspec.Struct):
    """A `delta` of a stream, or the `message` of a whole answer: all that can be seen of it."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None
    audio: Any = None


class _Choice(msgspec.Struct):
    index: Any = None
    delta: _Said | None = None
    message: _Said | None = None
    text: Any = None
    finish_reason: Any = None
    error: Any = None  # OpenRouter's, of a whole answer: why there is no more


class _Answer(msgspec.Struct):
    id: Any = None
    object: Any = None
    model: Any = None
    choices: list[_Choice] | None = None
    data: msgspec.Raw = msgspec.Raw()
    usage: msgspec.Raw = msgspec.Raw()
    x_groq: Any = None
    service_tier: Any = None
    error: Any = None


_ANSWER = msgspec.json.Decoder(_Answer)
_UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)
_NONE = (b"", b"null")


class Reader:
    """Reads one attempt's answer; see `AnswerReader` for what its fields say."""

    def __init__(self, call: Call, quirks: frozenset[str]) -> None:
        self.usage: Usage | None = None
        self.produced = 0
        self.begun = False
        self.ended = False
        self.last = False
        self.failed: UpstreamRefused | None = None
        self.raw_usage = ""
        self.upstream_id = ""
        self.service = ""
        self.model = ""
        self.finish_reasons: list[str] = []
        self._call = call
        self._quirks = quirks
        self._hides_usage = not call.wants_usage and quirk.is_asked_for_usage(quirks)
        self._adds_up = call.choices > 1 and quirk.reports_each_choice(quirks)
        self._counts: reports.Counts = {}
        self._finished: set[int] = set()
        self.alike = Alike()

    def event(self, event: Event) -> bool:
        """Read one event of a stream; return False if the client must not see it.

        Kept back is the chunk that holds usage and no choices, where the client did not ask for
        one. The `"usage": null` that some providers then put on every other chunk stays: to
        take it out would mean to write each chunk anew.
        """
        data = event.data
        if data is None:
            self.produced += len(event.raw) if event.cut else 0
            return True
        alike = self.alike
        if (size := alike.text(event.raw)) >= 0:
            self.produced += size
            return True
        if data.strip() == b"[DONE]":
            self.last = True
            if self.failed is None:
                self.begun = self.ended = True
            return True
        try:
            answer = _ANSWER.decode(data)
        except _UNREADABLE:
            self._unread(data, failed=event.name == b"error")
            return True
        if event.name == b"error" or answer.error or answer.object == "error":
            self.failed = error_within(data)
        elif why := stopped_early(answer.x_groq):
            self.failed = error_within(why)
        lone = not answer.choices
        for place, choice in enumerate(answer.choices or ()):
            # Perplexity sends both, and its `message` holds all that came before.
            self._choice(choice, place, choice.delta or choice.message)
        used = self._read(answer, lone=lone)
        if (answer.choices is not None or used) and self.failed is None:
            self.begun = True
            if not (alike.hopeless or used or event.name) and (text := _only_text(answer)):
                alike.learn(event.raw, text)
        return not (used and lone and self._hides_usage and not answer.error)

    def whole(self, body: bytes) -> None:
        """Read a whole, unstreamed answer."""
        try:
            answer = _ANSWER.decode(body)
        except _UNREADABLE:
            self._unread(body, failed=False)
            return
        if answer.error or answer.object == "error":
            self.failed = error_within(body)
        for place, choice in enumerate(answer.choices or ()):
            self._choice(choice, place, choice.message or choice.delta)
        self._read(answer, lone=False)
        if self._adds_up:
            self.usage = None  # a whole answer's report is that of its first choice alone
        listed = answer.choices is not None or bytes(memoryview(answer.data)[:1]) == b"["
        self.begun = self.ended = listed and self.failed is None

    def end_early(self) -> bytes:
        """Return the events that end the stream here, as if each answer had reached its limit."""
        chat = self._call.endpoint == "chat"
        empty: dict[str, object] = {"delta": {}} if chat else {"text": ""}
        left = [one for one in range(self._call.choices) if one not in self._finished]
        chunk = {
            "id": self.upstream_id,
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": int(time.time()),
            "model": self._call.model,
            "choices": [{"index": one, **empty, "finish_reason": "length"} for one in left],
        }
        used = b""
        if self._call.wants_usage and self.raw_usage:
            rest = chunk | {"choices": [], "usage": msgspec.Raw(self.raw_usage.encode())}
            used = b"data: " + msgspec.json.encode(rest) + b"\n\n"
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n" + used + b"data: [DONE]\n\n"

    def _unread(self, data: bytes, *, failed: bool) -> None:
        self.produced += len(data)
        if failed:
            self.failed = error_within(data)
            return
        try:
            loose = msgspec.json.decode(data)
        except _UNREADABLE:
            return
        # Of a shape that we do not know, but an answer: `choices` with unusual parts.
        if isinstance(loose, dict) and isinstance(loose.get("choices"), list):
            self.begun = True

    def _read(self, answer: _Answer, *, lone: bool) -> bool:
        """Read what an answer or a chunk says beside its choices; return if it reports usage."""
        if not self.upstream_id and type(answer.id) is str:
            self.upstream_id = answer.id
        if not self.model and type(answer.model) is str:
            self.model = answer.model
        if type(answer.service_tier) is str:
            self.service = answer.service_tier
        used = answer.usage
        if memoryview(used).nbytes <= 4 and bytes(used) in _NONE:
            if type(answer.x_groq) is dict and answer.x_groq.get("usage"):
                self._report(msgspec.json.encode(answer.x_groq["usage"]), lone=lone)
            return False
        self._report(bytes(used), lone=lone)
        return True

    def _choice(self, choice: _Choice, place: int, said: _Said | None) -> None:
        if said is not None:
            self.produced += _visible(said)
        if choice.text:
            self.produced += _bytes(choice.text)
        reason = "error" if choice.error else choice.finish_reason
        if reason is not None:
            self._finished.add(choice.index if type(choice.index) is int else place)
            if type(reason) is str:
                self.finish_reasons.append(reason)
            if len(self._finished) >= self._call.choices and self.failed is None:
                # Cerebras, Perplexity and others send no [DONE].
                self.ended = True

    def _report(self, used: bytes, *, lone: bool) -> None:
        self.raw_usage = used.decode("utf-8", "replace")
        try:
            found = reports.counts(msgspec.json.decode(used))
        except _UNREADABLE:
            return
        join = reports.added if self._adds_up and lone else reports.merged
        self._counts = join(self._counts, found)
        usage = reports.disjoint(
            self._counts,
            generates=self._call.endpoint != "embeddings",
            within=quirk.reasons_within(self._quirks),
        )
        if usage is not None:
            self.usage = usage


def _only_text(answer: _Answer) -> str:
    """Return a chunk's text where that is all it shows; else an empty one."""
    if not answer.choices or len(answer.choices) != 1 or answer.x_groq is not None:
        return ""
    (choice,) = answer.choices
    said = choice.delta
    if choice.finish_reason is not None or said is None or choice.text or choice.message:
        return ""
    text = said.content or said.reasoning_content or said.reasoning
    return text if type(text) is str and _visible(said) == _bytes(text) else ""


def _visible(said: _Said) -> int:
    """Return the bytes of all that a delta or a message shows."""
    total = 0
    if said.content:
        total += _bytes(said.content)
    if thought := said.reasoning_content or said.reasoning or said.reasoning_details:
        total += _bytes(thought)
    if said.refusal:
        total += _bytes(said.refusal)
    if said.tool_calls:
        total += _called(said.tool_calls)
    if said.function_call:
        total += _called([said.function_call])
    if said.audio:
        total += _bytes(said.audio)
    return total


def _called(calls: object) -> int:
    """Return the bytes of the names and arguments of tool calls, and a frame for each one."""
    if type(calls) is not list:
        return _bytes(calls)
    total = 0
    for call in calls:
        if type(call) is not dict:
            total += _bytes(call)
            continue
        what = call.get("function") or call.get("custom") or call
        total += _bytes(what)
        if type(what) is dict and what.get("name"):
            total += _TOOL_CALL
    return total


def _bytes(value: object) -> int:
    """Return the UTF-8 bytes of every string in a value."""
    if type(value) is str:
        return len(value) if value.isascii() else len(value.encode())
    total = 0
    stack = [value]
    while stack:
        one = stack.pop()
        if type(one) is str:
            total += len(one.encode())
        elif type(one) is dict:
            stack += one.values()
        elif type(one) is list:
            stack += one
    return total
