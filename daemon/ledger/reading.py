"""How everyone but the writer opens the ledger: read-only, and never for long."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from sqlite3 import Connection, Error, connect
from urllib.parse import quote

from tollway.daemon.errors import LedgerInvalid, LedgerUnavailable
from tollway.daemon.ledger.faults import reason
from tollway.daemon.ledger.schema import VERSION, version

_BUSY_S = 2.0


@contextmanager
def reading(path: Path) -> Iterator[Connection]:
    """Yield a read-only connection; each statement on it sees a moment of its own.

    Raises:
        LedgerInvalid: The file is not a ledger, or needs an older or newer Tollway.
        LedgerUnavailable: There is no file, or it cannot be read.
    """
    if not path.exists():
        raise LedgerUnavailable(
            f"There is no ledger at `{path}` yet", hint="`tollway up` makes one"
        )
    try:
        with closing(open_read_only(path)) as db:
            found = version(db, path)
            if found < VERSION:
                raise LedgerInvalid(
                    f"The ledger `{path}` is of an older version ({found}; this is {VERSION})",
                    hint="Start the daemon once: it backs the file up and upgrades it",
                )
            yield db
    except Error as fault:
        why = reason(fault, path)
        raise LedgerUnavailable(
            f"The ledger `{path}` cannot be read: {why.what}", hint=why.fix
        ) from fault


def open_read_only(path: Path) -> Connection:
    """Return a connection that cannot write, whatever is executed on it.

    Raises:
        sqlite3.Error: The file cannot be opened.
    """
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    if _rests(path):
        uri += "&immutable=1"
    return connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None)


def _rests(path: Path) -> bool:
    """Whether the ledger is a closed one on a disk that nobody can write.

    SQLite would make the log's shared memory beside it, and cannot.
    """
    try:
        if not os.statvfs(path).f_flag & os.ST_RDONLY:
            return False
        real = path.resolve()
        return not real.with_name(f"{real.name}-wal").exists()
    except OSError:
        return False


def open_to_write(path: Path, busy_s: float) -> Connection:
    """Return a connection that writes a file that is there, and never makes one.

    Raises:
        sqlite3.Error: The file cannot be opened.
    """
    uri = f"file:{quote(str(path.absolute()))}?mode=rw"
    return connect(uri, uri=True, timeout=busy_s, isolation_level=None)
