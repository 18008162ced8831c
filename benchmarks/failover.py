"""What it costs a call that it can fail over: choosing its target, its breakers, its further tries.

    python benchmarks/failover.py [--calls 20000] [--rounds 5]

CPU of this process by calls, without sockets: all that `Chain` and `Health` do for a call that is
answered at once. The best of the rounds, since whatever else runs only adds. See README.md.
"""

import argparse
import time
from collections.abc import Callable, Sequence

from tollway.daemon.gate.chain import Chain
from tollway.daemon.gate.health import Health
from tollway.daemon.gate.route import ProviderKey, Target
from tollway.providers.catalog import KINDS
from tollway.providers.errors import UpstreamRefused


def target(name: str, keys: int = 0) -> Target:
    """Return a target, with a pool of so many keys."""
    provider, _, model = name.partition("/")
    pool = tuple(ProviderKey(f"env:K{number}", ()) for number in range(keys))
    return Target(provider, model, KINDS["openai"], keys=pool)


def call(targets: Sequence[Target], health: Health) -> None:
    """Take one call along its way, as `daemon.gate.send` does."""
    chain = Chain(targets, health)
    step = chain.next()
    assert step is not None
    chain.too_small(100)
    outing = health.begin(step.target)
    chain.begun()
    outing.answered()
    outing.over()


def cost_us(run: Callable[[], None], calls: int, rounds: int) -> float:
    """Return the microseconds of CPU that a run takes."""
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(calls):
            run()
        best = min(best, time.process_time() - began)
    return best / calls * 1e6


def main() -> None:
    """Measure, and print a table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--calls", type=int, default=20_000)
    options.add_argument("--rounds", type=int, default=5)
    asked = options.parse_args()
    well, ill = Health(), Health()
    ill.begin(target("x/m")).failed(UpstreamRefused("No", status=500))
    rows = (
        ("one target", [target("a/m")], well),
        ("three targets", [target("a/m"), target("b/m"), target("c/m")], well),
        ("one target, while another one fails", [target("a/m")], ill),
        ("a pool of three keys", [target("p/m", keys=3)], well),
    )
    for name, targets, health in rows:
        cost = cost_us(lambda t=targets, h=health: call(t, h), asked.calls, asked.rounds)  # type: ignore[misc]
        print(f"{name:40} {cost:6.2f} us a call")


if __name__ == "__main__":
    main()
