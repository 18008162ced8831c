"""How targets have answered of late, and what is under way at each: what strategies go by.

It lives as long as the daemon and is never written down: how fast a target was yesterday says
little, and a restart that begins by trying each one again is right.
"""

import math
import time
from collections.abc import Callable

import msgspec

# Old answers count half after so long: a target that recovers is seen to within minutes.
HALF_LIFE_S = 300.0
_MOST_TARGETS = 10_000  # names that a stranger makes up must not fill the memory


class Average:
    """A mean in which what is old counts less, and its weight, which fades with it."""

    __slots__ = ("_at_s", "_sum", "_weight")

    def __init__(self) -> None:
        self._sum = self._weight = self._at_s = 0.0

    def add(self, value: float, now_s: float) -> None:
        """Take one more value."""
        fade = math.exp2((self._at_s - now_s) / HALF_LIFE_S) if now_s > self._at_s else 1.0
        self._sum = self._sum * fade + value
        self._weight = self._weight * fade + 1.0
        self._at_s = now_s

    @property
    def mean(self) -> float | None:
        """The mean; None where nothing was ever taken."""
        return self._sum / self._weight if self._weight else None


class Pace(msgspec.Struct, frozen=True):
    """How a target has answered of late; None where that is not known.

    `idle_s` is how long ago it was last asked, infinity for never; `running` the calls there now.
    """

    first_s: float | None = None
    token_s: float | None = None  # for each token behind the first
    output: float | None = None  # tokens of an answer
    idle_s: float = float("inf")
    running: int = 0


class _Target:
    __slots__ = ("asked_s", "first", "output", "running", "token")

    def __init__(self) -> None:
        self.running = 0
        self.asked_s = float("-inf")
        self.first, self.token, self.output = Average(), Average(), Average()


class Traffic:
    """Every target that was asked since the daemon started. `clock` tells seconds, ever forward."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._targets: dict[str, _Target] = {}

    def began(self, target: str) -> None:
        """Note that an attempt is about to be sent. Each is to be `ended` once."""
        known = self._targets.get(target)
        if known is None:
            if len(self._targets) >= _MOST_TARGETS:
                self._forget()
            known = self._targets[target] = _Target()
        known.running += 1
        known.asked_s = self._clock()

    def ended(
        self, target: str, first_s: float | None = None, took_s: float = 0.0, output: int = 0
    ) -> None:
        """Note that an attempt has ended.

        Args:
            target: Where it was.
            first_s: Until the first piece of a stream. None: there was no answer, or a whole one,
                whose first token nobody saw.
            took_s: Until the last one; 0 where it did not answer.
            output: The tokens of its answer; 0 where they are not known.
        """
        known = self._targets.get(target)
        if known is None:
            return
        known.running = max(0, known.running - 1)
        now_s = self._clock()
        if first_s is not None:
            known.first.add(first_s, now_s)
        if took_s and output:
            known.token.add(max(0.0, took_s - (first_s or 0.0)) / output, now_s)
            known.output.add(output, now_s)

    def pace(self, target: str) -> Pace:
        """Return how a target has answered of late."""
        known = self._targets.get(target)
        if known is None:
            return Pace()
        return Pace(
            first_s=known.first.mean,
            token_s=known.token.mean,
            output=known.output.mean,
            idle_s=self._clock() - known.asked_s,
            running=known.running,
        )

    def _forget(self) -> None:
        """Make room: of those at rest the half that was asked longest ago goes."""
        resting = [name for name, known in self._targets.items() if not known.running]
        resting.sort(key=lambda name: self._targets[name].asked_s)
        for name in resting[: _MOST_TARGETS // 2]:
            del self._targets[name]
