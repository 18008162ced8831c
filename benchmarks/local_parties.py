"""Who answers when local models are measured: servers over HTTP, all with the same model file.

Each is a process of its own, found by its address and its process id. Those of other projects are
only opponents: they are taken from wherever the person who measures has put them.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from parties import Party

from tollway.daemon.bench_gateway import BenchGateway, end, free_port, wait_for

CONTEXT = 2048  # of each call
_MODEL = """
[models.bench]
gguf = "{model}"
context = {context}
slots = {slots}
kv = "{kv}"
load_at_start = true
price = {{ input = 0.1, output = 0.4 }}
"""
# xllamacpp is llama.cpp's llama-server as a Python package.
_XLLAMACPP = """
import sys, threading
sys.path.insert(0, sys.argv[1])
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_parallel = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
params.n_ctx, params.kv_unified = int(sys.argv[5]), False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[6])
server = xllamacpp.Server(params)
threading.Event().wait()
"""


def threads() -> int:
    """Return how many threads everyone computes with."""
    return len(os.sched_getaffinity(0))


@contextmanager
def _running(
    words: list[str], port: int, folder: Path, ready: str, environment: dict[str, str]
) -> Iterator[Party]:
    log = folder / f"{port}.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder,
            env=os.environ | environment, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(port, ready, child, log)
        yield Party(f"http://127.0.0.1:{port}/v1", child.pid)
    finally:
        end(child)


@contextmanager
def tollway(model: Path, slots: int, folder: Path, kv: str = "split") -> Iterator[Party]:
    """Run the whole gateway: a key, budgets of four levels, the ledger on disk, one local model."""
    gateway = BenchGateway(folder, {"local/bench": ""})
    # Its key may call the model; there is no route of that name, nor an upstream.
    known = gateway.file.read_text().partition("[prices.")[0]
    table = _MODEL.format(model=model.resolve(), context=CONTEXT, slots=slots, kv=kv)
    gateway.file.write_text(known + table)
    gateway.start()
    try:
        yield Party(gateway.url, gateway.pid)
    finally:
        gateway.stop()


@contextmanager
def front(model: Path, slots: int, folder: Path, kv: str = "split") -> Iterator[Party]:
    """Run our worker behind the barest HTTP server."""
    port = free_port()
    script = str(Path(__file__).with_name("front.py"))
    words = [sys.executable, script, str(model.resolve()), str(port), str(slots), str(CONTEXT), kv]
    with _running(words, port, folder, "/health", {}) as party:
        yield party


@contextmanager
def own_server(model: Path, packages: Path | None, folder: Path) -> Iterator[Party]:
    """Run llama-cpp-python's own server, told not to cut off a stream for the next call."""
    port, count = free_port(), str(threads())
    words = [
        sys.executable, "-m", "llama_cpp.server", "--model", str(model.resolve()),
        "--host", "127.0.0.1", "--port", str(port), "--n_ctx", str(CONTEXT),
        "--n_threads", count, "--n_threads_batch", count,
        "--interrupt_requests", "false", "--verbose", "false",
    ]  # fmt: skip
    extra = {"PYTHONPATH": str(packages)} if packages else {}
    with _running(words, port, folder, "/v1/models", extra) as party:
        yield party


@contextmanager
def xllamacpp(model: Path, packages: Path, slots: int, folder: Path) -> Iterator[Party]:
    """Run the llama-server that is inside the package xllamacpp."""
    port = free_port()
    words = [
        sys.executable, "-c", _XLLAMACPP, str(packages.resolve()), str(model.resolve()), str(port),
        str(slots), str(CONTEXT * slots), str(threads()),
    ]  # fmt: skip
    with _running(words, port, folder, "/health", {}) as party:
        yield party


@contextmanager
def llama_server(model: Path, program: str, slots: int, folder: Path) -> Iterator[Party]:
    """Run llama.cpp's own server."""
    port, count = free_port(), str(threads())
    words = [
        program, "-m", str(model.resolve()), "--host", "127.0.0.1", "--port", str(port),
        "-c", str(CONTEXT * slots), "-np", str(slots), "-t", count, "-tb", count, "--no-webui",
    ]  # fmt: skip
    with _running(words, port, folder, "/health", {}) as party:
        yield party
