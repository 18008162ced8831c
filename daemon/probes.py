"""Asks providers whether they are there, where gateway.toml says so: `providers.NAME.probe`.

A probe shows what no call has found out yet, and that a provider is back before anybody is sent
there on trial. It proves nothing more: an answer of whatever kind but 5xx is a sign of life.
"""

import asyncio
import logging
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tollway.daemon.config.schema import Provider
from tollway.daemon.tasks import Tasks
from tollway.providers.errors import UpstreamError
from tollway.providers.transport import Request, Timeouts

if TYPE_CHECKING:
    from tollway.daemon.state import Daemon

log = logging.getLogger(__name__)

_TIMEOUTS = Timeouts(connect_s=5.0, first_s=10.0, idle_s=5.0)
_WITHIN_S = 20.0
_MOST_BYTES = 1024 * 1024  # of an answer that nobody reads
_SPREAD = 0.1  # of `every`, by chance, so that many gateways do not ask at once


async def watch(daemon: "Daemon", tasks: Tasks, *, every_s: float = 0.5) -> None:
    """Probe every provider when it is due, again and again; never returns."""
    due: dict[str, float] = {}
    asking: dict[str, asyncio.Task[None]] = {}
    while True:
        await asyncio.sleep(every_s)
        now = daemon.health.clock()
        probed = {} if daemon.refusing else daemon.config.providers
        for name, provider in probed.items():
            if provider.probe is None or now < due.get(name, 0.0):
                continue
            if name in asking and not asking[name].done():
                continue
            spread = 1 + _SPREAD * (2 * daemon.health.chance() - 1)
            due[name] = now + provider.probe.every * spread
            asking[name] = tasks.start(probe(daemon, name, provider), name=f"probe {name}")
        for name in [name for name in due if name not in probed]:
            del due[name]
            asking.pop(name, None)


async def probe(daemon: "Daemon", name: str, provider: Provider) -> None:
    """Ask one provider, and let its health know."""
    assert provider.probe is not None  # noqa: S101 - who has one is asked
    try:
        async with asyncio.timeout(_WITHIN_S):
            status = await _ask(daemon, name, provider)
    except UpstreamError as error:
        fault = error.message
    except TimeoutError:
        fault = f"no whole answer within {_WITHIN_S:g} s"
    else:
        fault = f"HTTP {status}" if status >= 500 else ""
    if daemon.config.providers.get(name) == provider:  # else a reload has come in between
        daemon.health.probed(name, daemon.gate.mask(fault), provider.probe.every)


async def _ask(daemon: "Daemon", name: str, provider: Provider) -> int:
    assert provider.probe is not None  # noqa: S101 - who has one is asked
    target = daemon.health.with_key(daemon.gate.target(f"{name}/"))
    place = urlsplit(target.base_url)
    answer = await daemon.transport.send(
        Request(
            url=f"{place.scheme}://{place.netloc}{provider.probe.path}",
            headers=target.headers,
            method="GET",
            timeouts=_TIMEOUTS,
            proxy=target.proxy,
            ca_file=target.ca_file,
        )
    )
    try:
        size = 0
        async for chunk in answer.chunks():
            size += len(chunk)
            if size > _MOST_BYTES:
                break
    finally:
        await answer.close()
    return answer.status
