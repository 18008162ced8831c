"""One call's turn at its target: the slot, the hold and the limits' share, all of it or nothing."""

import time
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, cast

import msgspec

from tollway.daemon.errors import LineLeft
from tollway.daemon.gate import entry
from tollway.daemon.gate.books import Charge, Hold
from tollway.daemon.gate.budget import Worst
from tollway.daemon.gate.limits import NOTHING, Applying, Taken, needed
from tollway.daemon.gate.queue import Entry, Place, Slot, asks_for
from tollway.daemon.gate.route import Target
from tollway.daemon.ledger.rows import CallEnded, Ending
from tollway.providers.canon import Price
from tollway.providers.errors import GatewayError

if TYPE_CHECKING:
    from tollway.daemon.gate.plan import Plan
    from tollway.daemon.gate.send import Exchange


class Wanted(msgspec.Struct, frozen=True):
    """What an attempt needs before it may be sent."""

    target: Target
    charge: Charge
    most: Worst
    price: Price | None
    limits: Applying


class Had(msgspec.Struct, frozen=True):
    """What it got; `slot` is None where its target has none to give."""

    most: Worst
    hold: Hold
    taken: Taken
    slot: Slot | None = None

    def give_back(self) -> None:
        """Undo it, at no cost."""
        self.hold.settle(0)
        self.taken.settle(0)
        if self.slot:
            self.slot.release()


def _stays() -> bool:
    return False


class Turn:
    """The turns of one call: it waits `server.max_wait` at most for all of them together.

    Nor does it wait beyond its route's deadline: a slot that comes too late is of no use.
    """

    __slots__ = ("_queued", "leaves", "until_s", "waited_s")

    # It is given its exchange, and does not hold it: two that hold each other, with the request's
    # body and all else of a call, are freed by the collector alone.
    def __init__(self) -> None:
        self._queued = False  # its row stands in the ledger, as one that waits
        self.waited_s: float | None = None  # None: no target of its had slots
        self.until_s = inf  # its route's deadline, by the health's clock
        # Asked at the head of a line: whether it had better go elsewhere by now.
        self.leaves: Callable[[], bool] = _stays

    def forget(self) -> None:
        """Let go of what tells whether to leave: a chain, whose error's traceback holds this."""
        self.leaves = _stays

    @property
    def waited_ms(self) -> int | None:
        """How long it waited, None where there was no line."""
        return None if self.waited_s is None else round(self.waited_s * 1000)

    async def take(self, exchange: "Exchange", wanted: Wanted, plan: "Plan") -> Had:
        """Return what an attempt needs, after its turn where its target has slots.

        Raises:
            BudgetSpent, RateLimited, OverLimit: There is no room for it, at its turn or ever.
            QueueTimeout, QueueFull, LineLeft: It did not get a slot, or not in time.
            LedgerUnavailable: It would have to wait, and that cannot be written.
        """
        queue = exchange.daemon.queue
        pool = queue.pool(wanted.target)
        if pool is None:
            return _take(exchange, wanted)
        bound = wanted.most.bound
        asks = asks_for(
            wanted.target,
            exchange.caller.who,
            bound.input,
            None if bound.output is None else wanted.most.output_tokens,
            batch=exchange.origin.batch,
        )

        def take() -> Had:
            if self.leaves():
                raise LineLeft(f"`{wanted.target.name}` fails at the moment: its line is left")
            return _take(exchange, wanted)

        place = queue.enter(pool, Entry(asks, take, lambda had: cast(Had, had).give_back()))
        before_s = self.waited_s or 0.0
        self.waited_s = before_s
        if not place.done.done():
            await self._wait(exchange, place, wanted, plan)
        had = cast(Had, place.done.result())
        return msgspec.structs.replace(had, slot=queue.slot(place))

    async def _wait(self, exchange: "Exchange", place: Place, wanted: Wanted, plan: "Plan") -> None:
        queue = exchange.daemon.queue
        before_s, began = self.waited_s or 0.0, time.monotonic()
        exchange.write_ended()
        try:
            # Refused before it waits: what no wait can mend, and what could not be written.
            exchange.gate.purse.hopeless(wanted.charge, wanted.most, wanted.price)
            exchange.passage.check(wanted.limits, needed(wanted.most, wanted.price))
            if not self._queued and not exchange.attempts:
                exchange.daemon.ledger.queue(entry.opened(exchange, plan))
                self._queued = True
        except GatewayError:
            queue.leave(place)
            raise
        try:
            within_s = max(0.0, self.until_s - exchange.daemon.health.clock())
            await queue.wait(place, waited_s=before_s, within_s=within_s)
        finally:
            self.waited_s = before_s + time.monotonic() - began

    def end(self, exchange: "Exchange", ending: Ending, error: str, at_ms: int) -> bool:
        """End the row of a call that waited and was never admitted; False where it has none."""
        if self._queued:
            ended = CallEnded(exchange.call_id, at_ms, ending, error=error)
            exchange.daemon.ledger.unqueue(ended, self.waited_ms or 0, refused=ending == "failed")
        return self._queued


def _take(exchange: "Exchange", wanted: Wanted) -> Had:
    """Take the hold and the limits' share, or nothing. Nothing here waits."""
    # Budgets first: a call that would be refused anyway is told what no waiting mends.
    most, hold = exchange.gate.purse.take(wanted.charge, wanted.most, wanted.price, exchange.at_ms)
    if not wanted.limits.any:
        return Had(most, hold, NOTHING)
    try:
        taken = exchange.passage.take(wanted.limits, needed(most, wanted.price))
    except GatewayError:
        hold.settle(0)
        raise
    return Had(most, hold, taken)
