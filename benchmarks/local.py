"""Many callers at one local model: Tollway beside the servers that people use instead.

    python benchmarks/local.py MODEL.gguf [--callers 1,2,4,8,16] [--tokens 32] [--rounds 3]
        [--server-packages DIR] [--xllamacpp DIR] [--llama-server PROGRAM]

All have the same file, as many threads, the same prompts and as many tokens to make, greedy, and
take turns within each round. Ratios are within a round, and what is worth keeping: machines
differ, and so do their other jobs. README.md says how to get the opponents.
"""

import argparse
import asyncio
import itertools
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import local_parties
import msgspec
from local_parties import CONTEXT
from parties import Party

from tollway.daemon.bench_gateway import KEY, machine
from tollway.providers.llamacpp.adapter import Limits, LocalModel, LocalModels

TOPICS = (
    "a lighthouse keeper", "why the sky is blue", "how bread rises", "a shy dragon",
    "the water cycle", "a robot that paints", "how bridges stand", "a market", "why cats purr",
    "the history of paper", "a night train", "how vaccines work", "a garden", "chess", "whales",
    "a clock maker",
)  # fmt: skip
SYSTEM = "You are a careful assistant. Answer at length, in plain words."
RULES = "".join(
    f" Rule {at}: keep sentences short and prefer numbers over adjectives." for at in range(1, 26)
)
STREAMS = 4  # that run when the long prompt comes
BASE = "llama-cpp-python"

Stamps = list[float]
Ask = Callable[[list[dict[str, str]], int, Stamps], Coroutine[Any, Any, None]]


class Measured(msgspec.Struct, frozen=True):
    """One run: tokens a second of all callers, waits in seconds, tokens a second of CPU time."""

    tokens_per_s: float
    first_p50: float
    first_max: float
    between_p99: float
    per_cpu_s: float = 0.0


def measured(began: Stamps, times: list[Stamps], cpu_s: float) -> Measured:
    """Return what the times of all tokens come to.

    Raises:
        SystemExit: A call brought no token; a rate of refusals is no rate.
    """
    if not all(times):
        raise SystemExit("a call brought no token")
    made = sum(map(len, times))
    firsts = [stamps[0] - at for stamps, at in zip(times, began, strict=True)]
    passed = max(stamps[-1] for stamps in times) - min(began)
    return Measured(
        made / passed,
        statistics.median(firsts),
        max(firsts),
        p99(gap for stamps in times for gap in gaps(stamps)),
        made / cpu_s if cpu_s else 0.0,
    )


def gaps(stamps: Stamps) -> Stamps:
    """Return the times between tokens."""
    return [later - one for one, later in itertools.pairwise(stamps)]


def p99(found: Iterable[float]) -> float:
    """Return the 99th percentile, 0 of nothing."""
    ordered = sorted(found)
    return ordered[max(0, math.ceil(0.99 * len(ordered)) - 1)] if ordered else 0.0


def messages(at: int, seed: str, *, long: bool = False) -> list[dict[str, str]]:
    """Return a conversation of its own for each caller; `seed` makes it new to every cache."""
    return [
        {"role": "system", "content": f"Session {seed}. {SYSTEM}{RULES if long else ''}"},
        {"role": "user", "content": f"Write about {TOPICS[at % 16]} ({at})."},
    ]


class Http:
    """A party that is asked over HTTP."""

    def __init__(self, party: Party) -> None:
        self.party = party

    async def run(self, work: "Work", seed: str) -> Measured:
        """Return what some work measures, with the CPU that the party used."""
        before = self.party.cpu_s()
        limit = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=limit) as session:

            async def ask(said: list[dict[str, str]], tokens: int, stamps: Stamps) -> None:
                body = {
                    "model": "local/bench", "messages": said, "temperature": 0,
                    "max_tokens": tokens, "stream": True,
                }  # fmt: skip
                head = {"authorization": f"Bearer {KEY}"}
                url = f"{self.party.url}/chat/completions"
                async with session.post(url, json=body, headers=head) as answer:
                    async for line in answer.content:
                        if line.startswith(b"data: {") and _has_text(line[6:]):
                            stamps.append(time.perf_counter())

            found = await work(ask, seed)
        cpu_s = self.party.cpu_s() - before
        return msgspec.structs.replace(found, per_cpu_s=found.per_cpu_s / cpu_s if cpu_s else 0.0)


class Worker:
    """Our worker without the gateway: its adapter runs in this process."""

    def __init__(self, model: Path, slots: int) -> None:
        self._model = LocalModel("bench", model, CONTEXT, 0, 900.0, slots=slots)

    async def run(self, work: "Work", seed: str) -> Measured:
        """Return what some work measures; the load is no part of it."""
        with tempfile.TemporaryDirectory() as folder:
            local = LocalModels(log_folder=Path(folder), limits=Limits(sweep_s=3600))
            try:
                await local.configure({"bench": self._model})
                await local.load("bench")
                party = Party("", local.states()[0].pid)
                before = party.cpu_s()

                async def ask(said: list[dict[str, str]], tokens: int, stamps: Stamps) -> None:
                    body = {
                        "model": "bench", "messages": said, "temperature": 0,
                        "max_tokens": tokens, "stream": True,
                    }  # fmt: skip
                    answer = await local.send("bench", "chat", json.dumps(body).encode())
                    async for chunk in answer.chunks():
                        for event in chunk.split(b"\n\n"):
                            if event.startswith(b"data: {") and _has_text(event[6:]):
                                stamps.append(time.perf_counter())
                    await answer.close()

                found = await work(ask, seed)
                cpu_s = party.cpu_s() - before
            finally:
                await local.close()
        return msgspec.structs.replace(found, per_cpu_s=found.per_cpu_s / cpu_s if cpu_s else 0.0)


def _has_text(event: bytes) -> bool:
    choices = msgspec.json.decode(event).get("choices") or [{}]
    return bool(choices[0].get("delta", {}).get("content"))


async def at_once(
    ask: Ask, callers: int, tokens: int, seed: str, *, long: bool = False, calls: int = 0
) -> Measured:
    """Have so many callers at once ask, until `calls` (one each) are answered."""
    numbers = iter(range(calls or callers))
    began: Stamps = []
    times: list[Stamps] = []

    async def caller() -> None:
        for at in numbers:
            stamps: Stamps = []
            began.append(time.perf_counter())
            times.append(stamps)
            await ask(messages(at, seed, long=long), tokens, stamps)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return measured(began, times, 1.0)


async def long_among_streams(ask: Ask, tokens: int, seed: str) -> Measured:
    """Have a prompt of most of the context come while streams run.

    The times between tokens are the streams', from when it comes to its first token; the first
    token is its own.
    """
    times: list[Stamps] = [[] for _ in range(STREAMS)]
    streams = [
        asyncio.create_task(ask(messages(at, f"{seed}-{at}"), 3 * tokens, stamps))
        for at, stamps in enumerate(times)
    ]
    while any(
        len(stamps) < 4 and not one.done() for stamps, one in zip(times, streams, strict=True)
    ):
        await asyncio.wait(streams, timeout=0.005, return_when=asyncio.FIRST_COMPLETED)
    own: Stamps = []
    came = time.perf_counter()
    await ask([{"role": "user", "content": f"{seed} " + RULES * 2 + " Repeat rule 1."}], 8, own)
    await asyncio.gather(*streams)
    first = own[0]
    stalls = [
        gap
        for stamps in times
        for gap, at in zip(gaps(stamps), stamps[1:], strict=True)
        if came <= at and at - gap <= first
    ]
    found = measured([came] * len(times), [[came, *stamps] for stamps in times], 1.0)
    wait = first - came
    return msgspec.structs.replace(found, first_p50=wait, first_max=wait, between_p99=p99(stalls))


class Work(msgspec.Struct, frozen=True):
    """What is done by everyone in turn."""

    kind: str
    callers: int
    tokens: int
    each: int = 2  # calls of a caller, one after the other

    async def __call__(self, ask: Ask, seed: str) -> Measured:
        """Return how it went; `seed` makes the prompts new to every cache."""
        if self.kind == "long":
            return await long_among_streams(ask, self.tokens, seed)
        calls = 16 if self.kind == "burst" else max(4, self.each * self.callers)
        burst = self.kind == "burst"
        return await at_once(ask, self.callers, self.tokens, seed, long=burst, calls=calls)


def _works(said: argparse.Namespace) -> list[Work]:
    kinds = said.kinds.split(",")
    levels = {
        "short": [int(one) for one in said.callers.split(",")],
        "burst": [8],
        "long": [STREAMS + 1],
    }
    return [Work(kind, count, said.tokens, said.each) for kind in kinds for count in levels[kind]]


def _show(work: Work, found: dict[str, list[Measured]]) -> None:
    for name, rounds in found.items():
        middle = [
            statistics.median(getattr(one, field) for one in rounds)
            for field in Measured.__struct_fields__
        ]
        # While a long prompt is read, who serves one call after the other looks quick.
        ratios = [
            one.tokens_per_s / base.tokens_per_s
            for one, base in zip(rounds, found.get(BASE, []), strict=False)
            if work.kind != "long"
        ]
        spread = (
            f"{statistics.median(ratios):6.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            if ratios
            else ""
        )
        print(
            f"{work.kind:6} {work.callers:7}  {name:17} {middle[0]:8.1f} {middle[1]:9.3f}"
            f" {middle[2]:7.2f} {middle[3]:11.3f} {middle[4]:12.1f}  {spread}".rstrip(),
            flush=True,
        )


def _parties(said: argparse.Namespace, slots: int, stack: ExitStack) -> dict[str, Http | Worker]:
    def folder() -> Path:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tollway-local-")))

    model: Path = said.model
    found: dict[str, Http | Worker] = {}

    def join(name: str, party: Any) -> None:
        found[name] = Http(stack.enter_context(party))

    join("Tollway", local_parties.tollway(model, slots, folder()))
    if said.unified:
        join("Tollway, unified", local_parties.tollway(model, slots, folder(), "unified"))
    if said.worker:
        found["our worker"] = Worker(model, slots)
    if said.front:
        join("worker, HTTP", local_parties.front(model, slots, folder()))
        if said.unified:
            join("HTTP, unified", local_parties.front(model, slots, folder(), "unified"))
    if not said.alone:
        join(BASE, local_parties.own_server(model, said.server_packages, folder()))
    if said.xllamacpp:
        join("xllamacpp", local_parties.xllamacpp(model, said.xllamacpp, slots, folder()))
    if said.llama_server:
        join("llama-server", local_parties.llama_server(model, said.llama_server, slots, folder()))
    return found


def main() -> None:
    """Print a line for each kind of prompts, number of callers, and party."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="a GGUF file; on a CPU, quantised as Q4_0")
    parser.add_argument("--callers", default="1,2,4,8,16")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--each", type=int, default=2, help="short calls of each caller")
    parser.add_argument("--kinds", default="short,burst,long")
    parser.add_argument("--worker", action="store_true", help="also our worker without the gateway")
    parser.add_argument("--front", action="store_true", help="also that behind bare HTTP")
    parser.add_argument("--unified", action="store_true", help='also Tollway with kv = "unified"')
    parser.add_argument("--alone", action="store_true", help="without llama-cpp-python's server")
    parser.add_argument("--server-packages", type=Path, help="a folder with its server's packages")
    parser.add_argument("--xllamacpp", type=Path, help="a folder with the package xllamacpp")
    parser.add_argument("--llama-server", help="the program llama-server")
    said = parser.parse_args()
    works = _works(said)
    slots = max(STREAMS + 1, *(work.callers for work in works))
    # The same for all: on a busy machine it decides more than all else.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    print(f"{machine()}\n{said.model.name}, {said.tokens} tokens a call, {said.rounds} rounds")
    print("kind   callers  who               tokens/s first p50     max between p99 tokens/CPU-s")
    with ExitStack() as stack:
        parties = _parties(said, slots, stack)
        for party in parties.values():  # models are loaded, and memory is touched
            asyncio.run(party.run(Work("short", 1, 2), "first"))
        for work in works:
            found: dict[str, list[Measured]] = {name: [] for name in parties}
            for number in range(said.rounds):
                for name, party in parties.items():
                    seed = f"{work.kind}{work.callers}-{number}-{os.getpid()}"
                    found[name].append(asyncio.run(party.run(work, seed)))
            _show(work, found)


if __name__ == "__main__":
    main()
