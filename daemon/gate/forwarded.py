"""Whether a request that came from this machine was passed on for another.

A proxy or a tunnel in front of a loopback gateway makes everybody loopback. Most say for whom they
ask, and nobody behind them can take that out.
"""

import re

from aiohttp import hdrs
from multidict import MultiMapping

_NAMES = tuple(
    type(hdrs.FORWARDED)(name)
    for name in (
        *("x-forwarded-for", "forwarded", "x-real-ip", "cf-connecting-ip", "true-client-ip"),
        *("x-client-ip", "x-cluster-client-ip"),
    )
)
_LOOPBACK = r"(?:127(?:\.\d{1,3}){3}(?::\d+)?|(?:::ffff:127(?:\.\d{1,3}){3}|::1)|\[::1\](?::\d+)?)"
_HERE = re.compile(rf'{_LOOPBACK}|(?:[a-z]+=[^;]*;)*for="?{_LOOPBACK}"?(?:;.*)?', re.IGNORECASE)


def is_forwarded(headers: MultiMapping[str]) -> bool:
    """Whether a proxy says that somebody on another machine asks, or does not say who."""
    return any(
        not _HERE.fullmatch(one.strip())
        for name in _NAMES
        if name in headers
        for value in headers.getall(name)
        for one in value.split(",")
    )
