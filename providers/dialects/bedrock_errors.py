"""Errors as AWS tells them: in a status, or as an exception within a stream that began with 200."""

import msgspec

from tollway.providers.dialects import error_words
from tollway.providers.errors import UpstreamRefused
from tollway.providers.eventstream import EXCEPTION

_MODEL_FAILED = 424
# What each exception's status is where it comes before the stream (Bedrock's API reference), and
# 502 for that of a model that failed.
_STATUSES = {
    "validationException": 400,
    "throttlingException": 429,
    "modelStreamErrorException": 502,
    "modelTimeoutException": 408,
    "internalServerException": 500,
    "serviceUnavailableException": 503,
}


def read_error(status: int, body: bytes) -> UpstreamRefused:
    """Return an error answer as an exception; some of AWS's gateways write `Message`.

    A model that failed is 424 there: to clients that says that they erred, and to us that somebody
    was there and said no.
    """
    said = error_words.json_in(body)
    words = body
    if isinstance(said, dict) and "message" not in said and "Message" in said:
        words = msgspec.json.encode({"message": said["Message"]})
    error = error_words.read_error(status, words)
    error.body = body
    if status == _MODEL_FAILED and not _refuses(said):
        error.status = error.upstream_status = 502
    return error


def _refuses(said: object) -> bool:
    """Whether a model's failure is that it refused the request."""
    status = said.get("originalStatusCode") if isinstance(said, dict) else None
    return type(status) is int and 400 <= status < 500


def exception(name: bytes, data: bytes) -> UpstreamRefused:
    """Return an exception of a stream, by the name that its message has."""
    kind = name.removeprefix(EXCEPTION).decode("utf-8", "replace")
    error = error_words.error_within(data)
    error.status = error.upstream_status = _STATUSES.get(kind, 502)
    return error
