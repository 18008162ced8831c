"""Decompress a body piece by piece, in bounded memory."""

import sys
import zlib
from importlib import import_module
from typing import Any, Final, Protocol

# The most that one step yields, however far a few bytes expand. Less than 128 KiB the C library
# takes from a heap that bombs leave in pieces: five of them left 100 MB, which nobody got back.
STEP = 128 * 1024
# JSON and SSE text shrink 3 to 30 times. An answer that is bigger than FREE and expands more than
# RATIO times is built to fill memory (deflate reaches 1,032, Zstandard 30,000).
FREE = 4 * 1024 * 1024
RATIO = 200
# Files of gzip and Zstandard may be joined. Each costs a little however small it is, an empty one
# too: a body of nothing else would keep the event loop busy for minutes.
_MOST_MEMBERS = 1000
# What RFC 9659 lets a sender demand of a receiver's memory: 8 MiB, as a power of two.
_ZSTD_WINDOW = 23

CODINGS: Final = ("gzip", "deflate", "zstd")
_ALIASES: Final = {"x-gzip": "gzip"}
# What clients and servers say of bytes that are as they are: most often the name of a character
# set, which most HTTP libraries pass over.
_PLAIN: Final = frozenset({"", "identity", "none", "utf-8", "utf8", "us-ascii", "binary"})


class CannotInflate(Exception):
    """The body is not what its Content-Encoding says; the text says how, in words."""


class _Stream(Protocol):
    """What undoes one member: zlib's own interface."""

    @property
    def eof(self) -> bool:
        """Whether the member has ended."""
        ...

    @property
    def unused_data(self) -> bytes:
        """What came behind it."""
        ...

    @property
    def unconsumed_tail(self) -> bytes:
        """What it gave back, as it had made enough of the rest."""
        ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Return up to `max_length` plain bytes."""
        ...


class _Zstd:
    """Zstandard's stream, with zlib's interface."""

    unconsumed_tail = b""  # it keeps the rest to itself

    def __init__(self) -> None:
        # Imported for the first body that needs it: Codex's alone are packed so.
        zstd: Any = import_module(
            "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        )
        most = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW}
        self._stream = zstd.ZstdDecompressor(options=most)
        self._fault: type[Exception] = zstd.ZstdError

    @property
    def eof(self) -> bool:
        """Whether the frame has ended."""
        return bool(self._stream.eof)

    @property
    def unused_data(self) -> bytes:
        """What came behind the frame."""
        return bytes(self._stream.unused_data)

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Return up to `max_length` plain bytes.

        Raises:
            CannotInflate: The frame is damaged, or demands too much memory.
        """
        try:
            return bytes(self._stream.decompress(data, max_length))
        except self._fault as fault:
            raise CannotInflate(
                "its compressed body is damaged, or was made with a window of over 8 MiB"
            ) from fault


class Inflater:
    """Undo one of CODINGS: `feed` compressed bytes, `take` plain ones until there are none.

    Past `free` plain bytes it demands that they came of no fewer than one in RATIO.
    """

    def __init__(self, coding: str, *, free: float = FREE) -> None:
        self._coding = _ALIASES.get(coding, coding)
        self._free = free
        self._stream: _Stream | None = None if self._coding == "deflate" else self._member()
        self._members = 1
        self._input = b""
        self._full = False  # the stream holds more output than the last step took
        self._fed = 0
        self._made = 0

    @staticmethod
    def knows(coding: str) -> bool:
        """Return whether a Content-Encoding, in lower case, can be undone."""
        return _ALIASES.get(coding, coding) in CODINGS

    @staticmethod
    def is_plain(coding: str) -> bool:
        """Return whether a Content-Encoding, in lower case, says of nothing that it is packed."""
        return coding in _PLAIN

    @property
    def whole(self) -> bool:
        """Whether the compressed stream has reached its end; an empty one has."""
        return not self._fed or (self._stream is not None and self._stream.eof)

    def feed(self, data: bytes) -> None:
        """Add compressed bytes."""
        self._fed += len(data)
        self._input += data

    def take(self) -> bytes:
        """Return up to STEP plain bytes, or none when more input is needed.

        Raises:
            CannotInflate: The stream is damaged, or expands beyond reason.
        """
        while self._input or self._full:
            stream = self._stream or self._begin_deflate()
            if stream is None:
                return b""
            if stream.eof:
                stream = self._next_member()
            try:
                out = stream.decompress(self._input, STEP)
            except zlib.error as fault:
                raise CannotInflate("its compressed body is damaged") from fault
            self._input = stream.unused_data if stream.eof else stream.unconsumed_tail
            self._full = len(out) == STEP and not stream.eof
            self._made += len(out)
            if self._made > self._free and self._made > RATIO * (self._fed - len(self._input)):
                raise CannotInflate(f"its compressed body expands more than {RATIO} times")
            if out:
                return out
        return b""

    def _member(self) -> _Stream:
        return _Zstd() if self._coding == "zstd" else zlib.decompressobj(wbits=31)

    def _next_member(self) -> _Stream:
        """Go on behind the end of a stream: such files may be joined, nothing else may follow."""
        self._members += 1
        if self._coding == "deflate" or self._members > _MOST_MEMBERS:
            raise CannotInflate("its compressed body goes on behind its end")
        self._stream = self._member()
        return self._stream

    def _begin_deflate(self) -> _Stream | None:
        """Return a stream once the first two bytes tell which of the two `deflate`s this is.

        The standard means zlib's format; servers that send bare deflate are as old as it.
        """
        if len(self._input) < 2:
            return None
        zlib_header = self._input[0] & 15 == 8 and int.from_bytes(self._input[:2], "big") % 31 == 0
        self._stream = zlib.decompressobj(wbits=15 if zlib_header else -15)
        return self._stream
