"""How limits a minute stand, from one daemon to the next.

A minute that is used up stays used up, or a restart would be a way around it. A daemon that ends
leaves a file; after one that was killed the first gate asks the ledger (`gate/limits.py`).
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tollway.daemon.config.files import replace
from tollway.daemon.errors import ConfigError
from tollway.daemon.gate.rates import Kept, Rates

log = logging.getLogger(__name__)


class _File(msgspec.Struct, frozen=True):
    """By both clocks: the wall's can be set, and the other begins anew with the machine."""

    wall_ns: int
    clock_ns: int
    buckets: Sequence[Kept]


@contextmanager
def kept(rates: Rates, path: Path) -> Iterator[None]:
    """Go on from an earlier daemon's file, and leave one; at the end every call must be settled."""
    _take(rates, path)
    try:
        yield
    finally:
        _write(rates, path)


def _write(rates: Rates, path: Path) -> None:
    if not rates.begun:
        return
    said = msgspec.json.encode(_File(time.time_ns(), rates.clock_ns(), rates.kept()))
    try:
        replace(path, said)
    except ConfigError as error:
        log.warning("how limits a minute stand is left to the ledger: %s", error.message)


def _take(rates: Rates, path: Path) -> None:
    try:
        said = path.read_bytes()
        path.unlink()  # first: after a death it would tell of long ago
        found = msgspec.json.decode(said, type=_File)
    except FileNotFoundError:
        return
    except (OSError, msgspec.DecodeError):
        log.warning("how limits a minute stand is read from the ledger: `%s` cannot be", path)
        return
    # Whichever clock was set or began anew, the smaller of the two lets nobody off early.
    passed = min(time.time_ns() - found.wall_ns, rates.clock_ns() - found.clock_ns)
    rates.restore(found.buckets, max(0, passed))
