"""What the owner is told without asking: budgets that fill up, overruns, providers that fail.

The one rule: **each thing is told once.** A budget's alert is named by budget, period and part;
the name is written into the ledger before anybody is told, so a restart does not tell it again.
Telling never holds a call back: it happens in tasks of its own, behind a queue that can be full.
"""

import asyncio
import logging
import shutil
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol
from zoneinfo import ZoneInfo

from tollway.daemon.alert_channels import Channels, Notice
from tollway.daemon.config.schema import Config
from tollway.daemon.config.units import rolling_ms
from tollway.daemon.gate import periods
from tollway.daemon.gate.books import BudgetState
from tollway.daemon.tasks import Tasks
from tollway.providers.errors import GatewayError
from tollway.providers.money import dollars, plain_usd
from tollway.providers.transport import Transport

if TYPE_CHECKING:
    from tollway.daemon.state import Daemon

log = logging.getLogger(__name__)

_KEPT = 50  # notices that `status` can show
_MOST_TOLD = 20_000  # names kept in memory; the ledger has them all
_CLAIM_WITHIN_S = 5.0  # a ledger that does not answer keeps nobody from being told
_HOUR_MS = 3_600_000
_LEAST_FREE = 2 * 2**30  # of a disk, or a twentieth of a small one
_QUIET_S = 600.0  # in which a provider that comes and goes is not told of again
# A refusal for want of room says that a budget is full once so much of it is spent. Below that
# it says more of the call than of the budget: its worst case may be larger than any budget.
_FULL_FROM = Decimal("0.5")


class Claims(Protocol):
    """Where it is remembered what was told; `Ledger` is one."""

    def alert(self, name: str, at_ms: int) -> "asyncio.Future[bool]":
        """Write an alert's name; the future says whether it was new."""
        ...


class Alerts:
    """Decides what is told, once; `channels` tells it. Everything runs on the event loop."""

    def __init__(self, claims: Claims, transport: Transport) -> None:
        self._claims = claims
        self._tasks = Tasks()
        self.channels = Channels(transport)
        self.recent: deque[Notice] = deque(maxlen=_KEPT)
        self._told: dict[str, None] = {}
        self._at: tuple[Decimal, ...] = ()
        self._zone = ZoneInfo("UTC")
        self._ledger_problem: str | None = None
        self.disk_problem = ""  # "" while there is room
        self._failing: set[str] = set()  # what was told of, and has not come back
        self._told_s: dict[str, float] = {}

    def configure(self, config: Config) -> None:
        """Tell by this configuration from now on."""
        self._at = config.server.alerts.at
        self._zone = ZoneInfo(config.server.timezone)
        self.channels.configure(config.server.alerts, Path(config.path).parent)

    @property
    def least_per_mille(self) -> int:
        """From how much of a budget on there may be something to tell."""
        return int(min((*self._at, Decimal(1))) * 1000)

    async def close(self) -> None:
        """Stop telling; what could not be told is counted in the log."""
        await self._tasks.close()
        await self.channels.close()

    async def settled(self) -> None:
        """Return once everything noticed so far was told, or given up."""
        while len(self._tasks):
            await self._tasks.wait(60)
        await self.channels.emptied()

    # --- budgets --------------------------------------------------------------------------------

    def look(self, states: Iterable[BudgetState]) -> None:
        """Tell of each budget that has passed a part of its limit since it was last looked at."""
        for state in states:
            if state.settled_nanousd > 0 and state.limit_nanousd > 0:
                self._passed(state)

    def refused(self, state: BudgetState) -> None:
        """Tell that a budget had no room for a call, where that means that it is full."""
        if Decimal(state.settled_nanousd) >= state.limit_nanousd * _FULL_FROM:
            self._tell_of_budget(state, [*self._parts(state), Decimal(1)], Decimal(1))

    def _passed(self, state: BudgetState) -> None:
        parts = self._parts(state)
        if parts:
            self._tell_of_budget(state, parts, parts[-1])

    def _parts(self, state: BudgetState) -> list[Decimal]:
        # A budget that only warns has nothing but this to say that it was passed.
        wanted = sorted({*self._at, Decimal(1)}) if state.at == "warn" else self._at
        spent = Decimal(state.settled_nanousd)
        return [part for part in wanted if spent >= state.limit_nanousd * part]

    def _tell_of_budget(
        self, state: BudgetState, parts: Sequence[Decimal], highest: Decimal
    ) -> None:
        """Tell of the highest part alone, and count the lower ones as told with it."""
        at_ms = time.time_ns() // 1_000_000
        names = [_name(state, part, at_ms) for part in dict.fromkeys(parts)]
        last = _name(state, highest, at_ms)
        if last in self._told:
            return
        notice = _of_budget(state, highest, last, self._zone)
        self._once(notice, [name for name in names if name not in self._told], at_ms)

    # --- overruns and the ledger ----------------------------------------------------------------

    def overrun(self, target: str, call_id: str, over_nanousd: int) -> None:
        """Tell that an upstream passed the limit that it was given; once an hour for each."""
        at_ms = time.time_ns() // 1_000_000
        name = f"overrun {target} {at_ms // _HOUR_MS}"
        if name in self._told:
            return
        notice = Notice(
            id=name,
            kind="overrun",
            at=_now(),
            text=f"{target} passed the limit of call {call_id}: {dollars(over_nanousd)} over its"
            " hold are booked and count against every budget",
            facts={
                "target": target,
                "call": call_id,
                "overrun_usd": plain_usd(over_nanousd),
            },
        )
        self._once(notice, [name], at_ms)

    def unbelieved(self, target: str, call_id: str, nanousd: int) -> None:
        """Tell that an upstream reported what cannot be; once an hour for each."""
        at_ms = time.time_ns() // 1_000_000
        name = f"report {target} {at_ms // _HOUR_MS}"
        if name in self._told:
            return
        notice = Notice(
            id=name,
            kind="report",
            at=_now(),
            text=f"{target} reported a usage for call {call_id} that no answer has (it would cost"
            f" {dollars(nanousd)}): it is not believed, and the call is booked at its upper bound;"
            " `tollway ledger settle` books what it did cost",
            facts={"target": target, "call": call_id, "reported_usd": plain_usd(nanousd)},
        )
        self._once(notice, [name], at_ms)

    def ledger(self, problem: str | None) -> None:
        """Tell that the ledger cannot be written, and when it can again.

        Never written into the ledger itself; what is told is each change.
        """
        if problem == self._ledger_problem:
            return
        before, self._ledger_problem = self._ledger_problem, problem
        if problem is not None and before is not None:
            return  # the same trouble in other words
        text = problem or "The ledger can be written again"
        kind: Literal["ledger", "ledger_back"] = "ledger" if problem else "ledger_back"
        self._publish(Notice(id=f"{kind} {_now()}", kind=kind, at=_now(), text=text, facts={}))

    # --- providers ------------------------------------------------------------------------------

    def failing(self, failing: Mapping[str, str]) -> None:
        """Tell what has begun to fail, and what of it serves again.

        What comes and goes is told once in ten minutes; nothing is told as back that was not told
        as gone. Like the ledger's trouble it is a state, so no name of it is kept.

        Args:
            failing: Everything that fails now, each with a text that says how.
        """
        now = time.monotonic()
        for name, text in failing.items():
            if name in self._failing or now - self._told_s.get(name, -_QUIET_S) < _QUIET_S:
                continue
            self._failing.add(name)
            self._told_s[name] = now
            self._tell_of_provider("provider", name, text)
        for name in sorted(self._failing - failing.keys()):
            self._failing.discard(name)
            self._tell_of_provider("provider_back", name, f"{name} serves again")

    def trust(self, failing: Mapping[str, str]) -> None:
        """Tell what a new configuration made the daemon forget: only `failing` still counts.

        Nobody knows whether it serves, so that is not said; if it fails, that is told as anew.
        """
        for name in sorted(self._failing - failing.keys()):
            self._failing.discard(name)
            self._told_s.pop(name, None)
            text = f"{name} is trusted anew since the configuration was loaded"
            self._tell_of_provider("provider_back", name, text)

    def _tell_of_provider(
        self, kind: Literal["provider", "provider_back"], name: str, text: str
    ) -> None:
        facts: dict[str, str | None] = {"provider": name}
        self._publish(
            Notice(id=f"{kind} {name} {_now()}", kind=kind, at=_now(), text=text, facts=facts)
        )

    # --- the disk -------------------------------------------------------------------------------

    def disk(self, folder: Path, free: int, size: int) -> None:
        """Tell that the ledger's disk is nearly full, before it is, and when there is room again.

        Like the ledger's trouble it is a state. There is room again at half as much more than
        what is too little, so that it is not told with every file that comes and goes.
        """
        least = min(size // 20, _LEAST_FREE)
        if free < least and not self.disk_problem:
            self.disk_problem = (
                f"The disk of `{folder}` is nearly full: {free // 2**20:,} MiB are free. When it is"
                " full no call is taken; free some, or lower `ledger.keep` or `ledger.max_size`"
            )
            self._tell_of_disk("disk", self.disk_problem, free)
        elif free >= least * 3 // 2 and self.disk_problem:
            self.disk_problem = ""
            self._tell_of_disk("disk_back", f"The disk of `{folder}` has room again", free)

    def _tell_of_disk(self, kind: Literal["disk", "disk_back"], text: str, free: int) -> None:
        facts: dict[str, str | None] = {"free_bytes": str(free)}
        self._publish(Notice(id=f"{kind} {_now()}", kind=kind, at=_now(), text=text, facts=facts))

    # --- the certificate ------------------------------------------------------------------------

    def certificate(self, problem: str) -> None:
        """Tell once of a certificate that ends or has ended, or of newer files that do not fit."""
        name = f"certificate {problem}"
        if name not in self._told:
            notice = Notice(id=name, kind="certificate", at=_now(), text=problem)
            self._once(notice, [name], int(_now() * 1000))

    # --- once -----------------------------------------------------------------------------------

    def _once(self, notice: Notice, names: Sequence[str], at_ms: int) -> None:
        self._told |= dict.fromkeys(names)
        while len(self._told) > _MOST_TOLD:
            del self._told[next(iter(self._told))]
        self._tasks.start(self._claim(notice, names, at_ms), name=f"alert {notice.id}")

    async def _claim(self, notice: Notice, names: Sequence[str], at_ms: int) -> None:
        claims = {name: self._claims.alert(name, at_ms) for name in names}
        for claim in claims.values():
            claim.add_done_callback(_looked_at)
        # Not cancelled by the time-out: a ledger that heals writes them then.
        await asyncio.wait(claims.values(), timeout=_CLAIM_WITHIN_S)
        mine = claims[notice.id]
        told_before = mine.done() and not mine.exception() and not mine.result()
        if told_before:
            self.recent.append(notice)  # by an earlier process: `status` shows it still
        else:
            self._publish(notice)

    def _publish(self, notice: Notice) -> None:
        self.recent.append(notice)
        back = notice.kind.endswith("_back")
        log.log(logging.INFO if back else logging.WARNING, notice.text)
        self.channels.put(notice)


async def watch(daemon: "Daemon", tasks: Tasks, *, every_s: float = 1.0) -> None:
    """Look at the ledger and at every budget again and again; never returns.

    Each look is a task of `tasks`: a crash in one is logged, and the next comes all the same.
    """
    while True:
        look = tasks.start(_look(daemon), name="alerts: look")
        await asyncio.wait([look])
        await asyncio.sleep(every_s)


async def watch_disk(daemon: "Daemon", tasks: Tasks, *, every_s: float = 30.0) -> None:
    """Look at the ledger's disk again and again; never returns."""
    while True:
        look = tasks.start(look_at_disk(daemon), name="alerts: disk")
        await asyncio.wait([look])
        await asyncio.sleep(every_s)


async def look_at_disk(daemon: "Daemon") -> None:
    """Tell of the ledger's disk where it is nearly full, or has room again."""
    folder = daemon.ledger.path.parent
    try:
        # In a thread: a disk over the network may not answer.
        found = await asyncio.to_thread(shutil.disk_usage, folder)
    except OSError:
        return  # the ledger says what is wrong with it
    daemon.alerts.disk(folder, found.free, found.total)


async def _look(daemon: "Daemon") -> None:
    daemon.alerts.ledger(daemon.ledger.problem)
    daemon.alerts.failing(daemon.health.failing())
    for problem in daemon.front.problems(time.time()) if daemon.front else ():
        daemon.alerts.certificate(problem)
    if not daemon.refusing:
        daemon.alerts.look(daemon.gate.purse.filling(daemon.alerts.least_per_mille))


def _name(state: BudgetState, part: Decimal, at_ms: int) -> str:
    """Return what an alert is known by; a budget that was changed or raised is another one."""
    if state.rolling:
        # Its window begins anew all the time: its period is time cut into spans of its length.
        span = rolling_ms(state.budget.rpartition("/")[2]) or 1
        since = at_ms // span * span
    else:
        since = state.starts_ms
    limit = plain_usd(state.limit_nanousd)
    return f"budget {state.id}, {limit} since {since}, {part.normalize():f}"


def _of_budget(state: BudgetState, part: Decimal, name: str, zone: ZoneInfo) -> Notice:
    whose = f"{state.scope} `{state.name}`" if state.name else "the whole box"
    renews = "" if state.rolling else periods.text(state.ends_ms, zone)
    spent, limit = dollars(state.settled_nanousd), dollars(state.limit_nanousd)
    if part >= 1 and state.settled_nanousd < state.limit_nanousd:
        what = "shortens answers" if state.at == "clamp" else "has no room for another call"
    elif part >= 1 and state.at == "warn":
        what = f"is passed, {part * 100:.0f} %, and only warns"
    else:
        what = f"has reached {part * 100:.0f} %"
    return Notice(
        id=name,
        kind="budget",
        at=_now(),
        text=f"The budget {state.budget} of {whose} {what}: {spent} of {limit} spent"
        + (f"; it turns over on {renews}" if renews else ""),
        facts={
            "scope": state.scope,
            "name": state.name,
            "budget": state.budget,
            "mode": state.at,
            "part": f"{part.normalize():f}",
            "raised_usd": plain_usd(state.raised_nanousd),
            "limit_usd": plain_usd(state.limit_nanousd),
            "settled_usd": plain_usd(state.settled_nanousd),
            "held_usd": plain_usd(state.held_nanousd),
            "left_usd": plain_usd(state.left_nanousd),
            "turns_over": datetime.fromtimestamp(state.ends_ms / 1000, UTC).isoformat()
            if renews
            else None,
        },
    )


def _now() -> float:
    return time.time()


def _looked_at(done: "asyncio.Future[bool]") -> None:
    if not done.cancelled() and isinstance(fault := done.exception(), GatewayError):
        log.warning("an alert may be told again after a restart: %s", fault.message)
