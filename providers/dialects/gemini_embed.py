"""Embeddings at Google: `batchEmbedContents` of both its clouds, and Vertex's older `predict`.

AI Studio tells no tokens for most of its models; they are then estimated, and marked.
"""

from typing import Any, Final

import msgspec

from tollway.providers.canon import Usage
from tollway.providers.dialects import gemini_embed_said
from tollway.providers.dialects.dialect import Facts, Written
from tollway.providers.dialects.embed_reader import answer_in
from tollway.providers.dialects.gemini_read import usage_of
from tollway.providers.dialects.wire import object_in
from tollway.providers.embedding import Embedding, Vectors, one_each, too_many
from tollway.providers.tokens import estimated

# Words of catalog.toml. Vertex puts the options of each text into an object of its own; its
# models from before Gemini are asked by `predict`.
CONFIGURED: Final = "embed_config"
PREDICTS: Final = "predict"

# In one request (documentation of embeddings); of Vertex's older models 250.
_MOST_TEXTS, _MOST_INSTANCES = 100, 250
# What vectors are for, in the words of Cohere and others, and in Google's.
_PURPOSES = {
    "search_query": "RETRIEVAL_QUERY",
    "query": "RETRIEVAL_QUERY",
    "search_document": "RETRIEVAL_DOCUMENT",
    "document": "RETRIEVAL_DOCUMENT",
    "passage": "RETRIEVAL_DOCUMENT",
}
_OWN_PURPOSES = frozenset(
    {
        *("RETRIEVAL_QUERY", "RETRIEVAL_DOCUMENT", "SEMANTIC_SIMILARITY", "CLASSIFICATION"),
        *("CLUSTERING", "QUESTION_ANSWERING", "FACT_VERIFICATION", "CODE_RETRIEVAL_QUERY"),
    }
)


class _Statistics(msgspec.Struct, frozen=True):
    token_count: float | None = None


class _Vector(msgspec.Struct):
    values: tuple[float, ...]
    statistics: _Statistics = _Statistics()


class _Prediction(msgspec.Struct):
    embeddings: _Vector


class _Answer(msgspec.Struct):
    embeddings: list[_Vector] = []
    embedding: _Vector | None = None  # of one text that was asked for by itself
    predictions: list[_Prediction] = []
    usageMetadata: dict[str, Any] = {}  # noqa: N815 - Google's name


_ANSWER = msgspec.json.Decoder(_Answer)


def asks_otherwise(quirks: frozenset[str]) -> bool:
    """Whether a target is asked for vectors in other words than AI Studio's clients send."""
    return PREDICTS in quirks or CONFIGURED in quirks


def write_request(said: Embedding, facts: Facts) -> Written:
    """Return the request for a target; which model it is for stands in the URL too.

    Raises:
        Untranslatable: There are more texts than it takes at a time.
    """
    predicts = PREDICTS in facts.quirks
    too_many(said, _MOST_INSTANCES if predicts else _MOST_TEXTS)
    word = said.purpose
    purpose = _PURPOSES.get(word.lower(), word.upper())
    cuts = {}
    if said.truncates is not None and (predicts or CONFIGURED in facts.quirks):
        cuts = {"autoTruncate": said.truncates}
    dropped = said.lost("title", *(["truncate"] if cuts else []))
    if purpose not in _OWN_PURPOSES:
        dropped, purpose = ((*dropped, "input_type"), "") if word else (dropped, "")
    size = {} if said.dimensions is None else {"outputDimensionality": said.dimensions}
    title = {"title": said.title} if said.title else {}
    body: dict[str, object]
    if predicts:
        task = {"task_type": purpose} if purpose else {}
        body = {"instances": [{"content": text, **task, **title} for text in said.texts]}
        if size or cuts:
            body["parameters"] = {**size, **cuts}
        return Written(msgspec.json.encode(body), dropped)
    task = {"taskType": purpose} if purpose else {}
    options: dict[str, object] = {**size, **task, **title, **cuts}
    if options and CONFIGURED in facts.quirks:
        options = {"embedContentConfig": options}
    named = {} if CONFIGURED in facts.quirks else {"model": f"models/{facts.model}"}
    body = {
        "requests": [
            {**named, "content": {"parts": [{"text": text}]}, **options} for text in said.texts
        ]
    }
    return Written(msgspec.json.encode(body), dropped)


def read(said: Embedding, body: bytes) -> Vectors:
    """Return what an answer says.

    Raises:
        UpstreamBroke: It is none, or has another number of vectors than there are texts.
    """
    answer = answer_in(body, _ANSWER)
    vectors = _vectors(answer)
    one_each(said, len(vectors))
    raw = msgspec.json.encode(answer.usageMetadata).decode() if answer.usageMetadata else ""
    found = tuple(one.values for one in vectors)
    return Vectors(found, _used(answer, said), raw_usage=raw)


def _vectors(answer: _Answer) -> list[_Vector]:
    if answer.embedding is not None:
        return [answer.embedding]
    return answer.embeddings or [one.embeddings for one in answer.predictions]


def _used(answer: _Answer, said: Embedding) -> Usage | None:
    if (told := usage_of(answer.usageMetadata)) is not None:
        return told
    counts = [one.statistics.token_count for one in _vectors(answer)]
    known = [int(count) for count in counts if count is not None and count >= 0]
    if known and len(known) == len(counts):
        return Usage(input=sum(known))
    return estimated(said.texts) if said.only_texts else None


def asked(body: bytes, model: str) -> Embedding:
    """Return what a request asks for: one that `write_request` made, or a client's."""
    instances = (object_in(body) or {}).get("instances")
    if instances is None:
        return gemini_embed_said.asked(body, model)
    return Embedding(model, tuple(one["content"] for one in instances))
