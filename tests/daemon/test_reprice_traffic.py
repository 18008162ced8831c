"""Real traffic priced anew, with the terms that the same configuration gives."""

import asyncio

import msgspec
from gateway import DONE, HEAD, Gateway, body, chunk, gateway, whole
from upstreams import reads, says

from tollway.daemon.config.load import load
from tollway.daemon.ledger.reprice import Result, reprice
from tollway.daemon.pricing import in_force

USAGES: tuple[dict[str, object], ...] = (
    {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    {
        "prompt_tokens": 2006,
        "completion_tokens": 300,
        "total_tokens": 2306,
        "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 256, "audio_tokens": 0},
    },
    {"prompt_tokens": 11, "completion_tokens": 0, "total_tokens": 11},
    {"prompt_tokens": 40, "completion_tokens": 9, "cost": 0.00123, "queue_time": 0.5},
)
BROKEN = HEAD + chunk("Hel")


def answered(usage: dict[str, object]) -> bytes:
    """Return a whole answer with a usage object."""
    choice = {"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}
    return whole(msgspec.json.encode({"id": "c-1", "choices": [choice], "usage": usage}))


def streamed(usage: dict[str, object]) -> bytes:
    """Return a stream with a usage object in its last chunk."""
    last = b"data: " + msgspec.json.encode({"choices": [], "usage": usage}) + b"\n\n"
    return HEAD + chunk("Hi") + chunk(finish="stop") + last + DONE


async def priced(gate: Gateway) -> Result:
    """Price everything anew, without writing."""
    daemon = gate.daemon.server.daemon
    config = load(gate.daemon.config)
    return await asyncio.to_thread(
        reprice, daemon.ledger.path, in_force(config), (0, 2**60), apply=False
    )


async def test_real_traffic_priced_anew_changes_nothing() -> None:
    """Whole answers, streams, a refusal, one that broke off: each bill is what it was."""
    said = [says(answered(usage)) for usage in USAGES] + [says(streamed(usage)) for usage in USAGES]
    refused = says(whole(b'{"error":{"message":"no"}}', status="400 Bad"))
    scripts = [[reads(), one] for one in (*said, refused, says(BROKEN))]
    async with gateway(scripts, budget="1000/day") as gate:
        for number in range(len(scripts)):
            stream = len(USAGES) <= number < 2 * len(USAGES) or number == len(scripts) - 1
            await gate.row(await gate.ask(body(stream, max_tokens=4000)))
        found = await priced(gate)
        assert (found.attempts, found.changed) == (len(scripts), 0), found.changes
        # What refused, broke off or reported nothing that came out is an upper bound, or nothing.
        assert 2 <= found.left <= 4


async def test_a_hold_that_was_an_estimate_is_no_limit_when_its_call_is_priced_anew() -> None:
    """Where nothing bounds a call it may cost more than was held: nobody broke a limit."""
    more = '[routes.open]\nto = ["up/m"]\nallow_unbounded = true\n'
    async with gateway([[reads(), says(answered(USAGES[1]))]], more=more) as gate:
        row = await gate.row(await gate.ask(body(model="open", max_tokens=1)))
        assert row.call.cost_nanousd > row.call.hold_nanousd
        assert row.call.overrun_nanousd == 0
        found = await priced(gate)
        assert (found.attempts, found.changed) == (1, 0), found.changes


async def test_a_price_that_changes_in_the_file_is_found() -> None:
    """The same calls under another price: the sum follows, to the nano-dollar."""
    async with gateway([[reads(), says(answered(USAGES[0]))]]) as gate:
        await gate.row(await gate.ask())
        path = gate.daemon.config
        path.write_text(path.read_text().replace("output = 2", "output = 3"))
        found = await priced(gate)
        assert (found.before_nanousd, found.after_nanousd) == (13_000, 16_000)


async def test_tiers_that_become_known_change_no_bill_of_another() -> None:
    """What an answer in another service tier would have cost is no other price of this one."""
    more = '[prices."up/gpt-5"]\ninput = 1\noutput = 2\nservice_tiers = {}\n'
    async with gateway([[reads(), says(answered(USAGES[0]))]], more=more) as gate:
        await gate.row(await gate.ask(body(model="up/gpt-5")))
        path = gate.daemon.config
        path.write_text(path.read_text().replace("service_tiers = {}\n", ""))
        found = await priced(gate)
        assert (found.attempts, found.changed) == (1, 0), found.changes
