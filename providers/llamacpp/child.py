"""The worker process: one model, one link to the daemon, and its end when the link ends.

Started as `python -m tollway.providers.llamacpp.child FD PARENT`, where FD is its end of a
socket pair and PARENT the daemon's process id. The only file that imports llama_cpp, whose
faults (segmentation faults and aborts among them) so never reach the daemon.
"""

import contextlib
import ctypes
import math
import os
import queue
import resource
import signal
import socket
import sys
import threading
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tollway.providers.llamacpp.engine import Engine, NativeFailed
from tollway.providers.llamacpp.fit import layers_that_fit
from tollway.providers.llamacpp.frames import (
    Cancel,
    Count,
    Down,
    Drain,
    FrameError,
    Load,
    LoadFailed,
    Progress,
    Quit,
    Ready,
    Sampling,
    Submit,
    Up,
    frame_length,
    pack,
    read_down,
)
from tollway.providers.llamacpp.template import CHATML, ChatTemplate

if TYPE_CHECKING:
    llama: Any

PR_SET_PDEATHSIG = 1
# Tokens read in a step. It bounds how long a cancelled call still computes: about 0.3 s on two
# slow cores with a small model. A GPU reads the larger number in less time.
CHUNK_CPU, CHUNK_GPU = 128, 512
EMBED_TOKENS = 2048  # an embedding's text is read in one step, whose buffers grow with it
GPU_DEVICES = {1, 2}  # ggml's numbers for GPUs with memory of their own, and without


class CannotLoad(Exception):
    """The model cannot be loaded."""

    def __init__(self, failed: LoadFailed) -> None:
        super().__init__(failed.message)
        self.failed = failed


class Link:
    """The socket to the daemon: frames in through a thread, frames out from the main one."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self.inbox: queue.SimpleQueue[Down] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="link", daemon=True).start()

    def send(self, messages: list[Up]) -> None:
        """Send one frame; end the process if nobody is there to read it."""
        if messages:
            try:
                self._link.sendall(pack(messages))
            except OSError:
                os._exit(0)  # the daemon is gone, and whatever we computed was for it

    def _read(self) -> None:
        try:
            while True:
                length = frame_length(self._exactly(4))
                for message in read_down(self._exactly(length)):
                    self.inbox.put(message)
        except (EOFError, OSError):
            # Not sys.exit: the main thread may be deep inside llama.cpp for seconds to come.
            os._exit(0)
        except FrameError as fault:
            print(f"unreadable frame: {fault}", file=sys.stderr, flush=True)
            os._exit(2)

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self._link.recv(min(count - len(data), 1 << 20))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)


class Chain:
    """A chain of llama.cpp's samplers."""

    def __init__(self, context: Any, vocabulary: int, sampling: Sampling, seed: int | None) -> None:
        self._context = context
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        if not self._chain:
            raise NativeFailed("llama.cpp made no sampler")
        if sampling.bias:
            biases = (llama.llama_logit_bias * len(sampling.bias))(
                *[llama.llama_logit_bias(token, bias) for token, bias in sampling.bias.items()]
            )
            self._add(llama.llama_sampler_init_logit_bias(vocabulary, len(biases), biases))
        penalties = (sampling.repeat, sampling.frequency, sampling.presence)
        if penalties != (1.0, 0.0, 0.0) and sampling.repeat_last:
            self._add(
                llama.llama_sampler_init_penalties(vocabulary, sampling.repeat_last, *penalties)
            )
        if sampling.temperature <= 0:
            self._add(llama.llama_sampler_init_greedy())
            return
        if sampling.top_k:
            self._add(llama.llama_sampler_init_top_k(sampling.top_k))
        self._add(llama.llama_sampler_init_top_p(sampling.top_p, 1))
        self._add(llama.llama_sampler_init_min_p(sampling.min_p, 1))
        self._add(llama.llama_sampler_init_temp(sampling.temperature))
        chosen = int.from_bytes(os.urandom(4), "little") if seed is None else seed
        self._add(llama.llama_sampler_init_dist(chosen % 2**32))

    def _add(self, sampler: Any) -> None:
        if not sampler:  # adding NULL would end the process at the next token
            self.free()
            raise NativeFailed("llama.cpp made no sampler")
        llama.llama_sampler_chain_add(self._chain, sampler)

    def sample(self) -> int:
        """See `engine.Chain`."""
        return int(llama.llama_sampler_sample(self._chain, self._context, -1))

    def accept(self, token: int) -> None:
        """See `engine.Chain`."""
        llama.llama_sampler_accept(self._chain, token)

    def free(self) -> None:
        """See `engine.Chain`."""
        if self._chain:
            llama.llama_sampler_free(self._chain)
            self._chain = None


class LlamaCpp:
    """The engine's `Native`: llama.cpp's functions with their preconditions checked."""

    def __init__(self, load: Load, link: Link) -> None:
        self.gpu_layers = _gpu_layers(load)
        self.embeds = load.pooling is not None
        self._model = _load_model(load, self.gpu_layers, link)
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.vocabulary = int(llama.llama_vocab_n_tokens(self._vocab))
        self.width = int(llama.llama_model_n_embd_out(self._model))
        self._context = self._make_context(load)
        if not self._context:
            raise CannotLoad(LoadFailed("memory", "There is no memory for the model's context"))
        self._memory = llama.llama_get_memory(self._context)
        # llama.cpp rounds up; more than was asked for would not be what we say we have.
        self.context = min(load.context, int(llama.llama_n_ctx_seq(self._context)))
        self.chunk = min(int(llama.llama_n_batch(self._context)), self.context)
        self._batch = llama.llama_batch_init(self.chunk, 0, 1)
        self._pieces: dict[int, bytes] = {}

    def _make_context(self, load: Load) -> Any:
        params = llama.llama_context_default_params()
        chunk = CHUNK_GPU if self.gpu_layers else CHUNK_CPU
        if self.embeds:
            chunk = min(load.context, EMBED_TOKENS)
            params.pooling_type = load.pooling
            params.embeddings = True
        params.n_ctx = load.context
        params.n_batch = params.n_ubatch = chunk
        params.n_seq_max = 1
        # An embedding is pooled over all tokens of a batch, so each of them is an output.
        params.n_outputs_max = chunk if self.embeds else 1
        params.n_threads = params.n_threads_batch = _threads()
        params.no_perf = True
        return llama.llama_init_from_model(self._model, params)

    def template(self) -> ChatTemplate | None:
        """Return the model's chat template, ChatML where its vocabulary is made for that."""
        source = llama.llama_model_chat_template(self._model, None)
        marks = [llama.llama_vocab_bos(self._vocab), llama.llama_vocab_eos(self._vocab)]
        bos, eos = (self._mark(token) for token in marks)
        if source:
            return ChatTemplate(source.decode("utf-8", "replace"), bos=bos, eos=eos)
        if len(self.tokenize("<|im_start|>", ends=False)) == 1:
            return ChatTemplate(CHATML, bos=bos, eos=eos)
        return None

    def tokenize(self, text: str, *, ends: bool) -> list[int]:
        """See `engine.Native`."""
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 8
        for _ in range(2):
            tokens = (llama.llama_token * room)()
            count = llama.llama_tokenize(self._vocab, raw, len(raw), tokens, room, ends, True)
            if count >= 0:
                return list(tokens[:count])
            room = -count
        raise NativeFailed("the text cannot be cut into tokens")

    def begin(self) -> int | None:
        """See `engine.Native`."""
        token = int(llama.llama_vocab_bos(self._vocab))
        return token if llama.llama_vocab_get_add_bos(self._vocab) and token >= 0 else None

    def piece(self, token: int) -> bytes:
        """See `engine.Native`."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._read_piece(token, special=False)
        return known

    def is_end(self, token: int) -> bool:
        """See `engine.Native`."""
        return bool(llama.llama_vocab_is_eog(self._vocab, token))

    def decode(self, tokens: Sequence[int], start: int) -> None:
        """See `engine.Native`."""
        if not 0 < len(tokens) <= self.chunk or start + len(tokens) > self.context:
            raise NativeFailed(f"{len(tokens)} tokens from cell {start} on are out of bounds")
        self._fill(tokens, start)
        code = llama.llama_decode(self._context, self._batch)
        llama.llama_synchronize(self._context)  # on a GPU, decode only queues the work
        if code:
            raise NativeFailed(f"llama_decode answered {code}")

    def keep(self, count: int) -> int:
        """See `engine.Native`."""
        if not self._memory:
            return 0
        # Recurrent, hybrid and sliding-window memory cannot always forget a part.
        if count and llama.llama_memory_seq_rm(self._memory, 0, count, -1):
            return count
        llama.llama_memory_clear(self._memory, True)
        return 0

    def chain(self, sampling: Sampling, seed: int | None) -> Chain:
        """See `engine.Native`."""
        return Chain(self._context, self.vocabulary, sampling, seed)

    def embed(self, tokens: Sequence[int]) -> bytes:
        """See `engine.Native`."""
        self.keep(0)
        self.decode(tokens, 0)
        found = llama.llama_get_embeddings_seq(self._context, 0)
        if not found:
            raise NativeFailed("llama.cpp gave no embedding")
        vector = found[: self.width]
        length = math.sqrt(sum(number * number for number in vector))
        if not math.isfinite(length) or not length:
            raise NativeFailed("the embedding has no length")
        numbers = array("f", [number / length for number in vector])
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers.tobytes()

    def close(self) -> None:
        """Give all memory back."""
        llama.llama_batch_free(self._batch)
        llama.llama_free(self._context)
        llama.llama_model_free(self._model)

    def _fill(self, tokens: Sequence[int], start: int) -> None:
        batch = self._batch
        batch.n_tokens = len(tokens)
        for at, token in enumerate(tokens):
            batch.token[at] = token
            batch.pos[at] = start + at
            batch.n_seq_id[at] = 1
            batch.seq_id[at][0] = 0
            batch.logits[at] = self.embeds or at == len(tokens) - 1

    def _mark(self, token: int) -> str:
        return (
            self._read_piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""
        )

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        room = 64
        for _ in range(2):
            buffer = ctypes.create_string_buffer(room)
            count = llama.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            room = -count
        return b""


def _load_model(load: Load, gpu_layers: int, link: Link) -> Any:
    told = -1

    @llama.llama_progress_callback  # type: ignore[untyped-decorator]
    def progress(part: float, _: object) -> bool:
        nonlocal told
        if (percent := int(part * 100)) > told:
            told = percent
            link.send([Progress(percent)])
        return True

    params = llama.llama_model_default_params()
    params.n_gpu_layers = gpu_layers
    params.progress_callback = progress
    model = llama.llama_model_load_from_file(load.path.encode(), params)
    if not model:
        raise CannotLoad(LoadFailed("file", "llama.cpp cannot load the file"))
    if llama.llama_model_has_encoder(model) or llama.llama_model_is_diffusion(model):
        raise CannotLoad(
            LoadFailed(
                "file", "The model does not write from left to right; such ones can't be served"
            )
        )
    return model


def _gpu_layers(load: Load) -> int:
    """Return how many layers go to a GPU: 0 where llama.cpp was built without one."""
    if not llama.llama_supports_gpu_offload():
        return 0
    if load.gpu_layers is not None:
        return load.offload.layers if load.gpu_layers < 0 else load.gpu_layers
    return layers_that_fit(load.offload, _gpu_memory())


def _gpu_memory() -> int:
    """Return the free memory of all GPUs, in bytes."""
    library = ctypes.CDLL(_library("ggml"))  # the registry; devices answer through ggml-base
    base = ctypes.CDLL(_library("ggml-base"))
    library.ggml_backend_dev_count.restype = ctypes.c_size_t
    library.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    library.ggml_backend_dev_get.restype = ctypes.c_void_p
    base.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_memory.argtypes = [
        ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t),
    ]  # fmt: skip
    total = 0
    for number in range(library.ggml_backend_dev_count()):
        device = library.ggml_backend_dev_get(number)
        if base.ggml_backend_dev_type(device) in GPU_DEVICES:
            free, whole = ctypes.c_size_t(), ctypes.c_size_t()
            base.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(whole))
            total += free.value
    return total


def _library(name: str) -> str:
    folder = Path(llama.__file__).parent / "lib"
    suffix = "dylib" if sys.platform == "darwin" else "so"
    return str(folder / f"lib{name}.{suffix}")


def _threads() -> int:
    """Return how many threads to compute with: the CPUs that this process may really use."""
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        # In a container with a quota, more threads than it allows wait for one another.
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        usable = min(usable, max(1, round(int(quota) / int(period))))
    return usable


def _import_llama(version: str) -> None:
    """Import llama_cpp into this module.

    Raises:
        CannotLoad: It is missing, does not load, or is of another version.
    """
    global llama  # noqa: PLW0603 - imported when a load is asked for, so that failing can be told
    try:
        import llama_cpp  # noqa: PLC0415
    except (ImportError, OSError, RuntimeError) as fault:
        raise CannotLoad(
            LoadFailed("missing", f"llama-cpp-python cannot be imported: {fault}")
        ) from fault
    if llama_cpp.__version__ != version:
        raise CannotLoad(
            LoadFailed(
                "version",
                f"llama-cpp-python {llama_cpp.__version__} is installed and {version} is needed",
            )
        )
    llama = llama_cpp


def _log_to_stderr() -> Any:
    """Send llama.cpp's log to stderr; the result must be kept for as long as it may log."""

    @llama.llama_log_callback  # type: ignore[untyped-decorator]
    def log(_level: int, text: bytes, _data: object) -> None:
        with contextlib.suppress(OSError):
            os.write(2, text)

    llama.llama_log_set(log, None)
    return log


def _live_with(parent: int) -> None:
    """Make this process end with its parent, and harmless until then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError):
            # Out of memory, the kernel should take a worker and not the daemon.
            Path("/proc/self/oom_score_adj").write_text("500")
    if os.getppid() != parent:  # it died before prctl: no signal will come any more
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the daemon, which drains first
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _serve(link: Link, engine: Engine) -> None:
    """Work until told to end."""
    draining = False
    while engine.busy or not draining:
        while not link.inbox.empty() or not (engine.busy or draining):
            message = link.inbox.get()
            match message:
                case Submit():
                    engine.submit(message)
                case Count():
                    link.send([engine.count(message)])
                case Cancel(id=call):
                    link.send(engine.cancel(call))
                case Drain():
                    draining = True
                case Quit():
                    return
                case Load():
                    raise FrameError("a second load")
        link.send(engine.step())


def main() -> int:
    """Load one model and serve it; return the process's exit code."""
    _live_with(int(sys.argv[2]))
    link = Link(socket.socket(fileno=int(sys.argv[1])))
    load = link.inbox.get()
    if not isinstance(load, Load):
        return 2
    try:
        _import_llama(load.version)
        _kept = _log_to_stderr()
        llama.llama_backend_init()
        native = LlamaCpp(load, link)
    except CannotLoad as fault:
        link.send([fault.failed])
        return 3
    engine = Engine(native, native.template())
    link.send([Ready(native.context, native.gpu_layers)])
    _serve(link, engine)
    native.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
