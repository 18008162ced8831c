"""What a call is held at and billed at, where the price is more than tokens times a rate."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from gateway import (
    CHAT,
    DONE,
    HEAD,
    INPUT,
    OUTPUT,
    USED,
    Gateway,
    body,
    chunk,
    config,
    error,
    gateway,
    whole,
)
from shell import running
from upstreams import Step, reads, says, upstream

from tollway.daemon.ledger.backup import backup
from tollway.daemon.ledger.calls import one
from tollway.daemon.ledger.settling import settle
from tollway.daemon.ledger.verify import verify
from tollway.providers.canon import Usage

TIERS = "service_tiers = { priority = 2.0, flex = 0.5 }"
USED_COST = 7 * INPUT + 3 * OUTPUT
# Of one whole answer: 7 tokens in, 3 out.
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def answered(**more: object) -> bytes:
    """Return an answer with further fields; `usage` adds to the report."""
    report = more.pop("usage", {})
    assert isinstance(report, dict)
    said = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE | report,
        **more,
    }
    return whole(msgspec.json.encode(said))


@contextlib.asynccontextmanager
async def priced(
    *scripts: list[Step], kind: str = "openai", prices: str = ""
) -> AsyncIterator[Gateway]:
    """Yield a gateway before one upstream of a kind, with these prices instead of the usual."""
    async with upstream(*scripts) as up:
        text = config([up]).replace('kind = "openai"', f'kind = "{kind}"')
        usual = '[prices."up/*"]\ninput = 1\noutput = 2\n'
        assert usual in text
        async with running(text.replace(usual, prices), server="") as daemon:
            yield Gateway(daemon, [up])


def usual(more: str) -> str:
    """Return the usual prices with more lines."""
    return f'[prices."up/*"]\ninput = 1\noutput = 2\n{more}\n'


@pytest.mark.parametrize(
    ("answered_in", "factor", "tier"),
    [("priority", 2, "priority"), ("flex", 0.5, "flex"), ("default", 1, "")],
)
async def test_an_answer_is_billed_in_the_service_tier_that_it_names(
    answered_in: str, factor: float, tier: str
) -> None:
    """Whatever the request left open; the row points to the price that was applied."""
    script = [reads(), says(answered(service_tier=answered_in))]
    async with priced(script, prices=usual(TIERS)) as gate:
        row = await gate.row(await gate.ask())
        assert row.call.cost_nanousd == USED_COST * factor
        price = row.attempts[0].price
        assert price is not None
        assert price.service == tier
        assert row.call.overrun_nanousd == 0
        assert gate.held() == 0


async def test_a_hold_is_for_the_dearest_tier_that_the_request_can_reach() -> None:
    """Nothing said leaves it to the account's settings; the standard one asked for is that."""
    scripts = [[reads(), says(answered(service_tier="default"))] for _ in range(3)]
    async with priced(*scripts, prices=usual(TIERS)) as gate:
        held = {}
        for asked in ("auto", "default", "priority"):
            row = await gate.row(await gate.ask(body(service_tier=asked)))
            assert row.call.cost_nanousd == USED_COST
            # The bound counts the bytes of the request, those of the tier's name among them.
            held[asked] = row.call.hold_nanousd - len(asked) * INPUT * (1 + (asked != "default"))
        assert held["auto"] == held["priority"] == 2 * held["default"]


@pytest.mark.parametrize(
    ("asked", "tier"), [("priority", "priority"), ("flex", ""), ("auto", ""), (None, "")]
)
async def test_an_estimate_has_the_price_of_the_tier_that_was_asked_for(
    tmp_path: Path, asked: str | None, tier: str
) -> None:
    """What it really used is priced by the row: the dearer of the tier by name and the standard."""
    async with priced([reads()], prices=usual(TIERS)) as gate:
        row = await gate.row(await gate.ask(body(service_tier=asked)))
        assert row.call.estimated
        price = row.attempts[0].price
        assert price is not None
        assert price.service == tier
        call_id, path = row.call.id, tmp_path / "copy.db"
        ledger = gate.daemon.server.daemon.ledger.path
        backup(ledger, path, replace=False, progress=lambda _done, _of: None)
    used = Usage(input=7, output=3)
    settle(path, call_id, attempt=None, cost_nanousd=None, usage=used, who="ann")
    assert one(path, call_id).call.cost_nanousd == USED_COST * (2 if tier else 1)
    assert verify(path) == []


async def test_a_tier_without_a_price_is_refused_with_the_line_to_add() -> None:
    """It could cost anything; where it has a price it goes through."""
    async with priced([reads(), says(answered())], prices=usual(TIERS)) as gate:
        reply = await gate.ask(body(service_tier="scale"))
        assert (reply.status, error(reply)["code"]) == (402, "unbounded")
        assert error(reply)["param"] == "service_tier"
        assert gate.ups[0].requests == []
        assert (await gate.ask(body(service_tier="priority"))).status == 200


async def test_what_a_provider_says_it_charged_is_billed_and_kept_beside_the_tokens() -> None:
    """Ticks of xAI are 10^-10 dollars: a search that it ran on the way is in them."""
    script = [reads(), says(answered(usage={"cost_in_usd_ticks": 55_258_500}))]
    async with priced(script, kind="xai") as gate:
        reply = await gate.ask(body(model="up/grok-4.3"))
        assert reply.headers["x-tollway-cost-usd"] == "0.00552585"
        row = await gate.row(reply)
        assert row.call.cost_nanousd == 5_525_850
        assert row.attempts[0].reported_nanousd == 5_525_850
        price = row.attempts[0].price
        assert price is not None
        assert price.source.startswith("genai-prices")
        assert (row.call.input_tokens, row.call.output_tokens) == (7, 3)


async def test_a_price_of_the_file_is_billed_whatever_the_provider_says() -> None:
    """A person's word is above the provider's, and the statement is no longer read."""
    script = [reads(), says(answered(usage={"cost_in_usd_ticks": 55_258_500}))]
    async with priced(script, kind="xai", prices=usual("")) as gate:
        row = await gate.row(await gate.ask())
        assert row.call.cost_nanousd == USED_COST
        assert row.attempts[0].reported_nanousd is None


async def test_a_server_that_is_not_known_to_state_its_cost_is_not_believed() -> None:
    """Any compatible server may write `cost`, and mean something else."""
    script = [reads(), says(answered(usage={"cost": 0, "cost_in_usd_ticks": 0}))]
    async with gateway([script]) as gate:
        row = await gate.row(await gate.ask())
        assert row.call.cost_nanousd == USED_COST
        assert row.attempts[0].reported_nanousd is None


async def test_tokens_that_no_answer_has_fill_no_limit() -> None:
    """What is free has no cost to tell it by: a limit by tokens was full for nineteen years."""
    many = [reads(), says(answered(usage={"completion_tokens": 10**12, "total_tokens": 10**12}))]
    limit = "limits = { tpm = 100_000 }"
    free = '[prices]\n"up/m" = "free"\n'
    async with gateway([many, [reads(), says(answered())]], provider=limit, more=free) as gate:
        row = await gate.row(await gate.ask())
        assert (row.call.ending, row.call.estimated) == ("no_usage", True)
        assert (await gate.ask()).status == 200


async def test_the_last_report_is_the_one_that_is_believed_or_not() -> None:
    """A count that was wrong on the way and right at the end makes no estimate, and no alert."""
    wrong = USED.replace(b'"completion_tokens":3', b'"completion_tokens":%d' % 10**12)
    stream = HEAD + wrong + chunk("Hello") + chunk(finish="stop") + USED + DONE
    async with gateway([[reads(), says(stream)]]) as gate:
        row = await gate.row(await gate.ask(body(True)))
        assert (row.call.ending, row.call.cost_nanousd) == ("answered", USED_COST)
        alerts = gate.daemon.server.daemon.alerts
        await alerts.settled()
        assert not alerts.recent


@pytest.mark.parametrize(("tiers", "times"), [("", 2), ("service_tiers = {}", 1)])
async def test_a_price_that_says_nothing_of_tiers_has_those_of_the_data(
    tiers: str, times: int
) -> None:
    """Which tier answers is the account's choice: a price of one's own was billed as the usual one.

    Held is the dearest that can answer, unless the price says that there is none.
    """
    script = [reads(), says(answered(service_tier="priority"))]
    plain = [reads(), says(answered(service_tier="default"))]
    said = '[prices."up/gpt-5"]\ninput = 1\noutput = 2\n' + tiers
    async with priced(script, plain, plain, prices=said) as gate:
        asked = body(model="up/gpt-5", max_completion_tokens=10, max_tokens=None)
        dear = await gate.row(await gate.ask(asked))
        usual = await gate.row(await gate.ask(asked))
        named = body(
            model="up/gpt-5", max_completion_tokens=10, max_tokens=None, service_tier="default"
        )
        least = await gate.row(await gate.ask(named))
        assert dear.call.cost_nanousd == times * USED_COST
        assert usual.call.cost_nanousd == USED_COST
        assert dear.call.hold_nanousd == usual.call.hold_nanousd
        # The field that names a tier is some tokens of input itself.
        assert (dear.call.hold_nanousd > least.call.hold_nanousd) == (times > 1)
        assert not dear.call.overrun_nanousd


async def test_a_statement_above_the_hold_is_an_overrun() -> None:
    """The true cost is always booked, and the excess is told."""
    script = [reads(), says(answered(usage={"cost_in_usd_ticks": 5_000_000_000}))]
    async with priced(script, kind="xai") as gate:
        row = await gate.row(await gate.ask(body(model="up/grok-4.3")))
        assert row.call.cost_nanousd == 500_000_000
        assert row.call.overrun_nanousd == 500_000_000 - row.call.hold_nanousd > 0


async def test_a_price_in_other_letters_is_the_same_price() -> None:
    """Whoever asks for "M" is not to get past what was set for "m"."""
    async with gateway([[reads(), says(whole())]]) as gate:
        reply = await gate.ask(body(model="up/M"), CHAT)
        assert (await gate.row(reply)).call.cost_nanousd == USED_COST


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_report_that_no_answer_can_cost_is_not_believed(stream: bool) -> None:
    """Booked as it stood, its row did not fit into the ledger and was lost."""
    searched = {"server_tool_use_details": {"web_search_requests": 10**12}}
    script = [reads(), says(answered(usage=searched))]
    if stream:
        used = USED.replace(b'"usage":{', b'"usage":{%b,' % msgspec.json.encode(searched)[1:-1])
        # Told before the end, too: it is no reason to end the stream.
        script = [reads(), says(HEAD + used + chunk("Hello") + chunk(finish="stop") + used + DONE)]
    fee = '[prices."up/m"]\ninput = 1\noutput = 2\nsearch = 0.01\n'
    async with gateway([script, script], more=fee) as gate:
        row = await gate.row(await gate.ask(body(stream)))
        assert (row.call.ending, row.call.estimated) == ("no_usage", True)
        assert 0 < row.call.cost_nanousd <= row.call.hold_nanousd
        assert row.call.overrun_nanousd == gate.held() == 0
        alerts = gate.daemon.server.daemon.alerts
        await alerts.settled()
        (told,) = (one for one in alerts.recent if one.kind == "report")
        assert str(told.facts["reported_usd"]).startswith("10000000000.0000")
        assert (await gate.ask(body(stream))).status == 200  # no budget is full of it
