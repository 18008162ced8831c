"""How commands write to the ledger: with its lock, so never beside the daemon."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tollway.daemon.errors import LedgerUnavailable
from tollway.daemon.ledger.faults import reason
from tollway.daemon.ledger.lock import LedgerLock
from tollway.daemon.ledger.reading import open_to_write, reading

_BUSY_S = 5.0


@contextmanager
def owned(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection that may write, as the ledger's only owner.

    Raises:
        LedgerHeld: The daemon runs.
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read or written.
    """
    lock = LedgerLock(path)
    with reading(path):  # it is a ledger, and of this version
        pass
    lock.acquire(time.time_ns() // 1_000_000)
    try:
        with closing(open_to_write(path, _BUSY_S)) as db:
            yield db
    except sqlite3.Error as fault:
        why = reason(fault, path)
        raise LedgerUnavailable(
            f"The ledger `{path}` cannot be written: {why.what}", hint=why.fix
        ) from fault
    finally:
        lock.release()
