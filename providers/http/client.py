"""The transport to providers over HTTP: a pool of connections, and one request at a time on each.

Measured against aiohttp's client, which does the same job: see `benchmarks/transport.py`.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from tollway.providers.errors import (
    UpstreamBroke,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from tollway.providers.http.answer import HttpAnswer
from tollway.providers.http.connection import Connection
from tollway.providers.http.dial import dial
from tollway.providers.http.names import Names
from tollway.providers.http.portions import Portions
from tollway.providers.http.route import Route, head, route
from tollway.providers.http.tls import Contexts
from tollway.providers.transport import Request


class HttpTransport:
    """Sends requests to providers; a `transport.Transport`.

    Connections are kept `idle_keep_s` seconds after an answer, at most `idle_per_place` for each
    place, the youngest used first. The default is shorter than the 5 s after which uvicorn and
    Node close, so that we, not they, close first. Redirects are not followed, and proxies in the
    environment are not heard.
    """

    def __init__(
        self,
        *,
        idle_keep_s: float = 4.0,
        idle_per_place: int = 256,
        names: Names | None = None,
    ) -> None:
        self.portions = Portions()
        self._idle_keep_s = idle_keep_s
        self._idle_per_place = idle_per_place
        self._idle: dict[object, dict[Connection, None]] = {}
        self._open: set[Connection] = set()
        self._dialling: set[asyncio.Timeout] = set()
        self._contexts = Contexts()
        self._names = names or Names()
        self._closed = False
        self._emptied: asyncio.Event = asyncio.Event()

    @property
    def open_connections(self) -> int:
        """How many connections are open or being opened."""
        return len(self._open) + len(self._dialling)

    @property
    def idle_connections(self) -> int:
        """How many connections wait for another request."""
        return sum(map(len, self._idle.values()))

    async def send(self, request: Request) -> HttpAnswer:
        """Return the answer once its status and headers are there; see `transport.Transport`.

        A request that was not sent because its kept connection had died is sent on a fresh one;
        so is one with an idempotent method even if it was sent (see `connection`).
        """
        to = route(request.method, request.url, request.proxy, request.ca_file)
        data = head(to, request.headers, len(request.body))
        connection = self._take(to)
        if connection is not None:
            answer = connection.begin(to, data, request)
            try:
                await answer.begun()
            except UpstreamError:
                if not connection.stale or (connection.sent and not to.idempotent):
                    raise
            else:
                return answer
        connection = await self._connect(to, request.timeouts.connect_s)
        answer = connection.begin(to, data, request)
        await answer.begun()
        return answer

    async def prepare(self, ca_files: Iterable[str | None]) -> None:
        """Read the authorities that calls will be checked against; see `transport.Transport`."""
        for ca_file in ca_files:
            with suppress(UpstreamUnreachable):
                await self._contexts.get(ca_file)

    async def close(self) -> None:
        """Close every connection, idle or not, and return when all sockets are closed.

        Answers under way fail with `UpstreamBroke`, and so does what is sent later.
        """
        self._closed = True
        now = asyncio.get_running_loop().time()
        for attempt in self._dialling:
            if not attempt.expired():
                attempt.reschedule(now)
        for connection in list(self._open):
            connection.end(
                UpstreamBroke(f"The gateway closed its connection to {connection.place}")
            )
        self._names.close()
        while self._open or self._dialling:
            self._emptied.clear()
            await self._emptied.wait()

    # -- the connections' side ---------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """Take note of a new connection."""
        self._open.add(connection)

    def rests(self, connection: Connection) -> float:
        """Take a connection that may be used again; return how long to keep it, 0 for not."""
        keep_s = min(self._idle_keep_s, connection.keep_s)
        resting = self._idle.get(connection.key)
        if resting is None:
            resting = self._idle[connection.key] = {}
        if self._closed or keep_s <= 0 or len(resting) >= self._idle_per_place:
            return 0.0
        resting[connection] = None
        return keep_s

    def lost(self, connection: Connection) -> None:
        """Forget a connection; its socket is closed."""
        self._open.discard(connection)
        resting = self._idle.get(connection.key)
        if resting is not None:
            resting.pop(connection, None)
            if not resting:
                del self._idle[connection.key]
        self._emptied.set()

    # -- inside ------------------------------------------------------------------------------

    def _take(self, to: Route) -> Connection | None:
        resting = self._idle.get(to.key)
        while resting:
            connection = resting.popitem()[0]
            if connection.fresh():
                return connection
            connection.drop()
        return None

    async def _connect(self, to: Route, within_s: float) -> Connection:
        # Before the clock starts: a slow disk of ours is no provider that cannot be reached.
        tls = await self._contexts.get(to.ca_file) if to.place.scheme == "https" else None
        if self._closed:
            raise UpstreamUnreachable("The gateway is stopping and opens no connections")
        loop = asyncio.get_running_loop()
        made: list[Connection] = []
        connection: Connection | None = None

        def make() -> Connection:
            made.append(Connection(loop, to, self))
            return made[-1]

        limit = asyncio.timeout(within_s)
        self._dialling.add(limit)
        try:
            async with limit:
                connection = await dial(to, self._names, tls, make)
        except TimeoutError as fault:
            if self._closed:
                raise UpstreamUnreachable(
                    "The gateway is stopping and opens no connections"
                ) from fault
            by = f" by way of the proxy {to.proxy.name}" if to.proxy else ""
            text = f"{to.place.name} could not be connected to within {within_s:g} s{by}"
            hint = "Is it up, and does a firewall on the way drop the connection?"
            raise UpstreamTimeout(text, phase="connect", hint=hint) from fault
        finally:
            self._dialling.discard(limit)
            for one in made:
                if one is not connection:
                    # Its socket is closed; where that came just as it was connected, uvloop does
                    # not say so.
                    one.connection_lost(None)
            self._emptied.set()
        return connection
