"""How much memory a model takes, and how much there is.

An estimate from the header alone, made before a process is started. Weights and cache are exact
for the architectures that `dimensions.py` knows; the working buffers follow rules that were fitted
to what llama.cpp reserves. `probe.py` asks llama.cpp itself.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from tollway.providers.errors import LocalModelFailed
from tollway.providers.llamacpp.gguf import ENCODERS, ModelInfo

KvType = Literal["f16", "q8_0", "q4_0"]
# Bytes of 32 numbers.
_BLOCK_BYTES: dict[KvType, int] = {"f16": 64, "q8_0": 34, "q4_0": 18}

# Tokens that one engine step reads of prompts; each slot's next one comes on top. It bounds how
# long a cancelled call still computes: about 0.3 s on two slow cores with a small model. A GPU
# reads the larger number in less time.
STEP_CPU, STEP_GPU = 128, 512
EMBED_TOKENS = 2048  # of a text that is read in one step, whose buffers grow with it
EMBED_OUTPUTS = 64  # where all but the end of a text is read without an output
# A Python process with llama.cpp loaded, measured, and what it keeps of each word it knows.
PROCESS_BYTES = 48 * 2**20
WORD_BYTES = 256
SMALLEST_CONTEXT = 512
# Of a GPU's free memory: its driver's own context, and what a desktop takes meanwhile.
GPU_RESERVE = 512 * 2**20


class Layout(msgspec.Struct, frozen=True):
    """How a model's memory is laid out, beside its context, which each slot has."""

    slots: int = 1
    kv: Literal["split", "unified"] = "split"
    kv_type: KvType = "f16"
    chunk: int = STEP_GPU  # tokens read in one step
    # Layers with a window keep the whole context all the same, so that a slot can go back.
    whole_windows: bool = True
    flash: bool = True  # flash attention; see `is_steady`


PLAIN = Layout()


def layout(slots: int, kv: Literal["split", "unified"], kv_type: KvType, *, on_gpu: bool) -> Layout:
    """Return how the memory of a model with these settings is laid out by the worker."""
    flash = not is_steady(kv, kv_type, on_gpu=on_gpu)
    return Layout(slots, kv, kv_type, slots + (STEP_GPU if on_gpu else STEP_CPU), flash=flash)


def is_steady(kv: Literal["split", "unified"], kv_type: KvType, *, on_gpu: bool) -> bool:
    """Return whether a worker does without flash attention, which BATCHING.md gives reasons for."""
    return kv == "split" and kv_type == "f16" and not on_gpu


class Estimate(msgspec.Struct, frozen=True):
    """Bytes by what they are for."""

    weights: int
    cache: int
    work: int  # llama.cpp's working buffers
    process: int

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.weights + self.cache + self.work + self.process


class Offload(msgspec.Struct, frozen=True):
    """What the worker needs to choose how many layers go to a GPU; bytes.

    `each` are the layers in the order in which they go there: the output first, then from the
    last to the first. `fixed` comes once, on top.
    """

    each: tuple[int, ...]
    fixed: int

    @property
    def layers(self) -> int:
        """How many layers there are, the output counted as one."""
        return len(self.each)


def usable_context(info: ModelInfo, wanted: int) -> int:
    """Return the context to load with, in tokens: never more than the model was trained on.

    Nor more than an embedding's text may have: the rest would be memory that nothing is put into.
    """
    wanted = min(wanted, EMBED_TOKENS) if info.embeds and info.whole else wanted
    return min(wanted, info.context_trained) if info.context_trained else wanted


def estimate(info: ModelInfo, context: int, layout: Layout = PLAIN) -> Estimate:
    """Return what the model takes with a context of so many tokens for each slot.

    One that embeds has one context for all, since it forgets a text once that is read.
    """
    slots = layout.slots
    if info.embeds:
        context = min(context, EMBED_TOKENS) if info.whole else context
        step = context if info.whole else embed_step(layout.chunk - slots, slots)
        layout = msgspec.structs.replace(layout, slots=1, kv="unified", chunk=step, flash=True)
    unified = layout.kv == "unified"
    streams = 1 if unified else layout.slots
    cells = _padded(context * layout.slots if unified else context)
    chunk = min(layout.chunk, cells * streams)
    made = min(chunk, embed_outputs(slots)) if not info.whole else chunk
    outputs = (made if info.embeds else layout.slots) * info.vocabulary * 4
    if info.embeds and ENCODERS.search(info.architecture):
        outputs = 0
    shared = layout.slots if unified else 1  # sequences in each stream's cells
    cache, masks = info.dimensions.state_bytes * layout.slots, set()
    for one in info.dimensions.attention:
        own = cells
        if one.window and not layout.whole_windows:
            own = min(cells, _padded(one.window * shared + layout.chunk))
        pair = _bytes(one.keys, layout.kv_type) + _bytes(one.values, layout.kv_type)
        cache += one.layers * own * streams * pair
        masks.add((one.window, own))
    mask = (2 if layout.flash else 4) * sum(own for _, own in masks)
    # The output of a step comes when the layers' buffers are free again.
    step = max(chunk * 4 * info.dimensions.numbers, outputs + chunk * 12 * info.embedding)
    if not layout.flash:
        seen = max((own for _, own in masks), default=0)
        scores = info.dimensions.attending + seen * info.dimensions.heads
        step = max(step, chunk * 4 * scores)
    return Estimate(
        weights=info.weights_bytes,
        cache=cache,
        work=step + chunk * mask + (0 if info.embeds else outputs),
        process=PROCESS_BYTES + info.vocabulary * WORD_BYTES,
    )


def embed_outputs(slots: int) -> int:
    """Return how many tokens' outputs a step has where only the ends of texts need them."""
    return max(EMBED_OUTPUTS, 2 * slots)


def embed_step(chunk: int, slots: int) -> int:
    """Return the most tokens that such a step reads."""
    return max(chunk, embed_outputs(slots))


def _padded(cells: int) -> int:
    return -(-cells // 256) * 256


def _bytes(numbers: int, kv_type: KvType) -> int:
    return -(-numbers * _BLOCK_BYTES[kv_type] // 32)


def offload(info: ModelInfo, context: int, layout: Layout = PLAIN) -> Offload:
    """Return what each layer, and the rest, would take on a GPU."""
    need = estimate(info, context, layout)
    layers = info.layer_bytes or (info.weights_bytes,)
    cache = need.cache // len(layers)
    each = (info.output_bytes, *(weights + cache for weights in reversed(layers)))
    return Offload(each, need.work)


def layers_that_fit(plan: Offload, free_bytes: int) -> int:
    """Return how many layers (the output counted as one) fit in so much GPU memory."""
    room = free_bytes - plan.fixed
    count = 0
    for layer in plan.each:
        room -= layer
        if room < 0:
            break
        count += 1
    return count


class Placed(msgspec.Struct, frozen=True):
    """Where a model's memory would be: `layers` of `of` on GPUs, bytes there and in RAM."""

    layers: int
    of: int
    gpu: int
    ram: int


def place(
    info: ModelInfo,
    context: int,
    layout: Layout = PLAIN,
    *,
    wanted: int | Literal["auto", "all"] = "auto",
    free: Sequence[int] = (),
) -> Placed:
    """Return where a model would go with so many free bytes on each GPU, none for no GPU.

    "auto" leaves GPU_RESERVE of each GPU alone; what is said as a number or "all" is believed.
    """
    need, plan = estimate(info, context, layout), offload(info, context, layout)
    count = 0
    if free:
        room = sum(max(0, one - GPU_RESERVE) for one in free)
        count = plan.layers if wanted == "all" else 0
        count = layers_that_fit(plan, room) if wanted == "auto" else count
        count = min(wanted, plan.layers) if isinstance(wanted, int) else count
    if not count:
        return Placed(0, plan.layers, 0, need.total)
    moved = sum(plan.each[:count])
    copied = info.output_bytes if plan.layers == count and _tied(info) else 0
    held = need.weights + need.cache + copied - moved
    return Placed(count, plan.layers, moved + plan.fixed, max(0, held) + need.process)


def _tied(info: ModelInfo) -> bool:
    """Whether the output's weights are the embedding's, which stay in RAM as well."""
    return sum(info.layer_bytes) + info.output_bytes >= info.weights_bytes


def require_room(
    name: str, info: ModelInfo, context: int, free: int, layout: Layout = PLAIN
) -> Estimate:
    """Return the model's estimate if it fits in `free` bytes.

    Raises:
        LocalModelFailed: It does not; the message has the numbers, the hint the way out.
    """
    need = estimate(info, context, layout)
    if need.total <= free:
        return need
    slots = shared(info, layout.slots)
    raise LocalModelFailed(
        f"`{name}` needs {size(need.total)} of memory (weights {size(need.weights)}, context of"
        f" {context} tokens{slots} {size(need.cache)}, work {size(need.work + need.process)}) and"
        f" {size(free)} are free",
        hint=_way_out(name, info, context, free, layout),
        sent=False,
        again=False,
    )


def shared(info: ModelInfo, slots: int) -> str:
    """Return whose a context is: " for each of 4 slots", " for all slots", or nothing for one."""
    if slots == 1:
        return ""
    return " for all slots" if info.embeds else f" for each of {slots} slots"


def smaller_context(info: ModelInfo, context: int, room: int, layout: Layout = PLAIN) -> int | None:
    """Return a half, a quarter ... of a context with which the model takes no more than `room`.

    In tokens, the room in bytes; None where no context is small enough.
    """
    while (context := context // 2) >= SMALLEST_CONTEXT:
        if estimate(info, context, layout).total <= room:
            return context
    return None


def _way_out(name: str, info: ModelInfo, context: int, free: int, layout: Layout) -> str:
    """Return which one setting closes the gap: fewer slots, a smaller context or cache."""
    ways: list[tuple[str, int]] = []
    slots = layout.slots
    while (slots := slots // 2) >= 1:
        fewer = msgspec.structs.replace(layout, slots=slots)
        if (need := estimate(info, context, fewer).total) <= free:
            ways.append((f"slots = {slots}", need))
            break
    if smaller := smaller_context(info, context, free, layout):
        ways.append((f"context = {smaller}", estimate(info, smaller, layout).total))
    if layout.kv_type == "f16":
        tighter = msgspec.structs.replace(layout, kv_type="q8_0")
        if (need := estimate(info, context, tighter).total) <= free:
            ways.append(('kv_type = "q8_0"', need))
    if not ways:
        return (
            "No context is small enough, for the weights alone take"
            f" {size(info.weights_bytes)}: use a smaller quantisation of the model, or end what"
            " else uses the memory"
        )
    first, need = ways[0]
    also = "".join(f", or `models.{name}.{way}`" for way, _ in ways[1:])
    return f"`models.{name}.{first}` would need {size(need)} and fit{also}"


def available_memory() -> int | None:
    """Return the bytes that a new process could use, or None where the system does not say.

    On Linux the smallest of what the kernel calls available and what each control group above
    this process has left.
    """
    rooms = [_room(*group) for group in _groups()]
    return min(
        (room for room in (_meminfo("MemAvailable"), *rooms) if room is not None), default=None
    )


def total_memory() -> int | None:
    """Return the bytes that there would be with nothing else running, None where unknown.

    On Linux the smallest of the machine's memory and of each control group's limit.
    """
    limits = [_limit(group, limit) for group, limit, _ in _groups()]
    return min((most for most in (_meminfo("MemTotal"), *limits) if most is not None), default=None)


def resident_bytes(pid: int) -> tuple[int, int]:
    """Return a process's memory in RAM and how much of that is mapped files, both in bytes.

    Mapped weights count as available to the kernel, though taking them away would bring the
    model to a crawl: whoever asks what is free must subtract them. What lies in a file system in
    RAM is there without the process, and not its. Zeros where unknown.
    """
    try:
        status = _text(f"/proc/{pid}/status")
    except OSError:
        return 0, 0
    found = dict(re.findall(r"^(RssAnon|RssFile):\s+(\d+) kB", status, re.MULTILINE))
    own, mapped = (int(found.get(name, 0)) * 1024 for name in ("RssAnon", "RssFile"))
    return own + mapped, mapped


def size(count: int) -> str:
    """Return a number of bytes for people: "1.4 GiB", "180 MiB"."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _meminfo(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", _text("/proc/meminfo"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _groups() -> Iterator[tuple[Path, str, str]]:
    """Yield each control group above this process, with its files for the limit and the use."""
    try:
        lines = _text("/proc/self/cgroup").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers == "":
            root, limit, used = Path("/sys/fs/cgroup"), "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root = Path("/sys/fs/cgroup/memory")
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        inside = root / group.lstrip("/")
        while inside.is_relative_to(root):
            yield inside, limit, used
            if inside == root:
                break
            inside = inside.parent


def _limit(group: Path, limit: str) -> int | None:
    try:
        most = _text(group / limit).strip()
        # Version 1 writes "no limit" as a huge number.
        return None if most == "max" or int(most) >= 2**60 else int(most)
    except (OSError, ValueError):
        return None


def _room(group: Path, limit: str, used: str) -> int | None:
    if (most := _limit(group, limit)) is None:
        return None
    try:
        held = int(_text(group / used))
        # Files in the page cache are counted as used and given back when needed.
        cached = re.search(r"^(?:total_)?inactive_file (\d+)", _text(group / "memory.stat"), re.M)
        return max(0, most - held + (int(cached[1]) if cached else 0))
    except (OSError, ValueError):
        return None


def _text(path: str | Path) -> str:
    return Path(path).read_text()
