"""A worker that dies before its callers have seen a byte: they are tried again, or elsewhere."""

import asyncio
import os
import signal
from typing import Any

import pytest
from gateway import error, gateway, whole
from gguf_files import real_model
from local_gateway import LONG, ask, begin, exact, models, row, said, serving, worker
from shell import Running, until
from upstreams import reads, says

from tollway.daemon.ledger.calls import CallDetail

pytestmark = pytest.mark.local
THREE, ONE = (models(smol=(real_model(), 1024)) + f"slots = {slots}\n" for slots in (3, 1))
SHORT: dict[str, Any] = {"messages": LONG, "max_tokens": 60}


def running(daemon: Running) -> int:
    """Return how many calls the worker has."""
    return daemon.server.daemon.local.states()[0].running


def endings(found: CallDetail) -> list[tuple[str, str]]:
    """Return how each attempt of a call ended, and where it went."""
    return [(f"{one.provider}/{one.model}", one.ending) for one in found.attempts]


async def died(daemon: Running, how: signal.Signals, calls: int = 1) -> None:
    """Kill the worker once it has so many calls, and return when it is gone."""
    await until(lambda: running(daemon) == calls)
    pid = worker(daemon)
    os.kill(pid, how)
    await until(lambda: daemon.server.daemon.local.states()[0].pid != pid)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
async def test_calls_in_a_dead_worker_and_in_its_line_are_answered(how: signal.Signals) -> None:
    """One row for each attempt, and the one that died with the worker costs nothing."""
    async with serving(ONE) as daemon:
        assert (await ask(daemon, said(max_tokens=1))).status == 200
        asked = [asyncio.create_task(ask(daemon, said(**SHORT))) for _ in range(3)]
        await died(daemon, how)
        replies = await asyncio.gather(*asked)
        assert [reply.status for reply in replies] == [200] * 3
        assert len({reply.json()["choices"][0]["message"]["content"] for reply in replies}) == 1
        rows = [await row(daemon, one.headers["x-tollway-request-id"]) for one in replies]
        tries = sorted(len(one.attempts) for one in rows)
        assert tries == [1, 1, 2]
        (twice,) = [one for one in rows if len(one.attempts) == 2]
        assert endings(twice) == [("local/smol", "failed"), ("local/smol", "answered")]
        assert twice.attempts[0].cost_nanousd == 0
        assert twice.call.cost_nanousd == exact(twice.call) > 0


async def test_a_whole_answer_that_had_begun_inside_is_made_again() -> None:
    """Its caller has seen nothing of it, and does not pay for what died."""
    async with serving() as daemon:
        assert (await ask(daemon, said(max_tokens=1))).status == 200
        asking = asyncio.create_task(ask(daemon, said(**SHORT)))
        await until(lambda: running(daemon) == 1)
        process = daemon.server.daemon.local._residents["smol"]._process
        assert process is not None
        (call,) = process._calls.values()
        await until(lambda: call.used.completion > 3)
        await died(daemon, signal.SIGKILL)
        reply = await asking
        assert reply.status == 200
        found = await row(daemon, reply.headers["x-tollway-request-id"])
        assert endings(found) == [("local/smol", "upstream_broke"), ("local/smol", "answered")]
        assert found.call.cost_nanousd == exact(found.call)
        assert found.call.output_tokens == reply.json()["usage"]["completion_tokens"]


async def test_all_calls_of_a_full_worker_are_tried_once_more() -> None:
    """They begin again one by one, so that the one that kills is found; streams among them."""
    async with serving(THREE) as daemon:
        assert (await ask(daemon, said(max_tokens=1))).status == 200
        asked = [
            asyncio.create_task(ask(daemon, said(stream=number == 1, **SHORT)))
            for number in range(3)
        ]
        await died(daemon, signal.SIGKILL, 3)
        assert [reply.status for reply in await asyncio.gather(*asked)] == [200] * 3


async def test_a_call_that_its_worker_dies_of_twice_is_not_tried_a_third_time() -> None:
    """It was alone both times: its client is told not to repeat it. The next call is answered."""
    async with serving() as daemon:
        assert (await ask(daemon, said(max_tokens=1))).status == 200
        asking = asyncio.create_task(ask(daemon, said(**SHORT)))
        await died(daemon, signal.SIGKILL)
        await died(daemon, signal.SIGSEGV)
        reply = await asking
        assert (reply.status, error(reply)["code"]) == (503, "local_model_failed")
        assert reply.headers["x-should-retry"] == "false"
        assert "was killed by SIGSEGV before it answered, and so" in error(reply)["message"]
        found = await row(daemon, reply.headers["x-tollway-request-id"])
        assert endings(found) == [("local/smol", "failed")] * 2
        assert found.call.cost_nanousd == 0
        assert (await ask(daemon, said(max_tokens=4))).status == 200


async def test_three_deaths_in_a_short_while_stay_failed_for_calls_that_wait() -> None:
    """A call that waits for a model that stays failed is told so, and starts nothing."""
    async with serving(ONE) as daemon:
        assert (await ask(daemon, said(max_tokens=1))).status == 200
        asked = [asyncio.create_task(ask(daemon, said(**SHORT))) for _ in range(2)]
        for _ in range(3):
            await died(daemon, signal.SIGKILL)
        replies = await asyncio.gather(*asked)
        assert [reply.status for reply in replies] == [503, 503]
        assert any("the last of 3 deaths" in error(reply)["message"] for reply in replies)
        assert daemon.server.daemon.local.states()[0].pid is None


async def test_a_route_with_another_target_goes_there_at_once() -> None:
    """Nobody waits for a load while somebody else can answer."""
    tables = models(smol=(real_model(), 1024))
    tables += '[routes.chat]\nto = ["local/smol", "up/m"]\n'
    async with gateway([[reads(), says(whole())]], more=tables) as world:
        assert (await ask(world.daemon, said(max_tokens=1))).status == 200
        asking = asyncio.create_task(ask(world.daemon, said(model="chat", **SHORT)))
        await died(world.daemon, signal.SIGKILL)
        reply = await asking
        assert reply.status == 200
        found = await row(world.daemon, reply.headers["x-tollway-request-id"])
        assert endings(found) == [("local/smol", "failed"), ("up/m", "answered")]


async def test_a_stream_that_has_begun_is_not_tried_again() -> None:
    """What a client has seen cannot be taken back."""
    async with serving() as daemon:
        client, call_id = await begin(daemon, said(stream=True, messages=LONG, max_tokens=1500))
        os.kill(worker(daemon), signal.SIGKILL)
        assert b"was killed by SIGKILL" in await client.all()
        assert len((await row(daemon, call_id)).attempts) == 1
