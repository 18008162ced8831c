"""The official `openai` package meets rate limits: it waits where that helps, and only there."""

import asyncio

import openai
import pytest
from gateway import KEY, Gateway, gateway, whole
from openai_sdk import KINDS, Kind, sdk
from shell import until
from upstreams import reads, says, waits

from tollway.daemon.ledger.calls import recent

pytestmark = pytest.mark.parametrize("kind", KINDS)

CHAT = "chat.completions.create"
HELLO = {"model": "up/m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10}


def _url(gate: Gateway) -> str:
    return f"http://127.0.0.1:{gate.daemon.port}/v1"


def _refused(gate: Gateway) -> int:
    rows = recent(gate.daemon.server.daemon.ledger.path, limit=20)
    return sum(row.error in {"rate_limit_exceeded", "over_rate_limit"} for row in rows)


async def test_a_full_limit_of_seconds_is_waited_for(kind: Kind) -> None:
    """The package's own retry finds the room that `Retry-After` promised; the program no error."""
    go = asyncio.Event()
    scripts = [[reads(), waits(go), says(whole())], [reads(), says(whole())]]
    async with (
        gateway(scripts, more="[keys.laptop.limits]\nconcurrent = 1") as gate,
        sdk(kind, _url(gate), KEY) as client,
    ):
        first = asyncio.create_task(gate.ask())
        await until(lambda: len(gate.ups[0].requests) == 1)
        second = asyncio.create_task(client.call(CHAT, **HELLO))
        await until(lambda: _refused(gate) == 1)
        go.set()
        assert (await first).status == 200
        assert (await second).choices[0].message.content == "Hello"
        assert _refused(gate) == 1


async def test_a_full_day_is_raised_at_once(kind: Kind) -> None:
    """No retry within a call helps before midnight, so there is none."""
    async with (
        gateway([[reads(), says(whole())]], more="[keys.laptop.limits]\nrpd = 1") as gate,
        sdk(kind, _url(gate), KEY) as client,
    ):
        # Two hours to midnight, whenever the test runs.
        midnight = (gate.daemon.server.daemon.books.now_ms() // 86_400_000 + 1) * 86_400_000
        gate.daemon.server.daemon.rates.now_ms = lambda: midnight - 7_200_000
        await client.call(CHAT, **HELLO)
        with pytest.raises(openai.RateLimitError) as raised:
            await client.call(CHAT, **HELLO)
        assert raised.value.code == "rate_limit_exceeded"
        assert "limit of 1 call a day (`rpd`)" in raised.value.message
        assert raised.value.response.headers["retry-after"] == "7200"
        assert raised.value.response.headers["x-ratelimit-remaining-requests"] == "0"
        await until(lambda: _refused(gate) == 1)


async def test_a_call_that_never_fits_is_a_bad_request(kind: Kind) -> None:
    """Larger than its limit: raised at once, and not as something to wait for."""
    async with (
        gateway([[reads(), says(whole())]], more="[keys.laptop.limits]\ntpm = 2000") as gate,
        sdk(kind, _url(gate), KEY) as client,
    ):
        with pytest.raises(openai.BadRequestError) as raised:
            await client.call(CHAT, **{**HELLO, "max_tokens": 5000})
        assert raised.value.code == "over_rate_limit"
        assert _refused(gate) <= 1
