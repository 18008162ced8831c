"""Who waits and who runs: the calls, teams, users and lanes that `fair.py` judges."""

from collections import deque
from collections.abc import Iterable
from typing import Literal

import msgspec

UNLIMITED = 2**62
_FIRST_SECONDS = 5.0  # that a call takes, until some have told how long they do


class Asks(msgspec.Struct, frozen=True):
    """A call that wants a slot: of which lane, for whom, and about how many tokens.

    `output` is the most it may generate, None where it set no limit.
    """

    lane: str
    team: str
    user: str
    batch: bool = False
    prompt: int = 0
    output: int | None = None


class Ticket:
    """One call's place: in the line, then at work. The pool that made it moves it on."""

    __slots__ = ("account", "asks", "charged", "granted", "late", "since", "state", "weight")

    def __init__(self, asks: Asks, account: "Account", since: float) -> None:
        self.asks = asks
        self.account = account
        self.since = since
        self.granted = 0.0
        self.charged = 0.0  # tokens, guessed when it was granted
        self.weight = 1.0  # what a token counted for at that moment
        self.late = False  # granted because it was overdue
        self.state: Literal["waiting", "running", "ended"] = "waiting"


class Party:
    """A team or a user: how much it had, for its share, and whether it waits.

    `service` and `clock` are in tokens that count the more the later they were served, so that
    decay needs no step of its own and changes no order.
    """

    __slots__ = ("clock", "name", "recent", "running", "service", "share", "waiting")

    def __init__(self, name: str, share: float = 1.0) -> None:
        self.name = name
        self.share = share
        self.service = 0.0  # tokens for one share; its next call's start tag
        self.recent = 0.0  # tokens, whatever the share
        self.clock = 0.0  # the start tag that those below it have come to
        self.waiting = 0
        self.running = 0

    def charge(self, tokens: float) -> None:
        """Count weighted tokens; negative ones give back what was guessed too high."""
        self.service += tokens / self.share
        self.recent += tokens

    def scale(self, by: float) -> None:
        """Take another unit for what is counted."""
        self.service *= by
        self.recent *= by
        self.clock *= by

    @property
    def at_hand(self) -> bool:
        """Whether a call of it waits or runs."""
        return bool(self.waiting or self.running)

    @property
    def order(self) -> tuple[float, float]:
        """Whom to serve first: the least served for its share, then the least of late."""
        return self.service, self.recent


class Team(Party):
    """A team and its users."""

    __slots__ = ("users",)

    def __init__(self, name: str, share: float) -> None:
        super().__init__(name, share)
        self.users: dict[str, Account] = {}


class Account(Party):
    """A user of a team."""

    __slots__ = ("team",)

    def __init__(self, name: str, team: Team) -> None:
        super().__init__(name)
        self.team = team


class Line:
    """Calls of one account, lane and class, in the order they came."""

    __slots__ = ("account", "served", "tickets")

    def __init__(self, account: Account) -> None:
        self.account = account
        self.tickets: deque[Ticket] = deque()
        self.served = 0.0  # when one of them was last granted

    @property
    def since(self) -> float:
        """Since when it has gone without: its head came, or the one before was granted."""
        return max(self.served, self.tickets[0].since)


class Lane:
    """One target's slots and who waits for them."""

    __slots__ = ("began", "credit", "lines", "name", "running", "seconds", "slots", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.slots = UNLIMITED
        self.running = 0
        self.waiting = 0
        # Since when it is its turn to be in memory: from its first call until nobody calls it
        # any more, or another has taken its place.
        self.began: float | None = None
        self.credit = 0.0  # tokens that the overdue may have; below 0 others go first
        self.seconds = _FIRST_SECONDS  # that a call takes
        self.lines: dict[tuple[Account, bool], Line] = {}

    @property
    def free(self) -> bool:
        """Whether a slot is free."""
        return self.running < self.slots

    def rest(self) -> None:
        """End its turn if nobody calls it any more."""
        if not self.running and not self.waiting:
            self.began = None

    @property
    def oldest(self) -> float:
        """When the call that has waited longest came."""
        return min(line.tickets[0].since for line in self.lines.values())


def since(lane: Lane) -> float:
    """Return since when it is a lane's turn."""
    return lane.began or 0.0


def names(lanes: Iterable[Lane]) -> list[str]:
    """Return the names of lanes."""
    return [lane.name for lane in lanes]


def least(parties: Iterable[Party], granted: Party) -> float:
    """Return the least service among a party that is granted a slot and those that wait."""
    return min([granted.service, *(one.service for one in parties if one.waiting)])


def fairest(lines: Iterable[Line]) -> Line:
    """Return the line of the user who is next, of the team that is next."""
    best: Line | None = None
    order: tuple[float, ...] = ()
    for line in lines:
        account = line.account
        if best and account.team.service > order[0]:
            continue  # as most are, where many teams wait
        mine = (*account.team.order, *account.order, line.tickets[0].since)
        if best is None or mine < order:
            best, order = line, mine
    assert best is not None  # noqa: S101 - only lanes with somebody waiting are asked
    return best
