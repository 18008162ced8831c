"""A request whose body is read under limits: of size after decompression, and of patience."""

import asyncio
from codecs import BOM_UTF8
from collections.abc import Callable
from math import inf

from aiohttp import StreamReader, hdrs, web
from aiohttp.web_protocol import RequestPayloadError
from multidict import MultiMapping

from tollway.daemon.errors import BodyStalled, EncodingRefused
from tollway.daemon.state import DAEMON, EDGE
from tollway.providers.errors import RequestInvalid, RequestTooLarge
from tollway.providers.http.inflate import CODINGS, CannotInflate, Inflater


class Request(web.Request):
    """aiohttp's request, but for `read`: aiohttp fixes its limit when the application is made."""

    async def read(self) -> bytes:
        """Return the whole body, decompressed; later calls return the same bytes.

        Its limits and errors are those of `read` below.
        """
        if self._read_bytes is None:
            self._read_bytes = await read(self.app, self.headers, self.content)
        return self._read_bytes


def _of_no_account(_size: int) -> None:
    """Take no note of what is read: what the owner asks is small."""


def refuse_unread(app: web.Application, headers: MultiMapping[str]) -> int:
    """Return how many bytes a body may have, where it may be read as far as its headers tell.

    Raises:
        RequestTooLarge: It is over the limit by its Content-Length.
        EncodingRefused: It is compressed in a way that is not undone here.
    """
    limit = app[DAEMON].config.server.max_body
    length = headers.get(hdrs.CONTENT_LENGTH)
    if length and int(length) > limit:
        raise _too_large(limit)
    if hdrs.CONTENT_ENCODING in headers:
        _inflater(headers)
    return limit


async def read(
    app: web.Application,
    headers: MultiMapping[str],
    content: StreamReader,
    take: Callable[[int], None] = _of_no_account,
) -> bytes:
    """Return a whole body, decompressed, without the mark with which some begin UTF-8.

    `take` is told of each piece before more is read, and may refuse it. The limit is
    `server.max_body` of the configuration in force now; it holds for what comes and for what that
    becomes, so that a small body that swells is cut off early.

    Raises:
        RequestTooLarge: More than the limit, by its Content-Length or once counted.
        EncodingRefused: It is compressed in a way that is not undone here.
        BodyStalled: Nothing came for too long.
        RequestInvalid: The body is broken: chunks, compression, or its end is missing.
        GatewayError: What `take` refuses with.
    """
    limit = refuse_unread(app, headers)
    idle_s = app[EDGE].body_idle_s
    inflater = _inflater(headers) if hdrs.CONTENT_ENCODING in headers else None
    try:
        if inflater is not None:
            body = await _unpacked(content, inflater, limit, idle_s, take)
        else:
            body = await _read(content, limit, idle_s, take)
    except TimeoutError:
        raise BodyStalled(f"The request's body stalled for {idle_s:g} s") from None
    except RequestPayloadError:
        # Its text may quote the body.
        raise RequestInvalid("The request's body is broken: its chunks or its end") from None
    # Windows' editors and .NET write it; not every provider's parser passes over it.
    return body.removeprefix(BOM_UTF8)


async def _read(
    content: StreamReader, limit: int, idle_s: float, take: Callable[[int], None]
) -> bytes:
    if content.is_eof() and content.exception() is None:  # all of it has come, as with most calls
        whole = content.read_nowait()
        if len(whole) > limit:
            raise _too_large(limit)
        take(len(whole))
        return whole
    parts: list[bytes] = []
    size = 0
    while not content.at_eof():
        async with asyncio.timeout(idle_s):
            part = await content.readany()
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        take(len(part))
        parts.append(part)
    if content.exception():
        raise RequestPayloadError
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _unpacked(
    content: StreamReader,
    inflater: Inflater,
    limit: int,
    idle_s: float,
    take: Callable[[int], None],
) -> bytes:
    parts: list[bytes] = []
    came = size = 0
    while not content.at_eof():
        async with asyncio.timeout(idle_s):
            part = await content.readany()
        came += len(part)
        if came > limit:  # some forms hold bytes without end that stand for nothing
            raise _too_large(limit)
        inflater.feed(part)
        while plain := _step(inflater):
            size += len(plain)
            if size > limit:
                raise _too_large(limit)
            take(len(plain))
            parts.append(plain)
            await asyncio.sleep(0)  # others' events come between two steps of a large one
    if content.exception():
        raise RequestPayloadError
    if not inflater.whole:
        raise RequestInvalid("The request's compressed body ends before its end")
    return b"".join(parts)


def _step(inflater: Inflater) -> bytes:
    try:
        return inflater.take()
    except CannotInflate as fault:
        raise RequestInvalid(f"The request cannot be read: {fault}") from None


def _inflater(headers: MultiMapping[str]) -> Inflater | None:
    """Return what undoes a body's compression, None where there is none."""
    said = ",".join(headers.getall(hdrs.CONTENT_ENCODING)).lower()
    codings = [coding for part in said.split(",") if not Inflater.is_plain(coding := part.strip())]
    if not codings:
        return None
    if len(codings) > 1 or not Inflater.knows(codings[0]):
        raise EncodingRefused(said, CODINGS)
    # The limit bounds what it makes, whatever it is made of.
    return Inflater(codings[0], free=inf)


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"The request's body is over the limit of {limit:,} bytes",
        hint="`server.max_body` in gateway.toml sets it; it counts the decompressed body",
    )
