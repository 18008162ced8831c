"""Whether a request that came from this machine was passed on for another.

A proxy or a tunnel in front of a loopback gateway makes everybody loopback. Most say for whom they
ask, and nobody behind them can take that out.
"""

import re
from ipaddress import IPv6Address, ip_address

from aiohttp import hdrs
from multidict import MultiMapping

_NAMES = tuple(
    type(hdrs.FORWARDED)(name)
    for name in (
        *("x-forwarded-for", "x-real-ip", "cf-connecting-ip", "true-client-ip"),
        *("x-client-ip", "x-cluster-client-ip"),
    )
)
# "127.0.0.1:4141", "[::1]", "[::1]:4141"; an address of version 6 may stand without brackets.
_BEFORE_PORT = re.compile(r"\[([0-9a-f:.]+)\](?::\d+)?|(\d+(?:\.\d+){3}):\d+", re.IGNORECASE)


def is_forwarded(headers: MultiMapping[str]) -> bool:
    """Whether a proxy says that somebody on another machine asks, or does not say who."""
    if hdrs.FORWARDED in headers and not all(map(_is_for_here, _each(headers, hdrs.FORWARDED))):
        return True
    return any(
        not _is_here(one) for name in _NAMES if name in headers for one in _each(headers, name)
    )


def _each(headers: MultiMapping[str], name: str) -> list[str]:
    return [one for value in headers.getall(name) for one in value.split(",")]


def _is_for_here(said: str) -> bool:
    """Whether an element of `Forwarded` (RFC 7239) is of this machine: "proto=http; for=::1"."""
    pairs = [pair.partition("=") for pair in said.split(";")]
    asked_for = [value for name, _, value in pairs if name.strip().lower() == "for"]
    return bool(asked_for) and all(_is_here(value.strip().strip('"')) for value in asked_for)


def _is_here(said: str) -> bool:
    """Whether an address, with or without a port, is loopback, however it is written."""
    said = said.strip()
    found = _BEFORE_PORT.fullmatch(said)
    try:
        address = ip_address((found[1] or found[2]) if found else said)
    except ValueError:
        return False
    # Java's proxies write 0:0:0:0:0:0:0:1, and some ::ffff:7f00:1.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
