"""A worker that hangs: found by what it does not say, and never mistaken for one that computes."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from local_models import NAME, PATIENT, Clock, chat, model, serving, state_of, until

from tollway.providers.errors import LocalModelFailed
from tollway.providers.llamacpp.adapter import Limits, LocalModels
from tollway.providers.llamacpp.worker import is_stopped

pytestmark = pytest.mark.local
LONG = chat("Count from one to three hundred in words.", max_tokens=1500)


def pid_of(local: LocalModels) -> int:
    """Return the worker's process id."""
    pid = state_of(local).pid
    assert pid is not None
    return pid


def alive(pid: int) -> bool:
    """Return whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def stop(pid: int) -> None:
    """Stop a process, and return when it stands: the signal alone says nothing of when."""
    os.kill(pid, signal.SIGSTOP)
    await until(lambda: is_stopped(pid))


async def stopped(local: LocalModels) -> "asyncio.Task[object]":
    """Stop the worker, ask it something, and return the call that waits."""
    await local.load(NAME)
    await stop(pid_of(local))
    task: asyncio.Task[object] = asyncio.create_task(local.send(NAME, "chat", LONG))
    await until(lambda: state_of(local).running == 1)
    return task


async def passes(local: LocalModels, clock: Clock, *times_s: float) -> None:
    """Look after the workers after each of these times."""
    for time_s in times_s:
        clock.now += time_s
        await local.sweep()


async def test_a_stopped_worker_is_found_within_seconds(tmp_path: Path) -> None:
    """It answers no more that it runs, and the system says why; calls that wait are told."""
    clock = Clock()
    async with serving(tmp_path, clock=clock) as local:
        task = await stopped(local)
        pid = pid_of(local)
        await passes(local, clock, 0, PATIENT.stopped_s)
        assert alive(pid)
        await passes(local, clock, 1)
        with pytest.raises(LocalModelFailed, match="was stopped for 16 s and was killed") as fault:
            await task
        assert fault.value.death == "alone"
        assert await local.send(NAME, "chat", chat("hi", max_tokens=1))


async def test_a_worker_that_is_stopped_while_it_loads_is_found_too(tmp_path: Path) -> None:
    """Nobody waits minutes for a load that stands still."""
    clock = Clock()
    async with serving(tmp_path, clock=clock) as local:
        task = asyncio.create_task(local.load(NAME))
        await until(lambda: state_of(local).pid is not None)
        await stop(pid_of(local))
        await passes(local, clock, 0, 8, 8)
        with pytest.raises(LocalModelFailed, match="was stopped for 16 s"):
            await task


async def test_a_worker_that_is_deaf_is_given_a_minute(tmp_path: Path) -> None:
    """One that nobody stopped may lack the machine's time or memory, and come back."""
    clock, limits = Clock(), Limits(back_off_s=(), sweep_s=3600, stopped_s=10_000)
    async with serving(tmp_path, clock=clock, limits=limits) as local:
        task = await stopped(local)
        pid = pid_of(local)
        await passes(local, clock, 0, 30, 30)
        assert alive(pid)
        await passes(local, clock, 1)
        with pytest.raises(LocalModelFailed, match="no sign of life for 61 s"):
            await task


async def test_what_kept_us_from_looking_is_not_held_against_a_worker(tmp_path: Path) -> None:
    """After a pause of the daemon itself, a moment passes before it has heard what was said."""
    clock, limits = Clock(), Limits(back_off_s=(), sweep_s=2, hang_s=10_000)
    async with serving(tmp_path, clock=clock, limits=limits) as local:
        task = await stopped(local)
        pid = pid_of(local)
        await passes(local, clock, 0, 3000, 3000, 3000)
        assert alive(pid)
        os.kill(pid, signal.SIGCONT)
        resident = local._residents[NAME]
        await until(lambda: bool(resident._process and resident._process._answered))
        await passes(local, clock, 3000, 3000)
        assert alive(pid)
        task.cancel()


async def test_a_call_that_is_given_up_has_ended_at_the_worker_too(tmp_path: Path) -> None:
    """Else its slot would be given to a call of another model, which finds this one at work."""
    async with serving(tmp_path) as local:
        await local.load(NAME)
        prompt = chat("one two three " * 400)
        task = asyncio.create_task(local.send(NAME, "chat", prompt))
        await until(lambda: state_of(local).running == 1)
        task.cancel()
        await asyncio.wait([task])
        assert state_of(local).running == 0


async def test_a_worker_that_has_nothing_to_do_does_not_hang(tmp_path: Path) -> None:
    """Stopped while nobody waits for it, it is left alone; who then asks is told in time."""
    clock = Clock()
    async with serving(tmp_path, model(pinned=True), clock=clock) as local:
        await local.load(NAME)
        pid = pid_of(local)
        await stop(pid)
        await passes(local, clock, 10_000, 10_000)
        assert alive(pid)
        os.kill(pid, signal.SIGCONT)


async def test_an_engine_that_brings_nothing_is_killed_though_its_process_answers(
    tmp_path: Path,
) -> None:
    """A step of minutes is no step any more."""
    clock, limits = Clock(), Limits(back_off_s=(), sweep_s=3600, stopped_s=10_000, deaf_s=10_000)
    async with serving(tmp_path, clock=clock, limits=limits) as local:
        task = await stopped(local)
        pid = pid_of(local)
        await passes(local, clock, limits.hang_s)
        assert alive(pid)
        await passes(local, clock, 1)
        with pytest.raises(LocalModelFailed, match="no sign of life for 301 s"):
            await task
        assert "no sign of life" in state_of(local).problem
