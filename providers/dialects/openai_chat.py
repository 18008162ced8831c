"""OpenAI's dialect, passed through: chat completions, completions, embeddings.

The bytes of a request and of its answer stay as they are but for what `edit` and `Reader.event`
name. The parts stand in the `openai_*.py` files beside this one.
"""

from tollway.providers.canon import Bound, Call, Endpoint
from tollway.providers.dialects import openai_units as units
from tollway.providers.dialects.dialect import NOTHING_IN_URL, AnswerReader, Edits, InUrl
from tollway.providers.dialects.openai_bound import bound
from tollway.providers.dialects.openai_errors import error_event, read_error, write_error
from tollway.providers.dialects.openai_read import Reader
from tollway.providers.dialects.openai_request import NAME, edited, peek
from tollway.providers.errors import GatewayError, UpstreamRefused
from tollway.providers.units import UNITS

__all__ = ["DIALECT", "OpenAIChat", "error_event", "read_error", "write_error"]

_PATHS: dict[Endpoint, str] = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
    **{endpoint: unit.path for endpoint, unit in UNITS.items()},
}


class OpenAIChat:
    """How OpenAI's dialect is read and written; see `Dialect` for what each method gives."""

    name = NAME

    def peek(self, endpoint: Endpoint, body: bytes, url: InUrl = NOTHING_IN_URL) -> Call:
        """Return what the gate must know of a body.

        Raises:
            RequestInvalid: It is not a JSON object, a key stands twice, or a field that the gate
                needs is missing or has the wrong type; `param` names it.
        """
        return units.peek(endpoint, body) if endpoint in UNITS else peek(endpoint, body)

    def bound(self, call: Call) -> Bound:
        """Return the most that one attempt at the call can use (BOUND.md has the proof).

        Raises:
            RequestInvalid: It is nested too deeply, a number is out of range, or a nested key
                stands twice.
        """
        return units.bound(call) if call.endpoint in UNITS else bound(call)

    def edit(self, call: Call, edits: Edits) -> bytes:
        """Return the body for a provider: the same bytes but for what `edits` names."""
        return units.edited(call, edits) if call.endpoint in UNITS else edited(call, edits)

    def path(self, endpoint: Endpoint, url: InUrl = NOTHING_IN_URL) -> str:
        """Return the endpoint's path; base URLs end in `/v1` or what stands for it."""
        return _PATHS[endpoint]

    def reader(self, call: Call, quirks: frozenset[str]) -> AnswerReader:
        """Return a fresh reader for one attempt's answer."""
        return units.Reader(call, quirks) if call.endpoint in UNITS else Reader(call, quirks)

    def write_error(self, error: GatewayError, call_id: str) -> bytes:
        """Return an error body that OpenAI's client libraries read."""
        return write_error(error, call_id)

    def error_event(self, error: GatewayError, call_id: str, last: bytes = b"") -> bytes:
        """Return the event that ends a broken stream so that client libraries raise."""
        return error_event(error, call_id)

    def read_error(self, status: int, body: bytes) -> UpstreamRefused:
        """Return a provider's error answer as an exception; unreadable bodies included."""
        return read_error(status, body)


DIALECT = OpenAIChat()
