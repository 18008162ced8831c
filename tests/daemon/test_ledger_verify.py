"""What `verify` finds and `repair` mends: every kind of difference, made by hand."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from ledger_rows import AT_MS, attempt, closed, ended, opened, refused

from tollway.daemon.errors import LedgerHeld, LedgerUnavailable
from tollway.daemon.ledger import calls
from tollway.daemon.ledger.lock import holder
from tollway.daemon.ledger.schema import QUARTER_MS
from tollway.daemon.ledger.spend import totals
from tollway.daemon.ledger.verify import repair, verify
from tollway.daemon.ledger.writer import Ledger


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """Return a ledger with two settled calls, a retry among them, and a refused one."""
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.start()
    for number in (1, 2):
        call = opened(number)
        await ledger.admit(call, attempt(call))
        await ledger.next_attempt(ended(attempt(call), 100), attempt(call, 2, provider="groq"))
        await ledger.settle(closed(call), ended(attempt(call, 2), 200))
    ledger.refuse(refused(3))
    await ledger.close()
    return ledger.path


@contextmanager
def by_hand(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection that writes whatever it likes."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        yield db


@pytest.mark.parametrize(
    ("sql", "check", "says"),
    [
        (
            "UPDATE spend_quarter SET cost_nanousd = cost_nanousd + 1 WHERE cost_nanousd = 200",
            "roll-up",
            "cost_nanousd 201, not 200",
        ),
        ("DELETE FROM spend_quarter WHERE refused = 1", "roll-up", "is missing"),
        (
            "INSERT INTO spend_quarter (quarter_ms, account, calls) VALUES (1800000000000, 1, 1)",
            "roll-up",
            "no row for it",
        ),
        (
            "UPDATE calls SET cost_nanousd = 7, attempts = 3 WHERE seq = 1",
            "call sums",
            "attempts 3, not 2, cost_nanousd 7, not 300",
        ),
    ],
)
async def test_what_is_derived_is_found_and_made_anew(
    path: Path, sql: str, check: str, says: str
) -> None:
    """Roll-ups and sums follow from the attempts, so the attempts are right."""
    assert verify(path) == []
    with by_hand(path) as db:
        db.execute(sql)
    found = verify(path)
    assert {one.check for one in found} == {check}
    assert says in found[0].message
    assert all(one.repairable for one in found)
    assert repair(path) == []
    assert totals(path, since_ms=0, until_ms=2**60).cost_nanousd == 600


@pytest.mark.parametrize(
    ("sql", "check"),
    [
        ("DELETE FROM calls WHERE seq = 1", "orphan"),
        ("UPDATE attempts SET price = NULL WHERE call = 1", "price"),
        ("UPDATE attempts SET saved_nanousd = -1 WHERE call = 1", "price"),
        ("UPDATE attempts SET ending = NULL WHERE call = 1 AND number = 2", "open attempt"),
    ],
)
async def test_what_is_missing_is_found_and_not_made_up(path: Path, sql: str, check: str) -> None:
    """Rows that are gone, or say too little, are a person's to judge."""
    with by_hand(path) as db:
        db.execute(sql)
    found = {one.check: one.repairable for one in verify(path)}
    assert found[check] is False
    repair(path)
    assert check in {one.check for one in verify(path)}


async def test_an_imported_call_is_worth_what_a_price_can_say(path: Path) -> None:
    """Never less than nothing, and nothing where no price is known."""
    rows = [("sound", 1, 5), ("free", None, 0), ("below", 1, -5), ("made up", None, 5)]
    with by_hand(path) as db:
        db.executemany(
            "INSERT INTO imports (source, key, at_ms, account, price, notional_nanousd)"
            " VALUES (1, ?, 0, 1, ?, ?)",
            rows,
        )
    assert [(one.check, one.subject, one.message) for one in verify(path)] == [
        ("import", "below", "would have cost less than nothing"),
        ("import", "made up", "has a worth, but no price"),
    ]


async def test_an_id_of_two_calls_is_found(path: Path) -> None:
    """Whoever looks the call up would be shown one of them, and not know of the other."""
    with by_hand(path) as db:
        db.execute("UPDATE calls SET id = ? WHERE seq > 1", (opened(1).id,))
    (found,) = verify(path)
    assert (found.check, found.subject, found.repairable) == ("id", opened(1).id, False)
    assert repair(path) == [found]


async def test_roll_ups_older_than_the_rows_are_left_alone(path: Path) -> None:
    """After retention has deleted rows, the roll-ups are all that is left of them."""
    with by_hand(path) as db:
        db.execute("DELETE FROM attempts")
        db.execute("DELETE FROM calls")
        db.execute(
            "UPDATE meta SET value = ? WHERE name = 'pruned_before_ms'", (AT_MS + QUARTER_MS,)
        )
    assert verify(path) == []
    assert repair(path) == []
    assert totals(path, since_ms=0, until_ms=2**60).cost_nanousd == 600


async def test_a_tag_whose_name_is_lost_has_its_spending_again(path: Path) -> None:
    """The calls say their tags; without the name repair would leave them out, unseen."""
    ledger = Ledger(path)
    ledger.start()
    call = opened(9, budget_tags=("run=1",))
    await ledger.admit(call, attempt(call))
    await ledger.settle(closed(call), ended(attempt(call)))
    await ledger.close()
    with by_hand(path) as db:
        db.execute("DELETE FROM spend_tag")
        db.execute("DELETE FROM words WHERE word = 'run=1'")
    assert repair(path) == []
    with by_hand(path) as db:
        summed = "SELECT w.word, sum(s.cost_nanousd) FROM spend_tag s JOIN words w ON w.id = s.tag"
        assert db.execute(summed).fetchall() == [("run=1", 300)]


async def test_a_call_left_open_is_found_and_settled_at_its_hold(path: Path) -> None:
    """With the daemon down, nobody can be serving it."""
    ledger = Ledger(path)
    ledger.start()
    call = opened(9)
    await ledger.admit(call, attempt(call))
    await ledger.close()
    (found,) = verify(path)
    assert (found.check, found.subject, found.repairable) == ("open call", call.id, True)
    assert repair(path) == []
    row = calls.one(path, call.id).call
    assert (row.state, row.cost_nanousd, row.ended_ms) == ("recovered", 1000, None)


async def test_a_call_that_a_daemon_serves_is_no_difference(path: Path) -> None:
    """One older than the daemon is, waiting or sent: it cannot be its own, nor be mended now."""
    ledger = Ledger(path)
    ledger.start()
    by = holder(path)
    assert by
    first = opened(9, by.since_ms)  # in its very first millisecond
    young, old, waits = opened(10, 2**42), opened(11, 1_000_000), opened(12, 1_000_001)
    for call in (first, young, old):
        await ledger.admit(call, attempt(call))
    ledger.queue(waits)
    await ledger.ready()
    found = {(one.check, one.subject, one.repairable) for one in verify(path)}
    assert found == {("open call", old.id, False), ("open call", waits.id, False)}
    ledger.unqueue(closed(waits), 5, refused=False)
    for call in (first, young, old):
        await ledger.settle(closed(call), ended(attempt(call)))
    assert verify(path) == []
    await ledger.close()


async def test_a_ledger_in_use_is_not_repaired(path: Path) -> None:
    """Two writers would undo each other's work."""
    ledger = Ledger(path)
    ledger.start()
    with pytest.raises(LedgerHeld, match="in use by process"):
        repair(path)
    await ledger.close()
    assert repair(path) == []


def test_a_missing_ledger_is_said_to_be_missing(tmp_path: Path) -> None:
    """Neither command makes an empty one and calls it sound."""
    for command in (verify, repair):
        with pytest.raises(LedgerUnavailable, match="no ledger"):
            command(tmp_path / "ledger.db")
    assert list(tmp_path.iterdir()) == []
