"""NVIDIA's GPUs, with a driver that is made up: what is told, and what is done without."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from tollway.providers.llamacpp.gpus import Gpu, User, gpus


class Driver(ModuleType):
    """A driver with two GPUs, as nvidia-ml-py shows it."""

    class NVMLError(Exception):
        """What the library raises."""

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.open = 0
        self.missing: set[str] = set()  # functions that these GPUs do not support

    def __getattribute__(self, name: str) -> object:
        if name.startswith("nvmlDevice") and name in super().__getattribute__("missing"):
            raise super().__getattribute__("NVMLError")("Not Supported")
        return super().__getattribute__(name)

    def nvmlInit(self) -> None:  # noqa: N802, D102
        if "nvmlInit" in self.missing:
            raise self.NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802, D102
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802, D102
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802, D102
        if f"gpu {index}" in self.missing:
            raise self.NVMLError("GPU is lost")
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802, D102
        return SimpleNamespace(total=24 * 2**30, free=(20 - 10 * handle) * 2**30, used=0)

    def nvmlDeviceGetName(self, handle: int) -> bytes | str:  # noqa: N802, D102
        return b"NVIDIA RTX" if handle else "NVIDIA GeForce RTX 4090"

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802, D102
        return f"GPU-{handle}"

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:  # noqa: N802, D102
        return SimpleNamespace(gpu=40 + handle, memory=12)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802, D102
        return 187_500

    def nvmlDeviceGetComputeRunningProcesses(  # noqa: N802, D102
        self, handle: int
    ) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=77, usedGpuMemory=4 * 2**30 if handle == 0 else None)]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Put the made-up driver where nvidia-ml-py would be."""
    made = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", made)
    return made


def test_each_gpu_tells_memory_load_power_and_users(driver: Driver) -> None:
    """Who else uses the card is what most surprises are about; the driver is let go again."""
    first, second = gpus()
    assert first == Gpu(
        index=0,
        name="NVIDIA GeForce RTX 4090",
        uuid="GPU-0",
        total=24 * 2**30,
        free=20 * 2**30,
        busy=40,
        memory_busy=12,
        power_w=187.5,
        users=(User(77, 4 * 2**30),),
    )
    assert (second.name, second.users) == ("NVIDIA RTX", (User(77, None),))
    assert driver.open == 0


def test_what_a_gpu_does_not_support_is_left_out(driver: Driver) -> None:
    """Laptops and virtual GPUs lack counters; their memory is told all the same."""
    driver.missing = {
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetComputeRunningProcesses",
    }
    first = gpus()[0]
    assert (first.free, first.busy, first.power_w, first.users) == (20 * 2**30, None, None, ())


def test_a_gpu_that_is_lost_does_not_hide_the_others(driver: Driver) -> None:
    """It fell off the bus, or is another container's."""
    driver.missing = {"gpu 0"}
    assert [one.index for one in gpus()] == [1]
    assert driver.open == 0


def test_without_a_driver_or_the_package_there_are_none(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most boxes have neither, and nothing may fail there."""
    driver.missing = {"nvmlInit"}
    assert gpus() == []
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus() == []
