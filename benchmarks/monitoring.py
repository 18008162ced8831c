"""What it costs a call that it is counted, logged, scraped and traced.

    python benchmarks/monitoring.py [--seconds 4] [--rounds 5]

One gateway for each way to be watched, all up at once, asked in turn; CPU of its process by the
calls that it answered. "nothing" does not even count, which no setting does: it is there to
compare with. See README.md.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from gateway import load, machine
from parties import LOAD_CORE, Party, Tollway

from tollway.daemon.bench_gateway import upstream
from tollway.daemon.gate.route import Target
from tollway.daemon.ledger.rows import AttemptEnded, Who
from tollway.daemon.log import Log
from tollway.daemon.meter import Facts, Meter
from tollway.daemon.state import Trace
from tollway.providers.canon import Usage
from tollway.providers.catalog import KINDS

# Run before the program: what counts then does nothing.
_BLIND = (
    "import tollway.daemon.meter as meter; no = lambda *_: None;"
    "meter.Meter.call = meter.Meter.attempt = meter.Meter.error = no;"
    "from tollway.cli.app import main; main()"
)
_QUIET = 'log_level = "warning"'


class Watched(Tollway):
    """A gateway with further lines in its file."""

    def __init__(self, folder: Path, url: str, server: str, more: str, *, blind: bool) -> None:
        folder.mkdir()
        super().__init__(folder, url, url)
        text = self.file.read_text().replace("[server]", f"[server]\n{server}", 1)
        self.file.write_text(f"{text}\n{more}\n")
        self._blind = blind

    def command(self) -> list[str]:
        """Return what starts it."""
        usual = super().command()
        return [sys.executable, "-c", _BLIND, *usual[1:]] if self._blind else usual


class Sink(BaseHTTPRequestHandler):
    """An OTLP collector that keeps nothing."""

    def do_POST(self) -> None:
        """Take it."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def cpu_us(party: Party, seconds: int, *, scraped: bool) -> float:
    """Return the CPU of one call in microseconds, while `/metrics` is read once a second or not."""
    over = threading.Event()
    thread = threading.Thread(target=_scrape, args=(party, over))
    if scraped:
        thread.start()
    before = party.cpu_s()
    many = load(party.url, 32, seconds)
    spent = party.cpu_s() - before
    over.set()
    if scraped:
        thread.join()
    return 1e6 * spent / many.calls


def _scrape(party: Party, over: threading.Event) -> None:
    url = party.url.removesuffix("/v1") + "/metrics"
    while not over.wait(1.0):
        urllib.request.urlopen(url).read()  # noqa: S310 - our own gateway


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    print(machine(), "\n")
    if LOAD_CORE is not None:
        os.sched_setaffinity(0, {LOAD_CORE})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tollway-bench-")))
        url = stack.enter_context(upstream(1, 1.0, LOAD_CORE))
        sink = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Sink))
        threading.Thread(target=sink.serve_forever, daemon=True).start()
        stack.callback(sink.shutdown)
        otlp = f'[telemetry]\notlp = "http://127.0.0.1:{sink.server_address[1]}"\nevery = "5s"'
        ways = {
            "nothing": (_QUIET, "", True, False),
            "counted": (_QUIET, "", False, False),
            "counted, scraped each second": (_QUIET, "", False, True),
            "counted, a line of text": ("", "", False, False),
            "counted, a line of JSON": ('log_format = "json"', "", False, False),
            "counted, OTLP traces and metrics": (_QUIET, otlp, False, False),
        }
        parties: dict[str, Party] = {}
        for number, (way, (server, more, blind, _)) in enumerate(ways.items()):
            gateway = Watched(folder / str(number), url, server, more, blind=blind)
            stack.callback(gateway.stop)
            gateway.start()
            parties[way] = gateway.party
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(asked.rounds):
            for way, party in parties.items():
                found[way].append(cpu_us(party, asked.seconds, scraped=ways[way][3]))
        scrapes_ms = _scrapes_ms(parties["counted"])
    alone = alone_us()
    base = found["nothing"]
    print(f"{'CPU of a call':34}{'us':>8}{'more':>10}")
    for way, each in found.items():
        more = median([one - other for one, other in zip(each, base, strict=True)])
        print(f"{way:34}{median(each):8.1f}{more:+10.1f}")
    print(f"\n{'one scrape':34}{scrapes_ms:8.1f} ms")
    print("\nthe same without a gateway around it, CPU of a call with one attempt, us")
    for what, each in alone.items():
        print(f"{what:34}{each:8.1f}")


def alone_us() -> dict[str, float]:
    """Return what counting and writing a line take by themselves, of an ended call's numbers."""
    usage = Usage(input=100, output=100)
    target = Target("up", "bench", KINDS["openai-compatible"])
    ended = AttemptEnded("c", 1, 1_030, "answered", usage, 1_000, first_ms=20)
    attempt = SimpleNamespace(
        target=target, opened=SimpleNamespace(started_ms=1_000), slot=SimpleNamespace(waited_s=0.0)
    )
    exchange = SimpleNamespace(
        attempts=1,
        caller=SimpleNamespace(who=Who("walker", "walker", "road", "")),
        call=SimpleNamespace(endpoint="chat", stream=False),
        cost_nanousd=1_000,
        facts=Facts(),
        origin=SimpleNamespace(client="a client/1.0"),
        plan=SimpleNamespace(found=SimpleNamespace(route="fast")),
        target=target,
        turn=SimpleNamespace(waited_ms=None),
    )
    trace: Any = Trace("01a228cf-5dd8-72ca-8000-000000000000")
    trace.key = trace.user = "walker"
    trace.model, trace.exchange = "fast", exchange
    meter: Any = Meter()

    def counted() -> None:
        exchange.facts = Facts()
        meter.attempt(exchange, attempt, ended)
        exchange.facts.end("answered", "")
        meter.call(exchange)

    found = {"counted": _each_us(counted)}
    for style in ("text", "json"):
        with Path(os.devnull).open("wb") as nowhere:
            log = Log(nowhere.fileno())
            log.install("info", style)  # type: ignore[arg-type]
            line = partial(log.access, "POST", "/v1/chat/completions", 200, 0.03, trace)
            found[f"a line of {style}"] = _each_us(line)
            log.close()
    return found


def _each_us(work: Callable[[], None], times: int = 10_000) -> float:
    rounds = []
    for _ in range(7):
        began = time.thread_time()
        for _ in range(times):
            work()
        rounds.append(1e6 * (time.thread_time() - began) / times)
    return min(rounds)


def _scrapes_ms(party: Party) -> float:
    url = party.url.removesuffix("/v1") + "/metrics"
    took = []
    for _ in range(20):
        began = time.perf_counter()
        urllib.request.urlopen(url).read()  # noqa: S310 - our own gateway
        took.append(1000 * (time.perf_counter() - began))
    return median(took)


if __name__ == "__main__":
    main()
