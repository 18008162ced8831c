"""Prompts and replies for `ledger.bodies`: what the client sent, and what it was given.

With "off" nothing of this runs: the exchange then has a plain `Pipe`, and no test stands in the
way of an event.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tollway.daemon.gate.conversations import remember
from tollway.daemon.gate.pipe import Pipe
from tollway.daemon.ledger.bodies import LOOK_AHEAD, MOST_BYTES, Kept
from tollway.providers.errors import GatewayError

if TYPE_CHECKING:
    from tollway.daemon.gate.gate import Gate
    from tollway.daemon.gate.send import Exchange

_MOST = MOST_BYTES + LOOK_AHEAD
# A stream that came to its end, whether or not the provider said what it took.
_WHOLE = frozenset({"answered", "no_usage"})


class KeepingPipe(Pipe):
    """A pipe that remembers the beginning of what went into it."""

    _keeps = True

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[bytes] = []
        self.kept_size = 0  # of all that went in, kept or not
        self.error: GatewayError | None = None
        self.whole: Callable[[bytes], None] | None = None  # is told the last piece, at the end

    def write(self, data: bytes) -> bool:
        """Hand on some bytes, as a plain pipe does."""
        if not (self._closed or self._ended):
            room = _MOST - self.kept_size
            if room > 0:
                self.kept.append(data if len(data) <= room else data[:room])
            self.kept_size += len(data)
        # Also where the client has left: it may know the answer's id from its beginning.
        self.last = data or self.last
        return super().write(data)

    def finish(self) -> None:
        """Say that the answer is whole."""
        if self.whole is not None and self.last and not self._ended:
            self.whole(self.last)
        super().finish()

    def fail(self, error: GatewayError) -> None:
        """Say that the answer ends here, and why."""
        if not self._ended:
            self.error = error
        super().fail(error)


def pipe_for(gate: "Gate") -> Pipe:
    """Return the pipe for a call under this configuration."""
    return Pipe() if gate.config.ledger.bodies == "off" else KeepingPipe()


def build_on(exchange: "Exchange") -> None:
    """See to it that the answer of a call that wants it kept can be built on when it has come."""
    pipe = exchange.pipe
    if not exchange.call.adds or not isinstance(pipe, KeepingPipe):
        return

    def whole(last: bytes) -> None:
        exchange.response = remember(exchange, last)

    pipe.whole = whole


def keep(exchange: "Exchange") -> None:
    """Give an ended call's bodies to the ledger, where the configuration keeps them.

    Call it behind the call's settlement or refusal. Secrets are taken out before they are
    written, later and elsewhere.
    """
    pipe = exchange.pipe
    if not isinstance(pipe, KeepingPipe):
        return
    gate = exchange.gate
    if gate.config.ledger.bodies == "errors" and not pipe.error and exchange.ending in _WHOLE:
        return
    request, answer = exchange.call.body, pipe.kept
    size = pipe.kept_size
    if pipe.error:
        told = _told(exchange, pipe.error)
        size += len(told)
        answer = [*answer, told]
    exchange.daemon.ledger.keep(
        Kept(
            call_id=exchange.call_id,
            at_ms=exchange.at_ms,
            request=request[:_MOST],
            request_size=len(request),
            answer=b"".join(answer)[:_MOST],
            answer_size=size,
            mask=gate.mask,
            response=exchange.response,
        )
    )


def _told(exchange: "Exchange", error: GatewayError) -> bytes:
    """Return an error as the client is told it: as an answer, or as the end of its stream."""
    head = exchange.pipe.head
    if head and head.streamed:
        return exchange.dialect.error_event(error, exchange.call_id, exchange.pipe.last)
    return exchange.dialect.write_error(error, exchange.call_id)
