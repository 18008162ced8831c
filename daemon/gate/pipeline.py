"""The path of a call, on one screen: each line is a step with a file of its own."""

from aiohttp import hdrs

from tollway.daemon.direct import Direct
from tollway.daemon.errors import BudgetSpent, Draining
from tollway.daemon.gate import entry, tags
from tollway.daemon.gate.authenticate import PREFIX, Caller
from tollway.daemon.gate.conversations import resumed
from tollway.daemon.gate.count import count, is_asked_there
from tollway.daemon.gate.gate import Gate
from tollway.daemon.gate.one_array import OneArray
from tollway.daemon.gate.origin import Origin
from tollway.daemon.gate.relay import relay
from tollway.daemon.gate.send import Exchange
from tollway.daemon.gate.session import session_of
from tollway.providers.canon import Endpoint
from tollway.providers.dialects.dialect import NOTHING_IN_URL, Dialect, InUrl
from tollway.providers.errors import GatewayError, RequestInvalid
from tollway.providers.headers import Headers, own_credential, to_provider

_MOST_CLIENT = 200
# Names of this type, aiohttp's own, are compared without folding their case each time.
_istr = type(hdrs.USER_AGENT)
_REPORT = _istr("x-tollway-report")
_PRIORITY = _istr("x-tollway-priority")


async def serve(
    request: Direct, endpoint: Endpoint, dialect: Dialect, url: InUrl = NOTHING_IN_URL
) -> None:
    """Take one call all the way, and answer it.

    Hold, admit, send, meter and settle are the exchange's: a task of its own, so that they
    happen in order though the client leaves. Nothing here outlives the client.

    Raises:
        GatewayError: The call was refused, or failed before the client was sent anything.
    """
    daemon = request.daemon
    trace = request.trace
    gate, caller = _enter(request)
    trace.key, trace.user = caller.who.key, caller.who.user
    body = await request.read()
    if daemon.gate is not gate or daemon.draining or caller.run:
        # A slow body must not carry a key or a budget past the reload, or the run, that ended it.
        gate, caller = _enter(request)
    origin = _origin(request, trace.call_id, caller.tags)
    origin.session = session_of(request.headers, origin.tags, caller.run)
    if gate.router.headers:
        origin.looked_at = _looked_at(request, gate.router.headers)
    if gate.callers_pay:
        origin.own = own_credential(request.headers.items(), PREFIX)
    tags.demand(origin.tags, caller.require_tags)
    call = await resumed(gate, caller, dialect.peek(endpoint, body, url), dialect)
    trace.model = call.model[:200]
    exchange = Exchange(
        daemon=daemon,
        gate=gate,
        dialect=dialect,
        caller=caller,
        call=call,
        origin=origin,
    )
    if endpoint == "count_tokens":
        target = exchange.first()
        if not is_asked_there(call, target):
            headers, counted = await count(gate, call, target, caller.prefix_owner)
            request.whole(200, headers, counted)
            return
    trace.exchange = exchange
    exchange.start()
    try:
        client = OneArray(request) if url.one_array else request
        await relay(client, exchange, gate.config.server.keepalive)
    except GatewayError as error:
        if caller.run:
            own = isinstance(error, BudgetSpent) and error.scope == ("tag", f"run={caller.run}")
            daemon.runs.refused(caller.run, error, spent=own)
        raise
    finally:
        if not request.status:
            trace.refusal = entry.refusal_headers(exchange)
        exchange.leave()


def _enter(request: Direct) -> tuple[Gate, Caller]:
    """Return the gate in force, and who is calling by it."""
    daemon = request.daemon
    gate = daemon.gate
    if daemon.draining:
        raise Draining("The gateway is stopping and takes no new calls")
    caller = gate.keyring.find(request.headers, request.query, gate.now_s(), owner=request.owner)
    return gate, caller


def _origin(request: Direct, call_id: str, own: tags.Tags) -> Origin:
    return Origin(
        call_id,
        # Bytes that are no UTF-8 come as surrogates, which no database takes.
        client=request.headers.get(hdrs.USER_AGENT, "")
        .encode("utf-8", "replace")
        .decode()[:_MOST_CLIENT],
        headers=to_provider(request.headers.items()),
        report_cost=request.headers.get(_REPORT) == "cost",
        batch=_is_batch(request.headers.get(_PRIORITY)),
        tags=tags.said(request.headers.getall(tags.HEADER), own)
        if tags.HEADER in request.headers
        else own,
    )


def _looked_at(request: Direct, names: frozenset[str]) -> Headers:
    """Return the headers that routes have conditions on, names in lower case."""
    pairs = ((name.lower(), value) for name, value in request.headers.items())
    return tuple((name, value) for name, value in pairs if name in names)


def _is_batch(priority: str | None) -> bool:
    if priority in {None, "interactive"}:
        return False
    if priority == "batch":
        return True
    raise RequestInvalid(
        "`x-tollway-priority` is neither `interactive` nor `batch`", hint="Leave it out, or say one"
    )
