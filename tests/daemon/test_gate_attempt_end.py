"""What an attempt comes to, by its ending, its usage and its time."""

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from tollway.daemon.gate.attempt import Attempt
from tollway.providers.canon import Call, Usage
from tollway.providers.catalog import KINDS
from tollway.providers.dialects.table import DIALECTS
from tollway.providers.prices import by_the_hour

HOLD = 100_000
# 1,000 nano-dollars a millisecond.
PRICE = by_the_hour(Decimal("3.6"))
USED = Usage(input=7, output=3)


class Given:
    """What was given back, in its order."""

    def __init__(self) -> None:
        self.back: list[object] = []

    def settle(self, cost: object) -> None:
        """Take a cost, or tokens."""
        self.back.append(cost)

    def release(self, usage: object) -> None:
        """Take a slot back with what was used in it."""
        self.back.append(usage)


def attempt(gpu_ms: int, *, deadline_ms: int | None, binding: bool = True) -> Any:
    """Return an attempt at a model of this box that is charged by its time."""
    call = Call("chat", "openai_chat", "m", b"{}", stream=True)
    bound = SimpleNamespace(service="")
    around: dict[str, Any] = {
        "opened": SimpleNamespace(call_id="c", number=1, hold_nanousd=HOLD),
        "target": SimpleNamespace(kind=KINDS["local"], local=True, provider="local"),
        "version": SimpleNamespace(dialect=DIALECTS["openai_chat"].dialect, call=call),
        "worst": SimpleNamespace(output_tokens=9, deadline_ms=deadline_ms, bound=bound),
        "hold": Given(),
    }
    made: Any = Attempt(price=PRICE, **around)
    made.answer = SimpleNamespace(gpu_ms=gpu_ms, usage_so_far=USED, status=200)
    made.progress.sent = True
    made.slot, made.taken, made.binding = Given(), Given(), binding
    return made


GATE: Any = SimpleNamespace(answered=lambda _: None, mask=str)


@pytest.mark.parametrize(
    ("gpu_ms", "deadline_ms", "counts"), [(60, 100, 60), (250, 100, 100), (250, None, 250)]
)
def test_time_counts_up_to_the_deadline_that_was_held(
    gpu_ms: int, deadline_ms: int | None, counts: int
) -> None:
    """What it takes to end a call there is not its caller's, nor in its row."""
    one = attempt(gpu_ms, deadline_ms=deadline_ms)
    ended = one.end("answered", gate=GATE)
    assert (ended.gpu_ms, ended.cost_nanousd) == (counts, counts * 1000)
    assert one.hold.back == [counts * 1000]


def test_its_time_is_free_where_it_is() -> None:
    """Its worker died under it, which is not its caller's to pay."""
    one = attempt(60, deadline_ms=100)
    one.died = True
    ended = one.end("upstream_broke", gate=GATE)
    assert (ended.cost_nanousd, ended.usage) == (0, Usage())
    assert one.hold.back == [0]


def test_slot_and_limits_are_told_what_was_used() -> None:
    """By that the shares of the slots are fair, and what a rate limit held too much is given."""
    one = attempt(60, deadline_ms=100)
    one.end("answered", gate=GATE)
    assert one.slot.back == [USED]
    assert one.taken.back == [10]


@pytest.mark.parametrize(("binding", "overrun"), [(True, 150_000), (False, 0)])
def test_only_who_was_bound_by_the_hold_has_passed_it(binding: bool, overrun: int) -> None:
    """Where the hold was an estimate, nobody broke a limit."""
    ended = attempt(250, deadline_ms=None, binding=binding).end("answered", gate=GATE)
    assert (ended.cost_nanousd, ended.overrun_nanousd) == (250_000, overrun)


def test_what_a_provider_says_is_cut_for_its_row() -> None:
    """An id of megabytes would be in every copy of the ledger."""
    one = attempt(1, deadline_ms=100)
    one.reader.upstream_id, one.reader.raw_usage = "i" * 500, "u" * 9_000
    ended = one.end("answered", gate=GATE)
    assert (len(ended.upstream_id), len(ended.raw_usage)) == (100, 4_000)
