"""`bench`: what going through the gateway costs on this machine, beside going direct."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import msgspec
import typer
import uvloop

from tollway.cli import show
from tollway.cli.options import AsJson
from tollway.daemon.bench import BenchResult, StreamResult, measure, measure_streams
from tollway.daemon.bench_gateway import KEY, BenchGateway, cores, machine, upstream
from tollway.daemon.ledger.spend import totals
from tollway.providers.errors import GatewayError

_EVENTS, _EVENTS_PER_S = 100, 50.0
_STREAM_S = _EVENTS / _EVENTS_PER_S + 1.0  # they begin within a second
_AROUND_S = 4.0  # starting and stopping
_UNCOUNTED_S = 0.4  # before a measurement of calls, and around it

Seconds = Annotated[float, typer.Option(min=0.1, max=600, help="Of each measurement of calls.")]
Connections = Annotated[int, typer.Option(min=2, max=1000, help="At once, beside one alone.")]
Streams = Annotated[int, typer.Option(min=1, max=5000, help="Open at once.")]


class Party(msgspec.Struct, frozen=True):
    """What one way of calling gave: alone, on many connections, and streaming."""

    one: BenchResult
    many: BenchResult
    streams: StreamResult


class Bench(msgspec.Struct, frozen=True):
    """What `--json` prints. `ledger_calls` is how many calls the gateway's ledger billed."""

    machine: str
    seconds: float
    connections: int
    direct: Party
    tollway: Party
    direct_calls_per_s: float
    tollway_calls_per_s: float
    added_p50_ms: float
    added_p99_ms: float
    start_s: float
    ledger_calls: int
    took_s: float


def bench(
    seconds: Seconds = 3.0,
    connections: Connections = 32,
    streams: Streams = 100,
    as_json: AsJson = False,
) -> None:
    """Measure what the gateway adds to a call on this machine.

    Starts an upstream and a gateway of its own in a temporary folder, with a key, a group,
    routes, four budgets and a ledger, and calls the one direct and through the other. Touches
    nothing of yours, calls no provider, and leaves nothing behind.

    Example:
        tollway bench --seconds 1 --connections 8
    """
    about = 4 * (seconds + _UNCOUNTED_S) + 2 * _STREAM_S + _AROUND_S
    described = machine()
    show.note(f"{described}\nThis takes about {show.duration(about)}")
    found = _measured(described, seconds, connections, streams)
    if as_json:
        show.emit(found)
    else:
        _tell(found)


def _measured(described: str, seconds: float, connections: int, streams: int) -> Bench:
    began = time.monotonic()
    load, other = cores() or (None, None)
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="tollway-bench-")
        folder = Path(stack.enter_context(temporary))
        direct = stack.enter_context(upstream(_EVENTS, _EVENTS_PER_S, load))
        gateway = BenchGateway(folder, {"bench": direct}, core=other)
        stack.callback(gateway.stop)
        with show.waiting("Starting a gateway"):
            start_s = gateway.start()
        if load is not None:
            stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
            os.sched_setaffinity(0, {load})
        parties = _parties(
            {"direct": direct, "through": gateway.url}, seconds, connections, streams
        )
        gateway.stop()  # so that all of it is in the ledger
        calls = totals(gateway.ledger, since_ms=0, until_ms=2**53).calls
    one, other_one = parties["direct"].one, parties["through"].one
    return Bench(
        machine=described,
        seconds=seconds,
        connections=connections,
        direct=parties["direct"],
        tollway=parties["through"],
        direct_calls_per_s=round(parties["direct"].many.calls_per_s, 1),
        tollway_calls_per_s=round(parties["through"].many.calls_per_s, 1),
        added_p50_ms=round(other_one.p50_ms - one.p50_ms, 4),
        added_p99_ms=round(other_one.p99_ms - one.p99_ms, 4),
        start_s=round(start_s, 3),
        ledger_calls=calls,
        took_s=round(time.monotonic() - began, 1),
    )


def _parties(
    urls: dict[str, str], seconds: float, connections: int, streams: int
) -> dict[str, Party]:
    """Measure each in turn, so that a busy machine hurts both alike."""
    ones, manies, streamed = {}, {}, {}
    for name, url in urls.items():
        with show.waiting(f"Calls {name}, one after the other"):
            ones[name] = _calls(url, seconds, 1)
    for name, url in urls.items():
        with show.waiting(f"Calls {name}, on {show.counted(connections, 'connection')}"):
            manies[name] = _calls(url, seconds, connections)
    for name, url in urls.items():
        with show.waiting(f"{show.counted(streams, 'stream')} {name}"):
            streamed[name] = _streams(url, streams)
    return {name: Party(ones[name], manies[name], streamed[name]) for name in urls}


def _calls(url: str, seconds: float, connections: int) -> BenchResult:
    found = uvloop.run(measure(url, KEY, seconds=seconds, connections=connections))
    if found.errors or not found.calls:
        # A rate of refusals is no rate.
        of = show.counted(connections, "connection")
        raise GatewayError(f"{found.errors} of {of} failed: {found.first_error}")
    return found


def _streams(url: str, streams: int) -> StreamResult:
    found = uvloop.run(measure_streams(url, KEY, streams=streams))
    if found.errors:
        raise GatewayError(
            f"{found.errors} of {show.counted(streams, 'stream')} failed: {found.first_error}"
        )
    return found


def _tell(found: Bench) -> None:
    titles = ("", "direct", "tollway", "difference")
    show.table([show.Column(title, number=bool(title)) for title in titles], _rows(found))
    show.note(
        f"The gateway was ready after {found.start_s:.2f} s; its ledger billed"
        f" {show.counted(found.ledger_calls, 'call')}; all of it took {show.duration(found.took_s)}"
    )


def _rows(found: Bench) -> Iterator[tuple[str, str, str, str]]:
    direct, through = found.direct, found.tollway
    for name, one, other in (
        ("1 connection", direct.one, through.one),
        (show.counted(found.connections, "connection"), direct.many, through.many),
    ):
        yield (
            f"calls/s, {name}",
            f"{one.calls_per_s:,.0f}",
            f"{other.calls_per_s:,.0f}",
            f"{other.calls_per_s / one.calls_per_s:.2f}x",
        )
        yield _added(f"p50, {name}", one.p50_ms, other.p50_ms)
        yield _added(f"p99, {name}", one.p99_ms, other.p99_ms)
    first, second = direct.streams, through.streams
    name = show.counted(first.streams, "stream")
    yield _added(f"first event p50, {name}", first.first_p50_ms, second.first_p50_ms)
    yield _added(f"first event p99, {name}", first.first_p99_ms, second.first_p99_ms)
    yield _added(f"longest silence, {name}", first.max_gap_ms, second.max_gap_ms)


def _added(figure: str, direct_ms: float, through_ms: float) -> tuple[str, str, str, str]:
    return (
        figure,
        f"{direct_ms:.3f} ms",
        f"{through_ms:.3f} ms",
        f"{through_ms - direct_ms:+.3f} ms",
    )
