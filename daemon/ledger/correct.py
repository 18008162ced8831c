"""How the books are put right: one attempt's bill changes, and all that follows from it.

Its one rule: **the attempt, its call, the roll-ups and the audit change in one transaction**, by
the same difference, so that the ledger agrees with itself before and after.
"""

import time
from collections.abc import Iterator, Sequence
from operator import sub
from sqlite3 import Connection

import msgspec

from tollway.daemon.ledger.names import Names
from tollway.daemon.ledger.schema import QUARTER_MS, TOKENS
from tollway.daemon.ledger.statements import SPEND, SPEND_LABEL, SPEND_TAG, USED
from tollway.providers.canon import Price, Usage


class Bill(msgspec.Struct, frozen=True):
    """What an attempt used and cost. `reported_nanousd` is the provider's own word for it."""

    usage: Usage
    cost_nanousd: int
    overrun_nanousd: int
    price: Price | None
    reported_nanousd: int | None = None
    saved_nanousd: int = 0  # by a discount: the list price less the cost

    @property
    def unpriced(self) -> bool:
        """Whether it has tokens that no cost stands for."""
        used = self.usage.input_total or self.usage.output_total or self.usage.searches
        return self.price is None and self.reported_nanousd is None and bool(used)


class Booked(msgspec.Struct, frozen=True):
    """An attempt that has ended, as the ledger has it. Times are unix milliseconds."""

    seq: int
    call_id: str
    number: int
    account: int
    provider: str
    model: str
    dialect: str
    endpoint: str
    admitted_ms: int
    ending: str
    hold_nanousd: int
    bill: Bill
    shape: str | None
    numbers: str | None
    gpu_ms: int | None = None  # of a local model's time

    @property
    def subject(self) -> str:
        """Return what the audit calls it."""
        return f"{self.call_id} attempt {self.number}"

    def overrun(self, cost_nanousd: int) -> int:
        """Return what of another cost is beyond the hold, in nano-dollars.

        Nothing where it was booked beyond its hold without an overrun: that was an estimate, and
        no limit. Nor where it had no price, so that nothing was held.
        """
        old = self.bill
        estimate = old.cost_nanousd > self.hold_nanousd and not old.overrun_nanousd
        return 0 if estimate or old.price is None else max(0, cost_nanousd - self.hold_nanousd)


_ATTEMPTS = f"""
SELECT t.call, c.id, t.number, t.account, a.provider, a.model, dialect.word, endpoint.word,
    c.admitted_ms, ending.word, t.hold_nanousd, s.shape, t.usage_numbers, p.price,
    t.cost_nanousd, t.overrun_nanousd, t.reported_nanousd, t.gpu_ms, t.saved_nanousd, t.estimated,
    {", ".join(f"t.{name}" for name in TOKENS)}
FROM calls c
    JOIN attempts t ON t.call = c.seq
    JOIN accounts a ON a.id = t.account
    JOIN words ending ON ending.id = t.ending
    LEFT JOIN words dialect ON dialect.id = c.dialect
    LEFT JOIN words endpoint ON endpoint.id = c.endpoint
    LEFT JOIN prices p ON p.number = t.price
    LEFT JOIN usage_shapes s ON s.id = t.usage_shape
"""  # noqa: S608 - our own names


def booked(db: Connection, where: str, values: tuple[object, ...]) -> Iterator[Booked]:
    """Yield the ended attempts of calls; `where` is SQL of our own over `calls c`."""
    for row in db.execute(f"{_ATTEMPTS} WHERE {where} ORDER BY c.seq, t.number", values):
        (seq, call_id, number, account, provider, model, dialect, endpoint, admitted_ms, *rest) = (
            row
        )
        ending, hold, shape, numbers, price, cost, overrun, reported, gpu_ms, saved, *used = rest
        estimated, *tokens = used
        bill = Bill(
            usage=Usage(*(*tokens, bool(estimated))),
            cost_nanousd=cost,
            overrun_nanousd=overrun,
            price=msgspec.json.decode(price, type=Price) if price else None,
            reported_nanousd=reported,
            saved_nanousd=saved,
        )
        yield Booked(
            *(seq, call_id, number, account, provider, model, dialect or "", endpoint or ""),
            *(admitted_ms, ending, hold, bill, shape, numbers, gpu_ms),
        )


def correct(db: Connection, changes: Sequence[tuple[Booked, Bill]], *, who: str, what: str) -> None:
    """Book other bills for attempts, in the caller's transaction, each with its row of audit."""
    names = Names(db)
    at_ms = time.time_ns() // 1_000_000
    for attempt, bill in changes:
        _book(db, attempt, bill, names.price(bill.price))
        db.execute(
            "INSERT INTO audit (at_ms, who, what, subject, before, after)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (at_ms, who, what, attempt.subject, _told(attempt.bill), _told(bill)),
        )


def _book(db: Connection, attempt: Booked, bill: Bill, price: int | None) -> None:
    *tokens, estimated = msgspec.structs.astuple(bill.usage)
    names = ("cost_nanousd", "overrun_nanousd", "reported_nanousd", "price", "estimated", *USED)
    db.execute(
        f"UPDATE attempts SET {', '.join(f'{name} = ?' for name in names)}"  # noqa: S608
        " WHERE call = ? AND number = ?",
        (
            *(bill.cost_nanousd, bill.overrun_nanousd, bill.reported_nanousd, price, estimated),
            *(*tokens, bill.saved_nanousd, attempt.seq, attempt.number),
        ),
    )
    change = tuple(map(sub, _rolled(bill), _rolled(attempt.bill)))
    cost, overrun = change[3], change[4]
    adds = ("cost_nanousd", "overrun_nanousd", *USED)
    db.execute(
        f"UPDATE calls SET {', '.join(f'{name} = {name} + ?' for name in adds)},"  # noqa: S608
        " estimated = (SELECT max(estimated) FROM attempts WHERE call = calls.seq) WHERE seq = ?",
        (cost, overrun, *change[7:], attempt.seq),
    )
    quarter_ms = attempt.admitted_ms // QUARTER_MS * QUARTER_MS
    SPEND.write(db, [(quarter_ms, attempt.account, *change)])
    SPEND_TAG.write(
        db, [(quarter_ms, tag, attempt.account, *change) for tag in _tags(db, attempt.seq)]
    )
    label = db.execute("SELECT tags, session FROM calls WHERE seq = ?", (attempt.seq,)).fetchone()
    if any(label):
        numbers = (number or 0 for number in label)
        SPEND_LABEL.write(db, [(quarter_ms, *numbers, attempt.account, *change)])


def _rolled(bill: Bill) -> tuple[int, ...]:
    """Return a bill's part in the roll-ups, in the order of `statements.ROLL_UP`."""
    *tokens, estimated = msgspec.structs.astuple(bill.usage)
    cost = bill.cost_nanousd
    estimate = cost if estimated else 0
    sums = (cost, bill.overrun_nanousd, estimate, int(bill.unpriced))
    return (0, 0, 0, *sums, *tokens, bill.saved_nanousd)


def _tags(db: Connection, seq: int) -> list[int]:
    found = db.execute(
        "SELECT w.id FROM calls c JOIN words b ON b.id = c.budget_tags"
        " CROSS JOIN json_each(b.word) j JOIN words w ON w.word = j.value WHERE c.seq = ?",
        (seq,),
    )
    return [number for (number,) in found]


def _told(bill: Bill) -> str:
    used = msgspec.structs.asdict(bill.usage)
    said: dict[str, object] = {"cost_nanousd": bill.cost_nanousd}
    if bill.saved_nanousd:
        said["saved_nanousd"] = bill.saved_nanousd
    if bill.overrun_nanousd:
        said["overrun_nanousd"] = bill.overrun_nanousd
    said |= {name: value for name, value in used.items() if value}
    said["price"] = bill.price.id if bill.price else None
    return msgspec.json.encode(said).decode()
