"""The lines before targets with slots, as `status` and `routes explain` show them."""

import msgspec

from tollway.cli import show


class Team(msgspec.Struct):
    """A team at a target; "" for those without one."""

    team: str
    waiting: int = 0
    running: int = 0


class Queue(msgspec.Struct):
    """A target with slots; None for as many as like."""

    target: str
    slots: int | None
    running: int
    waiting: int
    longest_wait_s: float = 0.0
    teams: list[Team] = []


def table(queues: list[Queue]) -> None:
    """Print the targets where a call is at work or waits, where there are any."""
    busy = [one for one in queues if one.running or one.waiting]
    if not busy:
        return
    show.say()
    numbers = [show.Column(name, number=True) for name in ("slots", "running", "waiting", "for")]
    show.table(
        ["line for", *numbers, "who waits"],
        [
            (
                one.target,
                "" if one.slots is None else str(one.slots),
                str(one.running),
                str(one.waiting),
                show.duration(one.longest_wait_s) if one.waiting else "",
                ", ".join(
                    f"{team.team or 'no team'}: {team.waiting}"
                    for team in one.teams
                    if team.waiting
                ),
            )
            for one in busy
        ],
    )


def line(slots: int | None, running: int | None, waiting: int | None) -> str:
    """Return how a target stands in one cell: "1 of 1 at work, 3 wait"; "" without slots."""
    if slots is None or running is None:
        return ""
    return f"{running} of {slots} at work" + (f", {waiting} wait" if waiting else "")
