"""GET /metrics for Prometheus: what the daemon has counted, put into words when it is asked.

Nothing is counted here and nothing registers itself anywhere: the numbers are `meter.py`'s, the
gate's and the ledger's, as they stand at the moment of the question.
"""

import asyncio
import platform
import shutil
from base64 import b64decode
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from ipaddress import ip_address
from typing import TYPE_CHECKING

from aiohttp import web
from multidict import CIMultiDict, MultiMapping

from tollway.daemon.errors import Forbidden
from tollway.daemon.gate.forwarded import is_forwarded
from tollway.daemon.meter import CLASSES, Histogram, WhoTally, named_targets
from tollway.daemon.metric_names import SPECS, Spec
from tollway.daemon.state import CONTROL, DAEMON, OWNER, Daemon
from tollway.providers.llamacpp.gpus import Gpu, gpus

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

_USD = 1e9  # nano-dollars
_STATES = ("closed", "half-open", "open")
_OWN = "tollway_"  # the rest are the operating system's


class Sheet:
    """The values of one scrape, by metric; `histograms` hold bounds, counts and sums."""

    def __init__(self) -> None:
        self.values: dict[str, list[tuple[tuple[str, ...], float]]] = {}
        self.histograms: dict[str, list[tuple[tuple[str, ...], Histogram]]] = {}

    def put(self, name: str, value: float | None, *labels: str) -> None:
        """Note a value; None where there is none to tell."""
        if value is not None:
            self.values.setdefault(name, []).append((labels, value))

    def times(self, name: str, found: Histogram, *labels: str) -> None:
        """Note a histogram as it stands."""
        copy = Histogram(found.bounds)
        copy.counts, copy.total = list(found.counts), found.total
        self.histograms.setdefault(name, []).append((labels, copy))


async def metrics(request: web.Request) -> web.Response:
    """Answer GET /metrics, as Prometheus text or OpenMetrics, whichever the scraper asks for.

    Raises:
        Forbidden: It came from elsewhere than loopback, and without the key for it.
        Unauthorized: It came with a key that does not work.
    """
    daemon = request.app[DAEMON]
    admit_monitor(request)
    sheet = Sheet()
    _process(sheet, daemon)
    _config(sheet, request)
    _calls(sheet, daemon)
    _who(sheet, daemon)
    _health(sheet, daemon)
    _money(sheet, daemon)
    _lines(sheet, daemon)
    _ledger(sheet, daemon)
    accept = request.headers.get("Accept", "")
    text, content_type = await asyncio.to_thread(_written, sheet, daemon, accept)
    answer = web.Response(body=text, headers={"Content-Type": content_type})
    answer.enable_compression()
    return answer


def admit_monitor(request: web.Request, path: str = "/metrics") -> None:
    """Return if whoever asks may see the figures of the whole box.

    Raises:
        Forbidden: It came from elsewhere than loopback, or by way of a proxy, and without the
            key for it.
        Unauthorized: It came with a key that does not work.
    """
    daemon = request.app[DAEMON]
    server = daemon.config.server
    here = not server.behind_proxy and not is_forwarded(request.headers)
    if request.app[OWNER] or (here and _is_loopback(request)):
        return
    if server.metrics_key is None:
        raise Forbidden(
            f"{path} is for loopback",
            hint='`server.metrics_key = "NAME"` in gateway.toml lets the key of that name read it',
        )
    if daemon.refusing:
        raise daemon.refusing
    gate = daemon.gate
    caller = gate.keyring.find(_headers(request), request.query, gate.now_s(), owner=False)
    if caller.who.key != server.metrics_key:
        raise Forbidden(f"This key may not read {path}", hint="`server.metrics_key` names another")


def _headers(request: web.Request) -> MultiMapping[str]:
    """Return the headers, a browser's password as the key that it is."""
    scheme, _, said = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return request.headers
    try:
        _, _, password = b64decode(said, validate=True).decode().partition(":")
    except ValueError:
        password = ""
    return CIMultiDict({"Authorization": f"Bearer {password}"})


def _is_loopback(request: web.Request) -> bool:
    transport = request.transport
    peer: tuple[str, int] | None = transport.get_extra_info("peername") if transport else None
    return peer is not None and ip_address(peer[0].partition("%")[0]).is_loopback


# --- what there is to tell ----------------------------------------------------------------------


def _process(sheet: Sheet, daemon: Daemon) -> None:
    sheet.put("tollway_build", 1, version("tollway"), platform.python_version())
    sheet.put("tollway_start_time_seconds", daemon.started_at)
    sheet.put("tollway_draining", daemon.draining)
    loop = daemon.watchdog.state
    sheet.put("tollway_event_loop_stalls", loop.stalls)
    sheet.put("tollway_event_loop_stalled_seconds", loop.stalled_s)
    sheet.put("tollway_client_connections", daemon.connections.public)
    sheet.put("tollway_connections_refused", daemon.connections.refused)
    sheet.put("tollway_alerts_untold", len(daemon.alerts.channels.problems))


def _config(sheet: Sheet, request: web.Request) -> None:
    state = request.app[CONTROL].reloader.state
    sheet.put("tollway_config_ok", state.state == "ok")
    sheet.put("tollway_config_loaded_time_seconds", state.loaded_at)
    front = request.app[DAEMON].front
    sheet.put("tollway_certificate_end_time_seconds", front.now.ends if front else None)


def _calls(sheet: Sheet, daemon: Daemon) -> None:
    meter = daemon.meter
    for (route, endpoint, outcome), count in meter.calls.items():
        sheet.put("tollway_calls", count, route, endpoint, outcome)
    for route, took in meter.call_s.items():
        sheet.times("tollway_call_duration_seconds", took, route)
    for code, count in meter.errors.items():
        sheet.put("tollway_errors", count, code)
    sheet.put("tollway_calls_active", daemon.active)
    sheet.put("tollway_streams_active", sum(one.call.stream for one in daemon.exchanges))
    for target, tally in meter.targets.items():
        for outcome, count in tally.attempts.items():
            sheet.put("tollway_attempts", count, target, outcome)
        for name, tokens in zip(CLASSES, tally.tokens, strict=True):
            if tokens:
                sheet.put("tollway_tokens", tokens, target, name)
        sheet.put("tollway_cost_usd", tally.cost / _USD, target)
        sheet.put("tollway_overrun_usd", tally.overrun / _USD, target)
        sheet.times("tollway_attempt_duration_seconds", tally.attempt_s, target)
        sheet.times("tollway_first_token_seconds", tally.first_s, target)
        if any(tally.wait_s.counts):
            sheet.times("tollway_queue_wait_seconds", tally.wait_s, target)


def _who(sheet: Sheet, daemon: Daemon) -> None:
    for kind, tallies in (("team", daemon.meter.teams), ("key", daemon.meter.keys)):
        for name, used in tallies.items():
            _used(sheet, f"tollway_{kind}", name, used)


def _used(sheet: Sheet, prefix: str, name: str, used: WhoTally) -> None:
    sheet.put(f"{prefix}_calls", used.calls, name)
    sheet.put(f"{prefix}_tokens", used.input, name, "input")
    sheet.put(f"{prefix}_tokens", used.output, name, "output")
    sheet.put(f"{prefix}_cost_usd", used.cost / _USD, name)


def _health(sheet: Sheet, daemon: Daemon) -> None:
    worst = dict.fromkeys(named_targets(daemon.config), 0)
    for provider in daemon.health.states():
        sheet.put("tollway_provider_up", provider.state == "closed", provider.provider)
        sheet.put("tollway_provider_retries_left", provider.retries_left, provider.provider)
        keys: dict[int, int] = {}  # by number: each once, though it may rest for several models
        for key in provider.keys:
            keys[key.number] = max(keys.get(key.number, 0), _STATES.index(key.state))
        for state, count in Counter(_STATES[at] for at in keys.values()).items():
            sheet.put("tollway_provider_keys", count, provider.provider, state)
        for one in provider.targets:
            label = daemon.meter.label(one.target, provider.provider)
            worst[label] = max(worst.get(label, 0), _STATES.index(one.state))
    for target, breaker in worst.items():
        sheet.put("tollway_target_breaker_state", breaker, target)


def _money(sheet: Sheet, daemon: Daemon) -> None:
    live = daemon.books.live
    sheet.put("tollway_holds", len(live))
    sheet.put("tollway_held_usd", sum(hold.amount for hold in live) / _USD)
    if daemon.refusing:
        return
    config = daemon.config
    tags = {f"{name}={value}" for name, values in config.tags.items() for value in values}
    for one in daemon.gate.purse.states():
        if one.scope == "key" and not config.server.metrics_per_key:
            continue
        if one.scope == "tag" and one.name not in tags:
            continue  # of a run, which has a name of its own each time
        labels = (one.scope, one.name, one.budget)
        used = one.settled_nanousd + one.held_nanousd
        sheet.put("tollway_budget_used_ratio", used / max(1, one.limit_nanousd), *labels)
        sheet.put("tollway_budget_spent_usd", one.settled_nanousd / _USD, *labels)
        sheet.put("tollway_budget_limit_usd", one.limit_nanousd / _USD, *labels)


def _lines(sheet: Sheet, daemon: Daemon) -> None:
    for line in daemon.queue.states():
        sheet.put("tollway_queue_length", line.waiting, line.target)
        sheet.put("tollway_queue_running", line.running, line.target)
        sheet.put("tollway_queue_slots", line.slots, line.target)
        sheet.put("tollway_queue_oldest_seconds", line.longest_wait_s, line.target)
    for model in daemon.local.states():
        said = daemon.config.models.get(model.name)
        sheet.put("tollway_local_model_up", model.loaded_at is not None, model.name)
        sheet.put("tollway_local_model_failed", model.state == "failed", model.name)
        sheet.put("tollway_local_model_memory_bytes", model.rss_bytes, model.name)
        sheet.put("tollway_local_model_slots", said.slots if said else None, model.name)
        sheet.put("tollway_local_model_running", model.running, model.name)
        sheet.put("tollway_local_model_waiting", model.waiting, model.name)
        sheet.put("tollway_local_model_tokens_per_second", model.tokens_per_s, model.name)


def _ledger(sheet: Sheet, daemon: Daemon) -> None:
    ledger = daemon.ledger
    sheet.put("tollway_ledger_ok", ledger.problem is None)
    sheet.put("tollway_ledger_backlog", ledger.backlog)
    sheet.put("tollway_ledger_lag_seconds", ledger.lag_s)
    sheet.put("tollway_ledger_commits", ledger.commits)
    sheet.put("tollway_ledger_wal_bytes", ledger.wal_bytes)
    sheet.put("tollway_ledger_recovered_calls", ledger.recovered)


# --- in a thread --------------------------------------------------------------------------------


def _written(sheet: Sheet, daemon: Daemon, accept: str) -> tuple[bytes, str]:
    """Return the text and its type; what takes a disk, a driver or long is asked here."""
    # 40 ms and some memory that a daemon which nobody scrapes does without.
    from prometheus_client import ProcessCollector  # noqa: PLC0415
    from prometheus_client.exposition import choose_encoder  # noqa: PLC0415

    _disk(sheet, daemon)
    _gpus(sheet, gpus())
    encode, content_type = choose_encoder(accept)
    process = ProcessCollector(registry=None).collect()
    return encode(_Collected([*_families(sheet), *process])), content_type


def _disk(sheet: Sheet, daemon: Daemon) -> None:
    path = daemon.ledger.path
    try:
        sheet.put("tollway_ledger_size_bytes", path.stat().st_size)
        found = shutil.disk_usage(path.parent)
    except OSError:
        return  # `tollway_ledger_ok` says it
    sheet.put("tollway_disk_free_bytes", found.free)
    sheet.put("tollway_disk_size_bytes", found.total)


def _gpus(sheet: Sheet, found: Sequence[Gpu]) -> None:
    for one in found:
        labels = (str(one.index), one.name)
        sheet.put("tollway_gpu_memory_used_bytes", one.total - one.free, *labels)
        sheet.put("tollway_gpu_memory_bytes", one.total, *labels)
        sheet.put("tollway_gpu_busy_ratio", None if one.busy is None else one.busy / 100, *labels)
        sheet.put("tollway_gpu_power_watts", one.power_w, *labels)


class _Collected:
    """What an encoder takes for a registry."""

    def __init__(self, families: "Iterable[Metric]") -> None:
        self._families = families

    def collect(self) -> "Iterable[Metric]":
        return self._families


def _families(sheet: Sheet) -> "Iterator[Metric]":
    for spec in SPECS:
        if spec.name.startswith(_OWN):
            yield _family(spec, sheet)


def _family(spec: Spec, sheet: Sheet) -> "Metric":
    from prometheus_client import metrics_core as core  # noqa: PLC0415

    if spec.kind == "histogram":
        times = core.HistogramMetricFamily(spec.name, spec.help, labels=spec.labels)
        for labels, found in sheet.histograms.get(spec.name, ()):
            times.add_metric(labels, _buckets(found), found.total)
        return times
    values = sheet.values.get(spec.name, ())
    if spec.kind == "info":
        info = core.InfoMetricFamily(spec.name, spec.help)
        for labels, _ in values:
            info.add_metric((), dict(zip(spec.labels, labels, strict=True)))
        return info
    kind = core.CounterMetricFamily if spec.kind == "counter" else core.GaugeMetricFamily
    family = kind(spec.name, spec.help, labels=spec.labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family


def _buckets(found: Histogram) -> list[tuple[str, float]]:
    bounds = (*map(str, found.bounds), "+Inf")
    buckets, below = [], 0
    for bound, count in zip(bounds, found.counts, strict=True):
        below += count
        buckets.append((bound, float(below)))
    return buckets
