"""What `tollway run` asks of the daemon: a key for as long as its program lives, then its cost."""

import asyncio
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from tollway.daemon.config.shown import meant
from tollway.daemon.errors import NotFound
from tollway.daemon.gate.gate import Gate
from tollway.daemon.gate.send import Exchange
from tollway.daemon.ledger.rows import SpentQuery
from tollway.daemon.ledger.tagged import Used, used
from tollway.daemon.runs import Asked, Run, run_of
from tollway.daemon.state import CONTROL, DAEMON, Daemon
from tollway.providers.errors import RequestInvalid
from tollway.providers.money import cost

# Calls whose client has gone are settled at once; one that drains may take a minute.
_SETTLED_WITHIN_S = 5.0


class Kept(msgspec.Struct, frozen=True):
    """A run that the daemon knows: whose calls they are."""

    id: str
    new: bool
    key: str
    user: str
    team: str
    project: str


class Line(msgspec.Struct, frozen=True):
    """What a run used at one target. Money is nano-dollars.

    `notional_nanousd` is what it would have cost at the target's price, where the caller's own
    account paid; None elsewhere, or where there is no price.
    """

    target: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost_nanousd: int
    estimated_nanousd: int
    unpriced: int
    notional_nanousd: int | None


class Ended(msgspec.Struct, frozen=True):
    """What a run came to."""

    id: str
    targets: tuple[Line, ...]
    cost_nanousd: int
    running: int  # calls that have not been settled yet
    refused: int
    refusal: str  # what was said of the last refused one
    hint: str  # and what to do about it
    budget_nanousd: int | None
    left_nanousd: int | None
    spent: bool  # its own budget had no room for a call


async def keep(request: web.Request) -> web.Response:
    """Answer POST /control/runs: take a run, or keep one that is known for another while."""
    daemon = request.app[DAEMON]
    if daemon.refusing:
        raise daemon.refusing
    try:
        asked = msgspec.json.decode(await request.read(), type=Asked)
    except msgspec.MsgspecError as fault:
        raise RequestInvalid(f"The question is not understood: {fault}") from fault
    if asked.wrong:
        raise RequestInvalid(f"A run cannot be so: {asked.wrong}")
    ring = daemon.gate.keyring
    if asked.key is not None and not ring.works(asked.key, daemon.gate.now_s()):
        raise NotFound(
            f"There is no key `{asked.key}` that works{meant(asked.key, ring.callers)}",
            hint="`tollway keys list` shows them",
        )
    run = daemon.runs.keep(asked)
    new = run is None
    if run is None:
        run = run_of(asked)
        # Its budget first: a call that came between the two would be outside it.
        await request.app[CONTROL].reloader.declare(run.tag, run.budgets)
        daemon.runs.add(asked, run)
    who = (ring.owner if run.key is None else ring.callers[run.key]).who
    return _json(Kept(run.id, new, who.key, who.user, who.team, who.project))


async def end(request: web.Request) -> web.Response:
    """Answer POST /control/runs/ID/end: its key works no more; what it came to."""
    daemon = request.app[DAEMON]
    name = request.match_info["id"]
    run = daemon.runs.end(name)
    if run is None:
        raise NotFound(f"There is no run `{name}`", hint="It ended, or the daemon was restarted")
    running = await _settled(daemon, run)
    refusals = daemon.runs.take_refusals(name)
    # Its answer comes behind all that is on its way to the ledger.
    (spent,) = await daemon.ledger.spent([SpentQuery("tag", run.tag, 0)])
    found = await asyncio.to_thread(used, daemon.ledger.path, run.tag)
    if running:
        daemon.tasks.start(_withdraw(daemon, run), name=f"end of {run.tag}")
    else:
        daemon.gate.purse.withdraw(run.tag)
    cap = run.budgets[0].nanousd if run.budgets else None
    return _json(
        Ended(
            id=name,
            targets=tuple(_line(daemon.gate, one) for one in found if one.provider),
            cost_nanousd=spent,
            running=running,
            refused=refusals.count,
            refusal=refusals.last,
            hint=refusals.hint,
            budget_nanousd=cap,
            left_nanousd=None if cap is None else max(0, cap - spent),
            spent=refusals.spent or (cap is not None and spent >= cap),
        )
    )


async def _withdraw(daemon: Daemon, run: Run) -> None:
    """Forget a run's budget once none of its calls is left that it bounds."""
    while left := _own(daemon, run):
        await left[0].wait()
    daemon.gate.purse.withdraw(run.tag)


def _own(daemon: Daemon, run: Run) -> list[Exchange]:
    return [one for one in daemon.exchanges if run.tag in one.origin.tags.pairs]


async def _settled(daemon: Daemon, run: Run) -> int:
    """Return how many of a run's calls are still not settled, having waited a little for them."""
    own = _own(daemon, run)
    if not own:
        return 0
    try:
        async with asyncio.timeout(_SETTLED_WITHIN_S):
            await asyncio.gather(*(one.wait() for one in own))
    except TimeoutError:
        pass
    return sum(one in daemon.exchanges for one in own)


def _line(gate: Gate, one: Used) -> Line:
    usage = one.usage
    return Line(
        target=f"{one.provider}/{one.model}",
        calls=one.calls,
        input_tokens=usage.input_total,
        output_tokens=usage.output_total,
        cost_nanousd=one.cost_nanousd,
        estimated_nanousd=one.estimated_nanousd,
        unpriced=one.unpriced,
        notional_nanousd=_notional(gate, one),
    )


def _notional(gate: Gate, one: Used) -> int | None:
    said = gate.config.providers.get(one.provider)
    if said is None or said.auth != "caller":
        return None
    price = gate.list_price(gate.target(f"{one.provider}/{one.model}"), datetime.now(UTC))
    return cost(one.usage, price) if price else None


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
