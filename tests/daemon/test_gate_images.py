"""Images that cost by quality and size: held as they are asked for, billed as they were made."""

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from clouds import Cloud, cloud
from gateway import KEY, Gateway
from shell import Reply, Running, running

from tollway.daemon.config.load import load
from tollway.daemon.ledger.reprice import reprice
from tollway.daemon.pricing import in_force

PATH = "/v1/images/generations"
CONFIG = """
[providers.up]
kind = "openai-compatible"
base_url = "http://127.0.0.1:{}/v1"
[groups.all]
models = ["*"]
[users.ann]
groups = ["all"]
budget = ["1/day"]
[keys.laptop]
hash = "sha256:{}"
user = "ann"
[prices."up/*"]
input = 0
output = 0
image = 0.15
images = {{ "low 1024x1024" = 0.01, "1536x1024 HIGH" = 0.25, "512x512" = 0.018 }}
"""
MADE = b'{"data":[{}],"quality":"%s","size":"%s"}'
PLAIN = b'{"data":[{}]}'
LOW, HIGH, OTHER = 10_000_000, 250_000_000, 250_000_000


@pytest_asyncio.fixture
async def both() -> AsyncIterator[tuple[Cloud, Running]]:
    """Yield an upstream and the gateway before it; in the end nothing is held."""
    async with cloud() as up:
        text = CONFIG.format(up.port, sha256(KEY.encode()).hexdigest())
        async with running(text, server="") as daemon:
            yield up, daemon
            states = daemon.server.daemon.gate.purse.states()
            assert all(state.held_nanousd == 0 for state in states)


async def ask(daemon: Running, **said: Any) -> Reply:
    """Ask for images of a cat."""
    body = {"model": "up/m", "prompt": "a cat", **said}
    return await Gateway(daemon, []).ask(msgspec.json.encode(body), PATH)


@pytest.mark.parametrize(
    ("said", "answer", "hold", "cost"),
    [
        ({"quality": "low", "size": "1024x1024"}, PLAIN, LOW, LOW),
        ({"quality": "High", "size": "1536x1024"}, PLAIN, HIGH, HIGH),
        ({"size": "512x512"}, PLAIN, 18_000_000, 18_000_000),
        ({"size": "512x512", "quality": "auto"}, PLAIN, 18_000_000, 18_000_000),
        # Left open: the dearest is held, and the answer says which it was.
        ({}, MADE % (b"low", b"1024x1024"), OTHER, LOW),
        ({"quality": "auto", "size": "1024x1024"}, MADE % (b"low", b"1024x1024"), OTHER, LOW),
        ({}, MADE % (b"medium", b"1024x1024"), OTHER, OTHER),
        ({"quality": "medium"}, PLAIN, OTHER, OTHER),
        ({"quality": ["low"], "size": {"low": "1024x1024"}}, PLAIN, OTHER, OTHER),
        # A server that reads another field may make another size.
        ({"quality": "low", "size": "1024x1024", "width": 4096}, PLAIN, OTHER, OTHER),
    ],
)
async def test_an_image_costs_what_its_kind_does(
    both: tuple[Cloud, Running], said: dict[str, Any], answer: bytes, hold: int, cost: int
) -> None:
    """Where neither request nor answer names a kind that has a price, it is the dearest."""
    up, daemon = both
    up.answer = (200, "application/json", answer)
    reply = await ask(daemon, **said)
    assert up.asked[-1][2] == {"model": "m", "prompt": "a cat", **said}
    row = (await Gateway(daemon, []).row(reply)).call
    assert (row.hold_nanousd, row.cost_nanousd, row.overrun_nanousd) == (hold, cost, 0)
    terms = in_force(load(daemon.config))
    ledger = daemon.server.daemon.ledger.path
    found = await asyncio.to_thread(reprice, ledger, terms, (0, 2**60), apply=False)
    assert (found.attempts, found.changed) == (1, 0)


async def test_several_are_held_together_and_billed_as_made(both: tuple[Cloud, Running]) -> None:
    """Two of the three that were asked for came."""
    up, daemon = both
    up.answer = (200, "application/json", b'{"data":[{},{}]}')
    reply = await ask(daemon, n=3, quality="low", size="1024x1024")
    row = (await Gateway(daemon, []).row(reply)).call
    assert (row.hold_nanousd, row.cost_nanousd) == (3 * LOW, 2 * LOW)


@pytest.mark.parametrize(
    ("more", "number"),
    [
        ({"batch_size": 3}, 3),
        ({"n": 2, "num_images": 3}, 3),
        ({"n": 1, "samples": None}, 1),
        ({"sequential_image_generation": "auto"}, 15),
        ({"sequential_image_generation": "disabled"}, 1),
    ],
)
async def test_as_many_are_held_as_any_server_makes_of_it(
    both: tuple[Cloud, Running], more: dict[str, Any], number: int
) -> None:
    """SiliconFlow, fal and others have their own words for `n`; Seedream chooses how many."""
    up, daemon = both
    up.answer = (200, "application/json", PLAIN)
    reply = await ask(daemon, quality="low", size="1024x1024", **more)
    assert (await Gateway(daemon, []).row(reply)).call.hold_nanousd == number * LOW


@pytest.mark.parametrize("name", ["n", "batch_size", "samples"])
async def test_a_number_of_images_that_is_none_is_refused(
    both: tuple[Cloud, Running], name: str
) -> None:
    """Some servers read "4" as a number."""
    up, daemon = both
    for number in ("4", 4.0, 0, True):
        reply = await ask(daemon, **{name: number})
        assert (reply.status, reply.json()["error"]["param"]) == (400, name)
    assert up.asked == []


async def test_no_second_size_hides_in_other_letters(both: tuple[Cloud, Running]) -> None:
    """Go's JSON reader, behind some servers, takes the last of the two."""
    up, daemon = both
    said = {"model": "up/m", "prompt": "a cat", "quality": "low", "size": "1024x1024"}
    for name in ("Size", "QUALITY"):
        body = msgspec.json.encode({**said, name: "high"})
        reply = await Gateway(daemon, []).ask(body, PATH)
        assert (reply.status, reply.json()["error"]["param"]) == (400, name)
    assert up.asked == []
