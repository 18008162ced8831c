"""Writes down, once a minute, how long the models of this box were at work and idle."""

import asyncio
import time

from tollway.daemon.ledger.rows import LocalTime
from tollway.daemon.pricing import price_said
from tollway.daemon.state import Daemon
from tollway.providers.money import time_cost

_EVERY_S = 60.0


async def keep(daemon: Daemon) -> None:
    """Write the times down for as long as the daemon runs; never returns."""
    while True:
        await asyncio.sleep(_EVERY_S)
        write(daemon)


def write(daemon: Daemon) -> None:
    """Write down what has passed since this was last done; to be called once more at the end."""
    now_ms = time.time_ns() // 1_000_000
    daemon.ledger.times(
        [
            LocalTime(now_ms, name, busy_ms, idle_ms, _cost(daemon, name, idle_ms))
            for name, (busy_ms, idle_ms) in daemon.local.times().items()
        ]
    )


def _cost(daemon: Daemon, name: str, ms: int) -> int:
    """Return what so much of a model's time costs, 0 where its price is not by the hour."""
    model = daemon.config.models.get(name)
    if model is None or model.price is None:
        return 0
    return time_cost(ms, price_said(model.price)) or 0
