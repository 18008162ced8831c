"""What a translated stream costs: microseconds of CPU for each event, dialect to dialect.

Promise: under 60 (an event read off the wire, understood, and written anew). Run it with
`python benchmarks/translate.py`; it takes some seconds and needs no network.
"""

import argparse
import time

from tollway.providers.canon import Call, Usage
from tollway.providers.conversation import Conversation
from tollway.providers.dialects.dialect import Codec
from tollway.providers.dialects.table import DIALECTS
from tollway.providers.events import (
    Event,
    Start,
    Stopped,
    TextDelta,
    ThinkingDelta,
    ToolDelta,
    ToolStart,
    UsageReport,
)
from tollway.providers.sse import Splitter

WORDS = ("The", " quick", " brown", " fox", " jumps", " über", " the", " lazy", " dog", ".\n")


def answer(events: int) -> list[Event]:
    """Return an answer of about so many events: thoughts, text, and a tool call."""
    third = events // 3
    words = [WORDS[place % len(WORDS)] for place in range(third)]
    return [
        Start("answer-1", "model"),
        *(ThinkingDelta(word) for word in words),
        *(TextDelta(word) for word in words),
        ToolStart("call_1", "write_file"),
        ToolDelta('{"text":"'),
        *(ToolDelta(word.strip()) for word in words),
        ToolDelta('"}'),
        UsageReport(Usage(input=100, output=events)),
        Stopped("tools"),
    ]


def written(codec: Codec, events: int) -> list[bytes]:
    """Return a stream of a dialect in chunks of an event each, as providers send them."""
    call = Call("chat", codec.name, "model", b"{}", stream=True, wants_usage=True)
    writer = codec.writer(call)
    stream = b"".join(map(writer.event, answer(events))) + writer.end()
    return [event.raw for event in Splitter().feed(stream)]


def translate(chunks: list[bytes], source: Codec, target: Codec) -> int:
    """Do what the gate does with a stream; return how many bytes the client got."""
    splitter = Splitter()
    reader = source.events(Conversation(source.name, "model", ()), frozenset())
    call = Call("chat", target.name, "model", b"{}", stream=True, wants_usage=True)
    writer = target.writer(call)
    size = 0
    for chunk in chunks:
        for event in splitter.feed(chunk):
            for one in reader.event(event):
                size += len(writer.event(one))
    for one in reader.end():
        size += len(writer.event(one))
    return size + len(writer.end())


def main() -> None:
    """Print a line for each pair of dialects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    said = parser.parse_args()
    for source_name, source in DIALECTS.items():
        chunks = written(source.codec, said.events)
        for target_name, target in DIALECTS.items():
            best = min(_timed(chunks, source.codec, target.codec) for _ in range(said.rounds))
            each = best / len(chunks) / 1000
            print(f"{source_name:20} -> {target_name:20} {each:6.1f} us an event")


def _timed(chunks: list[bytes], source: Codec, target: Codec) -> int:
    begin = time.process_time_ns()
    translate(chunks, source, target)
    return time.process_time_ns() - begin


if __name__ == "__main__":
    main()
