"""The parts of a message that Mistral has in shapes of its own: thoughts, documents, sounds.

A thought is a part of the content: a list of texts, and perhaps a signature by which its model
knows it again (`ThinkChunk` of Mistral's own library); a document has an address, which may hold
its bytes; a sound is its base64 alone.
"""

import re
from collections.abc import Iterable

import msgspec

from tollway.providers.conversation import Source, Thinking
from tollway.providers.dialects.wire import as_url, data_url, file_data

BY = "mistral"  # whose signature it is
# How the base64 of a WAV file begins ("RIFF"); it is the other of the two kinds that are taken.
_WAV = "UklGR"
_TURN = msgspec.json.Decoder(dict[str, msgspec.Raw])
_PARTS = msgspec.json.Decoder(list[msgspec.Raw])
_UNFIT = re.compile(rb'"(?:file|input_audio)"')


class _Sound(msgspec.Struct):
    data: str


class _Stored(msgspec.Struct):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class _OpenAIs(msgspec.Struct):
    type: str
    input_audio: _Sound | None = None
    file: _Stored | None = None


_OPENAIS = msgspec.json.Decoder(_OpenAIs)


def thinking(thought: object, signature: object = None) -> Thinking:
    """Return what a part of the type `thinking` says.

    Args:
        thought: Its `thinking`: texts in a list, or one text as older models have it.
        signature: Its `signature`, if it has one.
    """
    pieces = thought if isinstance(thought, list) else [{"text": thought}]
    texts = (piece.get("text") for piece in pieces if isinstance(piece, dict))
    text = "".join(text for text in texts if isinstance(text, str))
    if isinstance(signature, str) and signature:
        return Thinking(text, signature, by=BY)
    return Thinking(text)


def thought_first(content: object, thoughts: Iterable[Thinking]) -> object:
    """Return a turn's content behind what was thought before it: one part for each signature."""
    parts: list[dict[str, object]] = []
    texts: list[dict[str, object]] = []
    for one in thoughts:
        if one.text:
            texts.append({"type": "text", "text": one.text})
        if one.by == BY and one.signature:
            parts.append(_part(texts) | {"signature": one.signature})
            texts = []
    if texts:
        parts.append(_part(texts))
    if not parts:
        return content
    return [*parts, {"type": "text", "text": content}] if content else parts


def _part(texts: list[dict[str, object]]) -> dict[str, object]:
    return {"type": "thinking", "thinking": texts, "closed": True}


def sound(said: str) -> Source:
    """Return where a sound is, as a part of the type `input_audio` says it."""
    if said.startswith(("https://", "http://", "data:")):
        return data_url(said)
    return Source("base64", said, "audio/wav" if said.startswith(_WAV) else "audio/mp3")


def document(url: str, name: str) -> dict[str, object]:
    """Return the part for a file by its address, or by a data URL of its bytes."""
    named = {"document_name": name} if name else {}
    return {"type": "document_url", "document_url": url, **named}


def stored(file_id: str) -> dict[str, object]:
    """Return the part for a file that was uploaded there."""
    return {"type": "file", "file_id": file_id}


def is_unfit(body: bytes) -> bool:
    """Whether a body may hold parts in OpenAI's shape, each of which fails the call (422)."""
    return _UNFIT.search(body) is not None


def fitted(turn: bytes) -> bytes:
    """Return a turn whose files and sounds, where they have OpenAI's shape, have Mistral's.

    Raises:
        msgspec.DecodeError: It is no object.
    """
    if not is_unfit(turn):
        return turn
    said = _TURN.decode(turn)
    content = said.get("content", msgspec.Raw(b"null"))
    if not bytes(content).startswith(b"["):
        return turn
    given = _PARTS.decode(content)
    parts = [_fitted(part) for part in given]
    if all(part is before for part, before in zip(parts, given, strict=True)):
        return turn
    said["content"] = msgspec.Raw(msgspec.json.encode(parts))
    return msgspec.json.encode(said)


def _fitted(raw: msgspec.Raw) -> object:
    try:
        part = _OPENAIS.decode(raw)
    except msgspec.DecodeError:
        return raw  # its own shape, or none at all: the provider's to refuse
    if part.type == "input_audio" and part.input_audio is not None:
        return {"type": "input_audio", "input_audio": part.input_audio.data}
    if part.type == "file" and part.file is not None:
        if part.file.file_id:
            return stored(part.file.file_id)
        if part.file.file_data:
            return document(as_url(file_data(part.file.file_data)), part.file.filename or "")
    return raw
