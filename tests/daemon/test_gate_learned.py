"""`hold = "expected"`: what 999 of 1,000 prompts of a model came to is held, and no proof."""

import pytest
from gateway import DONE, HEAD, INPUT, OUTPUT, body, chunk, gateway, whole
from hypothesis import given
from hypothesis import strategies as st
from upstreams import reads, says

from tollway.daemon.gate import explain as explaining
from tollway.daemon.gate.explanation import Question
from tollway.daemon.gate.learned import LEAST_CALLS, Learned
from tollway.daemon.state import Daemon

ANSWERS = [[reads(), says(whole())]]
EXPECTED = 'hold = "expected"'


def teach(daemon: Daemon, tokens: int = 250) -> None:
    """Teach that prompts of `up/m` come to so many thousandths of their bound."""
    for _ in range(LEAST_CALLS):
        daemon.learned.record("up/m", 1000, tokens)


def test_nothing_is_expected_before_a_thousand_calls() -> None:
    """Too few calls tell nothing of the thousandth one."""
    learned = Learned()
    for _ in range(LEAST_CALLS - 1):
        learned.record("a/b", 1000, 250)
    assert learned.share("a/b") is None
    learned.record("a/b", 1000, 250)
    assert learned.share("a/b") == 250
    assert learned.share("a/c") is None


@given(st.lists(st.tuples(st.integers(1, 2000), st.integers(1, 900)), min_size=2, max_size=8))
def test_all_but_one_in_a_thousand_stay_within_the_share(prompts: list[tuple[int, int]]) -> None:
    """Rounded up to whole thousandths, never over the bound itself."""
    learned = Learned()
    prompts.append((1, LEAST_CALLS))
    for tokens, times in prompts:
        for _ in range(times):
            learned.record("a/b", 1500, tokens)
    share = learned.share("a/b")
    assert share is not None
    over = sum(times for tokens, times in prompts if min(tokens, 1500) * 1000 > share * 1500)
    assert over * 1000 <= sum(times for _, times in prompts)
    assert share <= 1000


def test_a_model_that_changes_is_learned_anew() -> None:
    """Half of what is known is forgotten from time to time."""
    learned = Learned()
    for _ in range(200_000):
        learned.record("a/b", 1000, 250)
    for _ in range(2000):
        learned.record("a/b", 1000, 700)
    assert learned.share("a/b") == 700


@pytest.mark.parametrize(
    ("server", "route", "less"),
    [("", "", False), (EXPECTED, "", True), ("", EXPECTED, True),
     (EXPECTED, 'hold = "strict"', False)],
)  # fmt: skip
async def test_a_route_or_the_server_chooses(server: str, route: str, less: bool) -> None:
    """The proof is held unless the owner says otherwise, and then only once enough is known."""
    more = f'[routes.r]\nto = ["up/m"]\n{route}\n'
    async with gateway(ANSWERS, server=server, more=more) as gate:
        strict = await gate.row(await gate.ask(body(model="r")))
        daemon = gate.daemon.server.daemon
        teach(daemon)
        other = await gate.row(await gate.ask(body(model="r")))
        was, now = strict.attempts[0].hold_nanousd, other.attempts[0].hold_nanousd
        if less:
            assert now - 10 * OUTPUT <= (was - 10 * OUTPUT) // 4 + INPUT
        else:
            assert now == was
        told = await explaining.explain(daemon.gate, Question(model="r", key="laptop"))
        assert told.targets[0].hold == ("expected" if less else "strict")


async def test_what_passes_an_expected_hold_is_booked_and_nobodys_fault() -> None:
    """The hold was a guess: the stream is not ended, and no overrun is laid on the provider."""
    used = b'data: {"choices":[],"usage":{"prompt_tokens":900,"completion_tokens":3}}\n\n'
    script = [reads(), says(HEAD + chunk("Hi", "stop") + used + DONE)]
    async with gateway([script], server=EXPECTED) as gate:
        teach(gate.daemon.server.daemon, 10)
        row = await gate.row(await gate.ask(body(stream=True)))
        assert (row.call.ending, row.call.cost_nanousd) == ("answered", 900 * INPUT + 3 * OUTPUT)
        assert row.call.cost_nanousd > row.attempts[0].hold_nanousd
        assert row.attempts[0].overrun_nanousd == 0
        assert gate.held() == 0


async def test_calls_teach_what_they_used() -> None:
    """Each answer with a report is one more; those of images, without one, or estimated are not."""
    async with gateway(ANSWERS) as gate:
        await gate.row(await gate.ask())
        (known,) = gate.daemon.server.daemon.learned._targets.items()
        assert (known[0], known[1].calls) == ("up/m", 1)
