"""Errors in OpenAI's shape."""

from collections.abc import Iterator

import msgspec

from tollway.providers.dialects.error_words import error_in, error_within, json_in, read_error
from tollway.providers.errors import GatewayError, UpstreamRefused
from tollway.providers.refusals import is_too_long

__all__ = ["error_event", "error_of", "error_within", "read_error", "stopped_early", "write_error"]

# OpenAI's words for a prompt that does not fit: LiteLLM, with it OpenHands and DSPy, reads these
# alone, whatever the code.
_TOO_LONG = "This model's maximum context length is"
_TYPES = {402: "insufficient_quota", 429: "rate_limit_error"}


def write_error(error: GatewayError, call_id: str) -> bytes:
    """Return an error body that OpenAI's client libraries read: `error_of` within `error`."""
    return msgspec.json.encode({"error": error_of(error, call_id)})


def error_of(error: GatewayError, call_id: str) -> dict[str, object]:
    """Return an error's message, type, param and code, as OpenAI names them.

    The status decides which class its libraries raise. `source` says who is speaking, the
    gateway or the provider; a provider's own `type`, `param` and `code` are kept, since programs
    go by them.
    """
    message = f"{error.message}. {error.hint}" if error.hint else error.message
    if is_too_long(error) and _TOO_LONG.lower() not in message.lower():
        message = f"{_TOO_LONG} exceeded: {message}"
    said: dict[str, object] = {
        "message": message,
        "type": _TYPES.get(
            error.status, "server_error" if error.status >= 500 else "invalid_request_error"
        ),
        "param": error.param,
        "code": error.code,
    }
    if is_too_long(error):
        said["code"] = "context_length_exceeded"
    if isinstance(error, UpstreamRefused):
        said.update(_own_words(error.body))
    return {**said, "source": error.whose, "request_id": call_id}


def error_event(error: GatewayError, call_id: str) -> bytes:
    """Return the event that ends a broken stream; no [DONE] follows, the answer is not whole."""
    return b"data: " + write_error(error, call_id) + b"\n\n"


def stopped_early(x_groq: object) -> bytes:
    """Return the error with which Groq stopped a stream, b"" for none.

    It stands in a field of Groq's own beside choices that go no further (its own library).
    """
    why = x_groq.get("error") if isinstance(x_groq, dict) else None
    return msgspec.json.encode({"error": why}) if why else b""


def _own_words(body: bytes) -> Iterator[tuple[str, str]]:
    said = json_in(body)
    error = error_in(said)
    if error is said and error.get("type") != "error":
        return  # of another shape than OpenAI's
    for name in ("type", "param", "code"):
        value = error.get(name)
        if isinstance(value, str) and 0 < len(value) <= 100 and value != "error":
            yield name, value
