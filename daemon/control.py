"""What the owner may ask of the running daemon, over the admin socket alone, as JSON."""

import asyncio
import os
import time
from datetime import datetime
from importlib.metadata import version
from typing import Protocol, TypeVar
from zoneinfo import ZoneInfo

import msgspec
from aiohttp import web

from tollway.daemon import handover, live
from tollway.daemon.alert_channels import Notice
from tollway.daemon.gate import explain as explaining
from tollway.daemon.gate.books import BudgetState
from tollway.daemon.gate.explanation import Question
from tollway.daemon.gate.health import ProviderHealth
from tollway.daemon.gate.limit import LimitState
from tollway.daemon.gate.queue import QueueState
from tollway.daemon.handover import Offer, Same
from tollway.daemon.inference import ASKED
from tollway.daemon.ledger.rows import SpentQuery
from tollway.daemon.process import StartedBy
from tollway.daemon.reload import ConfigState, Reloader
from tollway.daemon.state import CONTROL, DAEMON, Daemon
from tollway.daemon.watchdog import LoopState
from tollway.providers.errors import GatewayError, RequestInvalid
from tollway.providers.llamacpp.adapter import ModelState

T = TypeVar("T")
_ANSWER_WITHIN_S = 2.0


class Life(Protocol):
    """The daemon as a process: where it listens, and how its owner ends it."""

    @property
    def listen(self) -> str:
        """The first address in use, as "host:port"."""
        ...

    @property
    def url(self) -> str:
        """The base URL that client libraries want."""
        ...

    def stop(self) -> None:
        """Begin to stop; called again, hurry."""
        ...

    def hand_over(self, asked_on: asyncio.BaseTransport, *, hurry: bool) -> None:
        """Begin to stop, and give the listening sockets to who asked on this connection."""
        ...

    def begin_anew(self, *, hurry: bool) -> None:
        """Begin to stop, to be this process's next program with the same sockets."""
        ...


class Control:
    """What these handlers need besides the daemon."""

    def __init__(self, reloader: Reloader, life: Life, by: StartedBy) -> None:
        self.reloader = reloader
        self.life = life
        self.by = by


class LedgerState(msgspec.Struct, frozen=True):
    """The ledger's health; `backlog` rows wait to be written."""

    path: str
    problem: str | None
    backlog: int
    recovered: int


class Status(msgspec.Struct, frozen=True):
    """What runs. Times are unix seconds, money is nano-dollars."""

    version: str
    pid: int
    started_at: float
    uptime_s: float
    draining: bool
    listen: str
    url: str
    started_by: StartedBy
    config: ConfigState
    ledger: LedgerState
    calls: live.Totals
    models: list[ModelState]
    queues: list[QueueState]  # of the targets that have slots
    providers: list[ProviderHealth]
    budgets: list[BudgetState]
    limits: list[LimitState]
    spend_today_nanousd: int | None  # None: the ledger cannot tell now
    connections: int  # of clients, now
    loop: LoopState
    alerts: list[Notice]  # the latest, newest last
    problems: list[str]


async def status(request: web.Request) -> web.Response:
    """Answer GET /control/status; also while the ledger is broken or the daemon drains."""
    daemon, control = request.app[DAEMON], request.app[CONTROL]
    ledger = daemon.ledger
    config = control.reloader.state
    now = time.time()
    return _json(
        Status(
            version=version("tollway"),
            pid=os.getpid(),
            started_at=daemon.started_at,
            uptime_s=now - daemon.started_at,
            draining=daemon.leaving,
            listen=control.life.listen,
            url=control.life.url,
            started_by=control.by,
            config=config,
            ledger=LedgerState(
                path=str(ledger.path),
                problem=ledger.problem,
                backlog=ledger.backlog,
                recovered=ledger.recovered,
            ),
            calls=live.totals(daemon, live.pace(daemon)),
            models=live.models(daemon),
            queues=daemon.queue.states(),
            providers=daemon.health.states(),
            budgets=[] if daemon.refusing else daemon.gate.purse.states(),
            limits=[] if daemon.refusing else daemon.gate.limits.states(),
            spend_today_nanousd=await _spend_today(daemon),
            connections=daemon.connections.public,
            loop=daemon.watchdog.state,
            alerts=list(daemon.alerts.recent),
            problems=_problems(daemon, config),
        )
    )


async def now(request: web.Request) -> web.Response:
    """Answer GET /control/live: this moment, for `tollway top`."""
    return _json(await moment(request.app))


async def moment(app: web.Application) -> live.Live:
    """Return what happens at this moment, also while the ledger is broken."""
    daemon, control = app[DAEMON], app[CONTROL]
    pace = live.pace(daemon)
    at = time.time()
    told = live.under_way(daemon)
    return live.Live(
        at=at,
        version=version("tollway"),
        listen=control.life.listen,
        uptime_s=at - daemon.started_at,
        draining=daemon.leaving,
        calls=live.totals(daemon, pace),
        under_way=told,
        more=len(daemon.exchanges) - len(told),
        pace=pace,
        queues=daemon.queue.states(),
        models=live.models(daemon),
        slots={name: model.slots for name, model in daemon.config.models.items()},
        gpus=await live.gpus_now(),
        budgets=live.fullest(daemon),
        spend_today_nanousd=await _spend_today(daemon),
        problems=_problems(daemon, control.reloader.state),
    )


async def models(request: web.Request) -> web.Response:
    """Answer GET /control/models: the local models and what each is doing."""
    return _json({"models": live.models(request.app[DAEMON])})


async def load(request: web.Request) -> web.Response:
    """Answer POST /control/models/NAME/load, once the model is in memory."""
    await request.app[DAEMON].local.load(request.match_info["name"])
    return await models(request)


async def unload(request: web.Request) -> web.Response:
    """Answer POST /control/models/NAME/unload, once its memory is free."""
    await request.app[DAEMON].local.unload(request.match_info["name"])
    return await models(request)


async def explain(request: web.Request) -> web.Response:
    """Answer POST /control/explain: what would become of a call; nothing is sent."""
    question = await _asked(request, Question)
    daemon = request.app[DAEMON]
    if daemon.refusing:
        raise daemon.refusing
    if (question.endpoint, question.dialect) not in ASKED:
        raise RequestInvalid(
            f"There is no `{question.endpoint}` in `{question.dialect}`: no client could ask so"
        )
    return _json(await explaining.explain(daemon.gate, question))


async def reload(request: web.Request) -> web.Response:
    """Answer POST /control/reload: what changed, once the new configuration serves."""
    return _json(await request.app[CONTROL].reloader.reload())


async def stop(request: web.Request) -> web.Response:
    """Answer POST /control/stop at once; the daemon then drains and exits."""
    request.app[CONTROL].life.stop()
    return _json({"stopping": True, "pid": os.getpid()})


async def hand_over(request: web.Request) -> web.Response:
    """Answer POST /control/handover: a new daemon asks whether it may serve after this one.

    With `begin` the connection stays open beyond the answer, for the sockets to come.
    """
    offer = await _asked(request, Offer)
    control = request.app[CONTROL]
    serving = control.reloader.started_with.server
    if offer.begin:
        transport = request.transport
        if transport is None:
            raise RequestInvalid("The new daemon is gone")
        control.life.hand_over(transport, hurry=offer.hurry)
    return _json(Same((offer.host, offer.port) == (serving.host, serving.port)))


class Anew(msgspec.Struct, frozen=True):
    """What is asked of a daemon that is to begin anew in its own process."""

    hurry: bool = False


async def restart(request: web.Request) -> web.Response:
    """Answer POST /control/restart once a new program has proved that it could serve.

    The daemon then drains, and begins anew with the same process id and sockets.
    """
    asked = await _asked(request, Anew)
    control = request.app[CONTROL]
    await handover.looked(control.reloader.started_with)
    control.life.begin_anew(hurry=asked.hurry)
    return _json({"stopping": True, "pid": os.getpid()})


def write_control_error(error: GatewayError, call_id: str) -> bytes:
    """Return an error as the command line shows it."""
    said = {"message": error.message, "hint": error.hint, "code": error.code, "call": call_id}
    return msgspec.json.encode({"error": said})


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


async def _asked(request: web.Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.MsgspecError as fault:
        raise RequestInvalid(f"The question is not understood: {fault}") from fault


async def _spend_today(daemon: Daemon) -> int | None:
    zone = ZoneInfo(daemon.config.server.timezone)
    midnight = datetime.now(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    today = SpentQuery("box", "", int(midnight.timestamp() * 1000))
    try:
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            return (await daemon.ledger.spent([today]))[0]
    except (GatewayError, TimeoutError):
        return None  # `ledger.problem` says why


def _problems(daemon: Daemon, config: ConfigState) -> list[str]:
    found = []
    if daemon.ledger.problem:
        found.append(daemon.ledger.problem)
    elif daemon.refusing:
        found.append(daemon.refusing.message)
    found += daemon.ledger.warnings
    found += filter(None, [daemon.alerts.disk_problem])
    if daemon.front is not None:
        found += daemon.front.problems(time.time())
    found += [f"alerts: {problem}" for problem in daemon.alerts.channels.problems]
    if config.state != "ok":
        found.append(config.problem)
    if config.needs_restart:
        found.append(f"{', '.join(config.needs_restart)} changed: `tollway restart` takes it up")
    found += [f"{m.name}: {m.problem}" for m in daemon.local.states() if m.problem]
    return list(dict.fromkeys(found))  # a bad certificate is the file's problem and its own
