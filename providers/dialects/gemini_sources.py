"""The sources that a Gemini answer names, and where in its text they stand.

Google counts places in bytes of UTF-8, from the beginning of a part or of the whole text, and
repeats the words that stand there; here they are characters of the text part that is open.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from tollway.providers import events as ev
from tollway.providers.conversation import Citation
from tollway.providers.dialects.gemini_request import NAME
from tollway.providers.dialects.wire import canonical, text_of

# What stands within an open text, or beside it, and does not end it.
_WITHIN = (ev.TextDelta, ev.Signed, ev.CitationAdded, ev.LogprobsDelta)


class Sources:
    """Those of one choice. It is shown each piece of the answer's text."""

    def __init__(self, choice: int) -> None:
        self._choice = choice
        self._pieces: list[str] = []  # of the text, of every part
        self._length = 0
        self._opened: int | None = None  # where the open part began in it
        self._chunks: list[Any] = []  # which the places point to, over all pieces of a stream
        self._told: set[tuple[str, str, int | None, int | None]] = set()
        self._known: list[Citation] = []  # by places in all of the text

    def placed(self, found: list[ev.Event], said: dict[str, Any]) -> list[ev.Event]:
        """Return a candidate's events with its sources, each before its text's end.

        What was found, but stands nowhere yet, waits: later pieces may say where.
        """
        out: list[ev.Event] = []
        if said.get("groundingMetadata") or said.get("citationMetadata"):
            more = [one.text for one in found if isinstance(one, ev.TextDelta)]
            text = "".join((*self._pieces, *more))
            self._known += (*_quoted(said, text), *self._grounded(said, text))
        for event in found:
            if not isinstance(event, _WITHIN):
                out += self._due()
                self._opened = None
            elif isinstance(event, ev.TextDelta):
                if self._opened is None:
                    self._opened = self._length
                self._pieces.append(event.text)
                self._length += len(event.text)
            out.append(event)
        ends = said.get("finishReason") is not None
        return out + self._due() + (self.rest() if ends else [])

    def rest(self) -> list[ev.Event]:
        """Return the sources that have no place in the open text, at the answer's end."""
        cited, self._known = self._known, []
        named = {one.url for one in cited} | {url for url, *_ in self._told}
        cited += [one for chunk in self._chunks if (one := _source(chunk)).url not in named]
        return self._new(cited)

    def _due(self) -> list[ev.Event]:
        """Return those that stand in the open text."""
        opened, length = self._opened, self._length
        if opened is None or not self._known:
            return []
        due = [one for one in self._known if opened <= (one.start or 0) and one.end is not None]
        due = [one for one in due if (one.end or 0) <= length]
        self._known = [one for one in self._known if one not in due]
        return self._new(due)

    def _new(self, cited: list[Citation]) -> list[ev.Event]:
        """Return what was not told before, at places of the part that is open."""
        new: list[ev.Event] = []
        opened = self._length if self._opened is None else self._opened
        for one in cited:
            key = (one.url, one.title, one.start, one.end)
            if key not in self._told:
                self._told.add(key)
                new.append(ev.CitationAdded(_moved(one, -opened), self._choice))
        return new

    def _grounded(self, said: dict[str, Any], text: str) -> Iterator[Citation]:
        grounded = _object(said.get("groundingMetadata"))
        if chunks := _list(grounded.get("groundingChunks")):
            if chunks[: len(self._chunks)] == self._chunks:
                self._chunks = chunks
            else:
                self._chunks = self._chunks + chunks
        for support in _list(grounded.get("groundingSupports")):
            place = _place(_object(_object(support).get("segment")), text)
            for number in _list(_object(support).get("groundingChunkIndices")):
                if type(number) is int and 0 <= number < len(self._chunks):
                    source = _source(self._chunks[number])
                    start, end = place or (None, None)
                    yield msgspec.structs.replace(source, start=start, end=end)


def _moved(one: Citation, by: int) -> Citation:
    if one.start is None or one.end is None:
        return one
    return msgspec.structs.replace(one, start=one.start + by, end=one.end + by)


def _quoted(said: dict[str, Any], text: str) -> Iterator[Citation]:
    """Yield what a text repeats, or nearly does."""
    cited = _object(said.get("citationMetadata"))
    for one in _list(cited.get("citationSources") or cited.get("citations")):
        source = _object(one)
        if url := text_of(source, "uri"):
            start, end = _place(source, text) or (None, None)
            yield Citation(url, text_of(source, "title"), start=start, end=end)


def _source(chunk: object) -> Citation:
    """Return what was found on the web, on a map or among the documents that were given."""
    said = _object(chunk)
    kind = next((name for name in said if isinstance(said[name], dict)), "")
    about = _object(said.get(kind))
    url = text_of(about, "uri") or text_of(about, "sourceUri")
    quote = text_of(about, "text") if kind == "retrievedContext" else ""
    title = text_of(about, "title")
    if url:
        return Citation(url, title, quote)
    return Citation("", title, quote, by=NAME, payload=canonical(said))


def _place(said: dict[str, Any], text: str) -> tuple[int, int] | None:
    """Return a place in a text by its characters; None where there is no such place.

    The words that stand there tell from which part's beginning the bytes were counted.
    """
    start, end, words = said.get("startIndex") or 0, said.get("endIndex"), text_of(said, "text")
    if type(start) is int and type(end) is int and 0 <= start < end:
        raw = text.encode("utf-8", "replace")
        before, within = _decoded(raw[:start]), _decoded(raw[start:end])
        if before is not None and within is not None and end <= len(raw) and words in ("", within):
            return len(before), len(before) + len(within)
    at = text.find(words) if words else -1
    return None if at < 0 else (at, at + len(words))


def _decoded(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None  # cut within a character


def _object(said: object) -> dict[str, Any]:
    return said if isinstance(said, dict) else {}


def _list(said: object) -> list[Any]:
    return said if isinstance(said, list) else []
