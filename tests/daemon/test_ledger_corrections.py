"""Bills that are put right: priced anew, or settled by their owner. What follows moves along."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ledger_rows import AT_MS, PRICE, attempt, closed, ended, opened

from tollway.daemon.errors import LedgerHeld
from tollway.daemon.ledger import calls
from tollway.daemon.ledger.calls import CallUnknown
from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.reprice import Repriced, Result, Terms, reprice
from tollway.daemon.ledger.rows import AttemptOpened, CallOpened, SpentQuery
from tollway.daemon.ledger.settling import CannotSettle, settle
from tollway.daemon.ledger.verify import verify
from tollway.daemon.ledger.writer import Ledger
from tollway.providers.canon import Endpoint, Price, Rate, Usage
from tollway.providers.money import cost
from tollway.providers.prices import by_the_hour

EVER = (0, 2**60)
USED = Usage(input=412, output=286)
COST = cost(USED, PRICE)
IMAGE = Price("price-4", "a test", Rate(Decimal(0)), Rate(Decimal(0)), search_usd=Decimal("0.04"))
DEARER = Price("price-2", "a test", Rate(Decimal("0.3")), Rate(Decimal("1.2")))


def sent(call: CallOpened, number: int = 1, **fields: object) -> AttemptOpened:
    """Return the start of a try whose hold is ten times what it will cost."""
    return attempt(call, number, hold_nanousd=10 * COST, **fields)


def content(path: Path) -> bytes:
    """Return the file as it is."""
    return path.read_bytes()


def terms(price: Price | None = PRICE, dialect: str = "openai_chat") -> Any:
    """Return today's terms, the same for every target."""
    return lambda _provider, _model, _at_ms: Terms(price, dialect)


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """Return a ledger as healthy traffic leaves it: a retry, a refusal, an unpriced call."""
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.start()
    call = opened(1, budget_tags=("run=42",))
    await ledger.admit(call, attempt(call))
    failed = ended(
        attempt(call), 0, ending="upstream_refused", status=429, usage=Usage(), raw_usage=""
    )
    await ledger.next_attempt(failed, sent(call, 2, provider="groq"))
    await ledger.settle(closed(call), ended(sent(call, 2), COST))
    free = opened(2, AT_MS + 3_600_000)
    await ledger.admit(free, sent(free, price=None))
    await ledger.settle(closed(free), ended(sent(free), 0))
    unknown = opened(3, AT_MS + 3_600_000)
    await ledger.admit(unknown, attempt(unknown))
    guess = ended(
        attempt(unknown), 1000, ending="no_usage", usage=Usage(500, output=50, estimated=True)
    )
    await ledger.settle(closed(unknown, "no_usage"), guess)
    await ledger.close()
    assert verify(ledger.path) == []
    return ledger.path


def totals(path: Path) -> list[tuple[int, int, int, int]]:
    """Return cost, estimates, unpriced attempts and tokens of both roll-ups."""
    with reading(path) as db:
        return [
            db.execute(
                "SELECT sum(cost_nanousd), sum(estimated_nanousd), sum(unpriced),"  # noqa: S608
                f" sum(input_tokens + output_tokens) FROM {table}"
            ).fetchone()
            for table in ("spend_quarter", "spend_tag")
        ]


def audit(path: Path) -> list[tuple[str, str, str, Any, Any]]:
    """Return the rows of audit, JSON read."""
    with reading(path) as db:
        rows = db.execute("SELECT who, what, subject, before, after FROM audit ORDER BY seq")
        return [(*row[:3], json.loads(row[3]), json.loads(row[4])) for row in rows]


async def test_healthy_traffic_priced_anew_changes_nothing(path: Path) -> None:
    """Reports that were read rightly, at prices that have not changed, come to the same bill."""
    before = content(path)
    assert reprice(path, terms(), EVER, apply=False) == Result(
        attempts=4, changed=1, left=2, before_nanousd=0, after_nanousd=COST,
        changes=[Repriced(opened(2, AT_MS + 3_600_000).id, 1, "openai", "gpt-4o-mini", 0, COST,
                          "price")],
    )  # fmt: skip
    only_first = (AT_MS, AT_MS + 900_000)
    assert reprice(path, terms(), only_first, apply=False) == Result(attempts=2, left=1)
    assert content(path) == before
    assert reprice(path, terms(), only_first, apply=True, who="anna") == Result(attempts=2, left=1)
    assert audit(path) == []


async def test_a_price_under_another_name_is_no_change(path: Path) -> None:
    """Each release of the price data has names of its own."""
    renamed = msgspec.structs.replace(PRICE, id="other", source="data 2.0")
    assert reprice(path, terms(renamed), (AT_MS, AT_MS + 1), apply=False).changed == 0


async def test_a_dry_run_tells_and_applying_moves_everything(path: Path) -> None:
    """Attempt, call, both roll-ups and the audit; what was estimated stays as it is."""
    seen: list[tuple[int, int]] = []
    told = reprice(path, terms(DEARER), EVER, apply=False)
    assert (told.changed, told.left) == (2, 2)
    assert (told.before_nanousd, told.after_nanousd) == (COST, 4 * COST)
    assert totals(path)[0] == (COST + 1000, 1000, 1, 2 * 698 + 550)
    done = reprice(
        path, terms(DEARER), EVER, apply=True, who="anna", progress=lambda *at: seen.append(at)
    )
    assert done == told
    assert seen == [(3, 3)]
    assert totals(path) == [(4 * COST + 1000, 1000, 0, 2 * 698 + 550), (2 * COST, 0, 0, 698)]
    assert verify(path) == []
    first = calls.one(path, opened(1).id)
    assert first.call.cost_nanousd == 2 * COST
    assert first.attempts[1].price == DEARER
    rows = audit(path)
    assert [row[:3] for row in rows] == [
        ("anna", "reprice", f"{opened(1).id} attempt 2"),
        ("anna", "reprice", f"{opened(2, AT_MS + 3_600_000).id} attempt 1"),
    ]
    assert rows[0][3]["cost_nanousd"] == COST
    assert rows[0][4] == {"cost_nanousd": 2 * COST, "input": 412, "output": 286, "price": "price-2"}
    assert reprice(path, terms(DEARER), EVER, apply=False).changed == 0


async def test_a_report_that_was_read_wrongly_is_read_again(tmp_path: Path) -> None:
    """A reader that forgot the cached tokens billed them in full; the report knows better."""
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.start()
    call = opened(1)
    raw = (
        '{"prompt_tokens":400,"completion_tokens":10,"total_tokens":410,'
        '"prompt_tokens_details":{"cached_tokens":300}}'
    )
    await ledger.admit(call, attempt(call))
    wrong = Usage(input=400, output=10)
    await ledger.settle(
        closed(call), ended(attempt(call), cost(wrong, PRICE), usage=wrong, raw_usage=raw)
    )
    await ledger.close()
    price = msgspec.structs.replace(PRICE, id="price-9", cache_read=Rate(Decimal("0.015")))
    done = reprice(ledger.path, terms(price), EVER, apply=True, who="anna")
    assert done.changes[0].why == "price and usage"
    right = Usage(input=100, cache_read=300, output=10)
    row = calls.one(ledger.path, call.id).call
    assert (row.cost_nanousd, row.input_tokens) == (cost(right, price), 100)
    assert row.cache_read_tokens == 300
    assert verify(ledger.path) == []
    # Without a dialect (its provider is gone) the tokens stand as they are.
    assert reprice(ledger.path, terms(price, ""), EVER, apply=False).changed == 0


async def test_a_price_that_nobody_knows_any_more_is_kept(path: Path) -> None:
    """A provider that was taken out of gateway.toml does not make its past calls free."""
    found = reprice(path, terms(None), EVER, apply=False)
    assert (found.changed, found.left) == (0, 4)


async def test_an_overrun_moves_with_the_bill(path: Path) -> None:
    """What is over the hold is part of what the audit of a budget adds up."""
    dear = Price("price-3", "a test", Rate(Decimal(2)), Rate(Decimal(8)))
    reprice(path, terms(dear), (AT_MS, AT_MS + 1), apply=True)
    row = calls.one(path, opened(1).id).call
    assert row.overrun_nanousd == row.cost_nanousd - 10 * COST > 0
    assert verify(path) == []


async def test_what_used_nothing_was_never_without_a_price(tmp_path: Path) -> None:
    """Who settles an attempt that was refused takes none off the count of unpriced ones."""
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.start()
    call = opened(1)
    await ledger.admit(call, attempt(call, price=None))
    nothing = ended(attempt(call), 0, ending="upstream_refused", usage=Usage(), raw_usage="")
    await ledger.settle(closed(call), nothing)
    await ledger.close()
    settle(ledger.path, call.id, attempt=1, cost_nanousd=5, usage=None, who="anna")
    assert calls.one(ledger.path, call.id).call.cost_nanousd == 5
    assert verify(ledger.path) == []


async def test_a_call_that_a_kill_cut_short_is_settled_by_its_owner(tmp_path: Path) -> None:
    """Its hold was booked, the provider's own page says less."""
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.start()
    call = opened(1, budget_tags=("run=42",))
    await ledger.admit(call, attempt(call))
    await ledger.close()
    again = Ledger(ledger.path)
    again.start()
    assert await again.spent([SpentQuery("tag", "run=42", 0)]) == [1000]
    with pytest.raises(LedgerHeld):
        settle(ledger.path, call.id, attempt=None, cost_nanousd=5, usage=None, who="anna")
    await again.close()
    done = settle(
        ledger.path, call.id[:20], attempt=None, cost_nanousd=None, usage=USED, who="anna"
    )
    assert (done.attempt, done.before_nanousd, done.after_nanousd) == (1, 1000, COST)
    row = calls.one(ledger.path, call.id).call
    assert (row.state, row.cost_nanousd, row.estimated) == ("recovered", COST, False)
    assert row.input_tokens == 412
    assert totals(ledger.path) == [(COST, 0, 0, 698)] * 2
    assert verify(ledger.path) == []
    assert audit(ledger.path)[0][:2] == ("anna", "settle")
    with pytest.raises(CannotSettle, match="no estimate to settle"):
        settle(ledger.path, call.id, attempt=None, cost_nanousd=5, usage=None, who="anna")


@pytest.mark.parametrize(
    ("endpoint", "price", "words"),
    [
        ("chat", by_the_hour(Decimal("0.8")), "paid by the hour"),
        ("images", IMAGE, "paid by what `/v1/images/generations` sells"),
    ],
)
async def test_tokens_alone_do_not_settle_what_is_not_paid_by_them(
    tmp_path: Path, endpoint: Endpoint, price: Price, words: str
) -> None:
    """A kill leaves it at its hold: it would be booked at nothing."""
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.start()
    call = msgspec.structs.replace(opened(1), endpoint=endpoint)
    await ledger.admit(call, msgspec.structs.replace(attempt(call), price=price))
    await ledger.close()
    again = Ledger(ledger.path)
    again.start()
    assert await again.spent([SpentQuery("box", "", 0)]) == [1000]
    await again.close()
    with pytest.raises(CannotSettle, match=words):
        settle(ledger.path, call.id, attempt=None, cost_nanousd=None, usage=USED, who="anna")
    assert calls.one(ledger.path, call.id).call.cost_nanousd == 1000
    settle(ledger.path, call.id, attempt=None, cost_nanousd=5, usage=USED, who="anna")
    assert calls.one(ledger.path, call.id).call.cost_nanousd == 5
    assert verify(ledger.path) == []


@pytest.mark.parametrize(("price", "used"), [(IMAGE, Usage(searches=1)), (PRICE, USED)])
async def test_what_is_sold_by_the_piece_is_settled_by_pieces_or_where_tokens_are_paid(
    tmp_path: Path, price: Price, used: Usage
) -> None:
    """An image model may have either price; a usage that its own price can bill is enough."""
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.start()
    call = opened(1, endpoint="images")
    await ledger.admit(call, attempt(call, price=price))
    guess = ended(attempt(call), 1000, usage=Usage(estimated=True))
    await ledger.settle(closed(call), guess)
    await ledger.close()
    done = settle(ledger.path, call.id, attempt=None, cost_nanousd=None, usage=used, who="anna")
    assert done.after_nanousd == cost(used, price) > 0
    assert verify(ledger.path) == []


async def test_what_a_person_settled_is_not_priced_anew(path: Path) -> None:
    """An invoice is above any computation; a number may be named, and settled twice."""
    third = opened(3, AT_MS + 3_600_000).id
    settle(path, third, attempt=None, cost_nanousd=77, usage=None, who="anna")
    settle(path, third, attempt=1, cost_nanousd=1078, usage=None, who="anna")
    (row,) = calls.one(path, third).attempts
    assert (row.cost_nanousd, row.overrun_nanousd, row.estimated) == (1078, 78, False)
    assert row.reported_nanousd is None  # a person said it, not the provider
    assert reprice(path, terms(DEARER), EVER, apply=True).changed == 2
    assert calls.one(path, third).call.cost_nanousd == 1078
    assert verify(path) == []


async def test_a_settlement_that_makes_no_sense_is_refused(path: Path) -> None:
    """Nothing is guessed: which attempt, and what its tokens cost, must be clear."""
    second = opened(2, AT_MS + 3_600_000).id
    before = content(path)
    with pytest.raises(CallUnknown):
        settle(path, "ffff", attempt=None, cost_nanousd=1, usage=None, who="anna")
    with pytest.raises(CannotSettle, match="has no attempt 9"):
        settle(path, second, attempt=9, cost_nanousd=1, usage=None, who="anna")
    with pytest.raises(CannotSettle, match="has no price"):
        settle(path, second, attempt=1, cost_nanousd=None, usage=USED, who="anna")
    assert content(path) == before
    settle(path, second, attempt=1, cost_nanousd=5, usage=None, who="anna")
    assert verify(path) == []
