"""Whether local models can run here at all, and the exact words that make them."""

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Literal

LLAMA_CPP_PYTHON = "0.3.36"  # pinned: llama.cpp's struct layouts change between releases

Gpu = Literal["cuda", "hip", "metal"]

# Without GGML_NATIVE=OFF the compiler uses all that the building CPU has, which with GCC 12 on
# CPUs with AMX gives a library that crashes at its first token.
_PORTABLE = "-DGGML_NATIVE=OFF"
_BUILDS = {
    "cuda": ("NVIDIA", f"{_PORTABLE} -DGGML_CUDA=on"),
    "hip": ("AMD (ROCm)", f"{_PORTABLE} -DGGML_HIP=on"),
    "vulkan": ("any GPU, through Vulkan", f"{_PORTABLE} -DGGML_VULKAN=on"),
    "metal": ("Apple", "-DGGML_METAL=on"),
    "cpu": ("no GPU", _PORTABLE),
}
# What a CPU says that it has, and how ggml is told to use it. AMX is left out; see above.
_AVX512 = {"avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"}
_MORE = {
    "avx512vbmi": "AVX512_VBMI", "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16", "avx_vnni": "AVX_VNNI",
}  # fmt: skip


def installed() -> bool:
    """Return whether this Python has llama_cpp, without importing it."""
    return importlib.util.find_spec("llama_cpp") is not None


def gpu() -> Gpu | None:
    """Return which GPU this machine seems to have, by its drivers."""
    if sys.platform == "darwin":
        return "metal"
    if shutil.which("nvidia-smi") or Path("/dev/nvidiactl").exists():
        return "cuda"
    return "hip" if Path("/dev/kfd").exists() else None


def install_line() -> str:
    """Return the command that installs llama-cpp-python for this machine."""
    return _line(gpu() or "cpu")


def unused(layers: int | str) -> tuple[str, str]:
    """Return what to say of a `gpu_layers` where llama.cpp is built without a GPU, and the fix.

    Both are "" where it asks for no more than there is.
    """
    if layers in {0, "auto"}:
        return "", ""
    said = f'"{layers}"' if isinstance(layers, str) else layers
    told = f"`gpu_layers = {said}` does nothing: llama-cpp-python is built for the CPU alone"
    if gpu():
        return told, install_line()
    return told, f'`gpu_layers = "auto"` uses a GPU where there is one. With one: {_line("vulkan")}'


def install_help() -> str:
    """Return what to install for local models, this machine's line first. Several lines."""
    here = gpu() or "cpu"
    others = [f"  {_BUILDS[kind][0]}:\n    {_line(kind)}" for kind in _BUILDS if kind != here]
    return "\n".join(
        [
            f"Local models need llama-cpp-python {LLAMA_CPP_PYTHON}. For this machine"
            f" ({_BUILDS[here][0]}):",
            f"    {_line(here)}",
            *_faster(here),
            "It is compiled for some minutes and needs a C and C++ compiler and CMake; a GPU build"
            " needs that GPU's toolkit too.",
            "Other builds:",
            *others,
            "After a wrong build, add --force-reinstall",
        ]
    )


def cpu_flags(cpuinfo: str) -> list[str]:
    """Return how ggml is told to use what a CPU has beyond AVX2; `cpuinfo` as Linux writes it."""
    found = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    has = set(found.partition(":")[2].split())
    names = ["AVX512"] if has >= _AVX512 else []
    names += sorted({name for flag, name in _MORE.items() if flag in has})
    return [f"-DGGML_{name}=ON" for name in names if names[0] == "AVX512" or name == "AVX_VNNI"]


def _faster(kind: str) -> list[str]:
    try:
        flags = cpu_flags(Path("/proc/cpuinfo").read_text())
    except OSError:
        return []
    if kind != "cpu" or not flags:
        return []
    return [
        "A quarter to a half faster on this CPU, and for none with less:",
        f"    {_line(kind, *flags)}",
    ]


def _line(kind: str, *more: str) -> str:
    # Into the very Python that runs this, wherever a tool installer has put it. Past pip's cache,
    # which does not know CMAKE_ARGS and may hold a wheel of another build.
    pip = f"{sys.executable} -m pip install --no-cache-dir"
    args = " ".join([_BUILDS[kind][1], *more])
    return f'CMAKE_ARGS="{args}" {pip} llama-cpp-python=={LLAMA_CPP_PYTHON}'
