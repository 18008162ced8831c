"""Turns telemetry on, where gateway.toml asks for it; else nothing of it is even imported."""

import asyncio
from collections.abc import Awaitable, Callable

from tollway.daemon import secrets
from tollway.daemon.config.schema import Config
from tollway.daemon.log import Mask
from tollway.daemon.meter import Meter


async def observe(config: Config, meter: Meter, mask: Mask) -> Callable[[], Awaitable[None]] | None:
    """Begin to send spans and metrics; return what ends it, None where none are asked for.

    Raises:
        SecretError: The collector's token cannot be had.
    """
    wanted = config.telemetry
    if wanted.otlp is None:
        return None

    def begin() -> Callable[[], Awaitable[None]]:
        from tollway.daemon.telemetry import Telemetry  # noqa: PLC0415 - 0.1 s and 15 MB

        token = None
        if wanted.token is not None:
            token = secrets.resolve(wanted.token, base=config.path.parent).reveal()
            mask.hide([token])
        telemetry = Telemetry(wanted, token, meter)
        meter.watcher = telemetry
        return telemetry.close

    return await asyncio.to_thread(begin)
