"""The dashboard: one page, read-only, and the stream of numbers that it shows.

The page asks nothing of anybody else: its style and script stand in it, and its policy lets the
browser load nothing more. However many look on, each moment is put together once.
"""

import asyncio
import time
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec
from aiohttp import web

from tollway.daemon import control, usage
from tollway.daemon.errors import Forbidden, TooManyViewers, Unauthorized
from tollway.daemon.gate import periods
from tollway.daemon.ledger.calls import CallFilter, recent
from tollway.daemon.ledger.spend import By, SpendRow, report, totals
from tollway.daemon.live import Live
from tollway.daemon.metrics import admit_monitor
from tollway.daemon.state import DAEMON
from tollway.providers.errors import GatewayError

_EVERY_S = 2.0
_MOST_VIEWERS = 32
_LATEST = 10  # calls that failed
_MOST_GROUPS = 12
# A browser that does not read is hung up on; it comes back by itself.
_WRITE_WITHIN_S = 30.0
_FOREIGN = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


class Spent(msgspec.Struct, frozen=True):
    """A group's part of today; the last may be all others together, named by `others`."""

    name: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost_nanousd: int
    estimated: bool
    unpriced: int
    others: int = 0


class Failed(msgspec.Struct, frozen=True):
    """A call that did not end well; `at` is unix seconds."""

    id: str
    at: float
    who: str
    asked: str
    target: str
    ending: str
    error: str


class Today(msgspec.Struct, frozen=True):
    """What the ledger says of the day so far, in `server.timezone`; `since` is unix seconds."""

    since: float
    timezone: str
    total: Spent
    teams: list[Spent]
    models: list[Spent]
    failed: list[Failed]


class Moment(msgspec.Struct, frozen=True):
    """One event of the stream; `today` is None where the ledger cannot be read, `trouble` why."""

    live: Live
    today: Today | None
    trouble: str = ""


class Board:
    """The latest moment, put together by whoever is the first to want a newer one."""

    def __init__(self) -> None:
        self.viewers = 0
        self._turn = asyncio.Lock()
        self._number = 0
        self._data = b""
        self._due = 0.0

    async def next(self, after: int, app: web.Application) -> tuple[int, bytes]:
        """Return a moment newer than number `after`, once there is one, and its number."""
        async with self._turn:
            if self._number <= after:
                await asyncio.sleep(max(0.0, self._due - time.monotonic()))
                self._data = msgspec.json.encode(await _moment(app))
                self._due = time.monotonic() + _EVERY_S
                self._number += 1
            return self._number, self._data


BOARD: web.AppKey[Board] = web.AppKey("board")


async def page(request: web.Request) -> web.Response:
    """Answer GET /ui: the page. A browser from elsewhere is asked for the key as a password."""
    try:
        admit_monitor(request, "/ui")
    except (Unauthorized, Forbidden) as error:
        headers = {"Content-Type": "text/plain; charset=utf-8", **_FOREIGN}
        if isinstance(error, Unauthorized):
            headers["WWW-Authenticate"] = 'Basic realm="Tollway: any name, a key as password"'
        text = f"{error.message}\n{error.hint}\n"
        return web.Response(status=error.status, text=text, headers=headers)
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": _POLICY,
        "Cache-Control": "no-cache",
        **_FOREIGN,
    }
    return web.Response(body=_PAGE, headers=headers)


async def events(request: web.Request) -> web.StreamResponse:
    """Answer GET /ui/events: server-sent events named `now`, each a `Moment` as JSON.

    Raises:
        Forbidden, Unauthorized: As for /metrics.
        TooManyViewers: More look on than it is for.
    """
    admit_monitor(request, "/ui")
    board = request.app[BOARD]
    if board.viewers >= _MOST_VIEWERS:
        raise TooManyViewers("Too many pages show the dashboard", hint="Close some of them")
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", **_FOREIGN}
    answer = web.StreamResponse(headers=headers)
    if request.method == "HEAD":
        return answer
    number = 0
    board.viewers += 1
    try:
        await answer.prepare(request)
        while not request.app[DAEMON].draining:
            number, data = await board.next(number, request.app)
            async with asyncio.timeout(_WRITE_WITHIN_S):
                await answer.write(b"event: now\ndata: " + data + b"\n\n")
    except TimeoutError:
        answer.force_close()
    finally:
        board.viewers -= 1
    return answer


async def _moment(app: web.Application) -> Moment:
    now = await control.moment(app)
    daemon = app[DAEMON]
    zone = ZoneInfo(daemon.config.server.timezone)
    try:
        async with app[usage.READS]:
            found = await asyncio.to_thread(_today, daemon.ledger.path, zone, int(now.at * 1000))
    except GatewayError as error:
        return Moment(now, None, error.message)
    return Moment(now, found)


def _today(path: Path, zone: ZoneInfo, now_ms: int) -> Today:
    since_ms, until_ms = periods.window("day", now_ms, zone)

    def by(*names: By) -> list[SpendRow]:
        return report(path, by=names, since_ms=since_ms, until_ms=until_ms, tz=zone)

    failed = recent(path, limit=_LATEST, where=CallFilter(status="error"))
    return Today(
        since=since_ms / 1000,
        timezone=zone.key,
        total=_spent("", [totals(path, since_ms=since_ms, until_ms=until_ms)]),
        teams=_dearest(by(By.TEAM)),
        # What was refused has no target, and cost nothing.
        models=_dearest([row for row in by(By.PROVIDER, By.MODEL) if row.group[0]]),
        failed=[
            Failed(
                id=call.id,
                at=call.admitted_ms / 1000,
                who=call.user or call.key,
                asked=call.requested,
                target=f"{call.provider}/{call.model}" if call.provider else "",
                ending=call.ending or call.state,
                error=call.error,
            )
            for call in failed
        ],
    )


def _dearest(rows: list[SpendRow]) -> list[Spent]:
    shown, rest = rows[:_MOST_GROUPS], rows[_MOST_GROUPS:]
    found = [_spent("/".join(row.group), [row]) for row in shown]
    if rest:
        found.append(msgspec.structs.replace(_spent("", rest), others=len(rest)))
    return found


def _spent(name: str, rows: list[SpendRow]) -> Spent:
    return Spent(
        name=name,
        calls=sum(row.calls for row in rows),
        input_tokens=sum(row.input_total for row in rows),
        output_tokens=sum(row.output_total for row in rows),
        cost_nanousd=sum(row.cost_nanousd for row in rows),
        estimated=any(row.estimated_nanousd for row in rows),
        unpriced=sum(row.unpriced for row in rows),
    )


def _part(text: str, tag: Literal["style", "script"]) -> str:
    return text.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


_TEXT = files("tollway.daemon").joinpath("dashboard.html").read_text("utf-8")
_PAGE = _TEXT.encode()
_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src {_hash(_part(_TEXT, 'style'))}",
        f"script-src {_hash(_part(_TEXT, 'script'))}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
