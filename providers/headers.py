"""Which headers pass through the gateway, each way. Whatever is not named here passes.

What stays behind: what belongs to one connection, what says who somebody is, and what would be
untrue on the other side (a length, an encoding, a host).
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

Headers = tuple[tuple[str, str], ...]

_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "trailers"),
        *("transfer-encoding", "upgrade", "http2-settings", "alt-svc", "expect"),
    }
)
_KEYS = frozenset({"authorization", "x-api-key", "api-key", "x-goog-api-key"})
_ACCOUNTS = frozenset(
    {
        *("openai-organization", "openai-project", "chatgpt-account-id", "x-goog-user-project"),
        *("x-hf-bill-to", "x-dashscope-workspace"),
    }
)
_CREDENTIALS = frozenset(
    {
        *("proxy-authorization", "proxy-authenticate", "www-authenticate"),
        *("proxy-authentication-info", *_KEYS),
        # These choose whose account is billed, and tell whose it is.
        *_ACCOUNTS,
        *("x-amz-security-token", "cookie", "cookie2", "set-cookie", "set-cookie2"),
    }
)
# About the request as the gateway got it: its length, its sender, the page it came from.
_OURS_UP = frozenset(
    {
        *("host", "content-length", "content-type", "content-encoding", "accept-encoding"),
        *("origin", "referer", "forwarded", "via", "x-real-ip", "true-client-ip", "from"),
        *("cf-connecting-ip", "x-client-ip", "x-cluster-client-ip", "range", "if-range"),
        # Some servers take another path or method from these: what was paid for and allowed is
        # the path that was asked for.
        *("x-original-url", "x-rewrite-url", "x-original-host", "x-host"),
        *("x-http-method-override", "x-http-method", "x-method-override"),
        # Helicone takes another server from these, to which the provider's key would go, or models.
        *("helicone-target-url", "helicone-target-provider", "helicone-openai-api-base"),
        *("helicone-fallbacks", "helicone-model-override"),
    }
)
_OURS_DOWN = frozenset(
    {
        *("content-length", "content-encoding", "server", "date", "age", "via", "accept-ranges"),
        *("strict-transport-security", "nel", "report-to", "reporting-endpoints"),
        *("public-key-pins", "expect-ct", "clear-site-data", "location", "refresh"),
    }
)
_OWN = _KEYS | _ACCOUNTS
_NOT_UP = _HOP | _CREDENTIALS | _OURS_UP
_NOT_DOWN = _HOP | _CREDENTIALS | _OURS_DOWN

_UP_PREFIXES = (
    *("x-forwarded-", "x-tollway-", "sec-", "proxy-", "access-control-", "cf-"),
    # At AWS and on Vertex they choose a dearer tier, or belong to a signature of somebody else's.
    *("x-amz-", "x-amzn-", "x-vertex-ai-"),
    "x-portkey-",  # at Portkey they choose the server, its key and the model
)
_DOWN_PREFIXES = ("x-tollway-", "access-control-", "cross-origin-", "proxy-")
# The provider's limits are not the caller's, and its request id is not the call's.
_RENAMED = {"x-request-id": "x-upstream-request-id"}
_LIMITS = ("x-ratelimit-", "anthropic-ratelimit-")

# What `Connection` says of itself, and no header's name.
_USUAL = frozenset({"keep-alive", "close"})

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
# All but controls and what some parser takes for a line end. Text beyond Latin comes as itself,
# bytes that are no UTF-8 as surrogates: both go on as the bytes that they were.
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f\u2028\u2029]*\Z")


def to_provider(headers: Iterable[tuple[str, str]]) -> Headers:
    """Return the client's headers that go on to a provider, names in lower case.

    Credentials never do, and no header that a line end could turn into two.
    """
    return _passing(headers, _name_up)


def own_credential(headers: Iterable[tuple[str, str]], ours: str) -> Headers:
    """Return the headers that say whose account a client has at a provider, names in lower case.

    None where it sent no credential but the gateway's, which begins with `ours`.
    """
    found = [(lower, value) for name, value in headers if (lower := name.lower()) in _OWN]
    kept = []
    for name, value in found:
        said = value.removeprefix("Bearer").strip()
        if said and not said.startswith(ours) and _VALUE.match(value):
            kept.append((name, value))
    return tuple(kept) if any(name in _KEYS for name, _ in kept) else ()


def to_client(headers: Iterable[tuple[str, str]], *, callers: bool = False) -> Headers:
    """Return a provider's headers that go on to the client, names in lower case.

    Its rate limits and its request id get names that cannot be taken for the gateway's own:
    `x-ratelimit-*` is then `x-upstream-ratelimit-*`, `anthropic-ratelimit-*` likewise. With
    `callers` the account there is the caller's own, and so are its limits.
    """
    return _passing(headers, _name_down_to_its_own if callers else _name_down)


@lru_cache(maxsize=1024)  # bounded, as below: clients and providers choose the names
def _name_up(name: str) -> str | None:
    """Return the name under which a client's header goes on, None where it does not."""
    lower = name.lower()
    passes = lower not in _NOT_UP and not lower.startswith(_UP_PREFIXES) and _NAME.match(lower)
    return lower if passes else None


@lru_cache(maxsize=1024)
def _name_down(name: str) -> str | None:
    lower = name.lower()
    if lower in _NOT_DOWN or lower.startswith(_DOWN_PREFIXES) or not _NAME.match(lower):
        return None
    if lower.startswith(_LIMITS):
        return f"x-upstream-{lower.removeprefix('x-')}"
    return _RENAMED.get(lower, lower)


def _name_down_to_its_own(name: str) -> str | None:
    lower = name.lower()
    return lower if lower.startswith(_LIMITS) and _NAME.match(lower) else _name_down(name)


@lru_cache(maxsize=1024)
def _is_connection(name: str) -> bool:
    return name.lower() == "connection"


def _passing(headers: Iterable[tuple[str, str]], passed: Callable[[str], str | None]) -> Headers:
    pairs = list(headers)
    found = [
        (new, value)
        for name, value in pairs
        if (new := passed(name)) is not None
        # Printable ASCII needs no look at each character, which is what takes the time here.
        and ((value.isascii() and value.isprintable()) or _VALUE.match(value))
    ]
    for name, value in pairs:
        if _is_connection(name) and value.lower() not in _USUAL:
            return _unnamed(pairs, passed)
    return tuple(found)


def _unnamed(pairs: list[tuple[str, str]], passed: Callable[[str], str | None]) -> Headers:
    """Return what passes of headers of which `Connection` names some: those are the link's own."""
    named = {
        word.strip().lower()
        for name, value in pairs
        if _is_connection(name)
        for word in value.split(",")
    }
    rest = [(name, value) for name, value in pairs if name.lower() not in named]
    return _passing([pair for pair in rest if not _is_connection(pair[0])], passed)
