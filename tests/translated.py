"""Recorded answers as the neutral form, and as a client's dialect writes and reads them."""

import json
from typing import Any

from wire.recordings import Recording, recordings

from tollway.providers.canon import Call
from tollway.providers.conversation import Conversation, Refusal, Text, Thinking, ToolCall, carried
from tollway.providers.dialects import anthropic_codec, openai_chat_codec
from tollway.providers.dialects.dialect import Codec
from tollway.providers.events import Answer, Choice, Event
from tollway.providers.fold import Fold
from tollway.providers.sse import Splitter

ANTHROPIC: Codec = anthropic_codec.CODEC
OPENAI: Codec = openai_chat_codec.CODEC
CODECS = {codec.name: codec for codec in (ANTHROPIC, OPENAI)}
_CHAT = ("chat", "openai_chat")
_MESSAGES = ("messages", "rawPredict")


def codec_of(recording: Recording) -> Codec | None:
    """Return the codec of the dialect that a recording is in; None for another endpoint."""
    surface = recording.api.rpartition(".")[2]
    if surface in _MESSAGES:
        return ANTHROPIC
    return OPENAI if surface in _CHAT and recording.endpoint == "chat" else None


def spoken() -> list[Recording]:
    """Return every recorded conversation of the two dialects."""
    return [one for one in recordings() if codec_of(one) is not None]


def answered() -> list[Recording]:
    """Return those whose answers are whole."""
    return [one for one in spoken() if one.status == 200 and not _broke(one)]


def _broke(recording: Recording) -> bool:
    return "mid_stream_error" in recording.features


def call_of(recording: Recording) -> Call:
    """Return a recording's request as its dialect's client would have sent it."""
    codec = codec_of(recording)
    assert codec is not None
    return Call(
        endpoint="chat",
        dialect=codec.name,
        model=recording.asked.get("model") or "recorded",
        body=recording.request,
        stream=recording.streamed,
        wants_usage=True,
        choices=recording.asked.get("n") or 1,
    )


def client_call(codec: Codec, *, stream: bool = True) -> Call:
    """Return a call of a client of a dialect, whose body nobody reads."""
    return Call("chat", codec.name, "asked-for", b"{}", stream=stream, wants_usage=True)


def asked(recording: Recording) -> Conversation:
    """Return what a recording's request says."""
    codec = codec_of(recording)
    assert codec is not None
    return codec.read_request(call_of(recording))


def events(codec: Codec, said: Conversation, quirks: frozenset[str], *chunks: bytes) -> list[Event]:
    """Return the events of a stream that came in chunks."""
    reader = codec.events(said, quirks)
    splitter = Splitter()
    found = [
        one for chunk in chunks for event in splitter.feed(chunk) for one in reader.event(event)
    ]
    for event in splitter.feed(b"\n\n") if splitter.rest() else []:
        found += reader.event(event)
    return found + reader.end()


def fold_of(found: list[Event]) -> Answer:
    """Return the whole answer that events make."""
    folded = Fold()
    for event in found:
        folded.add(event)
    return folded.answer()


def recorded(recording: Recording) -> tuple[list[Event], Answer]:
    """Return what a recording's answer says: its events (none if it came whole) and all of it."""
    codec = codec_of(recording)
    assert codec is not None
    if not recording.streamed:
        return [], codec.events(asked(recording), recording.quirks).whole(recording.body)
    found = events(codec, asked(recording), recording.quirks, recording.body)
    return found, fold_of(found)


def streamed(codec: Codec, found: list[Event]) -> bytes:
    """Return events as a stream of a dialect."""
    writer = codec.writer(client_call(codec))
    return b"".join(map(writer.event, found)) + writer.end()


def no_request(codec: Codec) -> Conversation:
    """Return a conversation that asks for nothing, for reading what a writer wrote."""
    return Conversation(codec.name, "asked-for", ())


def gist(answer: Answer, codec: Codec) -> dict[str, Any]:
    """Return what of an answer a dialect can say, in words that compare."""
    choices = answer.choices if codec is OPENAI else answer.choices[:1]
    usage = answer.usage
    return {
        "id": answer.id,
        "model": answer.model,
        "choices": [_choice(choice, codec) for choice in choices],
        "usage": usage
        and {
            "input": usage.input_total,
            "cached": usage.cache_read,
            "written": usage.cache_write + usage.cache_write_1h,
            "output": usage.output_total,
            "reasoning": usage.reasoning,
        },
    }


def _choice(choice: Choice, codec: Codec) -> dict[str, Any]:
    texts = [part.text for part in choice.parts if isinstance(part, Text)]
    refusals = [part.text for part in choice.parts if isinstance(part, Refusal)]
    thoughts = [part for part in choice.parts if isinstance(part, Thinking)]
    calls = [part for part in choice.parts if isinstance(part, ToolCall)]
    urls = [c.url for p in choice.parts if isinstance(p, Text) for c in p.citations if c.url]
    stop: str = choice.stop or "end"
    if codec is OPENAI:
        stop = _OPENAI_STOPS[stop]
    else:
        texts, refusals, refused = texts + refusals, [], bool(refusals)
        stop = "refusal" if stop == "filtered" or (refused and stop == "end") else stop
        stop = "end" if stop == "other" else stop
    return {
        "text": "".join(texts),
        "refusal": "".join(refusals),
        "thought": "".join(part.text for part in thoughts),
        "signed": [_own(part.signature) for part in thoughts if part.signature],
        "encrypted": [_own(part.encrypted) for part in thoughts if part.encrypted],
        "calls": [(_id(call.id), call.name, _arguments(call)) for call in calls],
        "urls": urls,
        "stop": stop,
    }


_OPENAI_STOPS = {
    "end": "end",
    "length": "length",
    "window": "length",
    "stop_sequence": "end",
    "tools": "tools",
    "refusal": "filtered",
    "filtered": "filtered",
    "paused": "end",
    "other": "end",
}


def _own(text: str) -> str:
    """Return what a provider encrypted, out of what carries it through another's dialect."""
    other = carried(text)
    return other[2] if other else text


def _id(name: str) -> str:
    """Return a call's id with what Anthropic's pattern does not allow left out."""
    return "".join(char for char in name if char.isalnum())[:12]


def _arguments(call: ToolCall) -> Any:
    if call.kind == "custom":
        return {"input": call.arguments}
    try:
        return json.loads(call.arguments or "{}")
    except ValueError:
        return call.arguments  # cut short
