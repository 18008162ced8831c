"""Reads a Gemini answer over the client's shoulder: its usage, how it ended, how much came.

The one rule: it never raises and holds nothing back. What it cannot read is counted by its bytes.
"""

import re
from typing import Any

import msgspec

from tollway.providers.canon import Call, Usage
from tollway.providers.dialects.gemini_errors import error_within, said_in
from tollway.providers.errors import UpstreamRefused
from tollway.providers.sse import Event

# A function call's own frame, which shows nowhere.
_CALL = 32
_UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)
_MOST = 2**40
_ONE_A_PROMPT = re.compile(r"gemini-[12]\.")
# How Vertex names the service tier of an answer.
_TRAFFIC = {
    "ON_DEMAND": "standard",
    "ON_DEMAND_PRIORITY": "priority",
    "ON_DEMAND_FLEX": "flex",
}


class _Candidate(msgspec.Struct):
    content: Any = None
    finishReason: Any = None  # noqa: N815 - Google's name
    index: Any = None
    groundingMetadata: Any = None  # noqa: N815 - Google's name


class _Chunk(msgspec.Struct):
    candidates: list[_Candidate] | None = None
    usageMetadata: Any = None  # noqa: N815 - Google's name
    promptFeedback: Any = None  # noqa: N815 - Google's name
    responseId: Any = None  # noqa: N815 - Google's name
    modelVersion: Any = None  # noqa: N815 - Google's name
    error: Any = None
    totalTokens: Any = None  # noqa: N815 - Google's name, of a count


_CHUNK = msgspec.json.Decoder(_Chunk)


class Reader:
    """Reads one attempt's answer; see `AnswerReader` for what its fields say."""

    def __init__(self, call: Call, _quirks: frozenset[str]) -> None:
        self.usage: Usage | None = None
        self.produced = 0
        self.begun = False
        self.ended = False
        # What ends a stream is the end of the connection's body: early models said in every
        # chunk that they had stopped.
        self.last = False
        self.failed: UpstreamRefused | None = None
        self.upstream_id = ""
        self.service = ""
        self.model = ""
        self.finish_reasons: list[str] = []
        self.alike = None
        self._call = call
        self._report: dict[str, Any] | None = None  # the last one; every event has one
        self._finished: set[int] = set()
        self._queries: set[str] = set()  # that were searched for

    @property
    def raw_usage(self) -> str:
        """The provider's last report, as JSON."""
        return "" if self._report is None else msgspec.json.encode(self._report).decode()

    def event(self, event: Event) -> bool:
        """Read one event of a stream; the client sees all of them."""
        if (said := said_in(event)) is None:
            self.produced += len(event.raw) if event.cut else 0
        else:
            self._read(said)
        return True

    def whole(self, body: bytes) -> None:
        """Read a whole, unstreamed answer, or the answer to a count."""
        self._read(body)
        if self._call.endpoint != "count_tokens" and self.begun and self.failed is None:
            self.ended = True

    def end_early(self) -> bytes:
        """Return the event that ends the stream here, as if the output limit had been reached."""
        chunk = {
            "candidates": [
                {"content": {"role": "model", "parts": []}, "finishReason": "MAX_TOKENS",
                 "index": index}
                for index in range(self._call.choices)
                if index not in self._finished
            ],
            "usageMetadata": msgspec.Raw(self.raw_usage.encode() or b"{}"),
        }  # fmt: skip
        return b"data: " + msgspec.json.encode(chunk) + b"\r\n\r\n"

    def _read(self, data: bytes) -> None:
        try:
            said = _CHUNK.decode(data)
        except _UNREADABLE:
            self.produced += len(data)
            return
        if said.error is not None:
            self.failed = error_within(data)
            return
        if self._call.endpoint == "count_tokens":
            self.begun = self.ended = type(said.totalTokens) is int
            self.usage = Usage() if self.ended else None
            return
        if type(said.responseId) is str:
            self.upstream_id = said.responseId
        if type(said.modelVersion) is str:
            self.model = said.modelVersion
        if not said.candidates and said.promptFeedback is not None:
            self.begun = self.ended = True  # refused before it began
        for place, candidate in enumerate(said.candidates or ()):
            self.begun = True
            self._candidate(candidate, place)
        if isinstance(said.usageMetadata, dict):
            self._used(said.usageMetadata)
        if self._queries and self.usage is not None:
            self.usage = msgspec.structs.replace(self.usage, searches=self._searches())

    def _searches(self) -> int:
        """Return how many searches are paid for: up to the second generation one a prompt."""
        return 1 if _ONE_A_PROMPT.match(self.model) else len(self._queries)

    def _candidate(self, said: _Candidate, place: int) -> None:
        parts = said.content.get("parts") if isinstance(said.content, dict) else None
        for part in parts if isinstance(parts, list) else ():
            self.produced += _visible(part)
        grounded = said.groundingMetadata
        queries = grounded.get("webSearchQueries") if isinstance(grounded, dict) else None
        for query in queries if isinstance(queries, list) else ():
            if isinstance(query, str) and query.strip():
                self._queries.add(query)
        if said.finishReason is not None:
            index = said.index if type(said.index) is int else place
            if index not in self._finished and type(said.finishReason) is str:
                self.finish_reasons.append(said.finishReason)  # early models: in every chunk
            self._finished.add(index)
            if len(self._finished) >= self._call.choices:
                self.ended = True

    def _used(self, said: dict[str, Any]) -> None:
        self._report = said
        tier = said.get("serviceTier") or _TRAFFIC.get(str(said.get("trafficType")))
        if type(tier) is str:
            self.service = tier.lower()
        if (usage := usage_of(said)) is not None:
            self.usage = usage


def _visible(part: object) -> int:
    if not isinstance(part, dict):
        return 0
    total = 0
    for key, value in part.items():
        if key == "text" and type(value) is str:
            total += len(value.encode())
        elif key == "functionCall":
            total += _CALL + len(msgspec.json.encode(value))
        elif key in ("executableCode", "codeExecutionResult"):
            total += len(msgspec.json.encode(value))
    return total


def usage_of(said: dict[str, Any]) -> Usage | None:
    """Return what a `usageMetadata` says, or None where the prompt's tokens are not told.

    Cached tokens are within the prompt; thoughts, and what tools read, are beside the rest.
    """
    prompt = _count(said, "promptTokenCount")
    if prompt is None:
        return None
    tools = _count(said, "toolUsePromptTokenCount") or 0
    cached = min(_count(said, "cachedContentTokenCount") or 0, prompt)
    heard, seen, _ = _media(said.get("promptTokensDetails"))
    heard_cached, seen_cached, _ = _media(said.get("cacheTokensDetails"))
    fresh = prompt - cached
    audio = min(max(0, heard - heard_cached), fresh)
    images = min(max(0, seen - seen_cached), fresh - audio)
    made = _count(said, "candidatesTokenCount") or 0
    spoken, _, shown = _media(said.get("candidatesTokensDetails"))
    spoken = min(spoken, made)
    shown = min(shown, made - spoken)
    return Usage(
        input=fresh - audio - images + tools,
        cache_read=cached,
        audio_input=audio,
        image_input=images,
        output=made - spoken - shown,
        reasoning=_count(said, "thoughtsTokenCount") or 0,
        audio_output=spoken,
        image_output=shown,
    )


def _count(said: dict[str, Any], name: str) -> int | None:
    value = said.get(name)
    return value if type(value) is int and 0 <= value <= _MOST else None


def _media(details: object) -> tuple[int, int, int]:
    """Return the tokens of audio, of images and video, and of images alone in a list of details."""
    audio = images = video = 0
    for one in details if isinstance(details, list) else ():
        modality = one.get("modality") if isinstance(one, dict) else None
        if modality == "AUDIO":
            audio += _count(one, "tokenCount") or 0
        elif modality == "IMAGE":
            images += _count(one, "tokenCount") or 0
        elif modality == "VIDEO":
            video += _count(one, "tokenCount") or 0
    return audio, images + video, images
