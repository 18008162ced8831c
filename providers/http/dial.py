"""From a `Route` to an open connection: names, TCP, proxy, TLS. Whatever fails, nothing was sent.

Every error of this file is an `UpstreamUnreachable` that says in words what went wrong; no
message quotes a URL's path, a header or a proxy's password.
"""

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import Callable
from http import HTTPStatus

from tollway.providers.errors import UpstreamUnreachable
from tollway.providers.http.connection import Connection
from tollway.providers.http.names import Address, Names
from tollway.providers.http.route import Place, Route

_STAGGER_S = 0.25  # RFC 8305: how long one address has before the next is tried beside it
_TUNNEL_HEAD_LIMIT = 16 * 1024
_HANDSHAKE_S = 3600  # never reached: `connect_s` ends a handshake, asyncio's 60 s must not


_UNKNOWN = "If this is your own server, name its authority in the provider's `ca_file`"
_OTHER_NAME = "`base_url` must name the server as its certificate does"
# By OpenSSL's number for what is wrong with a certificate.
_MENDED = {
    9: "Is this machine's clock right?",
    10: "Whoever runs the server must renew it; or is this machine's clock wrong?",
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}


async def dial(
    to: Route, names: Names, tls: ssl.SSLContext | None, make: Callable[[], Connection]
) -> Connection:
    """Return an open connection. Cancelling it, or its failure, leaves nothing open.

    Raises:
        UpstreamUnreachable: The name, the address, the proxy or TLS failed.
    """
    loop = asyncio.get_running_loop()
    first = to.proxy or to.place
    shown = first.name if to.proxy is None else f"The proxy {first.name}"
    try:
        sock = await _connect(loop, names, first, shown)
        if tls is None:
            return (await loop.create_connection(make, sock=sock))[1]
        if to.proxy is not None:
            return await _through_tunnel(loop, sock, to, tls, make)
        return (
            await loop.create_connection(make, sock=sock, ssl=tls, server_hostname=to.place.host)
        )[1]
    except ssl.SSLCertVerificationError as fault:
        raise UpstreamUnreachable(
            f"{to.place.name} could not be trusted: certificate verify failed: "
            f"{fault.verify_message}",
            hint=_MENDED.get(fault.verify_code, _UNKNOWN),
        ) from fault
    except ssl.SSLError as fault:
        why = (fault.reason or "unknown reason").lower().replace("_", " ")
        raise UpstreamUnreachable(
            f"{to.place.name} did not complete a TLS handshake: {why}",
            hint="Does the server speak TLS on this port?",
        ) from fault
    except OSError as fault:
        during = " during the TLS handshake" if tls else ""
        raise UpstreamUnreachable(f"{to.place.name} closed the connection{during}") from fault


async def _connect(
    loop: asyncio.AbstractEventLoop, names: Names, to: Place, shown: str
) -> socket.socket:
    """Return a connected socket."""
    try:
        infos = await names.find(to)
    except OSError as fault:
        why = (fault.strerror or "unknown reason").lower()
        raise UpstreamUnreachable(
            f"{shown} cannot be found: {why}", hint="Check the name, and this machine's DNS"
        ) from fault
    try:
        return await first_connected(loop, infos)
    except ConnectionRefusedError as fault:
        raise UpstreamUnreachable(
            f"{shown} refused the connection", hint="Is it running, and on this port?"
        ) from fault
    except OSError as fault:
        why = (fault.strerror or "unknown reason").lower()
        raise UpstreamUnreachable(
            f"{shown} cannot be reached: {why}",
            hint="Check the address, and this machine's network",
        ) from fault


async def first_connected(loop: asyncio.AbstractEventLoop, infos: list[Address]) -> socket.socket:
    """Return the first socket that connects; a slow address is not waited out (RFC 8305).

    The others are closed, also when the caller is cancelled.

    Raises:
        OSError: Of the address that failed last.
    """
    if len(infos) == 1:
        return await _one(loop, infos[0])
    waiting = list(reversed(infos))
    running: set[asyncio.Task[socket.socket]] = set()
    fault: BaseException | None = None
    winner: socket.socket | None = None
    try:
        while winner is None and (waiting or running):
            if waiting:
                running.add(loop.create_task(_one(loop, waiting.pop())))
            done, running = await asyncio.wait(
                running,
                timeout=_STAGGER_S if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                fault = task.exception() or fault
                if task.exception() is None and winner is None:
                    winner = task.result()
                elif task.exception() is None:
                    task.result().close()
    finally:
        for task in running:
            task.cancel()
        for late in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(late, socket.socket):
                late.close()
    if winner is None:
        raise fault or OSError("no address")
    return winner


async def _one(loop: asyncio.AbstractEventLoop, info: Address) -> socket.socket:
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(socket.socket(info[0], info[1], info[2]))
        sock.setblocking(False)
        await loop.sock_connect(sock, info[4])
        undo.pop_all()
    return sock


class _Tunnel(asyncio.Protocol):
    """Reads a proxy's reply to CONNECT up to its blank line."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.head = bytearray()
        self.ready: asyncio.Future[None] = loop.create_future()

    def data_received(self, data: bytes) -> None:
        """Collect; more than a head is a proxy that must not be trusted."""
        self.head += data
        if not self.ready.done() and (
            b"\r\n\r\n" in self.head or len(self.head) > _TUNNEL_HEAD_LIMIT
        ):
            self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the waiting dial go on; it finds half a head."""
        if not self.ready.done():
            self.ready.set_result(None)

    def status(self) -> int:
        """Return the status, or 0 where the reply is not one head and nothing more."""
        found = re.fullmatch(
            rb"HTTP/1\.[01] ([1-9][0-9][0-9])(?: [^\r\n]*)?\r\n(?:[^\r\n]+\r\n)*\r\n(.*)",
            self.head,
            re.DOTALL,
        )
        if not found or (found[1].startswith(b"2") and found[2]):
            return 0
        return int(found[1])


async def _through_tunnel(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    to: Route,
    tls: ssl.SSLContext,
    make: Callable[[], Connection],
) -> Connection:
    """Return a TLS connection through a proxy's CONNECT."""
    transport, tunnel = await loop.create_connection(lambda: _Tunnel(loop), sock=sock)
    with contextlib.ExitStack() as undo:
        undo.callback(transport.abort)
        host = f"[{to.place.host}]" if ":" in to.place.host else to.place.host
        name = f"{host}:{to.place.port}"
        request = f"CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n{to.proxy_auth}\r\n"
        transport.write(request.encode())
        await tunnel.ready
        _check_tunnel(tunnel.status(), to)
        connection = make()
        secure = await loop.start_tls(
            transport,
            connection,
            tls,
            server_hostname=to.place.host,
            ssl_handshake_timeout=_HANDSHAKE_S,
        )
        if secure is None:
            raise ConnectionResetError
        connection.connection_made(secure)
        undo.pop_all()
    return connection


def _check_tunnel(status: int, to: Route) -> None:
    if 200 <= status < 300:
        return
    proxy = to.proxy.name if to.proxy else ""
    if not status:
        raise UpstreamUnreachable(
            f"The proxy {proxy} gave no proper answer when asked for {to.place.name}"
        )
    with contextlib.suppress(ValueError):  # our word for the status: the proxy's may say anything
        phrase = f"{status} {HTTPStatus(status).phrase}"
        raise UpstreamUnreachable(
            f"The proxy {proxy} refused to connect to {to.place.name}: {phrase}",
            hint="Check the user name and password in the provider's `proxy`"
            if status == 407
            else "",
        )
    raise UpstreamUnreachable(f"The proxy {proxy} refused to connect to {to.place.name}: {status}")
