"""Reads a Responses answer, streamed or whole, into the events of the neutral form.

An answer is a list of items: messages, thinking, calls. They come one after the other from
OpenAI itself; from servers that speak its dialect they may mix, and then one waits for the other.
"""

from typing import Any

import msgspec

from tollway.providers import events as ev
from tollway.providers.conversation import Conversation, Opaque, Thinking, Tool
from tollway.providers.dialects.openai_errors import error_within
from tollway.providers.dialects.responses_ask import tool_name
from tollway.providers.dialects.responses_read import usage_of
from tollway.providers.dialects.responses_request import NAME
from tollway.providers.dialects.responses_said import citations
from tollway.providers.dialects.responses_tools import joined_name
from tollway.providers.dialects.wire import UNREADABLE, CallIds, Names, text_of
from tollway.providers.errors import UpstreamBroke, UpstreamGaveUp
from tollway.providers.fold import fold
from tollway.providers.sse import Event

_REASONS: dict[str, ev.StopReason] = {
    "max_output_tokens": "length",
    "content_filter": "filtered",
    "max_tool_calls": "paused",
}
_NO_ANSWER = ("failed", "cancelled")
_DONE = b"[DONE]"  # OpenRouter ends this dialect's streams with it too
_CALLS = frozenset({"function_call", "custom_tool_call"})
_PIECES_OF_CALLS = frozenset({"function_call_arguments.delta", "custom_tool_call_input.delta"})
_LAST = frozenset({"response.completed", "response.incomplete"})


class _Response(msgspec.Struct):
    id: Any = None
    model: Any = None
    created_at: Any = None
    status: Any = None
    incomplete_details: Any = None
    output: list[Any] | None = None
    usage: Any = None
    tool_usage: Any = None
    error: Any = None


class _Event(msgspec.Struct):
    type: str = ""
    output_index: int | None = None
    summary_index: int | None = None
    delta: Any = None
    text: Any = None
    arguments: Any = None
    input: Any = None
    item: Any = None
    part: Any = None
    annotation: Any = None
    logprobs: Any = None
    response: _Response | None = None
    error: Any = None


_EVENT = msgspec.json.Decoder(_Event)
_RESPONSE = msgspec.json.Decoder(_Response)


class Reader:
    """Reads one attempt's answer; see `EventReader` for what its methods give."""

    def __init__(self, said: Conversation, _quirks: frozenset[str]) -> None:
        self.ended = False
        self.dropped: set[str] = set()
        self._names = Names(
            tool_name, tuple(tool.name for tool in said.tools if isinstance(tool, Tool))
        )
        self._ids = CallIds(said)
        self._logprobs = said.logprobs
        self._id = ""
        self._started = False
        self._called = self._refused = False
        self._line = _Line()
        self._shown: dict[int, bool] = {}  # items of which some text or arguments have come
        self._cited: set[int] = set()  # items of which annotations have come

    def event(self, event: Event) -> list[ev.Event]:
        """Return what one event of a stream means.

        Raises:
            UpstreamBroke: It is no event of this dialect.
        """
        if event.data is None or event.data.strip() == _DONE:
            return []
        try:
            said = _EVENT.decode(event.data)
        except UNREADABLE:
            raise UpstreamBroke("The provider sent an event that cannot be read") from None
        if said.type == "error" or said.error or said.type == "response.failed":
            failed = error_within(event.data)
            return [ev.Failed(failed.status, failed.message, event.data)]
        started: list[ev.Event] = []
        if said.response is not None and not self._started:
            started = [self._start(said.response)]
        if said.type in _LAST and said.response is not None:
            self.ended = True
            rest = [] if self._shown else self._items(said.response)
            return [*started, *self._line.rest(), *rest, *self._end(said.response)]
        return [*started, *self._piece(said)]

    def end(self) -> list[ev.Event]:
        """Return what was held back, once the body has ended."""
        return self._line.rest()

    def whole(self, body: bytes) -> ev.Answer:
        """Return a whole, unstreamed answer.

        Raises:
            UpstreamBroke: It is no answer of this dialect.
        """
        try:
            said = _RESPONSE.decode(body)
        except UNREADABLE:
            raise UpstreamBroke("The provider sent an answer that cannot be read") from None
        found = [self._start(said), *self._items(said)]
        self.ended = True
        return fold([*found, *self._end(said)])

    def _items(self, said: _Response) -> list[ev.Event]:
        """Return what the items of a whole answer mean; of a stream, where it has shown none."""
        found: list[ev.Event] = []
        for place, item in enumerate(said.output or ()):
            if isinstance(item, dict):
                found += self._whole_item(item, place)
        return found

    def _start(self, said: _Response) -> ev.Event:
        self._started = True
        self._id = said.id if isinstance(said.id, str) else ""
        created = said.created_at
        return ev.Start(
            self._id,
            said.model if isinstance(said.model, str) else "",
            int(created) if isinstance(created, int | float) else None,
        )

    def _piece(self, said: _Event) -> list[ev.Event]:
        """Return what an event between the first and the last one means."""
        place = said.output_index or 0
        kind = said.type.removeprefix("response.")
        if kind == "output_item.added" and isinstance(said.item, dict):
            return self._line.put(place, self._added(said.item, place))
        if kind == "output_item.done" and isinstance(said.item, dict):
            found = self._line.put(place, self._done(said.item, place))
            return [*found, *self._line.close(place)]
        found = []
        if kind in _PIECES_OF_CALLS and place not in self._shown:
            pass  # of a call that nobody has announced: it comes whole at its end
        elif isinstance(said.delta, str):
            found = self._delta(kind, said)
            self._shown[place] = self._shown.get(place, False) or bool(found)
        elif kind == "output_text.done" and isinstance(said.text, str) and place not in self._shown:
            found = [ev.TextDelta(said.text)]
            self._shown[place] = True
        elif kind == "content_part.done" and isinstance(said.part, dict):
            # What was thought is signed behind its last part.
            found = [ev.PartEnd()] if said.part.get("type") != "reasoning_text" else []
        elif kind == "output_text.annotation.added":
            found = [ev.CitationAdded(one) for one in citations([said.annotation])]
            self._cited.add(place)
        elif kind == "reasoning_summary_part.added" and said.summary_index:
            found = [ev.ThinkingDelta("\n\n", summary=True)]
        return self._line.put(place, found) if found else []

    def _delta(self, kind: str, said: _Event) -> list[ev.Event]:
        text: str = said.delta
        match kind:
            case "output_text.delta":
                more = self._tokens(said.logprobs)
                return [ev.TextDelta(text), *more]
            case "function_call_arguments.delta" | "custom_tool_call_input.delta":
                return [ev.ToolDelta(text)]
            case "reasoning_summary_text.delta":
                return [ev.ThinkingDelta(text, summary=True)]
            case "reasoning_text.delta":
                return [ev.ThinkingDelta(text)]
            case "refusal.delta":
                self._refused = True
                return [ev.RefusalDelta(text)]
            case _:
                return []

    def _tokens(self, said: object) -> list[ev.Event]:
        if not self._logprobs or not isinstance(said, list) or not said:
            return []
        return [ev.LogprobsDelta(tuple(map(_logprob, said)))]

    def _added(self, item: dict[str, Any], place: int) -> list[ev.Event]:
        if text_of(item, "type") not in _CALLS:
            return []
        self._called = True
        name = joined_name(text_of(item, "namespace"), text_of(item, "name"))
        id_ = self._ids.own(text_of(item, "call_id") or text_of(item, "id"), self._id)
        kind: Any = "custom" if item["type"] == "custom_tool_call" else "function"
        self._shown[place] = False
        return [ev.ToolStart(id_, self._names.ours(name), kind)]

    def _done(self, item: dict[str, Any], place: int) -> list[ev.Event]:
        """Return what the end of an item means: above all what came in no piece before."""
        kind = text_of(item, "type")
        shown = self._shown.get(place)
        if kind not in _CALLS:
            self._shown[place] = True
        if kind == "message":
            if item.get("phase"):
                self.dropped.add("phase")
            return [] if shown else self._message(item, cited=place in self._cited)
        if kind in _CALLS:
            started = [] if place in self._shown else self._added(item, place)
            arguments = text_of(item, "arguments") or text_of(item, "input")
            if not arguments and kind == "function_call":
                arguments = "{}"  # a call without any is given nothing by some servers
            rest: list[ev.Event] = [] if shown else [ev.ToolDelta(arguments)]
            return [*started, *rest, ev.PartEnd()]
        if kind == "reasoning":
            return _thought(item, shown=bool(shown))
        return [ev.PartWhole(Opaque(NAME, msgspec.json.encode(item), kind))] if kind else []

    def _whole_item(self, item: dict[str, Any], place: int) -> list[ev.Event]:
        if text_of(item, "type") in _CALLS:
            return [*self._added(item, place), *self._done(item, place)]
        return self._done(item, place)

    def _message(self, item: dict[str, Any], *, cited: bool) -> list[ev.Event]:
        found: list[ev.Event] = []
        content = item.get("content")
        for part in content if isinstance(content, list) else ():
            if not isinstance(part, dict):
                continue
            if part.get("type") == "refusal":
                self._refused = True
                found.append(ev.RefusalDelta(text_of(part, "refusal")))
            else:
                found.append(ev.TextDelta(text_of(part, "text")))
                notes = citations(part.get("annotations")) if not cited else ()
                found += [ev.CitationAdded(one) for one in notes]
                found += self._tokens(part.get("logprobs"))
            found.append(ev.PartEnd())
        return found

    def _end(self, said: _Response) -> list[ev.Event]:
        found: list[ev.Event] = []
        if (usage := usage_of(said.usage, said.tool_usage)) is not None:
            found.append(ev.UsageReport(usage))
        reason: ev.StopReason = "end"
        if said.status in _NO_ANSWER:
            raise UpstreamGaveUp(f"The provider's answer is none: its `status` is {said.status}")
        if said.status == "incomplete":
            why = said.incomplete_details
            reason = _REASONS.get(text_of(why, "reason") if isinstance(why, dict) else "", "other")
        elif self._called:
            reason = "tools"
        elif self._refused:
            reason = "refusal"
        return [*found, ev.Stopped(reason)]


def _thought(item: dict[str, Any], *, shown: bool) -> list[ev.Event]:
    encrypted, id_ = text_of(item, "encrypted_content"), text_of(item, "id")
    found: list[ev.Event] = []
    if not shown:
        texts = [_joined(item.get("content"), ""), _joined(item.get("summary"), "\n\n")]
        if texts[0] or texts[1]:
            found.append(ev.ThinkingDelta(texts[0] or texts[1], summary=not texts[0]))
            shown = True
    if encrypted and not shown:
        return [ev.PartWhole(Thinking(encrypted=encrypted, by=NAME, id=id_))]
    if encrypted:
        found.append(ev.Signed(NAME, encrypted=encrypted, id=id_))
    return [*found, ev.PartEnd()] if shown else []


def _joined(parts: object, between: str) -> str:
    said = parts if isinstance(parts, list) else []
    return between.join(text_of(part, "text") for part in said if isinstance(part, dict))


def _logprob(said: object) -> ev.Logprob:
    one = said if isinstance(said, dict) else {}
    raw = one.get("bytes")
    number = one.get("logprob")
    top = one.get("top_logprobs")
    return ev.Logprob(
        text_of(one, "token"),
        float(number) if isinstance(number, int | float) else 0.0,
        tuple(raw) if isinstance(raw, list) else None,
        tuple(map(_logprob, top)) if isinstance(top, list) else (),
    )


class _Line:
    """Lets items out one after the other: what comes for another than the open one waits."""

    def __init__(self) -> None:
        self._open: int | None = None
        self._held: dict[int, list[ev.Event]] = {}
        self._done: set[int] = set()

    def put(self, place: int, found: list[ev.Event]) -> list[ev.Event]:
        """Return an item's events if it is its turn; else keep them."""
        if self._open is None:
            self._open = place
        if place == self._open:
            return found
        self._held.setdefault(place, []).extend(found)
        return []

    def close(self, place: int) -> list[ev.Event]:
        """Take note that an item is whole; return what had to wait for it."""
        if place != self._open:
            self._done.add(place)
            return []
        self._open = None
        found: list[ev.Event] = []
        while self._held and self._open is None:
            following = min(self._held)
            found += self._held.pop(following)
            if following in self._done:
                self._done.discard(following)
            else:
                self._open = following
        return found

    def rest(self) -> list[ev.Event]:
        """Return all that still waits, in the order of the items."""
        found = [one for place in sorted(self._held) for one in self._held[place]]
        self._held.clear()
        self._open = None
        return found
