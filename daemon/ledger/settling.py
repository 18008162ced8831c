"""One call's bill put right by its owner: what a kill or a broken answer left at its hold."""

from pathlib import Path
from typing import cast

import msgspec

from tollway.daemon.errors import LedgerInvalid
from tollway.daemon.ledger.calls import one
from tollway.daemon.ledger.correct import Bill, Booked, booked, correct
from tollway.daemon.ledger.owning import owned
from tollway.daemon.ledger.schema import transaction
from tollway.providers.canon import Endpoint, Price, Usage
from tollway.providers.errors import GatewayError
from tollway.providers.money import cost, saving
from tollway.providers.units import UNITS


class CannotSettle(GatewayError):
    """The call has nothing to settle, or it is not clear which of its attempts is meant."""

    status = 409
    code = "cannot_settle"


class Settled(msgspec.Struct, frozen=True):
    """What was changed; money in nano-dollars."""

    call: str
    attempt: int
    before_nanousd: int
    after_nanousd: int


def settle(
    path: Path,
    id_prefix: str,
    *,
    attempt: int | None,
    cost_nanousd: int | None,
    usage: Usage | None,
    who: str,
) -> Settled:
    """Book what an attempt really used or cost; with `usage` alone its price says what it cost.

    Without a number the attempt is the only one whose bill is an estimate.

    Raises:
        CallUnknown: There is no such call, or more than one.
        CannotSettle: There is no such attempt, or usage alone cannot be priced.
        LedgerHeld: The daemon runs.
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read or written.
    """
    call_id = one(path, id_prefix).call.id
    with owned(path) as db, transaction(db):
        found = list(
            booked(db, "c.id = ? AND substr(c.id, 1, 13) = substr(?, 1, 13)", (call_id,) * 2)
        )
        chosen = _choose(found, attempt, call_id)
        bill = _bill(chosen, cost_nanousd, usage)
        correct(db, [(chosen, bill)], who=who, what="settle")
    return Settled(call_id, chosen.number, chosen.bill.cost_nanousd, bill.cost_nanousd)


def _choose(found: list[Booked], number: int | None, call_id: str) -> Booked:
    if not found:
        raise CannotSettle(
            f"The call `{call_id}` has no attempt that has ended",
            hint="Only what was sent and has ended can be settled",
        )
    wanted = [
        one
        for one in found
        if (one.bill.usage.estimated if number is None else one.number == number)
    ]
    if len(wanted) == 1:
        return wanted[0]
    numbers = ", ".join(str(one.number) for one in (wanted or found))
    if number is not None:
        raise CannotSettle(
            f"The call `{call_id}` has no attempt {number} that has ended",
            hint=f"It has {numbers}; `tollway logs {call_id}` shows them",
        )
    what = "more than one estimate" if wanted else "no estimate to settle"
    raise CannotSettle(
        f"The call `{call_id}` has {what}", hint=f"Name one with `--attempt`: {numbers}"
    )


def _bill(attempt: Booked, cost_nanousd: int | None, usage: Usage | None) -> Bill:
    old = attempt.bill
    if usage is None and cost_nanousd is None:
        raise LedgerInvalid("Neither a cost nor a usage is given", hint="Give one of the two")
    saved = 0  # of what a person says it cost, nobody knows the list price
    if usage is not None and cost_nanousd is None:
        if old.price is None:
            raise CannotSettle(
                f"The attempt at `{attempt.provider}/{attempt.model}` has no price",
                hint="Say what it cost with `--cost`",
            )
        _refuse_unpaid(attempt, old.price, usage)
        cost_nanousd = cost(usage, old.price)
        saved = saving(usage, old.price)
    assert cost_nanousd is not None  # noqa: S101 - one of the two was given
    kept = msgspec.structs.replace(old.usage, estimated=False)
    return Bill(
        usage=kept if usage is None else usage,
        cost_nanousd=cost_nanousd,
        overrun_nanousd=attempt.overrun(cost_nanousd),
        price=old.price,
        reported_nanousd=old.reported_nanousd if old.price else cost_nanousd,
        saved_nanousd=saved,
    )


def _refuse_unpaid(attempt: Booked, price: Price, usage: Usage) -> None:
    """Refuse a usage that is not what the attempt is paid by: it would cost nothing."""
    words = "the hour"
    if price.gpu_hour_usd is None:
        if attempt.endpoint not in UNITS or usage.searches or not price.search_usd:
            return
        words = f"what `/v1{UNITS[cast(Endpoint, attempt.endpoint)].path}` sells"
    raise CannotSettle(
        f"The attempt at `{attempt.provider}/{attempt.model}` is paid by {words}, not by tokens",
        hint="Say what it cost with `--cost`",
    )
