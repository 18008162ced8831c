"""The daemon's end of the socket to a worker: frames up, frames down."""

import asyncio
import socket
from collections.abc import Callable
from typing import NamedTuple

from tollway.providers.llamacpp.frames import FrameError, frame_length

_HEAD = 4  # bytes in front of each frame, which tell its length


class Uplink(asyncio.Protocol):
    """What comes up: each frame is handed over as its last byte comes, without waking anybody.

    A model that makes a hundred tokens a second has the processors to itself but for these, so
    that what each of them costs is missed by the next.
    """

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.fault: FrameError | None = None  # what came cannot be read; nothing more is
        self._take: Callable[[bytes], None] | None = None
        self._came = bytearray()
        self._need = _HEAD

    def listen(self, take: Callable[[bytes], None]) -> None:
        """Have `take` called with each frame's body, also with those that have come already.

        What it raises as a FrameError is the end, as an end of the link is.
        """
        self._take = take
        self._frames()

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        self._came += data
        if len(self._came) >= self._need:
            self._frames()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that nothing more will come."""
        if not self.ended.done():
            self.ended.set_result(None)

    def _frames(self) -> None:
        came, at = self._came, 0
        try:
            while self._take is not None:
                self._need = _HEAD
                if len(came) - at < _HEAD:
                    break
                self._need += frame_length(bytes(came[at : at + _HEAD]))
                if len(came) - at < self._need:
                    break
                body = bytes(came[at + _HEAD : at + self._need])
                at += self._need
                self._take(body)
        except FrameError as fault:
            self.fault, self._take = fault, None
            self.connection_lost(fault)
        del came[:at]


class Link(NamedTuple):
    """Both ways. Nothing is read from `down`, and nothing written to `heard`."""

    up: Uplink
    heard: asyncio.BaseTransport
    down: asyncio.StreamWriter

    @classmethod
    async def over(cls, ours: socket.socket) -> "Link":
        """Return the link over a socket, on which nothing may have come yet.

        There is a transport for each way: one whose write fails, since the process is gone, throws
        away what had come before that.
        """
        loop = asyncio.get_running_loop()
        heard, up = await loop.create_unix_connection(Uplink, sock=ours)
        _, down = await asyncio.open_unix_connection(sock=ours.dup())
        down.transport.pause_reading()  # type: ignore[attr-defined]
        return cls(up, heard, down)

    def close(self) -> None:
        """Close both ways: the process, if it runs still, hears of it."""
        self.down.close()
        self.heard.close()
