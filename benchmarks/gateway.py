"""What going through Tollway costs, beside nginx and beside going direct, in one run.

    python benchmarks/gateway.py [--seconds 4] [--rounds 3] [--json FILE]

See README.md for what is measured and how.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import msgspec
import uvloop
from parties import LOAD_CORE, Party, Tollway, bare, nginx

from tollway.daemon.bench import BenchResult, StreamResult, measure, measure_streams
from tollway.daemon.bench_gateway import KEY, pinned, upstream
from tollway.daemon.bench_gateway import machine as described

BODY = (
    '{"model":"bench","messages":[{"role":"system","content":"You keep the gate. Answer in one'
    ' sentence."},{"role":"user","content":"What does it cost to pass? What does it cost to pass?'
    ' "}],"max_tokens":200,"stream":false}'
)
EVENTS, EVENTS_PER_S = 250, 50.0
SLOW_EVENTS, SLOW_EVENTS_PER_S = 16, 2.0


class Row(msgspec.Struct):
    """One line of the table: a figure, what each party had, and what was promised."""

    figure: str
    direct: str = ""
    nginx: str = ""
    bare: str = ""
    tollway: str = ""
    promise: str = ""


def load(url: str, connections: int, seconds: int) -> BenchResult:
    """Return one measurement, by wrk where it is installed, else by our own client.

    Raises:
        SystemExit: Calls failed; a rate of refusals is no rate.
    """
    if wrk := shutil.which("wrk"):
        command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s"]
        command += ["-s", str(Path(__file__).with_name("post.lua")), f"{url}/chat/completions"]
        done = subprocess.run(
            pinned(LOAD_CORE, command),
            env=os.environ | {"BENCH_KEY": KEY, "BENCH_BODY": BODY},
            check=True,
            capture_output=True,
            text=True,
        )
        line = next(each for each in done.stdout.splitlines() if each.startswith("JSON "))
        result = msgspec.json.decode(line[5:], type=BenchResult)
    else:
        result = uvloop.run(measure(url, KEY, seconds=seconds, connections=connections))
    if result.errors:
        raise SystemExit(f"{result.errors} of {result.calls} calls to {url} failed")
    return result


def listen(party: Party, streams: int) -> StreamResult:
    """Return what that many streams at once were like.

    Raises:
        SystemExit: Streams failed.
    """
    result = uvloop.run(measure_streams(party.url, KEY, streams=streams, cpu_s=party.cpu_s))
    if result.errors:
        raise SystemExit(f"{result.errors} of {streams} streams failed: {result.first_error}")
    return result


def check(parties: dict[str, Party]) -> None:
    """Make sure that each party answers before anything is measured.

    Raises:
        SystemExit: One does not; with what it says.
    """
    for name, party in parties.items():
        result = uvloop.run(measure(party.url, KEY, seconds=0.5, connections=1))
        if result.errors:
            raise SystemExit(f"{name}: {result.first_error}")


def calls(parties: dict[str, Party], seconds: int, rounds: int) -> list[Row]:
    """Measure calls a second at 32 connections and latency at one, in interleaved rounds."""
    rates: dict[str, list[float]] = {name: [] for name in parties}
    cpu_us: dict[str, list[float]] = {name: [] for name in parties}
    p50s: dict[str, list[float]] = {name: [] for name in parties}
    p99s: dict[str, list[float]] = {name: [] for name in parties}
    for _ in range(rounds):
        for name, party in parties.items():
            before = party.cpu_s()
            many = load(party.url, 32, seconds)
            cpu_us[name].append(1e6 * (party.cpu_s() - before) / many.calls)
            rates[name].append(many.calls_per_s)
        for name, party in parties.items():
            alone = load(party.url, 1, seconds)
            p50s[name].append(alone.p50_ms)
            p99s[name].append(alone.p99_ms)
    shown = {name: f"{median(found):,.0f}" for name, found in rates.items()}
    rows = [Row("calls/s, 32 connections", **shown)]
    if "nginx" in parties:
        pairs = zip(rates["tollway"], rates["nginx"], strict=True)
        part = f"{median([ours / theirs for ours, theirs in pairs]):.3f}"
        rows.append(
            Row("  as a part of nginx", nginx="1", tollway=part, promise=">= 0.15, aim 0.25")
        )
    rows.append(Row("  CPU per call", **_microseconds(cpu_us)))
    for part, found, promise in (("p50", p50s, "<= 0.25 ms"), ("p99", p99s, "<= 2 ms")):
        added = _added(found, "+.3f")
        rows.append(Row(f"latency at 1 connection, {part}", **added, promise=promise))
    return rows


def _microseconds(found: dict[str, list[float]], places: int = 0) -> dict[str, str]:
    """Return medians as text; nothing for the direct way, which has no process between."""
    ways = {name: median(each) for name, each in found.items() if name != "direct"}
    return {name: f"{each:.{places}f} us" for name, each in ways.items()}


def _added(found: dict[str, list[float]], form: str) -> dict[str, str]:
    """Return the direct median, and what each other one is above it, as milliseconds."""
    base = median(found["direct"])
    added = {name: f"{median(each) - base:{form}} ms" for name, each in found.items()}
    return added | {"direct": f"{base:{form.removeprefix('+')}} ms"}


def streams(parties: dict[str, Party], rounds: int) -> list[Row]:
    """Measure gaps and CPU with 500 streams at once, first tokens with 250."""
    gaps: dict[str, list[float]] = {name: [] for name in parties}
    firsts: dict[str, list[float]] = {name: [] for name in parties}
    cpu_us: dict[str, list[float]] = {name: [] for name in parties}
    ends_us: dict[str, list[float]] = {name: [] for name in parties}
    for _ in range(rounds):
        for name, party in parties.items():
            before = party.cpu_s()
            many = listen(party, 500)
            all_s = party.cpu_s() - before
            gaps[name].append(many.max_gap_ms)
            if not many.steady_events:
                raise SystemExit(f"{name}: a stream ended before the last one began")
            each_s = many.steady_cpu_s / many.steady_events
            cpu_us[name].append(1e6 * each_s)
            ends_us[name].append(1e6 * (all_s - each_s * many.events) / many.streams)
            firsts[name].append(listen(party, 250).first_p99_ms)
    longest = f"<= {3000 / EVENTS_PER_S:.0f} ms"
    shown = {name: f"{median(found):.0f} ms" for name, found in gaps.items()}
    return [
        Row("500 streams of 50 events/s: longest gap", **shown, promise=longest),
        Row("  CPU per relayed event", **_microseconds(cpu_us, 1), promise="<= 15 us"),
        Row("  CPU per stream, beside its events", **_microseconds(ends_us)),
        Row("250 streams: first token, p99", **_added(firsts, "+.2f"), promise="<= 5 ms"),
    ]


async def memory_under_streams(gateway: Tollway, count: int) -> float:
    """Return the most memory, in MB, that the daemon held with so many streams open."""
    task = asyncio.ensure_future(
        measure_streams(gateway.url, KEY, streams=count, within_s=3, model="slow")
    )
    most = 0.0
    while not (await asyncio.wait({task}, timeout=0.1))[0]:
        most = max(most, gateway.memory_mb())
    if (result := task.result()).errors:
        raise SystemExit(f"{result.errors} of {count} streams failed: {result.first_error}")
    return most


def start_and_help(gateway: Tollway, rounds: int) -> list[Row]:
    """Measure how long the daemon takes to be ready, and `tollway --help` to answer."""
    first = gateway.start()
    later = []
    for _ in range(rounds):
        gateway.stop()
        later.append(gateway.start())
    helps = []
    for _ in range(rounds + 2):
        began = time.perf_counter()
        subprocess.run([gateway.program, "--help"], check=True, stdout=subprocess.DEVNULL)
        helps.append(time.perf_counter() - began)
    return [
        Row("first start ever to ready", tollway=f"{first:.2f} s"),
        Row("start to ready", tollway=f"{median(later):.2f} s", promise="<= 1 s"),
        Row("`tollway --help`", tollway=f"{median(helps):.2f} s", promise="<= 0.25 s"),
        Row("memory, idle", tollway=f"{gateway.memory_mb():.0f} MB", promise="<= 80 MB"),
    ]


def machine() -> str:
    """Return when and on what this was measured."""
    by = "wrk" if shutil.which("wrk") else "our client"
    return f"{datetime.now(UTC):%Y-%m-%d}, {described()}, load by {by}"


def show(rows: list[Row]) -> None:
    """Print the table."""
    table = [msgspec.structs.astuple(row) for row in [Row(*Row.__struct_fields__), *rows]]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        cells = [f"{line[0]:<{widths[0]}}"]
        cells += [f"{cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip())


def main() -> None:
    """Measure everything and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement of calls")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the table to this file as well")
    asked = parser.parse_args()
    print(measured_on := machine(), "\n")
    if LOAD_CORE is not None:
        os.sched_setaffinity(0, {LOAD_CORE})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tollway-bench-")))
        quick = stack.enter_context(upstream(EVENTS, EVENTS_PER_S, LOAD_CORE))
        slow = stack.enter_context(upstream(SLOW_EVENTS, SLOW_EVENTS_PER_S, LOAD_CORE))
        proxy = stack.enter_context(nginx(folder, quick))
        gateway = Tollway(folder, quick, slow)
        stack.callback(gateway.stop)
        rows = start_and_help(gateway, asked.rounds)
        least = stack.enter_context(bare(folder, quick))
        found = {"direct": Party(quick)} | ({"nginx": proxy} if proxy else {}) | {"bare": least}
        found["tollway"] = gateway.party
        if proxy is None:
            print("nginx is not installed: no ratio to it\n", file=sys.stderr)
        check(found)
        rows += calls(found, asked.seconds, asked.rounds)
        rows += streams(found, asked.rounds)
        most = uvloop.run(memory_under_streams(gateway, 1000))
        rows.append(
            Row("memory, 1,000 open streams", tollway=f"{most:.0f} MB", promise="<= 200 MB")
        )
        after = gateway.memory_mb()
        rows.append(Row("memory, after all of it", tollway=f"{after:.0f} MB"))
    show(rows)
    if asked.json:
        plain = {"machine": measured_on, "rows": msgspec.to_builtins(rows)}
        asked.json.write_text(json.dumps(plain, indent=2) + "\n")


if __name__ == "__main__":
    main()
