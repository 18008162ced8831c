"""From a `Request` to where it goes and the bytes of its head; nothing here does I/O."""

import re
from base64 import b64encode
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from tollway.providers.errors import UpstreamUnreachable

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<user>[!\"$-.0->A-~]*@)?"
    r"(?P<host>[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    # Printable ASCII only: a space, a line break or a raw é would change the request line.
    r"(?P<path>/[!\"$->@-~]*)?(?P<query>\?[!\"$-~]*)?",
    re.IGNORECASE | re.ASCII,  # without ASCII, the Kelvin sign is a K
)
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})  # RFC 9110 9.2.2
_BODY_EXPECTED = frozenset({"POST", "PUT", "PATCH"})
# Who writes these decides where a message ends and what becomes of a connection: only this client.
_FRAMING = frozenset({"host", "content-length", "transfer-encoding", "te", "trailer", "expect"})
_HOP = frozenset({"connection", "keep-alive", "upgrade", "proxy-connection", "proxy-authorization"})


class Place(NamedTuple):
    """Where a URL or a proxy is: `name` is host:port in backticks, for people."""

    scheme: str
    host: str
    port: int
    name: str


class Route(NamedTuple):
    """All about a request but its headers and body; made once for each URL, then cached.

    `prefix` is the request line, Host and (to a plain proxy) its authorization. Requests share
    a connection when everything in `key` is the same.
    """

    key: tuple[str, str, int, str | None, str | None]
    place: Place
    proxy: Place | None
    proxy_auth: str  # a header line, or empty
    ca_file: str | None
    prefix: str
    head_only: bool
    idempotent: bool
    length_always: bool


@lru_cache(maxsize=1024)
def route(method: str, url: str, proxy: str | None, ca_file: str | None) -> Route:
    """Return where a request goes.

    Raises:
        UpstreamUnreachable: The method, the URL or the proxy's URL cannot be used. The message
            does not quote them: a URL may hold a key.
    """
    if not _TOKEN.fullmatch(method) or method == "CONNECT":
        raise UpstreamUnreachable("The method of a request must be one word, and not CONNECT")
    found = _read(url, "The provider's URL", ("http", "https"))
    if found["user"]:
        raise UpstreamUnreachable(
            "The provider's URL holds a user name or password",
            hint="Take them out of the URL; name the key in the provider's `api_key` instead",
        )
    place = _place(found)
    authority = found["host"] + (f":{found['port']}" if found["port"] else "")
    target = (found["path"] or "/") + (found["query"] or "")
    via, auth = (None, "") if proxy is None else _proxy(proxy)
    prefix = f"{method} {target} HTTP/1.1\r\nHost: {authority}\r\n"
    if via and place.scheme == "http":
        prefix = f"{method} http://{authority}{target} HTTP/1.1\r\nHost: {authority}\r\n{auth}"
    return Route(
        key=(place.scheme, place.host, place.port, proxy, ca_file),
        place=place,
        proxy=via,
        proxy_auth=auth,
        ca_file=ca_file,
        prefix=prefix,
        head_only=method == "HEAD",
        idempotent=method in _IDEMPOTENT,
        length_always=method in _BODY_EXPECTED,
    )


def head(to: Route, headers: tuple[tuple[str, str], ...], length: int) -> bytes:
    """Return the bytes of a request's head, the blank line included.

    Text is written as UTF-8, and bytes that a client sent as something else (which arrive as
    surrogates) as they were.

    Raises:
        UpstreamUnreachable: A name is no header name or not the caller's to set; a value holds a
            line break or NUL. Neither value nor an odd name is quoted.
    """
    lines, compressible = [], False
    for name, value in headers:
        if _is_accept_encoding(name):
            compressible = True
        lines.append(f"{name}: {value}")
    if not compressible:
        lines.append("Accept-Encoding: identity")
    if length or to.length_always:
        lines.append(f"Content-Length: {length}")
    said = "".join(lines)
    # The prefix is clean (see `_URL`).
    if "\n" in said or "\r" in said or "\0" in said:
        raise UpstreamUnreachable("A header's value holds a line break or NUL and cannot be sent")
    lines += ("", "")
    text = to.prefix + "\r\n".join(lines)
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # from None: its text quotes the value
        raise UpstreamUnreachable("A header's value holds half a character") from None


@lru_cache(maxsize=1024)  # bounded: clients choose the names of the headers that are passed on
def _is_accept_encoding(name: str) -> bool:
    """Check a header's name, and return whether it is the one that we would add."""
    if not _TOKEN.fullmatch(name):
        raise UpstreamUnreachable("A header's name holds characters that no name may have")
    lower = name.lower()
    if lower in _FRAMING or lower in _HOP:
        raise UpstreamUnreachable(f"The header `{lower}` is written by the gateway itself")
    return lower == "accept-encoding"


def _read(url: str, what: str, schemes: tuple[str, ...]) -> re.Match[str]:
    found = _URL.fullmatch(url)
    if not found or found["scheme"].lower() not in schemes or int(found["port"] or 1) > 65535:
        begins = " or ".join(f"`{scheme}://`" for scheme in schemes)
        raise UpstreamUnreachable(
            f"{what} is not usable",
            hint=f"It must begin with {begins}, name a host, and hold no spaces",
        )
    return found


def _place(found: re.Match[str]) -> Place:
    scheme, host = found["scheme"].lower(), found["host"].lower().strip("[]")
    port = int(found["port"] or (443 if scheme == "https" else 80))
    shown = f"[{host}]" if ":" in host else host
    return Place(scheme, host, port, f"`{shown}:{port}`")


def _proxy(url: str) -> tuple[Place, str]:
    """Return where a proxy is, and the header line that lets us in (empty where none does)."""
    found = _read(url, "The proxy's URL", ("http",))
    if not found["user"]:
        return _place(found), ""
    user, _, password = found["user"][:-1].partition(":")
    secret = b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
    return _place(found), f"Proxy-Authorization: Basic {secret}\r\n"
