"""What every wire format must offer, and the small types that pass between gate and dialect."""

from typing import Protocol

import msgspec

from tollway.providers.canon import Bound, Call, Endpoint, Usage
from tollway.providers.errors import GatewayError, UpstreamRefused
from tollway.providers.sse import Event


class Edits(msgspec.Struct, frozen=True):
    """What must change in a body on its way to a provider; nothing else does.

    `output_limit` is written in the field that the target's quirks name, replacing any there
    is; None leaves what the client wrote. `quirks` are the words of the target's catalog row.
    """

    model: str
    output_limit: int | None = None
    ask_usage: bool = False  # stream_options.include_usage = true
    quirks: frozenset[str] = frozenset()


class AnswerReader(Protocol):
    """Reads one attempt's answer over the client's shoulder: what was used, how it ended.

    It never raises: what it cannot read is passed on and counted by bytes.
    """

    usage: Usage | None  # the last report wins, class by class; None when there was none
    produced: int  # an upper bound of the visible output, in tokens: its UTF-8 bytes
    begun: bool  # a valid first event (or whole answer) has been seen
    ended: bool  # the dialect's own end was seen, so that a clean close is a whole answer
    failed: UpstreamRefused | None  # an error inside a 200 answer
    raw_usage: str  # the provider's last report as JSON, what we do not read included; or ""
    upstream_id: str  # the provider's name for the answer; or ""

    def event(self, event: Event) -> bool:
        """Read one event of a stream; return False if the client must not see it."""
        ...

    def whole(self, body: bytes) -> None:
        """Read a whole, unstreamed answer."""
        ...


class Dialect(Protocol):
    """How one wire format is read and written."""

    name: str

    def peek(self, endpoint: Endpoint, body: bytes) -> Call:
        """Return what the gate must know of a body.

        Raises:
            RequestInvalid: It is not JSON, not an object, or a field the gate needs has the
                wrong type; `param` names it.
        """
        ...

    def bound(self, call: Call) -> Bound:
        """Return the most that one attempt at the call can use (governance: the input bound)."""
        ...

    def edit(self, call: Call, edits: Edits) -> bytes:
        """Return the body for a provider: the same bytes but for what `edits` names."""
        ...

    def path(self, endpoint: Endpoint) -> str:
        """Return the endpoint's path, to be put behind a provider's base URL."""
        ...

    def reader(self, call: Call, quirks: frozenset[str]) -> AnswerReader:
        """Return a fresh reader for one attempt's answer."""
        ...

    def write_error(self, error: GatewayError, call_id: str) -> bytes:
        """Return an error body in the shape that this dialect's client libraries raise."""
        ...

    def error_event(self, error: GatewayError, call_id: str) -> bytes:
        """Return the event that ends a broken stream so that client libraries raise."""
        ...

    def read_error(self, status: int, body: bytes) -> UpstreamRefused:
        """Return a provider's error answer as an exception; unreadable bodies included."""
        ...
