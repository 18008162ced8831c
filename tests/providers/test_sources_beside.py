"""Sources that an answer names beside its choices: Perplexity's and xAI's way."""

import json
from typing import Any

import pytest
from translated import GEMINI, OPENAI, RESPONSES, client_call, fold_of, no_request
from wire.recordings import recordings

from tollway.providers.conversation import Citation, Text
from tollway.providers.dialects.dialect import Codec
from tollway.providers.events import Answer
from tollway.providers.sse import Event as Sse

URLS = ["https://a.example", "https://b.example"]
RESULTS = [
    {"title": "B", "url": URLS[1], "snippet": "Of B."},
    {"title": "Unused", "url": "https://c.example"},
]
NAMED = (Citation(URLS[0]), Citation(URLS[1], "B", "Of B."))


def answer(said: dict[str, Any], **more: Any) -> Answer:
    """Return what a whole answer says."""
    message = {"role": "assistant", "content": "Facts [1][2].", **said}
    body = {"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    reader = OPENAI.events(no_request(OPENAI), frozenset())
    return reader.whole(json.dumps(body | more).encode())


def streamed(*chunks: dict[str, Any]) -> bytes:
    """Return a stream as a client of Responses reads it."""
    reader = OPENAI.events(no_request(OPENAI), frozenset())
    found = [e for one in chunks for e in reader.event(Sse(b"", json.dumps(one).encode()))]
    writer = RESPONSES.writer(client_call(RESPONSES))
    return b"".join(map(writer.event, [*found, *reader.end()])) + writer.end()


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    """Return a piece of a stream."""
    return {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def test_sources_are_cited_by_the_whole_text() -> None:
    """They were left out, and `[1]` in the text pointed to nothing."""
    (text,) = answer({}, citations=URLS, search_results=RESULTS).parts
    assert isinstance(text, Text)
    assert text.citations == NAMED
    (text,) = answer({}, search_results=RESULTS[:1]).parts
    assert isinstance(text, Text)
    assert text.citations == NAMED[1:]


def test_annotations_say_more() -> None:
    """OpenRouter gives both: places and addresses."""
    note = {"type": "url_citation", "url_citation": {"url": URLS[0], "start_index": 1}}
    (text,) = answer({"annotations": [note]}, citations=URLS).parts
    assert isinstance(text, Text)
    assert [(one.url, one.start) for one in text.citations] == [(URLS[0], 1)]


@pytest.mark.parametrize("late", [False, True])
def test_a_stream_cites_each_source_once(late: bool) -> None:
    """Perplexity repeats them with every piece, xAI tells them last."""
    beside: dict[str, Any] = {} if late else {"citations": URLS}
    end = {"id": "c", "choices": [], "citations": URLS, "usage": {"prompt_tokens": 1}}
    pieces = [
        chunk({"content": "Facts"}, **beside),
        chunk({"content": " [1]."}, **beside),
        chunk({}, "stop", **beside),
    ]
    made = streamed(*pieces, end)
    assert made.count(b"event: response.output_text.annotation.added") == 2
    assert made.index(b"annotation.added") < made.index(b"response.completed")


@pytest.mark.parametrize("codec", [RESPONSES, GEMINI], ids=lambda codec: codec.name)
def test_every_recorded_source_arrives(codec: Codec) -> None:
    """Of Perplexity's answers, streamed and whole."""
    for recording in recordings("perplexity/*citations*.json"):
        reader = OPENAI.events(no_request(OPENAI), recording.quirks)
        if recording.streamed:
            data = [one.strip()[6:] for one in recording.body.split(b"\r\n\r\n") if one.strip()]
            told = json.loads(data[-1])["citations"]
            events = [event for one in data for event in reader.event(Sse(b"", one))]
            said = fold_of([*events, *reader.end()])
        else:
            told = json.loads(recording.body)["citations"]
            said = reader.whole(recording.body)
        again = codec.events(no_request(codec), frozenset()).whole(
            codec.writer(client_call(codec)).whole(said)
        )
        cited = [c.url for part in again.parts if isinstance(part, Text) for c in part.citations]
        assert cited == list(dict.fromkeys(told))
