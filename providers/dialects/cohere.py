"""Cohere's own API, version 2: what a provider of it is sent, and how its answers are metered.

No client of ours speaks it, so nothing passes through: requests come from `cohere_ask.py` and
`cohere_embed.py`, and answers go through `cohere_events.py`.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from tollway.providers.canon import Bound, Call, Endpoint
from tollway.providers.dialects import openai_bound
from tollway.providers.dialects.cohere_read import NAME, Reader
from tollway.providers.dialects.dialect import NOTHING_IN_URL, AnswerReader, Edits, InUrl
from tollway.providers.dialects.error_words import read_error
from tollway.providers.errors import RequestInvalid, UpstreamRefused

_PATHS: dict[Endpoint, str] = {"chat": "/v2/chat", "embeddings": "/v2/embed"}


class _Body(msgspec.Struct):
    model: str
    stream: bool = False
    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None


_BODY = msgspec.json.Decoder(_Body)


class Cohere:
    """How Cohere's API is spoken to a provider; see `Upstream` for what each method gives."""

    name = NAME

    def peek(self, endpoint: Endpoint, body: bytes, url: InUrl = NOTHING_IN_URL) -> Call:
        """Return what the gate must know of a request.

        Raises:
            RequestInvalid: It is none that Cohere's API would take.
        """
        try:
            said = _BODY.decode(body)
        except (msgspec.DecodeError, ValueError, RecursionError) as fault:
            raise RequestInvalid(f"The request cannot be read: {fault}") from None
        return Call(
            endpoint=endpoint,
            dialect=NAME,
            model=said.model,
            body=body,
            stream=said.stream,
            wants_usage=True,
            output_limit=said.max_tokens,
        )

    def bound(self, call: Call) -> Bound:
        """Return the most that one attempt at the call can use.

        Turns and tools have the shape of OpenAI's, and what is Cohere's own (documents, the plan
        behind a call) is printed like any field; so the proof for OpenAI's holds as it stands.

        Raises:
            RequestInvalid: It is nested too deeply, or a number is out of range.
        """
        return openai_bound.bound(call)

    def edit(self, call: Call, edits: Edits) -> bytes:
        """Return the body as it was written: it is the target's already."""
        return call.body

    def path(self, endpoint: Endpoint, url: InUrl = NOTHING_IN_URL) -> str:
        """Return the endpoint's path; base URLs end in the host."""
        return _PATHS[endpoint]

    def reader(self, call: Call, quirks: frozenset[str]) -> AnswerReader:
        """Return a fresh reader for one attempt's answer."""
        return Reader(call)

    def read_error(self, status: int, body: bytes) -> UpstreamRefused:
        """Return a provider's error answer as an exception; unreadable bodies included."""
        return read_error(status, body)


DIALECT: Final = Cohere()
