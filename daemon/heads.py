"""Whether a part of another head stands behind a request that has come whole.

The parser keeps such a part to itself, and a client that sends one and no more would have the
time of a connection between two requests, not that of a head. So it is told from the bytes: a
head and a body in chunks end with a blank line, and another body after as many bytes as its head
says. Where these do not tell, there is none: a client between two requests must not be cut off.
"""

from aiohttp import StreamReader, hdrs
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestPayloadError

_BLANK = b"\r\n\r\n"


class Behind:
    """What has come on one connection behind its newest request.

    `broken` says that the newest request's body has ended as no chunks do, of which whoever reads
    it was told. Nothing behind that may be read.
    """

    __slots__ = ("_body", "_left", "_length", "broken")

    def __init__(self) -> None:
        self.broken = False
        self._body: StreamReader | None = None  # the newest request's, while it is not whole
        self._length: int | None = None  # of that body, where its head says so
        self._left = 0  # of that length

    @property
    def chunked(self) -> bool:
        """Whether a body in chunks is coming."""
        return self._body is not None and self._length is None

    @property
    def left(self) -> int:
        """How many bytes of a body are still to come, where its length was said; else 0."""
        return self._left if self._body is not None and self._length is not None else 0

    def feed(self, data: bytes, newest: tuple[object, StreamReader] | None) -> bool:
        """Return whether `data`, which the parser has taken, ends within a head.

        `newest` is the last of the requests whose heads have ended in `data`.
        """
        body = self._body
        if newest is not None:
            if body is not None and not body.is_eof():
                # The parser tells of broken chunks as of a request, and their reader nothing.
                body.set_exception(RequestPayloadError())
                self.broken = True
            message, body = newest
            # What is no request ends its connection. A body that the head says nothing of is none.
            length = _length(message) if isinstance(message, RawRequestMessage) else None
            if body.is_eof():
                self._body = None
                end = len(data) - (length or 0)
                if end >= len(_BLANK):
                    return not data.startswith(_BLANK, end - len(_BLANK))
                return not _BLANK.endswith(data[: max(0, end)])
            self._body, self._length = body, length
        elif body is None:
            return bool(data)
        elif body.is_eof():
            self._body = None
            if self._length is None:
                return not _BLANK.endswith(data[-len(_BLANK) :])
            return len(data) > self._left
        self._left = (self._length or 0) - body.total_raw_bytes
        return False


def _length(message: RawRequestMessage) -> int | None:
    return None if message.chunked else int(message.headers.get(hdrs.CONTENT_LENGTH, 0))
