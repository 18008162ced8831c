"""How many threads compute: as many as are quickest now, found by trying. It knows no llama.cpp."""

import math
from collections import deque
from collections.abc import Collection, Hashable
from statistics import variance

SAMPLES, SAMPLES_MOST = 16, 64  # steps of each of two numbers that are compared
BLOCK = 8  # of them in a row
SURE = 2.0  # standard errors: a trial is over where the difference is clearer than that
LEAST = 4  # of the usual one, before there is a trial
BETTER = 0.98  # a rival of more threads must need less than this part of the time,
SAME = 1.01  # one of fewer no more than this: what they leave free is others' to use
# A trial is over after so many steps where the rival's are all so many times the usual one's mean.
SLOWER = {1: 1.4, 2: 1.15}
QUICKER, QUICK_STEPS = 0.7, 4  # or all of so many less than that
WAIT_LEAST, WAIT_MOST = 16, 256  # steps from one trial to the next; a slow one counts for more
STEP_S = 0.02
READING = 32  # tokens; a step of so many takes as long as it has tokens
SLOW, SLOW_STEPS = 2.0, 4  # so many steps in a row this much slower than usual: try at once
APART_MOST = 0.5  # of a step's time; what is longer was a wait for something to do
STRANGE_MOST = 6  # steps of other shapes, after which a trial is given up


class Threads:
    """Says for each step how many threads to use, and is told how long it took.

    All of them is best on a quiet machine. Where others compute too, threads wait for one another
    at each of a step's hundreds of barriers, and fewer are several times as quick. Two numbers are
    compared on steps of the same shape only, in rows that take turns, and by their means: steps
    that took long once in a while are what too many threads cost. Where fewer are as quick as
    more, fewer it is.
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
        self._its: list[float] = []  # how long the rival's steps took,
        self._mine: list[float] = []  # and the usual one's between them
        self._strange = 0
        self._step: tuple[Hashable, int] = (None, 0)
        self._lately: dict[Hashable, deque[float]] = {}  # the usual one's
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
                rows = (len(self._its) + len(self._mine)) // BLOCK
                chosen = self._at if rows % 2 else self._rival
        self._step = shape, chosen
        return self._choices[chosen]

    def took(self, seconds: float, work: int = 1) -> None:
        """Take note of how long the step took that was begun last; shapes compare it by `work`."""
        shape, chosen = self._step
        each_s = seconds / work
        if chosen == self._at:
            self._lately.setdefault(shape, deque(maxlen=SAMPLES)).append(each_s)
        if self._shape is None:
            self._rest -= max(1.0, seconds / STEP_S)
            self._look(shape, each_s)
        elif shape != self._shape:
            self._strange += 1
            if self._strange >= STRANGE_MOST:
                self._end_trial(WAIT_LEAST)
        else:
            (self._mine if chosen == self._at else self._its).append(each_s)
            if self._is_clear() or (len(self._mine) >= SAMPLES and self._is_sure()):
                self._decide()

    def _look(self, shape: Hashable, seconds: float) -> None:
        usual = self._usual.get(shape)
        if usual is None:
            return
        self._slow = self._slow + 1 if seconds > SLOW * usual else 0
        if self._slow >= SLOW_STEPS:
            self._rest = 0
            self._lately[shape] = deque(list(self._lately[shape])[-SLOW_STEPS:], maxlen=SAMPLES)

    def _start_trial(self, shape: Hashable) -> None:
        if len(self._lately.get(shape, ())) < LEAST:
            return
        if self._at == 0 or (self._at < len(self._choices) - 1 and not self._up):
            self._rival = self._at + 1
        else:
            self._rival = self._at - 1
        self._up = not self._up
        self._shape, self._strange = shape, 0
        self._its, self._mine = [], []

    def _is_clear(self) -> bool:
        """Whether the rival's first steps show which of the two is quicker."""
        if self._mine:
            return False
        count, mine = len(self._its), _mean(self._lately[self._shape])
        if min(self._its) > SLOWER.get(count, SLOWER[max(SLOWER)]) * mine:
            return True
        return count >= QUICK_STEPS and max(self._its) < QUICKER * mine

    def _is_sure(self) -> bool:
        """Whether as many steps of each say clearly enough which it is to be."""
        count = len(self._mine)
        if count != len(self._its) or count % BLOCK:
            return False
        bound = self._bound()
        difference = abs(_mean(self._its) - bound * _mean(self._mine))
        error = math.sqrt((variance(self._its) + bound**2 * variance(self._mine)) / count)
        return count >= SAMPLES_MOST or difference >= SURE * error

    def _bound(self) -> float:
        # Their numbers fall as their places rise.
        return SAME if self._rival > self._at else BETTER

    def _decide(self) -> None:
        mine, its = _mean(self._mine or self._lately[self._shape]), _mean(self._its)
        if its < self._bound() * mine:
            self._up = self._rival < self._at  # go on in the same direction
            self._at = self._rival
            self._usual.clear()
            self._lately = {self._shape: deque(self._its, maxlen=SAMPLES)}
            wait = WAIT_LEAST
        else:
            wait = min(WAIT_MOST, 2 * self._wait)
        self._usual[self._shape] = _mean(self._lately[self._shape])
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
        self._before: Threads | None = None  # of the last step

    def begin(self, pieces: int, tokens: int) -> int:
        """Return how many threads the step should have that takes so many tokens of sequences."""
        reads = tokens >= READING
        size = 0 if reads else tokens.bit_length()
        threads = self._sizes.get(size)
        if threads is None:
            threads = self._sizes[size] = Threads(self._most)
        self._now = threads, tokens if reads else 1
        return threads.begin("read" if reads else (pieces, tokens))

    def took(self, seconds: float, apart_s: float) -> None:
        """Take note of how long the step took that was begun last.

        What lies between it and the step before counts too, where it is one of a row and nobody
        was waited for: threads that compute take the CPU from whoever passes the tokens on, and
        what a lone answer gains by a second thread it may lose again there.
        """
        threads, work = self._now
        if threads is self._before and apart_s < seconds * APART_MOST:
            seconds += apart_s
        self._before = threads
        threads.took(seconds, work)


def _mean(found: Collection[float]) -> float:
    return sum(found) / len(found)
