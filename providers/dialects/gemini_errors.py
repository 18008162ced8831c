"""Errors in Google's shape."""

import msgspec

from tollway.providers.dialects.error_words import error_within, read_error
from tollway.providers.errors import GatewayError
from tollway.providers.refusals import is_too_long
from tollway.providers.sse import Event

__all__ = ["error_event", "error_within", "read_error", "said_in", "write_error"]

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
    """Return what ends a broken stream so that client libraries raise.

    It is told twice: as an event, which AI SDK and other gateways read, and bare, as Google's own
    libraries do; to those for JavaScript and Go an event is a piece of the answer like any other.
    """
    said = write_error(error, call_id) + b"\r\n\r\n"
    return b"data: " + said + said


def said_in(event: Event) -> bytes | None:
    """Return the JSON of an event, or of an error that stands bare between events; None of else."""
    bare = event.data is None and not event.cut and event.raw.lstrip().startswith(b"{")
    return event.raw if bare else event.data
