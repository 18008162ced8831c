"""What lives as long as the process, and where a handler finds it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from aiohttp import web

from tollway.daemon.gate.affinity import Affinity
from tollway.daemon.gate.conversations import Conversations
from tollway.daemon.gate.deployed import Deployed
from tollway.daemon.gate.health import Health
from tollway.daemon.gate.learned import Learned
from tollway.daemon.gate.longest import Longest
from tollway.daemon.gate.queue import Queue
from tollway.daemon.gate.rates import Rates
from tollway.daemon.gate.traffic import Traffic
from tollway.daemon.gate.upstream_loads import UpstreamLoads
from tollway.daemon.meter import Meter
from tollway.daemon.room import room_for_bodies
from tollway.daemon.runs import Runs
from tollway.daemon.tasks import Tasks
from tollway.daemon.watchdog import Watchdog

if TYPE_CHECKING:
    from tollway.daemon.alerts import Alerts
    from tollway.daemon.config.schema import Config
    from tollway.daemon.connection import Connections, EdgeLimits
    from tollway.daemon.control import Control
    from tollway.daemon.gate.books import Books
    from tollway.daemon.gate.gate import Gate
    from tollway.daemon.gate.send import Exchange
    from tollway.daemon.inference import Calls
    from tollway.daemon.ledger.writer import Ledger
    from tollway.daemon.log import Log
    from tollway.daemon.middleware import Guard
    from tollway.daemon.tls import Front
    from tollway.providers.errors import GatewayError
    from tollway.providers.llamacpp.adapter import LocalModels
    from tollway.providers.prices import PriceSource
    from tollway.providers.transport import Transport


class Daemon:
    """The running gateway. `gate` is replaced whole by a reload; the rest stays.

    A call keeps the gate that it started with, so it finishes under one configuration.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        books: Books,
        transport: Transport,
        local: LocalModels,
        prices: PriceSource,
    ) -> None:
        self.ledger = ledger
        self.books = books
        self.learned = Learned()
        self.deployed = Deployed()
        self.longest = Longest()
        self.health = Health()
        self.rates = Rates(books.now_ms)
        self.transport = transport
        self.local = local
        self.queue = Queue(local)
        local.has_turn = self.queue.runs
        self.traffic = Traffic()
        self.affinity = Affinity()
        self.upstream_loads = UpstreamLoads(transport)
        self.dice = random.Random()  # noqa: S311 - it shares calls out, and keeps no secret
        self.runs = Runs()
        self.conversations = Conversations(ledger)
        self.meter = Meter()
        self.prices = prices
        self.gate: Gate
        self.alerts: Alerts
        self.config: Config  # the gate's; there before the first gate is
        # Why no call is taken though the daemon answers: None once there is a gate.
        self.refusing: GatewayError | None = None
        self.started_at = 0.0  # unix seconds
        # Takes no new connections, and no second request on those that it has.
        self.leaving = False
        self.draining = False  # takes no new calls either
        self.watchdog = Watchdog()
        self.room = room_for_bodies()
        self.connections: Connections
        self.front: Front | None = None  # the certificate that is shown, where there is one
        self.active = 0  # calls between their admission check and their settlement
        self.served = 0
        # What must outlive a client's handler runs here: exchanges, their settlements.
        self.tasks = Tasks()
        self.exchanges: set[Exchange] = set()  # those that run, so that stopping can cut them


class Trace:
    """What the log line of one call says. The edge makes it; the gate fills in the rest."""

    __slots__ = ("call_id", "exchange", "key", "model", "refusal", "user")

    def __init__(self, call_id: str) -> None:
        self.call_id = call_id  # UUIDv7, also in the reply's headers and in the ledger
        self.key = ""  # the key's name, never the key
        self.user = ""
        self.model = ""  # the name that the client asked for
        self.exchange: Exchange | None = None  # once it is known what is asked for
        self.refusal: tuple[tuple[str, str], ...] = ()  # headers for an answer that is an error


TRACE: web.RequestKey[Trace] = web.RequestKey("trace")
DAEMON: web.AppKey[Daemon] = web.AppKey("daemon")
# True in the application on the admin socket: whoever may open that is the owner.
OWNER: web.AppKey[bool] = web.AppKey("owner")
# The role that each path needs, by its route's canonical form.
ROLES: web.AppKey[dict[str, str]] = web.AppKey("roles")
# The model calls, by their path: what `Connection` answers without aiohttp.
CALLS: web.AppKey[Calls] = web.AppKey("calls")
LOG: web.AppKey[Log] = web.AppKey("log")
GUARD: web.AppKey[Guard] = web.AppKey("guard")
EDGE: web.AppKey[EdgeLimits] = web.AppKey("edge")
CONTROL: web.AppKey[Control] = web.AppKey("control")
