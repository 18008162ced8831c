"""Past calls priced anew: what the provider reported, read and priced as it would be today.

A dry run only looks. Applied, each step is one transaction in which attempts, calls, roll-ups and
audit move together; a run that is stopped in between leaves a ledger that agrees with itself.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from sqlite3 import Connection
from typing import cast

import msgspec

from tollway.daemon.ledger.calls import usage_text
from tollway.daemon.ledger.correct import Bill, Booked, booked, correct
from tollway.daemon.ledger.owning import owned
from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.retention import head_of
from tollway.daemon.ledger.schema import ID_HEAD, transaction
from tollway.providers.canon import Endpoint, Price, Usage
from tollway.providers.dialects.replay import usage_of
from tollway.providers.money import cost, saving, time_cost
from tollway.providers.price_report import is_believed, reported
from tollway.providers.units import UNITS, unit_price

_STEP = 2000  # calls looked at in one statement, and changed in one transaction
_DAY_MS = 86_400_000
_MOST_TOLD = 1000
# Endings of attempts that nothing is billed for, and that of which nobody knows.
_LEFT_ALONE = frozenset({"upstream_refused", "upstream_unreachable", "recovered"})


class Terms(msgspec.Struct, frozen=True):
    """What today's configuration says of a target at a moment."""

    price: Price | None
    dialect: str = ""  # that its provider speaks, "" where there is no such provider any more
    also: tuple[str, ...] = ()  # what it speaks besides, so that such calls are not translated
    quirks: frozenset[str] = frozenset()


# Of provider, model and the call's admission in unix milliseconds.
InForce = Callable[[str, str, int], Terms]


class Repriced(msgspec.Struct, frozen=True):
    """One attempt whose bill is another today."""

    call: str
    number: int
    provider: str
    model: str
    before_nanousd: int
    after_nanousd: int
    why: str  # "price", "usage", "price and usage", or "bill": what the provider says it charged


class Result(msgspec.Struct):
    """What a run found. `attempts` were looked at.

    Those `left` are estimates, have no price today, or were settled by a person. `changes` are
    the first 1,000; `changed` counts them all.
    """

    attempts: int = 0
    changed: int = 0
    left: int = 0
    before_nanousd: int = 0
    after_nanousd: int = 0
    changes: list[Repriced] = []


Progress = Callable[[int, int], None]


def reprice(
    path: Path,
    in_force: InForce,
    between: tuple[int, int],
    *,
    apply: bool,
    who: str = "",
    progress: Progress = lambda done, of: None,
) -> Result:
    """Price again what was admitted in a stretch of time.

    Args:
        path: The ledger.
        in_force: Says what today's configuration has for a target.
        between: From when to before when, in unix milliseconds.
        apply: Whether to write it, which needs the ledger for oneself.
        who: Who does it, for the audit.
        progress: Told how many calls are done, and of how many.

    Raises:
        LedgerHeld: The daemon runs, and `apply` is asked for.
        LedgerInvalid, LedgerUnavailable: The ledger cannot be read or written.
    """
    result = Result()
    with owned(path) if apply else reading(path) as db:
        first, last = _range(db, between[0])
        settled = _settled(db)
        for begin in range(first, last + 1, _STEP):
            seqs = (begin, begin + _STEP)
            found = list(_differing(db, in_force, (*seqs, *between), settled, result))
            if apply and found:
                with transaction(db):
                    correct(db, found, who=who, what="reprice")
            progress(min(begin + _STEP, last + 1) - first, last + 1 - first)
    return result


def _range(db: Connection, since_ms: int) -> tuple[int, int]:
    # Ids are made some time before their calls are admitted: the queue lies between.
    (first,) = db.execute(
        f"SELECT min(seq) FROM calls WHERE {ID_HEAD} >= ?",  # noqa: S608 - our own names
        (head_of(since_ms - _DAY_MS),),
    ).fetchone()
    (last,) = db.execute("SELECT max(seq) FROM calls").fetchone()
    return (first, last) if first is not None else (1, 0)


def _settled(db: Connection) -> frozenset[str]:
    # What a person settled is a person's word.
    found = db.execute("SELECT subject FROM audit WHERE what = 'settle'")
    return frozenset(subject for (subject,) in found)


def _differing(
    db: Connection,
    in_force: InForce,
    bounds: tuple[int, int, int, int],
    settled: frozenset[str],
    result: Result,
) -> Iterator[tuple[Booked, Bill]]:
    where = "c.seq >= ? AND c.seq < ? AND c.admitted_ms >= ? AND c.admitted_ms < ? AND c.source = 0"
    for attempt in booked(db, where, bounds):
        result.attempts += 1
        terms = in_force(attempt.provider, attempt.model, attempt.admitted_ms)
        bill = None if attempt.subject in settled else _bill(attempt, terms)
        if bill is None:
            result.left += 1
            continue
        if bill == attempt.bill:
            continue
        result.changed += 1
        result.before_nanousd += attempt.bill.cost_nanousd
        result.after_nanousd += bill.cost_nanousd
        if len(result.changes) < _MOST_TOLD:
            result.changes.append(_told(attempt, bill))
        yield attempt, bill


def _bill(attempt: Booked, terms: Terms) -> Bill | None:
    """Return what an attempt would be billed today; None where that is not for us to say."""
    old = attempt.bill
    if attempt.ending in _LEFT_ALONE or old.usage.estimated:
        return None  # nothing was billed, or an upper bound, which no report replaces
    raw = usage_text(attempt.shape, attempt.numbers)
    if not raw and not (old.usage.input_total or old.usage.output_total):
        return None
    price = _price(attempt, terms)
    if price is None:
        return None  # a price that was known once is better than none
    usage = _usage(attempt, terms, raw)
    told = old.reported_nanousd
    if not is_believed(price):
        told = None
    elif raw:
        told = reported(raw, terms.quirks)
    nanousd = cost(usage, price) if told is None else told
    if price.gpu_hour_usd is not None:
        if attempt.gpu_ms is None:
            return None  # how long it took is not known
        nanousd = time_cost(attempt.gpu_ms, price) or 0
    return Bill(
        usage=usage,
        cost_nanousd=nanousd,
        overrun_nanousd=attempt.overrun(nanousd),
        # The same money under another name (a newer release of the data) is no change.
        price=old.price if old.price and _same(old.price, price) else price,
        reported_nanousd=told,
        saved_nanousd=saving(usage, price) if told is None and price.gpu_hour_usd is None else 0,
    )


def _price(attempt: Booked, terms: Terms) -> Price | None:
    """Return today's price of what an attempt bought: tokens, or what its endpoint sells."""
    if terms.price is not None and attempt.endpoint in UNITS:
        unit = unit_price(terms.price, cast(Endpoint, attempt.endpoint))
        return _of_the_tier(unit, attempt.bill.price)
    return _of_the_tier(terms.price, attempt.bill.price)


def _usage(attempt: Booked, terms: Terms, raw: str) -> Usage:
    """Return what an attempt's report means today, or what it was taken for where none tells."""
    old = attempt.bill.usage
    if attempt.endpoint in UNITS:
        return old  # its report is our own count
    spoken = attempt.dialect if attempt.dialect in terms.also else terms.dialect
    usage = usage_of(spoken, attempt.endpoint, raw, terms.quirks) or old
    if usage.searches < old.searches:
        usage = msgspec.structs.replace(usage, searches=old.searches)
    return usage


def _of_the_tier(price: Price | None, old: Price | None) -> Price | None:
    """Return today's price of the service tier, or kind of image, that an attempt was billed in."""
    if price is None or old is None or not old.service:
        return price
    return next((one for one in price.services if one.service == old.service), price)


def _same(one: Price, other: Price) -> bool:
    """Whether two prices ask the same of every usage, whatever they are called."""
    return _anonymous(one) == _anonymous(other)


def _anonymous(price: Price) -> Price:
    # What its other tiers cost asks nothing of a usage: which one it was is settled.
    return msgspec.structs.replace(price, id="", source="", context_window=None, services=())


def _told(attempt: Booked, bill: Bill) -> Repriced:
    old = attempt.bill
    parts: Sequence[str] = [
        name
        for name, differs in (
            ("price", bill.price != old.price),
            ("usage", bill.usage != old.usage),
        )
        if differs
    ]
    return Repriced(
        *(attempt.call_id, attempt.number, attempt.provider, attempt.model),
        *(old.cost_nanousd, bill.cost_nanousd, " and ".join(parts) or "bill"),
    )
