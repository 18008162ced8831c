"""OpenAI's Responses API, passed through.

The bytes of a request and of its answer stay as they are but for what `edit` names. The parts
stand in the `responses_*.py` files beside this one.
"""

import msgspec

from tollway.providers.canon import Bound, Call, Endpoint
from tollway.providers.dialects.dialect import NOTHING_IN_URL, AnswerReader, Edits, InUrl
from tollway.providers.dialects.openai_errors import error_of, read_error
from tollway.providers.dialects.responses_bound import bound
from tollway.providers.dialects.responses_read import Reader, next_number
from tollway.providers.dialects.responses_request import NAME, edited, peek
from tollway.providers.errors import GatewayError, UpstreamRefused

__all__ = ["DIALECT", "OpenAIResponses", "token_count"]

_PATHS: dict[Endpoint, str] = {
    "chat": "/responses",
    "count_tokens": "/responses/input_tokens",
    "compact": "/responses/compact",
}

# What Chat Completions calls some of our fields.
_OUR_NAMES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}


class OpenAIResponses:
    """How the Responses API is read and written; see `Dialect` for what each method gives."""

    name = NAME

    def peek(self, endpoint: Endpoint, body: bytes, url: InUrl = NOTHING_IN_URL) -> Call:
        """Return what the gate must know of a body.

        Raises:
            RequestInvalid: It is not a JSON object, a key stands twice, or a field that the gate
                needs is missing or has the wrong type; `param` names it.
        """
        return peek(endpoint, body)

    def bound(self, call: Call) -> Bound:
        """Return the most that one attempt at the call can use.

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
        return Reader(call, quirks)

    def write_error(self, error: GatewayError, call_id: str) -> bytes:
        """Return an error body that OpenAI's client libraries read."""
        return msgspec.json.encode({"error": _error(error, call_id)})

    def error_event(self, error: GatewayError, call_id: str, last: bytes = b"") -> bytes:
        """Return the two events that end a broken stream, as OpenAI itself sends them.

        Its libraries raise at the first; agents that follow the response's state take the second.
        Both go on with the numbers of the events before, since who checks types skips one without;
        the first says itself what is wrong too, for OpenAI's own types.
        """
        number = next_number(last)
        said = _error(error, call_id)
        first = {name: said[name] for name in ("code", "message", "param")}
        failed: dict[str, object] = {
            "id": f"resp_{call_id}",
            "object": "response",
            "status": "failed",
            "error": {"code": said["code"], "message": said["message"]},
            "output": [],
            "usage": None,
        }
        return b"".join(
            b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(event) + b"\n\n"
            for kind, event in (
                ("error", {"type": "error", "sequence_number": number, **first, "error": said}),
                (
                    "response.failed",
                    {"type": "response.failed", "sequence_number": number + 1, "response": failed},
                ),
            )
        )

    def read_error(self, status: int, body: bytes) -> UpstreamRefused:
        """Return a provider's error answer as an exception; unreadable bodies included."""
        return read_error(status, body)


def _error(error: GatewayError, call_id: str) -> dict[str, object]:
    """Return an error with our name for the field: a target may be asked in another API."""
    said = error_of(error, call_id)
    ours = _OUR_NAMES.get(str(said["param"]).partition("[")[0])
    return {**said, "param": ours} if ours else said


def token_count(tokens: int) -> bytes:
    """Return the answer to a count of tokens."""
    return msgspec.json.encode({"object": "response.input_tokens", "input_tokens": tokens})


DIALECT = OpenAIResponses()
