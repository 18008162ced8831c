"""Whose time a model's is: what each of its calls has of it, and what nobody has."""

from collections.abc import Callable


class Share:
    """One call's part of a model's time. `end` it once; a second time does nothing."""

    __slots__ = ("_began", "_ended", "_of")

    def __init__(self, of: "Shares", began: float) -> None:
        self._of = of
        self._began = began
        self._ended: float | None = None

    @property
    def ms(self) -> int:
        """Milliseconds until now, or until it ended, rounded up: started ones are used."""
        until = self._of.each_s() if self._ended is None else self._ended
        return -int(-(until - self._began) * 1000 // 1)

    def end(self) -> None:
        """Take note that the call is over."""
        if self._ended is None:
            self._ended = self._of.leave()


class Shares:
    """A model's time, shared out equally among the calls that run at each moment.

    A call alone has all of its time, one of four a quarter, so that the calls' parts add up to the
    time in which any of them ran. `alive` and `rest` tell how long there was a process at all.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at = clock()
        self._each = 0.0  # what a call would have had that ran since the beginning
        self._running = 0
        self._alive = False
        self._busy_s = 0.0
        self._idle_s = 0.0

    def enter(self) -> Share:
        """Return the part of a call that begins now."""
        self._advance()
        self._running += 1
        return Share(self, self._each)

    def leave(self) -> float:
        """Take a call out; return what `each_s` is then."""
        self._advance()
        self._running -= 1
        return self._each

    def each_s(self) -> float:
        """Return the seconds that a call would have had which ran since the beginning."""
        self._advance()
        return self._each

    def alive(self) -> None:
        """Take note that there is a process."""
        self._advance()
        self._alive = True

    def rest(self) -> None:
        """Take note that there is none any more."""
        self._advance()
        self._alive = False

    def take(self) -> tuple[int, int]:
        """Return the milliseconds at work, and loaded without work, since this was last asked."""
        self._advance()
        busy, idle = int(self._busy_s * 1000), int(self._idle_s * 1000)
        self._busy_s -= busy / 1000
        self._idle_s -= idle / 1000
        return busy, idle

    def _advance(self) -> None:
        now = self._clock()
        passed, self._at = max(0.0, now - self._at), now
        if self._running:
            self._each += passed / self._running
            self._busy_s += passed
        elif self._alive:
            self._idle_s += passed
