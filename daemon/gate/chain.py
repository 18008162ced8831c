"""Which target a call tries next, and after which wait: the whole of failing over, without I/O.

A target is tried in the route's order, those that fail or rest behind those that do not. What
cannot succeed is not tried again. A further try of the same provider is paid from that provider's
allowance, waits with full jitter or as long as it was asked to, and never past the deadline.
"""

from collections.abc import Callable, Sequence

import msgspec

from tollway.daemon.gate.health import Health
from tollway.daemon.gate.route import Target
from tollway.daemon.ledger.rows import Ending
from tollway.providers.errors import AnswerHeldUp, LocalModelBusy, LocalModelFailed, UpstreamError
from tollway.providers.errors import UpstreamRefused as Refused
from tollway.providers.output_limits import Lower
from tollway.providers.refusals import is_spoilt, verdict_of

# Waits before further tries: up to so much, doubled with each, and full jitter (any part of it).
_FIRST_S, _MOST_S = 0.5, 8.0
# The longest wait that a provider may ask for before the call goes elsewhere, or is given up.
_PATIENCE_S, _LAST_PATIENCE_S = 5.0, 60.0
# Refusals that the same request to the same target may not meet a second time.
_PASSING = frozenset({408, 409, 424, 425, 429})  # 424: Bedrock's model failed at it
_NEVER = frozenset({501, 505})
# Of an output limit that is too much a provider may tell only that it is; then it is guessed.
_LOWERED = 3


class Failure(msgspec.Struct, frozen=True):
    """Why an attempt failed before its client saw any of it; `again`: another may do better.

    `ending` is the ledger's word for it, where the error's code does not say it.
    """

    error: UpstreamError
    again: bool
    ending: Ending | None = None
    hint_s: float | None = None  # how long the provider asks to wait
    overflow: bool = False  # the prompt does not fit into the model's context window
    refused_retry: bool = False  # the provider says that a further try cannot help
    lower: Lower | None = None  # an output limit that the same target takes, it says
    sealed: bool = False  # it cannot read thoughts that were given back


class Step(msgspec.Struct, frozen=True):
    """What to try next, once so many seconds have passed; `repeats` of it were tried before."""

    target: Target
    wait_s: float = 0.0
    repeats: int = 0
    output: Lower | None = None  # more than which the target does not take as a limit
    bare: bool = False  # without any thoughts, which the target cannot read


class Chain:
    """One call's way along its targets. Ask `next`; tell how that went; ask again."""

    def __init__(
        self,
        targets: Sequence[Target],
        health: Health,
        *,
        retries: int = 0,
        until_s: float = float("inf"),
        window: Callable[[Target], int | None] = lambda _: None,
        prefer: Callable[[Target], str] = lambda _: "",
    ) -> None:
        """Begin.

        Args:
            targets: In the order in which they are wanted.
            health: What is known of them.
            retries: How often each is tried again before the next one.
            until_s: When it must have ended, by the health's clock.
            window: Returns the tokens that a target's model takes, None where nobody knows.
            prefer: Returns the name of the key to use of a target's pool, "" for any.
        """
        self._left = list(targets)
        self._late: list[Target] = []  # whose window is likely too small
        self._small: set[str] = set()  # those that ever were
        self._health = health
        self._retries = retries
        self.until_s = until_s
        self._window = window
        self._prefer = prefer
        self._again: Step | None = None
        self._at: Step | None = None
        self._tried: dict[str, set[str]] = {}  # by target: the keys that it failed with
        self._asked: set[str] = set()  # providers
        self._lowered: dict[str, int] = {}  # by target: how often its output limit was
        self._deaths: dict[str, int] = {}  # by target: how often its process died with the call
        self.sent = False  # some attempt was begun
        self.mends = False  # what was refused last is to be asked for as it is taken
        self.error: UpstreamError | None = None  # what the client hears, if nothing answers

    def next(self) -> Step | None:
        """Return what to try now, None where nothing is left."""
        step, self._again = self._again, None
        if self._at is not None and self._health.clock() >= self.until_s:
            return None
        if step is None:
            target = self._pick()
            if target is None:
                return None
            step = Step(target)
        if step.target.keys:
            chosen = self._health.with_key(
                step.target,
                prefer=self._prefer(step.target),
                tried=self._tried.get(step.target.name, ()),
            )
            step = msgspec.structs.replace(step, target=chosen)
        self._at = step
        return step

    @property
    def left_s(self) -> float:
        """How many seconds the call has left."""
        return max(0.001, self.until_s - self._health.clock())

    def _pick(self) -> Target | None:
        """Take the next target out of those that are left: the first one that is well."""
        if self._left and self._health.untroubled:
            return self._left.pop(0)
        for at, target in enumerate(self._left):
            if self._health.standing(target).rank == 0:
                return self._left.pop(at)
        for ill in (self._left, self._late):
            standing, at = min(
                ((self._health.standing(one), at) for at, one in enumerate(ill)),
                default=(None, 0),
            )
            # One that fails is worth a try only for a call that has nowhere else to go.
            if standing is not None and not (self.sent and standing.rank == 2):
                return ill.pop(at)
        return None

    @property
    def fails(self) -> bool:
        """Whether the step's target has begun to fail since it was chosen."""
        return self._at is not None and self._health.standing(self._at.target).rank == 2

    def is_better_elsewhere(self) -> bool:
        """Whether the step's target fails by now and another is well that was not tried yet."""
        return self.fails and any(self._health.standing(one).rank == 0 for one in self._left)

    @property
    def has_others(self) -> bool:
        """Whether there are targets that were not tried yet."""
        return bool(self._left)

    def too_small(self, tokens: int | None) -> bool:
        """Whether the step's target likely has no room for a prompt; then it is tried last."""
        assert self._at is not None  # noqa: S101 - asked about a step
        target = self._at.target
        if tokens is None or not self._left or target.name in self._small:
            return False
        window = self._window(target)
        if window is None or tokens <= window:
            return False
        if not any((self._window(one) or tokens) >= tokens for one in self._left):
            return False  # nobody has more room
        self._small.add(target.name)
        self._late.append(target)
        self._late.sort(key=lambda one: -(self._window(one) or 0))
        return True

    def begun(self) -> None:
        """Take note that the step is sent."""
        assert self._at is not None  # noqa: S101 - a step is sent after it was asked for
        target = self._at.target
        self.sent = True
        if target.provider not in self._asked:
            self._asked.add(target.provider)
            self._health.called(target.provider)

    def failed(self, failure: Failure) -> None:
        """Take note of how the step failed."""
        assert self._at is not None  # noqa: S101 - what failed was a step
        step, error = self._at, failure.error
        target = step.target
        if failure.lower is not None and self._lowered.get(target.name, 0) < _LOWERED:
            self._lowered[target.name] = self._lowered.get(target.name, 0) + 1
            self._mend(error, msgspec.structs.replace(step, wait_s=0.0, output=failure.lower))
            return
        if failure.sealed and not step.bare:
            self._mend(error, msgspec.structs.replace(step, wait_s=0.0, bare=True))
            return
        self.mends = False
        tried = self._tried.setdefault(target.name, set())
        tried.add(target.key)
        # What a provider said itself tells more than that another could not be reached.
        if self.error is None or _is_its_own(error) or not _is_its_own(self.error):
            self.error = error
        if not failure.again:
            self._left, self._late = [], []
            return
        if failure.overflow:
            self._keep_larger(target)
            return
        if error.death:
            self._again = self._after_death(step, error)
            return
        status = error.upstream_status if isinstance(error, Refused) else 0
        of_key = verdict_of(error) if isinstance(error, Refused) else ""
        if (of_key or status == 429) and self._health.another_key(target, tried):
            self._again = msgspec.structs.replace(step, wait_s=0.0)
            return
        if step.repeats < self._retries and self._may_repeat(failure, status):
            self._again = self._repeat(step, failure.hint_s)

    def _mend(self, error: UpstreamError, step: Step) -> None:
        self._again, self.error, self.mends = step, error, True

    def _may_repeat(self, failure: Failure, status: int) -> bool:
        """Whether the same request to the same target may do better a second time."""
        error = failure.error
        if failure.refused_retry or isinstance(error, LocalModelBusy | AnswerHeldUp):
            return False
        if isinstance(error, LocalModelFailed):
            return error.again
        if not isinstance(error, Refused):
            return True
        if verdict_of(error) == "unpaid":
            return False
        if is_spoilt(status, error.body):
            return True
        return status in _PASSING or (status >= 500 and status not in _NEVER)

    def _after_death(self, step: Step, error: UpstreamError) -> Step | None:
        """Return the same step once more where the call has no other way, and died of it once.

        Nothing is asked of the provider's allowance: a death fails all calls of a model at once,
        through no fault of theirs.
        """
        target = step.target
        self._deaths[target.name] = self._deaths.get(target.name, 0) + 1
        if self._deaths[target.name] > 1:
            if error.death == "alone" and self.error is error:
                self.error = _suspected(error)
            return None
        standings = (self._health.standing(one) for one in (*self._left, *self._late))
        if not self._retries and any(standing.rank < 2 for standing in standings):
            return None
        if self._health.clock() >= self.until_s:
            return None
        return msgspec.structs.replace(step, wait_s=0.0, repeats=step.repeats + 1)

    def _repeat(self, step: Step, hint_s: float | None) -> Step | None:
        """Return the same step once more, None where it would come too late or is not granted."""
        health, now = self._health, self._health.clock()
        if hint_s is not None and step.target.keys:  # another key may be at rest for less long
            hint_s = min(hint_s, max(0.0, health.standing(step.target).until_s - now))
        most = min(_MOST_S, _FIRST_S * 2**step.repeats)
        wait_s = health.chance() * (most if hint_s is None else min(1.0, hint_s / 4))
        wait_s += hint_s or 0.0
        others = any(health.standing(one).rank == 0 for one in self._left)
        if wait_s > (_PATIENCE_S if others else _LAST_PATIENCE_S) or now + wait_s >= self.until_s:
            return None
        if health.standing(step.target).rank == 2 or not health.may_retry(step.target.provider):
            return None
        return msgspec.structs.replace(step, wait_s=wait_s, repeats=step.repeats + 1)

    def _keep_larger(self, target: Target) -> None:
        """Leave only targets where a prompt may fit that did not fit into this one's window."""
        window = self._window(target)

        def may_fit(other: Target) -> bool:
            if other.model == target.model:
                return (self._window(other) or 0) > (window or self._window(other) or 0)
            its = self._window(other)
            return its is None or window is None or its > window

        self._left = [one for one in (*self._left, *self._late) if may_fit(one)]
        self._late = []


def _suspected(error: UpstreamError) -> LocalModelFailed:
    """Return what a call is told with which alone a process died a second time."""
    return LocalModelFailed(
        f"{error.message}, and so it did when it was asked this before",
        hint="The call itself may be what it dies of; `tollway models ps` shows its last words",
        again=False,
    )


def _is_its_own(error: UpstreamError) -> bool:
    """Whether a client is told a provider's own words, and not ours about it."""
    return isinstance(error, Refused) and bool(error.body or error.upstream_status == error.status)
