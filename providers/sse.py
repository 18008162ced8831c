"""Server-sent events: cut a byte stream into events without changing a byte."""

import msgspec


class Event(msgspec.Struct, frozen=True):
    """One block of a stream: `raw` is every byte of it, the blank line included.

    `data` is what its data lines say, joined by newlines; None for comments and empty blocks.
    """

    raw: bytes
    data: bytes | None = None
    name: bytes | None = None  # of the `event:` line, where there is one
