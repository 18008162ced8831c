"""The least that a proxy in Python can do: bytes from one connection to another, unread.

    python benchmarks/bare.py PORT UPSTREAM_PORT

One asyncio protocol on each side, on uvloop. No HTTP, no key, no ledger: what it takes, every
gateway on this loop takes too, so the rest of a figure is what can be saved.
"""

import asyncio
import sys
from typing import cast

import uvloop


class Upstream(asyncio.Protocol):
    """The provider's side; what comes goes to the client."""

    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        """Pass on."""
        self._client.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Hang up on the client too."""
        self._client.close()


class Client(asyncio.Protocol):
    """The client's side; each connection has one of its own to the upstream."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._early: list[bytes] = []
        self._upstream: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the upstream."""
        self._client = cast(asyncio.Transport, transport)  # uvloop's has no common base
        self._task = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        made = await loop.create_connection(lambda: Upstream(self._client), "127.0.0.1", self._port)
        self._upstream = made[0]
        self._upstream.writelines(self._early)

    def data_received(self, data: bytes) -> None:
        """Pass on, once there is somewhere to."""
        if self._upstream is None:
            self._early.append(data)
        else:
            self._upstream.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Hang up on the upstream too."""
        if self._upstream is not None:
            self._upstream.close()


async def serve(port: int, upstream: int) -> None:
    """Serve until ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Client(upstream), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
