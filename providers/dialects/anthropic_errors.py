"""Errors in Anthropic's shape."""

from typing import Any

import msgspec

from tollway.providers.dialects.error_words import error_within as within
from tollway.providers.dialects.error_words import json_in, read_error
from tollway.providers.errors import GatewayError, UpstreamRefused

__all__ = ["error_event", "error_within", "read_error", "write_error"]

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
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
    the provider.
    """
    message = f"{error.message}. {error.hint}" if error.hint else error.message
    said = {"type": _type(error), "message": message, "code": error.code, "source": error.whose}
    return msgspec.json.encode({"type": "error", "error": said, "request_id": call_id})


def error_event(error: GatewayError, call_id: str) -> bytes:
    """Return the event that ends a broken stream so that client libraries raise."""
    return b"event: error\ndata: " + write_error(error, call_id) + b"\n\n"


def error_within(body: bytes) -> UpstreamRefused:
    """Return an error that came inside a 200 answer, with the status that its type stands for."""
    error = within(body)
    error.status = _STATUSES.get(_own_type(body), error.status)
    return error


def _type(error: GatewayError) -> str:
    if isinstance(error, UpstreamRefused) and _own_type(error.body) in _KNOWN:
        return _own_type(error.body)
    if error.status in _TYPES:
        return _TYPES[error.status]
    return "api_error" if error.status >= 500 else "invalid_request_error"


_KNOWN = frozenset({*_TYPES.values(), "api_error"})


def _own_type(body: bytes) -> str:
    said: Any = json_in(body)
    error = said.get("error") if isinstance(said, dict) else None
    name = error.get("type") if isinstance(error, dict) else None
    return name if isinstance(name, str) else ""
