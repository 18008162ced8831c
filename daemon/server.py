"""One running daemon: what it takes at its start, how it drains, and what it gives back."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

from aiohttp import web

from tollway.daemon import alerts, local_times, orphans, probes, secrets, supervisor, tls
from tollway.daemon import app as application
from tollway.daemon.config.paths import StatePaths, private_folder, state_paths
from tollway.daemon.config.schema import Config, SecretRef
from tollway.daemon.connection import Connections, EdgeLimits
from tollway.daemon.control import Control
from tollway.daemon.errors import Draining, LedgerUnavailable
from tollway.daemon.gate.books import Books
from tollway.daemon.gate.gate import Gate
from tollway.daemon.handover import Handed, Successor
from tollway.daemon.ledger.retention import Policy
from tollway.daemon.ledger.writer import Ledger
from tollway.daemon.log import Log
from tollway.daemon.observe import observe
from tollway.daemon.process import BACKLOG, PidFile, Start, bind, bind_admin, close_all
from tollway.daemon.rates_kept import kept
from tollway.daemon.reload import Reloader, local_models
from tollway.daemon.state import CONTROL, Daemon
from tollway.daemon.tasks import Tasks
from tollway.providers.errors import GatewayError
from tollway.providers.http.client import HttpTransport
from tollway.providers.llamacpp.adapter import LocalModels
from tollway.providers.prices import PriceSource
from tollway.providers.words import counted

log = logging.getLogger(__name__)

_SETTLE_S = 10.0  # for the settlements of calls that were cut off
_HANG_UP_S = 2.0  # for clients to read the last bytes
_LOOK_S = 0.02


class Server:
    """One running daemon: `start` it, wait until it is `stopped`, `drain` it, `close` it."""

    def __init__(
        self,
        config: Config,
        output: Log,
        *,
        limits: EdgeLimits | None = None,
        start: Start = Start(),  # noqa: B008 - frozen
    ) -> None:
        self._config = config
        self._how = start
        self.output = output
        self._limits = limits or EdgeLimits()
        self._tasks = Tasks()
        self._stack = AsyncExitStack()
        self._runners: list[web.AppRunner] = []
        self._public: list[asyncio.Server] = []
        self._listening: list[socket.socket] = []
        self._factory: Callable[[], asyncio.Protocol]
        # Who or what serves after us, and copies of the listening sockets for it.
        self._successor: Successor | None = None
        self._again = False
        self._told = False  # to stop for good, whoever would have served next
        self._kept: list[socket.socket] = []
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self.daemon: Daemon
        self.reloader: Reloader
        self.connections: Connections
        self.addresses: list[tuple[str, int]] = []

    @property
    def url(self) -> str:
        """The base URL that client libraries want."""
        if self.daemon.front is None:
            return f"http://{self.listen}/v1"
        # Clients look for the name that they connected to in the certificate.
        _, _, port = self.listen.rpartition(":")
        host = self.daemon.front.now.name or self.listen.rpartition(":")[0]
        return f"https://{host}:{port}/v1"

    @property
    def listen(self) -> str:
        """The first address in use, as "host:port"."""
        host, port = self.addresses[0]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def start(self) -> None:
        """Take the ledger, the sockets and the models, and begin to answer.

        Raises:
            GatewayError: It cannot; everything taken so far is given back.
        """
        try:
            await self._start()
        except BaseException:  # a cancel too: sockets and the lock are given back
            await self._stack.aclose()
            raise

    async def _start(self) -> None:
        config = self._config
        paths = state_paths(config.ledger.path)
        private_folder(paths.folder)
        self._stack.push_async_callback(self._tasks.close)
        ledger = Ledger(config.ledger.path, sync=config.ledger.sync)
        ledger.start()
        self._stack.push_async_callback(ledger.close)
        admin = bind_admin(config.admin_socket)
        self._stack.callback(config.admin_socket.unlink, missing_ok=True)
        certificate = await asyncio.to_thread(tls.read, config)
        public = list(self._how.sockets) or bind(config.server.host, config.server.port)
        self._stack.callback(close_all, [admin, *public])
        self._listening = public
        self.addresses = [one.getsockname()[:2] for one in public]

        daemon = self.daemon = self._daemon(ledger, paths)
        if ends := await observe(config, daemon.meter, self.output.mask):
            self._stack.push_async_callback(ends)
        if certificate is not None:
            daemon.front = tls.Front(certificate)
            self._tasks.start(daemon.front.watch(lambda: daemon.config), name="certificate")
        self.reloader = Reloader(daemon, self._applied)
        try:
            daemon.gate = await Gate.build(config, daemon)
            self._applied(config)
        except LedgerUnavailable as error:
            # It answers `status`, refuses calls, and takes them once the ledger is back.
            log.error("no call is taken: %s", error.message)
            daemon.refusing = error
            self._tasks.start(self.reloader.until_served(), name="first gate")
        await daemon.local.configure(local_models(config))
        await self._listen(admin, public)
        daemon.watchdog.start()
        self._stack.callback(daemon.watchdog.close)
        self._tasks.start(supervisor.ping(), name="supervisor")
        self._tasks.start(self.reloader.watch(), name="watch")
        self._tasks.start(alerts.watch(daemon, self._tasks), name="alerts")
        self._tasks.start(alerts.watch_disk(daemon, self._tasks), name="disk")
        self._tasks.start(probes.watch(daemon, self._tasks), name="probes")
        self._tasks.start(self.reloader.begin(), name="history")
        self._tasks.start(local_times.keep(daemon), name="local times")
        self._tasks.start(daemon.upstream_loads.watch(), name="upstream loads")
        if os.getpid() == 1:  # of a container: what our children leave behind is ours
            self._tasks.start(orphans.bury(), name="orphans")
        pidfile = PidFile(paths.pidfile)
        pidfile.write()
        self._stack.callback(pidfile.remove)

    def _daemon(self, ledger: Ledger, paths: StatePaths) -> Daemon:
        transport = HttpTransport()
        self._stack.push_async_callback(transport.close)
        local = LocalModels(log_folder=paths.folder, transport=transport)
        local.secret = self._secret
        daemon = Daemon(
            ledger=ledger, books=Books(), transport=transport, local=local, prices=PriceSource()
        )
        self._stack.callback(local_times.write, daemon)
        self._stack.enter_context(kept(daemon.rates, paths.rates))
        self._stack.push_async_callback(local.close)
        daemon.alerts = alerts.Alerts(ledger, transport)
        daemon.alerts.configure(self._config)  # also while no gate can be built
        self._stack.push_async_callback(daemon.alerts.close)
        self._stack.push_async_callback(daemon.tasks.close)
        daemon.config = self._config
        daemon.started_at = time.time()
        daemon.runs.take(self._how.runs)
        return daemon

    def _secret(self, kept: str) -> str:
        return secrets.resolve(SecretRef(kept), base=self._config.path.parent).reveal()

    async def _listen(self, admin: socket.socket, public: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        connections = self.connections = self.daemon.connections = Connections(
            self._limits, self._tasks
        )
        self._stack.callback(connections.close)
        control = Control(self.reloader, self, self._how.by)
        for owner in (False, True):
            app = application.build(self.daemon, self.output, self._limits, owner=owner)
            app[CONTROL] = control  # what may be asked of it is the table's to say
            # Without the cancellation a handler lives on for as long as its provider talks. A
            # client that half-closes is cancelled too: its end of file looks like leaving.
            runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=_HANG_UP_S)
            await runner.setup()
            self._stack.push_async_callback(runner.cleanup)
            self._runners.append(runner)
            assert runner.server is not None  # noqa: S101 - made by setup
            factory = connections.factory(app, runner.server)
            if owner:
                server = await loop.create_unix_server(factory, sock=admin)
                self._stack.callback(server.close)
            else:
                self._factory = factory
                await self._accept(public)

    async def _accept(self, sockets: list[socket.socket]) -> None:
        """Take connections from the public address."""
        loop = asyncio.get_running_loop()
        front = self.daemon.front
        for one in sockets:
            server = await loop.create_server(
                self._factory,
                sock=one,
                backlog=BACKLOG,  # or asyncio's 100 takes the place of what `bind` asked for
                ssl=front.context if front else None,
                ssl_handshake_timeout=tls.HANDSHAKE_S if front else None,
                ssl_shutdown_timeout=tls.GOODBYE_S if front else None,
            )
            self._stack.callback(server.close)
            self._public.append(server)

    def _applied(self, config: Config) -> None:
        gate = self.daemon.gate
        self.output.mask.hide(gate.hidden)
        self._tasks.start(self.daemon.transport.prepare(gate.authorities), name="authorities")
        self.daemon.ledger.retain(_retention(config))
        self.daemon.alerts.configure(config)
        self.daemon.queue.configure(config)
        self.daemon.upstream_loads.configure(config)
        self.daemon.meter.configure(config)
        self.daemon.health.configure(config)
        self.daemon.longest.forget()
        self.daemon.alerts.trust(self.daemon.health.failing())
        self.output.install(config.server.log_level, config.server.log_format)

    def stop(self) -> None:
        """Begin to stop; called again, hurry."""
        if self._stop.is_set():
            self._hurry.set()
        self._told = True
        self._stop.set()

    def hand_over(self, asked_on: asyncio.BaseTransport, *, hurry: bool) -> None:
        """Begin to stop, and give the listening sockets to who asked on this connection."""
        self._leave(hurry=hurry)
        self._successor = Successor(asked_on)

    def begin_anew(self, *, hurry: bool) -> None:
        """Begin to stop, to be this process's next program with the same sockets."""
        self._leave(hurry=hurry)
        self._again = True

    @property
    def making_way(self) -> bool:
        """Whether another daemon, or this process's next program, will serve after this one."""
        return self._again or self._successor is not None

    def _leave(self, *, hurry: bool) -> None:
        if self._stop.is_set():
            raise Draining("The daemon is stopping already")
        self._stop.set()
        if hurry:
            self._hurry.set()

    def reload(self) -> None:
        """Reload in the background; how it went is logged and stands in `status`."""
        self._tasks.start(self._reload(), name="reload")

    async def _reload(self) -> None:
        supervisor.reloading()
        with suppress(GatewayError):  # the reloader has logged it
            await self.reloader.reload()
        supervisor.notify("READY=1")

    async def stopped(self) -> None:
        """Return once `stop` was called."""
        await self._stop.wait()

    async def drain(self) -> bool:
        """Take no new call, and give those under way until `server.drain` to end; then cut them.

        The admin socket answers to the end, so that `status` can tell how far it is. Where
        another daemon serves next, new connections wait for it, and those that there are may
        ask once more: a client whose request is on its way must not be refused.

        Returns False, and goes on serving, where that other daemon has ended meanwhile and nobody
        has said `stop`.
        """
        daemon = self.daemon
        daemon.leaving = True
        if self.making_way:
            supervisor.reloading()
            self._kept = self._kept or [one.dup() for one in self._listening]
        else:
            supervisor.notify("STOPPING=1")
        for server in self._public:
            server.close()
        log.info("draining: %s under way", counted(daemon.active, "call"))
        left_s = float(daemon.config.server.drain)
        if self.making_way:
            left_s = await self._until_still(left_s)
            if self._successor is not None and self._successor.gone and not self._told:
                await self._go_on()
                return False
        daemon.draining = True
        daemon.queue.drain(_stopping)
        either = (
            self._tasks.start(daemon.tasks.wait(left_s), name="drain"),
            self._tasks.start(self._hurry.wait(), name="hurry"),
        )
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        self._cut()
        await daemon.tasks.wait(_SETTLE_S)
        return True

    async def _until_still(self, within_s: float) -> float:
        """Wait until nobody asks or is answered any more; return the seconds that are left.

        It ends early where somebody hurries, or nobody would come after us.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + within_s
        still = False
        while loop.time() < ends and not self._hurry.is_set():
            if self._successor is not None and self._successor.gone:
                break
            before = still
            still = not self.daemon.tasks and self.connections.still()
            if still and before:  # once is not enough: a busy loop has not read what has come
                break
            await asyncio.sleep(_LOOK_S)
        return max(0.0, ends - loop.time())

    async def _go_on(self) -> None:
        """Serve again: whoever should have come after us has ended."""
        assert self._successor is not None  # noqa: S101 - it is what has ended
        log.error("the daemon that should have taken over has ended; this one goes on")
        self._successor.close()
        self._successor = None
        self._public.clear()
        self._listening, self._kept = self._kept, []
        self._stack.callback(close_all, self._listening)
        self.daemon.leaving = False
        self._stop.clear()
        self._hurry.clear()
        await self._accept(self._listening)
        supervisor.notify("READY=1")

    def _cut(self) -> None:
        left = tuple(self.daemon.exchanges)
        if left:
            log.warning("cut off at the end of the drain: %s", counted(len(left), "call"))
        for exchange in left:
            exchange.cut("drained")

    async def close(self) -> Handed | None:
        """Hang up, wait for every settlement, and close the ledger last.

        Then, and not before, the listening sockets go to whoever serves next, and the runs with
        them: to the successor, or they are returned for this process's next program.
        """
        for runner in reversed(self._runners):
            await runner.cleanup()
        # A call whose body was still coming when the drain ended may have begun since.
        self._cut()
        await self.daemon.tasks.wait(_SETTLE_S)
        await self._stack.aclose()
        handed = Handed(self._kept, self.daemon.runs.carried())
        if self._again and not self._told:
            log.info("stopped, to begin anew")
            return handed
        if self._successor is not None:
            taken = self._successor.give(handed)
            self._successor = None
            log.info("stopped; the next daemon %s", "listens now" if taken else "is gone")
        else:
            log.info("stopped")
        close_all(self._kept)
        return None


def _retention(config: Config) -> Policy:
    kept = config.ledger
    return Policy(
        keep_ms=int(kept.keep * 1000),
        keep_bodies_ms=int(kept.keep_bodies * 1000),
        most_bytes=int(kept.max_size),
    )


def _stopping() -> Draining:
    return Draining("The gateway is stopping, and this call's turn had not come")
