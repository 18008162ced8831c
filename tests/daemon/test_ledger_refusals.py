"""Of many refused calls that are alike in a moment, one row counts the rest, and none is lost."""

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest
from gateway import CHAT, KEY, body, gateway
from hypothesis import given
from hypothesis import strategies as st
from ledger_rows import AT_MS, refused
from upstreams import eventually

from tollway.daemon.ledger import calls
from tollway.daemon.ledger.refusals import EACH, MOST, OTHERS, Refusals
from tollway.daemon.ledger.rows import CallRefused, Who
from tollway.daemon.ledger.schema import QUARTER_MS, migrate
from tollway.daemon.ledger.spend import By, report, totals
from tollway.daemon.ledger.verify import repair, verify
from tollway.daemon.ledger.writer import Ledger

WHOLE = {"since_ms": 0, "until_ms": 2**60}
BEN = Who(key="ci", user="ben", team="web")


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """Return an open ledger."""
    one = Ledger(tmp_path / "ledger.db")
    one.start()
    yield one
    await one.close()


async def test_a_flood_of_refusals_takes_a_few_rows_and_every_one_is_counted(
    ledger: Ledger,
) -> None:
    """A client in a loop must not fill the file; reports, tags and `verify` go by the count."""
    for number in range(1000):
        ledger.refuse(refused(number, tags='{"run":"42"}', budget_tags=("run=42",)))
        if number < 20:
            ledger.refuse(refused(2000 + number, who=BEN))
            ledger.refuse(refused(3000 + number, error="rate_limit_exceeded"))
    await ledger.close()
    rows = calls.recent(ledger.path, limit=5000)
    assert Counter((row.key, row.error) for row in rows) == {
        ("laptop", "insufficient_quota"): EACH + 1,
        ("ci", "insufficient_quota"): EACH + 1,
        ("laptop", "rate_limit_exceeded"): EACH + 1,
    }
    assert sum(1 + row.repeated for row in rows) == 1040
    assert totals(ledger.path, **WHOLE).refused == 1040
    by_key = report(ledger.path, by=[By.KEY], tz=ZoneInfo("UTC"), **WHOLE)
    assert {row.group[0]: row.refused for row in by_key} == {"laptop": 1020, "ci": 20}
    with closing(sqlite3.connect(ledger.path)) as db:
        for sql in ("SELECT sum(refused) FROM spend_tag", "SELECT sum(refused) FROM spend_label"):
            assert db.execute(sql).fetchone() == (1000,)
    assert verify(ledger.path) == []
    assert repair(ledger.path) == []
    assert totals(ledger.path, **WHOLE).refused == 1040


async def test_a_caller_that_makes_up_names_takes_a_few_rows_too(ledger: Ledger) -> None:
    """The rest are one row for each error and declared tag, which names none of them."""
    for number in range(1000):
        made_up = refused(number, requested=f"model-{number}", tags=f'{{"job":"{number}"}}')
        ledger.refuse(msgspec.structs.replace(made_up, session=f"s-{number}", client=f"c{number}"))
        ledger.refuse(refused(2000 + number, requested="same", budget_tags=("run=42",)))
        if number < 20:
            ledger.refuse(refused(4000 + number, requested=f"model-{number}", who=BEN))
    await ledger.close()
    rows = calls.recent(ledger.path, limit=5000)
    others = [row for row in rows if row.requested == OTHERS]
    assert [(row.key, 1 + row.repeated, row.session, row.tags) for row in others] == [
        ("laptop", 1000 - (MOST - EACH), "", "")
    ]
    assert Counter(row.key for row in rows) == {"laptop": MOST + 2, "ci": 20}
    assert sum(1 + row.repeated for row in rows) == 2020
    by_key = report(ledger.path, by=[By.KEY], tz=ZoneInfo("UTC"), **WHOLE)
    assert {row.group[0]: row.refused for row in by_key} == {"laptop": 2000, "ci": 20}
    with closing(sqlite3.connect(ledger.path)) as db:
        assert db.execute("SELECT sum(refused) FROM spend_tag").fetchone() == (1000,)
        assert db.execute("SELECT count(*) FROM words").fetchone()[0] < 4 * MOST
    assert verify(ledger.path) == []
    assert repair(ledger.path) == []


async def test_the_count_is_written_when_its_moment_is_over(ledger: Ledger) -> None:
    """Whoever looks on sees it, also where nobody is refused any more."""
    following = calls.follow(ledger.path)
    for number in range(100):
        ledger.refuse(refused(number))
    found: list[calls.CallRow] = []

    def all_told() -> bool:
        found.extend(following.poll())
        return sum(1 + row.repeated for row in found) == 100

    await eventually(all_told)
    assert [row.repeated for row in found] == [0] * EACH + [100 - EACH - 1]


async def test_the_id_of_a_refusal_without_a_row_leads_to_the_row_that_counts_it(
    ledger: Ledger,
) -> None:
    """The client was told that id, and asks for it."""
    for number in range(20):
        ledger.refuse(refused(number))
    await ledger.close()
    counts = next(row.id for row in calls.recent(ledger.path, limit=1))
    with pytest.raises(calls.CallUnknown) as told:
        calls.one(ledger.path, refused(15, AT_MS + 900).id)
    assert counts in told.value.hint
    with pytest.raises(calls.CallUnknown) as told:
        calls.one(ledger.path, refused(15, AT_MS + 9000).id)
    assert told.value.hint == "`tollway logs` lists the latest"


@given(
    st.lists(
        st.tuples(st.sampled_from(["fast", "smart"]), st.integers(0, 1), st.booleans()),
        max_size=100,
    )
)
async def test_every_refusal_is_counted_once_in_its_own_quarter_of_an_hour(
    said: list[tuple[str, int, bool]],
) -> None:
    """However they are mixed, and whenever a moment ends."""
    written: list[CallRefused] = []
    refusals = Refusals(written.append, moment_s=3600)
    moments = 1
    for number, (name, quarter, ends) in enumerate(said):
        refusals.add(refused(number, AT_MS + quarter * QUARTER_MS, requested=name))
        if ends:
            refusals.flush()
            moments += 1
    refusals.flush()
    counted = Counter[tuple[str, int]]()
    for row in written:
        counted[row.requested, row.refused_ms // QUARTER_MS] += 1 + row.repeated
    assert counted == Counter((name, AT_MS // QUARTER_MS + quarter) for name, quarter, _ in said)
    assert len({row.id for row in written}) == len(written) <= moments * 4 * (EACH + 1)


async def test_a_ledger_of_the_version_before_counts_each_of_its_refusals_once(
    tmp_path: Path,
) -> None:
    """Rows of before stand for themselves alone."""
    path = tmp_path / "ledger.db"
    old = refused(1)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        migrate(db, path, to=8)
        db.execute("INSERT INTO accounts VALUES (1, 'laptop', 'anna', 'ml', '', '', '', '')")
        db.execute("INSERT INTO words VALUES (1, 'openai_chat'), (2, 'chat'), (3, 'fast')")
        db.execute(
            "INSERT INTO calls (seq, id, state, account, admitted_ms, total_ms, dialect, endpoint,"
            " requested) VALUES (1, ?, 3, 1, ?, 0, 1, 2, 3)",
            (old.id, old.refused_ms),
        )
        db.execute(
            "INSERT INTO spend_quarter (quarter_ms, account, refused) VALUES (?, 1, 1)",
            (old.refused_ms // QUARTER_MS * QUARTER_MS,),
        )
    ledger = Ledger(path)
    ledger.start()
    ledger.refuse(refused(2))
    await ledger.close()
    assert (tmp_path / "ledger.db.v8.bak").exists()
    assert [row.repeated for row in calls.recent(path, limit=9)] == [0, 0]
    assert totals(path, **WHOLE).refused == 2
    assert verify(path) == []


async def test_a_client_in_a_loop_leaves_a_few_rows_and_its_true_number() -> None:
    """Through the door: each is answered on its own, and the ledger has them all."""
    async with gateway([], budget="0/day") as gate:
        path = gate.daemon.server.daemon.ledger.path
        for _ in range(50):
            reply = await gate.daemon.ask("POST", CHAT, body(), Authorization=f"Bearer {KEY}")
            assert reply.status == 402
        await eventually(lambda: totals(path, **WHOLE).refused == 50)
        rows = calls.recent(path, limit=100)
        assert len(rows) < 50
        assert sum(1 + row.repeated for row in rows) == 50
        assert verify(path) == []
