"""Recorded answers as the neutral form, and as a client's dialect writes and reads them."""

import json
from typing import Any
from urllib.parse import unquote

from msgspec.structs import replace
from wire.recordings import Recording, recordings

from tollway.providers import eventstream, sse
from tollway.providers.canon import Call, Usage
from tollway.providers.conversation import Conversation, Refusal, Text, Thinking, ToolCall
from tollway.providers.dialects import (
    anthropic_codec,
    bedrock_codec,
    cohere_codec,
    gemini_codec,
    openai_chat_codec,
    responses_codec,
)
from tollway.providers.dialects.dialect import Asks, Codec
from tollway.providers.dialects.gemini_said import unpacked
from tollway.providers.dialects.responses_proofs import proof_in
from tollway.providers.errors import Untranslatable
from tollway.providers.events import Answer, Choice, Event, Start
from tollway.providers.fold import Fold
from tollway.providers.streams import Splitter

ANTHROPIC: Codec = anthropic_codec.CODEC
OPENAI: Codec = openai_chat_codec.CODEC
RESPONSES: Codec = responses_codec.CODEC
GEMINI: Codec = gemini_codec.CODEC
COHERE: Asks = cohere_codec.CODEC
BEDROCK: Asks = bedrock_codec.CODEC
# Those that clients speak.
CODECS = {codec.name: codec for codec in (ANTHROPIC, OPENAI, RESPONSES, GEMINI)}
# Those that providers speak.
ASKS: dict[str, Asks] = {**CODECS, COHERE.name: COHERE, BEDROCK.name: BEDROCK}
# Bedrock's answers have no id, and writers make another for each.
_UNNAMED = "msg_0123456789abcdef01234567"
_CHAT = ("chat", "openai_chat")
_MESSAGES = ("messages", "rawPredict")
_GENERATE = ("generateContent", "streamGenerateContent")


def codec_of(recording: Recording) -> Codec | Asks | None:
    """Return the codec of the dialect that a recording is in; None for another endpoint."""
    surface = recording.api.rpartition(".")[2]
    if recording.provider == "bedrock":
        return BEDROCK
    if recording.provider == "cohere":
        return COHERE if surface == "chat" else None
    if surface in _MESSAGES:
        return ANTHROPIC
    if surface == "responses":
        return RESPONSES
    if surface in _GENERATE:
        return GEMINI
    return OPENAI if surface in _CHAT and recording.endpoint == "chat" else None


def spoken() -> list[Recording]:
    """Return every recorded conversation of a dialect that clients speak."""
    return [one for one in recordings() if codec_of(one) in CODECS.values()]


def answered() -> list[Recording]:
    """Return every conversation whose answer is whole, in whatever dialect it came."""
    talks = [one for one in recordings() if codec_of(one) is not None]
    return [one for one in talks if one.status == 200 and not _broke(one)]


def _broke(recording: Recording) -> bool:
    """Whether it failed, was put off (`background`), or came as an array, which nobody asks for."""
    if recording.asked.get("background") or recording.body[:1] == b"[":
        return True
    return "mid_stream_error" in recording.features


def call_of(recording: Recording) -> Call:
    """Return a recording's request as its dialect's client would have sent it."""
    codec = codec_of(recording)
    assert codec is not None
    body, model = recording.request, recording.asked.get("model") or "recorded"
    if codec is GEMINI:
        body = json.dumps(recording.asked, ensure_ascii=False).encode()
        model = unquote(recording.path.partition("/models/")[2].partition(":")[0])
    return Call(
        endpoint="chat",
        dialect=codec.name,
        model=model,
        body=body,
        stream=recording.streamed,
        wants_usage=True,
        choices=recording.asked.get("n") or 1,
    )


def client_call(codec: Asks, *, stream: bool = True) -> Call:
    """Return a call of a client of a dialect, whose body nobody reads."""
    return Call("chat", codec.name, "asked-for", b"{}", stream=stream, wants_usage=True)


def asked(recording: Recording) -> Conversation:
    """Return what a request says; nothing where it builds on what its provider keeps."""
    codec = codec_of(recording)
    assert codec is not None
    if codec.name not in CODECS:
        return no_request(codec)
    codec = CODECS[codec.name]
    try:
        return codec.read_request(call_of(recording))
    except Untranslatable:
        return no_request(codec)


def events(codec: Asks, said: Conversation, quirks: frozenset[str], *chunks: bytes) -> list[Event]:
    """Return the events of a stream that came in chunks."""
    reader = codec.events(said, quirks)
    splitter: Splitter = eventstream.Splitter() if codec is BEDROCK else sse.Splitter()
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
        answer = codec.events(asked(recording), recording.quirks).whole(recording.body)
        return [], answer if answer.id else replace(answer, id=_UNNAMED)
    found = events(codec, asked(recording), recording.quirks, recording.body)
    first = found[0]
    if isinstance(first, Start) and not first.id:
        found[0] = replace(first, id=_UNNAMED)
    return found, fold_of(found)


def streamed(codec: Codec, found: list[Event]) -> bytes:
    """Return events as a stream of a dialect."""
    writer = codec.writer(client_call(codec))
    return b"".join(map(writer.event, found)) + writer.end()


def no_request(codec: Asks) -> Conversation:
    """Return a conversation that asks for nothing, for reading what a writer wrote."""
    return Conversation(codec.name, "asked-for", ())


def gist(answer: Answer, codec: Codec) -> dict[str, Any]:
    """Return what of an answer a dialect can say, in words that compare."""
    several = codec in (OPENAI, GEMINI)
    choices = answer.choices if several else answer.choices[:1]
    usage = answer.usage
    found: dict[str, Any] = {
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
    if codec in (RESPONSES, ANTHROPIC):
        del found["id"]  # answers there have ids of their own
    if codec is GEMINI and usage:
        del found["usage"]["written"]
    return found


def _choice(choice: Choice, codec: Codec) -> dict[str, Any]:
    texts = [part.text for part in choice.parts if isinstance(part, Text)]
    refusals = [part.text for part in choice.parts if isinstance(part, Refusal)]
    thoughts = [part for part in choice.parts if isinstance(part, Thinking)]
    calls = [part for part in choice.parts if isinstance(part, ToolCall)]
    urls = [c.url for p in choice.parts if isinstance(p, Text) for c in p.citations if c.url]
    signed = [own for part in thoughts if (own := _own(part.signature))]
    encrypted = [own for part in thoughts if (own := _own(part.encrypted))]
    stop = _STOPS[codec.name](choice.stop or "end", bool(calls), bool(refusals))
    if codec in (ANTHROPIC, GEMINI):
        texts, refusals = texts + refusals, []
    if codec is not OPENAI:
        # Proofs of thoughts, of calls and of texts stand in one place or the other.
        proven: list[ToolCall | Text] = [*calls]
        proven += [] if codec is ANTHROPIC else texts_of(choice)
        others = [_own(part.signature) for part in proven if part.signature]
        signed, encrypted = sorted({*signed, *encrypted, *others}), []
    else:
        of_texts = [_own(part.signature) for part in texts_of(choice) if part.signature]
        signed = sorted({*signed, *of_texts})
    return {
        "text": "".join(texts),
        "refusal": "".join(refusals),
        "thought": "".join(part.text for part in thoughts),
        "signed": signed,
        "encrypted": encrypted,
        "calls": [(_id(call.id), call.name, _arguments(call)) for call in calls],
        "urls": urls,
        "stop": stop,
    }


def texts_of(choice: Choice) -> list[Text]:
    """Return the texts of a choice."""
    return [part for part in choice.parts if isinstance(part, Text)]


_CHAT_STOPS = {
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


def _in_chat(stop: str, calls: bool, _refused: bool) -> str:
    stop = _CHAT_STOPS[stop]
    return "tools" if calls and stop == "end" else stop


def _in_messages(stop: str, _calls: bool, refused: bool) -> str:
    stop = "refusal" if stop == "filtered" or (refused and stop == "end") else stop
    return "end" if stop == "other" else stop


def _in_responses(stop: str, calls: bool, refused: bool) -> str:
    if stop in ("length", "window"):
        return "length"
    if stop == "filtered" or (stop == "refusal" and not refused):
        return "filtered"
    return "tools" if calls else "refusal" if refused else "end"


def _in_gemini(stop: str, calls: bool, _refused: bool) -> str:
    if stop in ("length", "window"):
        return "length"
    if stop in ("refusal", "filtered"):
        return "filtered"
    return "other" if stop == "other" else "tools" if calls else "end"


_STOPS = {
    OPENAI.name: _in_chat,
    ANTHROPIC.name: _in_messages,
    RESPONSES.name: _in_responses,
    GEMINI.name: _in_gemini,
}


def _own(text: str) -> str:
    """Return what a provider encrypted, out of what carries it through another's dialect."""
    while other := proof_in(text) or unpacked(text):
        text = other[2]
    return text


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


def loose(said: dict[str, Any]) -> dict[str, Any]:
    """Return a gist in which arguments that were cut short stand as whole answers show them."""
    for choice in said["choices"]:
        choice["calls"] = [
            (id_, name, {"input": text} if isinstance(text, str) else text)
            for id_, name, text in choice["calls"]
        ]
    return said


def countable(used: Usage, codec: Codec) -> Usage:
    """Return usage in the classes that a dialect has words for; the sums are the same."""
    written = used.cache_write + used.cache_write_1h
    if codec is GEMINI:
        used = replace(used, input=used.input + written, cache_write=0, searches=0)
    elif codec is not ANTHROPIC:
        used = replace(used, cache_write=written)
    if codec is not ANTHROPIC:
        used = replace(used, cache_write_1h=0)
    if codec is not GEMINI:
        seen, shown = used.input + used.image_input, used.output + used.image_output
        used = replace(used, input=seen, image_input=0, output=shown, image_output=0)
    if codec in (ANTHROPIC, RESPONSES):
        heard, spoke = used.input + used.audio_input, used.output + used.audio_output
        used = replace(used, input=heard, audio_input=0, output=spoke, audio_output=0)
    return used
