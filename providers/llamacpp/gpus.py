"""NVIDIA's GPUs: what they are, what is free on them, who uses it. Through nvidia-ml-py.

Optional in every way: without the package, without a driver, or for another maker's GPU there
is nothing to tell, and nothing fails.
"""

import contextlib
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import msgspec


class User(msgspec.Struct, frozen=True):
    """A process on a GPU; `bytes` is None where the driver does not say."""

    pid: int
    bytes: int | None


class Gpu(msgspec.Struct, frozen=True):
    """A GPU now: memory in bytes, `busy` and `memory_busy` in percent, power in watts.

    What a driver does not tell is None; `uuid` is its name for good.
    """

    index: int
    name: str
    uuid: str
    total: int
    free: int
    busy: int | None = None
    memory_busy: int | None = None
    power_w: float | None = None
    users: tuple[User, ...] = ()


def gpus() -> list[Gpu]:
    """Return the NVIDIA GPUs of this machine; none where they cannot be asked for.

    Takes some milliseconds, and holds the driver no longer than that.
    """
    with _nvml() as nvml:
        if nvml is None:
            return []
        with contextlib.suppress(nvml.NVMLError):
            return [one for at in range(nvml.nvmlDeviceGetCount()) if (one := _read(nvml, at))]
    return []


@contextlib.contextmanager
def _nvml() -> Iterator[ModuleType | None]:
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
    except ImportError:
        yield None
        return
    except nvml.NVMLError:  # no driver, or one that is older than its library
        yield None
        return
    try:
        yield nvml
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _read(nvml: ModuleType, index: int) -> Gpu | None:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError:  # it fell off the bus, or belongs to another container
        return None
    busy = _told(nvml, "nvmlDeviceGetUtilizationRates", handle)
    power = _told(nvml, "nvmlDeviceGetPowerUsage", handle)
    users = _told(nvml, "nvmlDeviceGetComputeRunningProcesses", handle)
    return Gpu(
        index=index,
        name=_text(_told(nvml, "nvmlDeviceGetName", handle)),
        uuid=_text(_told(nvml, "nvmlDeviceGetUUID", handle)),
        total=int(memory.total),
        free=int(memory.free),
        busy=getattr(busy, "gpu", None),
        memory_busy=getattr(busy, "memory", None),
        power_w=power / 1000 if isinstance(power, int) else None,
        users=tuple(User(one.pid, one.usedGpuMemory) for one in users)
        if isinstance(users, list)
        else (),
    )


def _told(nvml: ModuleType, name: str, handle: object) -> object:
    """Return what a function says of a GPU, None where this GPU or driver has no answer."""
    try:
        return getattr(nvml, name)(handle)
    except (nvml.NVMLError, AttributeError):
        return None


def _text(said: object) -> str:
    # Older releases give bytes.
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said or "")
