"""Embeddings in OpenAI's dialect, from and to the neutral form."""

import struct
from base64 import b64encode
from typing import Literal

import msgspec

from tollway.providers.canon import Call
from tollway.providers.dialects.wire import Body
from tollway.providers.embedding import Embedding, Vectors
from tollway.providers.errors import Untranslatable

_TEXT = msgspec.json.Decoder(str)
_INPUT = msgspec.json.Decoder(str | list[str | int | list[int]])
_COUNT = msgspec.json.Decoder(int)
_ENCODING = msgspec.json.Decoder(Literal["float", "base64"])


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


def written(said: Embedding, made: Vectors) -> bytes:
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


def _vector(vector: tuple[float, ...], encoding: str) -> object:
    if encoding == "float":
        return vector
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
