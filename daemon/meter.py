"""What the daemon counts as calls end: for `/metrics`, `status`, `top` and the ledger's readers.

The one rule: **counting costs a call next to nothing.** An ending is some additions to numbers
that stand ready; names, sums and text are made when somebody asks. Who calls makes no numbers:
only what gateway.toml names has one of its own, and all else counts as "other".
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from tollway.daemon.config.schema import Config
from tollway.providers.canon import Usage

if TYPE_CHECKING:
    from tollway.daemon.gate.attempt import Attempt
    from tollway.daemon.gate.send import Exchange
    from tollway.daemon.ledger.rows import AttemptEnded

OTHER = "other"
# Upper bounds in seconds.
CALL_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
FIRST_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
WAIT_S = (0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
# The classes of `Usage`, in the order of `TargetTally.tokens`.
CLASSES = (
    *("input", "cache_read", "cache_write", "cache_write_1h", "audio_input", "image_input"),
    *("output", "reasoning", "audio_output", "image_output"),
)
_MOST_NAMES = 2_000  # of each kind, over all configurations that were ever in force
_MOST_CODES = 200
_SPAN_S = 60  # what `top` calls lately
_MOST_GROUPS = 500  # in one second of that


class Facts:
    """What is known of one call beside its rows, for its line in the log and for whom it counts."""

    __slots__ = ("began_s", "error", "first_ms", "input", "output", "took_s", "tries", "word")

    def __init__(self) -> None:
        self.began_s = time.monotonic()  # its body was read
        self.took_s = 0.0
        self.word = "refused"  # how it ended: an `Ending`, or "refused" where it was never sent
        self.error = ""  # the code of what ended it
        self.input = self.output = 0  # tokens of all attempts
        self.first_ms: int | None = None  # of the last attempt
        self.tries: list[tuple[Attempt, AttemptEnded]] | None = None  # where somebody watches

    def end(self, word: str, error: str) -> None:
        """Note how it ended, and that it did so now."""
        self.word, self.error = word, error
        self.took_s = time.monotonic() - self.began_s


class Histogram:
    """How often a time fell between two bounds; `counts` has one more, for what is above all."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


class TargetTally:
    """What attempts at one target came to; money in nano-dollars."""

    __slots__ = ("attempt_s", "attempts", "cost", "first_s", "overrun", "tokens", "wait_s")

    def __init__(self) -> None:
        self.attempts: dict[str, int] = {}  # by ending
        self.tokens = [0] * len(CLASSES)
        self.cost = 0
        self.overrun = 0
        self.attempt_s = Histogram(CALL_S)
        self.first_s = Histogram(FIRST_S)
        self.wait_s = Histogram(WAIT_S)


class WhoTally:
    """What a team or a key used; tokens in and out, money in nano-dollars."""

    __slots__ = ("calls", "cost", "input", "output")

    def __init__(self) -> None:
        self.calls = self.input = self.output = self.cost = 0

    def add(self, first: int, came: int, went: int, cost: int) -> None:
        """Count an attempt; a call with its `first`."""
        self.calls += first
        self.input += came
        self.output += went
        self.cost += cost


class Watcher(Protocol):
    """Who is told of each call besides: `Telemetry` is one."""

    def call(self, exchange: "Exchange") -> None:
        """Take a call that has ended, with its `facts.tries`."""
        ...


class Meter:
    """All counts of one process. Everything runs on the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.watcher: Watcher | None = None
        self.calls: dict[tuple[str, str, str], int] = {}  # route, endpoint, outcome
        self.call_s: dict[str, Histogram] = {}  # by route
        self.errors: dict[str, int] = {}  # answers that were errors, by their code
        self.targets: dict[str, TargetTally] = {}
        self.teams: dict[str, WhoTally] = {}
        self.keys: dict[str, WhoTally] = {}  # filled where the file asks for it
        self.output_tokens = 0  # of all attempts that have ended
        self._known_targets: frozenset[str] = frozenset()
        self._known_routes: frozenset[str] = frozenset()
        self._known_teams: frozenset[str] = frozenset()
        self._known_keys: frozenset[str] = frozenset()
        self._lately: list[tuple[int, dict[tuple[str, str], list[int]]]] = [
            (-1, {}) for _ in range(_SPAN_S)
        ]

    def configure(self, config: Config) -> None:
        """Give the names of this configuration numbers of their own; older ones keep theirs."""
        self._known_targets = frozenset(named_targets(config))
        self._known_routes = frozenset(config.routes)
        self._known_teams = frozenset(config.teams)
        self._known_keys = frozenset(config.keys) if config.server.metrics_per_key else frozenset()

    def call(self, exchange: "Exchange") -> None:
        """Count a call that has ended, however it did."""
        route = self._route(exchange)
        facts = exchange.facts
        key = (route, exchange.call.endpoint, facts.word)
        self.calls[key] = self.calls.get(key, 0) + 1
        took = self.call_s.get(route)
        if took is None:
            took = self.call_s[route] = Histogram(CALL_S)
        took.add(facts.took_s)
        if self.watcher is not None:
            self.watcher.call(exchange)

    def attempt(self, exchange: "Exchange", attempt: "Attempt", ended: "AttemptEnded") -> None:
        """Count an attempt that has ended, and what it cost."""
        target, usage, cost = attempt.target, ended.usage, ended.cost_nanousd
        name = target.name
        tally = self.targets.get(name) or self._tally(name, target.provider)
        tally.attempts[ended.ending] = tally.attempts.get(ended.ending, 0) + 1
        tally.cost += cost
        tally.overrun += ended.overrun_nanousd
        _add_tokens(tally.tokens, usage)
        took_ms = ended.ended_ms - attempt.opened.started_ms
        tally.attempt_s.add(took_ms / 1000 if took_ms > 0 else 0.0)
        if ended.first_ms is not None:
            tally.first_s.add(ended.first_ms / 1000)
        if attempt.slot is not None:
            tally.wait_s.add(attempt.slot.waited_s)
        came, went = usage.input_total, usage.output_total
        self.output_tokens += went
        facts = exchange.facts
        facts.input += came
        facts.output += went
        facts.first_ms = ended.first_ms
        if self.watcher is not None:
            facts.tries = [*(facts.tries or ()), (attempt, ended)]
        who, first = exchange.caller.who, ended.number == 1
        if who.team in self._known_teams:
            used = self.teams.get(who.team) or self.teams.setdefault(who.team, WhoTally())
            used.add(first, came, went, cost)
        if who.key in self._known_keys:
            used = self.keys.get(who.key) or self.keys.setdefault(who.key, WhoTally())
            used.add(first, came, went, cost)
        self._note(who.team, name, (first, came, went, cost))

    def error(self, code: str) -> None:
        """Count an answer that was an error."""
        if code not in self.errors and len(self.errors) >= _MOST_CODES:
            code = OTHER
        self.errors[code] = self.errors.get(code, 0) + 1

    def lately(self) -> Iterator[tuple[str, str, list[int]]]:
        """Yield team, target and [calls, tokens in, tokens out, nano-dollars] of the last minute.

        By attempts that ended in it; a call counts with its first attempt.
        """
        now = int(self._clock())
        sums: dict[tuple[str, str], list[int]] = {}
        for second, groups in self._lately:
            if now - _SPAN_S < second <= now:
                for key, values in groups.items():
                    total = sums.setdefault(key, [0, 0, 0, 0])
                    for at, value in enumerate(values):
                        total[at] += value
        for (team, target), total in sums.items():
            yield team, target, total

    def _note(self, team: str, target: str, values: tuple[int, int, int, int]) -> None:
        now = int(self._clock())
        at = now % _SPAN_S
        second, groups = self._lately[at]
        if second != now:
            groups = {}
            self._lately[at] = (now, groups)
        known = groups.get((team, target))
        if known is None:
            key = (team, target) if len(groups) < _MOST_GROUPS else ("", OTHER)
            known = groups.setdefault(key, [0, 0, 0, 0])
        known[0] += values[0]
        known[1] += values[1]
        known[2] += values[2]
        known[3] += values[3]

    def label(self, name: str, provider: str) -> str:
        """Return the name that a target of a provider is counted under."""
        return name if name in self._known_targets else f"{provider}/{OTHER}"

    def _route(self, exchange: "Exchange") -> str:
        route = exchange.plan.found.route if exchange.plan else ""
        return route if route in self._known_routes else ""

    def _tally(self, name: str, provider: str) -> TargetTally:
        found = self.targets.get(name)
        if found is None:
            label = self.label(name, provider)
            if label not in self.targets and len(self.targets) >= _MOST_NAMES:
                label = OTHER
            found = self.targets.setdefault(label, TargetTally())
        return found


def named_targets(config: Config) -> Iterator[str]:
    """Yield every target that a configuration names, by a route, a price, a group or a model."""
    for name in config.models:
        yield f"local/{name}"
    for route in config.routes.values():
        yield from (one for one in route.every if "*" not in one)
    globs = (
        *config.prices,
        *(model for group in config.groups.values() for model in group.models),
        *(model for key in config.keys.values() for model in key.models),
    )
    for name in globs:
        provider, _, model = name.partition("/")
        if provider in config.providers and model and not set("*?[") & set(model):
            yield name


def _add_tokens(tokens: list[int], usage: Usage) -> None:
    tokens[0] += usage.input
    tokens[1] += usage.cache_read
    tokens[2] += usage.cache_write
    tokens[3] += usage.cache_write_1h
    tokens[4] += usage.audio_input
    tokens[5] += usage.image_input
    tokens[6] += usage.output
    tokens[7] += usage.reasoning
    tokens[8] += usage.audio_output
    tokens[9] += usage.image_output
