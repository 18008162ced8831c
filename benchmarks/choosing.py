"""What choosing a target costs a call: microseconds of CPU, by what its route has.

    python benchmarks/choosing.py [ROUNDS]

No socket and no upstream: the plan of a name is looked up and its targets are ordered, as for each
call. What stands in the first line is what every call pays whose route has one target.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

import msgspec

from tollway.daemon.config.load import load
from tollway.daemon.gate.course import Course
from tollway.daemon.gate.origin import Origin
from tollway.daemon.gate.send import Exchange
from tollway.daemon.log import Log
from tollway.daemon.server import Server
from tollway.providers.dialects.openai_chat import DIALECT

_CONFIG = """[server]
listen = "127.0.0.1:0"
single_user = true
watch = false
budget = [{ usd = 1000, per = "day", at = "warn" }]
[ledger]
path = "LEDGER"
[providers.a]
kind = "vllm"
base_url = "http://127.0.0.1:9/v1"
[prices."a/*"]
input = 1
output = 2
[routes.one]
to = ["a/m"]
[routes.order]
to = ["a/m", "a/n"]
[routes.plain]
to = ["a/m", "a/n"]
affinity = false
[routes.weighted]
to = ["a/m", "a/n", "a/o"]
strategy = "weighted"
[routes.fastest]
to = ["a/m", "a/n", "a/o"]
strategy = "fastest"
[routes.cheapest]
to = ["a/m", "a/n", "a/o"]
strategy = "cheapest"
[routes.least-busy]
to = ["a/m", "a/n", "a/o"]
strategy = "least-busy"
[routes.cases]
to = ["a/m", "a/n"]
when = [
    { header.x-tier = "batch", to = ["a/x"] },
    { tag.env = "ci", to = ["a/x"] },
    { stream = true, to = ["a/x"] },
    { between = ["00:00", "00:01"], to = ["a/x"] },
    { budget_over = 0.9, to = ["a/x"] },
]
[routes.size]
to = ["a/m", "a/n"]
when = [{ input_over = 1_000_000, to = ["a/x"] }]
"""
_TURNS = 20


class _Call:
    """What `Course` asks of an exchange."""

    def __init__(self, server: Server, route: str, size: int, session: str) -> None:
        self.daemon = server.daemon
        self.gate = server.daemon.gate
        self.caller = self.gate.keyring.owner
        turns = [
            {"role": ("user", "assistant")[at % 2], "content": "word " * (size // 5 // _TURNS)}
            for at in range(_TURNS)
        ]
        body = msgspec.json.encode({"model": route, "messages": turns, "max_tokens": 100})
        self.call = DIALECT.peek("chat", body)
        sent = (("user-agent", "x"), ("accept", "*/*"), ("x-stainless-lang", "python"))
        headers = (*sent, ("session_id", session)) if session else sent
        self.origin = Origin("id", "x", headers, report_cost=False)
        self.at_ms = self.gate.daemon.books.now_ms()


def _measure(server: Server, route: str, rounds: int, size: int = 2000, session: str = "") -> float:
    """Return microseconds of CPU for each call."""
    call = _Call(server, route, size, session)
    exchange = cast(Exchange, call)
    Course(exchange, call.gate.plan(call.caller, route))
    began = time.process_time()
    for _ in range(rounds):
        Course(exchange, call.gate.plan(call.caller, route))
    return 1e6 * (time.process_time() - began) / rounds


def _written(folder: str) -> Path:
    path = Path(folder, "gateway.toml")
    path.write_text(_CONFIG.replace("LEDGER", f"{folder}/ledger.db"))
    path.chmod(0o600)
    return path


async def _run(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(load(_written(folder)), Log())
        await server.start()
        try:
            for name in "mno":
                server.daemon.traffic.began(f"a/{name}")
                server.daemon.traffic.ended(f"a/{name}", 0.1, 1.0, 100)
            rows = [("one target", _measure(server, "one", rounds))]
            rows += [("two in order, no affinity", _measure(server, "plain", rounds))]
            rows += [("two in order", _measure(server, "order", rounds))]
            server.daemon.affinity.stray("order")
            rows += [("two in order, one has strayed", _measure(server, "order", rounds))]
            named = _measure(server, "order", rounds, session="s")
            rows += [("the same, session named", named)]
            rows += [
                ("the same, 400 kB, no name", _measure(server, "order", rounds // 20, 400_000))
            ]
            for strategy in ("weighted", "fastest", "least-busy", "cheapest"):
                rows += [(f"three, {strategy}", _measure(server, strategy, rounds, session="s"))]
            rows += [("five cases, none takes it", _measure(server, "cases", rounds, session="s"))]
            for size in (2_000, 20_000, 400_000):
                few = max(20, rounds * 2_000 // size)
                took = _measure(server, "size", few, size, "s")
                rows += [(f"a case by size, {size // 1000} kB", took)]
            for name, took in rows:
                print(f"{name:32} {took:8.2f} µs")
        finally:
            await server.close()


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))
