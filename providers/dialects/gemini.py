"""Gemini's API, passed through: `generateContent`, streamed or not, `countTokens`, embeddings.

The bytes of a request and of its answer stay as they are but for the output limit. Model and
streaming stand in the URL. The parts stand in the `gemini_*.py` files beside this one; how it is
translated, in `gemini_codec.py`.
"""

from urllib.parse import quote

import msgspec

from tollway.providers.canon import Bound, Call, Endpoint
from tollway.providers.dialects import gemini_embed, gemini_embed_said
from tollway.providers.dialects.dialect import NOTHING_IN_URL, AnswerReader, Edits, InUrl
from tollway.providers.dialects.embed_reader import Reader as EmbedReader
from tollway.providers.dialects.gemini_bound import bound
from tollway.providers.dialects.gemini_errors import error_event, read_error, write_error
from tollway.providers.dialects.gemini_read import Reader
from tollway.providers.dialects.gemini_request import NAME, edited, peek
from tollway.providers.errors import GatewayError, UpstreamRefused

__all__ = ["DIALECT", "Gemini", "token_count"]


_METHODS: dict[Endpoint, str] = {
    "count_tokens": "countTokens",
    "embeddings": "batchEmbedContents",
}


class Gemini:
    """How Gemini's API is read and written; see `Dialect` for what each method gives."""

    name = NAME

    def peek(self, endpoint: Endpoint, body: bytes, url: InUrl = NOTHING_IN_URL) -> Call:
        """Return what the gate must know of a request.

        Raises:
            RequestInvalid: It is not a JSON object, a key stands twice, or a field that the gate
                needs has the wrong type; `param` names it.
        """
        return peek(endpoint, body, url)

    def bound(self, call: Call) -> Bound:
        """Return the most that one attempt at the call can use.

        Raises:
            RequestInvalid: It is nested too deeply, a number is out of range, or a nested key
                stands twice.
        """
        return bound(call)

    def edit(self, call: Call, edits: Edits) -> bytes:
        """Return the body for a provider: the same bytes but for what `edits` names.

        Raises:
            RequestInvalid: What is to be embedded cannot be told.
        """
        if call.endpoint == "embeddings":
            return gemini_embed_said.named(call.body, edits.model)
        return edited(call, edits)

    def path(self, endpoint: Endpoint, url: InUrl = NOTHING_IN_URL) -> str:
        """Return the path of a model's method; base URLs end in `/v1beta` or what stands for it."""
        method = _METHODS.get(endpoint, "generateContent")
        if url.stream and endpoint == "chat":
            method = "streamGenerateContent?alt=sse"
        elif url.lone:
            method = "embedContent"
        return f"/models/{quote(url.model, safe='')}:{method}"

    def reader(self, call: Call, quirks: frozenset[str]) -> AnswerReader:
        """Return a fresh reader for one attempt's answer."""
        if call.endpoint == "embeddings":
            return EmbedReader(gemini_embed.read, gemini_embed.asked(call.body, call.model))
        return Reader(call, quirks)

    def write_error(self, error: GatewayError, call_id: str) -> bytes:
        """Return an error body that Google's client libraries read."""
        return write_error(error, call_id)

    def error_event(self, error: GatewayError, call_id: str, last: bytes = b"") -> bytes:
        """Return the event that ends a broken stream so that client libraries raise."""
        return error_event(error, call_id)

    def read_error(self, status: int, body: bytes) -> UpstreamRefused:
        """Return a provider's error answer as an exception; unreadable bodies included."""
        return read_error(status, body)


def token_count(tokens: int) -> bytes:
    """Return the answer to a count of tokens."""
    return msgspec.json.encode({"totalTokens": tokens})


DIALECT = Gemini()
