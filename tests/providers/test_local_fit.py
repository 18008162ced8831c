"""What a model needs, what there is, and who must make room."""

import os
from pathlib import Path

import pytest
from gguf_files import llama_gguf
from hypothesis import given
from hypothesis import strategies as st

from tollway.providers.errors import LocalModelFailed
from tollway.providers.llamacpp.fit import (
    Offload,
    available_memory,
    estimate,
    layers_that_fit,
    offload,
    require_room,
    resident_bytes,
    size,
    usable_context,
)
from tollway.providers.llamacpp.gguf import ModelInfo, describe
from tollway.providers.llamacpp.pool import Loaded, make_room

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
    assert need.total == need.weights + need.cache + need.work
    assert need.work > 128 * MIB


def test_a_context_beyond_the_training_is_not_used(info: ModelInfo) -> None:
    """Past it a model answers nonsense, which nobody asked for."""
    assert usable_context(info, 8192) == 4096
    assert usable_context(info, 1024) == 1024


def test_too_large_is_refused_with_numbers_and_the_knob(info: ModelInfo) -> None:
    """Whoever meets the refusal learns what would close the gap."""
    room = estimate(info, 1024).total
    with pytest.raises(LocalModelFailed) as refused:
        require_room("small", info, 4096, room)
    assert "`small` needs" in refused.value.message
    assert f"{size(room)} are free" in refused.value.message
    assert "`models.small.context = 1024`" in refused.value.hint
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


def test_layers_go_to_a_gpu_as_far_as_they_fit(info: ModelInfo) -> None:
    """`gpu_layers = "auto"`: what does not fit stays on the CPU."""
    plan = Offload(layers=33, layer_bytes=100, fixed_bytes=500)
    assert [layers_that_fit(plan, free) for free in (0, 500, 750, 10_000)] == [0, 0, 2, 33]
    assert layers_that_fit(offload(info, 1024), 2**40) == info.layers + 1


def test_room_is_made_by_the_longest_idle() -> None:
    """Busy and pinned models stay; nobody goes when that would not be enough."""
    loaded = [
        Loaded("new", held=10, idle_s=1),
        Loaded("old", held=10, idle_s=100),
        Loaded("busy", held=100, idle_s=200, busy=True),
        Loaded("pinned", held=100, idle_s=300, pinned=True),
    ]
    assert make_room(5, 5, loaded) == []
    assert make_room(12, 5, loaded) == ["old"]
    assert make_room(25, 5, loaded) == ["old", "new"]
    assert make_room(26, 5, loaded) is None


@given(
    need=st.integers(0, 200),
    free=st.integers(0, 200),
    held=st.lists(st.integers(0, 50), max_size=6),
)
def test_room_made_is_enough_and_not_too_much(need: int, free: int, held: list[int]) -> None:
    """The last one to go was needed."""
    loaded = [Loaded(str(at), held=one, idle_s=at) for at, one in enumerate(held)]
    out = make_room(need, free, loaded)
    if out is None:
        assert free + sum(held) < need
    else:
        gained = [held[int(name)] for name in out]
        assert free + sum(gained) >= need
        assert not out or free + sum(gained[:-1]) < need
