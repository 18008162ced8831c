"""Which SQLite a ledger may be kept with: the one in this Python is not ours to choose."""

import sqlite3

from tollway.daemon.errors import LedgerUnavailable

LEAST = (3, 37, 0)  # the first with strict tables
# Where the fault is gone that can lose rows when a checkpoint and a commit meet.
_MENDED = ((3, 44, 6), (3, 50, 7), (3, 51, 3))

Release = tuple[int, int, int]


def present() -> Release:
    """Return the release of the SQLite that this Python has."""
    major, minor, patch = sqlite3.sqlite_version_info[:3]
    return major, minor, patch


def require(release: Release | None = None) -> None:
    """Return if a ledger can be kept with this release, by default the present one.

    Raises:
        LedgerUnavailable: It is too old.
    """
    found = release or present()
    if found < LEAST:
        raise LedgerUnavailable(
            f"This Python has SQLite {shown(found)}, and the ledger needs {shown(LEAST)} or newer",
            hint="A newer Python, or a newer system, brings one",
        )


def loses_rows(release: Release) -> bool:
    """Return whether a release has the fault that Tollway must work around (`wal.py`)."""
    line = [mended for mended in _MENDED if mended[:2] == release[:2]]
    return release < line[0] if line else release < _MENDED[-1]


def shown(release: Release) -> str:
    """Return a release as people write it."""
    return ".".join(str(number) for number in release)
