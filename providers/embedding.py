"""The neutral form of embeddings: texts that become vectors. This file imports `canon` alone."""

from typing import Literal

import msgspec

from tollway.providers.canon import Usage


class Embedding(msgspec.Struct, frozen=True):
    """What is to be embedded. `purpose` is what the vectors are for, "" where it is not said."""

    model: str
    texts: tuple[str, ...]
    dimensions: int | None = None
    encoding: Literal["float", "base64"] = "float"
    purpose: str = ""
    dropped: tuple[str, ...] = ()  # fields that only the client's own dialect has


class Vectors(msgspec.Struct, frozen=True):
    """The vectors, in the order of the texts."""

    vectors: tuple[tuple[float, ...], ...]
    usage: Usage | None = None
    id: str = ""
