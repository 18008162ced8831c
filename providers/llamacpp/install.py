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


def install_help() -> str:
    """Return what to install for local models, this machine's line first. Several lines."""
    here = gpu() or "cpu"
    others = [f"  {_BUILDS[kind][0]}:\n    {_line(kind)}" for kind in _BUILDS if kind != here]
    return "\n".join(
        [
            f"Local models need llama-cpp-python {LLAMA_CPP_PYTHON}. For this machine"
            f" ({_BUILDS[here][0]}):",
            f"    {_line(here)}",
            "It is compiled for some minutes and needs a C and C++ compiler and CMake; a GPU build"
            " needs that GPU's toolkit too.",
            "Other builds:",
            *others,
            "After a wrong build, add --force-reinstall",
        ]
    )


def _line(kind: str) -> str:
    # Into the very Python that runs this, wherever a tool installer has put it. Past pip's cache,
    # which does not know CMAKE_ARGS and may hold a wheel of another build.
    pip = f"{sys.executable} -m pip install --no-cache-dir"
    return f'CMAKE_ARGS="{_BUILDS[kind][1]}" {pip} llama-cpp-python=={LLAMA_CPP_PYTHON}'
