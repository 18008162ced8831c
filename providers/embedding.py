"""The neutral form of embeddings: texts that become vectors."""

from typing import Literal

import msgspec

from tollway.providers.canon import Usage
from tollway.providers.errors import Untranslatable, UpstreamBroke
from tollway.providers.words import counted


class Embedding(msgspec.Struct, frozen=True):
    """What is to be embedded. `purpose` is what the vectors are for, "" where it is not said.

    `title` is that of the document that the texts are of; `truncates` says whether a text that is
    too long is cut short, or refused.
    """

    model: str
    texts: tuple[str, ...]
    dimensions: int | None = None
    encoding: Literal["float", "base64"] = "float"
    purpose: str = ""
    title: str = ""
    truncates: bool | None = None
    dropped: tuple[str, ...] = ()  # fields that only the client's own dialect has
    only_texts: bool = True  # else its tokens cannot be told from the texts

    def lost(self, *said: str) -> tuple[str, ...]:
        """Return the names of what a target cannot be asked for, but for what it was told."""
        rest = (("title", bool(self.title)), ("truncate", self.truncates is not None))
        return (*self.dropped, *(name for name, asked in rest if asked and name not in said))


class Vectors(msgspec.Struct, frozen=True):
    """The vectors, in the order of the texts."""

    vectors: tuple[tuple[float, ...], ...]
    usage: Usage | None = None
    id: str = ""
    raw_usage: str = ""  # as the provider reports it, JSON


def too_many(said: Embedding, most: int) -> None:
    """Refuse more texts than a target takes in one request.

    Raises:
        Untranslatable: There are more.
    """
    if len(said.texts) > most:
        raise Untranslatable(
            f"The target takes at most {counted(most, 'text')} at a time, not {len(said.texts)}",
            hint="Send them in several calls",
            param="input",
        )


def one_each(said: Embedding, vectors: int) -> None:
    """Refuse an answer that has not a vector for each text.

    Raises:
        UpstreamBroke: There are more or fewer.
    """
    if vectors != len(said.texts):
        raise UpstreamBroke(
            f"The provider's answer holds {counted(vectors, 'vector')} for"
            f" {counted(len(said.texts), 'text')}"
        )
