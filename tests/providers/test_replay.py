"""Usage reports read again from the ledger: the same as when the answer was read."""

import msgspec
import pytest
from wire.recordings import Recording, recordings

from tollway.providers.canon import Endpoint, Usage
from tollway.providers.catalog import KINDS
from tollway.providers.dialects.openai_quirks import USAGE_PER_CHOICE
from tollway.providers.dialects.replay import usage_of
from tollway.providers.dialects.table import DIALECTS
from tollway.providers.sse import Splitter

_SPEAK = {"responses": "openai_responses", "messages": "anthropic_messages"}


def spoken(recording: Recording) -> str | None:
    """Return the dialect of a recorded answer, None for what is no answer to a call."""
    other = _SPEAK.get(recording.api.rpartition(".")[2])
    return other or ("openai_chat" if recording.endpoint else None)


ANSWERS = [one for one in recordings() if one.status == 200 and spoken(one)]


@pytest.mark.parametrize("recording", ANSWERS, ids=lambda one: one.id)
def test_a_recorded_report_means_the_same_when_it_is_read_again(recording: Recording) -> None:
    """Healthy traffic priced anew changes nothing: its tokens are the same to begin with."""
    dialect = spoken(recording)
    assert dialect
    call = msgspec.structs.replace(recording.call, dialect=dialect)
    reader = DIALECTS[dialect].dialect.reader(call, recording.quirks)
    if recording.streamed:
        for event in Splitter().feed(recording.body):
            reader.event(event)
    else:
        reader.whole(recording.body)
    again = usage_of(dialect, call.endpoint, reader.raw_usage, recording.quirks)
    if again is not None and reader.usage is not None:
        # What the report leaves out is told elsewhere in the answer.
        again = msgspec.structs.replace(again, searches=max(again.searches, reader.usage.searches))
    if dialect == "openai_chat" and USAGE_PER_CHOICE in recording.quirks:
        assert again is None  # the tokens in the ledger stand
    else:
        assert again == reader.usage


@pytest.mark.parametrize("raw", ["", "{", "[1]", "null", '{"prompt_tokens":"many"}', "[" * 10_000])
@pytest.mark.parametrize("dialect", [*DIALECTS, "unheard of"])
def test_a_report_that_says_nothing_is_no_report(dialect: str, raw: str) -> None:
    """Some were cut off at 4,000 characters: then the tokens in the ledger stand."""
    assert usage_of(dialect, "chat", raw, frozenset()) is None


def test_a_report_of_one_choice_is_not_taken_for_all_of_them() -> None:
    """Where each choice of a stream has a report, the last one tells its own output alone."""
    raw = '{"prompt_tokens":10,"completion_tokens":5}'
    endpoint: Endpoint = "chat"
    per_choice = [name for name, kind in KINDS.items() if USAGE_PER_CHOICE in kind.quirks]
    assert per_choice
    assert usage_of("openai_chat", endpoint, raw, KINDS[per_choice[0]].quirks) is None
    assert usage_of("openai_chat", endpoint, raw, frozenset()) == Usage(input=10, output=5)
