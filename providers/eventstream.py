"""AWS's event streams: cut a byte stream into messages, and check each one's sums.

A message has its length, the length of its headers and a CRC of both in front, then headers and
payload, and a CRC of all of it behind (smithy.io, "Amazon Event Stream"). What comes out has the
shape of server-sent events, so that relays and readers need not know which of the two it was:
`data` is the payload, `name` the event's type; that of an exception begins with `EXCEPTION`.
"""

import json
import struct
from typing import Final
from zlib import crc32

from tollway.providers.errors import UpstreamBroke
from tollway.providers.sse import MOST_KEPT, Event

CONTENT_TYPE: Final = "application/vnd.amazon.eventstream"
EXCEPTION: Final = b"exception/"

_PRELUDE = struct.Struct(">III")
_CRC = struct.Struct(">I")
_LENGTH = struct.Struct(">H")
# By the type of a header's value: how many bytes it has. 6 and 7 say it themselves.
_FIXED = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
_BYTES, _STRING = 6, 7


class Splitter:
    """Cuts a stream into messages, wherever the chunks happen to fall."""

    in_comment = False  # there are none

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[Event]:
        """Return the messages that `chunk` completes.

        Raises:
            UpstreamBroke: A sum is wrong, or a length cannot be.
        """
        self._rest += chunk
        found: list[Event] = []
        while (size := self._size()) and len(self._rest) >= size:
            found.append(_message(bytes(self._rest[:size])))
            del self._rest[:size]
        return found

    def rest(self) -> bytes:
        """Return nothing: what stands at the end without its sum is no message."""
        return b""

    def _size(self) -> int:
        """Return how long the next message is; 0 where that has not come."""
        if len(self._rest) < _PRELUDE.size:
            return 0
        total, headers, told = _PRELUDE.unpack_from(self._rest)
        if crc32(self._rest[: _PRELUDE.size - _CRC.size]) != told:
            raise _broken("the sum of its beginning is wrong")
        if total > MOST_KEPT or headers > total - _PRELUDE.size - _CRC.size:
            raise _broken("its length cannot be")
        return int(total)


def _message(raw: bytes) -> Event:
    (told,) = _CRC.unpack_from(raw, len(raw) - _CRC.size)
    if crc32(raw[: -_CRC.size]) != told:
        raise _broken("its sum is wrong")
    _, length, _ = _PRELUDE.unpack_from(raw)
    begin = _PRELUDE.size + length
    headers = _headers(raw[_PRELUDE.size : begin])
    payload = raw[begin : -_CRC.size]
    kind = headers.get(":message-type", "event")
    if kind == "event":
        return Event(raw, payload, headers.get(":event-type", "").encode())
    name = headers.get(":exception-type") or headers.get(":error-code") or "unknown"
    if not payload and (words := headers.get(":error-message")):
        payload = json.dumps({"message": words}).encode()
    return Event(raw, payload, EXCEPTION + name.encode())


def _headers(raw: bytes) -> dict[str, str]:
    """Return the headers that are text."""
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(raw):
            end = at + 1 + raw[at]
            name = raw[at + 1 : end].decode()
            kind = raw[end]
            at = end + 1
            if kind in (_BYTES, _STRING):
                (size,) = _LENGTH.unpack_from(raw, at)
                at += _LENGTH.size
                if kind == _STRING:
                    found[name] = raw[at : at + size].decode()
            else:
                size = _FIXED[kind]
            at += size
    except (IndexError, KeyError, struct.error, UnicodeDecodeError):
        raise _broken("its headers cannot be read") from None
    if at != len(raw):
        raise _broken("its headers cannot be read")
    return found


def _broken(why: str) -> UpstreamBroke:
    return UpstreamBroke(f"The provider sent a message of which {why}")
