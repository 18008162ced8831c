"""Anthropic's dialect, passed through: Messages and the counting of their tokens.

The bytes of a request and of its answer stay as they are but for what `edit` names. The parts
stand in the `anthropic_*.py` files beside this one; how it is translated, in `anthropic_codec.py`.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from tollway.providers.canon import Bound, Call, Endpoint
from tollway.providers.dialects.anthropic_bound import bound
from tollway.providers.dialects.anthropic_errors import error_event, read_error, write_error
from tollway.providers.dialects.anthropic_read import Reader
from tollway.providers.dialects.anthropic_request import edited, peek
from tollway.providers.dialects.anthropic_said import NAME
from tollway.providers.dialects.dialect import NOTHING_IN_URL, AnswerReader, Edits, InUrl
from tollway.providers.dialects.wire import object_in
from tollway.providers.errors import GatewayError, UpstreamRefused

__all__ = ["DIALECT", "VERSION", "Anthropic", "counted", "models", "token_count"]

# What every request to a provider of the dialect says in `anthropic-version`.
VERSION: Final = "2023-06-01"

_PATHS: dict[Endpoint, str] = {"chat": "/messages", "count_tokens": "/messages/count_tokens"}


class Anthropic:
    """How Anthropic's dialect is read and written; see `Dialect` for what each method gives."""

    name = NAME

    def peek(self, endpoint: Endpoint, body: bytes, url: InUrl = NOTHING_IN_URL) -> Call:
        """Return what the gate must know of a body.

        Raises:
            RequestInvalid: It is not a JSON object, a key stands twice, or a field that the gate
                needs is missing or has the wrong type; `param` names it.
        """
        return peek(endpoint, body)

    def bound(self, call: Call) -> Bound:
        """Return the most that one attempt at the call can use (BOUND.md has the proof).

        Raises:
            RequestInvalid: It is nested too deeply, a number is out of range, or a nested key
                stands twice.
        """
        return bound(call)

    def edit(self, call: Call, edits: Edits) -> bytes:
        """Return the body for a provider: the same bytes but for what `edits` names."""
        return edited(call, edits)

    def path(self, endpoint: Endpoint, url: InUrl = NOTHING_IN_URL) -> str:
        """Return the endpoint's path; base URLs end in `/v1` or what stands for it."""
        return _PATHS[endpoint]

    def reader(self, call: Call, quirks: frozenset[str]) -> AnswerReader:
        """Return a fresh reader for one attempt's answer."""
        return Reader(call)

    def write_error(self, error: GatewayError, call_id: str) -> bytes:
        """Return an error body that Anthropic's client libraries read."""
        return write_error(error, call_id)

    def error_event(self, error: GatewayError, call_id: str, last: bytes = b"") -> bytes:
        """Return the event that ends a broken stream so that client libraries raise."""
        return error_event(error, call_id)

    def read_error(self, status: int, body: bytes) -> UpstreamRefused:
        """Return a provider's error answer as an exception; unreadable bodies included."""
        return read_error(status, body)


def token_count(tokens: int) -> bytes:
    """Return the answer to a count of tokens."""
    return msgspec.json.encode({"input_tokens": tokens})


def counted(body: bytes) -> int | None:
    """Return what a provider's answer to a count says; None where it is no such answer."""
    said = object_in(body) or {}
    tokens = said.get("input_tokens")
    return tokens if type(tokens) is int and tokens >= 0 else None


def models(names: Iterable[str]) -> bytes:
    """Return a list of models in Anthropic's shape, all on one page.

    When a model was made is not known here; the epoch stands for that, since client libraries
    demand a date.
    """
    listed = [
        {
            **{"type": "model", "id": name, "display_name": name, "lifecycle": "active"},
            "created_at": "1970-01-01T00:00:00Z",
        }
        for name in names
    ]
    return msgspec.json.encode(
        {
            "data": listed,
            "has_more": False,
            "first_id": listed[0]["id"] if listed else None,
            "last_id": listed[-1]["id"] if listed else None,
        }
    )


DIALECT: Final = Anthropic()
