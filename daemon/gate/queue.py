"""The lines before what is scarce: who must wait for a slot waits here, and is woken in turn.

`fair.py` decides whose turn it is; QUEUE.md says by which rules. Nothing here awaits but the
caller who waits, so that a slot and what is taken with it change hands in one step.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from math import inf
from typing import Protocol

import msgspec

from tollway.daemon.config.schema import Config
from tollway.daemon.errors import QueueFull, QueueTimeout
from tollway.daemon.gate.fair import LaneState, Pool
from tollway.daemon.gate.lanes import Asks, Ticket
from tollway.daemon.gate.route import LOCAL, Target
from tollway.daemon.ledger.rows import Who
from tollway.providers.canon import Usage
from tollway.providers.errors import GatewayError
from tollway.providers.words import counted

# What a refused caller is told to wait before it asks again, in seconds.
_LEAST_PATIENCE_S, _MOST_PATIENCE_S = 1.0, 60.0
# English text has about four bytes to a token; what is really used is counted at the end.
_BYTES_A_TOKEN = 4


class Room(Protocol):
    """What knows which local models can be in memory together."""

    def fits(self, names: Collection[str]) -> bool:
        """Return whether these models can be in memory at the same time, all others out."""
        ...


class QueueState(msgspec.Struct, frozen=True):
    """A target with slots, as it stands now."""

    target: str
    slots: int | None
    running: int
    waiting: int
    longest_wait_s: float
    teams: tuple["TeamState", ...]


class TeamState(msgspec.Struct, frozen=True):
    """A team at a target, or "" for those without one; its tokens count half after an hour."""

    team: str
    share: float
    waiting: int
    running: int
    recent_tokens: int


class Entry(msgspec.Struct, frozen=True):
    """What a call brings to a line: how it asks, and what it takes with the slot.

    `take` may refuse by a GatewayError, and then has taken nothing; `give_back` undoes it.
    """

    asks: Asks
    take: Callable[[], object]
    give_back: Callable[[object], None]


class Place:
    """A call in a line. `done` is what it took with its slot, or why there is none."""

    __slots__ = ("done", "entry", "pool", "ticket")

    def __init__(self, pool: Pool, entry: Entry) -> None:
        self.pool = pool
        self.entry = entry
        self.ticket = pool.join(entry.asks)
        self.done: asyncio.Future[object] = asyncio.get_running_loop().create_future()


class Slot:
    """What one attempt has of a target. `release` it once; a second time does nothing."""

    __slots__ = ("_place", "_queue", "waited_s")

    def __init__(self, queue: "Queue", place: Place) -> None:
        self._queue = queue
        self._place = place
        self.waited_s = place.ticket.granted - place.ticket.since

    def release(self, usage: Usage | None = None) -> None:
        """Give it back, and say what was used: what is read again from a cache is not."""
        tokens = output = 0
        if usage:
            output = usage.output_total
            tokens = max(0, usage.input_total - usage.cache_read) + output
        self._place.pool.done(self._place.ticket, tokens, output)
        self._queue.serve(self._place.pool)


def asks_for(
    target: Target, who: Who, prompt_bytes: int, output: int | None, *, batch: bool
) -> Asks:
    """Return how a call asks for a slot of its target."""
    return Asks(
        lane=_lane(target),
        team=who.team,
        user=who.user or who.project or who.key,
        batch=batch,
        prompt=prompt_bytes // _BYTES_A_TOKEN,
        output=output,
    )


def _lane(target: Target) -> str:
    return target.model if target.local else target.provider


class Queue:
    """All lines of the daemon. It outlives configurations, as the books do."""

    def __init__(self, room: Room, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pools = {LOCAL: Pool(clock, room.fits)}
        self._waiting: dict[Ticket, Place] = {}
        self._most = 0
        self._max_wait_s = 0.0

    def configure(self, config: Config) -> None:
        """Take a new configuration's slots and shares, for those who wait too."""
        self._most = config.server.max_queue
        self._max_wait_s = config.server.max_wait
        shares = {name: float(team.share) for name, team in config.teams.items()}
        for name, provider in config.providers.items():
            if provider.slots is not None and name not in self._pools:
                self._pools[name] = Pool(self._clock)
        for name, pool in tuple(self._pools.items()):
            if name == LOCAL:
                slots = {name: model.slots for name, model in config.models.items()}
            else:
                found = config.providers.get(name)
                slots = {name: found.slots} if found and found.slots else {}
            pool.configure(slots, shares)
            self.serve(pool)
            if not pool.lanes and name != LOCAL:
                del self._pools[name]

    def pool(self, target: Target) -> Pool | None:
        """Return where calls to a target line up, None where it has no slots."""
        pool = self._pools.get(target.provider)
        return pool if pool and _lane(target) in pool.lanes else None

    def enter(self, pool: Pool, entry: Entry) -> Place:
        """Line up. The place is done at once where nobody need wait; else `wait`, or `leave`."""
        place = Place(pool, entry)
        self._waiting[place.ticket] = place
        self.serve(pool)
        if not place.done.done() and pool.lanes[entry.asks.lane].waiting > self._most:
            self._push_out(pool, entry.asks.lane)
        return place

    def slot(self, place: Place) -> Slot:
        """Return the slot of a call that has had its turn."""
        return Slot(self, place)

    async def wait(self, place: Place, *, waited_s: float, within_s: float = inf) -> None:
        """Return when a call has had its turn, or `server.max_wait` is over.

        It has waited `waited_s` for other targets before, and has `within_s` left in all.
        Cancelled, it leaves the line, and a slot that it was given that very moment goes to the
        next.
        """
        left_s = max(0.0, self._max_wait_s - waited_s)
        said_s = self._max_wait_s
        if within_s < left_s:
            left_s, said_s = within_s, round(within_s, 1)
        timer = asyncio.get_running_loop().call_later(left_s, self._too_long, place, said_s)
        stays = False
        try:
            await asyncio.wait([place.done])
            stays = True
        finally:
            timer.cancel()
            if not stays:
                self.leave(place)

    def leave(self, place: Place) -> None:
        """Take a call out, whether it waits or has a slot that it will not use."""
        ticket, pool = place.ticket, place.pool
        if ticket in self._waiting:
            self._take_out(place)
            place.done.cancel()
        elif not place.done.exception():
            place.entry.give_back(place.done.result())
            pool.done(ticket, 0, 0)
            self.serve(pool)

    def serve(self, pool: Pool) -> None:
        """Give out what is free, and with each slot what its call takes along."""
        while (ticket := pool.next()) is not None:
            place = self._waiting.pop(ticket)
            try:
                place.done.set_result(place.entry.take())
            except Exception as refusal:  # noqa: BLE001 - its call is told; the slot passes on
                pool.done(ticket, 0, 0)
                place.done.set_exception(refusal)

    def drain(self, refusal: Callable[[], GatewayError]) -> None:
        """Send away all who wait: the daemon stops, and what has not begun will not."""
        for place in tuple(self._waiting.values()):
            self._drop(place, refusal())

    def states(self) -> list[QueueState]:
        """Return every target that has slots, as it stands."""
        return [
            _told(f"{LOCAL}/{lane.name}" if name == LOCAL else name, lane)
            for name, pool in self._pools.items()
            for lane in pool.states()
            if lane.slots or lane.running or lane.waiting
        ]

    def runs(self, model: str) -> bool:
        """Return whether a call of a model of this box has its turn, though it may not be there."""
        lane = self._pools[LOCAL].lanes.get(model)
        return lane is not None and lane.running > 0

    def load(self, target: Target) -> tuple[int, int, int] | None:
        """Return the calls that run at a target, those that wait, its slots; None without slots."""
        pool = self.pool(target)
        if pool is None:
            return None
        lane = pool.lanes[_lane(target)]
        return lane.running, lane.waiting, int(lane.slots)

    def state(self, target: Target) -> QueueState | None:
        """Return one target as it stands, None where it has no slots."""
        pool = self.pool(target)
        lanes = pool.states() if pool else []
        name = target.name if target.local else target.provider
        return next((_told(name, lane) for lane in lanes if lane.name == _lane(target)), None)

    def _take_out(self, place: Place) -> None:
        del self._waiting[place.ticket]
        place.pool.leave(place.ticket)
        self.serve(place.pool)  # others may have been held back for it

    def _drop(self, place: Place, refusal: GatewayError) -> None:
        if place.ticket in self._waiting:
            self._take_out(place)
            place.done.set_exception(refusal)

    def _too_long(self, place: Place, said_s: float) -> None:
        pool, lane = place.pool, place.pool.lanes[place.ticket.asks.lane]
        refusal = QueueTimeout(
            f"`{lane.name}` was at work on other calls for {said_s:g} s:"
            f" {counted(lane.running, 'call')} at once, and"
            f" {counted(lane.waiting - 1, 'call')} more wait",
            hint="Ask again later, or ask another model",
        )
        refusal.retry_after_s = _patience_s(pool, lane.name)
        self._drop(place, refusal)

    def _push_out(self, pool: Pool, lane: str) -> None:
        """Refuse the call with the least claim to a place: the last of who has most of them."""
        place = self._waiting[pool.longest(lane)]
        refusal = QueueFull(
            f"{counted(self._most, 'call')} wait for `{lane}` already, and nobody has more of them"
            " than you",
            hint="Send fewer at once, and try again later",
        )
        refusal.retry_after_s = _patience_s(pool, lane)
        self._drop(place, refusal)


def _patience_s(pool: Pool, lane: str) -> float:
    return min(_MOST_PATIENCE_S, max(_LEAST_PATIENCE_S, pool.wait_s(lane)))


def _told(target: str, lane: LaneState) -> QueueState:
    teams = tuple(TeamState(**msgspec.structs.asdict(team)) for team in lane.teams)
    return QueueState(target, lane.slots, lane.running, lane.waiting, lane.longest_wait_s, teams)
