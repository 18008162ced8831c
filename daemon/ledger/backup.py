"""A copy of the ledger while the daemon writes to it, and a ledger without its free pages."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec

from tollway.daemon.errors import LedgerInvalid, LedgerUnavailable
from tollway.daemon.ledger.faults import reason
from tollway.daemon.ledger.owning import owned
from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.schema import transaction
from tollway.daemon.ledger.verify import Difference, verify

_PAGES = 2048  # copied in one step: 8 MiB
# Where 0 stands for none, so that no foreign key can say that they point to words.
_ALSO_POINT = (("spend_label", "tags"), ("spend_label", "session"))


class Copied(msgspec.Struct, frozen=True):
    """A copy and how large it is in bytes; `differences` is what its check found."""

    path: Path
    size: int
    differences: list[Difference]


class Vacuumed(msgspec.Struct, frozen=True):
    """The ledger's size in bytes before and after, and how many texts nobody used any more."""

    before: int
    after: int
    words: int


def backup(path: Path, to: Path, *, replace: bool, progress: Callable[[int, int], None]) -> Copied:
    """Copy the ledger as it is at this moment, check the copy, and only then give it its name.

    The daemon goes on meanwhile; its write-ahead log grows until the copy is made.

    Args:
        path: The ledger.
        to: The copy's file, made readable to its owner alone.
        replace: Whether a file that is there may be replaced.
        progress: Told how many pages are copied, and of how many.

    Raises:
        LedgerInvalid: `to` is there already, or is the ledger itself; or the copy is damaged.
        LedgerUnavailable: The ledger cannot be read, or the copy not be written.
    """
    if to.exists() and (not replace or to.samefile(path)):
        raise LedgerInvalid(
            f"There is a file `{to}` already",
            hint="Name another; `--force` replaces it, but never the ledger itself",
        )
    half = to.with_name(f"{to.name}.part")
    with reading(path) as db:
        try:
            _copy(db, half, progress)
            # A call under way has no daemon in the copy.
            found = [one for one in verify(half) if one.check != "open call"]
            half.replace(to)
        except (sqlite3.Error, OSError) as fault:
            why = reason(fault, to)
            raise LedgerUnavailable(
                f"The copy `{to}` cannot be written: {why.what}", hint=why.fix
            ) from fault
        finally:
            half.unlink(missing_ok=True)
    return Copied(to, to.stat().st_size, found)


def _copy(db: sqlite3.Connection, half: Path, progress: Callable[[int, int], None]) -> None:
    half.unlink(missing_ok=True)
    half.touch(mode=0o600)
    with closing(sqlite3.connect(half, isolation_level=None)) as copy:
        # One moment for all steps: without it each commit of the daemon would begin it anew.
        db.execute("BEGIN")
        db.execute("SELECT 1 FROM meta LIMIT 1").fetchone()
        db.backup(copy, pages=_PAGES, progress=lambda _, left, of: progress(of - left, of), sleep=0)
        db.execute("COMMIT")
        copy.execute("PRAGMA journal_mode = delete")  # one file, whole in itself
    _to_disk(half)


def vacuum(path: Path) -> Vacuumed:
    """Write the ledger anew without free pages and unused words, and put it in the old one's place.

    A crash in between leaves the old one.

    Raises:
        LedgerHeld: The daemon runs.
        LedgerInvalid, LedgerUnavailable: It cannot be read or written, or there is no room.
    """
    path = path.resolve()
    half = path.with_name(f"{path.name}.vacuum")
    before = path.stat().st_size if path.exists() else 0
    with owned(path) as db:
        free = shutil.disk_usage(path.parent).free
        if free < before:
            raise LedgerUnavailable(
                f"There is no room for a second `{path}`: {free // 1024**2} MiB are free, and"
                f" {before // 1024**2} MiB may be needed",
                hint="Free some space there; the ledger itself is as it was",
            )
        half.unlink(missing_ok=True)
        try:
            with transaction(db):
                words = _forget_words(db)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            half.touch(mode=0o600)
            db.execute("VACUUM INTO ?", (str(half),))
            _to_disk(half)
            db.close()  # the last connection: its log is in the file, and gone
            half.replace(path)
            _to_disk(path.parent)
        finally:
            half.unlink(missing_ok=True)
    return Vacuumed(before, path.stat().st_size, words)


def _forget_words(db: sqlite3.Connection) -> int:
    # All else that points to a word says so in the schema.
    points = db.execute(
        'SELECT m.name, f."from" FROM sqlite_master m, pragma_foreign_key_list(m.name) f'
        " WHERE m.type = 'table' AND f.\"table\" = 'words'"
    ).fetchall()
    used = " UNION ".join(
        f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL"  # noqa: S608 - the schema's
        for table, column in (*points, *_ALSO_POINT)
    )
    return db.execute(f"DELETE FROM words WHERE id NOT IN ({used})").rowcount  # noqa: S608


def _to_disk(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
