"""What a supervisor like systemd is told, and how often: sd_notify(3), without its library.

Nothing happens, and nothing is said, where nobody asked for it by `$NOTIFY_SOCKET`.
"""

import asyncio
import contextlib
import os
import socket
import time


def notify(*said: str) -> bool:
    """Tell the supervisor lines such as "READY=1"; return whether there is one that took them.

    One that does not read is not waited for: it would stop everything else.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.setblocking(False)
        # "@" stands for the NUL that begins an abstract socket's name.
        one.connect(address.replace("@", "\0", 1) if address[0] == "@" else address)
        one.sendall("\n".join(said).encode())
        return True
    return False


def reloading() -> None:
    """Say that a reload has begun; `notify("READY=1")` says that it has ended."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def is_systemds() -> bool:
    """Whether systemd started this very process, as a service."""
    return os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid()) or bool(
        os.environ.get("NOTIFY_SOCKET")
    )


def ping_every_s() -> float | None:
    """Return how often the supervisor wants to hear of us, in seconds; None for never."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not usec.isdecimal() or not int(usec) or pid not in {"", str(os.getpid())}:
        return None
    return int(usec) / 2_000_000  # half of the time after which we would be taken for hung


async def ping() -> None:
    """Tell it from the event loop that this still turns; returns where nobody wants to know."""
    every_s = ping_every_s()
    while every_s is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(every_s)
