"""Tokens of a prompt, counted by the model that would read it, or by guess where it cannot say."""

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest
from gateway import KEY
from local_gateway import ask, row, said
from local_gateway import serving as serving_gateway
from local_models import NAME, chat, serving, state_of, until
from shell import Running

from tollway.providers.llamacpp.adapter import Limits
from tollway.providers.llamacpp.worker import is_stopped

pytestmark = pytest.mark.local
HELLO = [{"role": "user", "content": "Hello there, how are you?"}]


async def stop(pid: int) -> None:
    """Stop a process, and return when it stands."""
    os.kill(pid, signal.SIGSTOP)
    await until(lambda: is_stopped(pid))


async def counted(daemon: Running) -> tuple[int, str | None]:
    """Return the tokens of a greeting, and whether they are said to be estimated."""
    asked = json.dumps({"model": "local/smol", "messages": HELLO}).encode()
    path = "/v1/messages/count_tokens"
    reply = await daemon.ask("POST", path, asked, authorization=f"Bearer {KEY}")
    assert reply.status == 200
    return reply.json()["input_tokens"], reply.headers.get("x-tollway-estimated")


async def test_a_guess_is_said_to_be_one_and_is_not_low() -> None:
    """While the model is not loaded. Loaded it counts for itself, and that is what is billed."""
    async with serving_gateway() as daemon:
        guess, estimated = await counted(daemon)
        assert estimated == "true"
        reply = await ask(daemon, said(messages=HELLO, max_tokens=1))
        exact, estimated = await counted(daemon)
        assert estimated is None
        assert exact == reply.json()["usage"]["prompt_tokens"] < guess
        # The budget did not rest on the guess: what was held has room for more.
        found = await row(daemon, reply.headers["x-tollway-request-id"])
        assert found.attempts[0].hold_nanousd > guess * 1000


async def test_a_worker_that_does_not_count_in_time_is_done_without(tmp_path: Path) -> None:
    """It hangs, or reads texts of megabytes: whoever waits for a count would wait with it."""
    limits = Limits(back_off_s=(), sweep_s=3600, count_s=0.01)
    async with serving(tmp_path, limits=limits) as local:
        await local.load(NAME)
        pid = state_of(local).pid
        assert pid is not None
        await stop(pid)
        assert await local.count(NAME, "chat", chat("hi")) is None
        os.kill(pid, signal.SIGCONT)
        assert await local.send(NAME, "chat", chat("hi", max_tokens=1))


async def test_a_model_that_loads_is_not_waited_for(tmp_path: Path) -> None:
    """A load may take minutes, and a count only makes a hold smaller."""
    async with serving(tmp_path) as local:
        loading = asyncio.create_task(local.load(NAME))
        await until(lambda: state_of(local).pid is not None)
        pid = state_of(local).pid or 0
        await stop(pid)
        assert await local.count(NAME, "chat", chat("hi")) is None
        assert not loading.done()
        os.kill(pid, signal.SIGCONT)
        await loading
