"""What lives as long as the process, and where a handler finds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from tollway.daemon.gate.books import Books
    from tollway.daemon.gate.gate import Gate
    from tollway.daemon.ledger.writer import Ledger
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
        self.transport = transport
        self.local = local
        self.prices = prices
        self.gate: Gate
        self.started_at = 0.0  # unix seconds
        self.draining = False
        self.active = 0  # calls between their admission check and their settlement
        self.served = 0


DAEMON: web.AppKey[Daemon] = web.AppKey("daemon")
# True in the application on the admin socket: whoever may open that is the owner.
OWNER: web.AppKey[bool] = web.AppKey("owner")
