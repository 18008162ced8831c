"""Files that are replaced whole or not at all, by one process at a time."""

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tollway.daemon.errors import ConfigError


@contextmanager
def locked(path: Path, *, wait_s: float = 30.0) -> Iterator[None]:
    """Hold a lock file, made with mode 0600, while the block runs. It stays where it is.

    Raises:
        ConfigError: It cannot be made, or another process holds it for longer than `wait_s`.
    """
    with _told(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        until = time.monotonic() + wait_s
        while not _got(handle):
            if time.monotonic() > until:
                raise ConfigError(
                    f"`{path.parent}` is being changed by another command",
                    hint="Try again once it has ended",
                )
            time.sleep(0.01)
        yield
    finally:
        os.close(handle)


def _got(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def replace(path: Path, data: bytes) -> None:
    """Put `data` in the place of a file: a reader sees all of the old or all of the new.

    The mode and, where the system lets us, the owner stay; a new file has mode 0600. Returns
    once the disk has it.

    Raises:
        ConfigError: The folder or the disk does not take it. The file is as it was.
    """
    with _told(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(handle, "wb") as file:
                _like(path, file.fileno())
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:  # an interrupt too must leave no half-written file behind
            with suppress(OSError):
                os.unlink(name)
            raise
        _sync_folder(path.parent)


def create(path: Path, data: bytes) -> None:
    """Write a new file with mode 0600.

    Raises:
        ConfigError: There is one already, or it cannot be written: then there is none.
    """
    with _told(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:  # else a half one would be taken for a person's
            with suppress(OSError):
                os.unlink(path)
            raise
        _sync_folder(path.parent)


def _like(path: Path, handle: int) -> None:
    try:
        old = path.stat()
    except FileNotFoundError:
        return
    # Refused for files of others, whose folder we may nevertheless write to.
    with suppress(PermissionError):
        os.fchown(handle, old.st_uid, old.st_gid)
    os.fchmod(handle, stat.S_IMODE(old.st_mode))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn the system's refusals into words."""
    try:
        yield
    except FileExistsError as fault:
        raise ConfigError(f"`{path}` is there already; nothing was changed") from fault
    except FileNotFoundError as fault:
        raise ConfigError(
            f"`{path}` cannot be written: there is no folder `{path.parent}`",
            hint="Make that folder first, or name another",
        ) from fault
    except OSError as fault:
        raise ConfigError(
            f"`{path}` cannot be written: {fault.strerror}",
            hint=f"See who may write to `{path.parent}`, and whether the disk is full or read-only",
        ) from fault
