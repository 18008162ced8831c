"""The log file of a daemon in the background: bounded, and begun anew where it was moved away."""

import os
from pathlib import Path
from typing import Self

_MOST_BYTES = 32 * 2**20  # of the file, and of the one before it


class LogFile:
    """The file that a process writes its stdout and stderr to, by its path."""

    def __init__(self, path: Path, fds: tuple[int, ...], *, most: int = _MOST_BYTES) -> None:
        self._path = path
        self._fds = fds
        self._most = most

    @classmethod
    def of(cls, path: Path, *, most: int = _MOST_BYTES) -> Self | None:
        """Return the file if stdout or stderr go there, as `up` has them; else None.

        A terminal, a pipe, the journal or another file are for whoever set them up to look after.
        """
        fds = tuple(fd for fd in (1, 2) if _is(path, fd))
        return cls(path, fds, most=most) if fds else None

    def look(self) -> None:
        """Begin a new file where this one is full, or is no longer at its path.

        A full one takes the place of the one before it. While a restart hands over, two processes
        write here: the second finds that the first has moved the file, and follows. What cannot be
        done now, on a full disk say, is tried again behind the next lines.
        """
        fd = self._fds[0]
        try:
            if _is(self._path, fd):
                if os.fstat(fd).st_size < self._most:
                    return
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            new = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for ours in self._fds:
                os.dup2(new, ours)
            os.close(new)
        except OSError:
            return


def _is(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except OSError:
        return False
