"""What members may know of themselves: what they used, and what is left of their budgets."""

import asyncio
import time
from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
from aiohttp import web

from tollway.daemon.gate import periods
from tollway.daemon.gate.books import BudgetState
from tollway.daemon.ledger.rows import Who
from tollway.daemon.ledger.schema import TOKENS
from tollway.daemon.ledger.spend import By, SpendRow, report
from tollway.daemon.listing import caller_of
from tollway.daemon.state import DAEMON
from tollway.providers.money import plain_usd

_COUNTS = ("calls", "refused", "attempts", "unpriced")
_MONEY = ("cost_nanousd", "estimated_nanousd")
# One member that asks without end must not keep the disk from the calls of all others.
MOST_READS = 2
READS: web.AppKey[asyncio.Semaphore] = web.AppKey("reads")


class BudgetLeft(msgspec.Struct, frozen=True):
    """One budget that the caller's calls must fit into; money in exact dollars, as text.

    `turns_over` is UTC, ISO 8601: when the period ends, of a rolling budget when the next of
    its spending stops counting. None: never.
    """

    scope: str
    name: str
    budget: str
    at: str
    rolling: bool
    limit_usd: str
    raised_usd: str
    settled_usd: str
    held_usd: str
    left_usd: str
    turns_over: str | None


async def usage(request: web.Request) -> web.Response:
    """Answer GET /v1/tollway/usage: the caller's own use, today and this month, by model.

    Of the user where the key has one, else of the key. Days and months are those of
    `server.timezone`.

    Raises:
        Unauthorized: No key that works was sent.
        LedgerUnavailable: The ledger cannot be read.
    """
    gate, caller = caller_of(request)
    zone = ZoneInfo(gate.config.server.timezone)
    scope, name = own_scope(caller.who)
    now_ms = time.time_ns() // 1_000_000
    said: dict[str, object] = {
        "caller": caller.who,
        "of": {"scope": scope, "name": name},
        "timezone": zone.key,
    }
    path = request.app[DAEMON].ledger.path
    for word, period in (("today", "day"), ("month", "month")):
        since_ms, until_ms = periods.window(period, now_ms, zone)
        async with request.app[READS]:
            rows = await asyncio.to_thread(_own, path, (scope, name), (since_ms, until_ms), zone)
        said[word] = {"since": _iso(since_ms, zone), "until": _iso(until_ms, zone), **_summed(rows)}
    return _json(said)


async def budgets(request: web.Request) -> web.Response:
    """Answer GET /v1/tollway/budgets: the budgets and rate limits that the caller's calls meet.

    Those of a provider, a route or a model are not told: where one is full, another target may do.

    Raises:
        Unauthorized: No key that works was sent.
    """
    gate, caller = caller_of(request)
    found = [_left(one) for one in gate.purse.states(caller.who)]
    return _json(
        {
            "caller": caller.who,
            "timezone": gate.config.server.timezone,
            "budgets": found,
            "limits": gate.limits.states(caller.who),
        }
    )


def own_scope(who: Who) -> tuple[By, str]:
    """Return whose use a caller may see: its user's over all keys, else its key's alone."""
    return (By.USER, who.user) if who.user else (By.KEY, who.key)


def _own(
    path: Path, own: tuple[By, str], between: tuple[int, int], zone: ZoneInfo
) -> list[SpendRow]:
    by, name = own
    since_ms, until_ms = between
    wanted = (by, By.PROVIDER, By.MODEL)
    found = report(path, by=wanted, since_ms=since_ms, until_ms=until_ms, tz=zone)
    return [row for row in found if row.group[0] == name]


def _summed(rows: list[SpendRow]) -> dict[str, object]:
    models = [
        {"provider": row.group[1], "model": row.group[2], **_amounts([row])}
        for row in rows
        if row.group[1]  # calls that were refused have no target, and stand in the sum alone
    ]
    return {**_amounts(rows), "models": models}


def _amounts(rows: Iterable[SpendRow]) -> dict[str, object]:
    found = list(rows)
    sums = {name: sum(getattr(row, name) for row in found) for name in (*_COUNTS, *_MONEY)}
    tokens = {name: sum(getattr(row, name) for row in found) for name in TOKENS}
    return {
        **{name: sums[name] for name in _COUNTS},
        "cost_usd": plain_usd(sums["cost_nanousd"]),
        "estimated_usd": plain_usd(sums["estimated_nanousd"]),
        **tokens,
    }


def _left(state: BudgetState) -> BudgetLeft:
    for_ever = state.ends_ms >= periods.FOR_EVER
    return BudgetLeft(
        scope=state.scope,
        name=state.name,
        budget=state.budget,
        at=state.at,
        rolling=state.rolling,
        limit_usd=plain_usd(state.limit_nanousd),
        raised_usd=plain_usd(state.raised_nanousd),
        settled_usd=plain_usd(state.settled_nanousd),
        held_usd=plain_usd(state.held_nanousd),
        left_usd=plain_usd(state.left_nanousd),
        turns_over=None if for_ever else _iso(state.ends_ms, UTC),
    )


def _iso(at_ms: int, zone: tzinfo) -> str:
    return datetime.fromtimestamp(at_ms / 1000, zone).isoformat()


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
