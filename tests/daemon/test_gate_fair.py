"""Who goes next at what is scarce: shares, light users, classes, aging, swaps, by virtual time."""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway.daemon.gate.fair import (
    OVERDUE_PART,
    OVERDUE_S,
    TURN_S,
    Pool,
    anything_fits,
)
from tollway.daemon.gate.lanes import Asks, Ticket


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Box:
    """A pool whose calls take the time that they say, at so many tokens a second."""

    def __init__(
        self,
        slots: int | dict[str, int] = 1,
        shares: dict[str, float] | None = None,
        fits: Callable[[Collection[str]], bool] = anything_fits,
        rate: float = 100.0,
    ) -> None:
        self.clock = Clock()
        self.pool = Pool(self.clock, fits)
        self.slots = {"m": slots} if isinstance(slots, int) else slots
        self.pool.configure(self.slots, shares or {})
        self.rate = rate
        self.served: Counter[str] = Counter()  # tokens by team
        self.waits: list[tuple[Ticket, float]] = []  # of those granted
        self.order: list[Ticket] = []
        self.sizes: dict[Ticket, int] = {}
        self._ends: list[tuple[float, int, Ticket]] = []
        self._comes: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0

    def call(self, asks: Asks, tokens: int) -> Ticket:
        """Let a call come now, that will generate so many tokens."""
        ticket = self.pool.join(asks)
        self.sizes[ticket] = tokens
        self._start()
        return ticket

    def later(self, at: float, what: Callable[[], object]) -> None:
        """Do something at a time."""
        self._count += 1
        heapq.heappush(self._comes, (at, self._count, what))

    def run(self, until: float) -> None:
        """Let time pass."""
        while True:
            nexts = [queue[0][0] for queue in (self._ends, self._comes) if queue]
            if not nexts or min(nexts) > until:
                break
            self.clock.now = min(nexts)
            if self._ends and self._ends[0][0] == self.clock.now:
                _, _, ticket = heapq.heappop(self._ends)
                size = self.sizes[ticket]
                self.served[ticket.asks.team] += size
                self.pool.done(ticket, size + ticket.asks.prompt, size)
            else:
                heapq.heappop(self._comes)[2]()
            self._start()
        self.clock.now = until

    def _start(self) -> None:
        while (ticket := self.pool.next()) is not None:
            self.order.append(ticket)
            self.waits.append((ticket, self.clock.now - ticket.since))
            self._count += 1
            took = self.sizes[ticket] / self.rate
            heapq.heappush(self._ends, (self.clock.now + took, self._count, ticket))

    def keep(self, team: str, user: str, deep: int, size: Callable[[], int]) -> None:
        """Keep so many calls of a user in the line at any time, as a script does."""

        def top_up() -> None:
            account = self.pool.teams.get(team)
            mine = account.users.get(user) if account else None
            for _ in range(deep - (mine.waiting if mine else 0)):
                self.call(Asks("m", team, user), size())
            self.later(self.clock.now + 0.5, top_up)

        top_up()


SHARES = {"one": 1.0, "two": 2.0, "four": 4.0}


@pytest.mark.parametrize(("slots", "seed"), [(1, 1), (1, 2), (8, 3)])
def test_served_tokens_follow_the_shares_though_one_user_floods(slots: int, seed: int) -> None:
    """Shares 1:2:4 get 1:2:4 of the tokens within 5 %, whatever each team's calls look like."""
    dice = random.Random(seed)  # noqa: S311 - a test's dice
    box = Box(slots, SHARES)
    # The smallest share has a user who floods, with the longest calls of all.
    box.keep("one", "flood", 300, lambda: dice.randrange(50, 2000))
    box.keep("one", "calm", 2, lambda: dice.randrange(10, 300))
    box.keep("two", "a", 20, lambda: dice.randrange(10, 100))
    box.keep("two", "b", 5, lambda: dice.randrange(10, 900))
    box.keep("four", "c", 40, lambda: dice.randrange(10, 500))
    box.run(2 * 3600)
    total = sum(box.served.values())
    for team, share in SHARES.items():
        assert box.served[team] / total == pytest.approx(share / 7, rel=0.05), team


def test_users_of_a_team_share_it_alike() -> None:
    """Below a team each user has one share, however many calls each of them sends."""
    dice = random.Random(3)  # noqa: S311
    box = Box(2)
    users: Counter[str] = Counter()
    for user, deep, most in (("flood", 300, 1000), ("calm", 3, 200), ("third", 10, 50)):
        box.keep("t", user, deep, lambda most=most: dice.randrange(10, most))  # type: ignore[misc]
    box.run(3600)
    for ticket in box.order[:-2]:
        users[ticket.asks.user] += box.sizes[ticket]
    total = sum(users.values())
    for user, tokens in users.items():
        assert tokens / total == pytest.approx(1 / 3, rel=0.05), user


@pytest.mark.parametrize("team", ["four", "one"])
def test_a_light_user_waits_for_about_one_call(team: str) -> None:
    """Who calls now and then is next, in a team of one's own and beside the user who floods."""
    dice = random.Random(4)  # noqa: S311
    box = Box(1, SHARES)
    box.keep("one", "flood", 200, lambda: 500)
    if team != "one":
        box.keep("two", "flood", 200, lambda: 500)
    for at in range(60, 3600, 120):
        light = Asks("m", team, "light", prompt=20, output=100)
        box.later(at + 5 * dice.random(), lambda light=light: box.call(light, 50))  # type: ignore[misc]
    box.run(3600)
    waits = sorted(wait for ticket, wait in box.waits if ticket.asks.user == "light")
    flooded = [wait for ticket, wait in box.waits if ticket.asks.user == "flood"]
    one_call_s = 500 / box.rate
    assert len(waits) == 30
    assert waits[len(waits) // 2] <= one_call_s
    assert waits[-1] <= 2 * one_call_s  # what runs, and one that was overdue
    assert min(flooded[-50:]) > 20 * waits[-1]


def test_who_was_away_saves_up_no_turns() -> None:
    """A night of silence is no claim: two who compete get alike from then on."""
    box = Box(1)
    box.keep("t", "busy", 50, lambda: 100)
    box.run(3600)
    box.keep("t", "back", 50, lambda: 100)
    before = len(box.order)
    box.run(3600 + 60)
    since = Counter(ticket.asks.user for ticket in box.order[before:])
    assert abs(since["busy"] - since["back"]) <= 2


def test_of_equals_goes_first_who_used_less_of_late() -> None:
    """Where shares decide nothing, what was used in the last while does."""
    box = Box(1)
    box.call(Asks("m", "t", "much"), 5000)
    box.run(60)
    box.call(Asks("m", "t", "third"), 100)
    first = box.call(Asks("m", "t", "much"), 10)
    second = box.call(Asks("m", "t", "little"), 10)
    box.run(120)
    assert box.order[-2:] == [second, first]


def test_true_tokens_take_the_place_of_the_guess() -> None:
    """A long answer that looked short is paid for by whoever had it, at its end."""
    box = Box(1, rate=10_000)
    box.call(Asks("m", "t", "long", output=10), 3000)
    for _ in range(40):
        box.call(Asks("m", "t", "long", output=10), 10)
        box.call(Asks("m", "t", "short", output=100), 100)
    box.run(60)
    first = [ticket.asks.user for ticket in box.order[1:21]]
    assert first.count("short") == 20
    assert box.pool.states()[0].teams[0].recent_tokens > 4000


def test_batch_comes_after_interactive_whoever_asks() -> None:
    """The class decides before the shares: a batch of the lightest user waits all the same."""
    box = Box(1, SHARES)
    box.call(Asks("m", "one", "x"), 100)
    batch = [box.call(Asks("m", "four", "b", batch=True), 100) for _ in range(3)]
    prompt = [box.call(Asks("m", "one", "x"), 100) for _ in range(5)]
    box.run(20)
    assert box.order[1:] == [*prompt, *batch]


def test_batch_is_not_starved_by_interactive_calls() -> None:
    """What went without for long gets its part of the tokens, and no more."""
    box = Box(1)
    box.keep("t", "a", 5, lambda: 100)
    for _ in range(2000):
        box.call(Asks("m", "t", "b", batch=True), 100)
    box.run(3600)
    batch = [ticket for ticket in box.order if ticket.asks.batch]
    assert len(batch) >= 3600 / OVERDUE_S * 0.9 - 1
    assert len(batch) / len(box.order) <= OVERDUE_PART * 1.1


def test_newcomers_without_end_starve_nobody() -> None:
    """Each stranger begins level with who waits: the overdue part bounds what that can do."""
    box = Box(1, {"busy": 1.0})
    names = iter(range(10**6))

    def stranger() -> None:
        box.call(Asks("m", "new", f"u{next(names)}"), 100)
        box.later(box.clock.now + 1, stranger)  # as fast as they can be served

    stranger()
    for _ in range(10):
        box.call(Asks("m", "new", "old"), 400)
    box.run(1200)
    old = [wait for ticket, wait in box.waits if ticket.asks.user == "old"]
    assert len(old) == 10


# What cannot be in memory together.


def one_at_a_time(names: Collection[str]) -> bool:
    """Return whether a box with room for one model holds these."""
    return len(set(names)) <= 1


def lanes(box: Box) -> list[str]:
    """Return the models in the order of their turns."""
    found: list[str] = []
    for ticket in box.order:
        if not found or found[-1] != ticket.asks.lane:
            found.append(ticket.asks.lane)
    return found


@pytest.mark.parametrize("slots", [1, 3])
def test_a_loaded_model_goes_on_before_another_is_swapped_in(slots: int) -> None:
    """Calls for two models by turns would load one for each call; they go in turns of a while."""
    box = Box({"a": slots, "b": slots}, fits=one_at_a_time)
    for at in range(200 * slots):
        call = partial(box.call, Asks("ab"[at % 2], "t", "uv"[at % 2]), 100)
        box.later(at / slots / 2, call)
    box.run(1000)
    assert len(box.order) == 200 * slots
    assert 4 <= len(lanes(box)) <= 200 / TURN_S + 3


@pytest.mark.parametrize("slots", [1, 2])
def test_a_model_that_waits_to_be_swapped_in_is_not_starved(slots: int) -> None:
    """An endless line for the loaded one ends its turn, and the other gets one."""
    box = Box({"a": slots, "b": slots}, fits=one_at_a_time)

    def more() -> None:
        box.call(Asks("a", "t", "u"), 200)
        box.later(box.clock.now + 0.7, more)

    more()
    box.later(10, lambda: box.call(Asks("b", "t", "v"), 100))
    box.run(200)
    waits = [wait for ticket, wait in box.waits if ticket.asks.lane == "b"]
    assert len(waits) == 1
    assert waits[0] <= TURN_S + 2  # its time, and the end of what ran
    assert box.order[-1].asks.lane == "a"


def test_an_idle_model_makes_room_at_once() -> None:
    """Nobody waits for who does not work."""
    box = Box({"a": 1, "b": 1}, fits=one_at_a_time)
    box.call(Asks("a", "t", "u"), 100)
    box.run(5)
    ticket = box.call(Asks("b", "t", "u"), 100)
    assert ticket.state == "running"


def test_what_room_is_made_for_does_not_lose_it_to_a_third() -> None:
    """`b` needs the box alone; small `c` fits beside `a` and would keep it out for ever."""

    def fits(names: Collection[str]) -> bool:
        return "b" not in names or set(names) == {"b"}

    box = Box({"a": 1, "b": 1, "c": 1}, fits=fits)

    def more() -> None:
        for lane in ("a", "c"):
            box.call(Asks(lane, "t", "u"), 100)
        box.later(box.clock.now + 0.9, more)

    more()
    box.later(5, lambda: box.call(Asks("b", "t", "v"), 100))
    box.run(120)
    waits = [wait for ticket, wait in box.waits if ticket.asks.lane == "b"]
    assert len(waits) == 1
    assert waits[0] <= TURN_S + 2


def test_a_model_that_fits_nowhere_is_not_kept_waiting() -> None:
    """Its own call is told so when it is loaded; to wait would not help."""
    box = Box({"a": 1, "b": 1}, fits=lambda names: "b" not in names)
    box.call(Asks("a", "t", "u"), 1000)
    assert box.call(Asks("b", "t", "u"), 10).state == "running"


# Reloads.


def test_new_slots_and_shares_hold_from_the_next_grant() -> None:
    """More slots serve at once; fewer are reached as calls end; no limit serves all."""
    box = Box(1)
    tickets = [box.call(Asks("m", "t", "u"), 100) for _ in range(8)]
    box.pool.configure({"m": 3}, {"t": 5.0})
    box.run(0.5)
    assert box.pool.next() is not None and box.pool.next() is not None
    assert box.pool.next() is None
    box.pool.configure({"m": 1}, {})
    box.pool.done(tickets[0], 0, 0)
    assert box.pool.next() is None
    box.pool.configure({}, {})
    assert sum(box.pool.next() is not None for _ in range(8)) == 5
    assert box.pool.states()[0].slots is None
    for ticket in tickets:
        box.pool.done(ticket, 0, 0)
    box.pool.configure({}, {})
    assert box.pool.lanes == {}


# Any order of things.

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["join", "join", "join", "leave", "end", "end", "wait"]),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["one", "two"]),
        st.sampled_from(["u", "v", "w"]),
        st.booleans(),
        st.integers(0, 40),
    ),
    max_size=80,
)


def _check(pool: Pool, tickets: Sequence[Ticket], slots: dict[str, int]) -> None:
    """Check what must hold after every step."""
    for name, lane in pool.lanes.items():
        mine = [ticket for ticket in tickets if ticket.asks.lane == name]
        assert lane.running == sum(ticket.state == "running" for ticket in mine) <= slots[name]
        assert lane.waiting == sum(ticket.state == "waiting" for ticket in mine)
    for team in pool.teams.values():
        for party in (team, *team.users.values()):
            assert party.waiting >= 0 and party.running >= 0
        assert team.waiting == sum(user.waiting for user in team.users.values())
        assert team.running == sum(user.running for user in team.users.values())


def _steps(
    pool: Pool, clock: Clock, actions: Sequence[tuple[object, ...]]
) -> Iterator[list[Ticket]]:
    """Take each action, then give out what can be given; yield all tickets so far."""
    tickets: list[Ticket] = []
    for what, lane, team, user, batch, number in actions:
        assert isinstance(number, int)
        waiting = [ticket for ticket in tickets if ticket.state == "waiting"]
        running = [ticket for ticket in tickets if ticket.state == "running"]
        if what == "join":
            tickets.append(pool.join(Asks(str(lane), str(team), str(user), batch=bool(batch))))
        elif what == "leave" and waiting:
            pool.leave(waiting[number % len(waiting)])
        elif what == "end" and running:
            pool.done(running[number % len(running)], 100 * number, 50 * number)
        elif what == "wait":
            clock.now += number
        yield tickets


@settings(max_examples=50, deadline=None)
@given(ACTIONS, st.booleans())
def test_no_slot_is_lost_or_doubled_and_none_rests_while_somebody_can_go(
    actions: list[tuple[object, ...]], alone: bool
) -> None:
    """After any joins, leaves and ends: counts agree, and a free slot has nobody who may use it."""
    clock = Clock()
    pool = Pool(clock, one_at_a_time if alone else anything_fits)
    slots = {"a": 1, "b": 2, "c": 3}
    pool.configure(slots, {"two": 3.0})
    tickets: list[Ticket] = []
    for tickets in _steps(pool, clock, actions):
        while (ticket := pool.next()) is not None:
            lane = pool.lanes[ticket.asks.lane]
            same = [one for one in tickets if one.asks.lane == lane.name and one.state == "waiting"]
            if ticket.asks.batch and not ticket.late:
                assert all(one.asks.batch for one in same)
            if ticket.late:
                assert clock.now - ticket.since >= OVERDUE_S
            _check(pool, tickets, slots)
        _check(pool, tickets, slots)
        if not alone:
            for lane in pool.lanes.values():
                assert not (lane.free and lane.waiting)
        elif not any(lane.running for lane in pool.lanes.values()):
            assert not any(lane.waiting for lane in pool.lanes.values())
    # Whoever is left gets a slot once those before have ended: nobody waits for ever.
    for _ in range(2 * len(tickets) + 1):
        clock.now += 1
        while pool.next():
            pass
        for ticket in tickets:
            pool.done(ticket, 10, 5)
    assert all(ticket.state == "ended" for ticket in tickets)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(2, 12), st.integers(0, 1000), st.booleans())
def test_the_head_of_a_line_waits_no_longer_than_the_bound(
    slots: int, accounts: int, seed: int, batch: bool
) -> None:
    """Overdue, and an eighth of the tokens for those who were overdue before: then it goes."""
    dice = random.Random(seed)  # noqa: S311
    box = Box(slots, {"t0": 8.0})
    longest = 400
    for number in range(accounts):
        box.keep(f"t{number % 3}", f"u{number}", 3, lambda: dice.randrange(1, longest))
    late: list[Ticket] = []
    ask = Asks("m", "t1", "victim", batch=batch)
    box.later(100, lambda: late.append(box.call(ask, 10)))
    for until in range(150, 2001, 50):
        box.run(until)
        if waited := [wait for ticket, wait in box.waits if ticket in late]:
            break
    (wait,) = waited
    one_call_s = longest / box.rate
    assert wait <= OVERDUE_S + (accounts + 1) / OVERDUE_PART * one_call_s


def test_the_one_with_most_calls_gives_way_where_a_line_is_full() -> None:
    """Its last call, batch first; a user with few is never pushed out for one with many."""
    pool = Pool(Clock())
    pool.configure({"m": 1}, {})
    mine = [pool.join(Asks("m", "t", "many", batch=batch)) for batch in (False, True, False)]
    few = pool.join(Asks("m", "t", "few"))
    assert pool.longest("m") is mine[1]
    pool.leave(mine[1])
    assert pool.longest("m") is mine[2]
    pool.leave(mine[2])
    assert pool.longest("m") in (mine[0], few)


def test_years_of_work_leave_the_numbers_finite_and_the_order_right() -> None:
    """What counts ever more is counted from a new beginning now and then."""
    box = Box(1)
    for _ in range(400):
        box.call(Asks("m", "t", "a"), 100)
        box.run(box.clock.now + 86_400)
    box.call(Asks("m", "t", "a"), 100)
    late = box.call(Asks("m", "t", "a"), 100)
    light = box.call(Asks("m", "t", "b"), 100)
    box.run(box.clock.now + 60)
    assert box.order[-2:] == [light, late]
    assert all(one.service < 10**9 for team in box.pool.teams.values() for one in (team,))


def test_many_names_do_not_stay_for_ever() -> None:
    """Who neither waits nor runs is forgotten once there are very many."""
    box = Box(1)
    box.pool.most = 50
    for number in range(300):
        box.call(Asks("m", f"t{number}", "u"), 10)
        box.run(box.clock.now + 1)
    assert sum(len(team.users) for team in box.pool.teams.values()) <= 60
