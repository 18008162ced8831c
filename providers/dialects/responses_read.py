"""Reads a Responses answer over the client's shoulder: its usage, how it ended, how much came.

The one rule: it never raises and never holds anything back. What it cannot read is counted by
its bytes.
"""

import re
from typing import Any

import msgspec

from tollway.providers.canon import Call, Usage
from tollway.providers.dialects import openai_usage as reports
from tollway.providers.dialects.openai_errors import error_within
from tollway.providers.errors import UpstreamRefused
from tollway.providers.sse import Event

# A tool call's own frame, which shows nowhere: brackets, the function's place, an end mark.
_TOOL_CALL = 32
# Sent at once, before the model has begun; a provider may still fail then, and another serve.
_BEFORE = frozenset({"response.created", "response.in_progress", "response.queued"})
_LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})
_DONE = frozenset({"completed", "incomplete"})
# Of an answer that is made in the background: all of it is still to come, and to be paid.
_TO_COME = frozenset({"queued", "in_progress"})
_NOBODY_KNOWS = 2**40
_UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)
_NONE = (b"", b"null")
# Within a text its quotes are escaped.
_NUMBERS = re.compile(rb'"sequence_number" ?: ?([0-9]{1,15})')


class _Response(msgspec.Struct):
    id: Any = None
    object: Any = None
    status: Any = None
    model: Any = None
    output: list[Any] | None = None
    usage: msgspec.Raw = msgspec.Raw()
    tool_usage: Any = None
    service_tier: Any = None
    error: Any = None
    input_tokens: Any = None  # of a count


class _Event(msgspec.Struct):
    type: str = ""
    delta: Any = None
    item: Any = None
    response: _Response | None = None
    error: Any = None


_EVENT = msgspec.json.Decoder(_Event)
_RESPONSE = msgspec.json.Decoder(_Response)


def next_number(last: bytes) -> int:
    """Return the number of the event behind the last piece of a stream; 0 at its beginning."""
    found = _NUMBERS.findall(last)
    return int(found[-1]) + 1 if found else 0


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
        self.alike = None
        self._call = call
        self._quirks = quirks
        self._created = b""  # the event that the stream began with
        self._seen = b""  # the last one

    def event(self, event: Event) -> bool:
        """Read one event of a stream; the client sees all of them."""
        data = event.data
        if data is None:
            self.produced += len(event.raw) if event.cut else 0
            return True
        if data.strip() == b"[DONE]":  # OpenRouter
            return True
        self._seen = data
        try:
            said = _EVENT.decode(data)
        except _UNREADABLE:
            self.produced += len(data)
            if event.name == b"error":
                self.failed = error_within(data)
            return True
        kind = said.type
        if kind == "error" or event.name == b"error" or said.error:
            self.failed = error_within(data)
        elif kind in _LAST and said.response is not None:
            self._end(said.response, data)
        elif kind in _BEFORE and said.response is not None:
            self._created = self._created or data
            self._name(said.response)
        elif kind != "keepalive":  # a sign of life is no beginning of an answer
            self.begun = True
            if type(said.delta) is str:
                delta = said.delta
                self.produced += len(delta) if delta.isascii() else len(delta.encode())
            elif kind == "response.output_item.added" and type(said.item) is dict:
                self.produced += _frame(said.item)
        return True

    def end_early(self) -> bytes:
        """Return the event that ends the stream here, as if the output limit had been reached."""
        created = msgspec.json.decode(self._created) if self._created else {}
        response = {
            **(created.get("response") or {}),
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "usage": msgspec.Raw(self.raw_usage.encode() or b"null"),
        }
        number = next_number(self._seen)
        event = {"type": "response.incomplete", "sequence_number": number, "response": response}
        said = msgspec.json.encode(event)
        return b"event: response.incomplete\ndata: " + said + b"\n\n"

    def whole(self, body: bytes) -> None:
        """Read a whole, unstreamed answer, or the answer to a count."""
        try:
            said = _RESPONSE.decode(body)
        except _UNREADABLE:
            self.produced += len(body)
            return
        if self._call.endpoint == "count_tokens":
            self.begun = self.ended = type(said.input_tokens) is int
            return
        for item in said.output or ():
            self.produced += _frame(item) + _bytes(item)
        self._name(said)
        self._report(said)
        if said.error or said.status == "failed":
            self.failed = error_within(body)
        elif said.object == "response" or said.output is not None:
            self.begun = self.ended = True
            if type(said.status) is str and said.status in _TO_COME:
                self.produced = _NOBODY_KNOWS

    def _name(self, said: _Response) -> None:
        if type(said.id) is str:
            self.upstream_id = said.id
        if type(said.service_tier) is str:
            self.service = said.service_tier
        if type(said.model) is str:
            self.model = said.model
        if type(said.status) is str and said.status in _DONE:
            self.finish_reasons = [said.status]

    def _end(self, said: _Response, data: bytes) -> None:
        self._name(said)
        self._report(said)
        if said.error or type(said.status) is not str or said.status not in _DONE:
            self.failed = error_within(data)
        else:
            self.begun = self.ended = self.last = True

    def _report(self, said: _Response) -> None:
        used = bytes(said.usage)
        if used in _NONE:
            return
        self.raw_usage = used.decode("utf-8", "replace")
        try:
            report = msgspec.json.decode(used)
        except _UNREADABLE:
            return
        self.usage = usage_of(report, said.tool_usage)


def usage_of(report: object, tools: object = None) -> Usage | None:
    """Return what a `usage` object says, or None where input or output is not known.

    Args:
        report: The object, decoded.
        tools: The answer's `tool_usage`, which counts paid searches; None where there is none.
    """
    if not isinstance(report, dict):
        return None
    search = tools.get("web_search") if isinstance(tools, dict) else None
    asked = search.get("num_requests") if isinstance(search, dict) else None
    renamed = {
        "prompt_tokens": report.get("input_tokens"),
        "completion_tokens": report.get("output_tokens"),
        "total_tokens": report.get("total_tokens"),
        "prompt_tokens_details": report.get("input_tokens_details"),
        "completion_tokens_details": report.get("output_tokens_details"),
        "num_search_queries": asked,
        "server_side_tool_usage_details": report.get("server_side_tool_usage_details"),
    }
    return reports.disjoint(reports.counts(renamed))


def _frame(item: object) -> int:
    """Return the bytes of a tool's name and of its call's frame; 0 for what is no call."""
    name = item.get("name") if type(item) is dict else None
    return _TOOL_CALL + len(name.encode()) if type(name) is str else 0


# Not said by the model: names, states, and what was shown to it.
_NOT_MADE = frozenset({"id", "type", "status", "role", "call_id", "name"})


def _bytes(item: object) -> int:
    """Return the UTF-8 bytes of every string that an item says."""
    total = 0
    stack = [item]
    while stack:
        one = stack.pop()
        if type(one) is str:
            total += len(one.encode())
        elif type(one) is dict:
            stack += [value for key, value in one.items() if key not in _NOT_MADE]
        elif type(one) is list:
            stack += one
    return total
