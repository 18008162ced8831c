"""A local model's life: loading, dying, idling, being replaced; with real processes."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import uvloop
from gguf_files import llama_gguf, real_model
from local_models import (
    NAME,
    Clock,
    body_of,
    chat,
    model,
    serving,
    state_of,
    states_seen,
    text_of,
    until,
)

from tollway.providers.errors import (
    LocalModelBusy,
    LocalModelFailed,
    UpstreamBroke,
    UpstreamTimeout,
)
from tollway.providers.llamacpp.adapter import Limits, LocalModels, ModelState, Terms
from tollway.providers.llamacpp.frames import (
    Count,
    Counted,
    Prompt,
    frame_length,
    pack,
    read_up,
)

pytestmark = [pytest.mark.local, pytest.mark.timeout(300)]

LONG = chat("Tell me a very long story.", max_tokens=1500, stream=True)


def pid_of(local: LocalModels) -> int:
    """Return the worker's process id."""
    pid = state_of(local).pid
    assert pid is not None
    return pid


def alive(pid: int) -> bool:
    """Return whether a process runs; one that ended and was not waited for does not."""
    with contextlib.suppress(OSError):
        return " Z " not in f" {Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1]} "
    return False


async def test_five_callers_at_once_start_one_process(tmp_path: Path) -> None:
    """And one who leaves while the model loads hurts no other."""
    seen: list[str] = []
    async with serving(tmp_path, on_change=states_seen(seen)) as local:
        tasks = [asyncio.create_task(text_of(local, chat("hi", max_tokens=2))) for _ in range(5)]
        await until(lambda: state_of(local).state == "loading")
        tasks[0].cancel()
        answers = await asyncio.gather(*tasks[1:])
        assert len(set(answers)) == 1
        assert tasks[0].cancelled()
        assert seen == ["starting", "loading", "ready"]
        assert state_of(local).percent == 100
        assert state_of(local).rss_bytes > 50_000_000
    assert not alive(state_of(local).pid or 0)


async def test_a_model_that_nobody_waits_for_any_more_is_still_loaded(tmp_path: Path) -> None:
    """The only caller left; the next finds the model there."""
    async with serving(tmp_path) as local:
        task = asyncio.create_task(text_of(local, chat("hi")))
        await until(lambda: state_of(local).state == "loading")
        pid = pid_of(local)
        task.cancel()
        await asyncio.wait([task])
        assert await text_of(local, chat("hi", max_tokens=2))
        assert pid_of(local) == pid


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
async def test_a_worker_killed_in_the_middle_ends_its_call_alone(
    tmp_path: Path, how: signal.Signals
) -> None:
    """Its call ends with an error that names the signal; the next call works."""
    seen: list[str] = []
    async with serving(tmp_path, on_change=states_seen(seen)) as local:
        answer = await local.send(NAME, "chat", LONG)
        chunks = answer.chunks()
        await anext(chunks)
        pid = pid_of(local)
        waiting = asyncio.create_task(text_of(local, chat("hi", max_tokens=2)))
        os.kill(pid, how)
        with pytest.raises(UpstreamBroke, match=f"`{NAME}` was killed by {how.name} in the middle"):
            async for _ in chunks:
                pass
        await answer.close()
        assert answer.usage_so_far.output > 0
        assert await waiting  # it was in the line, and is served by the next worker
        assert pid_of(local) != pid
        assert seen == ["starting", "loading", "ready", "failed", "starting", "loading", "ready"]


async def test_a_worker_killed_before_it_answers_is_a_failed_model(tmp_path: Path) -> None:
    """Nothing was generated, so the call may go elsewhere: `sent` is false."""
    async with serving(tmp_path) as local:
        await local.load(NAME)
        os.kill(pid_of(local), signal.SIGSTOP)  # it can read nothing, so it can't have begun
        task = asyncio.create_task(local.send(NAME, "chat", LONG))
        await until(lambda: state_of(local).running == 1)
        os.kill(pid_of(local), signal.SIGKILL)
        with pytest.raises(LocalModelFailed, match="SIGKILL before it answered") as fault:
            await task
        assert not fault.value.sent
        assert state_of(local).state == "failed"
        assert "SIGKILL" in state_of(local).problem
        assert state_of(local).log  # llama.cpp's own last words


async def test_three_deaths_leave_it_failed_until_somebody_asks(tmp_path: Path) -> None:
    """A model that dies again and again is not started for ever."""
    clock = Clock()
    async with serving(tmp_path, clock=clock) as local:
        for _ in range(3):
            assert await text_of(local, chat("hi", max_tokens=1))
            await kill(local)
        with pytest.raises(LocalModelFailed, match="the last of 3 deaths"):
            await local.send(NAME, "chat", chat("hi"))
        clock.now += 10_000
        with pytest.raises(LocalModelFailed, match="the last of 3 deaths"):
            await local.send(NAME, "chat", chat("hi"))
        await local.load(NAME)
        assert await text_of(local, chat("hi", max_tokens=1))


async def test_deaths_far_apart_are_forgiven(tmp_path: Path) -> None:
    """One a day is bad luck."""
    clock = Clock()
    async with serving(tmp_path, clock=clock, limits=Limits(deaths=2, back_off_s=())) as local:
        for _ in range(3):
            assert await text_of(local, chat("hi", max_tokens=1))
            await kill(local)
            clock.now += 301


async def kill(local: LocalModels) -> None:
    """Kill the worker, and return once that was noticed."""
    os.kill(pid_of(local), signal.SIGKILL)
    await until(lambda: state_of(local).state == "failed")


async def test_an_idle_model_is_unloaded_and_a_pinned_one_is_not(tmp_path: Path) -> None:
    """Idle counts from the end of the last call; a running call is never idle."""
    clock = Clock()
    pinned = model(name="pinned", pinned=True)
    limits = Limits(hang_s=100_000, sweep_s=3600)
    async with serving(tmp_path, model(), pinned, clock=clock, limits=limits) as local:
        await local.load("pinned")
        answer = await local.send(NAME, "chat", LONG)
        pid = pid_of(local)
        clock.now += 5000
        await local.sweep()
        assert state_of(local).state == "ready"
        await answer.close()
        clock.now += 899
        await local.sweep()
        assert state_of(local).state == "ready"
        assert state_of(local).idle_s == 899
        clock.now += 1
        await local.sweep()
        assert state_of(local).state == "stopped"
        assert not alive(pid)
        assert {state.name: state.state for state in local.states()}["pinned"] == "ready"
        assert await text_of(local, chat("hi", max_tokens=1))


async def test_unloading_lets_running_calls_finish(tmp_path: Path) -> None:
    """And a call that comes meanwhile waits, then loads it afresh."""
    async with serving(tmp_path) as local:
        answer = await local.send(NAME, "chat", chat("Count.", max_tokens=30, stream=True))
        pid = pid_of(local)
        unloading = asyncio.create_task(local.unload(NAME))
        await until(lambda: state_of(local).state == "draining")
        late = asyncio.create_task(text_of(local, chat("hi", max_tokens=1)))
        assert (await body_of(answer)).endswith(b"data: [DONE]\n\n")
        await unloading
        assert await late
        assert pid_of(local) != pid


async def test_a_changed_configuration_is_used_by_the_next_call(tmp_path: Path) -> None:
    """Running calls finish as they began; removed models stop after their last call."""
    async with serving(tmp_path) as local:
        answer = await local.send(NAME, "chat", chat("Count.", max_tokens=30, stream=True))
        await local.configure({NAME: model(context=512)})
        assert local.context_of(NAME) == 512
        assert (await body_of(answer)).endswith(b"data: [DONE]\n\n")
        assert await text_of(local, chat("hi", max_tokens=1))
        pid = pid_of(local)

        await local.configure({NAME: model(context=512, idle_unload_s=1.0)})
        assert pid_of(local) == pid  # nothing that needs a reload

        answer = await local.send(NAME, "chat", chat("Count.", max_tokens=30, stream=True))
        await local.configure({})
        with pytest.raises(LocalModelFailed, match="no local model"):
            await local.send(NAME, "chat", chat("hi"))
        assert local.states() == []
        assert (await body_of(answer)).endswith(b"data: [DONE]\n\n")
        await until(lambda: not alive(pid))


async def test_bad_files_are_told_and_good_ones_tried_again(tmp_path: Path) -> None:
    """No GGUF, cut short, missing: each call gets the reason; replacing the file is enough."""
    path = tmp_path / "m.gguf"
    async with serving(tmp_path, model(path)) as local:
        for data, words in [(None, "no file"), (b"hello" * 9, "no GGUF file")]:
            if data:
                path.write_bytes(data)
            for _ in range(2):
                with pytest.raises(LocalModelFailed, match=words) as fault:
                    await local.send(NAME, "chat", chat("hi"))
                assert not fault.value.again
                assert str(tmp_path) not in fault.value.message
            assert state_of(local).state == "failed"
        whole_file = real_model().read_bytes()
        path.write_bytes(whole_file[:-1000])
        with pytest.raises(LocalModelFailed, match=r"`m.gguf` is cut short: 1,000 of 98,362,432"):
            await local.send(NAME, "chat", chat("hi"))
        path.write_bytes(whole_file)
        assert await text_of(local, chat("hi", max_tokens=1))


async def test_a_part_of_a_split_model_that_comes_back_is_enough(tmp_path: Path) -> None:
    """The first file is what it was; the parts beside it are looked at too."""
    path = tmp_path / "m-00001-of-00002.gguf"
    path.write_bytes(llama_gguf(split__count=2))
    async with serving(tmp_path, model(path)) as local:
        with pytest.raises(LocalModelFailed, match=r"no file `m-00002-of-00002.gguf`"):
            await local.send(NAME, "chat", chat("hi"))
        (tmp_path / "m-00002-of-00002.gguf").write_bytes(b"hello" * 9)
        with pytest.raises(LocalModelFailed, match=r"`m-00002-of-00002.gguf`.*no GGUF file"):
            await local.send(NAME, "chat", chat("hi"))


async def test_a_file_that_llama_cpp_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    """A whole GGUF file that is no usable model is not tried again by itself."""
    path = tmp_path / "odd.gguf"
    path.write_bytes(llama_gguf())
    seen: list[str] = []
    async with serving(tmp_path, model(path), on_change=states_seen(seen)) as local:
        for _ in range(2):
            with pytest.raises(LocalModelFailed, match=r"cannot load the file \(.*error") as fault:
                await local.send(NAME, "chat", chat("hi"))
            assert not fault.value.again
            assert str(tmp_path) not in fault.value.message
        assert seen == ["starting", "loading", "failed"]


async def test_a_model_too_large_for_memory_starts_no_process(tmp_path: Path) -> None:
    """Refused with numbers, and tried again as soon as there is room."""
    room = [100 * 2**20]
    seen: list[str] = []
    options: dict[str, Any] = {"memory": lambda: room[0], "on_change": states_seen(seen)}
    async with serving(tmp_path, **options) as local:
        with pytest.raises(LocalModelFailed, match=r"needs \d+ MiB .* 100 MiB are free") as fault:
            await local.send(NAME, "chat", chat("hi"))
        assert "weights" in fault.value.message
        assert "smaller quantisation" in fault.value.hint or "context" in fault.value.hint
        assert seen == ["starting", "failed"]
        room[0] = 2**40
        assert await text_of(local, chat("hi", max_tokens=1))


async def test_an_idle_model_makes_room_for_another(tmp_path: Path) -> None:
    """What was used longest ago goes first, and never what is busy."""
    clock = Clock()
    used = [0]

    def changed(state: ModelState) -> None:
        # What runs is used memory, as the system would say it.
        if state.name == "a":
            used[0] = 150 * 2**20 if state.state == "ready" else 0

    options: dict[str, Any] = {"memory": lambda: 260 * 2**20 - used[0], "on_change": changed}
    async with serving(tmp_path, model(name="a"), model(name="b"), clock=clock, **options) as local:
        await local.load("a")
        clock.now += 10
        await local.load("b")
        assert _state(local, "a") == "stopped"
        assert _state(local, "b") == "ready"


def _state(local: LocalModels, name: str) -> str:
    return next(state.state for state in local.states() if state.name == name)


async def test_a_call_that_does_not_begin_in_time_is_told_so(tmp_path: Path) -> None:
    """`first_s` covers the wait in the line as well; the line goes on."""
    async with serving(tmp_path) as local:
        answer = await local.send(NAME, "chat", LONG)
        with pytest.raises(LocalModelBusy, match="is busy: 1 call is before") as busy:
            await local.send(NAME, "chat", chat("hi"), Terms(first_s=0.01))
        assert (busy.value.status, busy.value.sent) == (503, False)
        assert busy.value.retry_after_s
        patient = asyncio.create_task(local.send(NAME, "chat", chat("hi", max_tokens=1)))
        await until(lambda: state_of(local).waiting == 1)
        with pytest.raises(LocalModelBusy, match="is busy: 2 calls are before"):
            await local.send(NAME, "chat", chat("hi"), Terms(first_s=0.01))
        await answer.close()
        await body_of(await patient)
        os.kill(pid_of(local), signal.SIGSTOP)
        with pytest.raises(UpstreamTimeout, match="did not begin to answer"):
            await local.send(NAME, "chat", chat("hi"), Terms(first_s=0.01))
        os.kill(pid_of(local), signal.SIGCONT)
        assert await text_of(local, chat("hi", max_tokens=1))


async def test_closing_ends_running_calls_and_the_workers(tmp_path: Path) -> None:
    """The daemon drains first; what then still runs ends with an error."""
    async with serving(tmp_path) as local:
        answer = await local.send(NAME, "chat", LONG)
        pid = pid_of(local)
        await local.close()
        with pytest.raises(UpstreamBroke):
            await body_of(answer)
        assert not alive(pid)


async def test_workers_know_no_secret_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment may hold providers' keys; a worker gets what it needs and no more."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    async with serving(tmp_path) as local:
        await local.load(NAME)
        environment = Path(f"/proc/{pid_of(local)}/environ").read_bytes()  # noqa: ASYNC240
        assert b"sk-canary" not in environment
        assert b"CUDA_VISIBLE_DEVICES=0" in environment
        assert b"GGML_NO_BACKTRACE=1" in environment
        log = tmp_path / "logs" / f"model-{NAME}.log"
        assert log.stat().st_mode & 0o777 == 0o600
        assert b"llama_context" in log.read_bytes()
        # Its developers' lines would leave no room for the last words.
        assert b"llama_graph_n_input_tensors" not in log.read_bytes()


PARENT = """
import asyncio, sys
from pathlib import Path
from tollway.providers.llamacpp.adapter import LocalModel, LocalModels

async def main():
    local = LocalModels(log_folder=Path(sys.argv[2]))
    await local.configure({"m": LocalModel("m", Path(sys.argv[1]), 512, 0, 900.0)})
    await local.load("m")
    print(local.states()[0].pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_killed_daemon_leaves_no_worker_behind(tmp_path: Path) -> None:
    """Nothing is left that holds memory or a GPU after `kill -9`."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(real_model()), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        waiting = os.pidfd_open(pid)
        try:
            parent.kill()
            parent.wait()
            asyncio.run(_readable(waiting))
        finally:
            os.close(waiting)
        assert not alive(pid)


async def _readable(descriptor: int) -> None:
    """Return when a descriptor can be read, which a pidfd can once its process has ended."""
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, done.set)
    await asyncio.wait_for(done.wait(), 30)
    loop.remove_reader(descriptor)


@pytest.mark.parametrize("wrong", ["parent", "link"])
def test_a_worker_ends_with_its_link_or_its_parent(wrong: str) -> None:
    """Either alone is enough; a worker that was orphaned before it began ends as well."""
    ours, its = socket.socketpair()
    parent = os.getpid() if wrong == "link" else 1_000_000
    with subprocess.Popen(
        [sys.executable, "-m", "tollway.providers.llamacpp.child", str(its.fileno()), str(parent)],
        pass_fds=(its.fileno(),),
    ) as child:
        its.close()
        if wrong == "link":
            ours.close()
        assert child.wait(30) == 0
    ours.close()


# Its main thread is in a step that never ends.
BUSY = """
import socket, sys
from tollway.providers.llamacpp.child import Link
from tollway.providers.llamacpp.frames import Counted
link = Link(socket.socket(fileno=int(sys.argv[1])))
class Counts:
    def count(self, asked):
        return Counted(asked.id, len(asked.prompts))
link.serve(Counts())
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_prompt_is_counted_while_a_step_runs() -> None:
    """Each caller waits for it before he is admitted: for a step, each would come one too late."""
    ours, its = socket.socketpair()
    with subprocess.Popen(
        [sys.executable, "-c", BUSY, str(its.fileno())],
        pass_fds=(its.fileno(),),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        its.close()
        assert child.stdout and child.stdout.readline() == b"ready\n"
        ours.settimeout(60)
        # Two at once: whichever thread answers, frames must not run into each other.
        asked = [Count(number, "completions", [Prompt(text="a")] * number) for number in (1, 2)]
        ours.sendall(b"".join(pack([one]) for one in asked))
        with ours.makefile("rb") as answers:
            said = [read_up(answers.read(frame_length(answers.read(4))))[0] for _ in asked]
        assert said == [Counted(1, 1), Counted(2, 2)]
        ours.close()
        assert child.wait(30) == 0


def test_a_fault_of_the_thread_that_reads_ends_the_worker() -> None:
    """Else it would be a process that hears nothing more, and its callers wait for ever."""
    ours, its = socket.socketpair()
    with subprocess.Popen(
        [sys.executable, "-c", BUSY.replace("len(asked.prompts)", "1 // 0"), str(its.fileno())],
        pass_fds=(its.fileno(),),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        its.close()
        assert child.stdout and child.stdout.readline() == b"ready\n"
        ours.sendall(pack([Count(1, "completions", [Prompt(text="a")])]))
        assert child.wait(30) == 1
        assert child.stderr and b"ZeroDivisionError" in child.stderr.read()
    ours.close()


def test_all_of_it_works_under_uvloop(tmp_path: Path) -> None:
    """The daemon runs on uvloop, whose subprocesses and sockets are not asyncio's."""

    async def live() -> None:
        async with serving(tmp_path) as local:
            answer = await local.send(NAME, "chat", LONG)
            chunks = answer.chunks()
            await anext(chunks)
            os.kill(pid_of(local), signal.SIGKILL)
            with pytest.raises(UpstreamBroke, match="SIGKILL"):
                async for _ in chunks:
                    pass
            assert await text_of(local, chat("hi", max_tokens=2))
            await local.unload(NAME)
            assert state_of(local).state == "stopped"

    uvloop.run(live())
