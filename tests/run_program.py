"""`tollway run` as a process of a test's own."""

import asyncio
import os
import sys
from pathlib import Path

from gateway import WHOLE, whole
from shell import PATIENCE_S, Running
from upstreams import reads, says

ANSWERS = [[reads(), says(whole(WHOLE, "Connection: close"))]]


class Run:
    """`tollway run` as a process, in a folder of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def end(self) -> tuple[int, str, str]:
        """Return its exit code and what it said on stdout and stderr."""
        async with asyncio.timeout(PATIENCE_S):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), err.decode()

    async def line(self) -> str:
        """Return the next line that the program says."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            return (await self.process.stdout.readline()).decode().strip()


async def start(daemon: Running, folder: Path, *words: str, **env: str) -> Run:
    """Start `tollway run` with some words."""
    _make(folder)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tollway.cli", "--config", str(daemon.config), "run", *words),
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # the terminal of whoever runs the tests is none of its own
    )
    return Run(process)


def _make(folder: Path) -> None:
    folder.mkdir(exist_ok=True)


def python(text: str, *more: str) -> tuple[str, ...]:
    """Return the words that run a Python program."""
    return ("--", sys.executable, "-c", text, *more)
