"""Errors as AWS tells them: in a status, or as an exception within a stream that began with 200."""

import msgspec

from tollway.providers.dialects import error_words
from tollway.providers.errors import UpstreamRefused
from tollway.providers.eventstream import EXCEPTION

# What each exception's status is where it comes before the stream (Bedrock's API reference); a
# model that failed is 424 there, which says to clients that they erred.
_STATUSES = {
    "validationException": 400,
    "throttlingException": 429,
    "modelStreamErrorException": 502,
    "modelTimeoutException": 408,
    "internalServerException": 500,
    "serviceUnavailableException": 503,
}


def read_error(status: int, body: bytes) -> UpstreamRefused:
    """Return an error answer as an exception; some of AWS's gateways write `Message`."""
    said = error_words.json_in(body)
    if isinstance(said, dict) and "message" not in said and "Message" in said:
        error = error_words.read_error(status, msgspec.json.encode({"message": said["Message"]}))
        error.body = body
        return error
    return error_words.read_error(status, body)


def exception(name: bytes, data: bytes) -> UpstreamRefused:
    """Return an exception of a stream, by the name that its message has."""
    kind = name.removeprefix(EXCEPTION).decode("utf-8", "replace")
    error = error_words.error_within(data)
    error.status = error.upstream_status = _STATUSES.get(kind, 502)
    return error
