"""One rate limit of one place: how much of it is left, and when there is room again.

What is used stands in `rates.py` and outlives the configuration; the limit does not.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Final, Literal
from zoneinfo import ZoneInfo

import msgspec

from tollway.daemon.gate import periods
from tollway.daemon.gate.rates import Bucket, Day, Gauge, Mark, Place, Rates

What = Literal["rpm", "tpm", "rpd", "concurrent"]
_WORDS: Final[Mapping[What, tuple[str, str]]] = {
    "rpm": ("call", "a minute"),
    "tpm": ("token", "a minute"),
    "rpd": ("call", "a day"),
    "concurrent": ("call", "at once"),
}
# A full limit of these lets the next target be tried; any other refuses the caller.
_OF_TARGETS: Final = frozenset({"provider", "model", "route"})
_TRY_AGAIN_S = 1.0  # after a refusal for calls at once: nobody knows when one ends


class LimitState(msgspec.Struct, frozen=True):
    """One limit as it stands now. `whole_s`: seconds until all of it is free, at rest."""

    scope: str
    name: str
    limit: str  # "rpm", "tpm", "rpd" or "concurrent"
    most: int
    left: int
    whole_s: float | None  # None for calls at once: nobody knows


class Limit(ABC):
    """One limit of one place. `fits`, then `take`, with no await between; `leave` at the end."""

    what: What

    def __init__(self, place: Place, most: int, rates: Rates) -> None:
        self.scope, self.name = place
        self.most = most
        self.rates = rates
        self.skips = self.scope in _OF_TARGETS

    @property
    def whose(self) -> str:
        """What is limited, for messages: "key `ci`"."""
        return f"{self.scope} `{self.name}`" if self.name else "the whole box"

    @property
    def said(self) -> str:
        """What it allows, for messages: "60 calls a minute (`rpm`)"."""
        unit, span = _WORDS[self.what]
        return f"{self.most:,} {unit}{'s' if self.most > 1 else ''} {span} (`{self.what}`)"

    @abstractmethod
    def wait_s(self, units: int) -> float:
        """Return the seconds until so many units have room; 0 for now."""

    @abstractmethod
    def take(self, units: int) -> None:
        """Use units for which `wait_s` has just said 0."""

    def leave(self) -> None:  # noqa: B027 - only what counts calls at once has something to free
        """Say that the call, or the attempt, has ended."""

    @abstractmethod
    def left(self) -> int:
        """Return the units that have room now."""

    @abstractmethod
    def whole_s(self) -> float | None:
        """Return the seconds until all is free if nothing more comes; None: nobody knows."""

    def advice(self, wait_s: float) -> str:
        """Return when there is room again, and what else would help."""
        return f"There is room again in {_span(wait_s)}"

    def state(self) -> LimitState:
        """Return how it stands now."""
        return LimitState(self.scope, self.name, self.what, self.most, self.left(), self.whole_s())


class CallRate(Limit):
    """`rpm`: calls a minute."""

    what: What = "rpm"

    def __init__(self, place: Place, most: int, rates: Rates) -> None:
        super().__init__(place, most, rates)
        self.bucket: Bucket = rates.bucket(place, self.what)

    def wait_s(self, units: int) -> float:
        """Return the seconds until so many units have room; 0 for now."""
        wait = self.bucket.wait_ns(units, self.most, self.rates.clock_ns())
        return wait / 1e9 if wait else 0.0

    def take(self, units: int) -> None:
        """Use units for which `wait_s` has just said 0."""
        self.bucket.take(units)

    def left(self) -> int:
        """Return the units that have room now."""
        return self.bucket.left(self.most, self.rates.clock_ns())

    def whole_s(self) -> float:
        """Return the seconds until all is free if nothing more comes."""
        return self.bucket.empty_ns(self.most, self.rates.clock_ns()) / 1e9


class TokenRate(CallRate):
    """`tpm`: tokens a minute, in and out; reserved at an attempt's worst case."""

    what: What = "tpm"

    def reserve(self, units: int) -> Mark:
        """Use units for which `wait_s` has just said 0, until the true number is known."""
        return self.bucket.reserve(units)

    def settle(self, mark: Mark, unused: int) -> None:
        """Give back what was reserved and not used. Once only."""
        self.bucket.settle(mark, unused, self.most, self.rates.clock_ns())

    def advice(self, wait_s: float) -> str:
        """Return when there is room again, and what else would help."""
        return f"{super().advice(wait_s)}; a smaller `max_tokens` or a shorter prompt needs less"


class DayLimit(Limit):
    """`rpd`: calls in one calendar day."""

    what: What = "rpd"

    def __init__(self, place: Place, most: int, rates: Rates, zone: ZoneInfo) -> None:
        super().__init__(place, most, rates)
        self.zone = zone
        self.day: Day = rates.day(place, zone)

    def wait_s(self, units: int) -> float:
        """Return the seconds until so many units have room; 0 for now."""
        end_ms = self.day.end_ms(self.rates.now_ms())
        return (end_ms - self.rates.now_ms()) / 1000 if self.day.used + units > self.most else 0.0

    def take(self, units: int) -> None:
        """Use units for which `wait_s` has just said 0."""
        self.day.used += units

    def left(self) -> int:
        """Return the units that have room now."""
        self.day.end_ms(self.rates.now_ms())
        return max(0, self.most - self.day.used)

    def whole_s(self) -> float:
        """Return the seconds until all is free if nothing more comes."""
        now = self.rates.now_ms()
        end_ms = self.day.end_ms(now)
        return (end_ms - now) / 1000 if self.day.used else 0.0

    def advice(self, wait_s: float) -> str:
        """Return when there is room again."""
        end = periods.text(self.day.end_ms(self.rates.now_ms()), self.zone)
        return f"The day turns over on {end}"


class Concurrent(Limit):
    """`concurrent`: calls under way."""

    what: What = "concurrent"

    def __init__(self, place: Place, most: int, rates: Rates) -> None:
        super().__init__(place, most, rates)
        self.gauge: Gauge = rates.gauge(place)

    def wait_s(self, units: int) -> float:
        """Return 0 where there is room now, else the seconds after which to ask again."""
        return 0.0 if self.gauge.running < self.most else _TRY_AGAIN_S

    def take(self, units: int) -> None:
        """Count a call that begins."""
        self.gauge.running += 1

    def leave(self) -> None:
        """Count a call that has ended."""
        self.gauge.running -= 1

    def left(self) -> int:
        """Return how many calls could begin now."""
        return max(0, self.most - self.gauge.running)

    def whole_s(self) -> None:
        """Return None: nobody knows how long calls take."""

    def advice(self, wait_s: float) -> str:
        """Return what helps."""
        return "There is room again once one of its calls has ended"


def _span(seconds: float) -> str:
    """Return a wait for a person, never shorter than it is: "1 s", "3 min"."""
    whole = math.ceil(seconds)
    return f"{whole} s" if whole <= 120 else f"{math.ceil(whole / 60)} min"
