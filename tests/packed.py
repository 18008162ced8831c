"""Bodies packed with Zstandard, frame by frame by hand: no package of the tests makes them."""

_MAGIC = b"\x28\xb5\x2f\xfd"
_MOST = 2**17  # bytes of a block
_RAW, _REPEATED = 0, 1


def frame(data: bytes) -> bytes:
    """Return a frame that holds data as it stands, in blocks."""
    blocks = [data[at : at + _MOST] for at in range(0, len(data), _MOST)] or [b""]
    return _head(window=17) + b"".join(
        _block(_RAW, len(one), last=number == len(blocks)) + one
        for number, one in enumerate(blocks, 1)
    )


def bomb(blocks: int) -> bytes:
    """Return a frame of 4 bytes for each 128 KiB of zeros that it becomes."""
    each = (_block(_REPEATED, _MOST, last=number == blocks) for number in range(1, blocks + 1))
    return _head(window=17) + b"".join(one + b"\0" for one in each)


def hungry(window: int) -> bytes:
    """Return a frame whose reader must keep 2 ** `window` bytes of what it has made."""
    return _head(window=window) + _block(_RAW, 2, last=True) + b"{}"


def nothing(size: int = 0) -> bytes:
    """Return a frame that readers pass over, with `size` bytes that stand for nothing."""
    return b"\x50\x2a\x4d\x18" + size.to_bytes(4, "little") + bytes(size)


def _head(window: int) -> bytes:
    return _MAGIC + bytes([0, (window - 10) << 3])


def _block(kind: int, size: int, *, last: bool) -> bytes:
    return (size << 3 | kind << 1 | last).to_bytes(3, "little")
