"""One worker process, from its start to its end, and the calls it works on."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from tollway.providers.errors import RequestInvalid
from tollway.providers.llamacpp.frames import (
    Broken,
    Cancel,
    ChoiceEnded,
    Count,
    Counted,
    Done,
    Down,
    Drain,
    Load,
    LoadFailed,
    Ping,
    Pong,
    Progress,
    Quit,
    Reading,
    Ready,
    Refused,
    Submit,
    Token,
    Up,
    Used,
    pack,
    read_up,
)
from tollway.providers.llamacpp.link import Link

LINES_KEPT = 100
LINE_BYTES = 1_000
LOG_BYTES = 4 * 2**20
# What a worker needs of our environment. Not all of it: that may hold providers' keys.
_PASSED = re.compile(
    r"PATH|HOME|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|PYTHONPATH|VIRTUAL_ENV"
    r"|(CUDA|GOMP|HIP|HSA|ROCR|ROCM|GPU|VK|GGML|LLAMA|OMP|MESA|NVIDIA|COVERAGE|COV)_\w+"
)


class WorkerEnded(Exception):
    """The process is gone. `message` tells how, for people, `calls` how many it worked on."""

    def __init__(self, message: str, calls: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.calls = calls


class CannotLoad(Exception):
    """The worker said why it can't load its model; trying again would end the same way."""

    def __init__(self, failed: LoadFailed) -> None:
        super().__init__(failed.message)
        self.failed = failed


class Log:
    """A worker's standard error: its last lines in memory, its first megabytes in a file."""

    def __init__(self, path: Path) -> None:
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._path = path
        self._file: BinaryIO | None = None
        self._room = 0
        self._rest = b""

    def open(self) -> None:
        """Begin a new file, keeping the one before. A log that can't be written is no fault."""
        self.close()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists():
                self._path.replace(self._path.with_suffix(".log.1"))
            self._file = os.fdopen(os.open(self._path, flags, 0o600), "wb")
            self._room = LOG_BYTES

    def feed(self, data: bytes) -> None:
        """Take what the worker wrote."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-LINE_BYTES:]
        for line in lines:
            self.lines.append(line[:LINE_BYTES].decode("utf-8", "replace").rstrip())
        if self._file and self._room > 0:
            with contextlib.suppress(OSError):
                self._file.write(data[: self._room])
                self._file.flush()
            self._room -= len(data)

    def close(self) -> None:
        """Close the file; the lines in memory stay."""
        if self._rest:
            self.feed(b"\n")
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


class Call:
    """One call at a worker: what comes up for it, in its order."""

    def __init__(self, number: int, choices: int, on_end: Callable[["Call"], None]) -> None:
        self.number = number
        self.used = Used()  # so far; exact once ended
        self.ended = asyncio.Event()
        self.first_at: float | None = None
        self.last_at = 0.0
        self.deadline: asyncio.TimerHandle | None = None
        self._on_end = on_end
        self._choices = choices
        self._finished: set[int] = set()
        self._expired = False
        self._came: deque[Up | WorkerEnded] = deque()
        self._taker: Callable[[], bool] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    async def next(self) -> Up:
        """Return the next message.

        Raises:
            WorkerEnded: The process is gone, and nothing more will come.
        """
        while (up := self.next_now()) is None:
            await self.told(lambda: False)
        return up

    def next_now(self) -> Up | None:
        """Return the next message if it is there already.

        Raises:
            WorkerEnded: As `next`.
        """
        if not self._came:
            return None
        up = self._came.popleft()
        if isinstance(up, WorkerEnded):
            raise up
        return up

    async def told(self, taker: Callable[[], bool]) -> None:
        """Have `taker` called each time that something has come, until it returns False.

        That costs less than to wake for each. One may wait at a time.

        Raises:
            Exception: What `taker` raises.
        """
        self._taker, self._waiter = taker, self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._taker = self._waiter = None

    def wake(self) -> None:
        """Tell who waits that something has come."""
        taker, waiter = self._taker, self._waiter
        if taker is None or waiter is None or waiter.done():
            return
        try:
            more = taker()
        except Exception as fault:  # noqa: BLE001 - the call's own, and raised where it waits
            self._taker = None
            waiter.set_exception(fault)
            return
        if not more:
            self._taker = None
            waiter.set_result(None)

    def expire(self) -> None:
        """Take note that its time is over: what has not ended by itself ends as too long."""
        self._expired = True

    def put(self, up: Up) -> None:
        """Take a message from the worker; `wake` tells of it."""
        match up:
            case Token():
                now = self._loop.time()
                self.first_at, self.last_at = self.first_at or now, now
                used = self.used
                self.used = Used(used.prompt, used.cached, used.completion + 1, used.thought)
            case ChoiceEnded(choice=choice):
                self._finished.add(choice)
            case Reading(prompt=prompt, cached=cached):
                self.used = msgspec.structs.replace(self.used, prompt=prompt, cached=cached)
            case Done(usage=used):
                self.used = used
                for choice in range(self._choices):
                    if self._expired and choice not in self._finished:
                        self._came.append(ChoiceEnded(up.id, choice, "length", ""))
        self._came.append(up)
        if isinstance(up, Done | Refused | Broken | Counted):
            self._end()

    def fail(self, fault: WorkerEnded) -> None:
        """Take note that the worker is gone."""
        self._came.append(fault)
        self._end()
        self.wake()

    def _end(self) -> None:
        if not self.ended.is_set():
            self.ended.set()
            if self.deadline:
                self.deadline.cancel()
            self._on_end(self)


class Worker:
    """A running process. It has one owner, and is not used again once `gone`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        link: Link,
        log: Log,
        clock: Callable[[], float],
    ) -> None:
        self.pid = process.pid
        self.gone = asyncio.Event()
        self.ended: WorkerEnded | None = None
        self.expected = False  # we asked it to end
        self.heard_at = clock()
        self._answered = True  # since we last looked
        self._looked_at = clock()
        self._silent_s = 0.0
        self._clock = clock
        self._process = process
        self._link = link
        self._log = log
        self._calls: dict[int, Call] = {}
        self._number = 0
        self._loading: asyncio.Queue[Progress | Ready | LoadFailed | WorkerEnded] = asyncio.Queue()
        self._why = ""
        self._on_gone: Callable[[Worker], None] = lambda _: None
        self._task = asyncio.create_task(self._live(), name=f"worker {self.pid}")

    @classmethod
    async def start(cls, log: Log, clock: Callable[[], float]) -> "Worker":
        """Return a started process that has not loaded anything yet.

        Raises:
            OSError: It cannot be started.
        """
        ours, its = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "tollway.providers.llamacpp.child",
                str(its.fileno()), str(os.getpid()),
                pass_fds=(its.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=_environment(),
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            its.close()  # ours alone would keep the link open after the worker's death
        log.open()
        return cls(process, await Link.over(ours), log, clock)

    def on_gone(self, tell: Callable[["Worker"], None]) -> None:
        """Have `tell` called when the process is gone, before its calls are told."""
        self._on_gone = tell

    @property
    def busy(self) -> bool:
        """Whether it works on a call, so that frames should come."""
        return bool(self._calls)

    async def load(self, load: Load, progress: Callable[[int], None]) -> Ready:
        """Return what was loaded; `progress` is called with percents on the way.

        Raises:
            CannotLoad: The worker said why.
            WorkerEnded: It died.
        """
        self._send(load)
        while True:
            up = await self._loading.get()
            match up:
                case Progress(percent=percent):
                    progress(percent)
                case Ready():
                    return up
                case LoadFailed():
                    raise CannotLoad(up)
                case WorkerEnded():
                    raise up

    def submit(
        self, job: Submit, on_end: Callable[[Call], None], deadline_s: float | None = None
    ) -> Call:
        """Return the call that answers `job`; `on_end` is called once, when nothing more comes.

        What is not whole after `deadline_s` ends as an answer that is too long does.

        Raises:
            WorkerEnded: The process is gone.
            RequestInvalid: The job holds what cannot be told to it.
        """
        choices = 0 if job.kind == "embeddings" else len(job.prompts) * job.n
        call = self._begin(job, on_end, choices)
        if deadline_s is not None:
            loop = asyncio.get_running_loop()
            call.deadline = loop.call_later(deadline_s, self._expire, call)
        return call

    def cancel(self, call: Call) -> None:
        """Make the worker drop a call. The call still ends: with the tokens that it made."""
        if not call.ended.is_set():
            self._send(Cancel(call.number))

    def _expire(self, call: Call) -> None:
        if not call.ended.is_set():
            call.expire()
            self.cancel(call)

    async def count(self, kind: Submit, on_end: Callable[[Call], None]) -> int | None:
        """Return how many tokens a job's prompts have, None if it would be refused.

        Raises:
            WorkerEnded: The process is gone.
            RequestInvalid: The job holds what cannot be told to it.
        """
        call = self._begin(Count(0, kind.kind, kind.prompts, private=kind.private), on_end)
        up = await call.next()
        return up.tokens if isinstance(up, Counted) else None

    def look(self, most_s: float) -> float:
        """Ask the process whether it runs; return for how long it has not answered that.

        It answers beside the engine's longest steps. Of the time since we last looked `most_s`
        count at most: what kept us from looking may have kept it from answering.
        """
        now = self._clock()
        passed_s = min(now - self._looked_at, most_s)
        self._silent_s = 0.0 if self._answered else self._silent_s + passed_s
        self._answered, self._looked_at = False, now
        self._send(Ping())
        return self._silent_s

    async def drain(self, within_s: float) -> None:
        """Let it finish its calls, then return when it has ended; killed if not `within_s`."""
        self.expected = True
        self._send(Drain())
        for call in list(self._calls.values()):
            await call.ended.wait()
        await self._end(within_s)

    async def stop(self, within_s: float) -> None:
        """End it now, its calls with it; return when it is gone."""
        self._send(Quit())
        await self._end(within_s)

    def kill(self, why: str = "") -> None:
        """End it at once; `why` is told instead of the signal."""
        self._why = why
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _end(self, within_s: float) -> None:
        self.expected = True
        try:
            await asyncio.wait_for(self.gone.wait(), within_s)
        except TimeoutError:
            self.kill()
        await asyncio.shield(self._task)

    def _begin(
        self, asked: Submit | Count, on_end: Callable[[Call], None], choices: int = 0
    ) -> Call:
        if self.ended:
            raise self.ended
        self._number += 1
        number = self._number
        try:  # before it counts as a call: one that never ends would look like a worker that hangs
            frame = pack([msgspec.structs.replace(asked, id=number)])
        except OverflowError as fault:
            raise RequestInvalid("A whole number in the request has more than 64 bits") from fault

        def end(call: Call) -> None:
            self._calls.pop(number, None)
            on_end(call)

        if not self._calls:
            self.heard_at = self._clock()
        call = self._calls[number] = Call(number, choices, end)
        if not self.gone.is_set():
            self._link.down.write(frame)
        return call

    def _send(self, message: Down) -> None:
        if not self.gone.is_set():
            self._link.down.write(pack([message]))

    async def _live(self) -> None:
        """Read frames until the process is gone, then end every call."""
        log = asyncio.create_task(self._read_log(), name=f"log of worker {self.pid}")
        try:
            self._link.up.listen(self._hear)
            await self._link.up.ended
            if fault := self._link.up.fault:
                self._log.feed(f"unreadable frame from the worker: {fault}\n".encode())
                self.kill()
        finally:
            self._link.close()
            await self._wait()
            await log
            how = self._why or _how(self._process.returncode or 0)
            self.ended = WorkerEnded(how, len(self._calls))
            self.gone.set()
            self._on_gone(self)
            for call in list(self._calls.values()):
                call.fail(self.ended)
            self._loading.put_nowait(self.ended)

    async def _wait(self) -> None:
        try:
            # Its end of the link is closed, so it is ending; unless it closed that by mistake.
            await asyncio.wait_for(self._process.wait(), 10)
        except TimeoutError:
            self.kill()
            await self._process.wait()

    async def _read_log(self) -> None:
        stream = self._process.stdout
        while stream and (data := await stream.read(65_536)):
            self._log.feed(data)
        self._log.close()

    def _hear(self, frame: bytes) -> None:
        self._answered = True
        told: dict[int, Call] = {}
        for up in read_up(frame):
            if isinstance(up, Pong):
                return  # it comes alone, and the engine may hang all the same
            if isinstance(up, Progress | Ready | LoadFailed):
                self.expected = isinstance(up, LoadFailed)  # it ends by itself then
                self._loading.put_nowait(up)
            elif call := self._calls.get(up.id):
                call.put(up)
                told[up.id] = call
        self.heard_at = self._clock()
        # Once for all that a step brought: a client is sent it in one piece.
        for call in told.values():
            call.wake()


def _environment() -> dict[str, str]:
    passed = {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}
    return {
        # Threads that wait for one another should not keep the CPU from who they wait for: by
        # OpenMP's own rule, beside other busy processes, a token took up to thirty times as long.
        "GOMP_SPINCOUNT": "1000",
        **passed,
        # Else ggml starts a debugger when it aborts, which takes seconds to die.
        "GGML_NO_BACKTRACE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def is_stopped(pid: int) -> bool:
    """Return whether a process was stopped by a signal; False where that can't be known."""
    try:
        found = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return found.rpartition(b")")[2].split()[:1] == [b"T"]


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
