"""Broken disks while old rows go and bodies come: calls are as safe as without them."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from broken_disks import fill, foreign_transaction, remount, small_disk, until
from ledger_rows import attempt, closed, ended, opened

from tollway.daemon.errors import LedgerUnavailable
from tollway.daemon.ledger import bodies
from tollway.daemon.ledger.bodies import Kept, of_call
from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.retention import Policy
from tollway.daemon.ledger.rows import SpentQuery
from tollway.daemon.ledger.verify import verify
from tollway.daemon.ledger.writer import Ledger

DAY_MS = 86_400_000
NOW_MS = time.time_ns() // 1_000_000
OLD_MS = NOW_MS - 10 * DAY_MS
WEEK = Policy(keep_ms=7 * DAY_MS)
OLD = 400
ALL = Policy(keep_ms=7 * DAY_MS, keep_bodies_ms=DAY_MS)


async def call(ledger: Ledger, number: int, at_ms: int) -> str:
    """Write one settled call, and return its id."""
    made = opened(number, at_ms)
    await ledger.admit(made, attempt(made))
    await ledger.settle(closed(made), ended(attempt(made), 100))
    return made.id


def count(path: Path) -> int:
    """Return how many calls there are."""
    with reading(path) as db:
        found = db.execute("SELECT count(*) FROM calls").fetchone()
    return int(found[0])


@asynccontextmanager
async def old_ledger(path: Path) -> AsyncIterator[Ledger]:
    """Yield an open ledger of 400 calls that are too old; in the end all is right and they gone."""
    ledger = Ledger(path)
    ledger.start()
    for number in range(1, OLD + 1):
        await call(ledger, number, OLD_MS + number)
    yield ledger
    await until(lambda: count(path) == len(_new(path)))
    spent = 100 * (OLD + len(_new(path)))
    assert await ledger.spent([SpentQuery("box", "", 0)]) == [spent]
    await ledger.close()
    assert verify(path) == []


def _new(path: Path) -> list[str]:
    with reading(path) as db:
        found = db.execute("SELECT id FROM calls WHERE admitted_ms >= ?", (NOW_MS,)).fetchall()
    return [call_id for (call_id,) in found]


def said(call_id: str, text: bytes = b"Hello") -> Kept:
    """Return what a call said."""
    return Kept(call_id, NOW_MS, b"Hi", 2, text, len(text), str)


async def test_a_foreign_lock_holds_old_rows_and_bodies_and_both_go_on(tmp_path: Path) -> None:
    """Calls are refused as ever; what was to be kept is kept when the lock is gone."""
    path = tmp_path / "ledger.db"
    async with old_ledger(path) as ledger:
        first = await call(ledger, 901, NOW_MS)
        with foreign_transaction(path):
            ledger.retain(ALL)
            ledger.keep(said(first))
            late = opened(902, NOW_MS)
            with pytest.raises(LedgerUnavailable, match="holds it locked"):
                await ledger.admit(late, attempt(late))
            assert count(path) == OLD + 1
        await until(lambda: [one.text for one in of_call(path, first)] == ["Hi", "Hello"])
        await call(ledger, 903, NOW_MS)


async def test_a_full_disk_is_made_room_on_by_nobody_s_rows(tmp_path: Path) -> None:
    """Bodies wait or are dropped, calls are refused in words, and then all of it goes on."""
    with small_disk(tmp_path / "disk", "64m") as disk:
        path = disk / "ledger.db"
        async with old_ledger(path) as ledger:
            first = await call(ledger, 901, NOW_MS)
            filler = fill(disk)
            ledger.retain(ALL)
            ledger.keep(said(first, bytes(range(256)) * 2000))
            refused = False
            ends: list[asyncio.Future[None]] = []
            number = 1000
            while not refused:
                number += 1
                late = opened(number, NOW_MS)
                try:
                    await ledger.admit(late, attempt(late))
                    # Not waited for: where the last page goes to the admission, it waits for room.
                    ends.append(ledger.settle(closed(late), ended(attempt(late), 100)))
                except LedgerUnavailable as error:
                    assert "the disk is full" in error.message
                    refused = True
            filler.unlink()
            await until(lambda: ledger.problem is None)
            await asyncio.gather(*ends)
            await call(ledger, 5000, NOW_MS)
            await until(lambda: len(of_call(path, first)) == 2)


async def test_a_read_only_disk_keeps_what_it_has(tmp_path: Path) -> None:
    """Nothing is deleted half, and once it can be written the rest goes."""
    with small_disk(tmp_path / "disk", "64m") as disk:
        path = disk / "ledger.db"
        ledger = Ledger(path)
        ledger.start()
        for number in range(1, OLD + 1):
            await call(ledger, number, OLD_MS + number)
        await ledger.close()
        remount(disk, "ro")
        again = Ledger(path)
        again.start()
        again.retain(ALL)
        again.keep(said(opened(1, OLD_MS + 1).id))
        late = opened(901, NOW_MS)
        with pytest.raises(LedgerUnavailable, match="read-only"):
            await again.admit(late, attempt(late))
        remount(disk, "rw")
        await again.ready()
        await until(lambda: count(path) == 0)
        assert await again.spent([SpentQuery("box", "", 0)]) == [100 * OLD]
        await again.close()
        assert verify(path) == []


async def test_a_mistake_of_the_upkeep_s_own_stops_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that calls need outlives whatever its chores do."""
    path = tmp_path / "ledger.db"

    def broken(*_: object) -> bool:
        raise RuntimeError("no such thing")

    async with old_ledger(path) as ledger:
        first = await call(ledger, 901, NOW_MS)
        with monkeypatch.context() as patch:
            patch.setattr(bodies, "write", broken)
            ledger.keep(said(first))
            await until(lambda: any("no such thing" in one for one in ledger.warnings))
            await call(ledger, 902, NOW_MS)
            assert ledger.problem is None
        ledger._writer.upkeep._rest_until = 0.0
        ledger.retain(WEEK)
        await until(lambda: len(of_call(path, first)) == 2)


async def test_a_kill_between_two_steps_leaves_a_ledger_that_agrees_with_itself(
    tmp_path: Path,
) -> None:
    """Rows and watermark go in one transaction: what a copy of the file sees is right."""
    path = tmp_path / "ledger.db"
    async with old_ledger(path) as ledger:
        ledger.retain(WEEK)
        seen = set()
        for number in range(20):
            with (
                closing(sqlite3.connect(path, isolation_level=None)) as db,
                closing(sqlite3.connect(tmp_path / f"copy{number}.db")) as copy,
            ):
                db.backup(copy)
                copy.execute("PRAGMA journal_mode = delete")
            left = tmp_path / f"copy{number}.db"
            assert verify(left) == []
            seen.add(count(left))
            if count(left) == 0:
                break
        assert seen
