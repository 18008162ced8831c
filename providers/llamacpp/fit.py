"""How much memory a model takes, and how much there is.

An estimate from the header alone, made before a process is started. The weights and the cache
of plain attention are exact; the working buffers are rough and on the safe side.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tollway.providers.errors import LocalModelFailed
from tollway.providers.llamacpp.gguf import ModelInfo

STEP_TOKENS = 512  # the most that one engine step reads
# A Python process with llama.cpp loaded, measured at 75 MB, and room for its allocator.
PROCESS_BYTES = 128 * 2**20
SMALLEST_CONTEXT = 512


class Estimate(msgspec.Struct, frozen=True):
    """Bytes by what they are for."""

    weights: int
    cache: int
    work: int

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.weights + self.cache + self.work


class Offload(msgspec.Struct, frozen=True):
    """What the worker needs to choose how many layers go to a GPU; bytes."""

    layers: int
    layer_bytes: int
    fixed_bytes: int


def usable_context(info: ModelInfo, wanted: int) -> int:
    """Return the context to load with, in tokens: never more than the model was trained on."""
    return min(wanted, info.context_trained) if info.context_trained else wanted


def estimate(info: ModelInfo, context: int) -> Estimate:
    """Return what the model takes with a context of so many tokens."""
    cells = -(-context // 256) * 256
    mask = cells * STEP_TOKENS * 4
    activations = STEP_TOKENS * 4 * (6 * info.embedding + 2 * info.feed_forward)
    output = info.vocabulary * 4
    return Estimate(
        weights=info.weights_bytes,
        cache=info.kv_bytes_per_token * cells,
        work=(mask + activations) * 5 // 4 + output + PROCESS_BYTES,
    )


def offload(info: ModelInfo, context: int) -> Offload:
    """Return what each layer, and the rest, would take on a GPU."""
    need = estimate(info, context)
    layers = max(info.layers, 1)
    return Offload(layers + 1, (need.weights + need.cache) // (layers + 1), need.work)


def layers_that_fit(plan: Offload, free_bytes: int) -> int:
    """Return how many layers (the output counted as one) fit in so much GPU memory."""
    room = free_bytes - plan.fixed_bytes
    return max(0, min(plan.layers, room // max(plan.layer_bytes, 1)))


def require_room(name: str, info: ModelInfo, context: int, free: int) -> Estimate:
    """Return the model's estimate if it fits in `free` bytes.

    Raises:
        LocalModelFailed: It does not; the message has the numbers, the hint the way out.
    """
    need = estimate(info, context)
    if need.total <= free:
        return need
    raise LocalModelFailed(
        f"`{name}` needs {size(need.total)} of memory (weights {size(need.weights)}, context of"
        f" {context} tokens {size(need.cache)}, work {size(need.work)}) and {size(free)} are free",
        hint=_way_out(name, info, context, free),
        sent=False,
        again=False,
    )


def smaller_context(info: ModelInfo, context: int, room: int) -> int | None:
    """Return a half, a quarter ... of a context with which the model takes no more than `room`.

    In tokens, the room in bytes; None where no context is small enough.
    """
    while (context := context // 2) >= SMALLEST_CONTEXT:
        if estimate(info, context).total <= room:
            return context
    return None


def _way_out(name: str, info: ModelInfo, context: int, free: int) -> str:
    if smaller := smaller_context(info, context, free):
        need = size(estimate(info, smaller).total)
        return f"`models.{name}.context = {smaller}` would need {need} and fit"
    return (
        f"No context is small enough, for the weights alone take {size(info.weights_bytes)}: use a"
        " smaller quantisation of the model, or end what else uses the memory"
    )


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
    model to a crawl: whoever asks what is free must subtract them. Zeros where unknown.
    """
    try:
        status = _text(f"/proc/{pid}/status")
    except OSError:
        return 0, 0
    found = dict(re.findall(r"^(VmRSS|RssFile):\s+(\d+) kB", status, re.MULTILINE))
    return int(found.get("VmRSS", 0)) * 1024, int(found.get("RssFile", 0)) * 1024


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
