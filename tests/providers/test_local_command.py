"""A model that a command serves: started by its first call, watched, and never left behind."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from local_models import Clock, until
from served_commands import PATIENT, request, served, serving

from tollway.providers.errors import GatewayError, LocalModelFailed, UpstreamError, UpstreamTimeout
from tollway.providers.llamacpp.adapter import Command, Limits, LocalModel, LocalModels, ModelState
from tollway.providers.llamacpp.fit import resident_bytes
from tollway.providers.llamacpp.state import Terms
from tollway.providers.llamacpp.worker import is_stopped

pytestmark = pytest.mark.timeout(120)


async def ask(local: LocalModels, name: str = "qwen", text: str = "hi") -> dict[str, Any]:
    """Return what the server says that it was asked."""
    answer = await local.forward(name, request(text))
    try:
        body = json.loads(b"".join([piece async for piece in answer.chunks()]))
    finally:
        await answer.close()
    found: dict[str, Any] = json.loads(body["choices"][0]["message"]["content"])
    return found


def runs(pid: int) -> bool:
    """Return whether a process runs; one that ended and was not waited for does not."""
    with contextlib.suppress(OSError):
        return " Z " not in f" {Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1]} "
    return False


def group(pid: int) -> list[int]:
    """Return the processes of a group that run."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if os.getpgid(int(entry.name)) == pid and runs(int(entry.name)):
                found.append(int(entry.name))
    return found


def pid_of(local: LocalModels, name: str = "qwen") -> int:
    """Return the process at the head of a model's group."""
    pid = next(state.pid for state in local.states() if state.name == name)
    assert pid is not None
    return pid


async def test_secrets_are_looked_up_at_each_start(tmp_path: Path) -> None:
    """A variable of its environment may be kept elsewhere; where it is not there, that is told."""
    places = {"keyring:echo": "kept apart ${PORT}"}

    def secret(kept: str) -> str:
        if kept not in places:
            raise GatewayError(f"There is no secret `{kept}`", hint="store it")
        return places[kept]

    one = served()
    assert one.command
    command = msgspec.structs.replace(one.command, env=(), secrets=(("ECHO", "keyring:echo"),))
    one = msgspec.structs.replace(one, command=command)
    async with serving(tmp_path, one) as local:
        local.secret = secret
        assert (await ask(local))["env"] == "kept apart ${PORT}"
        await local.unload("qwen")
        del places["keyring:echo"]
        with pytest.raises(LocalModelFailed) as told:
            await ask(local)
        assert told.value.message == (
            "The command of `qwen` lacks its `ECHO`: There is no secret `keyring:echo`"
        )
        assert told.value.hint == "store it"
        places["keyring:echo"] = "again"
        await local.load("qwen")
        assert (await ask(local))["env"] == "again"


async def test_the_first_call_starts_it_and_idleness_ends_it(tmp_path: Path) -> None:
    """Five callers at once start one; its name there, port and environment are its own."""
    clock = Clock()
    async with serving(tmp_path, served(served_as="Qwen/Qwen3"), clock=clock) as local:
        assert local.state("qwen") == "registered"
        heard = await asyncio.gather(*(ask(local) for _ in range(5)))
        assert {one["model"] for one in heard} == {"Qwen/Qwen3"}
        assert len({one["env"] for one in heard}) == 1
        assert heard[0]["env"].removeprefix("port ").isdecimal()
        (state,) = local.states()
        assert (state.state, state.running, state.log) == ("ready", 0, ("listening",))
        pid = pid_of(local)
        clock.now += 901
        await local.sweep()
        assert local.state("qwen") == "stopped"
        assert group(pid) == []
        assert (await ask(local))["model"] == "Qwen/Qwen3"


async def test_one_that_ends_at_once_is_told_with_its_last_words(tmp_path: Path) -> None:
    """Three deaths and it stays failed, until somebody asks for it to be tried again."""
    async with serving(tmp_path, served("qwen", "dies")) as local:
        for _ in range(3):
            with pytest.raises(LocalModelFailed, match="ended with exit code 1"):
                await ask(local)
        (state,) = local.states()
        assert state.state == "failed"
        assert "the last of 3 deaths" in state.problem
        assert any("out of memory" in line for line in state.log)
        with pytest.raises(LocalModelFailed) as stuck:
            await ask(local)
        assert not stuck.value.again


async def test_one_that_goes_to_the_background_is_told_to_stay(tmp_path: Path) -> None:
    """`docker run -d` ends at once, and all seems well."""
    async with serving(tmp_path, served("qwen", "leaves")) as local:
        with pytest.raises(LocalModelFailed, match="ended with exit code 0") as fault:
            await ask(local)
        assert fault.value.hint is not None
        assert "background" in fault.value.hint


async def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    """The word of the shell is missing, so ours must do."""
    command = Command(("/no/such/program",), "http://127.0.0.1:${PORT}/v1", "", 30)
    model = LocalModel("gone", Path(), 8192, "auto", 900, command=command)
    async with serving(tmp_path, model) as local:
        with pytest.raises(LocalModelFailed, match="there is no such program"):
            await ask(local, "gone")


async def test_one_that_is_never_ready_is_killed(tmp_path: Path) -> None:
    """Its callers are told, and nothing of it stays."""
    async with serving(tmp_path, served("qwen", "never", within_s=3)) as local:
        asking = asyncio.create_task(ask(local))
        await until(lambda: local.state("qwen") == "loading")
        pid = pid_of(local)
        with pytest.raises(LocalModelFailed, match="was not ready within 3 s"):
            await asking
        assert local.state("qwen") == "failed"
        assert group(pid) == []


async def test_a_server_that_dies_in_a_call_ends_that_call_and_comes_back(tmp_path: Path) -> None:
    """The next call starts it again."""
    async with serving(tmp_path) as local:
        await ask(local)
        with pytest.raises(UpstreamError) as fault:
            await ask(local, text="die")
        assert fault.value.message == "`qwen` closed the connection before it answered"
        await until(lambda: local.state("qwen") == "failed")
        assert "was killed by SIGKILL" in local.states()[0].problem
        assert (await ask(local))["model"] == "qwen"


@asynccontextmanager
async def silent(
    folder: Path, text: str, *words: str, health: str = "/health", deaf_s: float = 60
) -> AsyncIterator[LocalModels]:
    """Yield a command that has been silent at a call for longer than is thought right."""
    clock, limits = Clock(), msgspec.structs.replace(PATIENT, deaf_s=deaf_s)
    one = served("qwen", *words, health=health)
    async with serving(folder, one, clock=clock, limits=limits) as local:
        await ask(local)
        asking = asyncio.create_task(ask(local, text=text))
        await until(lambda: local.states()[0].running == 1)
        clock.now += 301
        await local.sweep()
        yield local
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError, UpstreamError):
            await asking


@pytest.mark.parametrize("health", ["/health", ""], ids=["by health", "by connection"])
async def test_a_server_that_hangs_is_killed(tmp_path: Path, health: str) -> None:
    """No byte for too long while a call waits, no answer to who asks, and no work.

    With it ends every process of it, also what left its group.
    """
    async with silent(tmp_path, "hang", "alone", "child", health=health, deaf_s=0.5) as local:
        child = next(line for line in local.states()[0].log if line.startswith("child "))
        await until(lambda: "gave no sign of life for 301 s" in local.states()[0].problem)
        await until(lambda: not runs(int(child.split()[1])))


@pytest.mark.parametrize("health", ["/health", ""], ids=["by health", "by connection"])
async def test_a_server_that_is_slow_is_left_at_work(tmp_path: Path, health: str) -> None:
    """The whole answer of a large model takes its time: it answers meanwhile that it is well."""
    async with silent(tmp_path, "hang", health=health) as local:
        await until(lambda: heard(local))
        assert (local.states()[0].running, local.states()[0].waiting) == (1, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell")
async def test_a_server_that_does_one_thing_at_a_time_is_left_at_work(tmp_path: Path) -> None:
    """It answers nobody while it works; that it works is seen."""
    async with silent(tmp_path, "work", "alone", deaf_s=1) as local:
        await until(lambda: heard(local))
        assert local.states()[0].running == 1


@pytest.mark.parametrize(
    ("silent_s", "calls", "answered", "killed"),
    [
        (301, 3, False, True),
        (301, 3, True, False),
        (250, 4, False, True),  # as a model's `deadline` or impatient clients end them
        (29, 4, False, False),
    ],
)
async def test_a_server_that_answers_nobody_and_says_that_it_is_well_is_killed(
    tmp_path: Path, silent_s: float, calls: int, answered: bool, killed: bool
) -> None:
    """One call that takes long says nothing; of several in a row nobody had a byte."""
    clock = Clock()
    async with serving(tmp_path, clock=clock) as local:
        for at in range(calls):
            assert local.states()[0].state == ("ready" if at else "registered")
            if answered and at:
                await ask(local)
            asking = asyncio.create_task(ask(local, text="hang"))
            await until(lambda: local.states()[0].running == 1)
            clock.now += silent_s
            await local.sweep()
            if silent_s > PATIENT.hang_s:
                await until(lambda: heard(local))  # its health answers
            asking.cancel()  # its client, or a deadline, has had enough
            with contextlib.suppress(asyncio.CancelledError):
                await asking
        if killed:
            await until(lambda: f"answered none of {calls} calls" in local.states()[0].problem)
        else:
            assert local.states()[0].state == "ready"
        assert await ask(local)


def heard(local: LocalModels) -> bool:
    """Return whether the server's last sign of life is of this moment."""
    resident = local._residents["qwen"]
    assert resident._process is not None, local.states()[0].problem
    return bool(resident._process.heard_at == resident._around.clock())


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell")
@pytest.mark.parametrize("words", [(), ("never",)], ids=["at work", "starting"])
async def test_a_stopped_command_is_found_within_seconds(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Its process stands still, and the system says so; nobody waits five minutes for it."""
    clock = Clock()
    async with serving(tmp_path, served("qwen", *words), clock=clock) as local:
        if not words:
            await ask(local)
        asking = asyncio.create_task(ask(local, text="hang"))
        await until(lambda: bool(words or local.states()[0].running))
        await until(lambda: local.states()[0].pid is not None)
        await until(lambda: len(group(pid_of(local))) == 2)
        (server,) = [one for one in group(pid_of(local)) if one != pid_of(local)]
        os.kill(server, signal.SIGSTOP)
        await until(lambda: is_stopped(server))
        for _ in range(4):
            await local.sweep()
            clock.now += 5
        assert runs(server)
        await local.sweep()
        with pytest.raises((UpstreamError, LocalModelFailed)):
            await asking
        await until(lambda: "was stopped for 20 s" in local.states()[0].problem)
        assert not runs(server)


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell")
async def test_a_commands_memory_is_that_of_all_its_processes(tmp_path: Path) -> None:
    """Who must leave for another model is chosen by it; the keeper alone holds next to nothing."""
    async with serving(tmp_path) as local:
        await ask(local)
        held = [resident_bytes(pid)[0] for pid in group(pid_of(local))]
        assert len(held) == 2
        assert local.states()[0].rss_bytes > 0.8 * sum(held)


async def test_a_deadline_ends_a_call(tmp_path: Path) -> None:
    """And the slot with it: nothing of the call stays."""
    async with serving(tmp_path) as local:
        await ask(local)
        with pytest.raises(UpstreamTimeout, match="deadline"):
            await local.forward("qwen", request("hang"), Terms(deadline_s=0.2))
        assert local.states()[0].running == 0


@pytest.mark.parametrize("words", [("stubborn",), ("child",), ("stubborn", "child")], ids=" ".join)
async def test_nothing_of_a_command_outlives_its_unloading(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Whoever ignores SIGTERM is killed, and so are processes that left the group."""
    limits = Limits(back_off_s=(), sweep_s=3600, stop_within_s=1)
    async with serving(tmp_path, served("qwen", *words), limits=limits) as local:
        await ask(local)
        pid = pid_of(local)

        def children() -> list[str]:
            return [line for line in local.states()[0].log if line.startswith("child ")]

        await until(lambda: len(children()) == ("child" in words))  # it says so in its own time
        said = children()
        await local.unload("qwen")
        assert group(pid) == []
        assert not any(runs(int(line.split()[1])) for line in said)


PARENT = """
import asyncio, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from served_commands import serving
from test_local_command import ask, pid_of

async def main():
    async with serving(Path(sys.argv[1])) as local:
        await ask(local)
        print(pid_of(local), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_killed_daemon_leaves_no_command_behind(tmp_path: Path) -> None:
    """The keeper sees the link end, and ends the group."""
    here = Path(__file__).parent
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), str(here), str(here.parent)],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        members = group(pid)
        assert len(members) == 2  # the keeper and the server
        parent.kill()
        parent.wait()
    asyncio.run(asyncio.wait_for(until(lambda: not any(map(runs, members))), 60))


async def test_a_killed_keeper_takes_its_command_along(tmp_path: Path) -> None:
    """Out of memory, the kernel may choose the keeper."""
    async with serving(tmp_path) as local:
        await ask(local)
        members = group(pid_of(local))
        os.kill(pid_of(local), signal.SIGKILL)
        await until(lambda: not any(map(runs, members)))
        await until(lambda: local.state("qwen") == "failed")


async def test_models_that_may_not_meet_take_turns(tmp_path: Path) -> None:
    """The one that comes ends the other; one that is at work stays, and the caller is told."""
    both = (served("qwen", apart_from=("other",)), served("other"))
    async with serving(tmp_path, *both) as local:
        assert not local.fits(["qwen", "other"])
        await ask(local, "qwen")
        await ask(local, "other")
        assert (local.state("qwen"), local.state("other")) == ("stopped", "ready")
        hanging = asyncio.create_task(ask(local, "other", "hang"))
        await until(lambda: local.states()[1].running == 1)
        with pytest.raises(LocalModelFailed, match="may not run beside `other`, which is at work"):
            await ask(local, "qwen")
        hanging.cancel()
        await asyncio.wait([hanging])
        await ask(local, "qwen")
        assert (local.state("qwen"), local.state("other")) == ("ready", "stopped")


async def test_another_leaves_where_one_that_was_to_leave_is_called_meanwhile(
    tmp_path: Path,
) -> None:
    """While one ends, the world changes: who leaves next is decided by what is true then."""
    clock, held, asking = Clock(), dict[str, int](), list[asyncio.Task[dict[str, Any]]]()

    def free() -> int:
        residents = local._residents
        mapped = sum(one.memory[1] for one in residents.values())
        return mapped + sum(held[name] for name in held if not residents[name].present)

    def changed(state: ModelState) -> None:
        if (state.name, state.state) == ("a", "draining"):
            asking.append(asyncio.create_task(ask(local, "b", "hang")))

    three = [served(name) for name in "abc"]
    async with serving(
        tmp_path, *three, clock=clock, on_change=changed, memory=lambda: free() if held else 2**40
    ) as local:
        for name in "abc":
            await ask(local, name)
            clock.now += 1
        held |= {one.name: one.rss_bytes for one in local.states()}
        new = served("new")
        assert new.command
        command = msgspec.structs.replace(new.command, memory=held["a"] + held["b"] // 2)
        await local.configure(
            {one.name: one for one in (*three, msgspec.structs.replace(new, command=command))}
        )
        await ask(local, "new")
        states = {one.name: one.state for one in local.states()}
        assert states == {"a": "stopped", "b": "ready", "c": "stopped", "new": "ready"}
        asking[0].cancel()
        await asyncio.wait(asking)


async def test_what_is_being_loaded_is_no_reason_that_another_never_fits(tmp_path: Path) -> None:
    """Whoever fits nowhere is not kept waiting but refused: it was, while others were loaded."""
    large = [
        msgspec.structs.replace(one, command=msgspec.structs.replace(one.command, memory=2**30))
        for one in (served("qwen", "never"), served("other"))
        if one.command
    ]
    async with serving(tmp_path, *large, memory=lambda: 2**30) as local:
        loading = asyncio.create_task(ask(local, "qwen"))
        await until(lambda: local.state("qwen") == "loading")
        assert local.fits(["other"])
        assert not local.fits(["other", "qwen"])
        loading.cancel()
        await asyncio.wait([loading])


async def test_one_whose_call_is_on_its_way_is_not_taken_for_idle(tmp_path: Path) -> None:
    """A call that has had its turn is written down before it is sent: it is not seen here yet."""
    both = (served("qwen", apart_from=("other",)), served("other", idle_unload_s=0))
    async with serving(tmp_path, *both) as local:
        await ask(local, "other")
        local.has_turn = "other".__eq__
        with pytest.raises(LocalModelFailed, match="may not run beside `other`, which is at work"):
            await ask(local, "qwen")
        await local.sweep()
        assert local.state("other") == "ready"


async def test_a_model_may_be_loaded_at_the_start(tmp_path: Path) -> None:
    """Nobody has called it yet."""
    async with serving(tmp_path, served(load_at_start=True)) as local:
        await until(lambda: local.state("qwen") == "ready")
