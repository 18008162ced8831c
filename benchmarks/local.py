"""Many callers at one local model: our worker beside llama-cpp-python's own `Llama`.

    python benchmarks/local.py [MODEL.gguf] [--callers 1,2,4,8,16] [--tokens 32] [--rounds 1]

Both load the same file with as many threads, get the same prompts and make as many tokens, greedy,
in turns within one run. `Llama` holds one sequence and is not to be called twice at once, so its
callers take turns behind a lock, as they do in the server that comes with it. Ratios are what is
worth keeping: machines differ, and so do their other jobs.
"""

import argparse
import asyncio
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from tollway.providers.llamacpp.adapter import Limits, LocalModel, LocalModels

TOPICS = (
    "a lighthouse keeper", "why the sky is blue", "how bread rises", "a shy dragon",
    "the water cycle", "a robot that paints", "how bridges stand", "a market", "why cats purr",
    "the history of paper", "a night train", "how vaccines work", "a garden", "chess", "whales",
    "a clock maker",
)  # fmt: skip
SYSTEM = "You are a careful assistant. Answer at length, in plain words."
LONG = SYSTEM + "".join(
    f" Rule {at}: keep sentences short and prefer numbers over adjectives." for at in range(1, 26)
)
NAME = "bench"


class Measured(msgspec.Struct, frozen=True):
    """One run: tokens a second of all callers, and waits in seconds."""

    tokens_per_s: float
    first_p50: float
    first_max: float
    between_p99: float

    @classmethod
    def of(cls, times: list[list[float]], began: list[float]) -> "Measured":
        """Return what the times of all tokens come to."""
        start, end = min(began), max(stamps[-1] for stamps in times)
        firsts = [stamps[0] - at for stamps, at in zip(times, began, strict=True)]
        gaps = sorted(later - one for stamps in times for one, later in itertools.pairwise(stamps))
        last = gaps[max(0, math.ceil(0.99 * len(gaps)) - 1)] if gaps else 0.0
        return cls(
            sum(map(len, times)) / (end - start), statistics.median(firsts), max(firsts), last
        )


def messages(at: int, system: str) -> list[dict[str, str]]:
    """Return a conversation of its own for each caller."""
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": f"Write about {TOPICS[at % 16]} ({at})."},
    ]


async def ours(path: Path, callers: int, tokens: int, system: str) -> Measured:
    """Return how our worker does, with a slot for each caller."""
    with tempfile.TemporaryDirectory() as folder:
        local = LocalModels(log_folder=Path(folder), limits=Limits(sweep_s=3600))
        try:
            await local.configure({NAME: LocalModel(NAME, path, 2048, 0, 900.0, slots=callers)})
            await local.load(NAME)

            async def call(at: int) -> tuple[float, list[float]]:
                began, stamps = time.perf_counter(), []
                body = {
                    "model": NAME, "messages": messages(at, system), "temperature": 0,
                    "max_tokens": tokens, "stream": True,
                }  # fmt: skip
                answer = await local.send(NAME, "chat", json.dumps(body).encode())
                async for chunk in answer.chunks():
                    stamps += [time.perf_counter()] * chunk.count(b'"content":"') or []
                await answer.close()
                return began, stamps[1:] or stamps  # the first event has the role and no text

            found = await asyncio.gather(*map(call, range(callers)))
        finally:
            await local.close()
    return Measured.of([stamps for _, stamps in found], [began for began, _ in found])


def theirs(path: Path, callers: int, tokens: int, system: str) -> Measured:
    """Return how `llama_cpp.Llama` behind a lock does; run in a process of its own."""
    import llama_cpp  # noqa: PLC0415

    threads = len(os.sched_getaffinity(0))
    llama: Any = llama_cpp.Llama(
        str(path), n_ctx=2048, n_threads=threads, n_threads_batch=threads, n_gpu_layers=0,
        verbose=False,
    )  # fmt: skip
    turn = threading.Lock()

    def call(at: int) -> tuple[float, list[float]]:
        began, stamps = time.perf_counter(), []
        with turn:
            for chunk in llama.create_chat_completion(
                messages(at, system), temperature=0, max_tokens=tokens, stream=True
            ):
                if chunk["choices"][0]["delta"].get("content"):
                    stamps.append(time.perf_counter())
        return began, stamps

    with ThreadPoolExecutor(callers) as pool:
        found = list(pool.map(call, range(callers)))
    return Measured.of([stamps for _, stamps in found], [began for began, _ in found])


def _theirs_apart(path: Path, callers: int, tokens: int, system: str) -> Measured:
    done = subprocess.run(
        [sys.executable, __file__, str(path), "--callers", str(callers), "--tokens", str(tokens),
         "--theirs", "long" if system == LONG else "short"],
        check=True, capture_output=True,
    )  # fmt: skip
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Measured)


def main() -> None:
    """Print a line for each number of callers and kind of prompt."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("--callers", default="1,2,4,8,16")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--prompts", choices=["short", "long", "both"], default="both")
    parser.add_argument("--theirs", choices=["short", "long"], help=argparse.SUPPRESS)
    said = parser.parse_args()
    numbers = [int(one) for one in said.callers.split(",")]
    systems = {"short": SYSTEM, "long": LONG}
    if said.theirs:
        found = theirs(said.model, numbers[0], said.tokens, systems[said.theirs])
        print(msgspec.json.encode(found).decode())
        return
    print(f"{os.cpu_count()} CPUs, {said.tokens} tokens a call, {said.model.name}")
    # The same for both: on a busy machine it decides more than all else.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    print("prompts callers  who    tokens/s  first p50    max  between p99  ratio")
    for prompts in ("short", "long") if said.prompts == "both" else (said.prompts,):
        for callers in numbers:
            rounds = [
                (
                    asyncio.run(ours(said.model, callers, said.tokens, systems[prompts])),
                    _theirs_apart(said.model, callers, said.tokens, systems[prompts]),
                )
                for _ in range(said.rounds)
            ]
            mine, other = (
                max((pair[who] for pair in rounds), key=lambda one: one.tokens_per_s)
                for who in (0, 1)
            )
            for name, one in (("ours", mine), ("Llama", other)):
                ratio = mine.tokens_per_s / other.tokens_per_s if name == "ours" else 1.0
                print(
                    f"{prompts:7} {callers:7}  {name:5} {one.tokens_per_s:9.1f}"
                    f" {one.first_p50:9.2f} {one.first_max:7.2f}"
                    f" {one.between_p99:12.3f} {ratio:6.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
