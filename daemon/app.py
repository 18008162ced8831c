"""The aiohttp applications: which path is answered by what, and the role that it needs."""

import asyncio
from typing import Literal, NamedTuple

from aiohttp import web
from aiohttp.typedefs import Handler

from tollway.daemon import (
    control,
    control_imports,
    control_runs,
    dashboard,
    inference,
    listing,
    metrics,
    responses,
    usage,
)
from tollway.daemon.connection import EdgeLimits
from tollway.daemon.log import Log
from tollway.daemon.middleware import MIDDLEWARES, Guard, stamp
from tollway.daemon.state import CALLS, DAEMON, EDGE, GUARD, LOG, OWNER, ROLES, Daemon
from tollway.providers.errors import GatewayError

# open: anyone who can connect. caller: the handler authenticates before it reads the body.
# monitor: loopback, or who has the key of `server.metrics_key`; the handler looks.
# owner: whoever may open the admin socket; these paths exist in no other application.
Role = Literal["open", "caller", "monitor", "owner"]
# metered: each request is a call, which limits and budgets hold back and the ledger records.
# free: no model says anything, so it costs nothing; a count of tokens that a provider makes is
# a call of the limits all the same, but for those of tokens.
Use = Literal["metered", "free"]


class Route(NamedTuple):
    """One path of the gateway. Nothing else is answered but with 404."""

    method: Literal["GET", "POST", "DELETE"]  # GET answers HEAD too
    path: str
    handler: Handler
    role: Role
    use: Use


class CallRoute(NamedTuple):
    """A path of model calls, whose callers the gate authenticates."""

    path: str
    method: Literal["POST"] = "POST"
    role: Role = "caller"
    use: Use = "metered"


async def _by_its_connection(_request: web.Request) -> web.StreamResponse:
    """Stand in aiohttp's table for a model call, which its connection answers before that."""
    raise GatewayError("The gateway took a model call for something else")


async def hello(_request: web.Request) -> web.Response:
    """Answer agents that probe the base URL."""
    return web.Response(text="Tollway is here\n")


async def healthz(_request: web.Request) -> web.Response:
    """Say that the process answers."""
    return web.Response(text="ok\n")


async def readyz(request: web.Request) -> web.Response:
    """Say whether a call would be taken now: 200, or 503 and why not."""
    daemon = request.app[DAEMON]
    if daemon.draining:
        return web.Response(status=503, text="draining\n")
    if daemon.refusing or daemon.ledger.problem:
        # What exactly is the owner's to know: `tollway status` tells.
        return web.Response(status=503, text="the ledger cannot be written\n")
    return web.Response(text="ready\n")


ROUTES: tuple[Route | CallRoute, ...] = (
    Route("GET", "/", hello, "open", "free"),
    Route("GET", "/healthz", healthz, "open", "free"),
    Route("GET", "/readyz", readyz, "open", "free"),
    Route("GET", "/metrics", metrics.metrics, "monitor", "free"),
    Route("GET", "/ui", dashboard.page, "monitor", "free"),
    Route("GET", "/ui/events", dashboard.events, "monitor", "free"),
    *(
        CallRoute(path, use="free" if endpoint == "count_tokens" else "metered")
        for path, endpoint in inference.PATHS.items()
    ),
    Route("GET", "/v1/models", listing.models, "caller", "free"),
    Route("GET", "/v1/models/{model:.+}", listing.model, "caller", "free"),
    Route("GET", "/v1beta/models", listing.models, "caller", "free"),
    Route("GET", "/v1beta/models/{model:.+}", listing.model, "caller", "free"),
    Route("GET", "/v1/responses/{id}", responses.get, "caller", "free"),
    Route("DELETE", "/v1/responses/{id}", responses.delete, "caller", "free"),
    Route("GET", "/v1/responses/{id}/input_items", responses.input_items, "caller", "free"),
    Route("POST", "/v1/responses/{id}/cancel", responses.cancel, "caller", "free"),
    Route("GET", "/v1/tollway/usage", usage.usage, "caller", "free"),
    Route("GET", "/v1/tollway/budgets", usage.budgets, "caller", "free"),
    Route("GET", "/control/status", control.status, "owner", "free"),
    Route("GET", "/control/live", control.now, "owner", "free"),
    Route("GET", "/control/models", control.models, "owner", "free"),
    Route("POST", "/control/models/{name}/load", control.load, "owner", "free"),
    Route("POST", "/control/models/{name}/unload", control.unload, "owner", "free"),
    Route("POST", "/control/explain", control.explain, "owner", "free"),
    Route("POST", "/control/reload", control.reload, "owner", "free"),
    Route("POST", "/control/runs", control_runs.keep, "owner", "free"),
    Route("POST", "/control/runs/{id}/end", control_runs.end, "owner", "free"),
    Route("POST", "/control/imports", control_imports.take, "owner", "free"),
    Route("POST", "/control/stop", control.stop, "owner", "free"),
    Route("POST", "/control/handover", control.hand_over, "owner", "free"),
    Route("POST", "/control/restart", control.restart, "owner", "free"),
)


def build(daemon: Daemon, log: Log, limits: EdgeLimits, *, owner: bool) -> web.Application:
    """Return the application for the listening address, or for the admin socket of `owner`."""
    app = web.Application(middlewares=MIDDLEWARES)
    app[DAEMON] = daemon
    app[OWNER] = owner
    app[LOG] = log
    app[EDGE] = limits
    app[GUARD] = Guard(daemon)
    app[usage.READS] = asyncio.Semaphore(usage.MOST_READS)
    app[dashboard.BOARD] = dashboard.Board()
    app[ROLES] = {}
    app[CALLS] = inference.Calls()
    for route in ROUTES:
        if route.role != "owner" or owner:
            resource = app.router.add_resource(route.path)
            handler = route.handler if isinstance(route, Route) else _by_its_connection
            for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
                resource.add_route(method, handler)
            app[ROLES][resource.canonical] = route.role
    app.on_response_prepare.append(stamp)
    return app
