"""What the ledger says after it was told something."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ledger_rows import ANNA, AT_MS, PRICE, RAW_USAGE, attempt, closed, ended, opened, refused

from tollway.daemon.errors import LedgerUnavailable
from tollway.daemon.ledger import calls
from tollway.daemon.ledger.book import Book
from tollway.daemon.ledger.operations import Admit, Next, Operation, Settle, Withdraw
from tollway.daemon.ledger.rows import Audited, SpentQuery, Who
from tollway.daemon.ledger.schema import QUARTER_MS, migrate, transaction
from tollway.daemon.ledger.statements import Upsert
from tollway.daemon.ledger.verify import verify
from tollway.daemon.ledger.writer import Ledger
from tollway.providers.canon import Usage

BOX = [SpentQuery("box", "", 0)]


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """Yield an open ledger; afterwards it must agree with itself."""
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.start()
    yield ledger
    await ledger.close()
    assert verify(ledger.path) == []


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """Return what another program reads in the file."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute(sql).fetchall()


async def test_an_admission_is_in_the_file_when_it_returns(ledger: Ledger) -> None:
    """The upstream is contacted after it: a kill from then on must find the hold."""
    call = opened(1)
    await ledger.admit(call, attempt(call))
    assert rows(
        ledger.path, "SELECT id, state, hold_nanousd, cost_nanousd FROM calls_readable"
    ) == [(call.id, "open", 1000, 0)]
    await ledger.settle(closed(call), ended(attempt(call)))


TOKENS: dict[str, Any] = {
    "input_tokens": 1,
    "cache_read_tokens": 2,
    "cache_write_tokens": 3,
    "cache_write_1h_tokens": 4,
    "audio_input_tokens": 5,
    "output_tokens": 6,
    "reasoning_tokens": 7,
    "audio_output_tokens": 8,
    "image_input_tokens": 9,
    "image_output_tokens": 10,
    "searches": 11,
}
MONEY: dict[str, Any] = {
    "cost_nanousd": 1500,
    "overrun_nanousd": 500,
    "hold_nanousd": 1000,
    "estimated": True,
}


async def test_a_settled_call_says_all_that_is_known_of_it(ledger: Ledger) -> None:
    """One row for a person who asks what a call was and cost, one for each attempt."""
    call = opened(1, tags='{"run":"42"}')
    usage = Usage(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, estimated=True)
    await ledger.admit(call, attempt(call))
    await ledger.settle(
        closed(call, "no_usage", "upstream_broke"),
        ended(attempt(call), 1500, usage=usage, overrun_nanousd=500, error="upstream_broke"),
    )
    detail = calls.one(ledger.path, call.id)
    assert detail.call == calls.CallRow(
        id=call.id,
        state="settled",
        ending="no_usage",
        key="laptop",
        user="anna",
        team="ml",
        project="chatbot",
        route="fast",
        provider="openai",
        model="gpt-4o-mini",
        requested="fast",
        dialect="openai_chat",
        endpoint="chat",
        stream=True,
        admitted_ms=AT_MS,
        ended_ms=AT_MS + 1000,
        first_ms=250,
        total_ms=1000,
        attempts=1,
        error="upstream_broke",
        client="OpenAI/Python 3.54.0",
        tags='{"run":"42"}',
        **TOKENS,
        **MONEY,
    )
    assert detail.attempts == (
        calls.AttemptRow(
            number=1,
            provider="openai",
            model="gpt-4o-mini",
            status=200,
            ending="answered",
            started_ms=AT_MS + 1,
            ended_ms=AT_MS + 901,
            first_ms=240,
            total_ms=900,
            error="upstream_broke",
            upstream_id="chatcmpl-1",
            usage=RAW_USAGE,
            price=PRICE,
            **TOKENS,
            **MONEY,
        ),
    )


async def test_every_attempt_is_a_row_and_the_call_is_their_sum(ledger: Ledger) -> None:
    """A call that fell back is billed for both tries, each under its own provider."""
    call = opened(1)
    first = attempt(call)
    second = attempt(call, 2, provider="groq", model="llama", hold_nanousd=70)
    await ledger.admit(call, first)
    guess = Usage(input=412, output=286, estimated=True)
    await ledger.next_attempt(ended(first, 250, ending="upstream_broke", usage=guess), second)
    await ledger.settle(closed(call), ended(second, 40))
    found = calls.one(ledger.path, call.id)
    assert [(one.provider, one.cost_nanousd, one.ending) for one in found.attempts] == [
        ("openai", 250, "upstream_broke"),
        ("groq", 40, "answered"),
    ]
    assert (found.call.attempts, found.call.cost_nanousd, found.call.hold_nanousd) == (2, 290, 1070)
    assert (found.call.provider, found.call.input_total) == ("groq", 824)
    assert found.call.estimated
    asked = [SpentQuery("provider", name, 0) for name in ("openai", "groq")]
    assert await ledger.spent([*asked, *BOX]) == [250, 40, 290]


async def test_a_refused_call_is_a_row_without_cost(ledger: Ledger) -> None:
    """Whoever asks why their call did not go through finds it."""
    ledger.refuse(refused(1, budget_tags=("run=1", "run=1")))
    assert await ledger.spent(BOX) == [0]
    found = calls.one(ledger.path, refused(1).id).call
    assert (found.state, found.error, found.total_ms, found.attempts) == (
        "refused",
        "insufficient_quota",
        0,
        0,
    )


async def test_spent_sees_exactly_what_was_given_before_it(ledger: Ledger) -> None:
    """A budget that is opened while calls settle must count each of them once, not twice."""
    asked = []
    for number in range(1, 200):
        call = opened(number)
        await ledger.admit(call, attempt(call))
        ledger.settle(closed(call), ended(attempt(call), number))
        asked.append(ledger.spent(BOX))
    answers = await asyncio.gather(*asked)
    assert answers == [[number * (number + 1) // 2] for number in range(1, 200)]


async def test_spending_belongs_to_the_quarter_of_the_admission(ledger: Ledger) -> None:
    """A call that ends in the next period is billed to the one in which it was admitted."""
    call = opened(1, AT_MS + QUARTER_MS - 1)
    await ledger.admit(call, attempt(call))
    await ledger.settle(closed(call), ended(attempt(call), ended_ms=AT_MS + 2 * QUARTER_MS))
    since = [SpentQuery("box", "", AT_MS), SpentQuery("box", "", AT_MS + QUARTER_MS)]
    assert await ledger.spent(since) == [300, 0]


async def test_spent_tells_scopes_apart(ledger: Ledger) -> None:
    """Each scope has what was billed to it, and an unknown name nothing."""
    for number, who in enumerate((ANNA, Who(key="ci", team="ml"), Who(user="anna")), start=1):
        call = opened(number, who=who)
        await ledger.admit(call, attempt(call))
        ledger.settle(closed(call), ended(attempt(call), 10**number))
    queries = [
        SpentQuery("key", "laptop", 0),
        SpentQuery("team", "ml", 0),
        SpentQuery("user", "anna", 0),
        SpentQuery("project", "nobody", 0),
        SpentQuery("provider", "openai", 0),
    ]
    assert await ledger.spent(queries) == [10, 110, 1010, 0, 1110]


async def test_an_open_hold_is_not_spent(ledger: Ledger) -> None:
    """What is held is the books' to count: the ledger tells what is settled."""
    call = opened(1)
    await ledger.admit(call, attempt(call))
    assert await ledger.spent(BOX) == [0]
    await ledger.settle(closed(call), ended(attempt(call)))


async def test_a_call_is_admitted_once(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    """Two rows for one id would be billed twice; the calls beside it are written all the same."""
    call, other = opened(1), opened(2)
    with caplog.at_level(logging.CRITICAL, "tollway.daemon.ledger.thread"):
        found = await asyncio.gather(
            ledger.admit(call, attempt(call)),
            ledger.admit(call, attempt(call)),
            ledger.admit(other, attempt(other)),
            return_exceptions=True,
        )
    assert [type(one) for one in found] == [type(None), LedgerUnavailable, type(None)]
    with pytest.raises(LedgerUnavailable):
        await ledger.next_attempt(None, attempt(call, hold_nanousd=5))
    for one in (call, other):
        await ledger.settle(closed(one), ended(attempt(one)))
    assert await ledger.spent(BOX) == [600]
    assert ledger.problem is None


def test_any_number_of_rows_is_written_in_one_go() -> None:
    """None twice, none left out, whatever powers of two they are cut into."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY)")
        done = 0
        for many in (1, 2, 3, 63, 64, 65, 150):
            Upsert("numbers", ("number",)).write(db, [(done + one,) for one in range(many)])
            done += many
            assert db.execute("SELECT count(*) FROM numbers").fetchone() == (done,)


async def test_a_row_that_cannot_be_written_fails_alone(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """One impossible number must not keep the settlements beside it in memory for ever.

    What is under way goes on as it was, with all that has been said of it.
    """
    admitted = [opened(number) for number in range(1, 4)]
    for call in admitted:
        await ledger.admit(call, attempt(call))
    retried = opened(4, tags='{"run":"1"}', session="s", budget_tags=("run=1",))
    await ledger.admit(retried, attempt(retried))
    await ledger.next_attempt(ended(attempt(retried), 20), attempt(retried, 2))
    with caplog.at_level(logging.CRITICAL, "tollway.daemon.ledger.thread"):
        costs = (300, 2**63, 300)
        done = [
            ledger.settle(closed(call), ended(attempt(call), cost))
            for call, cost in zip(admitted, costs, strict=True)
        ]
        await asyncio.wait(done)
    assert [type(one.exception()) for one in done] == [type(None), LedgerUnavailable, type(None)]
    assert await ledger.spent(BOX) == [620]
    await ledger.settle(closed(admitted[1]), ended(attempt(admitted[1])))
    await ledger.settle(closed(retried), ended(attempt(retried, 2), 5))
    assert await ledger.spent(BOX) == [925]


async def test_the_end_of_an_attempt_survives_a_next_one_that_cannot_be_written(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """What the first try cost is known: it is billed whatever becomes of the second."""
    call = opened(1)
    await ledger.admit(call, attempt(call))
    impossible = attempt(call, 2, hold_nanousd=2**63)
    caplog.set_level(logging.CRITICAL, "tollway.daemon.ledger.thread")
    with pytest.raises(LedgerUnavailable):
        await ledger.next_attempt(ended(attempt(call), 250), impossible)
    await ledger.settle(closed(call, "failed"), None)
    assert await ledger.spent(BOX) == [250]


async def test_an_attempt_that_its_call_forgot_is_billed_at_its_hold(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody said what it used, so it is billed the most that it can have used."""
    call = opened(1)
    await ledger.admit(call, attempt(call))
    await ledger.settle(closed(call, "failed"), None)
    assert await ledger.spent(BOX) == [1000]
    assert calls.one(ledger.path, call.id).call.estimated
    assert "left attempt 1 open" in caplog.text
    other = opened(2)
    await ledger.admit(other, attempt(other))
    await ledger.next_attempt(None, attempt(other, 2))
    guess = ended(attempt(other, 2), 300, usage=Usage(output=9, estimated=True))
    await ledger.settle(closed(other, "failed"), guess)
    assert await ledger.spent(BOX) == [2300]


async def test_an_attempt_has_the_price_that_it_was_billed_at(ledger: Ledger) -> None:
    """Another than it was held at, or none at all where its provider told the bill."""
    call = opened(1)
    first, second = attempt(call), attempt(call, 2, price=None)
    await ledger.admit(call, first)
    dearer = msgspec.structs.replace(PRICE, id="price-2")
    await ledger.next_attempt(ended(first, 250, price=dearer), second)
    await ledger.settle(closed(call), ended(second, 40, reported_nanousd=40))
    priced = "SELECT p.id FROM attempts t LEFT JOIN prices p ON p.number = t.price"
    assert rows(ledger.path, priced) == [("price-2",), (None,)]
    assert rows(ledger.path, "SELECT sum(unpriced) FROM spend_quarter") == [(0,)]


async def test_a_settlement_is_counted_once(ledger: Ledger) -> None:
    """A second end of the same call changes nothing."""
    call = opened(1)
    await ledger.admit(call, attempt(call))
    for _ in range(2):
        await ledger.settle(closed(call), ended(attempt(call)))
    assert await ledger.spent(BOX) == [300]


async def test_a_cancelled_admission_can_be_settled(ledger: Ledger) -> None:
    """The client left while the row was on its way: the gate settles it, and the order is kept."""
    call = opened(1)
    task = asyncio.create_task(ledger.admit(call, attempt(call)))
    await asyncio.sleep(0)  # the task has asked, and waits
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ledger.settle(closed(call, "client_left"), ended(attempt(call), 0, ending="client_left"))
    assert calls.one(ledger.path, call.id).call.state == "settled"


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "{}",
        '{"a":1}',
        '{"a":1,"b2":{"c":0.25e-3},"d":[10,20]}',
        '{"note":"# 1 of 2"}',
        '{"note":"drei \u00fcber 4","n":12,"m":7}',
        "12,3",
    ],
)
async def test_a_providers_usage_is_kept_to_the_letter(ledger: Ledger, raw: str) -> None:
    """It is kept in two parts to save space; a person gets what the provider sent."""
    for number in (1, 2):  # the second time, its shape is known
        call = opened(number)
        await ledger.admit(call, attempt(call))
        await ledger.settle(closed(call), ended(attempt(call), raw_usage=raw))
        assert calls.one(ledger.path, call.id).attempts[0].usage == raw


async def test_a_provider_that_makes_up_usage_does_not_fill_the_dictionary(ledger: Ledger) -> None:
    """Shapes are kept for ever, so there is an end to them; the text is kept all the same."""
    for number in range(300):
        call = opened(number)
        await ledger.admit(call, attempt(call))
        raw = '{"' + "x" * number + '":1}'
        ledger.settle(closed(call), ended(attempt(call), raw_usage=raw))
    await ledger.spent(BOX)
    assert rows(ledger.path, "SELECT count(*) FROM usage_shapes") == [(256,)]
    assert calls.one(ledger.path, opened(299).id).attempts[0].usage == raw


@pytest.mark.parametrize("known", [False, True], ids=["late", "in time"])
async def test_what_was_refused_for_a_stalled_disk_is_undone(
    tmp_path: Path, known: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller was told that it failed, and then the disk wrote it: it must not stay open.

    Where that is known before the disk takes it, it is not written at all.
    """
    path = tmp_path / "ledger.db"
    call, retried = opened(1), opened(2)
    done = asyncio.get_running_loop().create_future()
    first = Admit(call, attempt(call), done)
    other = Next(ended(attempt(retried), 250), attempt(retried, 2), done)
    first.withdrawn = other.withdrawn = known
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        migrate(db, path)
        book = Book(db)
        groups: list[list[Operation]] = [
            [Admit(retried, attempt(retried), done)],
            [first, other],
            [Withdraw(first, AT_MS + 9), Withdraw(other, AT_MS + 9)],
            [Settle(closed(retried, "failed"), None)],
            [Withdraw(other, AT_MS + 10)],  # what is over is left alone
        ]
        for group in groups:
            with transaction(db):
                book.write(group)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    found = {row.id: row for row in calls.recent(path, limit=2)}
    assert (call.id in found) is not known
    assert known or (found[call.id].state, found[call.id].cost_nanousd) == ("refused", 0)
    assert (found[retried.id].state, found[retried.id].cost_nanousd) == ("settled", 250)
    assert found[retried.id].attempts == (1 if known else 2)
    assert verify(path) == []
    assert caplog.text == ""


async def test_the_audit_trail_is_written_in_order(ledger: Ledger) -> None:
    """Who changed what, and when, can be read by people."""
    await asyncio.gather(
        ledger.audit(Audited(AT_MS, "owner", "budget raised", "key laptop", "5/day", "10/day")),
        ledger.audit(Audited(AT_MS + 1, "owner", "key revoked", "key ci")),
    )
    assert rows(ledger.path, "SELECT who, what, subject, before, after FROM audit_readable") == [
        ("owner", "budget raised", "key laptop", "5/day", "10/day"),
        ("owner", "key revoked", "key ci", "", ""),
    ]


async def test_what_became_ready_together_is_one_transaction(ledger: Ledger) -> None:
    """A hundred calls at once do not cost two hundred commits."""
    admitted = [opened(number) for number in range(100)]
    before = ledger.commits
    await asyncio.gather(*(ledger.admit(call, attempt(call)) for call in admitted))
    await asyncio.gather(*(ledger.settle(closed(call), ended(attempt(call))) for call in admitted))
    assert ledger.commits - before < 100


async def test_the_file_is_its_owners_alone(ledger: Ledger) -> None:
    """Who asked for what, and when, is nobody else's business."""
    call = opened(1)
    await ledger.admit(call, attempt(call))
    await ledger.settle(closed(call), ended(attempt(call)))
    names = {path.name: path.stat().st_mode & 0o777 for path in ledger.path.parent.iterdir()}
    assert set(names.values()) == {0o600}
    assert {"ledger.db", "ledger.db-wal", "ledger.db.lock"} <= set(names)
