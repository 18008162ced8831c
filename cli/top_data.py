"""What `top` shows, as the daemon tells it: /control/live."""

from collections import deque

import msgspec

from tollway.cli.queues import Queue
from tollway.cli.status import Budget, Model


class Call(msgspec.Struct):
    """A call under way."""

    id: str
    state: str
    key: str
    user: str
    team: str
    project: str
    asked: str
    target: str
    attempts: int
    stream: bool
    age_s: float
    first_ms: int | None
    output_tokens: int
    held_nanousd: int

    @property
    def who(self) -> str:
        """Whose it is, in one word."""
        return self.key or self.user or self.project or "-"


class Pace(msgspec.Struct):
    """The last minute of a team at a target."""

    team: str
    target: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost_nanousd: int


class Gpu(msgspec.Struct):
    """A GPU."""

    index: int
    name: str
    used_bytes: int
    total_bytes: int
    busy: int | None
    power_w: float | None


class Totals(msgspec.Struct):
    """All calls together; the last four of the last minute."""

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


class Live(msgspec.Struct):
    """One moment of the daemon."""

    at: float
    version: str
    listen: str
    uptime_s: float
    draining: bool
    calls: Totals
    under_way: list[Call] = []
    more: int = 0
    pace: list[Pace] = []
    queues: list[Queue] = []
    models: list[Model] = []
    slots: dict[str, int] = {}
    gpus: list[Gpu] = []
    budgets: list[Budget] = []
    spend_today_nanousd: int | None = None
    problems: list[str] = []


class Group(msgspec.Struct):
    """A team or a target: calls under way, and the last minute."""

    name: str
    active: int = 0
    waiting: int = 0  # of these
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nanousd: int = 0


def groups(now: Live, by: str) -> list[Group]:
    """Return the teams or the targets (`by` is "team" or "target") that have anything to show."""
    found: dict[str, Group] = {}
    for pace in now.pace:
        name = getattr(pace, by)
        one = found.setdefault(name, Group(name))
        one.calls += pace.calls
        one.input_tokens += pace.input_tokens
        one.output_tokens += pace.output_tokens
        one.cost_nanousd += pace.cost_nanousd
    for call in now.under_way:
        name = getattr(call, by) or (call.asked if by == "target" else "")
        one = found.setdefault(name, Group(name))
        one.active += 1
        one.waiting += call.state == "waiting"
    return list(found.values())


class Speed:
    """Output tokens a second over the last few moments."""

    def __init__(self, moments: int = 6) -> None:
        self._known: deque[tuple[float, int]] = deque(maxlen=moments)

    def add(self, now: Live) -> None:
        """Take one more moment."""
        if self._known and now.calls.output_tokens < self._known[-1][1]:
            self._known.clear()  # an estimate was too high, or the daemon is another one
        self._known.append((now.at, now.calls.output_tokens))

    def of(self, now: Live) -> float:
        """Return it; of the last minute as long as there is but one moment."""
        (since, before), (until, after) = self._known[0], self._known[-1]
        if until - since < 0.5:
            return now.calls.output_a_minute / 60
        return (after - before) / (until - since)
