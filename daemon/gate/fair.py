"""Who goes next at what is scarce: weighted fair queueing, with no I/O and a clock from outside.

QUEUE.md beside this file says which rules these are, what they promise, and why.
"""

import time
from collections.abc import Callable, Collection, Mapping

import msgspec

from tollway.daemon.gate.lanes import (
    UNLIMITED,
    Account,
    Asks,
    Lane,
    Line,
    Team,
    Ticket,
    fairest,
    least,
    names,
    since,
)

# What somebody used counts half after so long. Far longer than any round of all who wait: a
# short memory turns shares into turns.
HALF_LIFE_S = 3600.0
# Who went without a slot for so long is overdue, and the overdue get this part of the tokens.
OVERDUE_S = 30.0
OVERDUE_PART = 1 / 8
# A model at work keeps its memory for so long before one that waits for it is swapped in.
TURN_S = 30.0
# Output tokens of a call, until some have told how many there are.
_FIRST_OUTPUT = 256.0
_LEARN = 0.1  # how much the last call counts in what is expected of the next
_MOST_ACCOUNTS = 10_000


class Waiting(msgspec.Struct, frozen=True):
    """One team in a lane: its calls, and its tokens of late at all lanes of the pool."""

    team: str
    share: float
    waiting: int
    running: int
    recent_tokens: int


class LaneState(msgspec.Struct, frozen=True):
    """A lane as it stands; `slots` is None where they are not limited any more."""

    name: str
    slots: int | None
    running: int
    waiting: int
    longest_wait_s: float
    teams: tuple[Waiting, ...]


def anything_fits(_: Collection[str]) -> bool:
    """Return True: lanes that take nothing from each other."""
    return True


class Pool:
    """Lanes whose callers are judged together: a provider, or all models of this box."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        fits: Callable[[Collection[str]], bool] = anything_fits,
    ) -> None:
        """Begin with no lanes.

        Args:
            clock: Monotonic seconds.
            fits: Whether lanes can be at work at the same time, all others at rest.
        """
        self._clock = clock
        self._fits = fits
        self._epoch = clock()
        self._virtual = 0.0  # the start tag that the teams have come to
        self._output = _FIRST_OUTPUT
        self.most = _MOST_ACCOUNTS  # accounts; over so many, idle ones are dropped
        self._shares: Mapping[str, float] = {}
        self._due: Lane | None = None  # has waited its time to be swapped in: it is next
        self.lanes: dict[str, Lane] = {}
        self.teams: dict[str, Team] = {}

    def configure(self, slots: Mapping[str, int], shares: Mapping[str, float]) -> None:
        """Take new numbers of slots and new shares; a lane that is not named has no limit."""
        self._shares = shares
        for team in self.teams.values():
            team.share = shares.get(team.name, 1.0)
        for name in slots:
            if name not in self.lanes:
                self.lanes[name] = Lane(name)
        for name, lane in tuple(self.lanes.items()):
            lane.slots = slots.get(name, UNLIMITED)
            if name not in slots and not lane.running and not lane.waiting:
                del self.lanes[name]

    def join(self, asks: Asks) -> Ticket:
        """Put a call in its lane's line; `next` says whose turn it is."""
        now = self._clock()
        self._rebase(now)
        account = self._account(asks)
        team = account.team
        # Nobody saves up turns while away: whoever comes begins where those who wait are.
        if not team.waiting:
            team.service = max(team.service, self._virtual)
        if not account.waiting:
            account.service = max(account.service, team.clock)
        ticket = Ticket(asks, account, now)
        lane = self.lanes[asks.lane]
        key = account, asks.batch
        line = lane.lines.get(key)
        if line is None:
            line = lane.lines[key] = Line(account)
        line.tickets.append(ticket)
        self._count(ticket, +1)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Take a waiting call out of the line."""
        self._take_out(ticket)
        ticket.state = "ended"
        self.lanes[ticket.asks.lane].rest()

    def next(self) -> Ticket | None:
        """Give a slot to whose turn it is and return the call, None where nobody can go now."""
        # One that is due to be swapped in has all its slots free.
        busy = [lane for lane in self.lanes.values() if lane.waiting and lane.free]
        if not busy:
            return None
        now = self._clock()
        self._rebase(now)
        if len(busy) > 1:
            busy.sort(key=lambda lane: lane.oldest)
        back = self._held_back(busy, now)
        if self._due in busy:
            busy.insert(0, busy.pop(busy.index(self._due)))
        for lane in busy:
            if self._may_run(lane, back):
                ticket = self._choose(lane, now)
                self._grant(ticket, lane, now)
                return ticket
        return None

    def done(self, ticket: Ticket, tokens: int, output: int) -> None:
        """Take a slot back, and count what was really used instead of what was guessed.

        Args:
            ticket: The call that has ended. Only the first time counts.
            tokens: All that it used, 0 where it was never sent.
            output: Those of them that were generated.
        """
        if ticket.state != "running":
            return
        ticket.state = "ended"
        now = self._clock()
        account, lane = ticket.account, self.lanes[ticket.asks.lane]
        for one in (account, account.team):
            one.running -= 1
            one.charge((tokens - ticket.charged) * ticket.weight)
        lane.running -= 1
        if ticket.late:
            lane.credit -= tokens - ticket.charged
        else:
            lane.credit += tokens * OVERDUE_PART / (1 - OVERDUE_PART)
        lane.credit = min(0.0, lane.credit)
        if tokens:
            self._output += _LEARN * (output - self._output)
            lane.seconds += _LEARN * (now - ticket.granted - lane.seconds)
        lane.rest()
        self._forget()

    def longest(self, lane: str) -> Ticket:
        """Return the last call, batch before interactive, of the user with most calls in a line."""
        counts: dict[Account, int] = {}
        lines = self.lanes[lane].lines
        for (account, _), line in lines.items():
            counts[account] = counts.get(account, 0) + len(line.tickets)
        most = max(counts.values())
        # Of equals the one that came last, so that nobody is pushed out by his like.
        of = [account for account, count in counts.items() if count == most]
        lasts = [lines.get((account, True)) or lines[account, False] for account in of]
        return max((line.tickets[-1] for line in lasts), key=lambda ticket: ticket.since)

    def wait_s(self, lane: str) -> float:
        """Return about how long a call would wait that came last in a line."""
        found = self.lanes[lane]
        return found.seconds * (found.waiting + 1) / max(1, found.slots)

    def states(self) -> list[LaneState]:
        """Return every lane as it stands."""
        now = self._clock()
        weight = self._weight(now)
        return [self._state(lane, now, weight) for lane in self.lanes.values()]

    def _state(self, lane: Lane, now: float, weight: float) -> LaneState:
        waits: dict[str, int] = {}
        for (account, _), line in lane.lines.items():
            waits[account.team.name] = waits.get(account.team.name, 0) + len(line.tickets)
        told = tuple(
            Waiting(
                team=team.name,
                share=team.share,
                waiting=waits.get(team.name, 0),
                running=team.running,
                recent_tokens=max(0, round(team.recent / weight)),
            )
            for team in self.teams.values()
            if team.waiting or team.running or team.recent >= weight
        )
        return LaneState(
            name=lane.name,
            slots=None if lane.slots == UNLIMITED else lane.slots,
            running=lane.running,
            waiting=lane.waiting,
            longest_wait_s=round(now - lane.oldest, 3) if lane.waiting else 0.0,
            teams=told,
        )

    def _account(self, asks: Asks) -> Account:
        team = self.teams.get(asks.team)
        if team is None:
            team = self.teams[asks.team] = Team(asks.team, self._shares.get(asks.team, 1.0))
        account = team.users.get(asks.user)
        if account is None:
            account = team.users[asks.user] = Account(asks.user, team)
        return account

    def _count(self, ticket: Ticket, by: int) -> None:
        ticket.account.waiting += by
        ticket.account.team.waiting += by
        self.lanes[ticket.asks.lane].waiting += by

    def _take_out(self, ticket: Ticket) -> Line:
        lane = self.lanes[ticket.asks.lane]
        key = ticket.account, ticket.asks.batch
        line = lane.lines[key]
        line.tickets.remove(ticket)
        if not line.tickets:
            del lane.lines[key]
        self._count(ticket, -1)
        return line

    # Whose turn it is.

    def _choose(self, lane: Lane, now: float) -> Ticket:
        if lane.credit >= 0:
            late = [line for line in lane.lines.values() if now - line.since >= OVERDUE_S]
            if late:
                # By who went without for longest, not by the oldest call: else one who sent a
                # thousand at once would have them all served before those who came later.
                ticket = min(late, key=lambda line: line.since).tickets[0]
                ticket.late = True
                return ticket
        prompt = [line for (_, batch), line in lane.lines.items() if not batch]
        return fairest(prompt or lane.lines.values()).tickets[0]

    def _grant(self, ticket: Ticket, lane: Lane, now: float) -> None:
        account, team = ticket.account, ticket.account.team
        line = self._take_out(ticket)
        line.served = now
        team.clock = max(team.clock, least(team.users.values(), account))
        self._virtual = max(self._virtual, least(self.teams.values(), team))
        ticket.state, ticket.granted, ticket.weight = "running", now, self._weight(now)
        expected = self._output
        if ticket.asks.output is not None:
            expected = min(expected, ticket.asks.output)
        ticket.charged = ticket.asks.prompt + expected
        for one in (account, team):
            one.running += 1
            one.charge(ticket.charged * ticket.weight)
        if ticket.late:
            lane.credit -= ticket.charged
        lane.running += 1
        if lane.began is None:
            self._begin(lane, now)

    # What has room beside what.

    def _begin(self, lane: Lane, now: float) -> None:
        """Give a lane its turn, and end that of those whose place it takes."""
        lane.began = now
        busy = [one for one in self.lanes.values() if one.running]
        for one in self._on_turn(but=lane):
            if not one.running and not self._fits([one.name, *names(busy)]):
                one.began = None

    def _on_turn(self, but: Lane) -> list[Lane]:
        """Return the other lanes whose turn it is, that which has had it for longest first."""
        found = [one for one in self.lanes.values() if one.began is not None and one is not but]
        return sorted(found, key=since)

    def _in_the_way(self, lane: Lane) -> list[Lane]:
        """Return the lanes whose turn must end before this one's can begin."""
        others = self._on_turn(but=lane)
        if lane.began is not None or not others or self._fits([lane.name, *names(others)]):
            return []
        if not self._fits([lane.name]):
            return []  # not even alone: its own call will be told so
        out: list[Lane] = []
        while others and not self._fits([lane.name, *names(others)]):
            out.append(others.pop(0))
        return out

    def _held_back(self, busy: list[Lane], now: float) -> list[Lane]:
        """Return the lanes that get no slot until the one that is due has been swapped in.

        Of several it is the one whose call has waited longest: one change at a time.
        """
        if self._due and (self._due.began is not None or not self._due.waiting):
            self._due = None
        if self._due:
            return self._in_the_way(self._due)
        for lane in busy:
            way = self._in_the_way(lane)
            if way and now >= max(lane.oldest, *map(since, way)) + TURN_S:
                self._due = lane
                return way
        return []

    def _may_run(self, lane: Lane, back: list[Lane]) -> bool:
        if lane is self._due:
            return not any(one.running for one in back)
        if lane in back or self._in_the_way(lane):
            return False
        if self._due is None:
            return True
        # What is being made room for must not lose it to a third that begins meanwhile.
        stay = [one for one in self._on_turn(but=lane) if one not in back]
        return self._fits([lane.name, self._due.name, *names(stay)])

    # What was used, and how it fades.

    def _weight(self, now: float) -> float:
        return float(2.0 ** ((now - self._epoch) / HALF_LIFE_S))

    def _rebase(self, now: float) -> None:
        """Begin a new epoch before the numbers leave what a float counts exactly."""
        if now - self._epoch < 20 * HALF_LIFE_S:
            return
        by = 1 / self._weight(now)
        self._epoch = now
        self._virtual *= by
        for team in self.teams.values():
            team.scale(by)
            for account in team.users.values():
                account.scale(by)

    def _forget(self) -> None:
        """Drop who neither waits nor runs, once there are very many: their debts with them."""
        if sum(len(team.users) for team in self.teams.values()) <= self.most:
            return
        for name, team in tuple(self.teams.items()):
            team.users = {user: one for user, one in team.users.items() if one.at_hand}
            if not team.at_hand:
                del self.teams[name]
        self.most = max(self.most, 2 * sum(len(t.users) for t in self.teams.values()))
