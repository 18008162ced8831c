"""How many threads compute: as many as are quickest now, found by trying. It knows no llama.cpp."""

from collections.abc import Hashable

SAMPLES = 4  # steps of each of two numbers in a trial, in turns
ENOUGH = 2  # of each, where the rival's quickest is slower than the slowest of the usual one
CLEAR = 1.4  # a rival's first step that takes so many times the usual one's was the last
BETTER = 0.9  # the rival must need less than this part of the time
WAIT_LEAST, WAIT_MOST = 16, 256  # steps from one trial to the next; a slow one counts for more
STEP_S = 0.02
READING = 32  # tokens; a step of so many takes as long as it has tokens
SLOW, SLOW_STEPS = 2.0, 4  # so many steps in a row this much slower than usual: try at once
STRANGE_MOST = 6  # steps of other shapes, after which a trial is given up


class Threads:
    """Says for each step how many threads to use, and is told how long it took.

    All of them is best on a quiet machine. Where others compute too, threads wait for one another
    at each of a step's hundreds of barriers, and fewer are several times as quick. Two numbers are
    compared on steps of the same shape only, in turns, without the slowest of each.
    """

    def __init__(self, most: int) -> None:
        self._choices = [most]
        while self._choices[-1] > 1:
            self._choices.append(self._choices[-1] // 2)
        self._at = 0
        self._up = False  # which neighbour is tried next
        self._rest = float(WAIT_LEAST)
        self._wait = WAIT_LEAST
        self._shape: Hashable = None  # of the trial; None between trials
        self._rival = 0
        self._taken: dict[int, list[float]] = {}
        self._strange = 0
        self._step: tuple[Hashable, int] = (None, 0)
        self._usual: dict[Hashable, float] = {}
        self._slow = 0

    @property
    def usual(self) -> int:
        """How many threads are used but for trials."""
        return self._choices[self._at]

    def begin(self, shape: Hashable) -> int:
        """Return how many threads the step should have; `shape` is what its time depends on."""
        chosen = self._at
        if len(self._choices) > 1:
            # A shape that came twice in a row will come again.
            if self._shape is None and self._rest <= 0 and shape == self._step[0]:
                self._start_trial(shape)
            if shape == self._shape and self._shape is not None:
                mine, its = self._taken[self._at], self._taken[self._rival]
                chosen = self._at if len(mine) <= len(its) else self._rival
        self._step = shape, chosen
        return self._choices[chosen]

    def took(self, seconds: float, work: int = 1) -> None:
        """Take note of how long the step took that was begun last; shapes compare it by `work`."""
        shape, chosen = self._step
        if self._shape is None:
            self._rest -= max(1.0, seconds / STEP_S)
            self._look(shape, seconds / work)
        elif shape != self._shape:
            self._strange += 1
            if self._strange >= STRANGE_MOST:
                self._end_trial(WAIT_LEAST)
        else:
            self._taken[chosen].append(seconds / work)
            if all(len(each) == SAMPLES for each in self._taken.values()) or self._hopeless():
                self._decide()

    def _look(self, shape: Hashable, seconds: float) -> None:
        usual = self._usual.get(shape)
        if usual is None:
            return
        self._slow = self._slow + 1 if seconds > SLOW * usual else 0
        if self._slow >= SLOW_STEPS:
            self._rest = 0

    def _start_trial(self, shape: Hashable) -> None:
        if self._at == 0 or (self._at < len(self._choices) - 1 and not self._up):
            self._rival = self._at + 1
        else:
            self._rival = self._at - 1
        self._up = not self._up
        self._shape, self._strange = shape, 0
        self._taken = {self._at: [], self._rival: []}

    def _hopeless(self) -> bool:
        """Whether no further step is needed to see that the rival is slower."""
        mine, its = self._taken[self._at], self._taken[self._rival]
        if len(mine) == len(its) == 1:
            return its[0] > CLEAR * mine[0]
        return len(mine) == len(its) == ENOUGH and min(its) * BETTER > max(mine)

    def _decide(self) -> None:
        steps = max(1, len(self._taken[self._at]) - 1)
        need = {at: sum(sorted(each)[:steps]) for at, each in self._taken.items()}
        if need[self._rival] < BETTER * need[self._at]:
            self._up = self._rival < self._at  # go on in the same direction
            self._at = self._rival
            self._usual.clear()
            wait = WAIT_LEAST
        else:
            wait = min(WAIT_MOST, 2 * self._wait)
        self._usual[self._shape] = need[self._at] / steps
        self._end_trial(wait)

    def _end_trial(self, wait: int) -> None:
        self._shape, self._slow = None, 0
        self._wait = wait
        self._rest = float(wait)


class ThreadsBySize:
    """As many threads as are quickest for steps of each size, found for each by itself.

    One answer's token waits for memory, so a second thread is only one more to wait for; a prompt
    is computing, and twice the threads read it in half the time. Prompts of all lengths compare by
    their tokens.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._sizes: dict[int, Threads] = {}
        self._now: tuple[Threads, int] = (Threads(most), 1)

    def begin(self, pieces: int, tokens: int) -> int:
        """Return how many threads the step should have that takes so many tokens of sequences."""
        reads = tokens >= READING
        size = 0 if reads else tokens.bit_length()
        threads = self._sizes.get(size)
        if threads is None:
            threads = self._sizes[size] = Threads(self._most)
        self._now = threads, tokens if reads else 1
        return threads.begin("read" if reads else (pieces, tokens))

    def took(self, seconds: float) -> None:
        """Take note of how long the step took that was begun last."""
        threads, work = self._now
        threads.took(seconds, work)
