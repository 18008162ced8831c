"""Prompts and replies, where the owner asked for them: masked and packed off the path of calls.

A thread of its own masks and compresses, which for a long conversation takes longer than all of
its bookkeeping; the writer then puts the bytes into the file between the groups that calls wait
for. What waits is bounded: where the disk is too slow for it, bodies are left out and counted.
"""

import logging
import queue
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from sqlite3 import Connection
from typing import Literal

import msgspec

from tollway.daemon.errors import LedgerInvalid
from tollway.daemon.ledger.operations import Keep, Packed
from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.responses import Forget, Response
from tollway.daemon.ledger.responses import packed as packed_response
from tollway.daemon.ledger.responses import write as write_response
from tollway.daemon.ledger.schema import ID_HEAD

log = logging.getLogger(__name__)

MOST_BYTES = 1024 * 1024  # of one body, before it is packed; the rest is left out
# Read this much further, so that a secret across the cut is masked whole.
LOOK_AHEAD = 4096
_MOST_WAITING = 64 * 1024 * 1024
_LEVEL = 6
_STOP_S = 2.0
_PLAIN, _ZLIB = 0, 1
KINDS: tuple[Literal["request", "answer"], ...] = ("request", "answer")


class Kept(msgspec.Struct, frozen=True):
    """What one call said and got: the beginnings of both, and how long they were in all."""

    call_id: str
    at_ms: int
    request: bytes
    request_size: int
    answer: bytes
    answer_size: int
    mask: Callable[[str], str]
    response: Response | None = None  # where later calls may build on it

    @property
    def bytes(self) -> int:
        """How much memory it takes."""
        more = len(self.response.input) + len(self.response.body) if self.response else 0
        return len(self.request) + len(self.answer) + more


class Body(msgspec.Struct, frozen=True):
    """A request or an answer as it was kept. `size` is what it had; `text` may hold less of it."""

    kind: Literal["request", "answer"]
    at_ms: int
    size: int
    text: str
    cut: bool


class Bodies:
    """Takes bodies on the event loop, and gives them to the writer when they are packed.

    `dropped` counts the calls whose bodies there was no room for.
    """

    def __init__(self, put: Callable[[Keep | Forget], None]) -> None:
        self._put = put
        self._queue: queue.SimpleQueue[Kept | Forget | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._waiting = 0  # bytes, of what is not in the file yet
        self.dropped = 0

    def keep(self, kept: Kept) -> None:
        """Keep what a call said; nobody waits for it. Call it behind the call's settlement."""
        size = kept.bytes
        with self._lock:
            if self._waiting + size > _MOST_WAITING:
                self.dropped += 1
                return
            self._waiting += size
        self._add(kept)

    def forget(self, wish: Forget) -> None:
        """Delete a kept answer, behind all that was given to `keep` before."""
        self._add(wish)

    def _add(self, one: Kept | Forget) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ledger-bodies", daemon=True)
            self._thread.start()
        self._queue.put(one)

    def written(self, size: int) -> None:
        """Note that bytes which waited are in the file, or given up."""
        with self._lock:
            self._waiting -= size

    def stop(self) -> None:
        """Pack what waits and end; returns after two seconds at most."""
        if self._thread:
            self._queue.put(None)
            self._thread.join(_STOP_S)

    def _run(self) -> None:
        while (kept := self._queue.get()) is not None:
            if isinstance(kept, Forget):
                self._put(kept)
                continue
            try:
                self._put(packed(kept))
            except (ValueError, MemoryError, zlib.error):  # it must not cost all later ones
                log.exception("what call %s said is not kept", kept.call_id)
                self.written(kept.bytes)


def packed(kept: Kept) -> Keep:
    """Return a call's bodies masked, cut and compressed, as the file holds them."""
    parts = tuple(
        _part(kind, data, size, kept.mask)
        for kind, data, size in (
            (0, kept.request, kept.request_size),
            (1, kept.answer, kept.answer_size),
        )
        if size
    )
    response = packed_response(kept.response, kept.mask) if kept.response else None
    return Keep(kept.call_id, kept.at_ms, parts, kept.bytes, response)


def _part(kind: int, data: bytes, size: int, mask: Callable[[str], str]) -> Packed:
    text = mask(data.decode("utf-8", "surrogateescape"))
    data = text.encode("utf-8", "surrogateescape")[:MOST_BYTES]
    small = zlib.compress(data, _LEVEL)
    if len(small) < len(data):
        return Packed(kind, _ZLIB, size, small)
    return Packed(kind, _PLAIN, size, data)


def write(db: Connection, keep: Keep) -> bool:
    """Write a call's bodies into the open transaction; False where the call has no row."""
    found = db.execute(
        f"SELECT seq FROM calls WHERE {ID_HEAD} = substr(?, 1, 13) AND id = ?",  # noqa: S608
        (keep.call_id, keep.call_id),
    ).fetchone()
    if found is None:
        return False
    if keep.response:
        write_response(db, keep.response)
    for part in keep.parts:
        db.execute(
            "INSERT OR REPLACE INTO bodies (call, kind, at_ms, encoding, size, body)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (found[0], part.kind, keep.at_ms, part.encoding, part.size, part.body),
        )
    return True


def of_call(path: Path, call_id: str) -> list[Body]:
    """Return what was kept of the call with this whole id: the request, then the answer.

    Raises:
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read, or what it kept is damaged.
    """
    with reading(path) as db:
        return [_body(row) for row in _rows(db, call_id)]


def _rows(db: Connection, call_id: str) -> list[tuple[int, int, int, int, bytes]]:
    return db.execute(
        "SELECT b.kind, b.at_ms, b.encoding, b.size, b.body FROM bodies b"  # noqa: S608
        f" JOIN calls c ON c.seq = b.call WHERE {ID_HEAD} = substr(?, 1, 13) AND c.id = ?"
        " ORDER BY b.kind",
        (call_id, call_id),
    ).fetchall()


def _body(row: tuple[int, int, int, int, bytes]) -> Body:
    kind, at_ms, encoding, size, data = row
    try:
        whole = zlib.decompress(data) if encoding == _ZLIB else data
    except zlib.error as fault:
        raise LedgerInvalid(
            "What was kept of this call is damaged", hint="`tollway ledger verify` checks the file"
        ) from fault
    cut = size > len(whole) and len(whole) >= MOST_BYTES - 4
    return Body(KINDS[kind], at_ms, size, whole.decode("utf-8", "replace"), cut)


def read_page(db: Connection, first: int, end: int) -> dict[str, dict[str, object]]:
    """Return what was kept of the calls with these numbers, by their ids, for an export."""
    found: dict[str, dict[str, object]] = {}
    for call_id, *row in db.execute(
        "SELECT c.id, b.kind, b.at_ms, b.encoding, b.size, b.body FROM bodies b"
        " JOIN calls c ON c.seq = b.call WHERE b.call >= ? AND b.call < ?",
        (first, end),
    ):
        body = _body((row[0], row[1], row[2], row[3], row[4]))
        found.setdefault(call_id, {})[body.kind] = body.text
    return found
