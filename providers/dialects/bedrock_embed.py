"""Embeddings at Bedrock: Amazon's Titan and Cohere's models, asked by `InvokeModel`.

Each maker has a request of its own there (user guide, "Inference request parameters"). Titan
takes one text at a time, and tells its tokens; of Cohere's they stand in a header alone, and are
estimated and marked.
"""

import re
from typing import Any

import msgspec

from tollway.providers.canon import Usage
from tollway.providers.dialects.cohere_embed import MOST_TEXTS, purpose
from tollway.providers.dialects.dialect import Facts, Written
from tollway.providers.dialects.embed_reader import answer_in
from tollway.providers.dialects.wire import object_in
from tollway.providers.embedding import Embedding, Vectors, one_each, too_many
from tollway.providers.errors import Untranslatable
from tollway.providers.tokens import estimated

_TITAN = re.compile(r"(?:.*[./])?amazon\.titan-embed-text-(v\d+)")
_COHERE = re.compile(r"(?:.*[./])?cohere\.embed-")


class _Answer(msgspec.Struct):
    embedding: tuple[float, ...] | None = None  # Titan's
    inputTextTokenCount: int | None = None  # noqa: N815 - Amazon's name
    # Cohere's, by type where the request names some.
    embeddings: list[tuple[float, ...]] | dict[str, list[tuple[float, ...]]] | None = None
    id: str = ""


_ANSWER = msgspec.json.Decoder(_Answer)


def write_request(said: Embedding, facts: Facts) -> Written:
    """Return the request for a target; which model it is for stands in the URL.

    Raises:
        Untranslatable: There are more texts than it takes at a time, or it is of a maker whose
            request we do not know.
    """
    body: dict[str, object]
    dropped = said.lost()
    if titan := _TITAN.match(facts.model):
        too_many(said, 1)
        body = {"inputText": said.texts[0] if said.texts else ""}
        if said.purpose:
            dropped = (*dropped, "input_type")
        if said.dimensions is not None:
            if titan[1] == "v1":
                raise _no_size(facts.model)
            body["dimensions"] = said.dimensions
        return Written(msgspec.json.encode(body), dropped)
    if not _COHERE.match(facts.model):
        raise Untranslatable(
            f"How `{facts.model[:80]}` is asked for embeddings is not known",
            hint="Amazon's Titan and Cohere's models are, of Bedrock's",
            param="model",
        )
    too_many(said, MOST_TEXTS)
    word, lost = purpose(said)
    body = {"texts": said.texts, "input_type": word}
    if said.dimensions is not None:
        if "embed-v4" not in facts.model:
            raise _no_size(facts.model)
        body |= {"output_dimension": said.dimensions}
    if "embed-v4" in facts.model:
        body |= {"embedding_types": ["float"]}
    return Written(msgspec.json.encode(body), (*dropped, *lost))


def _no_size(model: str) -> Untranslatable:
    return Untranslatable(
        f"`{model[:80]}` makes vectors of one size", hint="Leave it out", param="dimensions"
    )


def read(said: Embedding, body: bytes) -> Vectors:
    """Return what an answer says.

    Raises:
        UpstreamBroke: It is none, or has another number of vectors than there are texts.
    """
    answer = answer_in(body, _ANSWER)
    listed = answer.embeddings
    if isinstance(listed, dict):
        listed = listed.get("float")
    vectors = tuple(listed or ()) or ((answer.embedding,) if answer.embedding else ())
    one_each(said, len(vectors))
    tokens = answer.inputTextTokenCount
    usage = estimated(said.texts) if tokens is None else Usage(input=tokens)
    return Vectors(vectors, usage, answer.id)


def asked(body: bytes, model: str) -> Embedding:
    """Return what a request asks for that `write_request` made."""
    made: dict[str, Any] = object_in(body) or {}
    return Embedding(model, tuple(made.get("texts", (made.get("inputText", ""),))))
