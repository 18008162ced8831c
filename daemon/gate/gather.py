"""The body of an answer that is not called a stream: read whole, unless it turns out to be one."""

import asyncio
import time
from codecs import BOM_UTF8
from collections.abc import AsyncIterator

from tollway.daemon.gate.route import Target
from tollway.providers.dialects.dialect import AnswerReader
from tollway.providers.errors import UpstreamBroke, UpstreamError, UpstreamTimeout
from tollway.providers.halves import without_halves
from tollway.providers.streams import is_events
from tollway.providers.transport import Answer

# A whole answer is kept until it is settled; embeddings of a large batch are tens of MB.
_MOST_WHOLE = 512 * 1024 * 1024
# How long a finished stream may take to close, so that its connection can serve again.
_TAIL_S = 0.5
_STEADY = 64 * 1024  # bytes that are worth as much time as a silence may last


async def gather(answer: Answer, target: Target, *, streamed: bool) -> tuple[bytes, bool]:
    """Return a body and False; or, where it may be `streamed`, the beginning of events and True.

    Servers of one's own often forget the content type of their streams, which no client library
    looks at. The answer's headers then say what it is.

    Raises:
        UpstreamError: It broke off, has grown too large, came drop by drop, or nothing but blanks
            came for too long.
    """
    pieces: list[bytes] = []
    begun_s = heard_s = time.monotonic()
    size = 0
    async for chunk in answer.chunks():
        pieces.append(chunk)
        size += len(chunk)
        if not chunk.isspace():
            heard_s = time.monotonic()
            if is_drip(target, heard_s - begun_s, size):
                raise nothing_but_life(target)
            if streamed:
                begun = b"".join(pieces)
                if is_events(begun):
                    _call_it_events(answer)
                    return begun, True
                streamed = is_events(begun) is None
        elif time.monotonic() - heard_s > target.timeouts.idle_s:
            raise nothing_but_life(target)  # blank lines, which some send meanwhile
        if size > _MOST_WHOLE:
            raise UpstreamBroke("The provider's answer is over 512 MiB")
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    # The mark of Windows' UTF-8, which some of its servers write and no reader here knows.
    return body.removeprefix(BOM_UTF8), False


def read_whole(reader: AnswerReader, body: bytes) -> bytes:
    """Give a whole answer to its reader; return it in the form in which that can be read."""
    reader.whole(body)
    if reader.begun or reader.failed:
        return body
    mended = without_halves(body)
    if mended != body:
        reader.whole(mended)
    return mended


async def tail(chunks: AsyncIterator[bytes]) -> bytes:
    """Return what comes behind the end of a stream, if it comes at once."""
    found = bytearray()
    try:
        async with asyncio.timeout(_TAIL_S):
            async for chunk in chunks:
                found += chunk
    except (UpstreamError, TimeoutError):
        pass
    return bytes(found)


def _call_it_events(answer: Answer) -> None:
    others = [(name, value) for name, value in answer.headers if name.lower() != "content-type"]
    answer.headers[:] = [*others, ("content-type", "text/event-stream")]


def is_drip(target: Target, passed_s: float, size: int) -> bool:
    """Whether so many bytes of an answer or event that is not whole are too few for the time.

    A provider that sends a byte now and then is never silent, and would never end.
    """
    return passed_s > target.timeouts.idle_s * (2 + size / _STEADY)


def nothing_but_life(target: Target) -> UpstreamTimeout:
    """Return the error of who sends only what fills silences."""
    return UpstreamTimeout(
        f"`{target.provider}` has sent nothing but signs of life for {target.timeouts.idle_s:g} s",
        phase="idle",
    )
