"""Errors in Anthropic's shape."""

from typing import Any

import msgspec

from tollway.providers.dialects.error_words import error_in, json_in, read_error
from tollway.providers.dialects.error_words import error_within as within
from tollway.providers.dialects.wire import text_of
from tollway.providers.errors import GatewayError, Untranslatable, UpstreamRefused
from tollway.providers.refusals import is_too_long

__all__ = ["error_event", "error_within", "read_error", "write_error"]

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
# Anthropic's words for a prompt that does not fit; agents shorten theirs when they read them.
_TOO_LONG = "prompt is too long"
_MOST_DETAILS = 2000  # bytes; those that are known are a few words
# Within a 200 answer the type says what the status would have; a refused credential is the
# gateway's own, so that its status is not for the caller.
_STATUSES = {
    **{name: status for status, name in _TYPES.items() if status not in (401, 402, 403)},
    "api_error": 500,
}


def write_error(error: GatewayError, call_id: str) -> bytes:
    """Return an error body that Anthropic's client libraries read.

    The status decides which class they raise; `type` is Anthropic's word for it, or the
    provider's own where it is one of Anthropic's. `source` says who is speaking, the gateway or
    the provider. `details`, by which libraries go on, are the provider's, or as it has them.
    """
    message = f"{error.message}. {error.hint}" if error.hint else error.message
    if is_too_long(error) and _TOO_LONG not in message.lower():
        message = f"{_TOO_LONG}: {message}"
    said: dict[str, object] = {"type": _type(error), "message": message}
    said |= {"code": error.code, "source": error.whose}
    if details := _details(error):
        said["details"] = details
    return msgspec.json.encode({"type": "error", "error": said, "request_id": call_id})


def error_event(error: GatewayError, call_id: str) -> bytes:
    """Return the event that ends a broken stream so that client libraries raise."""
    return b"event: error\ndata: " + write_error(error, call_id) + b"\n\n"


def error_within(body: bytes) -> UpstreamRefused:
    """Return an error that came inside a 200 answer, with the status that its type stands for."""
    error = within(body)
    error.status = error.upstream_status = _STATUSES.get(_own_type(body), error.status)
    return error


def _type(error: GatewayError) -> str:
    if isinstance(error, UpstreamRefused) and _own_type(error.body) in _KNOWN:
        return _own_type(error.body)
    if error.status in _TYPES:
        return _TYPES[error.status]
    return "api_error" if error.status >= 500 else "invalid_request_error"


_KNOWN = frozenset({*_TYPES.values(), "api_error"})


def _own_type(body: bytes) -> str:
    return text_of(error_in(json_in(body)), "type")


def _details(error: GatewayError) -> dict[str, Any]:
    """Return what Anthropic's library must know to send a conversation again, as whole."""
    if isinstance(error, Untranslatable) and error.param == "thread":
        return {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    said = error_in(json_in(error.body)) if isinstance(error, UpstreamRefused) else {}
    details = said.get("details")
    fits = isinstance(details, dict) and len(msgspec.json.encode(details)) <= _MOST_DETAILS
    return details if isinstance(details, dict) and fits else {}
