"""Decompress an answer's body piece by piece, in bounded memory."""

import zlib

STEP = 256 * 1024  # the most that one step yields, however far a few bytes expand
# JSON and SSE text shrink 3 to 30 times. A body that is bigger than FREE and expands more than
# RATIO times is built to fill memory (deflate reaches 1,032).
FREE = 4 * 1024 * 1024
RATIO = 200

_CODINGS = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}


class CannotInflate(Exception):
    """The body is not what its Content-Encoding says; the text says how, in words."""


class Inflater:
    """Undo `gzip` or `deflate`: `feed` compressed bytes, `take` plain ones until there are none."""

    def __init__(self, coding: str) -> None:
        self._gzip = _CODINGS[coding] == "gzip"
        self._stream = zlib.decompressobj(wbits=31) if self._gzip else None
        self._input = b""
        self._full = False  # zlib holds more output than the last step took
        self._fed = 0
        self._made = 0

    @staticmethod
    def knows(coding: str) -> bool:
        """Return whether a Content-Encoding, in lower case, can be undone."""
        return coding in _CODINGS

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
            if self._made > FREE and self._made > RATIO * (self._fed - len(self._input)):
                raise CannotInflate(f"its compressed body expands more than {RATIO} times")
            if out:
                return out
        return b""

    def _next_member(self) -> "zlib._Decompress":
        """Go on behind the end of a stream: gzip files may be joined, nothing else may follow."""
        if not self._gzip:
            raise CannotInflate("its compressed body goes on behind its end")
        self._stream = zlib.decompressobj(wbits=31)
        return self._stream

    def _begin_deflate(self) -> "zlib._Decompress | None":
        """Return a stream once the first two bytes tell which of the two `deflate`s this is.

        The standard means zlib's format; servers that send bare deflate are as old as it.
        """
        if len(self._input) < 2:
            return None
        zlib_header = self._input[0] & 15 == 8 and int.from_bytes(self._input[:2], "big") % 31 == 0
        self._stream = zlib.decompressobj(wbits=15 if zlib_header else -15)
        return self._stream
