"""The real local model behind its line, through the whole gateway: who floods does not decide."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from gateway import CHAT, KEY, body, config
from gguf_files import real_model
from local_models import NAME, model, serving
from shell import Reply, Running, running, until

from tollway.daemon.gate.queue import QueueState
from tollway.daemon.ledger.verify import verify

pytestmark = pytest.mark.local

LIGHT = "tw-" + "l" * 40
TABLES = f"""
[models.{NAME}]
gguf = "{{path}}"
context = 1024
gpu_layers = 0
slots = 1
price = "free"
[users.lea]
team = "ml"
[keys.lea]
hash = "sha256:{sha256(LIGHT.encode()).hexdigest()}"
user = "lea"
"""


@contextlib.asynccontextmanager
async def local_gateway() -> AsyncIterator[Running]:
    """Yield a gateway with the small model and two users of one team."""
    more = TABLES.replace("{path}", str(real_model()))
    async with running(config([], more=more), server="") as daemon:
        yield daemon
        inner = daemon.server.daemon
        await until(lambda: inner.active == 0)
        assert (line(daemon).running, line(daemon).waiting) == (0, 0)
        await until(lambda: verify(inner.ledger.path) == [])


def line(daemon: Running) -> QueueState:
    """Return the model's line."""
    (found,) = daemon.server.daemon.queue.states()
    return found


async def ask(daemon: Running, key: str, order: list[str], name: str, tokens: int = 3) -> Reply:
    """Send a call, and note its name when it has been answered."""
    said = body(model=f"local/{NAME}", max_tokens=tokens, temperature=0)
    reply = await daemon.ask("POST", CHAT, said, authorization=f"Bearer {key}")
    order.append(name)
    return reply


async def test_the_light_users_call_is_next_though_another_floods() -> None:
    """Six calls of one user want the model; another's is answered behind the running one."""
    order: list[str] = []
    async with local_gateway() as daemon:
        await ask(daemon, KEY, [], "loads the model", tokens=1)
        flood = [asyncio.ensure_future(ask(daemon, KEY, order, "flood")) for _ in range(6)]
        await until(lambda: line(daemon).waiting == 5)
        question = msgspec.json.encode({"model": f"local/{NAME}"})
        said = (await daemon.ask("POST", "/control/explain", question, admin=True)).json()
        assert (said["targets"][0]["slots"], said["targets"][0]["running"]) == (1, 1)
        assert said["targets"][0]["waiting"] >= 4
        light = await ask(daemon, LIGHT, order, "light")
        assert light.status == 200
        # It came while one was at work, and another may have been given the slot meanwhile.
        assert order.index("light") <= 2
        ps = (await daemon.ask("GET", "/control/models", admin=True)).json()["models"][0]
        assert ps["waiting"] >= 2
        replies = await asyncio.gather(*flood)
        assert {reply.status for reply in replies} == {200}
        waits = sorted(int(reply.headers["x-tollway-queue-ms"]) for reply in replies)
        assert waits[-1] > int(light.headers["x-tollway-queue-ms"])


async def test_who_leaves_while_the_model_works_gives_the_slot_to_the_next() -> None:
    """Generation stops within a step, and whoever waits is answered."""
    async with local_gateway() as daemon:
        order: list[str] = []
        await ask(daemon, KEY, order, "loads", tokens=1)
        long = asyncio.ensure_future(ask(daemon, KEY, order, "long", tokens=900))
        await until(lambda: line(daemon).running == 1)
        short = asyncio.ensure_future(ask(daemon, LIGHT, order, "short", tokens=4))
        await until(lambda: line(daemon).waiting == 1)
        long.cancel()
        assert (await short).status == 200
        assert order == ["loads", "short"]


async def test_models_that_cannot_be_in_memory_together_take_turns(tmp_path: Path) -> None:
    """The line asks what fits beside what before it gives out a slot."""
    free = 400 * 2**20
    models = [model(name=name) for name in ("a", "b", "c")]
    async with serving(tmp_path, *models, memory=lambda: free) as local:
        needs = max(one.still_needs for one in local._residents.values())
        assert local.fits(["a"]) and local.fits(["nobody"]) and local.fits([])
        free = needs * 3 // 2
        assert not local.fits(["a", "b"])
        free = needs * 4
        assert local.fits(["a", "b", "c"])
        await local.load("a")
        assert local.fits(["a"])
        free = 0
        assert not local.fits(["a", "b"])  # its own memory is not free for `b` while it stays
    async with serving(tmp_path, *models, memory=lambda: None) as local:
        assert local.fits(["a", "b", "c"])  # where nobody knows, the load itself tells
