"""Room for a model: what may happen to those that must go for it while it is made."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from local_models import Clock, chat, model, serving, until

from tollway.providers.errors import LocalModelFailed
from tollway.providers.llamacpp.adapter import Limits, LocalModels, ModelState

pytestmark = [pytest.mark.local, pytest.mark.timeout(300)]

WITHIN_S = 60.0  # a load takes one or two
# A worker that is stopped must not be killed before its test lets it go on.
LIMITS = Limits(back_off_s=(), sweep_s=3600, stop_within_s=WITHIN_S)
SMALL = model(name="new", context=256)
MODELS = (model(name="old"), model(name="young"), model(name="new", context=4096))


def state_of(local: LocalModels, name: str) -> ModelState:
    """Return a model's state."""
    return next(state for state in local.states() if state.name == name)


def send(local: LocalModels, name: str, how: signal.Signals) -> None:
    """Send a signal to a model's worker."""
    pid = state_of(local, name).pid
    assert pid is not None
    os.kill(pid, how)


@asynccontextmanager
async def making_room(
    folder: Path, last: str = "old"
) -> AsyncIterator[tuple[LocalModels, asyncio.Task[None]]]:
    """Yield models of which "new" is being loaded, and waits until "old" has ended.

    Both "old" and "young" were chosen to go for it, and "old" is stopped, so that it ends when
    it is let go on; once the `last` that must go is gone, there is room for all.
    """
    full = [True]

    def changed(state: ModelState) -> None:
        if (state.name, state.state) == (last, "stopped"):
            full[0] = False

    def mapped() -> int:
        # What the kernel calls available though our workers have it, and what "old" gave back.
        residents = local._residents
        freed = 0 if residents["old"].present else 128 * 2**20
        return freed + sum(one.memory[1] for one in residents.values())

    clock = Clock()
    async with serving(
        folder, *MODELS, limits=LIMITS, clock=clock, on_change=changed,
        memory=lambda: mapped() if full[0] else 2**40,
    ) as local:  # fmt: skip
        full[0] = False
        for name in ("old", "young"):
            await local.load(name)
            clock.now += 1
        full[0] = True
        send(local, "old", signal.SIGSTOP)
        loading = asyncio.create_task(local.load("new"))
        await until(lambda: state_of(local, "old").state == "draining")
        yield local, loading
        loading.cancel()
        await asyncio.wait([loading])


async def test_both_must_go(tmp_path: Path) -> None:
    """What the other tests here begin with."""
    async with making_room(tmp_path, last="young") as (local, loading):
        send(local, "old", signal.SIGCONT)
        async with asyncio.timeout(WITHIN_S):
            await loading
        assert state_of(local, "old").state == "stopped"
        assert state_of(local, "young").state == "stopped"
        assert state_of(local, "new").state == "ready"


async def test_one_whose_place_is_not_needed_any_more_stays(tmp_path: Path) -> None:
    """Each that ends may free more than was thought: it is looked again before the next goes."""
    async with making_room(tmp_path) as (local, loading):
        send(local, "old", signal.SIGCONT)
        async with asyncio.timeout(WITHIN_S):
            await loading
        assert state_of(local, "young").state == "ready"


async def test_one_that_dies_and_is_loaded_again_meanwhile_is_not_waited_for(
    tmp_path: Path,
) -> None:
    """It waits for room itself, behind the one that would wait for it: no load would ever end."""
    async with making_room(tmp_path) as (local, loading):
        send(local, "young", signal.SIGKILL)
        await until(lambda: state_of(local, "young").state == "failed")
        again = asyncio.create_task(local.load("young"))
        await until(lambda: state_of(local, "young").state == "starting")
        send(local, "old", signal.SIGCONT)
        async with asyncio.timeout(WITHIN_S):
            await asyncio.gather(loading, again)
        assert state_of(local, "new").state == "ready"
        assert state_of(local, "young").state == "ready"


async def test_a_load_that_waits_for_room_is_given_up_by_an_unload(tmp_path: Path) -> None:
    """Nothing is in memory, so there is nothing to wait for; a caller has it loaded anew."""
    async with making_room(tmp_path) as (local, loading):
        send(local, "young", signal.SIGKILL)
        await until(lambda: state_of(local, "young").state == "failed")
        again = asyncio.create_task(local.load("young"))
        await until(lambda: state_of(local, "young").state == "starting")
        async with asyncio.timeout(WITHIN_S):
            await local.unload("young")
        assert state_of(local, "old").state == "draining"
        assert not again.done()
        send(local, "old", signal.SIGCONT)
        async with asyncio.timeout(WITHIN_S):
            await asyncio.gather(loading, again)
        assert state_of(local, "young").state == "ready"


async def test_one_that_is_called_meanwhile_stays(tmp_path: Path) -> None:
    """A call may take minutes, and no other model could be loaded all that time."""
    async with making_room(tmp_path) as (local, loading):
        pid = state_of(local, "young").pid
        answer = await local.send("young", "chat", chat("Tell a story.", max_tokens=1500))
        send(local, "old", signal.SIGCONT)
        async with asyncio.timeout(WITHIN_S):
            await loading
        assert state_of(local, "young").pid == pid
        assert state_of(local, "young").state == "ready"
        await answer.close()


async def test_one_that_is_removed_meanwhile_is_no_fault(tmp_path: Path) -> None:
    """A reload of the configuration can come at any time."""
    async with making_room(tmp_path) as (local, loading):
        await local.configure({one.name: one for one in MODELS if one.name != "young"})
        send(local, "old", signal.SIGCONT)
        async with asyncio.timeout(WITHIN_S):
            await loading
        assert [state.name for state in local.states()] == ["old", "new"]
        assert state_of(local, "new").state == "ready"


@asynccontextmanager
async def without_room(
    folder: Path,
) -> AsyncIterator[tuple[LocalModels, Callable[[], None]]]:
    """Yield models, and what to call from when on "new" has no room until "old" has ended."""
    full = [False]

    def changed(state: ModelState) -> None:
        if (state.name, state.state) == ("old", "stopped"):
            full[0] = False

    def memory() -> int:
        if not full[0]:
            return 2**40
        # What the kernel calls available though our workers have it, or will.
        residents = [*local._residents.values(), *local._retiring]
        coming = sum(max(0, one.reserved - one.memory[0]) for one in residents)
        return coming + sum(one.memory[1] for one in residents) + 2**26  # too little for "new"

    async with serving(
        folder, MODELS[0], SMALL, limits=LIMITS, on_change=changed, memory=memory
    ) as local:
        yield local, lambda: full.__setitem__(0, True)


async def new_comes_after_old(local: LocalModels, pid: int) -> None:
    """Load "new" while the worker of "old" is stopped, and let that go on."""
    loading = asyncio.create_task(local.load("new"))
    try:
        await until(lambda: state_of(local, "new").state in {"starting", "failed"})
    finally:
        os.kill(pid, signal.SIGCONT)
    async with asyncio.timeout(WITHIN_S):
        await loading
    assert state_of(local, "new").state == "ready"


@pytest.mark.parametrize("whose", ["nobody's", "a person's"])
async def test_a_load_that_no_call_waits_for_makes_room(tmp_path: Path, whose: str) -> None:
    """Its caller has left, or there was none: it goes on to its end, and then for the next call."""
    async with without_room(tmp_path) as (local, fill):
        if whose == "nobody's":
            asking: asyncio.Task[object] = asyncio.create_task(
                local.send("old", "chat", chat("hi"))
            )
        else:
            asking = asyncio.create_task(local.load("old"))
        await until(lambda: state_of(local, "old").state == "loading")
        send(local, "old", signal.SIGSTOP)
        pid = state_of(local, "old").pid
        fill()
        if whose == "nobody's":
            asking.cancel()
            await asyncio.wait([asking])
        assert pid is not None
        await new_comes_after_old(local, pid)
        assert state_of(local, "old").state == "stopped"
        await asyncio.wait([asking])
        assert asking.cancelled() == (whose == "nobody's")


@pytest.mark.parametrize("how", ["unloaded", "removed"])
async def test_one_that_is_on_its_way_out_is_waited_for(tmp_path: Path, how: str) -> None:
    """By a person's word, or since the configuration has it no more."""
    async with without_room(tmp_path) as (local, fill):
        await local.load("old")
        send(local, "old", signal.SIGSTOP)
        pid = state_of(local, "old").pid
        assert pid is not None
        fill()
        if how == "removed":
            await local.configure({"new": SMALL})
            await new_comes_after_old(local, pid)
            return
        unloading = asyncio.create_task(local.unload("old"))
        await until(lambda: state_of(local, "old").state == "draining")
        assert local.fits(["old"])  # what it gives back is its own as well
        await new_comes_after_old(local, pid)
        await unloading


async def test_one_that_is_removed_while_it_waits_for_room_does_not_wait_for_its_own_end(
    tmp_path: Path,
) -> None:
    """It ends once nobody waits for it any more, and so never: whoever waits is told instead."""
    full = [False]
    async with serving(
        tmp_path, MODELS[0], SMALL, limits=LIMITS, memory=lambda: 0 if full[0] else 2**40
    ) as local:
        await local.load("old")
        send(local, "old", signal.SIGSTOP)
        pid = state_of(local, "old").pid
        assert pid is not None
        full[0] = True
        await local.configure({"new": SMALL})
        loading = asyncio.create_task(local.load("new"))
        await until(lambda: state_of(local, "new").state == "starting")
        await local.configure({})
        os.kill(pid, signal.SIGCONT)
        async with asyncio.timeout(WITHIN_S):
            with pytest.raises(LocalModelFailed, match="memory"):
                await loading


async def test_room_that_comes_before_the_end_of_one_on_its_way_out_is_taken(
    tmp_path: Path,
) -> None:
    """A removed model's last call may take an hour, and another that was at work is idle by now."""

    def mapped() -> int:
        residents = [*local._residents.values(), *local._retiring]
        given_back = 0 if local._residents["young"].present else 128 * 2**20
        return given_back + 2**26 + sum(one.memory[1] for one in residents)  # too little for "new"

    full = [False]
    async with serving(
        tmp_path, *MODELS, limits=LIMITS, memory=lambda: mapped() if full[0] else 2**40
    ) as local:
        for name in ("old", "young"):
            await local.load(name)
        send(local, "old", signal.SIGSTOP)
        pid = state_of(local, "old").pid
        assert pid is not None
        full[0] = True
        called = ["young"]
        local.has_turn = called.__contains__
        try:
            await local.configure({"young": MODELS[1], "new": SMALL})
            loading = asyncio.create_task(local.load("new"))
            await until(lambda: state_of(local, "new").state == "starting")
            called.clear()
            async with asyncio.timeout(WITHIN_S):
                await loading
            assert state_of(local, "young").state == "stopped"
        finally:
            os.kill(pid, signal.SIGCONT)


async def test_a_line_that_asks_what_fits_costs_one_look_at_the_memory(tmp_path: Path) -> None:
    """Each is a read of several files; but what has changed of ours is seen at once."""
    looks = []

    def memory() -> int:
        looks.append(1)
        return 2**40

    clock = Clock()
    async with serving(
        tmp_path, MODELS[0], SMALL, limits=LIMITS, clock=clock, memory=memory
    ) as local:
        assert all(local.fits(names) for names in (["old", "new"], ["new", "old"]) * 50)
        assert len(looks) == 1
        clock.now += 1
        assert local.fits(["old", "new"])
        assert len(looks) == 2
        await local.load("old")
        looks.clear()
        assert local.fits(["old", "new"])
        assert len(looks) == 1
        await local.configure({"old": MODELS[0], "new": model(name="new", apart_from=("old",))})
        assert not local.fits(["old", "new"])
