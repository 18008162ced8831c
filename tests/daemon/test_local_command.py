"""Models that a command serves, and prices by the hour, through the whole gateway."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from math import inf
from pathlib import Path

from gateway import CHAT, KEY, body, config, error
from shell import Reply, Running, running, until

from tollway.daemon.gate.explain import explain
from tollway.daemon.gate.explanation import Question
from tollway.daemon.ledger.calls import CallDetail, one
from tollway.daemon.ledger.local_time import local_times
from tollway.daemon.ledger.reprice import reprice
from tollway.daemon.ledger.verify import verify
from tollway.daemon.local_times import write
from tollway.daemon.pricing import in_force

SERVER = Path(__file__).parent.parent / "command_server.py"
# 3.6 dollars an hour: 1,000 nano-dollars a millisecond.
NANO_A_MS = 1000


def table(more: str = 'price = { gpu_hour = 3.6 }\ndeadline = "60s"', words: str = "") -> str:
    """Return the table of a model that the test's server serves."""
    command = f"{sys.executable} {SERVER} ${{PORT}} {words}"
    return f'[models.qwen]\ncommand = "{command}"\nserved_as = "Qwen/Qwen3"\nslots = 2\n{more}\n'


@contextlib.asynccontextmanager
async def serving(tables: str, budget: str = "1/day") -> AsyncIterator[Running]:
    """Yield a gateway with the model, and see that nothing stays held."""
    async with running(tables + config([], budget=budget), server="") as daemon:
        yield daemon
        inner = daemon.server.daemon
        await until(lambda: inner.active == 0)
        assert all(state.held_nanousd == 0 for state in inner.gate.purse.states())
        await until(lambda: verify(inner.ledger.path) == [])


async def ask(daemon: Running, data: bytes) -> Reply:
    """Send a call and return its answer."""
    return await daemon.ask("POST", CHAT, data, authorization=f"Bearer {KEY}")


async def row(daemon: Running, reply: Reply) -> CallDetail:
    """Return a call's row once it is settled."""
    path = daemon.server.daemon.ledger.path
    call = reply.headers["x-tollway-request-id"]
    await until(lambda: one(path, call).call.state != "open")
    return one(path, call)


async def test_a_commands_model_is_called_and_metered_like_a_providers() -> None:
    """Whole and streamed, by tokens: its own usage, its own name there, its state in the list."""
    price = "price = { input = 1, output = 2 }"
    async with serving(table(price)) as daemon:
        listed = await daemon.ask("GET", "/v1/models", authorization=f"Bearer {KEY}")
        (entry,) = listed.json()["data"]
        assert (entry["id"], entry["state"]) == ("local/qwen", "registered")
        assert "context_window" not in entry
        reply = await ask(daemon, body(model="local/qwen"))
        assert reply.status == 200
        assert "Qwen/Qwen3" in reply.json()["choices"][0]["message"]["content"]
        found = await row(daemon, reply)
        assert found.call.cost_nanousd == 7 * 1000 + 3 * 2000
        streamed = await ask(daemon, body(True, model="local/qwen"))
        assert streamed.status == 200
        assert (await row(daemon, streamed)).call.cost_nanousd == 7 * 1000 + 3 * 2000
        listed = await daemon.ask("GET", "/v1/models", authorization=f"Bearer {KEY}")
        assert listed.json()["data"][0]["state"] == "ready"


async def test_a_model_of_this_box_is_waited_for_until_its_routes_deadline() -> None:
    """No other time-out ends a slow one; that its process lives is looked at."""
    route = '[routes.slow]\nto = ["local/qwen"]\ndeadline = "1s"\n'
    async with serving(table("price = 'free'") + route) as daemon:
        timeouts = daemon.server.daemon.gate.target("local/qwen").timeouts
        assert (timeouts.first_s, timeouts.idle_s) == (inf, inf)
        assert (await ask(daemon, body(model="local/qwen"))).status == 200
        hanging = body(model="slow", messages=[{"role": "user", "content": "hang"}])
        asking = asyncio.create_task(ask(daemon, hanging))
        has_turn = daemon.server.daemon.local.has_turn
        await until(lambda: has_turn("qwen"))
        reply = await asking
        assert not has_turn("qwen")
        assert (reply.status, error(reply)["code"]) == (504, "upstream_timeout")
        assert "`qwen` did not begin to answer within" in error(reply)["message"]


async def test_a_price_by_the_hour_bills_the_time_and_holds_the_deadline() -> None:
    """Milliseconds stand in the row, and repricing from them changes nothing, or what it must."""
    async with serving(table()) as daemon:
        path = daemon.server.daemon.ledger.path
        found = await row(daemon, await ask(daemon, body(model="local/qwen")))
        (attempt,) = found.attempts
        assert attempt.gpu_ms is not None and attempt.gpu_ms > 0
        assert attempt.hold_nanousd == 60_000 * NANO_A_MS
        assert found.call.cost_nanousd == attempt.gpu_ms * NANO_A_MS
        assert not found.call.estimated
        inner = daemon.server.daemon
        same = reprice(path, in_force(inner.config), (0, 2**53), apply=False)
        assert (same.attempts, same.changed, same.left) == (1, 0, 0)
        config_path = inner.config.path
        config_path.write_text(config_path.read_text().replace("gpu_hour = 3.6", "gpu_hour = 7.2"))
        await daemon.server.reloader.reload()
        other = reprice(path, in_force(inner.config), (0, 2**53), apply=False)
        assert (other.changed, other.after_nanousd) == (1, 2 * other.before_nanousd)


async def test_a_glob_of_prices_prices_a_model_that_says_no_price() -> None:
    """It is billed, held for, explained and repriced by it; the model's own price is above it."""
    glob = '[prices."local/*"]\ninput = 1\noutput = 2\n'
    async with serving(table("") + glob) as daemon:
        inner = daemon.server.daemon
        said = await explain(inner.gate, Question("local/qwen", output=10))
        assert (said.targets[0].price, said.targets[0].input_usd) == ("gateway.toml", "1")
        assert said.targets[0].hold_nanousd == 1000 * 1000 + 10 * 2000
        reply = await ask(daemon, body(model="local/qwen"))
        assert reply.status == 200
        assert (await row(daemon, reply)).call.cost_nanousd == 7 * 1000 + 3 * 2000
        same = reprice(inner.ledger.path, in_force(inner.config), (0, 2**53), apply=False)
        assert (same.attempts, same.changed, same.left) == (1, 0, 0)
        path = inner.config.path
        path.write_text(path.read_text().replace("slots = 2", 'slots = 2\nprice = "free"'))
        await daemon.server.reloader.reload()
        assert (await explain(inner.gate, Question("local/qwen"))).targets[0].price == "free"


async def test_a_budget_smaller_than_the_deadline_refuses() -> None:
    """The hold is the worst case: a minute at 3.6 dollars an hour is six cents."""
    async with serving(table(), budget="0.05/day") as daemon:
        reply = await ask(daemon, body(model="local/qwen"))
        assert (reply.status, error(reply)["code"]) == (402, "insufficient_quota")
        # Fewer tokens would not help: the deadline is what is held.
        assert "may work on it for 60 s: a shorter `deadline`" in error(reply)["message"]
        assert "max_tokens" not in error(reply)["message"]
    async with serving(table(), budget="0.07/day") as daemon:
        assert (await ask(daemon, body(model="local/qwen"))).status == 200


async def test_a_call_that_passes_its_deadline_is_ended_and_billed_for_its_time() -> None:
    """And the model answers the next one."""
    hangs = {"messages": [{"role": "user", "content": "hang"}]}
    async with serving(table('price = { gpu_hour = 3.6 }\ndeadline = "1s"')) as daemon:
        assert (await ask(daemon, body(model="local/qwen"))).status == 200
        reply = await ask(daemon, body(model="local/qwen", **hangs))
        assert reply.status == 504
        found = await row(daemon, reply)
        # All of the deadline and no more: that was held, and ending it takes a moment on top.
        assert found.attempts[0].gpu_ms == 1000
        assert found.call.cost_nanousd == found.attempts[0].hold_nanousd == 1000 * NANO_A_MS
        assert found.attempts[0].overrun_nanousd == 0
        assert (await ask(daemon, body(model="local/qwen"))).status == 200


async def test_a_command_that_cannot_start_is_a_503_at_no_cost() -> None:
    """Whoever asked is told in words that name no path of ours."""
    async with serving(table(words="dies")) as daemon:
        reply = await ask(daemon, body(model="local/qwen"))
        assert (reply.status, error(reply)["code"]) == (503, "local_model_failed")
        assert "ended with exit code 1" in error(reply)["message"]
        assert (await row(daemon, reply)).call.cost_nanousd == 0


async def test_time_without_work_is_written_down_apart() -> None:
    """At the daemon's end at the latest; what calls had is not in it."""
    async with serving(table()) as daemon:
        began = time.monotonic()
        found = await row(daemon, await ask(daemon, body(model="local/qwen")))
        path = daemon.server.daemon.ledger.path
        await daemon.server.daemon.local.unload("qwen")
        passed_ms = 1000 * (time.monotonic() - began)
        write(daemon.server.daemon)
        await until(lambda: bool(local_times(path, since_ms=0, until_ms=2**53)))
        (times,) = local_times(path, since_ms=0, until_ms=2**53)
        assert times.model == "qwen"
        assert times.idle_ms > 0
        assert times.idle_nanousd == times.idle_ms * NANO_A_MS
        # Its call is billed for the time until its answer was there, and ended a little later.
        assert times.busy_ms + 1 >= (found.attempts[0].gpu_ms or 0) > 0
        assert times.busy_ms + times.idle_ms <= passed_ms


async def test_a_command_that_dies_of_a_call_twice_is_not_asked_a_third_time() -> None:
    """The call is tried once more, billed nothing, and its client told not to repeat it."""
    async with serving(table()) as daemon:
        said = body(model="local/qwen", messages=[{"role": "user", "content": "die"}])
        reply = await ask(daemon, said)
        assert (reply.status, error(reply)["code"]) == (503, "local_model_failed")
        assert reply.headers["x-should-retry"] == "false"
        found = await row(daemon, reply)
        assert len(found.attempts) == 2
        assert found.call.cost_nanousd == 0
        assert (await ask(daemon, body(model="local/qwen"))).status == 200
