"""What a model needs, what there is, and who must make room."""

import os
from pathlib import Path

import msgspec
import pytest
from gguf_files import llama_gguf
from gguf_shapes import LLAMA_8B, QWEN3_4B, shaped
from hypothesis import given
from hypothesis import strategies as st

from tollway.providers.errors import LocalModelFailed
from tollway.providers.llamacpp.fit import (
    GPU_RESERVE,
    Layout,
    Offload,
    available_memory,
    estimate,
    layers_that_fit,
    offload,
    place,
    require_room,
    resident_bytes,
    size,
    usable_context,
)
from tollway.providers.llamacpp.gguf import ModelInfo, describe
from tollway.providers.llamacpp.pool import Loaded, who_leaves

MIB = 2**20


@pytest.fixture
def info(tmp_path: Path) -> ModelInfo:
    """Describe a small model file."""
    path = tmp_path / "small.gguf"
    path.write_bytes(llama_gguf())
    return describe(path)


def test_the_estimate_is_weights_cache_and_work(info: ModelInfo) -> None:
    """Weights and cache are exact; llama.cpp's cache is in steps of 256 cells."""
    need = estimate(info, 1000)
    assert need.weights == 2048
    assert need.cache == 256 * 1024
    assert need.total == need.weights + need.cache + need.work + need.process


def test_slots_multiply_the_cache_and_its_type_divides_it(info: ModelInfo) -> None:
    """Each slot has the whole context; q8_0 takes 34 bytes for 32 numbers instead of 64."""
    one = estimate(info, 1024).cache
    assert estimate(info, 1024, Layout(slots=4)).cache == 4 * one
    assert estimate(info, 1024, Layout(slots=4, kv="unified")).cache == 4 * one
    assert estimate(info, 1024, Layout(kv_type="q8_0")).cache == one * 34 // 64
    assert estimate(info, 1024, Layout(kv_type="q4_0")).cache == one * 18 // 64


def test_a_context_beyond_the_training_is_not_used(info: ModelInfo) -> None:
    """Past it a model answers nonsense, which nobody asked for."""
    assert usable_context(info, 8192) == 4096
    assert usable_context(info, 1024) == 1024


def test_a_model_of_embeddings_has_the_context_of_its_longest_text(info: ModelInfo) -> None:
    """More of it is memory in which nothing ever stands, and a window that is not there."""
    embeds = msgspec.structs.replace(info, pooling="mean")
    assert usable_context(embeds, 4096) == 2048
    assert usable_context(embeds, 512) == 512


def test_too_large_is_refused_with_numbers_and_the_knob(info: ModelInfo) -> None:
    """Whoever meets the refusal learns what would close the gap."""
    room = estimate(info, 1024).total
    with pytest.raises(LocalModelFailed) as refused:
        require_room("small", info, 4096, room)
    assert "`small` needs" in refused.value.message
    assert f"{size(room)} are free" in refused.value.message
    assert "`models.small.context = 1024`" in refused.value.hint
    assert 'kv_type = "q8_0"' not in refused.value.hint  # it would not be enough
    with pytest.raises(LocalModelFailed) as refused:
        require_room("small", info, 4096, 1 * MIB)
    assert "smaller quantisation" in refused.value.hint
    assert require_room("small", info, 1024, room).total == room


def test_memory_is_read_from_the_system() -> None:
    """On Linux a number that a machine can have; our own process has some of it."""
    free = available_memory()
    if free is not None:
        assert 0 < free < 2**50
        held, mapped = resident_bytes(os.getpid())
        assert held > mapped > 0
    assert resident_bytes(2**22 + 1) == (0, 0)


def test_the_way_out_names_every_knob_that_alone_would_do(info: ModelInfo) -> None:
    """Fewer slots first: they cost nobody an answer's length or its quality."""
    layout = Layout(slots=4)
    room = estimate(info, 4096, Layout(slots=4, kv_type="q8_0")).total
    with pytest.raises(LocalModelFailed) as refused:
        require_room("small", info, 4096, room, layout)
    assert "4096 tokens for each of 4 slots" in refused.value.message
    assert refused.value.hint.startswith("`models.small.slots = 2` would need ")
    assert "or `models.small.context = 2048`" in refused.value.hint
    assert 'or `models.small.kv_type = "q8_0"`' in refused.value.hint


def test_layers_go_to_a_gpu_as_far_as_they_fit(info: ModelInfo) -> None:
    """`gpu_layers = "auto"`: the output first, then from the last layer on, as llama.cpp does."""
    plan = Offload(each=(50, *[100] * 32), fixed=500)
    assert [layers_that_fit(plan, free) for free in (0, 549, 550, 750, 10_000)] == [0, 0, 1, 3, 33]
    assert layers_that_fit(offload(info, 1024), 2**40) == info.layers + 1


def test_what_is_not_on_the_gpu_is_in_memory(tmp_path: Path) -> None:
    """The embedding stays in RAM, each layer goes with its share of the cache."""
    info = describe(shaped(tmp_path / "8b.gguf", **LLAMA_8B))
    need = estimate(info, 8192)
    none = place(info, 8192)
    assert (none.layers, none.of, none.gpu, none.ram) == (0, 33, 0, need.total)
    whole = place(info, 8192, free=[24 * 2**30])
    assert whole.layers == 33
    embedding = 128256 * 4096 // 256 * 144
    assert whole.gpu == need.weights - embedding + need.cache + need.work
    assert whole.ram == embedding + need.process
    some = place(info, 8192, free=[4 * 2**30])
    assert 0 < some.layers < 33
    assert some.gpu <= 4 * 2**30 - GPU_RESERVE < some.gpu + offload(info, 8192).each[some.layers]
    assert some.gpu + some.ram == need.total
    assert place(info, 8192, wanted=5, free=[1]).layers == 5
    assert place(info, 8192, wanted="all", free=[1]).layers == 33
    assert place(info, 8192, wanted="all").layers == 0  # there is no GPU
    two = place(info, 8192, free=[3 * 2**30, 3 * 2**30])
    assert two.layers == layers_that_fit(offload(info, 8192), 5 * 2**30)


def test_tied_weights_are_counted_where_they_are_copied(tmp_path: Path) -> None:
    """A model whose output is its embedding has it twice once that output is on a GPU."""
    info = describe(shaped(tmp_path / "4b.gguf", **QWEN3_4B))
    whole = place(info, 4096, free=[48 * 2**30])
    need = estimate(info, 4096)
    assert whole.layers == 37
    assert whole.gpu + whole.ram == need.total + info.output_bytes


def test_room_is_made_by_the_longest_idle() -> None:
    """Busy and pinned models stay; nobody goes when that would not be enough."""
    loaded = [
        Loaded("new", held=10, idle_s=1),
        Loaded("old", held=10, idle_s=100),
        Loaded("busy", held=100, idle_s=200, busy=True),
        Loaded("pinned", held=100, idle_s=300, pinned=True),
    ]
    assert who_leaves(5, 5, loaded) == []
    assert who_leaves(12, 5, loaded) == ["old"]
    assert who_leaves(25, 5, loaded) == ["old", "new"]
    assert who_leaves(26, 5, loaded) is None


@given(
    need=st.integers(0, 200),
    free=st.integers(0, 200),
    held=st.lists(st.integers(0, 50), max_size=6),
)
def test_room_made_is_enough_and_not_too_much(need: int, free: int, held: list[int]) -> None:
    """The last one to go was needed."""
    loaded = [Loaded(str(at), held=one, idle_s=at) for at, one in enumerate(held)]
    out = who_leaves(need, free, loaded)
    if out is None:
        assert free + sum(held) < need
    else:
        gained = [held[int(name)] for name in out]
        assert free + sum(gained) >= need
        assert not out or free + sum(gained[:-1]) < need
