"""Where one caller's calls by one name may go: what `choose` orders, call by call."""

import msgspec

from tollway.daemon.config.schema import Strategy
from tollway.daemon.gate.conditions import Conditions
from tollway.daemon.gate.route import Found, Target


class Branch(msgspec.Struct, frozen=True):
    """One option of a route, with the targets that the caller may use."""

    place: str  # "when[0]"; "" for the route's own
    targets: tuple[Target, ...]
    weights: tuple[int, ...]  # one for each target
    strategy: Strategy
    when: Conditions | None  # None: it takes every call


class Fork(msgspec.Struct, frozen=True):
    """One route on the way: the first of its branches that takes the call is the one."""

    route: str
    branches: tuple[Branch, ...]


class Plan(msgspec.Struct, frozen=True):
    """Where a caller's call may go: the name it resolved to, and its targets.

    `targets` are all of them; which of them a call goes to, and in which order, `choose` says.
    """

    found: Found
    targets: tuple[Target, ...]
    forks: tuple[Fork, ...]
    fixed: bool  # they are tried as they stand, whatever the call
    stays: bool = False  # calls of one conversation are to stay at one of them
    plain: bool = False  # they do, and begin at the first: only who is elsewhere is looked for


def plan_of(found: Found, targets: tuple[Target, ...], *, stays: bool = False) -> Plan:
    """Return the plan for a name whose targets are these, the rest of them being left out."""
    known = {target.name: target for target in targets}
    forks = []
    for stage in found.stages:
        branches = []
        for option in stage.options:
            pairs = zip(option.targets, option.weights or (1,) * len(option.targets), strict=True)
            kept = [
                (msgspec.structs.replace(known[name], overrides=option.overrides), weight)
                for name, weight in pairs
                if name in known
            ]
            branches.append(
                Branch(
                    option.place,
                    tuple(target for target, _ in kept),
                    tuple(weight for _, weight in kept),
                    option.strategy,
                    option.when,
                )
            )
        forks.append(Fork(stage.route, tuple(branches)))
    # One target, with one key, is where it stays anyway.
    pooled = any(len(target.keys) > 1 for target in targets)
    stays = stays and (len(targets) > 1 or pooled)
    in_order = _is_fixed(forks)
    if in_order:  # with what each is to change
        each: dict[str, Target] = {}
        for fork in forks:
            for target in fork.branches[0].targets:
                each.setdefault(target.name, target)
        targets = tuple(each.values())
    plain = in_order and stays and not pooled
    return Plan(found, targets, tuple(forks), in_order and not stays, stays, plain)


def _is_fixed(forks: list[Fork]) -> bool:
    return all(
        len(fork.branches) == 1
        and (fork.branches[0].strategy == "ordered" or len(fork.branches[0].targets) < 2)
        for fork in forks
    )
