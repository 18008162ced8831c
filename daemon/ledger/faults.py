"""What goes wrong with a ledger's file, in words, and what can be done about it."""

import errno
import os
import sqlite3
from contextlib import suppress
from pathlib import Path

import msgspec

from tollway.daemon.errors import LedgerUnavailable
from tollway.providers.errors import GatewayError


class Reason(msgspec.Struct, frozen=True):
    """`what` is wrong and how to `fix` it, neither with a path nor a full stop."""

    what: str
    fix: str


_REASONS = {
    sqlite3.SQLITE_FULL: Reason(
        "the disk is full", "free some space there; the gateway then goes on by itself"
    ),
    sqlite3.SQLITE_BUSY: Reason(
        "another program holds it locked",
        "end that program (`fuser` on the file names it); the gateway then goes on by itself",
    ),
    sqlite3.SQLITE_READONLY: Reason(
        "it or its folder is read-only", "make both writable by the user that runs the gateway"
    ),
    sqlite3.SQLITE_CANTOPEN: Reason(
        "it cannot be opened",
        "see that its folder exists, and that the user that runs the gateway may write there",
    ),
    sqlite3.SQLITE_CORRUPT: Reason(
        "the file is damaged", "restore a backup of it, or move it away to start an empty one"
    ),
    sqlite3.SQLITE_NOTADB: Reason(
        "the file is not an SQLite database",
        "set `ledger.path` in gateway.toml to another file, or move this one away",
    ),
    sqlite3.SQLITE_IOERR: Reason(
        "the disk reports an error", "see the system's log about the disk that it is on"
    ),
    sqlite3.SQLITE_NOMEM: Reason("the memory is full", "end what uses it"),
}
_NEXT_TO_NOTHING = 64 * 1024  # bytes; the log's shared memory alone takes half of it
# Of one operation's values, not of the file: the next operation may well be written.
_OF_THE_ROW = {
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_RANGE,
    sqlite3.SQLITE_MISUSE,
}


def code(fault: BaseException) -> int:
    """Return SQLite's primary result code, 0 where the fault has none."""
    return getattr(fault, "sqlite_errorcode", 0) & 0xFF


def of_the_file(fault: BaseException) -> bool:
    """Whether the file cannot be written, as opposed to one operation being at fault."""
    if isinstance(fault, OSError | GatewayError):
        return True
    return bool(code(fault)) and code(fault) not in _OF_THE_ROW


def _disk_is_full(folder: Path) -> bool:
    with suppress(OSError):
        found = os.statvfs(folder)
        # Some file systems report no count of blocks at all: that is no full disk.
        return found.f_blocks > 0 and found.f_bavail * found.f_frsize < _NEXT_TO_NOTHING
    return False


def reason(fault: BaseException, path: Path) -> Reason:
    """Return words for a fault of the file at `path`."""
    # Where there is no room for the shared memory of the log, SQLite speaks of the disk's error.
    if code(fault) == sqlite3.SQLITE_IOERR and _disk_is_full(path.parent):
        return _REASONS[sqlite3.SQLITE_FULL]
    if known := _REASONS.get(code(fault)):
        return known
    if isinstance(fault, OSError) and fault.errno == errno.ENOSPC:
        full = _REASONS[sqlite3.SQLITE_FULL]
        plain = fault.strerror in (None, os.strerror(errno.ENOSPC))
        return full if plain else Reason(str(fault.strerror), full.fix)
    if isinstance(fault, OSError):
        return Reason(
            (fault.strerror or str(fault)).lower(),
            "see that its folder exists, and that the user that runs the gateway may write there",
        )
    return Reason(str(fault) or type(fault).__name__, "the gateway's log says more")


class Problem(msgspec.Struct, frozen=True):
    """Why the ledger cannot be written: a `line` for its owner, and `what` for callers."""

    line: str
    what: str  # without a path

    def refusal(self) -> LedgerUnavailable:
        """Return what a caller is told."""
        return LedgerUnavailable(
            f"The gateway cannot write its ledger, so it takes no new calls: {self.what}",
            hint="`tollway status` on the gateway's machine says more",
        )


def problem(fault: BaseException, path: Path) -> Problem:
    """Return words for a fault of the ledger at `path`, with what to do about it."""
    if isinstance(fault, GatewayError):
        hint = fault.hint[:1].lower() + fault.hint[1:]
        return Problem(f"{fault.message}; {hint}", "its file is not what or where it was")
    why = reason(fault, path)
    return Problem(f"The ledger `{path}` cannot be written: {why.what}; {why.fix}", why.what)


def stalled(path: Path) -> Problem:
    """Return words for a disk that neither writes nor fails."""
    what = "the disk does not answer"
    return Problem(
        f"The ledger `{path}` cannot be written: {what}; see the system's log about that disk",
        what,
    )


def opening(path: Path) -> Problem:
    """Return words for a ledger that has not been opened yet."""
    return Problem(f"The ledger `{path}` is being opened", "it is being opened")


def closed(path: Path) -> Problem:
    """Return words for a ledger that was closed."""
    return Problem(f"The ledger `{path}` is closed", "it is closed")
