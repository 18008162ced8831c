"""What people ask the ledger: what was spent, which calls there were, what one of them was."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from ledger_rows import ANNA, AT_MS, attempt, call_id, closed, ended, opened, refused

from tollway.daemon.ledger import calls
from tollway.daemon.ledger.calls import CallFilter, CallUnknown
from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.rows import Who
from tollway.daemon.ledger.spend import By, report, totals
from tollway.daemon.ledger.writer import Ledger
from tollway.providers.canon import Usage

ALWAYS = {"since_ms": 0, "until_ms": 2**60}
BEN = Who(key="ci", user="ben", team="ml")


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """Yield an open ledger."""
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.start()
    yield ledger
    await ledger.close()


async def call(ledger: Ledger, number: int, cost: int, who: Who = ANNA, at_ms: int = AT_MS) -> str:
    """Write a settled call and return its id."""
    row = opened(number, at_ms, who=who)
    await ledger.admit(row, attempt(row))
    await ledger.settle(closed(row), ended(attempt(row), cost))
    return row.id


def at(text: str) -> int:
    """Return the unix milliseconds of a moment in ISO 8601."""
    return int(datetime.fromisoformat(text).timestamp()) * 1000


async def test_a_report_adds_up_over_several_things_at_once(ledger: Ledger) -> None:
    """The dearest group comes first, and a name that a call does not have is ""."""
    await call(ledger, 1, 5)
    await call(ledger, 2, 70, BEN)
    await call(ledger, 3, 800, BEN)
    ledger.refuse(refused(4, who=BEN))
    await ledger.ready()
    rows = report(ledger.path, by=[By.TEAM, By.PROJECT, By.MODEL], tz=ZoneInfo("UTC"), **ALWAYS)
    assert [(row.group, row.calls, row.refused, row.cost_nanousd) for row in rows] == [
        (("ml", "", "gpt-4o-mini"), 2, 0, 870),
        (("ml", "chatbot", "gpt-4o-mini"), 1, 0, 5),
        (("ml", "", ""), 0, 1, 0),
    ]
    total = totals(ledger.path, **ALWAYS)
    assert (total.group, total.calls, total.cost_nanousd) == ((), 3, 875)
    assert (total.input_total, total.output_total) == (3 * 412, 3 * 286)


async def test_the_part_that_was_estimated_is_told(ledger: Ledger) -> None:
    """A report that mixes known and guessed money says how much is guessed."""
    row = opened(1)
    await ledger.admit(row, attempt(row))
    guess = Usage(output=7, audio_output=1, estimated=True)
    await ledger.settle(closed(row), ended(attempt(row), 900, usage=guess, overrun_nanousd=4))
    await call(ledger, 2, 100)
    total = totals(ledger.path, **ALWAYS)
    assert (total.cost_nanousd, total.estimated_nanousd, total.overrun_nanousd) == (1000, 900, 4)
    assert total.output_total == 8 + 286


@pytest.mark.parametrize(
    ("zone", "moments"),
    [
        # Offsets of three quarters of an hour; a midnight that does not exist; both clock changes.
        (
            "Asia/Kathmandu",
            {"2026-03-01T18:14+00:00": "2026-03-01", "2026-03-01T18:15+00:00": "2026-03-02"},
        ),
        (
            "Africa/Cairo",
            {"2026-04-23T21:59+00:00": "2026-04-23", "2026-04-23T22:00+00:00": "2026-04-24"},
        ),
        (
            "Europe/Berlin",
            {"2026-03-28T23:00+00:00": "2026-03-29", "2026-03-29T22:00+00:00": "2026-03-30"},
        ),
        (
            "Europe/Berlin",
            {"2026-10-25T22:59+00:00": "2026-10-25", "2026-10-25T23:00+00:00": "2026-10-26"},
        ),
        ("UTC", {"2028-02-28T23:59+00:00": "2028-02-28", "2028-02-29T00:00+00:00": "2028-02-29"}),
    ],
)
async def test_days_are_those_of_the_time_zone(
    ledger: Ledger, zone: str, moments: dict[str, str]
) -> None:
    """A day ends at its own midnight, whatever the clocks do in it; days come in order."""
    for number, moment in enumerate(moments, start=1):
        await call(ledger, number, number, at_ms=at(moment))
    rows = report(ledger.path, by=[By.DAY], tz=ZoneInfo(zone), **ALWAYS)
    assert [(row.group[0], row.cost_nanousd) for row in rows] == [
        (day, number) for number, day in enumerate(moments.values(), start=1)
    ]


async def test_a_report_counts_the_calls_of_its_range(ledger: Ledger) -> None:
    """From `since`, whose quarter of an hour counts whole, to before `until`."""
    quarter = 900_000
    for number in range(4):
        await call(ledger, number, 10**number, at_ms=AT_MS + number * quarter)
    span = {"since_ms": AT_MS + quarter + 5, "until_ms": AT_MS + 3 * quarter}
    assert totals(ledger.path, **span).cost_nanousd == 110
    by_day = report(ledger.path, by=[By.DAY], tz=ZoneInfo("UTC"), **span)
    assert [row.cost_nanousd for row in by_day] == [110]


def test_an_empty_ledger_has_an_empty_report(ledger: Ledger) -> None:
    """The first question of a new user comes before the first call."""
    assert report(ledger.path, by=[By.DAY], tz=ZoneInfo("UTC"), **ALWAYS) == []
    assert totals(ledger.path, **ALWAYS).calls == 0
    assert calls.recent(ledger.path, limit=5) == []


async def test_a_report_reads_only_the_roll_ups(ledger: Ledger) -> None:
    """Its time depends on how long people have used the gateway, not on how much."""
    await call(ledger, 1, 5)
    await ledger.close()
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as db:
        db.execute("DROP TABLE calls")
        db.execute("DROP TABLE attempts")
    rows = report(ledger.path, by=[By.DAY, By.USER, By.MODEL], tz=ZoneInfo("UTC"), **ALWAYS)
    assert [(row.calls, row.cost_nanousd) for row in rows] == [(1, 5)]


async def test_the_latest_calls_come_first(ledger: Ledger) -> None:
    """As many as are asked for."""
    ids = [await call(ledger, number, 1) for number in range(1, 8)]
    assert [row.id for row in calls.recent(ledger.path, limit=3)] == ids[:-4:-1]


async def test_calls_are_found_by_who_what_and_how(ledger: Ledger) -> None:
    """Each filter alone, two together, and one that nothing can match."""
    mine = await call(ledger, 1, 1)
    bens = await call(ledger, 2, 1, BEN)
    ledger.refuse(refused(3, who=BEN))
    running = opened(4)
    await ledger.admit(running, attempt(running, provider="local", model="smollm2"))
    no = refused(3).id
    for where, wanted in (
        (CallFilter(key="ci"), [no, bens]),
        (CallFilter(user="anna"), [running.id, mine]),
        (CallFilter(project=""), [no, bens]),
        (CallFilter(team="ml", state="settled"), [bens, mine]),
        (CallFilter(provider="local"), [running.id]),
        (CallFilter(model="smollm2", state="open"), [running.id]),
        (CallFilter(route="fast", error="insufficient_quota"), [no]),
        (CallFilter(key="nobody"), []),
        (CallFilter(state="lost"), []),
        (CallFilter(error="never_seen"), []),
    ):
        assert [row.id for row in calls.recent(ledger.path, limit=9, where=where)] == wanted
    await ledger.settle(closed(running), ended(attempt(running)))


async def test_a_call_is_found_by_the_beginning_of_its_id(ledger: Ledger) -> None:
    """People copy a few characters; what is not enough is said, not guessed."""
    first = await call(ledger, 1, 1)
    await call(ledger, 2, 1)
    later = await call(ledger, 3, 1, at_ms=AT_MS + 10**10)
    assert calls.one(ledger.path, first).call.id == first
    assert calls.one(ledger.path, first[:-1]).call.id == first
    assert calls.one(ledger.path, later[:9]).call.id == later
    for unclear in (first[:4], first[:13], ""):
        with pytest.raises(CallUnknown, match="More than one call"):
            calls.one(ledger.path, unclear)
    for unknown in (call_id(9), "zebra", "%"):
        with pytest.raises(CallUnknown, match="no call"):
            calls.one(ledger.path, unknown)


async def test_followers_see_each_call_once_when_it_ends(ledger: Ledger) -> None:
    """Calls end in another order than they began: none is missed, none comes twice.

    One that waits for its turn has not ended.
    """
    await call(ledger, 1, 1)
    slow, quick, waits = opened(2), opened(3), opened(5)
    ledger.queue(waits)
    await ledger.admit(slow, attempt(slow))
    following = calls.follow(ledger.path)
    assert following.poll() == []
    await ledger.admit(quick, attempt(quick))
    await ledger.settle(closed(quick), ended(attempt(quick)))
    ledger.refuse(refused(4))
    ledger.queue(opened(6))
    await ledger.ready()
    assert [row.id for row in following.poll()] == [quick.id, refused(4).id]
    await ledger.settle(closed(slow), ended(attempt(slow)))
    await ledger.admit(waits, attempt(waits))
    assert [row.id for row in following.poll()] == [slow.id]
    await ledger.settle(closed(waits), ended(attempt(waits)))
    ledger.unqueue(closed(opened(6), "failed"), 20, refused=True)
    await ledger.ready()
    assert [row.state for row in following.poll()] == ["settled", "refused"]
    assert following.poll() == []


async def test_a_follower_that_was_away_misses_nothing(ledger: Ledger) -> None:
    """It looks at so many at once; the rest come though nothing more is written."""
    following = calls.follow(ledger.path)
    many = [opened(number) for number in range(1, 1002)]
    await asyncio.gather(*(ledger.admit(one, attempt(one)) for one in many))
    for one in many:
        ledger.settle(closed(one), ended(attempt(one)))
    await ledger.ready()
    for name in ("ledger.db", "ledger.db-wal"):  # written a while ago
        os.utime(ledger.path.with_name(name), (1, 1))
    found = [row.id for _ in range(2) for row in following.poll()]
    assert found == [one.id for one in many]


async def test_views_are_for_people(ledger: Ledger) -> None:
    """Whoever opens the file elsewhere sees words, dollars and local times."""
    await call(ledger, 1, 1_234_567_890)
    with reading(ledger.path) as db:
        (row,) = db.execute("SELECT id, user, state, cost_usd, client FROM calls_readable")
        assert row == (call_id(1), "anna", "settled", 1.23456789, "OpenAI/Python 3.54.0")
        (row,) = db.execute("SELECT started_ms, provider, ending FROM attempts_readable")
        assert row == (AT_MS + 1, "openai", "answered")
        (row,) = db.execute("SELECT calls, cost_usd FROM spend_readable")
        assert row == (1, 1.23456789)
        (row,) = db.execute("SELECT source, input_usd_per_million FROM prices_readable")
        assert row == ("a test", "0.15")
        (local,) = db.execute("SELECT admitted_local FROM calls_readable").fetchone()
        when = datetime.fromtimestamp(AT_MS / 1000, UTC).astimezone()
        assert local == when.replace(tzinfo=None).isoformat(" ", "milliseconds")


def test_reading_cannot_write(ledger: Ledger) -> None:
    """A report can do no harm to the file, whatever it executes."""
    with reading(ledger.path) as db, pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.execute("DELETE FROM meta")
