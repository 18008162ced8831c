"""Embeddings in OpenAI's dialect, from and to the neutral form."""

import struct
from base64 import b64decode, b64encode
from typing import Any, Literal

import msgspec

from tollway.providers.canon import Call
from tollway.providers.dialects import openai_quirks as quirk
from tollway.providers.dialects.dialect import Facts, Written
from tollway.providers.dialects.embed_reader import answer_in
from tollway.providers.dialects.openai_usage import counts, disjoint
from tollway.providers.dialects.wire import Body
from tollway.providers.embedding import Embedding, Vectors, one_each, too_many
from tollway.providers.errors import Untranslatable, UpstreamBroke

_TEXT = msgspec.json.Decoder(str)
_INPUT = msgspec.json.Decoder(str | list[str | int | list[int]])
_COUNT = msgspec.json.Decoder(int)
_ENCODING = msgspec.json.Decoder(Literal["float", "base64"])
_MOST_TEXTS = 2048  # of one request (API reference)


class _Vector(msgspec.Struct):
    embedding: tuple[float, ...] | str
    index: int = 0


class _Answer(msgspec.Struct):
    data: list[_Vector]
    usage: Any = None


_ANSWER = msgspec.json.Decoder(_Answer)


def read_request(call: Call) -> Embedding:
    """Return what a client's body says; `input_type` is taken though OpenAI has no such field.

    Raises:
        RequestInvalid: A field has the wrong type; `param` names it.
        Untranslatable: The input is token ids, which mean nothing to another model.
    """
    body = Body(call.body)
    body.take(_TEXT, "model")
    said = body.take(_INPUT, "input")
    texts = [said] if isinstance(said, str) else said or []
    if not all(isinstance(text, str) for text in texts):
        raise Untranslatable(
            "The target takes texts, not the token ids of another model's",
            hint="Send the texts themselves",
            param="input",
        )
    return Embedding(
        model=call.model,
        texts=tuple(text for text in texts if isinstance(text, str)),
        dimensions=body.take(_COUNT, "dimensions"),
        encoding=body.take(_ENCODING, "encoding_format") or "float",
        purpose=body.take(_TEXT, "input_type") or "",
        dropped=tuple(name for name, _ in body.extras),
    )


def write_request(said: Embedding, facts: Facts) -> Written:
    """Return the request for a target, which has no word for what the vectors are for.

    Raises:
        Untranslatable: There are more texts than it takes at a time.
    """
    too_many(said, _MOST_TEXTS)
    body: dict[str, object] = {
        "model": facts.model,
        "input": said.texts,
        "encoding_format": "float",
    }
    if said.dimensions is not None:
        body[quirk.size_field(facts.quirks)] = said.dimensions
    purpose = ("input_type",) if said.purpose else ()
    return Written(msgspec.json.encode(body), (*said.lost(), *purpose))


def read(said: Embedding, body: bytes) -> Vectors:
    """Return what an answer says.

    Raises:
        UpstreamBroke: It is none, or has another number of vectors than there are texts.
    """
    answer = answer_in(body, _ANSWER)
    one_each(said, len(answer.data))
    vectors = sorted(answer.data, key=lambda one: one.index)
    return Vectors(
        tuple(_numbers(one.embedding) for one in vectors),
        disjoint(counts(answer.usage), generates=False),
    )


def written(_call: Call, said: Embedding, made: Vectors) -> bytes:
    """Return an answer's body; base64 is of little-endian 32-bit floats, as at OpenAI."""
    listed = [
        {"object": "embedding", "index": place, "embedding": _vector(vector, said.encoding)}
        for place, vector in enumerate(made.vectors)
    ]
    body: dict[str, object] = {"object": "list", "data": listed, "model": said.model}
    if made.usage is not None:
        tokens = made.usage.input_total
        body["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode(body)


def _numbers(vector: tuple[float, ...] | str) -> tuple[float, ...]:
    """Return a vector's numbers; some servers answer in base64 whatever they are asked for."""
    if not isinstance(vector, str):
        return vector
    try:
        packed = b64decode(vector, validate=True)
        return struct.unpack(f"<{len(packed) // 4}f", packed)
    except (ValueError, struct.error):
        raise UpstreamBroke("The provider's answer holds no vectors") from None


def _vector(vector: tuple[float, ...], encoding: str) -> object:
    if encoding == "float":
        return vector
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
