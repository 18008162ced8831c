"""Recorded answers of every provider: what they used, what of them reaches the client."""

import json
import random
from itertools import pairwise

import msgspec
import pytest
from wire.recordings import WIRE, Recording, recordings

from tollway.providers.canon import Usage
from tollway.providers.dialects.openai_chat import DIALECT
from tollway.providers.dialects.table import UPSTREAMS
from tollway.providers.sse import Event, Splitter

ANSWERS = [one for one in recordings() if one.endpoint and one.status == 200]
STREAMS = [one for one in ANSWERS if one.streamed]
REFUSALS = [one for one in recordings() if one.status >= 400]
MEANT = json.loads((WIRE / "openai_usage.json").read_text())


def name(recording: Recording) -> str:
    """Name a test after its recording."""
    return recording.id


def split(*chunks: bytes) -> list[Event]:
    """Return the events of a stream that came in these chunks."""
    splitter = Splitter()
    return [event for chunk in chunks for event in splitter.feed(chunk)]


def test_every_recorded_answer_has_a_meaning_beside_it() -> None:
    """A recording that nobody has read would pass for one that is understood."""
    assert sorted(MEANT) == sorted(one.id for one in ANSWERS)


@pytest.mark.parametrize("recording", ANSWERS, ids=name)
def test_a_recorded_answer_means_what_stands_beside_it(recording: Recording) -> None:
    """Usage in disjoint classes, whether it ended, and an error within it."""
    meant = MEANT[recording.id]
    reader = DIALECT.reader(recording.call, recording.quirks)
    if recording.streamed:
        for event in split(recording.body):
            reader.event(event)
    else:
        reader.whole(recording.body)
    usage = None if meant["usage"] is None else msgspec.convert(meant["usage"], Usage)
    assert reader.usage == usage
    assert reader.ended == meant["ended"]
    assert (reader.failed.status if reader.failed else None) == meant["failed"]
    assert bool(reader.raw_usage) == (usage is not None)


@pytest.mark.parametrize("recording", STREAMS, ids=name)
def test_nothing_of_a_stream_is_kept_from_a_client_that_asked_for_usage(
    recording: Recording,
) -> None:
    """The bytes of a pass-through are the provider's, comments and line ends included."""
    asked = msgspec.structs.replace(recording.call, wants_usage=True)
    reader = DIALECT.reader(asked, recording.quirks)
    events = split(recording.body)
    assert b"".join(event.raw for event in events if reader.event(event)) == recording.body


@pytest.mark.parametrize("recording", STREAMS, ids=name)
def test_a_client_that_did_not_ask_never_sees_the_usage_chunk(recording: Recording) -> None:
    """What is kept back is exactly the chunks that hold usage and no choices."""
    silent = msgspec.structs.replace(recording.call, wants_usage=False)
    reader = DIALECT.reader(silent, recording.quirks)
    for event in split(recording.body):
        passed = reader.event(event)
        chunk = json.loads(event.data) if event.data and event.data[:1] == b"{" else {}
        extra = chunk.get("choices") == [] and bool(chunk.get("usage"))
        assert passed != extra, event.raw


@pytest.mark.parametrize("recording", STREAMS, ids=name)
def test_a_recorded_stream_does_not_depend_on_its_chunks(recording: Recording) -> None:
    """Single bytes, every cut of a short stream, two hundred cuts of a long one."""
    body = recording.body
    whole = split(body)
    assert split(*(body[at : at + 1] for at in range(len(body)))) == whole
    cuts = range(1, len(body))
    chance = random.Random(recording.id)  # noqa: S311 - must repeat itself
    some = cuts if len(body) < 4000 else chance.sample(cuts, 200)
    for at in some:
        assert split(body[:at], body[at:]) == whole, at
    if sum(recording.chunk_sizes) == len(body):
        marks = [sum(recording.chunk_sizes[:n]) for n in range(len(recording.chunk_sizes) + 1)]
        pieces = [body[a:b] for a, b in pairwise(marks)]
        assert split(*pieces) == whole


@pytest.mark.parametrize("recording", STREAMS, ids=name)
def test_a_stream_that_is_cut_off_has_not_ended(recording: Recording) -> None:
    """Up to its first finish reason an answer is not whole, however its connection closes."""
    reader = DIALECT.reader(recording.call, recording.quirks)
    for event in split(recording.body):
        if b'"finish_reason":"' in event.raw.replace(b" ", b"") or reader.failed:
            break
        reader.event(event)
        assert reader.ended is (event.data == b"[DONE]")


@pytest.mark.parametrize("recording", ANSWERS, ids=name)
def test_the_input_bound_holds_for_what_was_billed(recording: Recording) -> None:
    """The reported prompt is within the bound, or the request is known to have none."""
    call = DIALECT.peek(recording.endpoint or "chat", recording.request)
    bound = DIALECT.bound(call)
    meant = MEANT[recording.id]["usage"] or {}
    used = msgspec.convert(meant, Usage).input_total
    assert used <= bound.input or bound.by_window or bound.unbounded
    searches = any("web_search" in field for field in bound.unbounded)
    assert searches == bool({"annotations", "server_tool_use"} & recording.features)


@pytest.mark.parametrize("recording", REFUSALS, ids=name)
def test_a_recorded_refusal_gives_its_own_words(recording: Recording) -> None:
    """Every provider has a shape of its own; a person gets the sentence within it, in short."""
    maker = recording.id.partition("/")[0]
    dialect = UPSTREAMS[maker].dialect if maker in {"bedrock", "cohere"} else DIALECT
    error = dialect.read_error(recording.status, recording.body)
    assert (error.status, error.body, error.whose) == (
        recording.status,
        recording.body,
        "provider",
    )
    assert error.message.startswith(f"The provider answered {recording.status}: ")
    assert not {"{", "}", "\n"} & set(error.message)
    assert 30 < len(error.message) <= 500
    said = json.loads(recording.body)
    inner = said.get("detail") or said.get("message") or said["error"]["message"]
    assert inner[:60].rstrip(".") in error.message or "<not-a-r" in inner
