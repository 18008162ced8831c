"""Errors in Google's shape."""

import msgspec

from tollway.providers.dialects.error_words import error_within, read_error
from tollway.providers.errors import GatewayError
from tollway.providers.refusals import is_too_long

__all__ = ["error_event", "error_within", "read_error", "write_error"]

# Google's words for a prompt that does not fit; programs know it by them.
_TOO_LONG = "The input token count exceeds the maximum number of tokens allowed"
_TOLD = "number of tokens allowed"
# google.rpc.Code by HTTP status.
_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def write_error(error: GatewayError, call_id: str) -> bytes:
    """Return an error body that Google's client libraries read.

    `details` says who is speaking, the gateway or the provider, which call it was, and when to
    come again: Google's clients read that there, and no header.
    """
    status = _STATUSES.get(error.status)
    if status is None:
        status = "INTERNAL" if error.status >= 500 else "INVALID_ARGUMENT"
    details: list[dict[str, object]] = [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": error.code.upper(),
            "domain": error.whose,
            "metadata": {"request_id": call_id},
        }
    ]
    if error.retry_after_s is not None:
        delay = f"{error.retry_after_s:.3f}".rstrip("0").rstrip(".") + "s"
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
    message = f"{error.message}. {error.hint}" if error.hint else error.message
    if is_too_long(error) and _TOLD not in message:
        message = f"{_TOO_LONG}: {message}"
    said = {"code": error.status, "message": message, "status": status, "details": details}
    return msgspec.json.encode({"error": said})


def error_event(error: GatewayError, call_id: str) -> bytes:
    """Return the event that ends a broken stream so that client libraries raise."""
    return b"data: " + write_error(error, call_id) + b"\r\n\r\n"
