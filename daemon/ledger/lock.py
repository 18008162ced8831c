"""One owner for a ledger: a file beside it, locked for as long as its owner lives."""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec

from tollway.daemon.errors import LedgerHeld, LedgerInvalid

# `holder` takes the lock for an instant to see whether anyone has it.
_TRIES = 4
_PAUSE_S = 0.02


class Holder(msgspec.Struct, frozen=True):
    """Who holds a ledger: its process, and since when (unix milliseconds)."""

    pid: int
    since_ms: int


class LedgerLock:
    """The lock of `path`, in `ledger.db.lock` beside it; the kernel frees it when we die."""

    def __init__(self, path: Path) -> None:
        self._file = _beside(path)
        self._path = path
        self._fd: int | None = None

    def acquire(self, now_ms: int) -> Self:
        """Take the lock, and write who has it.

        Raises:
            LedgerHeld: Another process has it, or another ledger object of this one.
            LedgerInvalid: The ledger's file has a second name.
            OSError: The lock's file cannot be made.
        """
        refuse_second_name(self._path)
        fd = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(fd)
        except BlockingIOError as fault:
            os.close(fd)
            by = _read(self._file)
            who = f"process {by.pid}" if by else "another process"
            raise LedgerHeld(
                f"The ledger `{self._path}` is in use by {who}",
                hint="`tollway down` stops the daemon that serves it",
            ) from fault
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        # On a full disk the lock is held all the same, only nobody learns by whom.
        with suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, msgspec.json.encode(Holder(os.getpid(), now_ms)), 0)
        return self

    def release(self) -> None:
        """Give the lock back; nothing happens where it was never taken."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def holder(path: Path) -> Holder | None:
    """Return who holds the ledger now, None where nobody does; `pid` is 0 where it is unknown."""
    try:
        fd = os.open(_beside(path), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(_beside(path)) or Holder(0, 0)
    finally:
        os.close(fd)
    return None


def _lock(fd: int) -> None:
    for _ in range(_TRIES):
        with suppress(BlockingIOError):
            # flock and not fcntl's record locks: those end when any descriptor of the file is
            # closed in the process, and do not stop a second ledger within it.
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(_PAUSE_S)
    return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def refuse_second_name(path: Path) -> None:
    """Return if a ledger's file has one name, or is not there.

    Raises:
        LedgerInvalid: It has two.
    """
    # The lock and the write-ahead log have their names from the ledger's: by another of its names
    # a second daemon would find neither, and each overwrite what the other wrote.
    try:
        names = path.stat().st_nlink
    except FileNotFoundError:
        return
    if names > 1:
        raise LedgerInvalid(
            f"The ledger `{path}` has another name (a hard link), by which a second program could"
            " write to it unseen",
            hint=f"`find / -xdev -samefile {path}` tells its names: remove all but one (a copy is"
            " made by `tollway ledger backup`)",
        )


def _beside(path: Path) -> Path:
    path = path.resolve()  # a ledger with two names has one lock
    return path.with_name(f"{path.name}.lock")


def _read(file: Path) -> Holder | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Holder)
    except (OSError, msgspec.DecodeError):
        return None
