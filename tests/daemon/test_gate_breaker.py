"""The circuit breaker on a clock of its own: what opens it, what closes it, and for how long."""

from hypothesis import given
from hypothesis import strategies as st

from tollway.daemon.gate.breaker import Breaker, Entry, Rules

RULES = Rules(failures=3, window_s=30.0, rest_s=10.0, longest_s=60.0)
T = 1000.0


def failing(breaker: Breaker, times: int, now: float = T) -> None:
    """Let so many calls fail, all within a moment."""
    for _ in range(times):
        breaker.fail(breaker.begin(now), now, "HTTP 500")


def opened() -> Breaker:
    """Return a breaker that has just opened."""
    breaker = Breaker(RULES)
    failing(breaker, 3)
    assert breaker.state(T) == "open"
    return breaker


def test_failures_enough_within_the_window_open_it() -> None:
    """Two are bad luck; the third opens it, and says so once."""
    breaker = Breaker(RULES)
    failing(breaker, 2)
    assert breaker.state(T) == "closed"
    assert breaker.fail(breaker.begin(T), T, "HTTP 503")
    assert (breaker.state(T), breaker.why) == ("open", "HTTP 503")
    assert not breaker.ready(T + 9.9)


def test_failures_far_apart_do_not() -> None:
    """What the window has left behind is forgotten."""
    breaker = Breaker(RULES)
    for number in range(20):
        failing(breaker, 1, T + number * 31)
    assert breaker.state(T + 20 * 31) == "closed"


def test_a_target_that_answers_most_calls_stays_closed() -> None:
    """Two failures after each three answers are an upstream under load, not one that is away."""
    breaker = Breaker(RULES)
    for _ in range(30):
        for _ in range(3):
            breaker.succeed(breaker.begin(T), T)
        failing(breaker, 2)
    assert breaker.state(T) == "closed"
    for _ in range(31):
        failing(breaker, 1)
        breaker.succeed(breaker.begin(T), T)
    assert breaker.state(T) == "closed"


def test_failures_in_a_row_open_it_however_many_answers_came_before() -> None:
    """A busy target that dies is not asked for as long as it was well."""
    breaker = Breaker(RULES)
    for _ in range(1000):
        breaker.succeed(breaker.begin(T), T)
    failing(breaker, 2)
    assert breaker.state(T) == "closed"
    failing(breaker, 1)
    assert breaker.state(T) == "open"


def test_half_of_the_calls_open_it_without_a_row() -> None:
    """One that fails every other call is no place to go first."""
    breaker = Breaker(RULES)
    for _ in range(3):
        breaker.succeed(breaker.begin(T), T)
        failing(breaker, 1)
    assert breaker.state(T) == "open"


def test_after_its_rest_one_call_at_a_time_is_on_trial() -> None:
    """A provider that comes back is not met by all who waited for it."""
    breaker = opened()
    now = T + 10
    assert breaker.state(now) == "half-open"
    trial = breaker.begin(now)
    assert trial.trial and not breaker.ready(now)
    assert not breaker.begin(now).trial
    assert breaker.succeed(trial, now + 1)
    assert breaker.state(now + 1) == "closed" and breaker.idle


def test_each_trial_that_fails_doubles_the_rest_up_to_the_longest() -> None:
    """10, 20, 40 and then 60 seconds."""
    breaker, now = opened(), T
    for rest in (10, 20, 40, 60, 60):
        assert breaker.until_s - now == rest
        now = breaker.until_s
        breaker.fail(breaker.begin(now), now, "HTTP 500")
    assert breaker.state(now) == "open"


def test_a_trial_whose_client_left_gives_its_turn_back() -> None:
    """It told nothing, so the next call is the trial."""
    breaker = opened()
    breaker.drop(breaker.begin(T + 10))
    assert breaker.ready(T + 10)


def test_what_was_sent_before_it_opened_says_nothing() -> None:
    """An answer of an older call does not close it, nor does its failure lengthen the rest."""
    breaker = opened()
    assert not breaker.succeed(Entry(T - 1), T + 1)
    breaker.fail(Entry(T - 1), T + 1, "HTTP 500")
    assert (breaker.state(T + 1), breaker.until_s) == ("open", T + 10)


def test_an_answer_while_it_is_open_closes_it() -> None:
    """Who had no other place to go has shown that it serves."""
    breaker = opened()
    assert breaker.succeed(breaker.begin(T + 1), T + 2)
    assert breaker.state(T + 2) == "closed"


def test_a_rest_that_was_asked_for_is_as_long_as_asked() -> None:
    """With a hint its length; without, the rules' own, doubled each time."""
    breaker = Breaker(RULES)
    assert breaker.rest(breaker.begin(T), T, "rate limited", 2.5)
    assert breaker.until_s == T + 2.5
    other = Breaker(RULES)
    now = T
    for rest in (10, 20, 40, 60):
        other.rest(other.begin(now), now, "rate limited", None)
        assert other.until_s - now == rest
        now = other.until_s


def test_all_who_were_under_way_lengthen_a_rest_once() -> None:
    """Fifty calls that a key is refused at once are one refusal; the next trial's doubles it."""
    breaker = Breaker(RULES)
    together = [breaker.begin(T) for _ in range(50)]
    for entry in together:
        breaker.rest(entry, T + 1, "refused (HTTP 401)", None)
    assert breaker.until_s == T + 11
    breaker.rest(breaker.begin(T + 11), T + 12, "refused (HTTP 401)", None)
    assert breaker.until_s == T + 32


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "succeed", "fail", "drop", "rest", "hint"]),
        st.floats(0, 40),
        st.integers(0, 5),
    ),
    max_size=80,
)


@given(steps=STEPS)
def test_whatever_happened_it_is_never_shut_for_ever(steps: list[tuple[str, float, int]]) -> None:
    """One trial at most at a time; when all calls have ended and the rest is over, it is ready."""
    breaker, now = Breaker(RULES), T
    running: list[Entry] = []
    for what, passes, which in steps:
        now += passes
        if what == "begin" or not running:
            ready = breaker.ready(now)
            running.append(breaker.begin(now))
            if breaker.state(now) == "half-open":
                assert running[-1].trial == ready
            continue
        entry = running.pop(which % len(running))
        match what:
            case "succeed":
                breaker.succeed(entry, now)
            case "fail":
                breaker.fail(entry, now, "x")
            case "drop":
                breaker.drop(entry)
            case _:
                breaker.rest(entry, now, "x", 50.0 if what == "hint" else None)
        assert breaker.until_s <= now + RULES.longest_s
    for entry in running:
        breaker.drop(entry)
    assert breaker.ready(now + RULES.longest_s)


@given(ends=st.lists(st.tuples(st.booleans(), st.floats(0, 5)), max_size=60))
def test_it_opens_by_no_fewer_failures_than_it_says(ends: list[tuple[bool, float]]) -> None:
    """Of the calls of the last window at least three failed, and half, when it opens."""
    breaker, now = Breaker(RULES), T
    told: list[tuple[float, bool]] = []
    for good, passes in ends:
        now += passes
        entry = breaker.begin(now)
        told.append((now, good))
        if good:
            breaker.succeed(entry, now)
        elif breaker.fail(entry, now, "x"):
            recent = [one for at, one in told if at > now - RULES.window_s]
            assert recent.count(False) >= RULES.failures
            return
