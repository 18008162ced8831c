"""The dialects there are: how each is passed through, and how it is translated."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from tollway.providers.canon import Call
from tollway.providers.dialects import (
    anthropic_codec,
    anthropic_messages,
    bedrock,
    bedrock_codec,
    bedrock_embed,
    cohere,
    cohere_codec,
    cohere_embed,
    gemini,
    gemini_codec,
    gemini_embed,
    gemini_embed_said,
    openai_chat,
    openai_chat_codec,
    openai_embed,
    openai_responses,
    responses_codec,
)
from tollway.providers.dialects.dialect import Asks, Codec, Dialect, Facts, Upstream, Written
from tollway.providers.embedding import Embedding, Vectors


class Spoken(NamedTuple):
    """A dialect that clients speak, and providers too."""

    dialect: Dialect
    codec: Codec


class Asked(NamedTuple):
    """A dialect that providers speak."""

    dialect: Upstream
    codec: Asks


class EmbedsFor(NamedTuple):
    """How a dialect's clients ask for vectors: what a call says, and the answer that it gets.

    `names` are those clients' words for what a target could not be told.
    """

    read_request: Callable[[Call], Embedding]
    written: Callable[[Call, Embedding, Vectors], bytes]
    names: Mapping[str, str]


class Embeds(NamedTuple):
    """How texts are embedded in a dialect: the request for a target, and what its answer says."""

    write_request: Callable[[Embedding, Facts], Written]
    read: Callable[[Embedding, bytes], Vectors]


DIALECTS: Final[Mapping[str, Spoken]] = MappingProxyType(
    {
        spoken.dialect.name: spoken
        for spoken in (
            Spoken(openai_chat.DIALECT, openai_chat_codec.CODEC),
            Spoken(anthropic_messages.DIALECT, anthropic_codec.CODEC),
            Spoken(openai_responses.DIALECT, responses_codec.CODEC),
            Spoken(gemini.DIALECT, gemini_codec.CODEC),
        )
    }
)
UPSTREAMS: Final[Mapping[str, Spoken | Asked]] = MappingProxyType(
    {
        **DIALECTS,
        bedrock.DIALECT.name: Asked(bedrock.DIALECT, bedrock_codec.CODEC),
        cohere.DIALECT.name: Asked(cohere.DIALECT, cohere_codec.CODEC),
    }
)
EMBEDS: Final[Mapping[str, Embeds]] = MappingProxyType(
    {
        openai_chat.DIALECT.name: Embeds(openai_embed.write_request, openai_embed.read),
        bedrock.DIALECT.name: Embeds(bedrock_embed.write_request, bedrock_embed.read),
        cohere.DIALECT.name: Embeds(cohere_embed.write_request, cohere_embed.read),
        gemini.DIALECT.name: Embeds(gemini_embed.write_request, gemini_embed.read),
    }
)
EMBEDS_FOR: Final[Mapping[str, EmbedsFor]] = MappingProxyType(
    {
        openai_chat.DIALECT.name: EmbedsFor(openai_embed.read_request, openai_embed.written, {}),
        gemini.DIALECT.name: EmbedsFor(
            gemini_embed_said.read_request, gemini_embed_said.written, gemini_embed_said.NAMES
        ),
    }
)
