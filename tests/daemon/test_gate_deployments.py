"""What a deployment of Azure's costs: what its answer names, whatever the deployment is called."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from hashlib import sha256

import msgspec
import pytest
from gateway import DONE, HEAD, KEY, Gateway, body, chunk
from shell import running
from upstreams import answer, reads, says, upstream

from tollway.daemon.config.load import load
from tollway.daemon.gate.deployed import Deployed
from tollway.daemon.gate.route import Target
from tollway.daemon.ledger.calls import AttemptRow
from tollway.daemon.ledger.reprice import reprice
from tollway.daemon.pricing import in_force
from tollway.providers.canon import Usage
from tollway.providers.catalog import KINDS
from tollway.providers.money import cost
from tollway.providers.prices import PriceSource

USED = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010}
MINI, FULL = "gpt-4o-mini", "gpt-4o-2024-11-20"


def whole(model: str) -> bytes:
    """Return an answer that a model says to have made."""
    said = {"role": "assistant", "content": "Hi"}
    made = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": model,
        "choices": [{"index": 0, "message": said, "finish_reason": "stop"}],
        "usage": USED,
    }
    return answer(msgspec.json.encode(made), "Content-Type: application/json", "Connection: close")


def stream(model: str) -> bytes:
    """Return the same as events; as at Azure the first names no model."""
    first = msgspec.json.decode(chunk("Hi").removeprefix(b"data: "))
    ends = msgspec.json.decode(chunk(finish="stop").removeprefix(b"data: "))
    events = [first | {"model": ""}, ends | {"model": model}, ends | {"choices": [], "usage": USED}]
    return HEAD + b"".join(b"data: " + msgspec.json.encode(one) + b"\n\n" for one in events) + DONE


@asynccontextmanager
async def azure(answers: Sequence[bytes], more: str = "") -> AsyncIterator[Gateway]:
    """Yield a gateway before a resource of Azure's with such answers."""
    async with upstream(*([reads(), says(one)] for one in answers)) as up:
        config = f"""
[providers.azure]
kind = "azure"
base_url = "http://127.0.0.1:{up.port}/openai/v1"
[groups.all]
models = ["*"]
[users.ann]
groups = ["all"]
budget = ["1/day"]
[keys.laptop]
hash = "sha256:{sha256(KEY.encode()).hexdigest()}"
user = "ann"
{more}
"""
        async with running(config, server="") as daemon:
            yield Gateway(daemon, [up])


async def tried(gate: Gateway, *, streamed: bool = False) -> AttemptRow:
    """Ask the deployment and return the attempt's row."""
    said = body(streamed, model=f"azure/{MINI}", max_tokens=10)
    reply = await gate.ask(said)
    assert reply.status == 200, reply.body
    (attempt,) = (await gate.row(reply)).attempts
    return attempt


def price_of(model: str) -> int:
    """Return what the answers cost at a model's price."""
    price = PriceSource().find("azure", model, gate_time())
    assert price is not None
    return cost(Usage(input=1000, output=10), price)


def gate_time() -> datetime:
    """Return the present."""
    return datetime.now(UTC)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_deployment_costs_what_the_model_costs_that_answers(
    streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Azure puts successors behind a name when models retire, and owners whatever they like."""
    say = stream if streamed else whole
    async with azure([say(FULL), say(FULL), say(MINI), say("no-model-of-ours")]) as gate:
        first, second, third, fourth = [await tried(gate, streamed=streamed) for _ in range(4)]
        assert price_of(FULL) > 10 * price_of(MINI)
        assert [first.cost_nanousd, second.cost_nanousd] == [price_of(FULL)] * 2
        assert first.overrun_nanousd == first.cost_nanousd - first.hold_nanousd > 0
        # The first was held at the name's price, what came after at that of what had answered.
        assert second.hold_nanousd > 10 * first.hold_nanousd
        assert second.overrun_nanousd == 0
        # The fourth names none that has a price: it is at most the dearest that has answered.
        assert [third.cost_nanousd, fourth.cost_nanousd] == [price_of(MINI), price_of(FULL)]
        assert third.hold_nanousd == fourth.hold_nanousd == second.hold_nanousd
        told = [one.message for one in caplog.records if "is answered by" in one.message]
        assert [one.partition(":")[0] for one in told] == [
            f"azure/{MINI} is answered by `{FULL}`",
            f"azure/{MINI} is answered by `{MINI}`",
        ]


async def test_a_deployment_of_several_models_is_held_at_the_dearest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A model router takes its pick for each call: a hold at the last one's price was too small."""
    async with azure([whole(one) for one in (FULL, MINI, FULL, MINI, FULL)]) as gate:
        _, *later = [await tried(gate) for _ in range(5)]
        assert [one.cost_nanousd for one in later] == [price_of(MINI), price_of(FULL)] * 2
        assert [one.overrun_nanousd for one in later] == [0] * 4
        told = [one for one in caplog.records if "is answered by" in one.message]
        assert len(told) == 2


def test_a_model_that_answers_no_more_is_forgotten() -> None:
    """An owner who puts a cheaper one there for good gets the smaller holds."""
    deployed = Deployed()
    target = Target("azure", MINI, kind=KINDS["azure"], base_url="http://127.0.0.1")
    assert deployed.models(target) == (MINI,)
    assert [deployed.heard(target, one) for one in (FULL, "other", FULL)] == [True, True, False]
    for _ in range(99):
        deployed.heard(target, MINI)
    assert deployed.models(target) == (FULL, MINI)
    deployed.heard(target, MINI)
    assert deployed.models(target) == (MINI,)


async def test_a_price_in_gateway_toml_is_above_what_an_answer_names() -> None:
    """Its owner knows best what a deployment costs."""
    own = f'[prices."azure/{MINI}"]\ninput = 1\noutput = 1\n'
    async with azure([whole(FULL)], own) as gate:
        assert (await tried(gate)).cost_nanousd == 1_010_000


async def test_pricing_again_leaves_a_deployment_as_it_was_billed() -> None:
    """Its name does not say which model answered then: it would be billed at the cheaper one."""
    async with azure([whole(FULL)]) as gate:
        await tried(gate)
        path = gate.daemon.server.daemon.ledger.path
        terms = in_force(load(gate.daemon.config))
        found = await asyncio.to_thread(reprice, path, terms, (0, 1 << 60), apply=False)
        assert (found.attempts, found.left, found.changed) == (1, 1, 0)
