"""Alerts over a ledger in a folder, and budgets for them to look at."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tollway.daemon.alerts import Alerts
from tollway.daemon.config.load import parse
from tollway.daemon.config.schema import Config
from tollway.daemon.gate.books import BudgetState
from tollway.daemon.ledger.writer import Ledger
from tollway.providers.http.client import HttpTransport

START_MS = 4_000_000_000_000
DAY_MS = 86_400_000
USD = 10**9


def state(spent: int, **fields: Any) -> BudgetState:
    """Return a budget of ten dollars a day, so much of it spent."""
    said: dict[str, Any] = {
        "scope": "team",
        "name": "ml",
        "budget": "10/day",
        "at": "hard",
        "rolling": False,
        "limit_nanousd": 10 * USD,
        "base_nanousd": 10 * USD,
        "raised_nanousd": 0,
        "settled_nanousd": spent,
        "held_nanousd": 0,
        "left_nanousd": max(0, 10 * USD - spent),
        "starts_ms": START_MS,
        "ends_ms": START_MS + DAY_MS,
    }
    said |= fields
    name = " ".join((said["scope"], said["name"], said["budget"], said["at"]))
    return BudgetState(**({"id": name} | said))


def configured(alerts: str, folder: Path) -> Config:
    """Return a configuration with `server.alerts`."""
    return parse(f"[server]\nalerts = {{ {alerts} }}\n", path=folder / "gateway.toml")


@contextlib.asynccontextmanager
async def telling(folder: Path, alerts: str = "") -> AsyncIterator[Alerts]:
    """Yield alerts over the ledger in a folder, as one process of the daemon has them."""
    ledger = Ledger(folder / "ledger.db")
    ledger.start()
    transport = HttpTransport()
    told = Alerts(ledger, transport)
    told.channels.pauses_s = (0.01, 0.01)
    told.configure(configured(alerts, folder))
    try:
        yield told
    finally:
        await told.close()
        await transport.close()
        await ledger.close()


def parts(alerts: Alerts) -> list[str | None]:
    """Return the parts of budgets that were told, in order."""
    return [notice.facts["part"] for notice in alerts.recent]


async def looked(alerts: Alerts, *states: BudgetState) -> list[str | None]:
    """Let alerts look at budgets; return all parts told so far."""
    for one in states:
        alerts.look([one])
        await alerts.settled()
    return parts(alerts)
