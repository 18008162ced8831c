"""A ledger of an older version is kept before it is upgraded: the copy, and the room for it."""

import errno
import shutil
from contextlib import closing
from pathlib import Path
from sqlite3 import Connection, connect


def back_up(db: Connection, to: Path) -> None:
    """Copy a ledger to a file, whole or not at all.

    Raises:
        sqlite3.Error, OSError: There is no room for it, or it cannot be written.
    """
    half = to.with_name(f"{to.name}.part")
    half.unlink(missing_ok=True)
    # Tried all the same, it would leave nothing to anyone who writes there, again and again.
    require_room(db, to.parent)
    half.touch(mode=0o600)
    with closing(connect(half)) as copy:
        db.backup(copy)
    half.replace(to)


def require_room(db: Connection, folder: Path) -> None:
    """Return if a folder has room for a copy of a ledger.

    Raises:
        OSError: It has not; the message says how much is needed, and how much there is.
    """
    (pages,), (size,) = (db.execute(f"PRAGMA page_{of}").fetchone() for of in ("count", "size"))
    needed, free = pages * size, shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"it is of an older version, and for its backup {needed / 2**20:.1f} MiB are needed"
            f" where {free / 2**20:.1f} are free",
        )
