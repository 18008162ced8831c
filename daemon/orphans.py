"""Processes that have ended and that nobody but process 1 of a container can take leave of.

A command's own children are given to process 1 when it ends. Where that is the daemon, and no
`init` stands before it, they would stay as zombies, one with each start of such a model, until
the container may have no more processes.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

EVERY_S = 60.0


async def bury(*, every_s: float = EVERY_S) -> None:
    """Take leave of them again and again; never returns."""
    seen: set[int] = set()
    while True:
        await asyncio.sleep(every_s)
        seen = await asyncio.to_thread(once, seen)


def once(seen: set[int]) -> set[int]:
    """Take leave of those that had ended at the last look already; return those that have now.

    Whoever starts a process here hears of its end at once: what is still there at the next look
    is nobody's.
    """
    dead = set(_dead())
    for pid in dead & seen:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return dead


def _dead() -> Iterator[int]:
    ours = str(os.getpid()).encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            # "12 (a name) Z 1 ...": the name may hold anything.
            state, parent = (folder / "stat").read_bytes().rpartition(b")")[2].split()[:2]
            if state == b"Z" and parent == ours:
                yield int(folder.name)
