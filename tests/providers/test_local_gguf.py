"""The GGUF header: what is read, and what is refused without harm."""

import contextlib
import io
import struct
from pathlib import Path

import pytest
from gguf_files import llama_gguf, real_model, small_gguf
from hypothesis import given
from hypothesis import strategies as st

from tollway.providers.llamacpp.gguf import KEPT_ITEMS, Array, GgufError, describe, read_header

WHOLE = llama_gguf()


# A vocabulary that is counted and not kept; another entry stands behind it.
MANY = small_gguf({"words": ["ab"] * (KEPT_ITEMS + 1), "last": 7}, {})


def read(data: bytes) -> None:
    """Read a header from memory."""
    read_header(io.BytesIO(data), len(data))


def test_a_model_is_described_by_its_header(tmp_path: Path) -> None:
    """What `models add` shows and the memory estimate uses stands in the file."""
    path = tmp_path / "small.gguf"
    path.write_bytes(llama_gguf(llama__pooling_type=1))
    info = describe(path)
    assert (info.name, info.architecture, info.quantisation) == ("Small", "llama", "F32")
    assert (info.parameters, info.layers, info.context_trained) == (512, 2, 4096)
    assert (info.vocabulary, info.chat_template, info.pooling) == (4, True, "mean")
    assert info.weights_bytes == 2048
    assert info.file_bytes == path.stat().st_size
    # Two layers, two heads for keys and values of 16 numbers each, two bytes a number.
    assert info.kv_bytes_per_token == 2 * 2 * (16 + 16) * 2


def test_key_and_value_heads_may_differ_by_layer(tmp_path: Path) -> None:
    """Some architectures write one count for each layer."""
    path = tmp_path / "small.gguf"
    path.write_bytes(llama_gguf(llama__attention__head_count_kv=[1, 3]))
    assert describe(path).kv_bytes_per_token == (1 + 3) * (16 + 16) * 2


def test_a_truncated_file_is_named_with_what_is_missing(tmp_path: Path) -> None:
    """A download that broke off is the commonest bad file; it must not reach llama.cpp."""
    path = tmp_path / "broken.gguf"
    path.write_bytes(WHOLE[:-100])
    with pytest.raises(GgufError, match=r"`broken.gguf` is cut short: 100 of 2,688 bytes"):
        describe(path)


@given(st.integers(0, MANY.index(b"last")), st.none() | st.binary(min_size=1, max_size=9))
def test_a_vocabulary_is_passed_over_or_refused(at: int, damage: bytes | None) -> None:
    """Cut anywhere it is refused; damaged, it is as a short one would be: read or refused."""
    if damage is None:
        with pytest.raises(GgufError):
            read(MANY[:at])
        return
    with contextlib.suppress(GgufError):
        read(MANY[:at] + damage + MANY[at + len(damage) :])


def test_what_stands_behind_a_vocabulary_is_read() -> None:
    """Its texts are counted, and a length that is no length is told as it is elsewhere."""
    metadata = read_header(io.BytesIO(MANY), len(MANY)).metadata
    assert metadata == {"words": Array(KEPT_ITEMS + 1), "last": 7}
    at = MANY.index(struct.pack("<Q", 2) + b"ab") + 100 * 10
    wrong = MANY[:at] + struct.pack("<Q", 2**40) + MANY[at + 8 :]
    with pytest.raises(GgufError, match="A text of 1,099,511,627,776 bytes stands in the header"):
        read(wrong)


@given(st.integers(0, len(WHOLE) - 1))
def test_a_file_cut_anywhere_is_refused_or_said_to_lack_bytes(end: int) -> None:
    """Wherever a file ends early, that is noticed from the header alone."""
    try:
        header = read_header(io.BytesIO(WHOLE[:end]), end)
    except GgufError:
        return
    assert header.missing == len(WHOLE) - end


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "The file is empty"),
        (b"GG", "no GGUF file"),
        (b"GGUF" + struct.pack("<I", 3), "ends at byte 8, inside its header"),
        (b"PK\x03\x04" + bytes(100), "no GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version 50331648"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "claims 9,223,372,036,854,775,808 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40), "claims 1,099,511,627,776 metadata"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**50), "a text of 1,125,899,906,842,624"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 60_000), "ends at byte 32, inside its header"),
        (b"GGUF" + struct.pack("<IQQQcI", 3, 0, 1, 1, b"k", 77), "unknown type 77"),
        (b"GGUF" + struct.pack("<IQQQcIIQ", 3, 0, 1, 1, b"k", 9, 9, 5), "array of the type 9"),
        (b"GGUF" + struct.pack("<IQQQcIIQ", 3, 0, 1, 1, b"k", 9, 8, 2**60), "inside its header"),
        (small_gguf({"general.alignment": 3}, {}), "no power of two"),
        (
            b"GGUF" + struct.pack("<IQQQcIQQIQ", 3, 1, 0, 1, b"t", 2, 2**40, 2**40, 0, 0),
            "a shape that F32 cannot have",
        ),
    ],
)
def test_a_hostile_header_is_refused_by_name(data: bytes, words: str) -> None:
    """Counts and lengths are checked against the file before anything is allocated."""
    with pytest.raises(GgufError, match=f"(?i){words}"):
        read(data)


@given(st.binary(max_size=400))
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    """Whatever the file holds, the daemon gets an error with words or a header."""
    for candidate in (data, b"GGUF" + data, b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + data):
        with contextlib.suppress(GgufError):
            read(candidate)


@given(st.integers(0, 600), st.binary(min_size=1, max_size=8))
def test_a_damaged_header_never_raises_anything_else(at: int, damage: bytes) -> None:
    """One bad sector or a liar's edit inside an otherwise good header."""
    data = WHOLE[:at] + damage + WHOLE[at + len(damage) :]
    with contextlib.suppress(GgufError):
        read(data)


@given(at=st.integers(24, 600), damage=st.binary(min_size=1, max_size=8))
def test_a_damaged_file_is_described_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, damage: bytes
) -> None:
    """`describe` makes numbers of what the header says, and survives all of it."""
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(WHOLE[:at] + damage + WHOLE[at + len(damage) :])
    try:
        assert describe(path).kv_bytes_per_token >= 0
    except GgufError as fault:
        assert fault.message


def test_other_bad_files_are_named(tmp_path: Path) -> None:
    """A missing file, a folder, and a GGUF file without a model each have their words."""
    with pytest.raises(GgufError, match=r"no file `.*nowhere.gguf`"):
        describe(tmp_path / "nowhere.gguf")
    with pytest.raises(GgufError, match="This is a folder"):
        describe(tmp_path)
    path = tmp_path / "other.gguf"
    path.write_bytes(small_gguf({"general.name": "no architecture"}, {"t": (32,)}))
    with pytest.raises(GgufError, match="names no architecture"):
        describe(path)
    path.write_bytes(small_gguf({"general.architecture": "llama"}, {}))
    with pytest.raises(GgufError, match="holds no weights"):
        describe(path)


def test_a_split_model_needs_all_of_its_files(tmp_path: Path) -> None:
    """Large models come in shards; the first stands for all, and a lost one is named."""
    first = tmp_path / "big-00001-of-00002.gguf"
    second = tmp_path / "big-00002-of-00002.gguf"
    first.write_bytes(llama_gguf(split__count=2))
    with pytest.raises(GgufError, match=r"no file `.*big-00002-of-00002.gguf`"):
        describe(first)
    second.write_bytes(small_gguf({"split.count": 2}, {"more": (32,)}))
    assert describe(first).weights_bytes == 2048 + 128
    with pytest.raises(GgufError, match="one of 2 files"):
        describe(second)


@pytest.mark.local
def test_our_reader_agrees_with_the_gguf_library() -> None:
    """On the real model: the same tensors, of the same size, at the same places."""
    from gguf import GGUFReader  # noqa: PLC0415 - imports numpy

    path = real_model()
    with path.open("rb") as file:
        header = read_header(file, path.stat().st_size)
    theirs = GGUFReader(path).tensors
    assert [(t.name, header.data_at + t.offset, t.size) for t in header.tensors] == [
        (str(t.name), int(t.data_offset), int(t.n_bytes)) for t in theirs
    ]
    assert header.missing == 0
    assert describe(path).parameters == sum(int(t.n_elements) for t in theirs)
