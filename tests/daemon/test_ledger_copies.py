"""Copies of the ledger, a ledger without holes, and its rows for other programs."""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from ledger_rows import AT_MS, attempt, closed, ended, opened, refused

from tollway.daemon.errors import LedgerHeld, LedgerInvalid, LedgerUnavailable
from tollway.daemon.ledger import calls
from tollway.daemon.ledger.backup import backup, vacuum
from tollway.daemon.ledger.bodies import Kept, of_call
from tollway.daemon.ledger.export import What, rows, titles
from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.spend import report, totals
from tollway.daemon.ledger.verify import verify
from tollway.daemon.ledger.writer import Ledger

EVER = (0, 2**60)


def silent(_done: int, _of: int) -> None:
    """Take progress and say nothing."""


async def call(ledger: Ledger, number: int, at_ms: int = AT_MS) -> str:
    """Write one settled call, and return its id."""
    made = opened(number, at_ms, client=f"client {number}", budget_tags=("run=42",))
    await ledger.admit(made, attempt(made))
    await ledger.settle(closed(made), ended(attempt(made), 100))
    return made.id


async def until(what: Callable[[], bool]) -> None:
    """Return once `what` holds."""
    async with asyncio.timeout(30):
        while not what():  # noqa: ASYNC110 - another thread makes it so
            await asyncio.sleep(0.01)


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """Return a closed ledger of 300 calls, the first with bodies, and a refused one."""
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.start()
    for number in range(1, 301):
        await call(ledger, number, AT_MS + number * 1000)
    ledger.refuse(refused(301, AT_MS + 400_000))
    first = opened(1, AT_MS + 1000).id
    ledger.keep(Kept(first, AT_MS, b'{"ask": 1}', 10, b'{"say": 2}', 10, str))
    await until(lambda: bool(of_call(ledger.path, first)))
    await ledger.close()
    return ledger.path


async def test_a_backup_made_while_calls_are_written_is_one_moment_s_whole(tmp_path: Path) -> None:
    """Each call in it is complete, and it is checked before it gets its name."""
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.start()
    for number in range(1, 101):
        await call(ledger, number)
    running = opened(101)
    await ledger.admit(running, attempt(running))
    seen: list[tuple[int, int]] = []
    to = tmp_path / "copy.db"
    copying = asyncio.create_task(
        asyncio.to_thread(
            backup, ledger.path, to, replace=False, progress=lambda *at: seen.append(at)
        )
    )
    number = 101
    while not copying.done():
        number += 1
        await call(ledger, number)
    done = await copying
    assert (done.path, done.size, done.differences) == (to, os.stat(to).st_size, [])
    assert os.stat(to).st_mode & 0o777 == 0o600
    assert seen[-1][0] == seen[-1][1] > 0
    assert [name for name in sorted(os.listdir(tmp_path)) if "copy" in name] == ["copy.db"]
    assert 101 <= len(calls.recent(to, limit=10_000)) <= number
    assert totals(to, since_ms=0, until_ms=2**60).cost_nanousd >= 100 * 100
    assert {one.check for one in verify(to)} == {"open call"}
    await ledger.settle(closed(running), ended(attempt(running)))
    await ledger.close()
    assert verify(ledger.path) == []
    # It takes the ledger's place as it is: what was under way is recovered.
    again = Ledger(to)
    again.start()
    assert again.recovered >= 1
    await again.close()
    assert verify(to) == []


def test_a_backup_replaces_nothing_unasked(path: Path, tmp_path: Path) -> None:
    """The one copy of last week, or the ledger itself, is easily named by mistake."""
    to = tmp_path / "copy.db"
    to.write_text("precious")
    with pytest.raises(LedgerInvalid, match="There is a file"):
        backup(path, to, replace=False, progress=silent)
    with pytest.raises(LedgerInvalid, match="There is a file"):
        backup(path, path, replace=True, progress=silent)
    assert to.read_text() == "precious"
    backup(path, to, replace=True, progress=silent)
    assert verify(to) == []


def test_a_backup_that_cannot_be_written_leaves_nothing(path: Path, tmp_path: Path) -> None:
    """Half a copy with a copy's name would be trusted one day."""
    with pytest.raises(LedgerUnavailable, match="cannot be written"):
        backup(path, tmp_path / "nowhere" / "copy.db", replace=False, progress=silent)


def test_a_backup_of_a_wrong_ledger_says_what_is_wrong(path: Path, tmp_path: Path) -> None:
    """A copy of a mistake is still the only copy, so it stays."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE spend_quarter SET calls = calls + 1")
    done = backup(path, tmp_path / "copy.db", replace=False, progress=silent)
    assert {one.check for one in done.differences} == {"roll-up"}
    assert (tmp_path / "copy.db").exists()


async def test_vacuum_gives_room_back_and_loses_nothing(path: Path) -> None:
    """Rows, sums, views and bodies are as before; words that nobody uses are gone."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DELETE FROM attempts WHERE call > 150")
        db.execute("DELETE FROM calls WHERE seq > 150")
        db.execute("UPDATE meta SET value = 4000000000000 WHERE name = 'pruned_before_ms'")
    before = os.stat(path).st_size
    done = vacuum(path)
    assert (done.before, done.after) == (before, os.stat(path).st_size)
    assert done.after < before
    assert done.words >= 150  # each call had a client of its own
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert sorted(os.listdir(path.parent)) == ["ledger.db", "ledger.db.lock"]
    assert verify(path) == []
    assert len(calls.recent(path, limit=999)) == 150
    assert calls.recent(path, limit=1)[0].client == "client 150"
    with reading(path) as db:
        assert db.execute("SELECT DISTINCT tag FROM spend_tag_readable").fetchall() == [("run=42",)]
    assert len(of_call(path, opened(1, AT_MS + 1000).id)) == 2
    again = Ledger(path)
    again.start()
    await call(again, 999)
    await again.close()
    assert verify(path) == []


async def test_vacuum_keeps_the_names_that_only_sums_have(tmp_path: Path) -> None:
    """Calls are deleted, their sums stay for ever: by tag and by session too."""
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.start()
    made = opened(1, tags='{"branch":"main"}', session="s1")
    await ledger.admit(made, attempt(made))
    await ledger.settle(closed(made), ended(attempt(made), 100))
    await ledger.close()
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as db:
        db.execute("DELETE FROM attempts")
        db.execute("DELETE FROM calls")
        db.execute("UPDATE meta SET value = 4000000000000 WHERE name = 'pruned_before_ms'")
    vacuum(ledger.path)
    for by, name in (("session", "s1"), ("tag:branch", "main")):
        found = report(ledger.path, by=(by,), since_ms=0, until_ms=2**60, tz=ZoneInfo("UTC"))
        assert [(row.group, row.cost_nanousd) for row in found] == [((name,), 100)]


async def test_vacuum_waits_for_no_daemon(path: Path) -> None:
    """A file that is replaced under a daemon takes its rows along."""
    ledger = Ledger(path)
    ledger.start()
    inode = os.stat(path).st_ino
    with pytest.raises(LedgerHeld, match="in use by process"):
        vacuum(path)
    assert os.stat(path).st_ino == inode
    await ledger.close()


def test_every_row_is_exported_once_in_order(path: Path) -> None:
    """Pages are the exporter's own business; names are those of the reports."""
    found = list(rows(path, What.CALLS, EVER))
    assert [row["id"] for row in found[:300]] == [
        opened(number, AT_MS + number * 1000).id for number in range(1, 301)
    ]
    assert found[300]["state"] == "refused"
    assert list(found[0]) == titles(What.CALLS)
    first = found[0]
    assert first["admitted"] == "2026-05-28T20:30:01.000+00:00"
    assert (first["cost_usd"], first["stream"], first["user"]) == ("0.0000001", True, "anna")
    assert "request" not in first


def test_an_export_has_its_range_and_no_more(path: Path) -> None:
    """From when to before when, to the millisecond."""
    seen: list[tuple[int, int]] = []
    between = (AT_MS + 10_000, AT_MS + 20_000)
    found = list(rows(path, What.ATTEMPTS, between, progress=lambda *at: seen.append(at)))
    assert [row["call_id"] for row in found] == [
        opened(number, AT_MS + number * 1000).id for number in range(10, 20)
    ]
    assert list(found[0]) == titles(What.ATTEMPTS)
    assert str(found[0]["usage"]).startswith('{"prompt_tokens":412')
    assert seen[-1][0] == seen[-1][1]


def test_sums_are_exported_by_quarter(path: Path) -> None:
    """What retention leaves for ever, for the spreadsheet."""
    (quarter, refusals) = sorted(
        rows(path, What.SPEND, EVER), key=lambda row: -int(str(row["calls"]))
    )
    assert list(quarter) == titles(What.SPEND)
    assert (quarter["quarter"], quarter["calls"]) == ("2026-05-28T20:30:00.000+00:00", 300)
    assert (quarter["cost_usd"], refusals["refused"]) == ("0.00003", 1)


def test_prompts_leave_only_when_asked_for(path: Path) -> None:
    """An export is passed on; what people said is not in it by default."""
    found = list(rows(path, What.CALLS, EVER, bodies=True))
    assert (found[0]["request"], found[0]["answer"]) == ('{"ask": 1}', '{"say": 2}')
    assert "request" not in found[1]
