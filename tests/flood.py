"""A program that floods a gateway with calls: each connection asks again once it is answered.

    python flood.py PORT CONNECTIONS KEY COUNTER

COUNTER is a file of eight bytes for each connection: how many answers it has had. It ends with
its standard input, so never after the test that started it.
"""

import asyncio
import mmap
import sys
from functools import partial
from pathlib import Path
from typing import cast

import uvloop

BODY = b'{"model":"up/m","messages":[{"role":"user","content":"Hi"}],"max_tokens":10}'


class Caller(asyncio.Protocol):
    """One connection."""

    def __init__(self, request: bytes, counted: memoryview, number: int) -> None:
        self._request = request
        self._counted = counted
        self._number = number
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has no common base
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count an answer, which comes in one piece, and ask again."""
        assert data.startswith(b"HTTP/1.1 ")
        self._counted[self._number] += 1
        self._transport.write(self._request)


async def flood(port: int, connections: int, key: str, counted: memoryview) -> None:
    """Call until standard input ends."""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n"
    )
    request = head.encode() + BODY
    loop = asyncio.get_running_loop()
    for number in range(connections):
        make = partial(Caller, request, counted, number)
        await loop.create_connection(make, "127.0.0.1", port)
    await asyncio.to_thread(sys.stdin.buffer.read)


def main() -> None:
    """Read the command line and flood."""
    port, connections, key, counter = sys.argv[1:]
    with (
        Path(counter).open("r+b") as file,
        mmap.mmap(file.fileno(), 0) as shared,
        memoryview(shared) as view,
        view.cast("Q") as counted,
    ):
        uvloop.run(flood(int(port), int(connections), key, counted))


if __name__ == "__main__":
    main()
