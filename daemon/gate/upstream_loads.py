"""How busy servers of vLLM say that they are: asked in the background, for routes that go by it.

A team's box may serve others too, whose calls this gateway does not see. What it last said counts
for a few seconds; a server that does not say is judged by our own calls to it.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit, urlunsplit

import msgspec

from tollway.daemon.config.schema import Config
from tollway.daemon.gate.strategies import load
from tollway.providers.errors import UpstreamError
from tollway.providers.transport import Request, Timeouts, Transport

log = logging.getLogger("tollway.gate")

EVERY_S = 2.0
_FRESH_S = 10.0  # longer than that ago it says nothing about now
_MOST_BYTES = 4 * 2**20
_TIMEOUTS = Timeouts(connect_s=1.0, first_s=2.0, idle_s=2.0)
# Kinds whose server tells it, by vLLM's names: kv_cache_usage_perc was gpu_cache_usage_perc once.
_KINDS = frozenset({"vllm"})
_SAMPLE = re.compile(
    r"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc|gpu_cache_usage_perc)"
    r"(?:\{[^}\n]*\})? ([0-9.eE+-]+)$",
    re.MULTILINE,
)


class Told(msgspec.Struct, frozen=True):
    """What a server says of itself: calls that run and wait, the part of its KV cache in use."""

    running: int
    waiting: int
    cache: float

    @property
    def load(self) -> float:
        """How busy it is, as the strategy counts it."""
        return load(self.running, self.waiting, None, self.cache)


def read(text: str) -> Told | None:
    """Return what a page of metrics says, all models and engines together; None for nothing."""
    sums: dict[str, float] = {}
    fullest = 0.0
    for name, value in _SAMPLE.findall(text):
        try:
            number = float(value)
        except ValueError:
            continue
        sums[name] = sums.get(name, 0.0) + number
        if name.endswith("_perc"):
            fullest = max(fullest, number)
    if "num_requests_waiting" not in sums:
        return None
    running = sums.get("num_requests_running", 0.0)
    return Told(int(running), int(sums["num_requests_waiting"]), min(1.0, fullest))


class UpstreamLoads:
    """What servers said of themselves of late."""

    def __init__(self, transport: Transport, clock: Callable[[], float] = time.monotonic) -> None:
        self._transport = transport
        self._clock = clock
        self._pages: dict[str, str] = {}
        self._told: dict[str, tuple[float, Told]] = {}
        self._wanted = asyncio.Event()

    def configure(self, config: Config) -> None:
        """Take the servers of a configuration that some route goes by."""
        self._pages = pages_of(config)
        self._told = {name: told for name, told in self._told.items() if name in self._pages}
        if self._pages:
            self._wanted.set()
        else:
            self._wanted.clear()

    def told(self, provider: str) -> Told | None:
        """Return what a provider's server said just now; None where it did not."""
        found = self._told.get(provider)
        return found[1] if found and self._clock() - found[0] <= _FRESH_S else None

    async def watch(self) -> None:
        """Ask for as long as the daemon runs; never returns."""
        while True:
            await self._wanted.wait()
            await self.ask()
            await asyncio.sleep(EVERY_S)

    async def ask(self) -> None:
        """Ask each server once."""
        pages: Mapping[str, str] = dict(self._pages)
        async with asyncio.TaskGroup() as group:
            for name, page in pages.items():
                group.create_task(self._ask(name, page))

    async def _ask(self, name: str, page: str) -> None:
        try:
            text = await self._get(page)
        except UpstreamError as error:
            log.debug("%s does not say how busy it is: %s", name, error.message)
            return
        told = read(text)
        if told is not None and name in self._pages:
            self._told[name] = self._clock(), told

    async def _get(self, page: str) -> str:
        answer = await self._transport.send(
            Request(url=page, headers=(), method="GET", timeouts=_TIMEOUTS)
        )
        body = bytearray()
        try:
            async for chunk in answer.chunks():
                body += chunk
                if len(body) > _MOST_BYTES:
                    break
        finally:
            await answer.close()
        return body.decode("utf-8", "replace") if answer.status == 200 else ""


def pages_of(config: Config) -> dict[str, str]:
    """Return the address of the metrics of each server that a least-busy route may ask."""
    targets = {
        target
        for route in config.routes.values()
        for strategy, names in (
            (route.strategy, route.to),
            *((case.strategy or route.strategy, case.to or route.to) for case in route.when),
        )
        if strategy == "least-busy"
        for target in names
    }
    wanted = {target.partition("/")[0] for target in targets}
    found = {}
    for name, provider in config.providers.items():
        if name in wanted and provider.kind in _KINDS and provider.base_url:
            parts = urlsplit(provider.base_url)
            path = parts.path.rstrip("/").removesuffix("/v1") + "/metrics"
            found[name] = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
    return found
