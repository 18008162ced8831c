"""The client's side of a call: what comes out of the pipe goes to the client as it comes.

A client that reads nothing for too long is cut off by its connection (`EdgeLimits.unread_s`), not
here: a time-out round each write cost 6 us an event.
"""

from aiohttp import web

from tollway.daemon.gate.pipe import Head
from tollway.daemon.gate.send import Exchange
from tollway.providers.errors import GatewayError, UpstreamBroke

_KEEP_ALIVE = b": keep-alive\n\n"


async def relay(request: web.Request, exchange: Exchange, keepalive_s: float) -> web.StreamResponse:
    """Give the client its answer, and return the response once it has all of it.

    A stream whose first event is late gets its headers after `keepalive_s` seconds, and an SSE
    comment after each further silence of that length; errors are then events of the stream.

    Raises:
        GatewayError: The call failed before the client was sent anything.
        ConnectionResetError: The client left.
    """
    pipe = exchange.pipe
    streams = exchange.call.stream
    head = await pipe.opened(keepalive_s if streams else None)
    if head and not head.streamed:
        # It was settled before it was shown, so one response can hold it all.
        body = await pipe.get(None) or b""
        return web.Response(status=head.status, headers=head.headers, body=body)
    response = _begin(head)
    await response.prepare(request)
    error = await _copy(exchange, response, keepalive_s, silent=head is None)
    if error:
        event = exchange.dialect.error_event(error, exchange.call_id)
        await response.write(exchange.gate.mask(event.decode()).encode())
    await response.write_eof()
    return response


def _begin(head: Head | None) -> web.StreamResponse:
    if head:
        return web.StreamResponse(status=head.status, headers=head.headers)
    return web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    )


async def _copy(
    exchange: Exchange, response: web.StreamResponse, keepalive_s: float, *, silent: bool
) -> GatewayError | None:
    """Copy the pipe until its end; return the error that ended it early, if one did."""
    try:
        if silent:
            await response.write(_KEEP_ALIVE)
        while (data := await exchange.pipe.get(keepalive_s)) is not None:
            if silent and exchange.pipe.head and not exchange.pipe.head.streamed:
                return UpstreamBroke("The provider answered whole where a stream was asked for")
            await response.write(data or _KEEP_ALIVE)
    except GatewayError as error:
        return error
    return None
