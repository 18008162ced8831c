"""What happens at this moment: the numbers behind `tollway top`, and those of `status`."""

import asyncio
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import msgspec

from tollway.daemon.gate.books import BudgetState
from tollway.daemon.gate.queue import QueueState
from tollway.daemon.gate.route import LOCAL
from tollway.daemon.state import Daemon
from tollway.providers.llamacpp.adapter import ModelState
from tollway.providers.llamacpp.gpus import gpus

if TYPE_CHECKING:
    from tollway.daemon.gate.send import Exchange

MOST_CALLS = 200  # under way, that are told one by one: those that run longest
_MOST_BUDGETS = 20
# Of text that is still coming: English has about four bytes to a token. A provider's own report
# takes its place when it comes.
_BYTES_A_TOKEN = 4

# waiting: for its turn. sent: nothing has come yet. answering: something has.
CallState = Literal["waiting", "sent", "answering"]


class LiveCall(msgspec.Struct, frozen=True):
    """A call under way; `output_tokens` is estimated until its provider has said."""

    id: str
    state: CallState
    key: str
    user: str
    team: str
    project: str
    asked: str
    route: str
    target: str  # "" until it is known
    attempts: int
    stream: bool
    age_s: float
    first_ms: int | None
    output_tokens: int
    held_nanousd: int


class Pace(msgspec.Struct, frozen=True):
    """What a team's attempts at a target that ended within the last minute came to."""

    team: str
    target: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost_nanousd: int


class GpuNow(msgspec.Struct, frozen=True):
    """A GPU: memory in bytes, `busy` in percent, power in watts; None where it is not told."""

    index: int
    name: str
    used_bytes: int
    total_bytes: int
    busy: int | None
    power_w: float | None


class Totals(msgspec.Struct, frozen=True):
    """All calls together.

    `streams` and `waiting` are among the `active`. `output_tokens` only grows: of all attempts
    since the start, those under way by estimate. The last four are of the last minute.
    """

    active: int
    streams: int
    waiting: int
    served: int
    held_nanousd: int
    output_tokens: int
    calls_a_minute: int
    input_a_minute: int
    output_a_minute: int
    nanousd_a_minute: int


class Live(msgspec.Struct, frozen=True):
    """One moment; `at` is unix seconds. `more` calls under way are not told one by one."""

    at: float
    version: str
    listen: str
    uptime_s: float
    draining: bool
    calls: Totals
    under_way: list[LiveCall]
    more: int
    pace: list[Pace]
    queues: list[QueueState]
    models: list[ModelState]
    slots: dict[str, int]  # of each local model
    gpus: list[GpuNow]
    budgets: list[BudgetState]  # the fullest
    spend_today_nanousd: int | None
    problems: list[str]


def pace(daemon: Daemon) -> list[Pace]:
    """Return what the last minute came to, by team and target."""
    return [Pace(team, target, *sums) for team, target, sums in daemon.meter.lately()]


def totals(daemon: Daemon, lately: Iterable[Pace]) -> Totals:
    """Return all calls together."""
    rows = list(lately)
    coming = streams = waiting = 0
    for exchange in daemon.exchanges:
        coming += _tokens(exchange)
        streams += exchange.call.stream
        waiting += exchange.attempt is None and not exchange.ending
    return Totals(
        active=daemon.active,
        streams=streams,
        waiting=waiting,
        served=daemon.served,
        held_nanousd=sum(hold.amount for hold in daemon.books.live),
        output_tokens=daemon.meter.output_tokens + coming,
        calls_a_minute=sum(row.calls for row in rows),
        input_a_minute=sum(row.input_tokens for row in rows),
        output_a_minute=sum(row.output_tokens for row in rows),
        nanousd_a_minute=sum(row.cost_nanousd for row in rows),
    )


def under_way(daemon: Daemon) -> list[LiveCall]:
    """Return the calls under way, the oldest first."""
    now = time.monotonic()
    oldest = sorted(daemon.exchanges, key=lambda one: one.facts.began_s)[:MOST_CALLS]
    return [_call(one, now) for one in oldest]


def models(daemon: Daemon) -> list[ModelState]:
    """Return the local models; who waits for a slot of one waits for it too."""
    lines = {state.target: state.waiting for state in daemon.queue.states()}
    return [
        msgspec.structs.replace(one, waiting=one.waiting + lines.get(f"{LOCAL}/{one.name}", 0))
        for one in daemon.local.states()
    ]


def fullest(daemon: Daemon) -> list[BudgetState]:
    """Return the budgets that are used up most."""
    if daemon.refusing:
        return []
    states = daemon.gate.purse.states()
    states.sort(key=lambda one: one.left_nanousd / max(1, one.limit_nanousd))
    return states[:_MOST_BUDGETS]


async def gpus_now() -> list[GpuNow]:
    """Return the GPUs of this machine; none where nobody can tell."""
    found = await asyncio.to_thread(gpus)
    return [
        GpuNow(one.index, one.name, one.total - one.free, one.total, one.busy, one.power_w)
        for one in found
    ]


def _call(exchange: "Exchange", now_s: float) -> LiveCall:
    attempt, who = exchange.attempt, exchange.caller.who
    state: CallState = "waiting"
    if attempt is not None or exchange.ending:
        known = exchange.facts.first_ms if attempt is None else attempt.first_ms
        state = "sent" if known is None else "answering"
    return LiveCall(
        id=exchange.call_id,
        state=state,
        key=who.key,
        user=who.user,
        team=who.team,
        project=who.project,
        asked=exchange.gate.mask(exchange.call.model[:200]),
        route=exchange.plan.found.route if exchange.plan else "",
        target=exchange.target.name if exchange.target else "",
        attempts=exchange.attempts,
        stream=exchange.call.stream,
        age_s=now_s - exchange.facts.began_s,
        first_ms=attempt.first_ms if attempt else None,
        output_tokens=_tokens(exchange),
        held_nanousd=attempt.hold.amount if attempt else 0,
    )


def _tokens(exchange: "Exchange") -> int:
    """Return how many tokens the attempt under way has made so far, by estimate."""
    attempt = exchange.attempt
    return attempt.reader.produced // _BYTES_A_TOKEN if attempt else 0
