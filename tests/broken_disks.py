"""Disks that are full, frozen, read-only or locked, for tests of the ledger."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from needed import needed

WITHIN_S = 30.0  # generous: what is waited for takes a second or two


async def until(what: Callable[[], bool]) -> None:
    """Return once `what` holds."""
    async with asyncio.timeout(WITHIN_S):
        while not what():  # noqa: ASYNC110 - another thread makes it so
            await asyncio.sleep(0.01)


@contextmanager
def foreign_transaction(path: Path) -> Iterator[None]:
    """Hold a write transaction in another process: what a `sqlite3` shell left open does."""
    code = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "db.execute('BEGIN IMMEDIATE'); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        yield
        child.communicate(b"")


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system of its own; skips where that is not allowed."""
    folder.mkdir()
    tried = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip("mounting needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def freezing_disk(folder: Path) -> Iterator[tuple[Path, Callable[[], None], Callable[[], None]]]:
    """Mount a disk that can be frozen and thawed; skips where that is not allowed."""
    image, place = folder / "image", folder / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(24 * 1024**2)
    program = needed("mkfs.ext4", package="e2fsprogs")
    made = subprocess.run([program, "-q", str(image)], capture_output=True, check=False)
    command = ["mount", "-o", "loop", str(image), str(place)]
    if made.returncode or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a loop device needs root")
    try:
        yield place, lambda: command_on(place, "-f"), lambda: command_on(place, "-u")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def command_on(place: Path, how: str) -> None:
    """Freeze or thaw a disk."""
    subprocess.run(["fsfreeze", how, str(place)], check=True)


def remount(place: Path, how: str) -> None:
    """Make a disk read-only, or writable again."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True)


def fill(folder: Path) -> Path:
    """Write a file until the disk is full."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                continue
    return filler
