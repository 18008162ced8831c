"""What every request passes before its handler: an id, a log line, errors in words, the guard.

`edge` is all of it, and `stamp`, which aiohttp calls before an answer's head.
"""

import asyncio
import logging
import math
import re
import time
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Protocol

import msgspec
from aiohttp import HttpVersion, HttpVersion11, hdrs, web
from aiohttp.typedefs import Handler
from multidict import MultiMapping

from tollway.daemon.astray import is_astray, no_path
from tollway.daemon.config.schema import Config
from tollway.daemon.control import write_control_error
from tollway.daemon.direct import Direct, Serve
from tollway.daemon.errors import (
    ContentTypeRefused,
    EncodingRefused,
    Forbidden,
    MethodNotAllowed,
    NoWebSockets,
    RateLimited,
)
from tollway.daemon.ids import new_id
from tollway.daemon.spoken import dialect_of
from tollway.daemon.state import DAEMON, GUARD, LOG, OWNER, ROLES, TRACE, Daemon, Trace
from tollway.providers.dialects.rate_headers import rate_headers
from tollway.providers.errors import (
    GatewayError,
    RequestInvalid,
    RequestTooLarge,
    UpstreamError,
    UpstreamRefused,
)
from tollway.providers.retry_hints import told_s
from tollway.providers.units import UNITS

log = logging.getLogger(__name__)

_MOST_PATIENCE_S = 60.0  # what a client may be asked to wait within one call

# What nginx logs for it: the client left before it was answered.
CLIENT_LEFT = 499
_MOST_HOSTS = 256
# Names of this type, aiohttp's own, are compared without folding their case each time.
istr = type(hdrs.HOST)
_FETCH_SITE = istr("Sec-Fetch-Site")
_CALL_ID = istr("x-tollway-request-id")
_REQUEST_ID = istr("x-request-id")
_PRIVATE_NETWORK = istr("Access-Control-Request-Private-Network")
_PREFLIGHT_S = 600  # how long a browser may keep what it was told
_HEADER_NAMES = re.compile(
    r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}( ?, ?[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}){0,50}"
)
_FORMS = frozenset(f"/v1{unit.path}" for unit in UNITS.values() if unit.multipart)
_JSON_ONLY = "Send JSON, with `Content-Type: application/json`"


class Asked(Protocol):
    """A request, aiohttp's or a call's own, as far as the guard looks at it."""

    @property
    def headers(self) -> MultiMapping[str]:
        """Its headers."""
        ...

    @property
    def method(self) -> str:
        """Its method."""
        ...

    @property
    def path(self) -> str:
        """Its path, without the query."""
        ...

    @property
    def version(self) -> HttpVersion:
        """The HTTP that it is in."""
        ...

    @property
    def transport(self) -> asyncio.Transport | None:
        """The connection, None once that is lost."""
        ...


class Refusal(msgspec.Struct, frozen=True):
    """The answer that stands for an error."""

    status: int
    headers: dict[str, str]
    body: bytes


async def direct(call: Direct, serve: Serve) -> None:
    """Guard a model call, let `serve` answer it, turn errors into answers, and log one line.

    What `edge` does for all other paths.

    Raises:
        ConnectionError: The client left, or its answer broke off: hang up.
    """
    began = time.monotonic()
    left = False
    try:
        try:
            if not call.owner:
                call.app[GUARD].check(call, call.daemon.config)
        except GatewayError as error:
            call.keep_alive = False
            _answer(call, error)
            return
        if refusing := call.daemon.refusing:
            raise refusing
        await serve(call)
    except GatewayError as error:
        _answer(call, error)
    except (ConnectionError, asyncio.CancelledError):
        left = True
        raise
    except Exception as fault:  # noqa: BLE001 - `_unforeseen` logs it
        _answer(call, _unforeseen(call.trace.call_id, fault))
    finally:
        _log(call, CLIENT_LEFT if left else call.status, time.monotonic() - began)


def _log(call: Direct, status: int, seconds: float) -> None:
    """Write the call's one line, once it is known how it ended and what it cost."""
    output, path, trace = call.app[LOG], call.path, call.trace

    # The path alone: a query can hold a key, headers and bodies hold keys and prompts.
    def say() -> None:
        output.access("POST", path, status, seconds, trace)
        trace.exchange = None  # its connection may live on: the prompt need not

    if trace.exchange is None or trace.exchange.ending is not None:
        say()
    else:
        trace.exchange.once_settled(say)


def _answer(call: Direct, error: GatewayError) -> None:
    if call.status:
        raise _broken_off(call.trace.call_id, error)
    call.daemon.meter.error(error.code)
    dialect = dialect_of(call.path, call.headers)
    said = dialect.write_error(error, call.trace.call_id)
    refusal = _refusal(call.app, error, said, dialect.name)
    headers = (*refusal.headers.items(), *call.trace.refusal)
    call.whole(refusal.status, headers, refusal.body)


@web.middleware
async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the call its id, guard the door, turn errors into answers, and log one line.

    One middleware, not three: each is a coroutine more that every event of a stream wakes through.
    """
    app = request.app
    trace = request[TRACE] = Trace(new_id())
    began = time.monotonic()
    status = CLIENT_LEFT
    try:
        try:
            refusal = _guard(request, app)
            answer = await handler(request) if refusal is None else refusal
        except ConnectionError:
            raise  # the client left; aiohttp ends the connection
        except Exception as fault:  # noqa: BLE001 - `_in_dialect` logs what nobody foresaw
            answer = _in_dialect(request, fault)
        status = answer.status
        return answer
    finally:
        # The path alone: a query can hold a key, headers and bodies hold keys and prompts.
        app[LOG].access(
            request.method, request.rel_url.raw_path, status, time.monotonic() - began, trace
        )


def _in_dialect(request: web.Request, fault: Exception) -> web.StreamResponse:
    """Return what was raised as an answer in the client's dialect."""
    if isinstance(fault, GatewayError):
        return _refuse(request, fault)
    if isinstance(fault, web.HTTPException):
        return _refuse(request, _in_words(request, fault), allow=fault.headers.get("Allow"))
    return _refuse(request, _unforeseen(request[TRACE].call_id, fault))


def _unforeseen(call_id: str, fault: Exception) -> GatewayError:
    """Log what nobody foresaw, and return what a client may hear of it."""
    log.error("call %s crashed", call_id, exc_info=fault)
    hint = f"The daemon's log says more, under {call_id}"
    return GatewayError("Something went wrong in the gateway", hint=hint)


def _guard(request: web.Request, app: web.Application) -> web.StreamResponse | None:
    """Return the refusal of what a web page, a confused client or a smuggler could send.

    Raises:
        GatewayError: No calls are taken at all.
    """
    try:
        _check(request, app)
    except GatewayError as error:
        return _refuse(request, error, hang_up=True)
    if request.method == hdrs.METH_OPTIONS and (answer := _preflight(request, app)) is not None:
        return answer
    refusing = app[DAEMON].refusing
    if refusing:
        resource = request.match_info.route.resource
        if resource and app[ROLES][resource.canonical] == "caller":
            raise refusing
    return None


def _preflight(request: web.Request, app: web.Application) -> web.Response | None:
    """Return the answer to a browser that asks whether a page may send a request; else None."""
    asked = request.headers
    allowed = () if app[OWNER] else app[GUARD].cors(asked.get(hdrs.ORIGIN, ""))
    if not allowed or hdrs.ACCESS_CONTROL_REQUEST_METHOD not in asked:
        return None
    headers: dict[str, str] = {
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, HEAD, POST, DELETE",
        hdrs.ACCESS_CONTROL_MAX_AGE: str(_PREFLIGHT_S),
    }
    wanted = asked.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
    if _HEADER_NAMES.fullmatch(wanted):
        # Those of a dozen client libraries; what is in them counts for nothing unless we know it.
        headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = wanted
    if _PRIVATE_NETWORK in asked:
        headers["Access-Control-Allow-Private-Network"] = "true"
    return web.Response(status=204, headers=headers)


def _check(request: web.Request, app: web.Application) -> None:
    target = request.raw_path
    if target[0] != "/":
        raise RequestInvalid("The request's target must be a path, not a whole URL")
    if not app[OWNER]:
        app[GUARD].check(request, app[DAEMON].config)
    if target in app[ROLES]:
        return
    resource = request.match_info.route.resource
    # aiohttp decodes a path before it looks for the route: only the plain spelling counts.
    if (
        resource is not None
        and target.partition("?")[0] != resource.canonical
        and "{" not in resource.canonical
    ):
        raise no_path(request)


class Guard:
    """Which Host and Origin may speak to us, so that no web page can use a loopback gateway."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._config: Config | None = None
        self._names: frozenset[str] = frozenset()
        self._welcome: set[str] = set()  # whole Host headers that have passed

    def check(self, request: Asked, config: Config) -> None:
        """Return if the request may go on.

        Raises:
            RequestInvalid: It names no host, or two readers could find its end in two places.
            Forbidden: A foreign Host (DNS rebinding), or a page of a foreign origin.
            ContentTypeRefused: A body that a page can post without asking first.
        """
        headers = request.headers
        host = headers.get(hdrs.HOST)
        if not host:
            raise RequestInvalid("The request has no `Host` header")
        if hdrs.TRANSFER_ENCODING in headers:
            _check_length(headers, request.version)
        if config is not self._config:
            self._learn(config)
        if host not in self._welcome:
            self._admit(host, request)
        if hdrs.ORIGIN in headers or _FETCH_SITE in headers:
            _check_origin(request, host, config.server.cors_origins)
        if request.method == "POST":
            _check_content_type(headers.get(hdrs.CONTENT_TYPE), form=request.path in _FORMS)

    def cors(self, origin: str) -> tuple[tuple[str, str], ...]:
        """Return the headers that let a page of a listed origin read an answer, else none.

        Never with credentials: no cookie and no stored password is anything here.
        """
        if origin not in self._daemon.config.server.cors_origins:
            return ()
        return (
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Expose-Headers", "*"),
            ("Vary", "Origin"),
        )

    def _learn(self, config: Config) -> None:
        server = config.server
        self._config = config
        self._names = frozenset(
            # As `_name_of` has an address that is listed in brackets: of any port.
            _name_of(name) if name.endswith("]") else name.lower()
            for name in ("localhost", server.host, *server.allowed_hosts)
        )
        if self._daemon.front is not None:
            # Who answers to a name in a certificate is whom the name's owner let have it.
            self._names |= set(self._daemon.front.now.names)
        self._welcome = set()

    def _admit(self, host: str, request: Asked) -> None:
        if not (
            host.lower() in self._names
            or (name := _name_of(host)) in self._names
            or _is_ours(name, request)
        ):
            raise Forbidden(
                f"The host `{host[:200]}` is not one of this gateway's",
                hint="`server.allowed_hosts` in gateway.toml lists the names it answers to",
            )
        if len(self._welcome) < _MOST_HOSTS:
            self._welcome.add(host)


def _name_of(host: str) -> str:
    """Return a Host header's name or address in lower case, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    name, _, port = host.rpartition(":")
    return (name if name and port.isdecimal() else host).lower()


def _is_ours(name: str, request: Asked) -> bool:
    """Say whether a host is an address of loopback, or the one that was connected to."""
    try:
        address = ip_address(name)
        if address.is_loopback:
            return True
        transport = request.transport
        met = transport.get_extra_info("sockname") if transport else None
        return bool(met and ip_address(met[0].partition("%")[0]) == address)
    except ValueError:
        return False


def _check_length(headers: MultiMapping[str], version: HttpVersion) -> None:
    """Refuse what aiohttp takes: a length beside an empty coding, chunks in HTTP/1.0, codings.

    RFC 9112, 6.1: a proxy that goes by the length, or knows no chunks, would see another request.
    What is coded before it is cut into chunks would be read as it stands.
    """
    if hdrs.CONTENT_LENGTH in headers or version < HttpVersion11:
        raise RequestInvalid("The request's length is told in two ways")
    if headers[hdrs.TRANSFER_ENCODING].strip().lower() != "chunked":
        raise RequestInvalid("The request has a transfer coding other than `chunked`")


def _check_origin(request: Asked, host: str, welcome: tuple[str, ...]) -> None:
    origin = request.headers.get(hdrs.ORIGIN)
    if origin in welcome:
        return
    # A page of ours would come from this very host and port; `null` and foreign ones do not.
    same = origin is None or origin.partition("://")[2].lower() == host.lower()
    if not same or request.headers.get(_FETCH_SITE) in {"cross-site", "same-site"}:
        raise Forbidden(
            "Requests from web pages are refused",
            hint="Call the gateway from a program, or list the page's origin in"
            " `server.cors_origins` of gateway.toml",
        )


def _check_content_type(said: str | None, *, form: bool) -> None:
    if said == "application/json" or said is None:
        return  # a page that posts without one still sends its Origin
    kind = said.partition(";")[0].strip().lower()
    if form:
        if kind == "multipart/form-data":
            return  # as above
        raise ContentTypeRefused(
            f"A body of type `{kind[:100]}` is not taken here", hint="Send a form with the file"
        )
    if kind != "application/json" and not kind.endswith("+json"):
        raise ContentTypeRefused(f"A body of type `{kind[:100]}` is not taken", hint=_JSON_ONLY)


def _in_words(request: web.Request, error: web.HTTPException) -> GatewayError:
    """Return aiohttp's own refusal as one of ours."""
    path = request.rel_url.raw_path
    if error.status == 404 or is_astray(request.method, path):
        return no_path(request)
    if isinstance(error, web.HTTPMethodNotAllowed):
        hint = f"Allowed: {error.headers['Allow']}"
        if request.headers.get(hdrs.UPGRADE, "").lower() == "websocket":
            return NoWebSockets("There are no web sockets here", hint=hint)
        return MethodNotAllowed(f"`{request.method}` is not allowed here", hint=hint)
    if error.status == 413:
        return RequestTooLarge("The request's body is too large")
    refused = GatewayError(error.reason)
    refused.status = error.status
    return refused


def _refuse(
    request: web.Request,
    error: GatewayError,
    *,
    allow: str | None = None,
    hang_up: bool = False,
) -> web.StreamResponse:
    """Return the answer that stands for an error, or cut off an answer that has begun."""
    call_id = request[TRACE].call_id
    if request.writer.output_size > 0:
        raise _broken_off(call_id, error)
    control = request.app[OWNER] and request.rel_url.raw_path.startswith("/control/")
    dialect = dialect_of(request.rel_url.raw_path, request.headers)
    write = write_control_error if control else dialect.write_error
    refusal = _refusal(request.app, error, write(error, call_id), dialect.name)
    answer = web.Response(status=refusal.status, body=refusal.body, headers=refusal.headers)
    if allow is not None:
        answer.headers["Allow"] = allow
    if hang_up:
        answer.force_close()
    return answer


def _broken_off(call_id: str, error: GatewayError) -> ConnectionError:
    """Return what ends the connection where an error can no more be said."""
    log.error("call %s failed within its answer: %s", call_id, error.code)
    return ConnectionAbortedError("an answer had begun")


def _refusal(app: web.Application, error: GatewayError, said: bytes, dialect: str) -> Refusal:
    if isinstance(error, UpstreamError):
        # In the provider's words; some repeat the credential that they were sent.
        said = app[LOG].mask(said.decode()).encode()
    headers = {"Content-Type": "application/json"}
    patience_s = error.retry_after_s or 0.0
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, NoWebSockets):
        headers["Upgrade"] = "HTTP/1.1"  # what 426 must say; Codex goes by the status alone
    if isinstance(error, EncodingRefused):
        headers["Accept-Encoding"] = ", ".join(error.taken)
    if isinstance(error, RateLimited) and error.standing:
        now = datetime.now(UTC)
        headers.update(rate_headers(dialect, error.standing, now))
    if isinstance(error, UpstreamRefused):
        # What the provider said beside its body: its limits, when to come again, its own id.
        patience_s = max(patience_s, told_s(error.headers, time.time()))
        for name, value in error.headers:
            if name == "retry-after":
                headers.pop("Retry-After", None)
            if name != "content-type":
                headers[name] = value
    if error.status == 402 or not error.again:
        headers["x-should-retry"] = "false"
    elif patience_s > _MOST_PATIENCE_S:
        # Anthropic's library would sleep through the hours of a day's limit, without a word.
        headers.setdefault("x-should-retry", "false")
    return Refusal(error.status, headers, said)


async def stamp(request: web.Request, answer: web.StreamResponse) -> None:
    """Write the call's id on every answer, streams included; aiohttp calls it before the head."""
    headers = answer.headers
    headers[hdrs.SERVER] = "tollway"  # not aiohttp's own, which tells what to attack
    trace = request.get(TRACE)
    if hdrs.ORIGIN in request.headers and not request.app[OWNER]:
        headers.update(request.app[GUARD].cors(request.headers[hdrs.ORIGIN]))
    if trace is not None:
        headers[_CALL_ID] = headers[_REQUEST_ID] = trace.call_id
    if request.app[DAEMON].leaving:
        answer.force_close()
        # aiohttp has said by now what becomes of the connection.
        headers[hdrs.CONNECTION] = "close"


MIDDLEWARES = (edge,)
