"""What tags have spent: in the call's own transaction, checked and made anew like the rest."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from ledger_rows import AT_MS, attempt, closed, ended, opened

from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.rows import SpentQuery
from tollway.daemon.ledger.verify import repair, verify
from tollway.daemon.ledger.writer import Ledger

TAGS = ("run=42", "branch=main", "run=42")


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """Return a ledger with a retried call of two tags, and one that has none."""
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.start()
    call = opened(1, budget_tags=TAGS, route="fast")
    await ledger.admit(call, attempt(call))
    await ledger.next_attempt(ended(attempt(call), 100), attempt(call, 2, provider="groq"))
    await ledger.settle(closed(call), ended(attempt(call, 2), 200))
    plain = opened(2, route="smart", tags='{"run":"42"}')
    await ledger.admit(plain, attempt(plain))
    await ledger.settle(closed(plain), ended(attempt(plain), 50))
    assert await ledger.spent(
        [
            SpentQuery("tag", "run=42", AT_MS),
            SpentQuery("tag", "branch=main", 0),
            SpentQuery("tag", "branch=main", AT_MS + 900_000),
            SpentQuery("tag", "run=43", 0),
            SpentQuery("route", "fast", 0),
            SpentQuery("route", "smart", 0),
            SpentQuery("box", "", 0),
        ]
    ) == [300, 300, 0, 0, 300, 50, 350]
    await ledger.close()
    assert verify(ledger.path) == []
    return ledger.path


def told(path: Path) -> list[tuple[object, ...]]:
    """Return the roll-ups by tag."""
    with reading(path) as db:
        return db.execute(
            "SELECT tag, provider, calls, attempts, cost_nanousd, input_tokens"
            " FROM spend_tag_readable ORDER BY tag, provider"
        ).fetchall()


ALL = [
    ("branch=main", "groq", 1, 1, 200, 412),
    ("branch=main", "openai", 0, 1, 100, 412),
    ("run=42", "groq", 1, 1, 200, 412),
    ("run=42", "openai", 0, 1, 100, 412),
]


async def test_each_declared_tag_of_a_call_is_added_up_once(path: Path) -> None:
    """A tag that is written twice is one; a tag that no budget knows costs no row."""
    assert told(path) == ALL


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("UPDATE spend_tag SET cost_nanousd = 7 WHERE cost_nanousd = 100", "cost_nanousd 7"),
        ("DELETE FROM spend_tag", "is missing"),
        ("INSERT INTO spend_tag (quarter_ms, tag, account) VALUES (1800000000000, 1, 1)", "no row"),
    ],
)
async def test_a_wrong_sum_of_a_tag_is_found_and_made_anew(path: Path, sql: str, says: str) -> None:
    """Which tags a call counts for stands in its row, whatever the file declares today."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(sql)
    found = verify(path)
    assert {one.check for one in found} == {"roll-up"}
    assert says in found[0].message
    assert ", tag " in found[0].subject
    assert repair(path) == []
    assert told(path) == ALL


async def test_a_call_that_a_kill_cut_short_counts_for_its_tags(tmp_path: Path) -> None:
    """Recovery bills the hold to each of them, and what was ended before at its cost."""
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.start()
    call = opened(1, budget_tags=TAGS)
    await ledger.admit(call, attempt(call))
    await ledger.next_attempt(ended(attempt(call), 100), attempt(call, 2))
    await ledger.close()  # no ending: the file is as a kill leaves it
    again = Ledger(ledger.path)
    again.start()
    assert again.recovered == 1
    query = SpentQuery("tag", "run=42", AT_MS)
    assert await again.spent([query]) == [1100]
    await again.close()
    assert verify(ledger.path) == []


async def test_a_tagged_call_that_outlives_a_restart_of_the_book_keeps_its_tags(
    tmp_path: Path,
) -> None:
    """After a transaction that failed the writer reads the open calls again, tags included."""
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.start()
    call = opened(1, budget_tags=TAGS)
    await ledger.admit(call, attempt(call))
    with pytest.raises(Exception, match="cannot be written"):
        await ledger.admit(call, attempt(call))  # a second time: its group is rolled back
    await ledger.settle(closed(call), ended(attempt(call), 100))
    assert await ledger.spent([SpentQuery("tag", "branch=main", 0)]) == [100]
    await ledger.close()
    assert verify(ledger.path) == []
