"""Embeddings at Cohere (docs.cohere.com, "Embed", version 2)."""

import msgspec

from tollway.providers.dialects.cohere_read import usage_of
from tollway.providers.dialects.dialect import Facts, Written
from tollway.providers.dialects.embed_reader import answer_in
from tollway.providers.embedding import Embedding, Vectors, one_each, too_many

# It must be said. Vectors of documents are what most texts are embedded for, and what those of
# questions are then compared with.
PURPOSE = "search_document"
MOST_TEXTS = 96


# What vectors are for, in Google's words and in Cohere's; what is compared, it does not know.
_PURPOSES = {
    "RETRIEVAL_QUERY": "search_query",
    "QUESTION_ANSWERING": "search_query",
    "FACT_VERIFICATION": "search_query",
    "CODE_RETRIEVAL_QUERY": "search_query",
    "RETRIEVAL_DOCUMENT": "search_document",
    "CLASSIFICATION": "classification",
    "CLUSTERING": "clustering",
    "SEMANTIC_SIMILARITY": "",
}


class _Meta(msgspec.Struct, frozen=True):
    billed_units: dict[str, object] | None = None


class _ByType(msgspec.Struct):
    float: list[tuple[float, ...]]


class _Answer(msgspec.Struct):
    embeddings: _ByType
    id: str = ""
    meta: _Meta = _Meta()


_ANSWER = msgspec.json.Decoder(_Answer)


def purpose(said: Embedding) -> tuple[str, tuple[str, ...]]:
    """Return what the vectors are for, as Cohere's models are told, and what they cannot be."""
    word = _PURPOSES.get(said.purpose, said.purpose)
    return word or PURPOSE, ("input_type",) if said.purpose and not word else ()


def write_request(said: Embedding, facts: Facts) -> Written:
    """Return the request for a target.

    Raises:
        Untranslatable: There are more texts than it takes at a time.
    """
    too_many(said, MOST_TEXTS)
    word, lost = purpose(said)
    body: dict[str, object] = {
        "model": facts.model,
        "texts": said.texts,
        "input_type": word,
        "embedding_types": ["float"],
    }
    if said.dimensions is not None:
        body["output_dimension"] = said.dimensions
    if said.truncates is not None:
        body["truncate"] = "END" if said.truncates else "NONE"
    return Written(msgspec.json.encode(body), (*said.lost("truncate"), *lost))


def read(said: Embedding, body: bytes) -> Vectors:
    """Return what an answer says.

    Raises:
        UpstreamBroke: It is none, or not of these texts.
    """
    answer = answer_in(body, _ANSWER)
    one_each(said, len(answer.embeddings.float))
    usage = usage_of({"billed_units": answer.meta.billed_units})
    return Vectors(tuple(answer.embeddings.float), usage, answer.id)
