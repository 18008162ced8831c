"""Which headers pass through the gateway, each way. Whatever is not named here passes.

What stays behind: what belongs to one connection, what says who somebody is, and what would be
untrue on the other side (a length, an encoding, a host).
"""

import re
from collections.abc import Iterable

Headers = tuple[tuple[str, str], ...]

_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "trailers"),
        *("transfer-encoding", "upgrade", "http2-settings", "alt-svc", "expect"),
    }
)
_CREDENTIALS = frozenset(
    {
        *("authorization", "proxy-authorization", "proxy-authenticate", "www-authenticate"),
        *("proxy-authentication-info", "x-api-key", "api-key", "x-goog-api-key"),
        # These choose whose account is billed, and tell whose it is.
        *("openai-organization", "openai-project"),
        *("x-amz-security-token", "cookie", "cookie2", "set-cookie", "set-cookie2"),
    }
)
# About the request as the gateway got it: its length, its sender, the page it came from.
_OURS_UP = frozenset(
    {
        *("host", "content-length", "content-type", "content-encoding", "accept-encoding"),
        *("origin", "referer", "forwarded", "via", "x-real-ip", "true-client-ip", "from"),
        *("cf-connecting-ip", "x-client-ip", "x-cluster-client-ip", "range", "if-range"),
    }
)
_OURS_DOWN = frozenset(
    {
        *("content-length", "content-encoding", "server", "date", "age", "via", "accept-ranges"),
        *("strict-transport-security", "nel", "report-to", "reporting-endpoints"),
        *("public-key-pins", "expect-ct", "clear-site-data", "location", "refresh"),
    }
)
_NOT_UP = _HOP | _CREDENTIALS | _OURS_UP
_NOT_DOWN = _HOP | _CREDENTIALS | _OURS_DOWN

_UP_PREFIXES = ("x-forwarded-", "x-tollway-", "sec-", "proxy-", "access-control-", "cf-")
_DOWN_PREFIXES = ("x-tollway-", "access-control-", "cross-origin-", "proxy-")
# The provider's limits are not the caller's, and its request id is not the call's.
_RENAMED = {"x-request-id": "x-upstream-request-id"}
_LIMITS = ("x-ratelimit-", "anthropic-ratelimit-")

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*\Z")


def to_provider(headers: Iterable[tuple[str, str]]) -> Headers:
    """Return the client's headers that go on to a provider, names in lower case.

    Credentials never do, and no header that a line end could turn into two.
    """
    return tuple(_passing(headers, _NOT_UP, _UP_PREFIXES))


def to_client(headers: Iterable[tuple[str, str]]) -> Headers:
    """Return a provider's headers that go on to the client, names in lower case.

    Its rate limits and its request id get names that cannot be taken for the gateway's own:
    `x-ratelimit-*` is then `x-upstream-ratelimit-*`, `anthropic-ratelimit-*` likewise.
    """
    return tuple(
        (_upstream_name(name), value)
        for name, value in _passing(headers, _NOT_DOWN, _DOWN_PREFIXES)
    )


def _upstream_name(name: str) -> str:
    if name.startswith(_LIMITS):
        return f"x-upstream-{name.removeprefix('x-')}"
    return _RENAMED.get(name, name)


def _passing(
    headers: Iterable[tuple[str, str]], kept: frozenset[str], prefixes: tuple[str, ...]
) -> Iterable[tuple[str, str]]:
    pairs = [(name.lower(), value) for name, value in headers]
    # A header that `Connection` names belongs to the connection, too.
    named = {
        word.strip().lower()
        for name, value in pairs
        if name == "connection"
        for word in value.split(",")
    }
    for name, value in pairs:
        if name in kept or name in named or name.startswith(prefixes):
            continue
        if _NAME.match(name) and _VALUE.match(value):
            yield name, value
