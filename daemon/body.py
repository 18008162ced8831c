"""A request whose body is read under limits: of size after decompression, and of patience."""

import asyncio
from collections.abc import Callable

from aiohttp import StreamReader, hdrs, web
from aiohttp.web_protocol import RequestPayloadError
from multidict import MultiMapping

from tollway.daemon.errors import BodyStalled
from tollway.daemon.state import DAEMON, EDGE
from tollway.providers.errors import RequestInvalid, RequestTooLarge


class Request(web.Request):
    """aiohttp's request, but for `read`: aiohttp fixes its limit when the application is made."""

    async def read(self) -> bytes:
        """Return the whole body, decompressed; later calls return the same bytes.

        Its limits and errors are those of `read` below.
        """
        if self._read_bytes is None:
            self._read_bytes = await read(self.app, self.headers, self.content, self.protocol)
        return self._read_bytes


def _of_no_account(_size: int) -> None:
    """Take no note of what is read: what the owner asks is small."""


async def read(
    app: web.Application,
    headers: MultiMapping[str],
    content: StreamReader,
    protocol: web.RequestHandler,
    take: Callable[[int], None] = _of_no_account,
) -> bytes:
    """Return a whole body, decompressed.

    `take` is told of each piece before more is read, and may refuse it. The limit is
    `server.max_body` of the configuration in force now. Decompression runs at most a buffer ahead
    of the reading, so a small body that swells is cut off early.

    Raises:
        RequestTooLarge: More than the limit, by its Content-Length or once counted.
        BodyStalled: Nothing came for too long.
        RequestInvalid: The body is broken: chunks, compression, or its end is missing.
        GatewayError: What `take` refuses with.
    """
    limit = app[DAEMON].config.server.max_body
    length = headers.get(hdrs.CONTENT_LENGTH)
    if length and int(length) > limit:
        raise _too_large(limit)
    idle_s = app[EDGE].body_idle_s
    if hdrs.CONTENT_ENCODING in headers:
        protocol._lingering_time = app[EDGE].linger_s
    try:
        return await _read(content, limit, idle_s, take)
    except TimeoutError:
        raise BodyStalled(f"The request's body stalled for {idle_s:g} s") from None
    except RequestPayloadError:
        # Its text may quote the body.
        raise RequestInvalid(
            "The request's body is broken: its chunks, its compression or its end",
        ) from None


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


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"The request's body is over the limit of {limit:,} bytes",
        hint="`server.max_body` in gateway.toml sets it; it counts the decompressed body",
    )
