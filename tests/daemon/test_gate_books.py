"""Holds and settlements: all budgets or none, each in its period, and no window past its cap."""

from collections.abc import Sequence
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_rows import AT_MS, attempt, closed, ended, opened

from tollway.daemon.config.schema import Budget, Period, Scope
from tollway.daemon.errors import LedgerUnavailable
from tollway.daemon.gate.accounts import Calendar, Rolling, account
from tollway.daemon.gate.books import Books, Charge, Full, Limit
from tollway.daemon.ledger.writer import Ledger

ZONE = ZoneInfo("Europe/Berlin")
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
START_MS = 1_800_000_000_000
BOX: Scope = ("box", "")
ML: Scope = ("team", "ml")
ANN: Scope = ("user", "ann")


def limits_of(
    books: Books, budgets: Sequence[tuple[Scope, Budget]], now_ms: int = START_MS
) -> list[Limit]:
    """Return budgets at work, each with an account of its own."""
    return [
        Limit(books.add(account(scope, budget.period, ZONE, now_ms)), budget)
        for scope, budget in budgets
    ]


def charge_of(limits: Sequence[Limit], *scopes: Scope) -> Charge:
    """Return a charge of the scopes of some limits, and of others."""
    own = dict.fromkeys((*(limit.account.scope for limit in limits), *scopes))
    return Charge(tuple(own), limits)


def one(text: str, nanousd: int = 100) -> tuple[Books, Charge, Calendar | Rolling]:
    """Return the books of one budget of the box."""
    books = Books()
    (limit,) = limits_of(books, [(BOX, Budget(nanousd, text))])
    return books, charge_of([limit]), limit.account


def counted(who: Calendar | Rolling, at_ms: int) -> tuple[int, int]:
    """Return what is settled and held as it stands."""
    window = who.now(at_ms)
    return window.settled, window.held


@pytest.mark.parametrize("period", ["day", "24h"])
def test_a_refused_hold_books_nothing(period: str) -> None:
    """All budgets or none: the one that had room is not charged for the one that had not."""
    books = Books()
    budgets = [(BOX, Budget(100, period)), (BOX, Budget(400, "total")), (ML, Budget(60, period))]
    limits = limits_of(books, budgets)
    with pytest.raises(Full) as full:
        books.hold(61, START_MS, charge_of(limits))
    assert full.value.limit is limits[2]
    assert [counted(limit.account, START_MS) for limit in limits] == [(0, 0)] * 3
    assert not books.live


def test_a_hold_counts_in_every_account_of_its_scopes() -> None:
    """Those of a configuration that the call does not know too: a reload may have added them."""
    books = Books()
    mine = limits_of(books, [(BOX, Budget(100, "day"))])
    charge = charge_of(mine, ML, ANN)
    others = limits_of(books, [(ML, Budget(1, "week")), (("user", "ben"), Budget(1, "day"))])
    hold = books.hold(80, START_MS, charge)
    assert counted(others[0].account, START_MS) == (0, 80)
    assert counted(others[1].account, START_MS) == (0, 0)
    hold.settle(30)
    assert [counted(one.account, START_MS) for one in (*mine, *others)] == [
        (30, 0),
        (30, 0),
        (0, 0),
    ]


@pytest.mark.parametrize("period", ["day", "24h"])
def test_what_costs_nothing_is_never_refused(period: str) -> None:
    """Not even where an overrun has passed the cap."""
    books, charge, _ = one(period)
    books.hold(50, START_MS, charge).settle(500)
    with pytest.raises(Full):
        books.hold(1, START_MS, charge)
    books.hold(0, START_MS, charge).settle(0)


def test_a_call_stays_in_the_period_of_its_admission() -> None:
    """A call that ends after midnight is booked on the day on which it was admitted."""
    books, charge, day = one("day")
    assert isinstance(day, Calendar)
    hold = books.hold(80, START_MS, charge)
    old, late = day.current, day.current.end_ms
    books.hold(100, late, charge).settle(10)
    hold.settle(70)
    assert (day.current.settled, day.current.held) == (10, 0)
    assert (old.settled, old.held) == (70, 0)


def test_a_later_attempt_is_held_in_the_first_ones_period() -> None:
    """A fallback after midnight may not spend more than the old day had left."""
    books, charge, day = one("day")
    books.hold(80, START_MS, charge).settle(80)
    for days in (1, 2, 3):
        day.window(START_MS + days * DAY_MS)  # the day turns over
        with pytest.raises(Full):
            books.hold(30, START_MS, charge)
    books.hold(20, START_MS, charge).settle(20)
    assert counted(day, START_MS + 3 * DAY_MS) == (0, 0)


@pytest.mark.parametrize("period", ["day", "24h"])
def test_an_account_that_a_reload_adds_sees_the_holds_that_live(period: str) -> None:
    """A new budget counts the calls that are under way, and what they come to."""
    books = Books()
    hold = books.hold(40, START_MS, Charge((BOX, ANN), []))
    limits = limits_of(books, [(ANN, Budget(50, period))])
    with pytest.raises(Full):
        books.hold(11, START_MS, charge_of(limits))
    hold.settle(25)
    assert counted(limits[0].account, START_MS) == (25, 0)


async def test_an_account_that_could_not_be_read_is_read_the_next_time(tmp_path: Path) -> None:
    """Left as it was it would look unspent. Another zone has days of its own, but no spans."""
    (tmp_path / "junk.db").write_bytes(b"this is no database at all" * 400)
    broken, ledger = Ledger(tmp_path / "junk.db"), Ledger(tmp_path / "ledger.db")
    books = Books(lambda: AT_MS * 1_000_000)
    wanted: list[tuple[Scope, Period]] = [(BOX, "day"), (BOX, "24h")]
    for each in (broken, ledger):
        each.start()
    call = opened(1)
    await ledger.admit(call, attempt(call))
    await ledger.settle(closed(call), ended(attempt(call), 300))
    with pytest.raises(LedgerUnavailable):
        await books.open(wanted, ZONE, broken)
    found = await books.open(wanted, ZONE, ledger)
    assert [who.used(AT_MS) for who in found.values()] == [300, 300]
    again = await books.open(wanted, ZoneInfo("UTC"), ledger)
    assert [again[key] is found[key] for key in wanted] == [False, True]
    for each in (broken, ledger):
        await each.close()


@pytest.mark.parametrize("period", ["day", "24h"])
def test_what_is_left_is_of_the_callers_own_budgets_and_never_below_nothing(period: str) -> None:
    """A provider's budget is no caller's: another target has none. An overrun leaves nothing."""
    books = Books()
    budgets = [(BOX, Budget(100, period)), (("provider", "up"), Budget(10, period))]
    limits = limits_of(books, budgets)
    charge = charge_of(limits)
    assert books.left(charge, START_MS) == 100
    books.hold(5, START_MS, charge).settle(150)
    assert books.left(charge, START_MS) == 0
    assert books.room(limits, START_MS) == (0, limits[1])


def test_a_budget_has_left_what_is_neither_settled_nor_held() -> None:
    """As `tollway budgets` and the metrics tell it."""
    books = Books(lambda: START_MS * 1_000_000)
    limits = limits_of(books, [(BOX, Budget(100, "day"))])
    books.hold(30, START_MS, charge_of(limits)).settle(20)
    books.hold(50, START_MS, charge_of(limits))
    (state,) = books.state(limits)
    assert (state.settled_nanousd, state.held_nanousd, state.left_nanousd) == (20, 50, 30)


def test_a_charge_that_has_turned_over_still_knows_the_day_before() -> None:
    """A later attempt of a call of yesterday takes nothing from today."""
    books, charge, box = one("day")
    books.hold(1, START_MS, charge)
    for _ in range(2):  # the first turns it over, the second finds its windows at hand
        books.hold(10, START_MS + DAY_MS, charge)
    books.hold(5, START_MS, charge)
    assert counted(box, START_MS + DAY_MS) == (0, 20)
    assert box.used(START_MS) == 6


def test_a_charge_sees_a_span_that_a_reload_adds() -> None:
    """What it had at hand before is no longer all that it is booked in."""
    books, charge, box = one("day")
    books.hold(10, START_MS, charge)
    span = books.add(account(BOX, "24h", ZONE, START_MS))
    for held in (20, 30):
        books.hold(10, START_MS, charge)
        assert counted(box, START_MS) == counted(span, START_MS) == (0, held)


def test_a_hold_is_settled_once() -> None:
    """Whoever settles it again, as a fault's way out might, changes nothing."""
    books, charge, box = one("day")
    hold = books.hold(80, START_MS, charge)
    hold.settle(30)
    hold.settle(50)
    assert counted(box, START_MS) == (30, 0)


def test_the_books_clock_never_goes_back() -> None:
    """A clock that steps back does not reopen a period that is over."""
    now = START_MS * 1_000_000
    books = Books(clock=lambda: now)
    assert books.now_ms() == START_MS
    now -= DAY_MS * 1_000_000
    assert books.now_ms() == START_MS
    now += 2 * DAY_MS * 1_000_000
    assert books.now_ms() == START_MS + DAY_MS


# --- rolling spans ---------------------------------------------------------------------------


def test_a_rolling_budget_frees_what_is_older_than_its_span() -> None:
    """Never before the span is over, and at most a bucket later."""
    books, charge, day = one("24h")
    assert isinstance(day, Rolling)
    at_ms = START_MS // day.width_ms * day.width_ms
    books.hold(60, at_ms, charge).settle(60)
    books.hold(40, at_ms + HOUR_MS, charge).settle(40)
    free_ms = at_ms + day.width_ms + DAY_MS
    with pytest.raises(Full):
        books.hold(60, free_ms - 1, charge)
    books.hold(60, free_ms, charge).settle(60)
    with pytest.raises(Full):
        books.hold(1, free_ms, charge)
    # What is told of it: since when spending counts, and when the next of it no longer does.
    span = day.now(free_ms)
    assert span.start_ms == free_ms - DAY_MS
    assert span.end_ms == at_ms + HOUR_MS + day.width_ms + DAY_MS
    assert counted(day, free_ms + DAY_MS + HOUR_MS) == (0, 0)


@pytest.mark.parametrize(
    ("span", "width_ms"),
    [("1m", 1000), ("4m", 5000), ("30m", 15_000), ("1h", MINUTE_MS), ("5h", 5 * MINUTE_MS),
     ("12h", 15 * MINUTE_MS), ("24h", 15 * MINUTE_MS), ("30d", 15 * MINUTE_MS)],
)  # fmt: skip
def test_a_span_is_kept_to_a_forty_eighth(span: str, width_ms: int) -> None:
    """Buckets are fine against the span, and fill quarters of an hour as the roll-ups do."""
    _, _, who = one(span)
    assert isinstance(who, Rolling)
    assert who.width_ms == width_ms
    assert (15 * MINUTE_MS) % width_ms == 0
    assert width_ms * 48 <= who.span_ms


def test_a_hold_that_outlives_the_span_leaves_with_its_bucket() -> None:
    """What counts is when a call was admitted; a late settlement does not come back."""
    books, charge, who = one("1m")
    hold = books.hold(90, START_MS, charge)
    later = START_MS + 2 * MINUTE_MS
    books.hold(90, later, charge).settle(5)
    hold.settle(70)
    assert counted(who, later) == (5, 0)
    assert not books.live


def test_a_later_attempt_counts_all_windows_that_hold_its_call() -> None:
    """What has left the span since the call was admitted still counts against it."""
    books, charge, _ = one("1m")
    books.hold(60, START_MS, charge).settle(60)
    late = START_MS + 50_000
    books.hold(40, late, charge).settle(0)
    now = START_MS + 70_000
    books.hold(100, now, charge).settle(0)  # by now the first one counts no more
    with pytest.raises(Full):
        books.hold(41, late, charge)
    books.hold(40, late, charge).settle(40)
    books.hold(60, now, charge).settle(60)
    with pytest.raises(Full):
        books.hold(1, now, charge)


def test_a_later_attempt_of_long_ago_is_refused_where_nobody_knows() -> None:
    """More than an hour later what counted then has been let go: no proof, no admission."""
    books, charge, who = one("1m")
    books.hold(10, START_MS, charge).settle(10)
    later = START_MS + 3 * HOUR_MS
    books.hold(10, later, charge).settle(10)
    who.now(later)
    with pytest.raises(Full):
        books.hold(1, START_MS, charge)
    books.hold(0, START_MS, charge).settle(0)


def test_a_seed_of_the_ledger_counts_as_if_spent_at_the_end_of_its_quarter() -> None:
    """The roll-ups do not say when within it, so it counts for longer, never for less long."""
    books, charge, hour = one("1h")
    assert isinstance(hour, Rolling)
    quarter = START_MS // (15 * MINUTE_MS) * (15 * MINUTE_MS)
    hour.seed({quarter: 100}, quarter + 20 * MINUTE_MS)
    spent_at_the_earliest = quarter + HOUR_MS
    with pytest.raises(Full):
        books.hold(1, spent_at_the_earliest + 14 * MINUTE_MS, charge)
    books.hold(100, spent_at_the_earliest + 16 * MINUTE_MS, charge)


def test_a_year_of_quarters_is_seeded_in_any_order() -> None:
    """35,040 of them, for which a start has to wait: looked through one by one it took 9 s."""
    _, _, year = one("365d")
    assert isinstance(year, Rolling)
    quarter = START_MS // (15 * MINUTE_MS) * (15 * MINUTE_MS)
    since = quarter - 365 * DAY_MS
    forth = {at: 1 for at in range(since, quarter, 30 * MINUTE_MS)}
    back = {at: 2 for at in range(quarter - 15 * MINUTE_MS, since, -30 * MINUTE_MS)}
    year.seed(forth | back, START_MS)
    assert counted(year, quarter) == (3 * 365 * 48, 0)
    assert counted(year, quarter + 100 * DAY_MS) == (3 * 265 * 48, 0)


def test_a_quarter_that_is_under_way_counts_from_now() -> None:
    """What was spent before a restart was not spent after it."""
    _, _, hour = one("1h")
    assert isinstance(hour, Rolling)
    quarter = START_MS // (15 * MINUTE_MS) * (15 * MINUTE_MS)
    hour.seed({quarter: 100}, quarter + 2 * MINUTE_MS)
    assert counted(hour, quarter + HOUR_MS + 2 * MINUTE_MS) == (100, 0)
    assert counted(hour, quarter + HOUR_MS + 3 * MINUTE_MS) == (0, 0)


@pytest.mark.parametrize("period", ["day", "24h"])
def test_a_clock_that_was_wrong_at_the_start_grants_nothing(period: str) -> None:
    """Started in 1970, set right later: what the ledger has of today counts then, as it should."""
    early = 3 * DAY_MS
    quarter = START_MS // (15 * MINUTE_MS) * (15 * MINUTE_MS)
    books = Books()
    (limit,) = limits_of(books, [(BOX, Budget(100, period))], early)
    who, charge = limit.account, charge_of([limit])
    if isinstance(who, Rolling):
        who.seed({quarter: 90}, early)
    else:
        who.seed(who.current, 90, {quarter: 90})
    for at_ms in (early, quarter, START_MS):
        with pytest.raises(Full):
            books.hold(11, at_ms, charge)
    books.hold(10, START_MS, charge)
    books.hold(100, START_MS + 2 * DAY_MS, charge)


steps = st.lists(
    st.tuples(
        st.integers(0, 40_000),  # milliseconds since the step before
        st.integers(1, 60),  # what it holds
        st.integers(0, 60),  # what it then costs, at most its hold
        st.integers(0, 50_000),  # how long before now it was admitted
    ),
    max_size=30,
)


@given(steps)
@settings(max_examples=50)
def test_no_minute_has_more_in_it_than_the_cap(steps: list[tuple[int, int, int, int]]) -> None:
    """Wherever the minute begins; later attempts of older calls included."""
    books, charge, _ = one("1m")
    now, known = START_MS, START_MS
    admitted: list[tuple[int, int]] = []
    for wait, amount, cost, age in steps:
        now += wait
        at_ms = max(now - age, known)
        try:
            hold = books.hold(amount, at_ms, charge)
        except Full:
            near = [spent for at, spent in admitted if at > at_ms - 63_000]
            assert sum(near) + amount > 100, "refused though there was room"
            continue
        hold.settle(min(cost, amount))
        admitted.append((at_ms, min(cost, amount)))
        for end, _ in admitted:
            assert sum(spent for at, spent in admitted if end - MINUTE_MS < at <= end) <= 100


@given(
    periods=st.lists(
        st.sampled_from(["hour", "day", "month", "total", "24h", "2h"]), min_size=1, max_size=4
    ),
    steps=st.lists(
        st.tuples(
            st.integers(0, 3 * HOUR_MS), st.integers(0, 60), st.integers(0, 3), st.booleans()
        ),
        max_size=25,
    ),
)
@settings(max_examples=60, deadline=None)
def test_a_charge_that_is_used_again_holds_as_a_new_one_does(
    periods: list[str], steps: list[tuple[int, int, int, bool]]
) -> None:
    """What is kept with a charge changes no answer: over turns, late calls and new accounts."""
    kept, fresh = Books(), Books()
    budgets = [(BOX if at % 2 else ANN, Budget(100, text)) for at, text in enumerate(periods)]
    limits = {books: limits_of(books, budgets) for books in (kept, fresh)}
    again = charge_of(limits[kept])
    now_ms = START_MS
    for on_ms, amount, cost, comes in steps:
        now_ms += on_ms
        if comes:
            for books in (kept, fresh):
                books.add(account(ANN, "day", ZONE, now_ms))
        at_ms = now_ms - (HOUR_MS if cost == 3 else 0)
        told = []
        for books, charge in ((kept, again), (fresh, charge_of(limits[fresh]))):
            try:
                hold = books.hold(amount, at_ms, charge)
            except Full as full:
                told.append(limits[books].index(full.limit))
            else:
                told.append(-1)
                if cost:
                    hold.settle(cost)
        assert told[0] == told[1]
        left = kept.left(again, now_ms)
        assert left == fresh.room(limits[fresh], now_ms)[0]
        assert [counted(limit.account, now_ms) for limit in limits[kept]] == [
            counted(limit.account, now_ms) for limit in limits[fresh]
        ]
