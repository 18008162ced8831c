"""Asks llama.cpp what a model would take, without loading it: nothing is read but its header.

Started as `python -m tollway.providers.llamacpp.probe`, with a `Question` as JSON on standard
input, it answers with an `Answer` on standard output. A process of its own: a build for another
CPU ends it with a signal, and a file that llama.cpp cannot bear may do so too.
"""

import contextlib
import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from tollway.providers.llamacpp.fit import EMBED_TOKENS, Layout, embed_outputs, embed_step
from tollway.providers.llamacpp.install import LLAMA_CPP_PYTHON, installed

if TYPE_CHECKING:
    llama: Any

WITHIN_S = 120.0  # a GPU's driver may take many seconds to start
_FLASH_OFF = 0
_NO_MMAP = 0  # llama.cpp's load mode: a mapped file would be charged to nobody
_KINDS: dict[int, "Kind"] = {0: "cpu", 1: "gpu", 2: "shared"}

Kind = Literal["cpu", "gpu", "shared", "other"]
Fault = Literal["", "missing", "version", "crash", "architecture", "file"]


class Question(msgspec.Struct, frozen=True):
    """A model to be tried; without `path` only what there is to compute with is told."""

    path: str = ""
    context: int = 0  # tokens of each slot
    layout: Layout = Layout()
    gpu_layers: int = 0
    pooling: int | None = None  # llama.cpp's number; None for a model that generates
    whole: bool = True  # a text that is to be embedded must be read in one step


class Device(msgspec.Struct, frozen=True):
    """What this build can compute with; bytes of memory. `shared` has its memory in RAM."""

    name: str
    description: str
    kind: Kind
    free: int
    total: int


class Answer(msgspec.Struct, frozen=True):
    """What llama.cpp would take, in bytes, or why it cannot say; `devices` are there either way.

    `work` is by the name of the buffer's place: "CPU", "CUDA0", "CUDA_Host".
    """

    fault: Fault = ""
    message: str = ""
    cache: int = 0
    work: dict[str, int] = {}
    devices: tuple[Device, ...] = ()


def ask(question: Question, *, within_s: float = WITHIN_S) -> Answer:
    """Return llama.cpp's answer, asked in a process of its own; it takes half a second."""
    if not installed():
        return Answer("missing", "llama-cpp-python is not installed")
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "tollway.providers.llamacpp.probe"],
            input=msgspec.json.encode(question),
            capture_output=True,
            timeout=within_s,
            check=False,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        )
    except subprocess.TimeoutExpired:
        return Answer("crash", f"llama.cpp gave no answer within {within_s:.0f} s")
    if ended.returncode:
        how = f"signal {-ended.returncode}" if ended.returncode < 0 else f"code {ended.returncode}"
        last = ended.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        return Answer("crash", ": ".join([f"llama.cpp ended with {how}", *last]))
    return msgspec.json.decode(ended.stdout, type=Answer)


def answer(question: Question) -> Answer:
    """Return the answer; called in the process that may be lost."""
    try:
        _import_llama()
    except (ImportError, OSError, RuntimeError) as error:
        return Answer("missing", f"llama-cpp-python cannot be imported: {error}")
    if (found := llama.__version__) != LLAMA_CPP_PYTHON:
        return Answer(
            "version",
            f"llama-cpp-python {found} is installed, {LLAMA_CPP_PYTHON} is needed",
        )
    log: list[str] = []

    @llama.llama_log_callback  # type: ignore[untyped-decorator]
    def keep(_level: int, text: bytes, _data: object) -> None:
        log.append(text.decode("utf-8", "replace"))

    llama.llama_log_set(keep, None)
    llama.llama_backend_init()
    devices = _devices()
    if not question.path:
        return Answer(devices=devices)
    fault = _try(question)
    lines = "".join(log).splitlines()
    if fault:
        return _failed(fault, lines, devices)
    return Answer(cache=_cache(lines), work=_work(lines), devices=devices)


def _import_llama() -> None:
    global llama  # noqa: PLW0603 - imported only in this process, and only once it is wanted
    import llama_cpp as llama  # noqa: PLC0415


def _try(question: Question) -> str:
    """Go through a load in which nothing is allocated; return what failed, "" for nothing."""
    params = llama.llama_model_default_params()
    params.no_alloc = True
    params.load_mode = _NO_MMAP
    params.n_gpu_layers = question.gpu_layers
    model = llama.llama_model_load_from_file(question.path.encode(), params)
    if not model:
        return "llama.cpp cannot load the file"
    layout, context = question.layout, llama.llama_context_default_params()
    context.n_ctx = question.context * layout.slots
    context.n_seq_max = layout.slots
    context.kv_unified = layout.kv == "unified"
    context.n_batch = context.n_ubatch = min(layout.chunk, context.n_ctx)
    context.n_outputs_max = layout.slots
    context.type_k = context.type_v = {"f16": 1, "q8_0": 8, "q4_0": 2}[layout.kv_type]
    context.swa_full = layout.whole_windows
    if not layout.flash and question.pooling is None:
        context.flash_attn_type = _FLASH_OFF
    if question.pooling is not None:
        context.pooling_type, context.embeddings = question.pooling, True
        context.n_ctx, context.kv_unified = question.context, True
        step = min(EMBED_TOKENS, question.context)
        if not question.whole:
            step = embed_step(layout.chunk - layout.slots, layout.slots)
        context.n_batch = context.n_ubatch = step
        context.n_outputs_max = step if question.whole else embed_outputs(layout.slots)
    made = llama.llama_init_from_model(model, context)
    if made:
        llama.llama_free(made)
    llama.llama_model_free(model)
    return "" if made else "llama.cpp cannot make a context for it"


def _failed(fault: str, lines: list[str], devices: tuple[Device, ...]) -> Answer:
    for line in lines:
        if found := re.search(r"unknown model architecture: '([^']*)'", line):
            known = f"The llama.cpp of llama-cpp-python {LLAMA_CPP_PYTHON} does not know the"
            return Answer(
                "architecture", f"{known} architecture `{found[1][:64]}`", devices=devices
            )
    said = [line for line in lines if re.search(r"error|failed|fail:", line, re.IGNORECASE)]
    # The innermost reason comes first: "error loading model: missing tensor 'x'".
    reason = re.sub(r"^\S+: (error loading model: )?", "", said[0])[:300] if said else ""
    return Answer("file", f"{fault}: {reason}" if reason else fault, devices=devices)


def _cache(lines: list[str]) -> int:
    """Return the bytes of all caches. Their buffers are said to be empty, for they are."""
    sizes = (
        re.search(r"(?:kv_cache|memory_recurrent)\S*: size = +([\d.]+) MiB", line) for line in lines
    )
    return sum(_mib(found[1]) for found in sizes if found)


def _work(lines: list[str]) -> dict[str, int]:
    work: dict[str, int] = {}
    for line in lines:
        if found := re.search(r"(\S+) +(?:compute|output) buffer size = +([\d.]+) MiB", line):
            work[found[1]] = work.get(found[1], 0) + _mib(found[2])
    return work


def _mib(text: str) -> int:
    return round(float(text) * 2**20)


def _devices() -> tuple[Device, ...]:
    """Return what ggml can use, which only its own functions say: they are not bound."""
    folder = Path(llama.__file__).parent / "lib"
    suffix = "dylib" if sys.platform == "darwin" else "so"
    registry = ctypes.CDLL(str(folder / f"libggml.{suffix}"))
    base = ctypes.CDLL(str(folder / f"libggml-base.{suffix}"))
    registry.ggml_backend_dev_count.restype = ctypes.c_size_t
    registry.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    registry.ggml_backend_dev_get.restype = ctypes.c_void_p
    for name in ("name", "description"):
        function = getattr(base, f"ggml_backend_dev_{name}")
        function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_char_p
    base.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    number = ctypes.POINTER(ctypes.c_size_t)
    base.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, number, number]
    found = []
    for at in range(registry.ggml_backend_dev_count()):
        device = registry.ggml_backend_dev_get(at)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        base.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        found.append(
            Device(
                base.ggml_backend_dev_name(device).decode("utf-8", "replace"),
                base.ggml_backend_dev_description(device).decode("utf-8", "replace"),
                _KINDS.get(base.ggml_backend_dev_type(device), "other"),
                free.value,
                total.value,
            )
        )
    return tuple(found)


def main() -> int:
    """Answer the question on standard input; return the process's exit code."""
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    # What the libraries print must not stand in the answer.
    out = os.dup(1)
    with contextlib.redirect_stdout(sys.stderr):
        os.dup2(2, 1)
        said = msgspec.json.encode(answer(question))
    os.write(out, said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
