"""The estimate against llama.cpp itself: what it would take, and what it takes."""

import asyncio
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_files import llama_gguf, needs_llama_cpp, real_model, with_metadata
from gguf_shapes import SHAPES, hybrid, latent, mamba, shaped
from local_models import NAME, model, serving, state_of

from tollway.providers.llamacpp import fit, probe
from tollway.providers.llamacpp.fit import Layout, estimate, resident_bytes
from tollway.providers.llamacpp.gguf import describe

pytestmark = [pytest.mark.local, pytest.mark.timeout(300)]

MIB = 2**20
LAYOUTS = {
    "one slot": (8192, Layout()),
    "eight slots, q8_0": (4096, Layout(slots=8, kv_type="q8_0")),
    "unified, short windows": (8192, Layout(slots=4, kv="unified", whole_windows=False)),
    "q4_0, small steps": (2048, Layout(slots=2, kv_type="q4_0", chunk=128)),
    "four slots on a CPU": (8192, fit.layout(4, "split", "f16", on_gpu=False)),
}
# Architectures whose memory follows other rules than plain attention; no weights are needed.
STATES: dict[str, tuple[str, dict[str, Any]]] = {
    "windows by a list": (
        "gemma3",
        {"attention.sliding_window": 1024, "attention.sliding_window_pattern": [True, False] * 3},
    ),
    "windows of another period": (
        "gemma3",
        {"attention.sliding_window": 1024, "attention.sliding_window_pattern": 3},
    ),
    "no windows after all": ("gemma3", {"attention.sliding_window": 0}),
}


@pytest.fixture(autouse=True)
def _needs_llama_cpp() -> None:
    needs_llama_cpp()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_estimate_is_what_llama_cpp_would_take(tmp_path: Path, shape: str, layout: str) -> None:
    """Real shapes from 1 to 30 billion parameters: the cache exactly, the whole within 2 %."""
    path = shaped(tmp_path / "model.gguf", **SHAPES[shape])
    context, laid = LAYOUTS[layout]
    need = estimate(describe(path), context, laid)
    said = probe.ask(probe.Question(str(path), context, laid))
    assert (said.fault, said.message) == ("", "")
    assert need.cache == pytest.approx(said.cache, abs=0.02 * MIB)
    work = sum(said.work.values())
    assert need.work == pytest.approx(work, rel=0.15)
    assert need.weights + need.cache + need.work == pytest.approx(
        need.weights + said.cache + work, rel=0.02
    )


@pytest.mark.parametrize("pooling", [1, 3])
@pytest.mark.parametrize("shape", ["llama-8b", "qwen3-4b", "gemma2-2b", "gemma-embedding"])
def test_the_estimate_of_embeddings_is_what_llama_cpp_would_take(
    tmp_path: Path, shape: str, pooling: int
) -> None:
    """One context for all slots; each token an output, or where the last is pooled only ends."""
    facts = dict(SHAPES.get(shape) or SHAPES["gemma3-1b"] | {"architecture": shape})
    facts["more"] = dict(facts.get("more", {})) | {"pooling_type": pooling}
    path = shaped(tmp_path / "model.gguf", **facts)
    info, laid = describe(path), fit.layout(4, "split", "f16", on_gpu=False)
    for wanted in (512, 8192):
        context = fit.usable_context(info, wanted)
        need = estimate(info, context, laid)
        asked = probe.Question(str(path), context, laid, pooling=pooling, whole=info.whole)
        said = probe.ask(asked)
        assert (said.fault, said.message) == ("", "")
        assert need.cache == pytest.approx(said.cache, abs=0.02 * MIB)
        assert need.work == pytest.approx(sum(said.work.values()), rel=0.15)


@pytest.mark.parametrize("case", STATES)
def test_windows_are_counted_by_the_files_own_pattern(tmp_path: Path, case: str) -> None:
    """A file may say which layers see all of the context, as a list or as a period."""
    architecture, more = STATES[case]
    path = shaped(
        tmp_path / "m.gguf", architecture, layers=6, norms="qk post", tied=True, more=more
    )
    layout = Layout(slots=2, whole_windows=False)
    said = probe.ask(probe.Question(str(path), 8192, layout))
    assert (said.fault, said.message) == ("", "")
    assert estimate(describe(path), 8192, layout).cache == pytest.approx(said.cache, abs=0.02 * MIB)


@pytest.mark.parametrize("write", [mamba, hybrid, latent])
def test_memory_that_is_not_plain_attention_is_counted_by_its_own_rule(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    """States of recurrent layers, one for each slot; compressed vectors, of which there is one."""
    path = write(tmp_path / "m.gguf")
    for layout in (Layout(), Layout(slots=3)):
        said = probe.ask(probe.Question(str(path), 4096, layout))
        assert (said.fault, said.message) == ("", "")
        found = estimate(describe(path), 4096, layout).cache
        assert found > 0
        assert found == pytest.approx(said.cache, abs=0.02 * MIB)


def allocated(folder: Path) -> float:
    """Return the bytes of the buffers that the one worker's llama.cpp says it made."""
    (log,) = (folder / "logs").glob("*.log")
    sizes = re.findall(r" buffer size = +([\d.]+) MiB", log.read_text())
    return sum(float(size) for size in sizes) * MIB


@pytest.mark.parametrize(
    "how",
    [
        {"context": 512},
        {"context": 4096},
        {"context": 2048, "slots": 4, "kv_type": "q8_0"},
        {"context": 1024, "slots": 4, "kv": "unified"},
    ],
    ids=str,
)
async def test_the_estimate_is_what_a_worker_takes(tmp_path: Path, how: dict[str, Any]) -> None:
    """The real model, loaded: llama.cpp's own figures and the process's memory, within 10 %."""
    one = model(real_model(), **how)
    need = estimate(describe(one.path), one.context, one.layout)
    async with serving(tmp_path, one) as local:
        await local.load(NAME)
        pid = state_of(local).pid
        assert pid
        held, mapped = resident_bytes(pid)
        buffers = allocated(tmp_path)
    assert need.weights + need.cache + need.work == pytest.approx(buffers, rel=0.1)
    if held and not _is_in_ram(real_model()):  # where the system tells
        assert mapped >= need.weights
        assert need.total == pytest.approx(held, rel=0.1)


_QUANTISE = """
import sys, llama_cpp as llama
params = llama.llama_model_quantize_default_params()
params.ftype, params.allow_requantize = llama.LLAMA_FTYPE_MOSTLY_Q4_0, True
sys.exit(llama.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), params))
"""


async def test_weights_that_are_repacked_count_once(tmp_path: Path) -> None:
    """llama.cpp copies Q4_0 out of the mapped file for the CPU, and nobody looks there again."""
    # Where the model is that it is made of: tests' own folder is in RAM, whose files are no
    # mapped ones.
    with tempfile.TemporaryDirectory(dir=sys.prefix) as folder:
        path = Path(folder, "q4_0.gguf")
        words = [sys.executable, "-c", _QUANTISE, str(real_model()), str(path)]
        await asyncio.to_thread(subprocess.run, words, check=True, stderr=subprocess.DEVNULL)
        one = model(path, context=512)
        need = estimate(describe(path), 512, one.layout)
        async with serving(tmp_path, one) as local:
            await local.load(NAME)
            told, pid = state_of(local).rss_bytes, state_of(local).pid
            assert pid
            held, mapped = resident_bytes(pid)
    if _is_in_ram(Path(sys.prefix)):
        pytest.skip("files of this Python lie in RAM")
    if held:  # where the system tells
        assert mapped >= need.weights
        assert told == pytest.approx(need.total, rel=0.1)
        assert told >= held - mapped


def _is_in_ram(folder: Path) -> bool:
    """Return whether a folder's files take no disk."""
    said = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, check=False)
    return said.stdout.strip() in {b"tmpfs", b"ramfs"}


@pytest.mark.parametrize(("pooling", "longest"), [(1, fit.EMBED_TOKENS), (3, 8192)])
async def test_the_estimate_of_embeddings_is_what_a_worker_takes(
    tmp_path: Path, pooling: int, longest: int
) -> None:
    """The real model with a pooling type: its context is its longest text, whatever was asked."""
    path = tmp_path / "embeds.gguf"
    with_metadata(real_model(), path, "llama.pooling_type", pooling)
    info, one = describe(path), model(path, context=8192, slots=4)
    need = estimate(info, fit.usable_context(info, one.context), one.layout)
    async with serving(tmp_path, one) as local:
        await local.load(NAME)
        assert local.context_of(NAME) == longest
    assert need.weights + need.cache + need.work == pytest.approx(allocated(tmp_path), rel=0.1)


def test_an_architecture_that_llama_cpp_does_not_know_is_named(tmp_path: Path) -> None:
    """The header alone cannot tell; llama.cpp can, before anything is loaded."""
    said = probe.ask(probe.Question(str(shaped(tmp_path / "m.gguf", "llamapus")), 512))
    assert said.fault == "architecture"
    assert "does not know the architecture `llamapus`" in said.message
    assert [one.kind for one in said.devices][-1] == "cpu"


def test_a_file_that_lacks_a_tensor_is_refused_with_its_name(tmp_path: Path) -> None:
    """It is whole by its own account, and no model by llama.cpp's."""
    path = tmp_path / "m.gguf"
    path.write_bytes(llama_gguf())
    said = probe.ask(probe.Question(str(path), 512))
    assert said.fault == "file"
    assert said.message.startswith("llama.cpp cannot load the file: ")


def test_devices_are_told_without_a_model() -> None:
    """What there is to compute with, and its memory."""
    said = probe.ask(probe.Question())
    assert said.fault == ""
    cpu = next(one for one in said.devices if one.kind == "cpu")
    assert 0 < cpu.free <= cpu.total


def test_a_build_that_crashes_is_told_and_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library for another CPU ends its process with a signal, and only that."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -ILL $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    said = probe.ask(probe.Question())
    assert said.fault == "crash"
    assert f"signal {signal.SIGILL.value}" in said.message


def test_a_build_that_hangs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's driver may never answer; nobody waits for it for ever."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    assert probe.ask(probe.Question(), within_s=0.2).fault == "crash"
