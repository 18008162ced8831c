"""Call ids: UUIDv7 (RFC 9562), so that ids sort by time and never repeat."""

import random
import time

_last = 0
# An id must not repeat, but may be guessed: asking the kernel each time would cost 3 us a call.
_bits = random.Random().getrandbits  # noqa: S311


def new_id() -> str:
    """Return a new UUIDv7 in its usual text form, 36 characters.

    48 bits of unix milliseconds, then a counter and 62 random bits. Within this process ids
    only ever grow, also when the clock steps back: the last millisecond is then counted on.
    """
    global _last  # noqa: PLW0603 - the one counter that makes ids of one process grow
    # 12 bits below the millisecond: the counter that keeps the order within it.
    now = (time.time_ns() << 12) // 1_000_000
    _last = max(now, _last + 1)
    millis, count = _last >> 12, _last & 0xFFF
    bits = _bits(62) | 0x8000_0000_0000_0000
    return (
        f"{millis >> 16:08x}-{millis & 0xFFFF:04x}-7{count:03x}"
        f"-{bits >> 48:04x}-{bits & 0xFFFF_FFFF_FFFF:012x}"
    )
