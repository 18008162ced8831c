"""Messages of AWS's event streams, made for tests."""

import struct
from zlib import crc32


def header(name: str, value: bytes, kind: int = 7) -> bytes:
    """Return one header; text unless another kind is given."""
    length = struct.pack(">H", len(value)) if kind in (6, 7) else b""
    return bytes([len(name)]) + name.encode() + bytes([kind]) + length + value


def message(payload: bytes, *headers: bytes) -> bytes:
    """Return a message with its sums."""
    said = b"".join(headers)
    prelude = struct.pack(">II", len(payload) + len(said) + 16, len(said))
    raw = prelude + struct.pack(">I", crc32(prelude)) + said + payload
    return raw + struct.pack(">I", crc32(raw))


def framed(payload: bytes, **headers: bytes) -> bytes:
    """Return a message with headers such as `:event-type`, written as `event_type`."""
    said = {f":{name.replace('_', '-')}": value for name, value in headers.items()}
    return message(payload, *(header(name, value) for name, value in said.items()))
