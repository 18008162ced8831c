"""Reads the header of a GGUF file: what the model is, and whether all of it is there.

Written for files that nobody vouches for: every count and length is checked against what is
left of the file before anything is allocated, and nothing is raised but `GgufError`.
"""

import re
import struct
from pathlib import Path
from typing import BinaryIO, Literal, TypeGuard

import msgspec

from tollway.providers.errors import GatewayError
from tollway.providers.llamacpp.dimensions import MOST_LAYERS, Dimensions, Facts, dimensions_of

MAGIC = b"GGUF"
_POINTER = b"version https://git-lfs"
VERSIONS = (2, 3)  # version 1 is older than any model that llama.cpp still loads
MAX_PAIRS = 65_536
MAX_TENSORS = 65_536
MAX_KEY = 65_535
MAX_TEXT = 16 * 2**20
MAX_HEADER = 64 * 2**20  # the largest vocabularies of 2026 take 20 MB; this bounds all our work
KEPT_ITEMS = 4_096  # longer arrays (vocabularies, merges) are counted, not kept
MAX_SHARDS = 1_000

Pooling = Literal["none", "mean", "cls", "last", "rank"]
POOLINGS: tuple[Pooling, ...] = ("none", "mean", "cls", "last", "rank")

_TEXT, _ARRAY = 8, 9
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
    10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip

# Tensor types by number: name, elements in a block, bytes of a block.
_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2),
    26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip

# `general.file_type` by number.
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0",
    38: "MXFP4", 39: "NVFP4", 40: "Q1_0",
}  # fmt: skip


_AGAIN = "It was not copied or downloaded whole; fetch it again"

# Architectures that only embed. The others' graphs turn each token into an output as well, also
# where embeddings are all that is asked for.
ENCODERS = re.compile("bert|embed|t5encoder")


class GgufError(GatewayError):
    """The file is no GGUF model, or not a whole one."""

    status = 400
    code = "model_file_invalid"


class Array(msgspec.Struct, frozen=True):
    """An array of the metadata; `items` is empty where `count` is over KEPT_ITEMS."""

    count: int
    items: tuple[object, ...] = ()


class Tensor(msgspec.Struct, frozen=True):
    """One tensor's place in the file; `offset` counts from the header's `data_at`."""

    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    size: int  # bytes


class Header(msgspec.Struct, frozen=True):
    """All that stands before the weights. `missing` is how many bytes the file lacks."""

    version: int
    metadata: dict[str, object]
    tensors: tuple[Tensor, ...]
    data_at: int
    missing: int


class ModelInfo(msgspec.Struct, frozen=True):
    """What a GGUF file says of its model. Sizes are bytes, contexts tokens."""

    name: str
    architecture: str
    parameters: int
    quantisation: str
    context_trained: int
    layers: int
    embedding: int  # the width of a hidden state
    heads: int
    vocabulary: int
    kv_bytes_per_token: int  # of an f16 cache over all layers; 0 where there is no attention
    feed_forward: int
    weights_bytes: int
    file_bytes: int
    chat_template: bool
    pooling: Pooling | None
    causal: bool
    dimensions: Dimensions = Dimensions()
    layer_bytes: tuple[int, ...] = ()  # the weights of each layer
    output_bytes: int = 0  # the weights that make a token of the last layer's output

    @property
    def embeds(self) -> bool:
        """Whether the model is made for embeddings."""
        return self.pooling in {"mean", "cls", "last"}

    @property
    def whole(self) -> bool:
        """Whether a text must be read in one step: each of its tokens sees, or counts in, the end.

        Otherwise the last token has seen all that comes before it, and is all that is needed.
        """
        sees_all = not self.causal or ENCODERS.search(self.architecture) is not None
        return self.pooling != "last" or sees_all


class _Reader:
    """A file read forwards, refusing to read past its end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self.at = 0

    def take(self, count: int) -> bytes:
        if self.at + count > min(MAX_HEADER, self._size) and self._size > MAX_HEADER:
            raise GgufError(f"The header is over {MAX_HEADER:,} bytes, more than any model's")
        if count > self._size - self.at:
            raise GgufError(
                f"The file ends at byte {self._size:,}, inside its header",
                hint=_AGAIN,
            )
        data = self._file.read(count)
        if len(data) != count:  # it shrank while we read
            raise GgufError("The file changed while its header was read")
        self.at += count
        return data

    def number(self, code: str) -> int:
        return int(struct.unpack(code, self.take(struct.calcsize(code)))[0])

    def text(self, limit: int) -> str:
        length = self.number("<Q")
        if length > limit:
            raise GgufError(f"A text of {length:,} bytes stands in the header; at most {limit:,}")
        return self.take(length).decode("utf-8", "replace")

    def pass_texts(self, count: int, limit: int) -> None:
        """Read on to behind so many texts, as quickly as Python can: vocabularies have 260,000."""
        read, left = self._file.read, min(MAX_HEADER, self._size) - self.at
        for _ in range(count):
            length = int.from_bytes(read(8), "little")
            left -= 8 + length
            if length > limit or left < 0:
                self.at = min(MAX_HEADER, self._size) - left - 8 - length
                self._file.seek(self.at)
                self.text(limit)  # which says what is wrong
            read(length)
        self.at = min(MAX_HEADER, self._size) - left
        if self._file.tell() != self.at:
            raise GgufError("The file changed while its header was read")


def read_header(file: BinaryIO, size: int) -> Header:
    """Return the header of a GGUF file of `size` bytes, read from its start.

    Raises:
        GgufError: It is no GGUF file, its header is cut short, or it makes no sense.
    """
    reader = _Reader(file, size)
    if not size:
        raise GgufError("The file is empty", hint=_AGAIN)
    if (begin := reader.take(min(size, len(MAGIC)))) != MAGIC:
        if (begin + file.read(len(_POINTER))).startswith(_POINTER):
            raise GgufError(
                "This is what Git LFS leaves in a model's place",
                hint="`git lfs pull` in its repository fetches the model itself",
            )
        raise GgufError(
            "This is no GGUF file: it does not begin with `GGUF`",
            hint="Models in other formats (safetensors, PyTorch) must be converted first",
        )
    version = reader.number("<I")
    if version not in VERSIONS:
        raise GgufError(
            f"The file says it is GGUF version {version}; versions 2 and 3 can be read",
            hint="A big-endian file shows a very large number here and must be converted",
        )
    tensor_count = _count(reader.number("<Q"), MAX_TENSORS, "tensors")
    pair_count = _count(reader.number("<Q"), MAX_PAIRS, "metadata entries")
    metadata: dict[str, object] = {}
    for _ in range(pair_count):
        key = reader.text(MAX_KEY)
        metadata[key] = _value(reader, reader.number("<I"))
    tensors = tuple(_tensor(reader) for _ in range(tensor_count))
    alignment = metadata.get("general.alignment", 32)
    if not _whole(alignment) or not 1 <= alignment <= 2**20 or alignment & (alignment - 1):
        raise GgufError(f"`general.alignment` is {alignment!r}, which is no power of two")
    data_at = -(-reader.at // alignment) * alignment
    end = data_at
    for tensor in tensors:
        if tensor.offset % alignment:
            raise GgufError(f"The tensor `{_short(tensor.name)}` does not begin where one may")
        end = max(end, data_at + tensor.offset + tensor.size)
    return Header(version, metadata, tensors, data_at, max(0, end - size))


def describe(path: Path) -> ModelInfo:
    """Return what a GGUF file holds, having checked that all of its tensors are there.

    A model split into several files (`...-00001-of-00003.gguf`) is described by its first.

    Raises:
        GgufError: It cannot be read, is no GGUF model, or is cut short; the message names it.
    """
    shards = [_open(path)]
    header = shards[0][0]
    count = header.metadata.get("split.count", 1)
    if _whole(count) and 1 < count <= MAX_SHARDS:
        shards += [_open(other) for other in _siblings(path, count)]
    try:
        return _info(
            header.metadata,
            [tensor for shard, _ in shards for tensor in shard.tensors],
            sum(size for _, size in shards),
        )
    except GgufError as fault:
        raise GgufError(f"`{path.name}`: {fault.message}", hint=fault.hint) from fault


def _open(path: Path) -> tuple[Header, int]:
    try:
        if path.is_dir():
            raise GgufError("This is a folder", hint="Name a file in it")
        if not path.is_file():
            raise GgufError(f"There is no file `{path.name}`")
        with path.open("rb") as file:
            size = path.stat().st_size
            header = read_header(file, size)
    except OSError as fault:
        raise GgufError(f"`{path.name}` cannot be read: {fault.strerror or fault}") from fault
    except GgufError as fault:
        if fault.message.startswith("There is no file"):
            raise
        raise GgufError(f"`{path.name}`: {fault.message}", hint=fault.hint) from fault
    if header.missing:
        raise GgufError(
            f"`{path.name}` is cut short: {header.missing:,} of {size + header.missing:,} bytes"
            " are missing",
            hint=_AGAIN,
        )
    return header, size


def files_of(path: Path) -> list[Path]:
    """Return the files of a model, by the name of its first: several where it is split."""
    first = re.fullmatch(r".*-00001-of-(\d{5})\.gguf", path.name)
    count = int(first[1]) if first else 1
    return [path, *_siblings(path, count)] if 1 < count <= MAX_SHARDS else [path]


def _siblings(path: Path, count: int) -> list[Path]:
    numbered = re.fullmatch(r"(.*-)(\d{5})(-of-\d{5}\.gguf)", path.name)
    if not numbered or int(numbered[2]) != 1:
        raise GgufError(
            f"`{path.name}` is one of {count} files of a split model",
            hint="Name the first of them, `...-00001-of-" + f"{count:05d}.gguf`",
        )
    return [
        path.with_name(f"{numbered[1]}{number:05d}{numbered[3]}") for number in range(2, count + 1)
    ]


def _count(count: int, limit: int, what: str) -> int:
    if count > limit:
        raise GgufError(f"The header claims {count:,} {what}; at most {limit:,} are believed")
    return count


def _value(reader: _Reader, kind: int) -> object:
    if kind == _TEXT:
        return reader.text(MAX_TEXT)
    if kind == _ARRAY:
        return _array(reader)
    if kind not in _SCALARS:
        raise GgufError(f"The metadata holds a value of the unknown type {kind}")
    code = _SCALARS[kind]
    return struct.unpack(code, reader.take(struct.calcsize(code)))[0]


def _array(reader: _Reader) -> Array:
    kind, count = reader.number("<I"), reader.number("<Q")
    keep = count <= KEPT_ITEMS
    if kind == _TEXT:
        # Each text takes 8 bytes or more, so a false count ends at the end of the file.
        if keep:
            return Array(count, tuple(reader.text(MAX_TEXT) for _ in range(count)))
        reader.pass_texts(count, MAX_TEXT)
        return Array(count)
    if kind not in _SCALARS:
        raise GgufError(f"The metadata holds an array of the type {kind}, which no model has")
    code = _SCALARS[kind]
    raw = reader.take(count * struct.calcsize(code))
    return Array(count, tuple(item[0] for item in struct.iter_unpack(code, raw)) if keep else ())


def _tensor(reader: _Reader) -> Tensor:
    name = reader.text(MAX_KEY)
    dimensions = reader.number("<I")
    if not 1 <= dimensions <= 4:
        raise GgufError(f"The tensor `{_short(name)}` has {dimensions} dimensions")
    shape = tuple(reader.number("<Q") for _ in range(dimensions))
    number, offset = reader.number("<I"), reader.number("<Q")
    if number not in _TYPES:
        raise GgufError(f"The tensor `{_short(name)}` is of the unknown type {number}")
    kind, block, block_bytes = _TYPES[number]
    elements = 1
    for length in shape:
        elements *= length
    if elements > 2**62 or shape[0] % block:
        raise GgufError(f"The tensor `{_short(name)}` has a shape that {kind} cannot have")
    return Tensor(name, kind, shape, offset, elements // block * block_bytes)


def _info(metadata: dict[str, object], tensors: list[Tensor], file_bytes: int) -> ModelInfo:
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise GgufError("The file names no architecture, so it holds no model")
    kind = metadata.get("general.type", "model")
    if architecture == "clip" or kind not in {"model", ""}:
        what = "a projector for images" if architecture == "clip" else f"of the type {kind!r}"
        raise GgufError(f"The file is {what} and no model by itself")
    if not tensors:
        raise GgufError("The file holds no weights, only metadata")

    facts = Facts(architecture, metadata)
    dimensions = dimensions_of(architecture, metadata)
    layers, output = _by_layer(tensors, min(facts.whole("block_count"), MOST_LAYERS))
    name = metadata.get("general.name")
    tokens = metadata.get("tokenizer.ggml.tokens")
    pooling = metadata.get(f"{architecture}.pooling_type")
    return ModelInfo(
        name=name if isinstance(name, str) else "",
        architecture=architecture,
        parameters=sum(_elements(tensor) for tensor in tensors),
        quantisation=_quantisation(metadata, tensors),
        context_trained=facts.whole("context_length"),
        layers=facts.whole("block_count"),
        embedding=facts.whole("embedding_length"),
        heads=facts.whole("attention.head_count"),
        vocabulary=tokens.count if isinstance(tokens, Array) else facts.whole("vocab_size"),
        kv_bytes_per_token=sum(
            2 * one.layers * (one.keys + one.values) for one in dimensions.attention
        ),
        feed_forward=facts.whole("feed_forward_length"),
        weights_bytes=sum(tensor.size for tensor in tensors),
        file_bytes=file_bytes,
        chat_template=isinstance(metadata.get("tokenizer.chat_template"), str),
        pooling=POOLINGS[pooling] if _whole(pooling) and 0 <= pooling < len(POOLINGS) else None,
        causal=metadata.get(f"{architecture}.attention.causal") is not False,
        dimensions=dimensions,
        layer_bytes=layers,
        output_bytes=output,
    )


def _by_layer(tensors: list[Tensor], layers: int) -> tuple[tuple[int, ...], int]:
    """Return the bytes of each layer's weights, and those of the output's."""
    sizes = [0] * layers
    output = embedded = 0
    for tensor in tensors:
        block = re.match(r"blk\.(\d{1,5})\.", tensor.name)
        if block and int(block[1]) < layers:
            sizes[int(block[1])] += tensor.size
        elif tensor.name.startswith("output"):
            output += tensor.size
        elif tensor.name == "token_embd.weight":
            embedded = tensor.size
    if not any(tensor.name == "output.weight" for tensor in tensors):
        output += embedded  # the same weights, and on a GPU a copy of them
    return tuple(sizes), output


def _quantisation(metadata: dict[str, object], tensors: list[Tensor]) -> str:
    number = metadata.get("general.file_type")
    if _whole(number) and number in _FILE_TYPES:
        return _FILE_TYPES[number]
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.kind] = sizes.get(tensor.kind, 0) + tensor.size
    return max(sizes, key=lambda kind: sizes[kind])


def _elements(tensor: Tensor) -> int:
    elements = 1
    for length in tensor.shape:
        elements *= length
    return elements


def _short(name: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in name[:64])


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
