"""In which order a call's targets are tried: decided once, before the first is asked.

A strategy orders and never drops: whatever it thinks of a target, failing over still reaches it.
Authorisation has been before (the plan has no target that its caller may not use), budgets and
limits come after (each attempt must fit into them), so no choice made here can pass either.
docs/routing.md says the rules to users.
"""

import math
import random
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from tollway.daemon.errors import ModelNotFound
from tollway.daemon.gate import strategies
from tollway.daemon.gate.affinity import Stay
from tollway.daemon.gate.plan import Branch, Fork, Plan
from tollway.daemon.gate.route import Target
from tollway.daemon.ledger.rows import Who
from tollway.providers.canon import Call, Endpoint, Usage
from tollway.providers.dialects.features import Features, features
from tollway.providers.money import cost, time_cost

if TYPE_CHECKING:
    from tollway.daemon.gate.gate import Gate


class Asked:
    """One call, as conditions and strategies see it; what must be worked out is, once, if asked."""

    def __init__(  # noqa: PLR0913 - what a call is
        self,
        gate: "Gate",
        plan: Plan,
        call: Call,
        *,
        who: Who,
        tags: Sequence[str] = (),
        headers: Sequence[tuple[str, str]] = (),
        session: str = "",
        at_ms: int = 0,
        known: Features | None = None,
        dice: random.Random | None = None,
    ) -> None:
        """Take a call.

        Args:
            gate: The configuration that it is served by.
            plan: Where it may go.
            call: What it asks for.
            who: Whom it is billed to.
            tags: Its tags, each "name=value".
            headers: Those that a condition may look at, names in lower case.
            session: What its client calls its conversation, outside of its body.
            at_ms: When it came, in unix milliseconds.
            known: What its request uses, where that need not be read from its body.
            dice: What chance goes by, where not by the daemon's own.
        """
        self.dice = dice or gate.daemon.dice
        self._gate = gate
        self._plan = plan
        self._call = call
        self._headers = headers
        self._features = known
        self._used: Decimal | None = None
        self._session = session
        self._stay: Stay | None = None
        self.at_ms = at_ms
        self.who = who
        self.tags = tags

    @property
    def stay(self) -> Stay | None:
        """Where its conversation was served before; None where its route keeps none.

        Nor where all calls by its name were served where they begin: that is where it is.
        """
        name = self._plan.found.name
        looked_for = not self._plan.plain or self._gate.daemon.affinity.has_strayed(name)
        if self._stay is None and self._plan.stays and looked_for:
            whose = (self.who.key or self.who.user, self._plan.found.name)
            affinity = self._gate.daemon.affinity
            self._stay = Stay(affinity, whose, self._call, self._session)
        return self._stay

    @property
    def requested(self) -> str:
        """The name that it asks for."""
        return self._call.model

    @property
    def endpoint(self) -> Endpoint:
        """What it asks of the model."""
        return self._call.endpoint

    @property
    def stream(self) -> bool:
        """Whether it wants its answer piece by piece."""
        return self._call.stream

    @property
    def limit(self) -> int | None:
        """The output limit that its client wrote, in tokens."""
        return self._call.output_limit

    @property
    def output(self) -> int:
        """The most tokens it may be answered with: its own limit, else the default."""
        return self._call.output_limit or self._gate.default_output(self._plan.found.route)

    @property
    def features(self) -> Features:
        """What its request uses."""
        if self._features is None:
            self._features = features(self._call)
        return self._features

    @property
    def moment(self) -> datetime:
        """When it came, in the server's time zone."""
        zone = ZoneInfo(self._gate.config.server.timezone)
        return datetime.fromtimestamp(self.at_ms / 1000, zone)

    @property
    def used(self) -> Decimal:
        """The fullest of the budgets that it is booked on: what is spent, as a part of its cap.

        Those of the provider do not count: which one that is has yet to be chosen. What is held
        does not either, so that a condition that has come true stays true for the period.
        """
        if self._used is None:
            purse = self._gate.purse
            tags = purse.declared(self.tags)
            self._used = purse.used(purse.charge(self.who, self._plan.found.route, "", tags))
        return self._used

    def header(self, name: str) -> tuple[str, ...]:
        """Return the values of a header, by its name in lower case."""
        return tuple(value for known, value in self._headers if known == name)


class Choice(msgspec.Struct, frozen=True):
    """The targets of one call in the order to try them, and which branch each route took."""

    targets: tuple[Target, ...]
    taken: tuple[Branch, ...]
    stays: str = ""  # the target that comes first because its conversation was served there


def choose(gate: "Gate", plan: Plan, asked: Asked) -> Choice:
    """Return where a call goes: the targets that its caller may use, in order, each once.

    Raises:
        ModelNotFound: The caller may use none of the targets that such a call goes to.
    """
    found: dict[str, Target] = {}
    taken = []
    for fork in plan.forks:
        branch = taken_by(fork, asked)
        taken.append(branch)
        for target in _ordered(gate, branch, asked):
            found.setdefault(target.name, target)
    if not found:
        raise ModelNotFound(
            f"Calls like this one to `{plan.found.name}` go where this key may not call",
            hint="`tollway routes explain` shows the targets, and which of them are allowed",
            param="model",
        )
    stay = asked.stay
    if stay and stay.kept and _is_sent_elsewhere(stay.kept.target, plan, taken):
        stay = None
    targets, stays = _kept_first(tuple(found.values()), stay)
    return Choice(targets, tuple(taken), stays)


def _kept_first(targets: tuple[Target, ...], stay: Stay | None) -> tuple[tuple[Target, ...], str]:
    """Return targets, and the name of the one moved to their front: where the conversation is.

    It has to be among those that the call may go to anyway, so that nothing which is forbidden,
    or which a condition sends elsewhere, is reached by having been reached once.
    """
    kept = stay.kept if stay else None
    if kept is None:
        return targets, ""
    first = tuple(target for target in targets if target.name == kept.target)
    rest = tuple(target for target in targets if target.name != kept.target)
    return (*first, *rest), (kept.target if first else "")


def _is_sent_elsewhere(name: str, plan: Plan, taken: Sequence[Branch]) -> bool:
    """Whether the first route that names a target has it for other calls than this one.

    A budget that has turned conversations to another target must not lead them back to the old
    one by a fallback.
    """
    for fork, branch in zip(plan.forks, taken, strict=True):
        if any(target.name == name for target in branch.targets):
            return False
        if any(target.name == name for other in fork.branches for target in other.targets):
            return True
    return False


def taken_by(fork: Fork, asked: Asked) -> Branch:
    """Return the first branch of a route that takes a call; the last takes any."""
    for branch in fork.branches[:-1]:
        if branch.when is None or branch.when.match(asked):
            return branch
    return fork.branches[-1]


def _ordered(gate: "Gate", branch: Branch, asked: Asked) -> Sequence[Target]:
    targets = branch.targets
    if len(targets) < 2 or branch.strategy == "ordered":
        return targets
    return [targets[at] for at in _STRATEGIES[branch.strategy](gate, branch, asked)]


def _by_weight(_: "Gate", branch: Branch, asked: Asked) -> list[int]:
    return strategies.weighted(branch.weights, asked.dice)


def _by_speed(gate: "Gate", branch: Branch, asked: Asked) -> list[int]:
    paces = [gate.daemon.traffic.pace(target.name) for target in branch.targets]
    likely = strategies.likely_output(asked.limit, paces)
    # Of one length for all: who says little is not quick by that.
    output = max(likely(at) for at in range(len(paces)))
    return strategies.fastest(paces, output, asked.dice)


def _by_cost(gate: "Gate", branch: Branch, asked: Asked) -> list[int]:
    return strategies.cheapest([one.nanousd for one in expected(gate, branch.targets, asked)])


def _by_load(gate: "Gate", branch: Branch, _: Asked) -> list[int]:
    return strategies.least_busy([load(gate, target) for target in branch.targets])


_STRATEGIES: dict[str, Callable[["Gate", Branch, Asked], list[int]]] = {
    "weighted": _by_weight,
    "fastest": _by_speed,
    "cheapest": _by_cost,
    "least-busy": _by_load,
}


class Expected(NamedTuple):
    """What a call is expected to come to at a target; no bound, as a hold is."""

    nanousd: int | None  # None where there is no price
    output: int  # tokens


def expected(gate: "Gate", targets: Sequence[Target], asked: Asked) -> list[Expected]:
    """Return what a call is expected to cost at each of some targets.

    Its input is taken as `features` estimates it, none of it cached, its answer as long as they
    were of late.
    """
    paces = [gate.daemon.traffic.pace(target.name) for target in targets]
    likely = strategies.likely_output(asked.limit, paces)
    tokens = asked.features.tokens
    found = []
    for at, target in enumerate(targets):
        output = 0 if asked.endpoint == "embeddings" else likely(at)
        if target.overrides and target.overrides.max_output:
            output = min(output, target.overrides.max_output)
        price = gate.price(target, asked.at_ms)
        if price is None:
            found.append(Expected(None, output))
            continue
        took_s = strategies.expected_s(paces[at], output)
        timed = None if math.isinf(took_s) else time_cost(round(took_s * 1000), price)
        own = cost(Usage(input=tokens, output=output), price)
        found.append(Expected(own if timed is None else timed, output))
    return found


def load(gate: "Gate", target: Target) -> float:
    """Return how much of what a target can take is taken, as `strategies.load` counts it."""
    daemon = gate.daemon
    line = daemon.queue.load(target)
    told = daemon.upstream_loads.told(target.provider)
    running = daemon.traffic.pace(target.name).running
    if line is not None:
        running, waiting, slots = line
        own = strategies.load(running, waiting, slots)
        return own if told is None else max(own, told.load)
    if told is not None:  # others may ask it too, whom only it knows
        return max(told.load, strategies.load(running, 0, None))
    return strategies.load(running, 0, gate.concurrent(target))
