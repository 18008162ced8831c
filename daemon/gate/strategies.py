"""How a strategy orders targets: pure functions from what is known of each to an order of all.

Each returns the places of what it was given, every one of them once. None knows a socket or a
clock, so that each can be tried in ten thousand ways.
"""

import math
import random
from collections.abc import Callable, Sequence

from tollway.daemon.gate.traffic import Pace

# A target that was not asked for so long may be another one by now...
LOOK_AGAIN_S = 30.0
# ...and this part of the calls finds out: one of ten, so that slow ones cost little.
LOOKS = 0.1
# Tokens of an answer where neither its limit nor earlier answers tell.
USUAL_OUTPUT = 500
# Calls at once that a target without `slots` is taken to have room for.
USUAL_SLOTS = 100


def weighted(weights: Sequence[int], dice: random.Random) -> list[int]:
    """Return the places of some weights, drawn one after the other without putting back.

    The first is each with a chance in proportion to its weight, and so is each one behind it
    among those that are left. Those of weight 0 come last, in their order.
    """
    # The smallest of exponential variates with these rates is drawn in proportion to its rate.
    drawn = [
        (-math.log(1.0 - dice.random()) / weight if weight else math.inf, at)
        for at, weight in enumerate(weights)
    ]
    return [at for _, at in sorted(drawn)]


def fastest(paces: Sequence[Pace], output: int, dice: random.Random) -> list[int]:
    """Return targets by the time in which an answer of so many tokens would be there.

    Those that were never asked come first, as they stand: each is asked by one call, and one that
    is passed over every time (its key rests, it cannot say the request) keeps nobody else from it.
    Those that have failed to answer so far come last. One call in ten goes to the target that was
    asked longest ago, if that is half a minute or more: how else would it be seen that a slow one
    has recovered.
    """
    new = [at for at, pace in enumerate(paces) if pace.idle_s == math.inf]
    known = [at for at, pace in enumerate(paces) if pace.idle_s != math.inf]
    known.sort(key=lambda at: expected_s(paces[at], output))
    due = [at for at in known[1:] if paces[at].idle_s >= LOOK_AGAIN_S and not paces[at].running]
    if due and dice.random() < LOOKS:
        longest = max(due, key=lambda at: paces[at].idle_s)
        known.remove(longest)
        known.insert(0, longest)
    return [*new, *known]


def expected_s(pace: Pace, output: int) -> float:
    """Return in how many seconds an answer of so many tokens would be there; infinity: unknown."""
    if pace.first_s is None and pace.token_s is None:
        return math.inf
    return (pace.first_s or 0.0) + (pace.token_s or 0.0) * output


def cheapest(costs: Sequence[int | None]) -> list[int]:
    """Return targets by what the call is expected to cost there; those without a price last."""
    return sorted(
        range(len(costs)), key=lambda at: math.inf if (cost := costs[at]) is None else cost
    )


def least_busy(loads: Sequence[float]) -> list[int]:
    """Return targets by how much of what they can take is taken; those alike as they stand."""
    return sorted(range(len(loads)), key=loads.__getitem__)


def load(running: int, waiting: int, slots: int | None, cache: float = 0.0) -> float:
    """Return how much of what a target can take is taken: 1.0 when it is full, more with a queue.

    Args:
        running: Calls there now.
        waiting: Calls that wait for their turn there.
        slots: Calls that it takes at once; None: nobody said, so it is taken to be many.
        cache: The part of its memory for contexts that is in use, where it tells.
    """
    return max((running + waiting) / (slots or USUAL_SLOTS), cache if not waiting else 0.0)


def likely_output(limit: int | None, paces: Sequence[Pace]) -> Callable[[int], int]:
    """Return what tells the likely tokens of an answer at each of some targets, by its place.

    That is the mean of its late answers, or of the others' where it has none, and never more than
    the call's own limit.
    """
    known = [pace.output for pace in paces if pace.output is not None]
    others = sum(known) / len(known) if known else float(USUAL_OUTPUT)

    def at(place: int) -> int:
        own = paces[place].output
        likely = math.ceil(others if own is None else own)
        return likely if limit is None else min(limit, likely)

    return at
