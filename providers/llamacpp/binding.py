"""llama.cpp's functions with their preconditions checked: the engine's `Native`.

It is given the module, which only the worker process imports.
"""

import contextlib
import ctypes
import math
import os
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tollway.providers.llamacpp.apart import Apart
from tollway.providers.llamacpp.fit import (
    EMBED_TOKENS,
    STEP_CPU,
    STEP_GPU,
    embed_outputs,
    embed_step,
    is_steady,
    layers_that_fit,
)
from tollway.providers.llamacpp.frames import Load, LoadFailed, Sampling
from tollway.providers.llamacpp.grammars import Vocabulary
from tollway.providers.llamacpp.native import Chain, Late, NativeFailed, Pick, Picked, Piece
from tollway.providers.llamacpp.policy import Rules
from tollway.providers.llamacpp.samplers import Samplers
from tollway.providers.llamacpp.template import CHATML, ChatTemplate
from tollway.providers.llamacpp.threads import ThreadsBySize

GPU_DEVICES = {1, 2}  # ggml's numbers for GPUs with memory of their own, and without
# llama.cpp's numbers.
FLASH_AUTO, FLASH_OFF = -1, 0
KV_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}
KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}  # of a number
# Bytes a second that one sequence is copied to another with: half of what was measured on two
# cores of a server's CPU; a GPU's own memory is at least ten times as quick.
COPY_CPU, COPY_GPU = 8e9, 80e9


class CannotLoad(Exception):
    """The model cannot be loaded."""

    def __init__(self, failed: LoadFailed) -> None:
        super().__init__(failed.message)
        self.failed = failed


class LlamaCpp:
    """A loaded model and its context. See `native.Native`."""

    def __init__(self, llama: Any, load: Load, progress: Callable[[int], None]) -> None:
        """Load a model; `progress` is called with percents.

        Raises:
            CannotLoad: With why.
        """
        self._llama = llama
        self.gpu_layers = _gpu_layers(llama, load)
        self.embeds = load.pooling is not None
        self.whole = self.embeds and load.whole
        self._model = _load_model(llama, load, self.gpu_layers, progress)
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.vocabulary = int(llama.llama_vocab_n_tokens(self._vocab))
        self.width = int(llama.llama_model_n_embd_out(self._model))
        self.slots = load.slots
        unified = load.kv == "unified" or self.embeds
        # Without flash attention, and sequences apart, how prompts are cut and what runs beside
        # them changes no bit on a CPU. A quantised cache can't be had without.
        self.steady = not self.embeds and is_steady(
            load.kv, load.kv_type, on_gpu=self.gpu_layers > 0
        )
        self.mixes = unified
        self._context = self._make_context(load, unified=unified)
        if not self._context:
            raise CannotLoad(LoadFailed("memory", "There is no memory for the model's context"))
        self._memory = llama.llama_get_memory(self._context)
        # llama.cpp rounds up; more than was asked for would not be what we say we have.
        self.context = min(load.context, int(llama.llama_n_ctx_seq(self._context)))
        self._room = int(llama.llama_n_batch(self._context))
        self.tails = self._room if self.whole else embed_outputs(load.slots)
        self.chunk = min(self._chunk(load), self._room, max(self.context, self.slots))
        state = llama.llama_model_is_recurrent(self._model) or llama.llama_model_is_hybrid(
            self._model
        )
        self.rules = Rules(
            copies=bool(self._memory) and not state,
            copy_s=0.0 if unified else self._copy_s(load),
            # A last token that is read alone is rounded otherwise than among others.
            tail=2 if self.steady else 1,
        )
        self._batch = llama.llama_batch_init(self._room, 0, 1)
        self._apart = Apart(load.path, load.version, self.vocabulary)
        self._samplers = Samplers(llama, self._vocab, self.vocabulary, _threads(), self._apart)
        # A GPU's threads only hand work over: there is nothing to find out.
        self._threads = ThreadsBySize(_threads()) if not self.gpu_layers else None
        self._used_threads = 0
        self._ended_at = 0.0  # the last step
        self._pieces: dict[tuple[int, bool], bytes] = {}
        self._ends: dict[int, bool] = {}
        self._beginnings: dict[bytes, int] = {}  # few: what marks of calls are cut to
        # ctypes makes an object for each look into a struct: looked into once.
        batch = self._batch
        self._tokens, self._positions, self._wanted = batch.token, batch.pos, batch.logits
        self._seq_of = [batch.seq_id[at] for at in range(self._room)]
        for at in range(self._room):
            batch.n_seq_id[at] = 1

    def _chunk(self, load: Load) -> int:
        if self.whole:
            return min(load.context, EMBED_TOKENS)
        return STEP_GPU if self.gpu_layers else STEP_CPU

    def _copy_s(self, load: Load) -> float:
        """Return about how long copying a whole sequence takes; heads may be of odd sizes."""
        llama, model = self._llama, self._model
        width = llama.llama_model_n_embd(model) / max(1, llama.llama_model_n_head(model))
        numbers = 2 * width * llama.llama_model_n_head_kv(model) * llama.llama_model_n_layer(model)
        size = self.context * numbers * KV_BYTES[load.kv_type]
        return float(size / (COPY_GPU if self.gpu_layers else COPY_CPU))

    def _make_context(self, load: Load, *, unified: bool) -> Any:
        params = self._llama.llama_context_default_params()
        chunk = self._chunk(load)
        if self.embeds:
            params.pooling_type = load.pooling
            params.embeddings = True
        cells = -(-load.context // 256) * 256  # each sequence's part is rounded so
        params.n_ctx = cells if self.embeds else cells * load.slots
        # Room for an answer's token of every sequence beside a prompt's piece.
        step = chunk + load.slots
        if self.embeds:
            step = chunk if self.whole else embed_step(chunk, load.slots)
        params.n_batch = params.n_ubatch = step
        params.n_seq_max = load.slots
        params.kv_unified = unified
        # An embedding is pooled over all tokens of a batch, so each of them is an output.
        params.n_outputs_max = load.slots
        if self.embeds:
            params.n_outputs_max = step if self.whole else embed_outputs(load.slots)
        params.n_threads = params.n_threads_batch = _threads()
        params.no_perf = True
        params.type_k = params.type_v = KV_TYPES[load.kv_type]
        if self.steady:
            params.flash_attn_type = FLASH_OFF
        return self._llama.llama_init_from_model(self._model, params)

    def template(self) -> ChatTemplate | None:
        """Return the model's chat template, ChatML where its vocabulary is made for that."""
        source = self._llama.llama_model_chat_template(self._model, None)
        marks = [self._llama.llama_vocab_bos(self._vocab), self._llama.llama_vocab_eos(self._vocab)]
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
            tokens = (self._llama.llama_token * room)()
            count = self._llama.llama_tokenize(self._vocab, raw, len(raw), tokens, room, ends, True)
            if count >= 0:
                return list(tokens[:count])
            room = -count
        raise NativeFailed("the text cannot be cut into tokens")

    def begin(self) -> int | None:
        """See `engine.Native`."""
        token = int(self._llama.llama_vocab_bos(self._vocab))
        return token if self._llama.llama_vocab_get_add_bos(self._vocab) and token >= 0 else None

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """See `native.Native`."""
        known = self._pieces.get((token, special))
        if known is None:
            known = self._pieces[token, special] = self._read_piece(token, special=special)
        return known

    def is_end(self, token: int) -> bool:
        """See `native.Native`."""
        known = self._ends.get(token)
        if known is None:
            known = bool(self._llama.llama_vocab_is_eog(self._vocab, token))
            self._ends[token] = known
        return known

    def decode(self, pieces: Sequence[Piece]) -> None:
        """See `native.Native`."""
        if self.embeds:
            self._llama.llama_set_embeddings(self._context, False)
        self._decode(pieces)

    def _decode(self, pieces: Sequence[Piece], *, every: bool = False) -> None:
        """Decode pieces, with an output for `every` token or for the last one that is wanted."""
        count = sum(len(piece.tokens) for piece in pieces)
        wanted = sum(piece.wanted for piece in pieces)
        if not 0 < count <= self._room or wanted > self.slots:
            raise NativeFailed(f"{count} tokens and {wanted} outputs are out of bounds")
        for piece in pieces:
            if not 0 <= piece.seq < self.slots or not piece.tokens or piece.start < 0:
                raise NativeFailed(f"there is no sequence {piece.seq}")
            if piece.start + len(piece.tokens) > self.context:
                raise NativeFailed(
                    f"{len(piece.tokens)} tokens from cell {piece.start} on are out of bounds"
                )
        rows = self._fill(pieces, every=every)
        if self._threads:
            self._use_threads(self._threads.begin(len(pieces), count))
        began = time.perf_counter()
        code = self._llama.llama_decode(self._context, self._batch)
        self._llama.llama_synchronize(self._context)  # on a GPU, decode only queues the work
        if self._threads:
            ended = time.perf_counter()
            self._threads.took(ended - began, began - self._ended_at)
            self._ended_at = ended
        self._samplers.outputs(self._context, rows)
        if code:
            raise NativeFailed(f"llama_decode answered {code}")

    def _use_threads(self, count: int) -> None:
        if count != self._used_threads:
            self._used_threads = count
            self._llama.llama_set_n_threads(self._context, count, count)

    def keep(self, seq: int, count: int) -> int:
        """See `native.Native`."""
        if not self._memory:
            return 0
        # Recurrent, hybrid and sliding-window memory cannot always forget a part.
        if count and self._llama.llama_memory_seq_rm(self._memory, seq, count, -1):
            return count
        self._llama.llama_memory_seq_rm(self._memory, seq, -1, -1)
        return 0

    def copy(self, source: int, target: int, count: int) -> None:
        """See `native.Native`."""
        if source == target or not self._memory or not self.rules.copies:
            raise NativeFailed("sequences cannot be copied")
        self._llama.llama_memory_seq_rm(self._memory, target, -1, -1)
        # Of split sequences only a whole one can be copied; a part would end the process.
        self._llama.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        if not self._llama.llama_memory_seq_rm(self._memory, target, count, -1):
            self._llama.llama_memory_seq_rm(self._memory, target, -1, -1)
            raise NativeFailed("a copied sequence could not be cut")

    def compiles(self, grammar: str) -> bool:
        """See `native.Native`."""
        return self._samplers.compiles(grammar)

    def bears(self, grammar: str) -> bool:
        """See `native.Native`."""
        return self._apart.bears(grammar)

    def chain(self, sampling: Sampling, seed: int | None, grammar: str = "") -> Chain:
        """See `native.Native`."""
        return self._samplers.chain(sampling, seed, grammar)

    def hold(self, chain: Chain, grammar: str) -> None:
        """See `native.Native`."""
        self._samplers.hold(chain, grammar)

    def token_of(self, data: bytes) -> int:
        """See `native.Native`."""
        known = self._beginnings.get(data)
        if known is None:
            every = ((self.piece(token), token) for token in range(self.vocabulary))
            fitting = [(len(one), token) for one, token in every if one and data.startswith(one)]
            if not fitting:
                raise NativeFailed("no token says what is to be said")
            known = self._beginnings[data] = max(fitting)[1]
        return known

    def sample(self, picks: Sequence[Pick]) -> Sequence[Picked | NativeFailed | Late]:
        """See `native.Native`."""
        return self._samplers.sample(picks, self.piece)

    def embed(self, pieces: Sequence[Piece]) -> list[bytes]:
        """See `native.Native`."""
        if not self.embeds or sum(len(piece.tokens) for piece in pieces) > self.tails:
            raise NativeFailed("the ends of the texts are out of bounds")
        self._llama.llama_set_embeddings(self._context, True)
        self._decode(pieces, every=True)
        return [self._vector(piece.seq) for piece in pieces]

    def close(self) -> None:
        """Give all memory back."""
        self._apart.close()
        self._llama.llama_batch_free(self._batch)
        self._llama.llama_free(self._context)
        self._llama.llama_model_free(self._model)

    def _vector(self, seq: int) -> bytes:
        found = self._llama.llama_get_embeddings_seq(self._context, seq)
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

    def _fill(self, pieces: Sequence[Piece], *, every: bool) -> list[int]:
        """Write the batch; return where in it each piece ends."""
        tokens, positions, wanted, seqs = (
            self._tokens, self._positions, self._wanted, self._seq_of,
        )  # fmt: skip
        at, rows = 0, []
        for piece in pieces:
            position = piece.start
            for token in piece.tokens:
                tokens[at] = token
                positions[at] = position
                seqs[at][0] = piece.seq
                wanted[at] = every
                position += 1
                at += 1
            wanted[at - 1] = every or piece.wanted
            rows.append(at - 1)
        self._batch.n_tokens = at
        return rows

    def _mark(self, token: int) -> str:
        return (
            self._read_piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""
        )

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        room = 64
        for _ in range(2):
            buffer = ctypes.create_string_buffer(room)
            count = self._llama.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            room = -count
        return b""


def vocabulary_of(llama: Any, path: str) -> Vocabulary:
    """Return a model's vocabulary, without the rest of it.

    Raises:
        CannotLoad: The file cannot be read, though it could a while ago.
    """
    params = llama.llama_model_default_params()
    params.vocab_only = True
    params.n_gpu_layers = 0
    model = llama.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise CannotLoad(LoadFailed("file", "llama.cpp cannot load the vocabulary"))
    return Vocabulary(llama, llama.llama_model_get_vocab(model))


def _load_model(llama: Any, load: Load, gpu_layers: int, tell: Callable[[int], None]) -> Any:
    told = -1

    @llama.llama_progress_callback  # type: ignore[untyped-decorator]
    def progress(part: float, _: object) -> bool:
        nonlocal told
        if (percent := int(part * 100)) > told:
            told = percent
            tell(percent)
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


def _gpu_layers(llama: Any, load: Load) -> int:
    """Return how many layers go to a GPU: 0 where llama.cpp was built without one."""
    if not llama.llama_supports_gpu_offload():
        return 0
    if load.gpu_layers is not None:
        return load.offload.layers if load.gpu_layers < 0 else load.gpu_layers
    return layers_that_fit(load.offload, _gpu_memory(llama))


def _gpu_memory(llama: Any) -> int:
    """Return the free memory of all GPUs, in bytes."""
    library = ctypes.CDLL(_library(llama, "ggml"))  # the registry; devices answer through ggml-base
    base = ctypes.CDLL(_library(llama, "ggml-base"))
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


def _library(llama: Any, name: str) -> str:
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
