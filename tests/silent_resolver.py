"""A program, run in a network of its own, whose resolver's server hears and says nothing.

It calls providers by twelve names that only that server could know, then one by a name that the
machine itself knows, says that the latter answered, and ends.
"""

import asyncio
import ctypes
import fcntl
import socket
import struct
import tempfile
from pathlib import Path

import uvloop
from transports import ask, whole
from upstreams import answer, reads, says, upstream

from tollway.providers.http.client import HttpTransport

_SET_FLAGS, _UP = 0x8914, 1  # SIOCSIFFLAGS, IFF_UP
_BIND = 4096  # MS_BIND
_HUNG = 12


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP))


def _put(text: str, over: str) -> None:
    """Have this mount namespace alone see a file with this text."""
    with tempfile.NamedTemporaryFile("w", suffix=".conf", delete=False) as file:
        file.write(text)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(file.name.encode(), over.encode(), None, _BIND, None):
        raise OSError(ctypes.get_errno(), f"{over} could not be replaced")
    Path(file.name).unlink()


async def _calls(asked: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    client = HttpTransport()
    async with upstream([reads(), says(answer(b"ok"))]) as server:
        hung = []
        names: set[bytes] = set()
        for number in range(_HUNG):
            one = client.send(ask(f"http://gone-{number}.example/"))
            hung.append(asyncio.create_task(one))
        while len(names) < _HUNG:
            names.add((await loop.sock_recv(asked, 512))[12:24])
        assert await whole(await client.send(ask(f"http://localhost:{server.port}/"))) == b"ok"
        print(f"found while {sum(not one.done() for one in hung)} hung")
        await client.close()
        await asyncio.gather(*hung, return_exceptions=True)


if __name__ == "__main__":
    _loopback_up()
    _put("nameserver 127.0.0.1\noptions timeout:30 attempts:5\n", over="/etc/resolv.conf")
    _put("127.0.0.1 localhost\n", over="/etc/hosts")
    _put("hosts: files dns\n", over="/etc/nsswitch.conf")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.setblocking(False)
        silent.bind(("127.0.0.1", 53))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_calls(silent))
