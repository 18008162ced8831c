"""What happens where llama-cpp-python is not installed, or is another version."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from gguf_files import llama_gguf, real_model
from local_models import NAME, chat, model, serving, state_of

from tollway.providers.errors import LocalModelFailed
from tollway.providers.llamacpp.fit import Offload
from tollway.providers.llamacpp.frames import Load, LoadFailed, frame_length, pack, read_up
from tollway.providers.llamacpp.install import (
    LLAMA_CPP_PYTHON,
    cpu_flags,
    install_help,
    install_line,
    installed,
)


def test_the_help_has_every_build() -> None:
    """The line for this machine comes first, then the others; the CPU's is the portable one."""
    told = install_help()
    assert install_line() in told
    pip = f"{sys.executable} -m pip install --no-cache-dir llama-cpp-python=={LLAMA_CPP_PYTHON}"
    assert f'CMAKE_ARGS="-DGGML_NATIVE=OFF" {pip}' in told
    for flag in ("-DGGML_CUDA=on", "-DGGML_VULKAN=on", "-DGGML_HIP=on", "-DGGML_METAL=on"):
        assert flag in told
    assert LLAMA_CPP_PYTHON in told
    assert told.index(install_line()) < told.index("Other builds")


FLAGS = "avx512f avx512cd avx512vl avx512dq avx512bw"


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("sse2 avx2", []),
        ("avx2 avx_vnni", ["AVX_VNNI"]),
        (FLAGS, ["AVX512"]),
        # AMX crashes where GCC 12 has built it.
        (f"{FLAGS} avx512_vnni amx_int8 avx512_bf16", ["AVX512", "AVX512_BF16", "AVX512_VNNI"]),
        ("avx512f avx512vbmi avx_vnni", ["AVX_VNNI"]),
    ],
)
def test_a_cpus_own_build_names_what_it_has(flags: str, wanted: list[str]) -> None:
    """And nothing that it lacks, which would end the process at the first such instruction."""
    told = cpu_flags(f"processor : 0\nflags\t\t: fpu {flags}\nprocessor : 1\n")
    assert told == [f"-DGGML_{name}=ON" for name in wanted]


def test_the_pinned_version_is_the_one_that_is_asked_for() -> None:
    """pyproject.toml and the worker's check must not drift apart."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert f'"llama-cpp-python=={LLAMA_CPP_PYTHON}"' in project.read_text()


async def test_without_llama_cpp_python_a_call_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The core install has local models in its configuration and cannot run them."""
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    assert not installed()
    path = tmp_path / "m.gguf"
    path.write_bytes(llama_gguf())
    async with serving(tmp_path, model(path)) as local:
        with pytest.raises(LocalModelFailed, match="not installed") as fault:
            await local.send(NAME, "chat", chat("hi"))
        assert install_line() in fault.value.hint
        assert state_of(local).state == "failed"
        assert state_of(local).pid is None


def test_the_daemon_side_imports_no_engine() -> None:
    """Its faults would be the daemon's, and it costs memory that every daemon would pay."""
    code = (
        "import sys, tollway.providers.llamacpp.adapter\n"
        "print(sorted({'llama_cpp', 'numpy', 'jinja2'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.local
def test_another_version_is_refused_before_it_is_used() -> None:
    """Struct layouts change: calling on would corrupt memory."""
    path = real_model()
    ours, its = socket.socketpair()
    with (
        ours,
        subprocess.Popen(
            [sys.executable, "-c", "import runpy, sys, os; sys.argv[2] = str(os.getppid());"
             "runpy.run_module('tollway.providers.llamacpp.child', run_name='__main__')",
             str(its.fileno()), "0"],
            pass_fds=(its.fileno(),),
        ) as child,
    ):  # fmt: skip
        its.close()
        ours.sendall(pack([Load(str(path), 512, 0, Offload((1,), 1), None, "0.0.1")]))
        head = ours.recv(4, socket.MSG_WAITALL)
        (failed,) = read_up(ours.recv(frame_length(head), socket.MSG_WAITALL))
        assert isinstance(failed, LoadFailed)
        assert failed.kind == "version"
        assert "0.0.1 is needed" in failed.message
        assert child.wait(30) == 3
