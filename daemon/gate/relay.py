"""The client's side of a call: it is shown the answer, or why there is none.

A client that reads nothing for too long is cut off by its connection (`EdgeLimits.unread_s`).
"""

from tollway.daemon.direct import Direct
from tollway.daemon.gate.one_array import OneArray
from tollway.daemon.gate.send import Exchange
from tollway.providers.dialects.table import DIALECTS
from tollway.providers.sse import Splitter


async def relay(client: Direct | OneArray, exchange: Exchange, keepalive_s: float) -> None:
    """Give the client its answer, and return once it has all of it.

    A stream whose first event is late gets its headers after `keepalive_s` seconds, and what its
    dialect fills silences with after each further one; errors are then events of the stream.

    Raises:
        GatewayError: The call failed before the client was sent anything.
    """
    pipe = exchange.pipe
    filler = DIALECTS[exchange.call.dialect].codec.keepalive
    pipe.join(client, keepalive_s if exchange.call.stream else 0.0, filler)
    error = await pipe.ended()
    if error is None:
        return
    if not client.status:
        try:
            raise error
        finally:
            del error  # it holds this frame, and the frame the whole call
    if exchange.origin.report_cost:
        client.write(exchange.cost_comment())
    event = exchange.dialect.error_event(error, exchange.call_id, pipe.last)
    # Google's library for JavaScript knows an error by its being all that one chunk holds.
    for block in Splitter().feed(exchange.gate.mask(event.decode()).encode()):
        client.write(block.raw)
    client.end()
