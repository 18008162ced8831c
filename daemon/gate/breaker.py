"""A circuit breaker: a state machine of numbers alone, which reads no clock and does no I/O.

**Closed**: calls pass, and their ends are counted. So many failures within the window open it,
where they are half of what ended there or came one after the other. **Open**: calls had better go
elsewhere until its rest is over. **Half-open**: one call at a time is let through on trial; it
closes the breaker, or doubles the rest. A call that was sent before the breaker opened says nothing
of what is there now: its end is not counted. Nothing is ever forbidden here: who has no other place
to go may ask all the same, and an answer closes the breaker.
"""

from typing import Literal

import msgspec

State = Literal["closed", "open", "half-open"]


class Rules(msgspec.Struct, frozen=True):
    """When a breaker opens, and for how long; times in seconds."""

    failures: int = 5  # within the window
    window_s: float = 30.0
    rest_s: float = 10.0  # doubled with each trial that fails
    longest_s: float = 300.0


class Entry:
    """One call on its way through a breaker. End it once, by one of the breaker's methods."""

    __slots__ = ("began_s", "trial")

    def __init__(self, began_s: float, *, trial: bool = False) -> None:
        self.began_s = began_s
        self.trial = trial


class Breaker:
    """One breaker. Every method takes the time, in seconds of a clock that never goes back."""

    __slots__ = (
        "_bad",
        "_good",
        "_half",
        "_opened_s",
        "_rest_s",
        "_rested_s",
        "_streak",
        "_trial",
        "name",
        "rules",
        "until_s",
        "why",
    )

    def __init__(self, rules: Rules, name: str = "") -> None:
        self.rules = rules
        self.name = name  # what it is the breaker of, for a person
        self.until_s = 0.0  # while it is open: when a trial may come
        self.why = ""  # of the last failure, a word for a person
        self._opened_s: float | None = None
        self._rest_s = 0.0  # of the last rest
        self._rested_s = 0.0  # when it began
        self._trial: Entry | None = None
        self._half = 0  # the window's half that is being counted in
        self._streak = 0  # failures since the last answer
        self._good = [0, 0]  # of this half, and of the one before
        self._bad = [0, 0]

    def state(self, now: float) -> State:
        """Return what it is at a moment."""
        if self._opened_s is None:
            return "closed"
        return "open" if now < self.until_s else "half-open"

    def ready(self, now: float) -> bool:
        """Whether a call may come now: it is closed, or no other call is on trial."""
        return self._opened_s is None or (now >= self.until_s and self._trial is None)

    @property
    def idle(self) -> bool:
        """Whether it is closed and has nothing on anybody."""
        return self._opened_s is None and not any(self._bad)

    def failures(self, now: float) -> int:
        """Return how many failures the window has."""
        self._turn(now)
        return sum(self._bad)

    def begin(self, now: float) -> Entry:
        """Let a call through, whether it is ready or not."""
        entry = Entry(now)
        if self.state(now) == "half-open" and self._trial is None:
            entry.trial = True
            self._trial = entry
        return entry

    def drop(self, entry: Entry) -> None:
        """End a call that told nothing: its client left, or it was never sent."""
        if self._trial is entry:
            self._trial = None

    def succeed(self, entry: Entry, now: float) -> bool:
        """End a call that was answered; return whether that closed the breaker."""
        self.drop(entry)
        if self._opened_s is None:
            self._turn(now)
            self._good[0] += 1
            self._streak = 0
            return False
        if entry.began_s < self._opened_s:
            return False
        self._close()
        return True

    def fail(self, entry: Entry, now: float, why: str) -> bool:
        """End a call that failed; return whether that opened the breaker."""
        was_trial = self._trial is entry
        self.drop(entry)
        if self._opened_s is not None:
            if was_trial:
                self.why = why
                self._rest(now, min(self.rules.longest_s, 2 * self._rest_s))
            return False
        self.why = why
        self._turn(now)
        self._bad[0] += 1
        self._streak += 1
        bad, good = sum(self._bad), sum(self._good)
        most = self.rules.failures
        if bad < most or (bad < good and self._streak < most):
            return False
        self._open(now, self.rules.rest_s)
        return True

    def rest(self, entry: Entry | None, now: float, why: str, for_s: float | None) -> bool:
        """End a call that was told to come back later; return whether that opened the breaker.

        Args:
            entry: The call; None where no call told it.
            now: The time.
            why: A word for a person.
            for_s: How long to rest; None doubles the last rest, from the rules' own on, unless
                the call was sent before that began: all who were under way are told the same.
        """
        if entry is not None:
            self.drop(entry)
        opens = self._opened_s is None
        if for_s is None and not opens and entry is not None and entry.began_s < self._rested_s:
            return False
        self.why = why
        if for_s is None:
            for_s = min(self.rules.longest_s, 2 * self._rest_s or self.rules.rest_s)
        if opens:
            self._open(now, for_s)
        elif now + for_s > self.until_s:
            self._rest(now, for_s)
        return opens

    def hurry(self, now: float) -> None:
        """Let a trial come at once: something has shown that it may well be answered."""
        self.until_s = min(self.until_s, now)

    def _open(self, now: float, for_s: float) -> None:
        self._opened_s = now
        self._trial = None
        self._rest(now, for_s)

    def _rest(self, now: float, for_s: float) -> None:
        self._rest_s, self._rested_s = for_s, now
        self.until_s = now + for_s

    def _close(self) -> None:
        self._opened_s, self._trial = None, None
        self._rest_s, self._streak = 0.0, 0
        self._good, self._bad = [0, 0], [0, 0]

    def _turn(self, now: float) -> None:
        """Forget what the window has left behind."""
        half = int(now / (self.rules.window_s / 2))
        if half == self._half:
            return
        follows = half == self._half + 1
        self._half = half
        self._good = [0, self._good[0] if follows else 0]
        self._bad = [0, self._bad[0] if follows else 0]
