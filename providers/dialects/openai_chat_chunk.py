"""A chunk of a chat completion, or a whole one, as it is read: what is known of it, in types.

Providers that almost speak the dialect are read too: what is of an unusual type is mended.
"""

from typing import Any

import msgspec

from tollway.providers.dialects.openai_chat_loose import mended
from tollway.providers.dialects.wire import UNREADABLE, object_in
from tollway.providers.errors import UpstreamBroke


class Function(msgspec.Struct):
    """The function that is called; its arguments may be an object."""

    name: str | None = None
    arguments: Any = None


class Custom(msgspec.Struct):
    """A plain-text tool that is called."""

    name: str | None = None
    input: str | None = None


class Called(msgspec.Struct):
    """A call of a tool, or a piece of one."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None
    custom: Custom | None = None
    extra_content: Any = None


class Said(msgspec.Struct):
    """A message, or a piece of one."""

    content: Any = None
    reasoning_content: str | None = None
    reasoning: Any = None
    reasoning_details: Any = None
    refusal: str | None = None
    tool_calls: list[Called] | None = None
    function_call: Function | None = None
    annotations: Any = None
    audio: Any = None
    images: Any = None  # OpenRouter's
    executed_tools: Any = None  # Groq's: what it did by itself


class Top(msgspec.Struct):
    """A token, and how likely it was."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list["Top"] | None = None


class Logprobs(msgspec.Struct):
    """How likely the tokens of a text were, or those of a refusal."""

    content: list[Top] | None = None
    refusal: list[Top] | None = None


class Choice(msgspec.Struct):
    """One of the answers, or a piece of one."""

    index: int | None = None
    delta: Said | None = None
    message: Said | None = None
    finish_reason: str | None = None
    stop_reason: Any = None  # vLLM's, and our own: the stop sequence; a number where it is a token
    matched_stop: Any = None  # SGLang's, which may also be one of its template's own
    logprobs: Logprobs | None = None
    error: Any = None  # OpenRouter's: why there is no more


class Chunk(msgspec.Struct):
    """A piece of a stream, or a whole answer."""

    id: str | None = None
    object: str | None = None
    created: Any = None
    model: str | None = None
    choices: list[Choice] | None = None
    usage: Any = None
    x_groq: Any = None
    error: Any = None
    citations: Any = None  # Perplexity's and xAI's, beside the choices
    search_results: Any = None


_CHUNK = msgspec.json.Decoder(Chunk)


def decode(data: bytes) -> Chunk:
    """Return what a chunk, or a whole answer, says.

    Raises:
        UpstreamBroke: It is none.
    """
    try:
        return _CHUNK.decode(data)
    except UNREADABLE as fault:
        said = object_in(data)
        # An error may have any shape; whoever sends one means it.
        if said is not None and said.get("error"):
            return Chunk(error=said["error"])
        if said is None or not isinstance(said.get("choices"), list):
            raise _unreadable(fault) from None
    try:
        return msgspec.convert(mended(said), Chunk, strict=False)
    except UNREADABLE as fault:
        raise _unreadable(fault) from None


def _unreadable(fault: Exception) -> UpstreamBroke:
    return UpstreamBroke(f"The provider's answer cannot be read: {str(fault)[:200]}")
