"""Where the sources of a Gemini answer stand: bytes there, characters here."""

import json
from typing import Any

from translated import ANTHROPIC, GEMINI, OPENAI, RESPONSES, client_call, fold_of, no_request
from wire.recordings import recordings

from tollway.providers.conversation import Text
from tollway.providers.events import Answer
from tollway.providers.sse import Event as Sse

TEXT = "Größe ist nicht alles — sagt man. Punkt."
CLAIMS = ("Größe ist nicht alles", "sagt man")
WEB = [
    {"web": {"uri": "https://a.example", "title": "A"}},
    {"maps": {"uri": "https://b.example", "title": "B"}},
]


def segment(words: str, text: str = TEXT, **more: Any) -> dict[str, Any]:
    """Return a place as Google counts it."""
    start = len(text[: text.index(words)].encode())
    found = {"endIndex": start + len(words.encode()), "text": words, **more}
    return found | ({"startIndex": start} if start else {})


def grounding(text: str = TEXT, **more: Any) -> dict[str, Any]:
    """Return where the two claims stand, and on what they rest."""
    supports = [
        {"segment": segment(CLAIMS[0], text, **more), "groundingChunkIndices": [0]},
        {"segment": segment(CLAIMS[1], text, **more), "groundingChunkIndices": [0, 1, 7]},
    ]
    return {"groundingChunks": WEB, "groundingSupports": supports}


def chunk(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return an answer, or a piece of one."""
    return {
        "candidates": [{"content": {"role": "model", "parts": list(parts)}, "index": 0, **more}]
    }


def whole(said: dict[str, Any]) -> Answer:
    """Return what a whole answer says."""
    return GEMINI.events(no_request(GEMINI), frozenset()).whole(json.dumps(said).encode())


def streamed(*chunks: dict[str, Any]) -> Answer:
    """Return what a stream says."""
    reader = GEMINI.events(no_request(GEMINI), frozenset())
    found = [e for one in chunks for e in reader.event(Sse(b"", json.dumps(one).encode()))]
    return fold_of([*found, *reader.end()])


def cited(answer: Answer) -> list[tuple[str, str]]:
    """Return the words that are cited, and for what, by the places in their parts."""
    return [
        (part.text[one.start : one.end], one.url)
        for part in answer.parts
        if isinstance(part, Text)
        for one in part.citations
    ]


def annotated(answer: Answer) -> list[tuple[str, str]]:
    """Return the same as a client of OpenAI's reads it: by places in the whole content."""
    (choice,) = json.loads(OPENAI.writer(client_call(OPENAI)).whole(answer))["choices"]
    message = choice["message"]
    notes = [one["url_citation"] for one in message.get("annotations", ())]
    return [(message["content"][n["start_index"] : n["end_index"]], n["url"]) for n in notes]


EXPECTED = [
    (CLAIMS[0], "https://a.example"),
    (CLAIMS[1], "https://a.example"),
    (CLAIMS[1], "https://b.example"),
]


def test_bytes_are_characters_here() -> None:
    """They were left out: every source stood at the whole text."""
    answer = whole(chunk({"text": TEXT}, finishReason="STOP", groundingMetadata=grounding()))
    assert cited(answer) == annotated(answer) == EXPECTED
    writer = RESPONSES.writer(client_call(RESPONSES))
    (item,) = json.loads(writer.whole(answer))["output"]
    (content,) = item["content"]
    notes = [content["text"][n["start_index"] : n["end_index"]] for n in content["annotations"]]
    assert notes == [CLAIMS[0], CLAIMS[1], CLAIMS[1]]


def test_what_messages_cannot_say_of_a_place_is_named() -> None:
    """A citation there is about its block."""
    answer = whole(chunk({"text": TEXT}, finishReason="STOP", groundingMetadata=grounding()))
    writer = ANTHROPIC.writer(client_call(ANTHROPIC))
    (block,) = json.loads(writer.whole(answer))["content"]
    assert [one["url"] for one in block["citations"]] == [url for _, url in EXPECTED]
    assert writer.dropped == {"citations.start_index"}


def test_a_stream_s_places_are_in_all_of_its_text() -> None:
    """They come with the last piece, whose signature ends no text that is cited behind it."""
    signed = {"text": "", "thoughtSignature": "c2ln"}
    pieces = [chunk({"text": one}, groundingMetadata={}) for one in (TEXT[:9], TEXT[9:30])]
    last = chunk(signed, finishReason="STOP", groundingMetadata=grounding())
    answer = streamed(*pieces, chunk({"text": TEXT[30:]}), last)
    assert cited(answer) == EXPECTED
    late = chunk(finishReason="STOP", groundingMetadata=grounding())
    answer = streamed(*pieces, chunk({"text": TEXT[30:]} | signed | {"text": TEXT[30:]}), late)
    assert cited(answer) == EXPECTED


def test_chunks_count_on_from_piece_to_piece() -> None:
    """Google's reference: indices go across all responses of a stream."""
    supports = grounding()["groundingSupports"]
    pieces = [
        chunk({"text": TEXT}, groundingMetadata={"groundingChunks": WEB[:1]}),
        chunk(groundingMetadata={"groundingChunks": WEB[1:], "groundingSupports": supports}),
        chunk(finishReason="STOP", groundingMetadata=grounding()),  # and once more, all of it
    ]
    assert cited(streamed(*pieces)) == EXPECTED


def test_places_in_a_later_part_are_found_by_their_words() -> None:
    """Counted from that part's beginning, or from the first one's: the words tell."""
    code = {"executableCode": {"language": "PYTHON", "code": "1"}}
    for from_part in (TEXT, "Vorab. " + TEXT):
        said = grounding(from_part, partIndex=2)
        answer = whole(
            chunk(
                {"text": "Vorab. "},
                code,
                {"text": TEXT},
                finishReason="STOP",
                groundingMetadata=said,
            )
        )
        assert cited(answer) == annotated(answer) == EXPECTED
        (first, *_) = [part for part in answer.parts if isinstance(part, Text)]
        assert first.citations == ()


def test_a_place_that_is_none_is_the_whole_text() -> None:
    """Beyond the end, within a character, or of other words."""
    for wrong in (
        {"startIndex": 3, "endIndex": 9},
        {"endIndex": 10_000},
        {"startIndex": 0, "endIndex": 5, "text": "anderes"},
        {"startIndex": "?"},
    ):
        supports = [{"segment": wrong, "groundingChunkIndices": [0]}]
        said = {"groundingChunks": WEB[:1], "groundingSupports": supports}
        answer = whole(chunk({"text": TEXT}, finishReason="STOP", groundingMetadata=said))
        assert cited(answer) == [(TEXT, "https://a.example")]


def test_what_a_text_repeats_is_cited_where_it_does() -> None:
    """Google's `citationSources`, which OpenAI's annotations are written as, too."""
    place = segment(CLAIMS[1]) | {"uri": "https://c.example"}
    said = {"citationSources": [place]}
    answer = whole(chunk({"text": TEXT}, finishReason="STOP", citationMetadata=said))
    assert cited(answer) == [(CLAIMS[1], "https://c.example")]
    (written,) = json.loads(GEMINI.writer(client_call(GEMINI)).whole(answer))["candidates"]
    (again,) = written["citationMetadata"]["citationSources"]
    assert (again["startIndex"], again["endIndex"]) == (place["startIndex"], place["endIndex"])


def test_a_source_without_an_address_is_named() -> None:
    """What was found among one's own documents."""
    found = [{"retrievedContext": {"title": "Handbook", "text": "Never."}}]
    said = {"groundingChunks": found}
    answer = whole(chunk({"text": TEXT}, finishReason="STOP", groundingMetadata=said))
    (text,) = answer.parts
    assert isinstance(text, Text)
    assert [(one.title, one.quote) for one in text.citations] == [("Handbook", "Never.")]
    writer = OPENAI.writer(client_call(OPENAI))
    writer.whole(answer)
    assert writer.dropped == {"citations"}


def test_every_recorded_place_has_the_words_that_google_says() -> None:
    """Streamed or whole, beyond ASCII or not."""
    seen = 0
    for recording in recordings("gemini/*grounding*.json"):
        reader = GEMINI.events(no_request(GEMINI), frozenset())
        if recording.streamed:
            events = [json.loads(one[6:]) for one in recording.body.split(b"\r\n\r\n") if one]
            answer, last = streamed(*events), events[-1]
        else:
            answer, last = reader.whole(recording.body), json.loads(recording.body)
        said = last["candidates"][0]["groundingMetadata"]["groundingSupports"]
        wanted = [one["segment"]["text"] for one in said for _ in one["groundingChunkIndices"]]
        assert [words for words, _ in cited(answer)] == wanted
        seen += len(wanted)
    assert seen > 20
