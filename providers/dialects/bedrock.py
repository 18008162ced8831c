"""Amazon Bedrock's Converse and ConverseStream: what a provider is sent, how answers are metered.

No client of ours speaks it, so nothing passes through: requests come from `bedrock_ask.py`, and
answers go through `bedrock_events.py`. What it takes is what AWS's own model of it says.
"""

from typing import Annotated, Final
from urllib.parse import quote

import msgspec
from msgspec import Meta

from tollway.providers.canon import Bound, Call, Endpoint
from tollway.providers.dialects import bedrock_embed
from tollway.providers.dialects.bedrock_bound import bound
from tollway.providers.dialects.bedrock_errors import read_error
from tollway.providers.dialects.bedrock_read import NAME, Reader
from tollway.providers.dialects.dialect import NOTHING_IN_URL, AnswerReader, Edits, InUrl
from tollway.providers.dialects.embed_reader import Reader as EmbedReader
from tollway.providers.errors import RequestInvalid, UpstreamRefused


class _Config(msgspec.Struct, frozen=True):
    maxTokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None  # noqa: N815 - AWS's name


class _Body(msgspec.Struct):
    inferenceConfig: _Config = _Config()  # noqa: N815 - AWS's name


_BODY = msgspec.json.Decoder(_Body)


class Bedrock:
    """How Bedrock is spoken to; see `Upstream` for what each method gives."""

    name = NAME

    def peek(self, endpoint: Endpoint, body: bytes, url: InUrl = NOTHING_IN_URL) -> Call:
        """Return what the gate must know of a request; model and streaming stand in its URL.

        Raises:
            RequestInvalid: It is none that Bedrock would take.
        """
        try:
            said = _BODY.decode(body)
        except (msgspec.DecodeError, ValueError, RecursionError) as fault:
            raise RequestInvalid(f"The request cannot be read: {fault}") from None
        return Call(
            endpoint=endpoint,
            dialect=NAME,
            model=url.model,
            body=body,
            stream=url.stream,
            wants_usage=True,
            output_limit=said.inferenceConfig.maxTokens,
        )

    def bound(self, call: Call) -> Bound:
        """Return the most that one attempt at the call can use.

        Raises:
            RequestInvalid: It is nested too deeply, or a number is out of range.
        """
        return bound(call)

    def edit(self, call: Call, edits: Edits) -> bytes:
        """Return the body as it was written: it is the target's already."""
        return call.body

    def path(self, endpoint: Endpoint, url: InUrl = NOTHING_IN_URL) -> str:
        """Return the path of a model's method; base URLs end in the host."""
        method = "converse-stream" if url.stream else "converse"
        if endpoint == "embeddings":
            method = "invoke"
        return f"/model/{quote(url.model, safe='')}/{method}"

    def reader(self, call: Call, quirks: frozenset[str]) -> AnswerReader:
        """Return a fresh reader for one attempt's answer."""
        if call.endpoint == "embeddings":
            return EmbedReader(bedrock_embed.read, bedrock_embed.asked(call.body, call.model))
        return Reader()

    def read_error(self, status: int, body: bytes) -> UpstreamRefused:
        """Return a provider's error answer as an exception; unreadable bodies included."""
        return read_error(status, body)


DIALECT: Final = Bedrock()
