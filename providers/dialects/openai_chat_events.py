"""Reads a chat completion, streamed or whole, into the events of the neutral form.

One rule: tool calls never interleave in what comes out, whatever comes in. A call is open until
its arguments are whole; what comes meanwhile, for another call or as text, waits. Most providers
send one after the other, so that nothing waits; a few mix them, and some send each call in one
piece, some without an id, some all at index 0.
"""

from typing import Any

import msgspec

from tollway.providers import events as ev
from tollway.providers.conversation import Citation, Conversation, Opaque, Tool
from tollway.providers.dialects import openai_chat_chunk as chunks
from tollway.providers.dialects import openai_quirks as quirk
from tollway.providers.dialects import openai_usage as reports
from tollway.providers.dialects.dialect import BROKE_OFF
from tollway.providers.dialects.error_words import words_in
from tollway.providers.dialects.mistral_parts import thinking as mistrals
from tollway.providers.dialects.openai_chat_ask import tool_name
from tollway.providers.dialects.openai_chat_loose import annotated, beside, shown
from tollway.providers.dialects.openai_chat_parts import NAME
from tollway.providers.dialects.openai_chat_reasoning import thinking
from tollway.providers.dialects.openai_chat_said import google_signature
from tollway.providers.dialects.openai_errors import error_within, stopped_early
from tollway.providers.dialects.wire import (
    UNREADABLE,
    CallIds,
    Names,
    canonical,
    text_of,
    unwrapped,
)
from tollway.providers.errors import UpstreamBroke, UpstreamGaveUp
from tollway.providers.fold import fold
from tollway.providers.sse import Event

_REASONS: dict[str, ev.StopReason] = {
    "stop": "end",
    "eos": "end",
    "eos_token": "end",  # Hugging Face's servers
    "stop_sequence": "stop_sequence",
    "COMPLETE": "end",
    "length": "length",
    "max_tokens": "length",
    "model_length": "window",
    "tool_calls": "tools",
    "function_call": "tools",
    "content_filter": "filtered",
    "sensitive": "filtered",  # Z.ai
}


class Reader:
    """Reads one attempt's answer; see `EventReader` for what its methods give."""

    def __init__(self, said: Conversation, quirks: frozenset[str]) -> None:
        self.ended = False
        self.dropped: set[str] = set()
        self._said = said
        self._within = quirk.reasons_within(quirks)
        self._adds_up = said.n > 1 and quirk.reports_each_choice(quirks)
        self._tools = _Tools(said, own=quirk.ALL_OF_OPENAI in quirks)
        self._counts: reports.Counts = {}
        self._started = False
        self._choices: dict[int, _Open] = {}
        self._sources: list[Citation] = []
        self.id = ""

    def event(self, event: Event) -> list[ev.Event]:
        """Return what one event of a stream means.

        Raises:
            UpstreamBroke: It is no chunk of a chat completion, or says that there is no answer.
        """
        data = event.data
        if data is None:
            if event.cut:
                raise UpstreamBroke("The provider sent an event that is too large to translate")
            return []
        if data.strip() == b"[DONE]":
            self.ended = True
            return []
        out: list[ev.Event] = []
        chunk = chunks.decode(data)
        if chunk.error or event.name == b"error" or chunk.object == "error":
            return [_failed(data)]
        if why := stopped_early(chunk.x_groq):
            return [_failed(why)]
        self._chunk(chunk, out, whole=False)
        return out

    def end(self) -> list[ev.Event]:
        """Return what was held back: calls that wait for another, sources that came last."""
        out: list[ev.Event] = []
        for choice in self._choices.values():
            choice.flush(out)
            out += choice.sources(self._sources)
        return out

    def whole(self, body: bytes) -> ev.Answer:
        """Return a whole, unstreamed answer.

        Raises:
            UpstreamBroke: It is no chat completion.
        """
        chunk = chunks.decode(body)
        if chunk.error or not isinstance(chunk.choices, list):
            raise UpstreamBroke("The provider's answer is no chat completion")
        out: list[ev.Event] = []
        self._chunk(chunk, out, whole=True)
        self.ended = True
        return fold([*out, *self.end()])

    def _chunk(self, chunk: chunks.Chunk, out: list[ev.Event], *, whole: bool) -> None:
        if not self._started and (chunk.choices or chunk.usage):
            self._started = True
            self.id = chunk.id or ""
            made = chunk.created if isinstance(chunk.created, int) else None
            out.append(ev.Start(self.id, chunk.model or "", made))
        choices = chunk.choices
        if chunk.citations or chunk.search_results:
            self._sources = beside(chunk.citations, chunk.search_results)
        if choices:
            for place, choice in enumerate(choices):
                index = place if choice.index is None else choice.index
                if choice.matched_stop in self._said.stop:
                    choice.stop_reason = choice.matched_stop
                opened = self._choices.get(index)
                if opened is None:
                    opened = self._choices[index] = _Open(index, self._tools, self.id, self.dropped)
                # Perplexity sends both, and its `message` holds all that came before.
                said = (
                    (choice.message or choice.delta) if whole else (choice.delta or choice.message)
                )
                opened.read(choice, said, out, self._sources)
        used = chunk.usage or (_of_groq(chunk.x_groq))
        if used:
            self._report(used, out, lone=not choices)

    def _report(self, used: object, out: list[ev.Event], *, lone: bool) -> None:
        join = reports.added if self._adds_up and lone else reports.merged
        self._counts = join(self._counts, reports.counts(used))
        usage = reports.disjoint(self._counts, within=self._within)
        if usage is not None:
            out.append(ev.UsageReport(usage))


def _of_groq(x_groq: object) -> object:
    """Return the usage that Groq puts into a field of its own."""
    return x_groq.get("usage") if isinstance(x_groq, dict) else None


def _failed(data: bytes) -> ev.Failed:
    error = error_within(data)
    return ev.Failed(error.status, error.message, data)


def _gave_up(choice: chunks.Choice) -> UpstreamGaveUp:
    """Return why an answer is none, in the provider's words where it has some."""
    words = words_in(canonical(choice.error)) if choice.error else ""
    why = words or f"its `finish_reason` is {choice.finish_reason}"
    return UpstreamGaveUp(f"The provider broke its answer off: {why}")


class _Tools:
    """The tools that were asked for, by the names that the target knows them by; calls' ids."""

    def __init__(self, said: Conversation, *, own: bool) -> None:
        tools = [tool for tool in said.tools if isinstance(tool, Tool)]
        self.names = Names(tool_name, tuple(tool.name for tool in tools))
        self.ids = CallIds(said)
        # Plain-text tools that stand in the request as tools with one argument.
        plain = [] if own else [tool.name for tool in tools if tool.kind == "custom"]
        self.wrapped = frozenset(plain)


class _Call:
    """One tool call while it comes."""

    def __init__(self, id_: str, name: str, said: str) -> None:
        self.id = id_
        self.said = said  # its id as the provider has it
        self.name = name  # "" until it has come
        self.custom = False
        self.signature = ""
        self.waiting: list[str] = []  # arguments that came while another call was open
        self.text: list[str] = []  # all arguments
        self._tried = 0  # how many pieces of them were not yet whole

    def is_whole(self) -> bool:
        """Whether the arguments are complete: JSON that parses, of an object."""
        if self._tried == len(self.text):
            return False
        self._tried = len(self.text)
        text = "".join(self.text)
        if not text.rstrip().endswith("}"):
            return False
        try:
            msgspec.json.decode(text)
        except UNREADABLE:
            return False
        self._tried = -1
        return True


class _Open:
    """One choice while it comes."""

    def __init__(self, index: int, tools: _Tools, answer: str, dropped: set[str]) -> None:
        self._dropped = dropped  # by the whole answer
        self._index = index
        self._tools = tools
        self._answer = answer
        self._calls: list[_Call] = []
        self._at: dict[int, _Call] = {}  # the last call that began at an index
        self._open: _Call | None = None
        self._queue: list[_Call] = []  # began while another was open
        self._held: list[ev.Event] = []  # came before the open call was whole
        self._in_thought = False  # the last piece of content was one of a thought, unsigned yet
        self._thought = False  # the text of thoughts comes beside `reasoning_details`
        self._audio: dict[str, Any] = {}
        self._cites = False
        self._stopped = False

    def read(
        self,
        choice: chunks.Choice,
        said: chunks.Said | None,
        out: list[ev.Event],
        found: list[Citation],
    ) -> None:
        if said is not None:
            if said.reasoning_content or said.reasoning or said.reasoning_details:
                self._think(said, out)
            if said.content:
                self._content(said.content, out)
            self._rest(said, out)
        if choice.logprobs is not None:
            self._weigh(choice.logprobs, out)
        if choice.error or choice.finish_reason in BROKE_OFF:
            raise _gave_up(choice)
        if choice.finish_reason and not self._stopped:
            self._stopped = True
            self.flush(out)
            out += self.sources(found)
            reason = _REASONS.get(choice.finish_reason, "other")
            if reason in ("end", "other") and self._calls:
                reason = "tools"  # some say "stop" for everything, or another word of their own
            sequence = choice.stop_reason if isinstance(choice.stop_reason, str) else ""
            if reason == "end" and sequence:
                reason = "stop_sequence"
            out.append(ev.Stopped(reason, sequence, choice=self._index))

    def _rest(self, said: chunks.Said, out: list[ev.Event]) -> None:
        """Read what few answers have; what belongs to the text before the calls behind it."""
        if said.annotations:
            self._cite(said.annotations, self._behind(out))
        if said.refusal:
            self._behind(out).append(ev.RefusalDelta(said.refusal, self._index))
        if said.tool_calls:
            for place, called in enumerate(said.tool_calls):
                self._called(called, place, out)
        if said.function_call is not None:
            self._called(chunks.Called(0, None, said.function_call), 0, out)
        if isinstance(said.audio, dict):
            self._hear(said.audio)
        if said.executed_tools:
            self._dropped.add("executed_tools")
        if said.images:
            self._content(said.images, out)

    def flush(self, out: list[ev.Event]) -> None:
        self._close(out)
        while self._queue:
            self._start(self._queue.pop(0), out)
            self._close(out)
        if self._audio:
            payload = canonical(self._audio)
            out.append(ev.PartWhole(Opaque(NAME, payload, "audio"), self._index))
            self._audio = {}

    def _behind(self, out: list[ev.Event]) -> list[ev.Event]:
        """Return where what is no call goes: behind the open one, once that is whole."""
        if self._open is None:
            return out
        if not self._open.is_whole():
            return self._held
        self._close(out)
        return out

    def _content(self, content: object, out: list[ev.Event]) -> None:
        index = self._index
        out = self._behind(out)
        if isinstance(content, str):
            out.append(ev.TextDelta(content, index))
            self._in_thought = False
            return
        for part in content if isinstance(content, list) else ():
            if not isinstance(part, dict):
                continue
            if part.get("type") == "thinking":
                self._thought_part(part, out)
            elif text := text_of(part, "text"):
                out.append(ev.TextDelta(text, index))
                self._in_thought = False
            elif (whole := shown(part)) is not None:
                out.append(ev.PartWhole(whole, index))
                self._in_thought = False

    def _thought_part(self, part: dict[str, Any], out: list[ev.Event]) -> None:
        """Read a piece of a thought as Mistral has it; what it is signed with comes last."""
        said = mistrals(part.get("thinking"), part.get("signature"))
        if said.text:
            out.append(ev.ThinkingDelta(said.text, self._index))
            self._in_thought = True
        if said.signature:
            # Without a word it is a thought of its own, and not a text's that came before.
            out += () if self._in_thought else (ev.PartEnd(self._index),)
            out += (ev.Signed(said.by, said.signature, choice=self._index), ev.PartEnd(self._index))
            self._in_thought = False

    def _think(self, said: chunks.Said, out: list[ev.Event]) -> None:
        index = self._index
        out = self._behind(out)
        text = said.reasoning_content or (said.reasoning if isinstance(said.reasoning, str) else "")
        if text:
            self._thought = True
            out.append(ev.ThinkingDelta(text, index))
        details = said.reasoning_details
        for detail in details if isinstance(details, list) else ():
            part = thinking(detail) if isinstance(detail, dict) else None
            if part is None:
                continue
            if part.encrypted:
                out.append(ev.PartWhole(part, index))
                continue
            if part.text and not self._thought:
                out.append(ev.ThinkingDelta(part.text, index, part.summary))
            if part.signature:
                out.append(ev.Signed(part.by, part.signature, choice=index))
                out.append(ev.PartEnd(index))

    def _called(self, called: chunks.Called, place: int, out: list[ev.Event]) -> None:
        at = place if called.index is None else called.index
        call = self._at.get(at)
        what = called.function
        name = (what.name if what else called.custom.name if called.custom else None) or ""
        new_id = bool(called.id and call is not None and call.said != called.id and call.name)
        again = called.index is None and name and call is not None and call.text
        if call is None or new_id or (again and not (called.id and call.said == called.id)):
            id_ = self._tools.ids.own(called.id or "", self._answer)
            call = _Call(id_, name, called.id or "")
            call.signature = google_signature(called.extra_content)
            call.custom = called.custom is not None
            self._at[at] = call
            self._calls.append(call)
            self._begin(call, out)
        elif name and not call.name:
            call.name = self._tools.names.ours(name)
            self._next(out)
        pieces = what.arguments if what else called.custom.input if called.custom else None
        if pieces is None or pieces == "":
            return
        text = pieces if isinstance(pieces, str) else canonical(pieces).decode()
        call.text.append(text)
        if call is not self._open:
            call.waiting.append(text)
            self._next(out)
        elif call.name not in self._tools.wrapped:
            out.append(ev.ToolDelta(text, self._index))

    def _begin(self, call: _Call, out: list[ev.Event]) -> None:
        call.name = self._tools.names.ours(call.name)
        self._queue.append(call)
        self._next(out)

    def _next(self, out: list[ev.Event]) -> None:
        """Open the next call, if it has a name and the open one is whole."""
        while self._queue and self._queue[0].name and self._may_begin():
            self._close(out)
            self._start(self._queue.pop(0), out)

    def _may_begin(self) -> bool:
        return self._open is None or self._open.custom or self._open.is_whole()

    def _start(self, call: _Call, out: list[ev.Event]) -> None:
        custom = call.custom or call.name in self._tools.wrapped
        kind = "custom" if custom else "function"
        by = "gemini" if call.signature else ""
        out.append(ev.ToolStart(call.id, call.name, kind, self._index, call.signature, by))  # type: ignore[arg-type]
        self._open = call
        if call.waiting and call.name not in self._tools.wrapped:
            out.append(ev.ToolDelta("".join(call.waiting), self._index))
        call.waiting.clear()

    def _close(self, out: list[ev.Event]) -> None:
        call, self._open = self._open, None
        if call is None:
            return
        if call.name in self._tools.wrapped:
            out.append(ev.ToolDelta(unwrapped("".join(call.text)), self._index))
        elif not (call.text or call.custom):
            out.append(ev.ToolDelta("{}", self._index))
        out.append(ev.PartEnd(self._index))
        out += self._held
        self._held.clear()

    def _cite(self, annotations: object, out: list[ev.Event]) -> None:
        cited = [ev.CitationAdded(one, self._index) for one in annotated(annotations)]
        if isinstance(annotations, list) and len(cited) < len(annotations):
            self._dropped.add("annotations")  # files that were read, documents of the request
        self._cites = self._cites or bool(cited)
        out += cited

    def sources(self, found: list[Citation]) -> list[ev.Event]:
        """Return what an answer names beside its choices, unless it says where it cites what."""
        if self._cites:
            return []
        self._cites = bool(found)
        return [ev.CitationAdded(one, self._index) for one in found]

    def _hear(self, audio: dict[str, Any]) -> None:
        for name, value in audio.items():
            before = self._audio.get(name)
            grows = name in ("data", "transcript") and isinstance(value, str)
            self._audio[name] = before + value if grows and isinstance(before, str) else value

    def _weigh(self, said: chunks.Logprobs, out: list[ev.Event]) -> None:
        if said.content:
            out.append(ev.LogprobsDelta(_logprobs(said.content), self._index))
        if said.refusal:
            out.append(ev.LogprobsDelta(_logprobs(said.refusal), self._index, refusal=True))


def _logprobs(tokens: list[chunks.Top]) -> tuple[ev.Logprob, ...]:
    return tuple(
        ev.Logprob(
            one.token,
            one.logprob,
            None if one.bytes is None else tuple(one.bytes),
            _logprobs(one.top_logprobs) if one.top_logprobs else (),
        )
        for one in tokens
    )
