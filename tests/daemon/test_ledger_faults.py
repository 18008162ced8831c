"""A ledger that cannot be written: what callers are told, and that nothing is lost."""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import msgspec
import pytest
from broken_disks import (
    WITHIN_S,
    fill,
    foreign_transaction,
    freezing_disk,
    remount,
    small_disk,
    until,
)
from ledger_rows import ANNA, attempt, closed, ended, opened, refused

from tollway.daemon.errors import LedgerUnavailable
from tollway.daemon.ledger import calls
from tollway.daemon.ledger.faults import problem
from tollway.daemon.ledger.lock import holder
from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.rows import SpentQuery
from tollway.daemon.ledger.spend import totals
from tollway.daemon.ledger.verify import repair, verify
from tollway.daemon.ledger.writer import Ledger

BOX = [SpentQuery("box", "", 0)]


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Ledger]:
    """Yield an open ledger; afterwards it agrees with itself."""
    ledger = Ledger(path)
    ledger.start()
    yield ledger
    await ledger.close()
    assert verify(path) == []


async def test_a_short_foreign_lock_delays_and_refuses_nobody(tmp_path: Path) -> None:
    """A person's UPDATE takes a moment: no call should fail for it."""
    async with running(tmp_path / "ledger.db") as ledger:
        call = opened(1)
        with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            admitting = asyncio.create_task(ledger.admit(call, attempt(call)))
            await asyncio.wait([admitting], timeout=0.2)
            assert not admitting.done()
            other.execute("ROLLBACK")
            await admitting
        await ledger.settle(closed(call), ended(attempt(call)))


async def test_a_foreign_lock_refuses_admissions_and_keeps_settlements(tmp_path: Path) -> None:
    """New calls are told soon and clearly; running ones are written when the lock is gone."""
    async with running(tmp_path / "ledger.db") as ledger:
        first, second, third = opened(1), opened(2), opened(3)
        await ledger.admit(first, attempt(first))
        await ledger.admit(second, attempt(second))
        with foreign_transaction(ledger.path):
            settled = ledger.settle(closed(first), ended(attempt(first)))
            with pytest.raises(LedgerUnavailable, match="another program holds it locked"):
                await ledger.admit(third, attempt(third))
            assert ledger.problem is not None
            assert str(ledger.path) in ledger.problem
            with pytest.raises(LedgerUnavailable) as refusal:
                await ledger.next_attempt(ended(attempt(second), 250), attempt(second, 2))
            assert str(ledger.path) not in refusal.value.message
            with pytest.raises(LedgerUnavailable):
                await ledger.spent(BOX)
            ledger.settle(closed(second, "failed"), None)
            assert not settled.done()
            assert ledger.backlog >= 1
        await settled
        await ledger.ready()
        assert ledger.problem is None
        assert await ledger.spent(BOX) == [550]
        with pytest.raises(calls.CallUnknown):
            calls.one(ledger.path, third.id)
        await ledger.admit(third, attempt(third))
        await ledger.settle(closed(third), ended(attempt(third)))


async def test_a_ledger_that_has_nothing_to_write_is_not_well_by_that(tmp_path: Path) -> None:
    """Whether it can be written is tried: `status` would say so, and the next caller be refused."""
    async with running(tmp_path / "ledger.db") as ledger:
        call = opened(1)
        with foreign_transaction(ledger.path):
            with pytest.raises(LedgerUnavailable):
                await ledger.admit(call, attempt(call))
            assert ledger.backlog == 0
            await until(lambda: ledger._writer._failures >= 3)
            assert ledger.problem is not None
        await ledger.ready()
        assert ledger.problem is None


async def test_the_end_of_an_attempt_is_kept_though_the_next_is_refused(tmp_path: Path) -> None:
    """The lock came between the two: what the first try cost is known, and is billed."""
    async with running(tmp_path / "ledger.db") as ledger:
        call = opened(1)
        await ledger.admit(call, attempt(call))
        with foreign_transaction(ledger.path):
            assert ledger.problem is None
            with pytest.raises(LedgerUnavailable, match="another program holds it locked"):
                await ledger.next_attempt(ended(attempt(call), 250), attempt(call, 2))
            settled = ledger.settle(closed(call, "failed"), None)
        await settled
        assert await ledger.spent(BOX) == [250]
        assert calls.one(ledger.path, call.id).call.attempts == 1


async def test_a_full_disk_loses_nothing_and_heals(tmp_path: Path) -> None:
    """Admissions fail, endings wait; once there is room everything is in the file."""
    with small_disk(tmp_path / "disk", "2m") as folder:
        async with running(folder / "ledger.db") as ledger:
            admitted = []
            filler = fill(folder)
            with pytest.raises(LedgerUnavailable, match="the disk is full"):
                for number in range(5000):
                    call = opened(number)
                    await ledger.admit(call, attempt(call))
                    admitted.append(call)
            settled = [ledger.settle(closed(call), ended(attempt(call))) for call in admitted]
            filler.unlink()
            await asyncio.gather(*settled)
            await ledger.ready()
            assert ledger.problem is None
            assert await ledger.spent(BOX) == [300 * len(admitted)]
            with pytest.raises(calls.CallUnknown):
                calls.one(ledger.path, opened(len(admitted)).id)


async def test_a_disk_that_is_full_at_the_start_gives_a_ledger_that_heals(tmp_path: Path) -> None:
    """The daemon starts, says what is wrong, and needs no second start."""
    with small_disk(tmp_path / "disk", "1m") as folder:
        filler = fill(folder)
        async with running(folder / "ledger.db") as ledger:
            assert ledger.problem is not None
            assert "the disk is full" in ledger.problem
            call = opened(1)
            with pytest.raises(LedgerUnavailable, match="the disk is full"):
                await ledger.admit(call, attempt(call))
            filler.unlink()
            await ledger.ready()
            await ledger.admit(call, attempt(call))
            await ledger.settle(closed(call), ended(attempt(call)))


async def test_a_ledger_whose_disk_has_filled_up_meanwhile_says_so_and_heals(
    tmp_path: Path,
) -> None:
    """SQLite finds no room beside a ledger that is whole, and calls it an error of the disk."""
    with small_disk(tmp_path / "disk", "1m") as folder:
        async with running(folder / "ledger.db"):
            pass
        filler = fill(folder)
        async with running(folder / "ledger.db") as ledger:
            call = opened(1)
            with pytest.raises(LedgerUnavailable, match="the disk is full"):
                await ledger.admit(call, attempt(call))
            assert ledger.problem is not None
            assert "free some space there" in ledger.problem
            filler.unlink()
            await ledger.ready()
            await ledger.admit(call, attempt(call))
            await ledger.settle(closed(call), ended(attempt(call)))


async def test_only_an_error_on_a_full_disk_is_said_to_be_a_full_disk(tmp_path: Path) -> None:
    """Where there is room, the disk's error stays the disk's."""
    fault = sqlite3.OperationalError("disk I/O error")
    fault.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    assert "the disk reports an error" in problem(fault, tmp_path / "ledger.db").line
    assert "the disk reports an error" in problem(fault, tmp_path / "none" / "ledger.db").line
    with small_disk(tmp_path / "disk", "1m") as folder:
        ledger = folder / "ledger.db"
        async with running(ledger):
            pass
        ledger.with_name("ledger.db-shm").unlink()
        fill(folder)
        assert problem(fault, ledger).what == "the disk is full"
        with pytest.raises(LedgerUnavailable, match="the disk is full"), reading(ledger):
            pass  # never here: the log's shared memory has no room


async def test_a_read_only_disk_refuses_and_heals(tmp_path: Path) -> None:
    """A disk that the kernel has made read-only, as it does after errors."""
    with small_disk(tmp_path / "disk", "8m") as folder:
        path = folder / "ledger.db"
        async with running(path):
            pass
        remount(folder, "ro")
        async with running(path) as ledger:
            call = opened(1)
            with pytest.raises(LedgerUnavailable, match="read-only"):
                await ledger.admit(call, attempt(call))
            remount(folder, "rw")
            await ledger.ready()
            await ledger.admit(call, attempt(call))
            await ledger.settle(closed(call), ended(attempt(call)))


async def test_a_closed_ledger_on_a_read_only_disk_is_read(tmp_path: Path) -> None:
    """An old disk, or a snapshot: its reports need nothing written beside the file."""
    with small_disk(tmp_path / "disk", "4m") as disk:
        ledger = Ledger(disk / "own" / "ledger.db")
        ledger.start()
        made = opened(1)
        await ledger.admit(made, attempt(made))
        await ledger.settle(closed(made), ended(attempt(made), 300))
        await ledger.close()
        remount(disk, "ro")
        assert totals(ledger.path, since_ms=0, until_ms=2**60).cost_nanousd == 300
        assert verify(ledger.path) == []


async def test_a_folder_that_cannot_be_made_refuses_and_heals(tmp_path: Path) -> None:
    """A file stands where the folder should be: told by name, and no start fails for it."""
    (tmp_path / "data").write_text("not a folder")
    async with running(tmp_path / "data" / "ledger.db") as ledger:
        assert ledger.problem is not None
        assert str(ledger.path) in ledger.problem
        with pytest.raises(LedgerUnavailable):
            await ledger.admit(opened(1), attempt(opened(1)))
        (tmp_path / "data").unlink()
        await ledger.ready()
        assert ledger.problem is None


@pytest.mark.parametrize("damage", [b"this is no database at all" * 400, b"SQLite format 3\0junk"])
async def test_a_damaged_file_is_named_and_kept(tmp_path: Path, damage: bytes) -> None:
    """It may be all that is left of the rows: nothing is written over it."""
    path = tmp_path / "ledger.db"
    path.write_bytes(damage)
    ledger = Ledger(path)
    ledger.start()
    assert ledger.problem is not None
    assert f"`{path}`" in ledger.problem
    await ledger.close()
    assert path.read_bytes() == damage


async def test_a_page_that_is_damaged_is_found_and_said(tmp_path: Path) -> None:
    """Bits rot: `verify` says so instead of failing, and repair leaves the file alone."""
    path = tmp_path / "ledger.db"
    async with running(path) as ledger:
        for number in range(200):
            call = opened(number)
            await ledger.admit(call, attempt(call))
            await ledger.settle(closed(call), ended(attempt(call)))
    whole = path.read_bytes()
    with closing(sqlite3.connect(path)) as db:
        (page,) = db.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'attempts'"
        ).fetchone()
    begin = (page - 1) * 4096
    path.write_bytes(whole[:begin] + b"\xff" * 4096 + whole[begin + 4096 :])
    assert {one.check for one in verify(path)} == {"integrity"}
    rotten = path.read_bytes()
    assert {one.check for one in repair(path)} == {"integrity"}
    assert path.read_bytes() == rotten


async def test_a_ledger_that_is_removed_refuses_calls(tmp_path: Path) -> None:
    """A removed file takes writes as before, and all would be lost with the process."""
    path = tmp_path / "ledger.db"
    async with running(path) as ledger:
        call = opened(1)
        await ledger.admit(call, attempt(call))
        kept = tmp_path / "kept"
        kept.mkdir()
        for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
            shutil.move(tmp_path / name, kept / name)
        number = 1
        while ledger.problem is None:  # it looks once a second
            number += 1
            ledger.refuse(refused(number, client=f"script {number}"))
            await asyncio.sleep(0.05)
        settled = ledger.settle(closed(call), ended(attempt(call)))
        assert "removed or replaced" in ledger.problem
        healing = asyncio.create_task(ledger.ready())
        await asyncio.wait([healing], timeout=1.0)  # it tries, but begins no ledger of its own
        assert not healing.done()
        assert not path.exists()
        for name in os.listdir(kept):
            shutil.move(kept / name, tmp_path / name)
        await healing
        await settled
        assert ledger.problem is None


async def test_a_disk_that_does_not_answer_refuses_after_a_while(tmp_path: Path) -> None:
    """It neither writes nor fails. What was refused for that is undone when it comes back."""
    with freezing_disk(tmp_path) as (folder, freeze, thaw):
        ledger = Ledger(folder / "ledger.db", stall_s=60)
        ledger.start()
        call, retried = opened(1), opened(2)
        await ledger.admit(retried, attempt(retried))
        ledger._stall_s = 0.3  # only from here on is it certain that nothing is answered
        freeze()
        try:
            waiting = (
                ledger.admit(call, attempt(call)),
                ledger.next_attempt(ended(attempt(retried), 250), attempt(retried, 2)),
            )
            found = await asyncio.gather(*waiting, return_exceptions=True)
            for fault in found:
                assert isinstance(fault, LedgerUnavailable)
                assert "does not answer" in fault.message
            assert "does not answer" in (ledger.problem or "")
            with pytest.raises(LedgerUnavailable, match="does not answer"):
                await ledger.admit(opened(3), attempt(opened(3)))
        finally:
            thaw()
        await ledger.settle(closed(retried, "failed"), None)
        assert ledger.problem is None
        assert await ledger.spent(BOX) == [250]
        await ledger.close()
        assert verify(ledger.path) == []
        states = {row.id: row.state for row in calls.recent(ledger.path, limit=9)}
        assert states.pop(retried.id) == "settled"
        assert states in ({}, {call.id: "refused"})


async def test_a_process_that_was_stopped_refuses_nothing_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A paused machine or a SIGSTOP: its disk was not asked meanwhile, so it is no stalled disk."""
    async with running(tmp_path / "ledger.db") as ledger:
        loop, call = asyncio.get_running_loop(), opened(1)
        before = loop.time
        with ledger._writer._turns.gate:  # the disk answers after the pause
            admitted = asyncio.create_task(ledger.admit(call, attempt(call)))
            await asyncio.sleep(0)
            monkeypatch.setattr(loop, "time", lambda: before() + 3600)
            for _ in range(9):
                await asyncio.sleep(0)
            assert not admitted.done()
            assert ledger.problem is None
            assert ledger.lag_s < 5
        await admitted
        await ledger.settle(closed(call), ended(attempt(call)))


async def test_refused_calls_are_dropped_first_and_counted(tmp_path: Path) -> None:
    """A flood of refusals while the disk is away must not eat the memory."""
    async with running(tmp_path / "ledger.db") as ledger:
        with foreign_transaction(ledger.path):
            for number in range(10_050):
                # Of keys of their own: of one key's refusals a few stand for all.
                who = msgspec.structs.replace(ANNA, key=f"key {number}")
                ledger.refuse(refused(number, who=who))
            (warning,) = ledger.warnings
            assert warning.startswith("50 refused calls are not in the ledger")
        await ledger.ready()
        assert await ledger.spent(BOX) == [0]
        assert len(calls.recent(ledger.path, limit=20_000)) == 10_000
        ledger.refuse(refused(20_000))


async def test_closing_a_broken_ledger_does_not_hang(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The process must be able to end; what it leaves is recovered at the next start."""
    path = tmp_path / "ledger.db"
    ledger = Ledger(path)
    ledger.start()
    call = opened(1)
    await ledger.admit(call, attempt(call))
    with foreign_transaction(path):
        settled = ledger.settle(closed(call), ended(attempt(call)))
        async with asyncio.timeout(WITHIN_S):
            await ledger.close()
        assert isinstance(settled.exception(), LedgerUnavailable)
    assert "1 ending could not be written" in caplog.text
    async with running(path) as again:
        assert again.recovered == 1
        assert await again.spent(BOX) == [1000]


async def test_closing_does_not_wait_for_a_disk_that_does_not_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The lock stays with what may still be writing, so that no other daemon settles it first."""
    with freezing_disk(tmp_path) as (folder, freeze, thaw):
        ledger = Ledger(folder / "ledger.db")
        ledger.start()
        call = opened(1)
        await ledger.admit(call, attempt(call))
        freeze()
        try:
            settled = ledger.settle(closed(call), ended(attempt(call)))
            async with asyncio.timeout(WITHIN_S):
                await ledger.close()
            assert not settled.done()
            assert "does not answer: at most 1 ending is" in caplog.text
            assert holder(ledger.path) is not None
        finally:
            thaw()
        async with asyncio.timeout(WITHIN_S):
            await settled  # the disk was back before the process had ended
            await ledger.close()
        assert holder(ledger.path) is None
        async with running(ledger.path) as again:
            assert again.recovered == 0
            assert await again.spent(BOX) == [300]


async def test_a_fault_that_nobody_thought_of_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread reopens the file and goes on, whatever it was."""
    async with running(tmp_path / "ledger.db") as ledger:
        call = opened(1)
        await ledger.admit(call, attempt(call))
        with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
            other.execute("ALTER TABLE spend_quarter RENAME TO elsewhere")
            settled = ledger.settle(closed(call), ended(attempt(call)))
            await until(lambda: ledger.problem is not None)
            assert "no such table" in (ledger.problem or "")
            assert not settled.done()
            other.execute("ALTER TABLE elsewhere RENAME TO spend_quarter")
        await settled
        await ledger.ready()
        assert await ledger.spent(BOX) == [300]
    assert "the ledger cannot be written" in caplog.text


async def test_what_is_done_of_a_group_is_not_done_again(tmp_path: Path) -> None:
    """One row of it is bad, and the file fails at the next: that one waits, what is written stays.

    Behind the bad row each is written by itself; the settlement before it would count twice.
    """
    async with running(tmp_path / "ledger.db") as ledger:
        made = [opened(number) for number in (1, 2, 3)]
        for call in made:
            await ledger.admit(call, attempt(call))
        with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
            for cost, fault in ((666, "RAISE(ABORT, 'a bad row')"), (777, "json('{')")):
                other.execute(
                    f"CREATE TRIGGER of_{cost} BEFORE UPDATE ON attempts"
                    f" WHEN NEW.cost_nanousd = {cost} BEGIN SELECT {fault}; END"
                )
            good, bad, late = [
                ledger.settle(closed(call), ended(attempt(call), cost))
                for call, cost in zip(made, (300, 666, 777), strict=True)
            ]
            await good
            with pytest.raises(LedgerUnavailable, match="cannot be written down"):
                await bad
            await until(lambda: ledger.problem is not None)
            assert not late.done()
            other.execute("DROP TRIGGER of_777")
            await late
            other.execute("DROP TRIGGER of_666")
            (spent,) = other.execute("SELECT sum(cost_nanousd) FROM spend_quarter").fetchone()
            assert spent == 300 + 777
        await ledger.settle(closed(made[1]), ended(attempt(made[1]), 666))
