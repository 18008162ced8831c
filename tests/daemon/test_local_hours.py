"""A model on this box that is charged by its time: real answers of the real small model."""

import asyncio
import json
from decimal import Decimal
from pathlib import Path

import pytest
from local_models import NAME, body_of, chat, serving, state_of, until

from tollway.providers.canon import Price
from tollway.providers.llamacpp.state import Terms
from tollway.providers.money import time_cost, time_for
from tollway.providers.prices import FREE, by_the_hour

LONG = "Count from one to one thousand in words."


def hourly(usd: str) -> Price:
    """Return a price by the hour."""
    return by_the_hour(Decimal(usd))


@pytest.mark.local
@pytest.mark.timeout(300)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_an_answer_ends_at_its_deadline_as_one_that_is_too_long(
    tmp_path: Path, stream: bool
) -> None:
    """With what it has, exact usage, and its part of the model's time; the next call is served."""
    async with serving(tmp_path) as local:
        await local.load(NAME)
        # Without its end marks it cannot be done before the deadline, however quick the machine.
        never = {"0": -100, "2": -100}
        request = chat(LONG, max_tokens=1500, stream=stream, logit_bias=never)
        answer = await local.send(NAME, "chat", request, Terms(deadline_s=1.0))
        body = await body_of(answer)
        if stream:
            assert b'"finish_reason":"length"' in body.replace(b" ", b"")
            assert body.rstrip().endswith(b"data: [DONE]")
        else:
            assert json.loads(body)["choices"][0]["finish_reason"] == "length"
        assert 0 < answer.usage_so_far.output < 1500
        assert answer.gpu_ms >= 1000
        assert state_of(local).running == 0
        after = await local.send(NAME, "chat", chat("hi", max_tokens=2), Terms(deadline_s=60))
        assert json.loads(await body_of(after))["usage"]["completion_tokens"] > 0
        assert after.gpu_ms < answer.gpu_ms + 60_000


@pytest.mark.local
@pytest.mark.timeout(300)
async def test_time_without_work_is_told_once(tmp_path: Path) -> None:
    """Loading and waiting are idle; what is asked twice is not told twice."""
    async with serving(tmp_path) as local:
        assert local.times() == {}
        await local.load(NAME)
        busy, idle = local.times()[NAME]
        assert idle > 0 and busy == 0
        answer = await local.send(NAME, "chat", chat("hi", max_tokens=2))
        await body_of(answer)
        await until(lambda: state_of(local).running == 0)
        busy, _ = local.times()[NAME]
        assert abs(busy - answer.gpu_ms) <= 2
        await asyncio.sleep(0)
        assert local.times().get(NAME, (0, 0))[0] == 0


def test_time_is_charged_to_the_nano_dollar() -> None:
    """Half-even, once; and what an amount pays for never costs more than it."""
    price = hourly("0.80")
    assert time_cost(3_600_000, price) == 800_000_000
    assert time_cost(1, price) == 222
    assert time_cost(0, price) == 0
    assert time_cost(5, FREE) is None
    for amount in (0, 1, 222, 223, 10**9):
        ms = time_for(amount, price)
        assert (time_cost(ms, price) or 0) <= amount + 1
        assert (time_cost(ms + 1, price) or 0) >= amount


def test_a_price_by_the_hour_is_not_free_and_has_an_id_of_its_own() -> None:
    """Else a budget would wave it through, or two prices would be one row."""
    assert not hourly("0.80").free
    assert hourly("0.8").id == hourly("0.80").id != hourly("0.81").id
