"""Calls that wait in a queue: a row before anything is held, and what becomes of it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from ledger_rows import AT_MS, attempt, ended, opened

from tollway.daemon.ledger.calls import CallDetail, one
from tollway.daemon.ledger.rows import CallEnded, SpentQuery
from tollway.daemon.ledger.verify import verify
from tollway.daemon.ledger.writer import Ledger


async def written(ledger: Ledger) -> None:
    """Return when all that was given to the ledger is in the file."""
    await ledger.spent([SpentQuery("box", "", 0)])


def detail(ledger: Ledger, call_id: str) -> CallDetail:
    """Return a call's row."""
    return one(ledger.path, call_id)


def column(ledger: Ledger, name: str) -> object:
    """Return a column of the only call."""
    with closing(sqlite3.connect(ledger.path)) as db:
        return db.execute(f"SELECT {name} FROM calls").fetchone()[0]  # noqa: S608


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a ledger may be."""
    return tmp_path / "ledger.db"


async def test_a_call_that_waits_stands_as_queued_with_nothing_held(path: Path) -> None:
    """The list of calls shows who waits; budgets do not know of it yet."""
    ledger = Ledger(path)
    ledger.start()
    call = opened(1)
    ledger.queue(call)
    await written(ledger)
    row = detail(ledger, call.id)
    assert (row.call.state, row.attempts, row.call.cost_nanousd) == ("queued", (), 0)
    assert (row.call.key, row.call.route) == (call.who.key, call.route)
    assert column(ledger, "hold_nanousd") == column(ledger, "attempts") == 0
    await ledger.close()


async def test_its_turn_makes_it_an_open_call_as_if_it_had_not_waited(path: Path) -> None:
    """One row from beginning to end, with the time that it waited."""
    ledger = Ledger(path)
    ledger.start()
    call = opened(1, queue_ms=1234)
    first = attempt(call)
    ledger.queue(opened(1))
    await ledger.admit(call, first)
    assert detail(ledger, call.id).call.state == "open"
    await ledger.settle(CallEnded(call.id, AT_MS + 9000, "answered"), ended(first, 300))
    row = detail(ledger, call.id)
    assert (row.call.state, row.call.cost_nanousd, len(row.attempts)) == ("settled", 300, 1)
    assert (row.call.provider, row.call.model) == ("openai", "gpt-4o-mini")
    assert column(ledger, "queue_ms") == 1234
    assert column(ledger, "hold_nanousd") == 1000
    await ledger.close()
    assert verify(path) == []


@pytest.mark.parametrize(
    ("ending", "refused", "state"), [("client_left", False, "settled"), ("failed", True, "refused")]
)
async def test_leaving_the_queue_costs_nothing(
    path: Path, ending: str, refused: bool, state: str
) -> None:
    """A client that left, and a wait that was over: a row at $0 without an attempt."""
    ledger = Ledger(path)
    ledger.start()
    call = opened(1)
    ledger.queue(call)
    left = CallEnded(call.id, AT_MS + 5000, ending, error="e")  # type: ignore[arg-type]
    ledger.unqueue(left, 4321, refused=refused)
    await written(ledger)
    row = detail(ledger, call.id)
    assert (row.call.state, row.call.ending, row.call.error) == (state, ending, "e")
    assert (row.call.cost_nanousd, row.attempts) == (0, ())
    assert column(ledger, "queue_ms") == 4321
    await ledger.close()
    assert verify(path) == []


async def test_a_call_queued_when_the_daemon_died_is_recovered_as_never_sent(path: Path) -> None:
    """Nobody began to work on it: it costs nothing, and is not left waiting for ever."""
    ledger = Ledger(path)
    ledger.start()
    calls = [
        opened(number, tags='{"run":"1"}', session="s", budget_tags=("run=1",))
        for number in (1, 2, 3)
    ]
    for call in calls:
        ledger.queue(call)
    for call in calls[1:]:
        await ledger.admit(call, attempt(call))
    await ledger.close()  # as far as the file goes a kill leaves the same
    assert {one.check for one in verify(path)} == {"open call"}
    again = Ledger(path)
    again.start()
    assert again.recovered == 3
    rows = [detail(again, call.id) for call in calls]
    assert [row.call.state for row in rows] == ["recovered"] * 3
    assert [row.call.cost_nanousd for row in rows] == [0, 1000, 1000]
    await again.close()
    assert verify(path) == []


async def test_a_ledger_that_fails_between_forgets_no_waiting_call(path: Path) -> None:
    """What was rolled back is read again from the file: those that waited before still do."""
    ledger = Ledger(path)
    ledger.start()
    call, other = opened(1), opened(2)
    ledger.queue(call)
    await written(ledger)
    ledger.queue(opened(2))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(
            "CREATE TRIGGER no BEFORE INSERT ON attempts BEGIN SELECT raise(ABORT, 'x'); END"
        )
        with pytest.raises(Exception, match="cannot be written"):
            await ledger.admit(other, attempt(other))
        db.execute("DROP TRIGGER no")
    ledger.unqueue(CallEnded(other.id, AT_MS + 1, "failed"), 1, refused=True)
    await ledger.admit(call, attempt(call))
    assert detail(ledger, call.id).call.state == "open"
    assert detail(ledger, other.id).call.state == "refused"
    await ledger.settle(CallEnded(call.id, AT_MS + 9, "answered"), ended(attempt(call)))
    # An end that comes behind the admission's changes nothing.
    ledger.unqueue(CallEnded(call.id, AT_MS + 10, "failed"), 1, refused=True)
    await written(ledger)
    assert detail(ledger, call.id).call.state == "settled"
    await ledger.close()
    assert verify(path) == []
