"""A command that serves a model: its process group, its port, its health, its log."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from tollway.providers.llamacpp.state import Command
from tollway.providers.llamacpp.worker import Log, WorkerEnded, is_stopped

_KEEPER = str(Path(__file__).with_name("keeper.py"))
_ASK_EVERY_S = 0.1
_ANSWER_WITHIN_S = 5.0
_LOOK_EVERY_S = 0.01
_MOST_WORDS = 65_536  # bytes of an answer's head
_AT_WORK = 0.01  # of one CPU: a program that only waits takes less
_HASTY = 10  # a call that was given up in so small a part of `hang_s` says nothing
ENDED_WELL = "ended with exit code 0"
_PORT = re.compile(r"\$\{(?:PORT|port)\}")
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
# Not all of our environment: it may hold providers' keys. What servers of models look at, and
# what any program needs; the rest is for `env` to say.
_PASSED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|VIRTUAL_ENV|PYTHONPATH"
    r"|XDG_\w+|(CUDA|NVIDIA|NCCL|HIP|HSA|ROCR|ROCM|GPU|VK|MESA|GGML|LLAMA|OMP|VLLM|TORCH|SGLANG"
    r"|DOCKER|PODMAN|CONTAINER)_\w+|HF_(HOME|HUB_\w+|XET_\w+)"
)


class Server:
    """A running command, in a process group that ends with the daemon. See `lifecycle.Process`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        link: int,
        base_url: str,
        log: Log,
        clock: Callable[[], float],
    ) -> None:
        self.pid = process.pid
        self.ended: WorkerEnded | None = None
        self.expected = False
        self.heard_at = clock()
        self.base_url = base_url
        self.calls = 0  # under way
        self._unanswered: list[float] = []  # calls in a row: how long each was without a byte
        self._silent_s = 0.0  # while any of them ran
        self._silent_until = 0.0
        self.gone = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self._looked_at = clock()
        self._stands = False  # when we last looked
        self._stood_s = 0.0
        self._clock = clock
        self._process = process
        self._link: int | None = link
        self._log = log
        self._why = ""
        self._on_gone: Callable[[Server], None] = lambda _: None
        self._doubt: asyncio.Task[None] | None = None
        self._task = asyncio.create_task(self._live(), name=f"command {self.pid}")

    @classmethod
    async def start(
        cls,
        command: Command,
        grace_s: float,
        log: Log,
        clock: Callable[[], float],
        secrets: Mapping[str, str] = MappingProxyType({}),
    ) -> "Server":
        """Return a started command, which cannot take calls yet.

        `secrets` are more variables of its environment, as they are.

        Raises:
            OSError: No process can be started.
        """
        port = str(_free_port())
        env = {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}
        env |= {name: _PORT.sub(port, value) for name, value in command.env}
        env |= secrets
        its, ours = os.pipe()
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, ours)
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-P", "-S", "-E", _KEEPER,
                    str(its), str(grace_s), "--",
                    *(_PORT.sub(port, word) for word in command.words),
                    pass_fds=(its,),
                    start_new_session=True,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    env=env,
                )  # fmt: skip
            finally:
                os.close(its)
            undo.pop_all()
        log.open()
        return cls(process, ours, _PORT.sub(port, command.base_url).rstrip("/"), log, clock)

    def on_gone(self, tell: Callable[["Server"], None]) -> None:
        """Have `tell` called when the process is gone."""
        self._on_gone = tell

    @property
    def busy(self) -> bool:
        """Whether calls are under way."""
        return self.calls > 0

    def enter(self) -> None:
        """Take note of a call."""
        if not self.calls:
            self.heard()
        self.calls += 1
        self.idle.clear()

    def leave(self) -> None:
        """Take note of a call's end."""
        self.calls -= 1
        if not self.calls:
            self.idle.set()

    def heard(self) -> None:
        """Take note of a sign of life."""
        self.heard_at = self._clock()

    def answers(self) -> None:
        """Take note of a piece of an answer."""
        self.heard()
        self._unanswered.clear()
        self._silent_s = 0.0

    def given_up(self, since: float, hang_s: float, most: int) -> None:
        """Take note of a call that ended without a byte; several in a row kill the server.

        They do if `most` took `hang_s` each, or if it was silent for as long as these would
        have been in a row: who calls may have less patience. One such call says nothing of
        a server that answers how it is: a whole answer may take that long. Of several nobody
        had anything. A call that was taken back at once is none.
        """
        now = self._clock()
        if now - since < hang_s / _HASTY:
            return
        self._unanswered.append(now - since)
        self._silent_s += now - max(since, self._silent_until)
        self._silent_until = now
        long = sum(silent_s >= hang_s for silent_s in self._unanswered)
        calls = len(self._unanswered)
        if (long >= most or (calls >= most and self._silent_s >= most * hang_s)) and (
            not self.expected
        ):
            self.kill(f"answered none of {calls} calls in a row and was killed")

    @property
    def pids(self) -> tuple[int, ...]:
        """Its process and those below it."""
        return (self.pid, *_descendants(self.pid))

    def look(self, most_s: float) -> float:
        """Return for how long a process of the command has been stopped by a signal.

        Of the time since we last looked `most_s` count at most: it may have run in between.
        """
        now = self._clock()
        passed_s = min(now - self._looked_at, most_s)
        stood, self._stands = self._stands, any(map(is_stopped, self.pids[1:]))
        self._stood_s = self._stood_s + passed_s if stood and self._stands else 0.0
        self._looked_at = now
        return self._stood_s

    def doubt(self, path: str, within_s: float) -> None:
        """Have it killed if it hangs, which is found out in `within_s`; returns at once.

        A whole answer of a slow model is silence as well. So whoever answers at `path` lives, and
        whose processes work does: some servers do one thing at a time.
        """
        if self._doubt is None:
            self._doubt = asyncio.create_task(
                self._end_if_it_hangs(path, within_s), name=f"doubt of command {self.pid}"
            )

    async def _end_if_it_hangs(self, path: str, within_s: float) -> None:
        heard_at, worked_s = self.heard_at, _cpu_s(self.pids[1:])
        lives = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not (lives := await self._speaks(path)):
                    await self._a_moment()
        self._doubt = None
        if not self.busy or self.heard_at != heard_at:
            return
        if lives or _cpu_s(self.pids[1:]) - worked_s > _AT_WORK * within_s:
            self.heard()
        else:
            silent_s = self._clock() - heard_at
            self.kill(f"gave no sign of life for {silent_s:.0f} s and was killed")

    async def until_healthy(self, path: str, within_s: float) -> None:
        """Return once it answers, with 200 at `path` where that is one.

        Raises:
            WorkerEnded: It ended before.
            TimeoutError: It did not in `within_s`.
        """
        async with asyncio.timeout(within_s):
            while not await self.is_healthy(path):
                await self._a_moment()
                if self.ended:
                    raise self.ended
        self.heard()

    async def is_healthy(self, path: str) -> bool:
        """Return whether it answers now, with 200 at `path` where that is one."""
        return await self._status(path) == (200 if path else 0)

    async def _speaks(self, path: str) -> bool:
        # A connection proves nothing here: the system takes it for a program that hangs.
        status = await self._status(path or "/")
        return status == 200 if path else status is not None

    async def _a_moment(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.gone.wait(), _ASK_EVERY_S)

    async def _status(self, path: str) -> int | None:
        """Return what it answers at `path`, 0 where only a connection is asked for; None: none."""
        parts = urlsplit(self.base_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                return await _status_at(parts.hostname or "", port, parts.netloc, path)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return None

    async def drain(self, within_s: float) -> None:
        """See `lifecycle.Process`."""
        self.expected = True
        while self.calls and not self.gone.is_set():
            await self.idle.wait()
        await self.stop(within_s)

    async def stop(self, within_s: float) -> None:
        """See `lifecycle.Process`. Its keeper does it; it is killed where that does not."""
        self.expected = True
        self._close_link()
        try:
            await asyncio.wait_for(self.gone.wait(), within_s + 1)
        except TimeoutError:
            self.kill()
        await asyncio.shield(self._task)

    def kill(self, why: str = "") -> None:
        """See `lifecycle.Process`: the whole group at once, and who has left it."""
        self._why = self._why or why
        if self.gone.is_set():
            return
        for pid in self.pids[1:]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _live(self) -> None:
        reading = asyncio.create_task(self._read_log(), name=f"log of command {self.pid}")
        code = await self._process.wait()
        self._close_link()
        if self._doubt:
            self._doubt.cancel()
        # What is left of the group would hold the pipe open, and the memory: it is gone before
        # another model is told that there is room.
        with contextlib.suppress(ProcessLookupError, PermissionError, TimeoutError):
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                while True:
                    os.killpg(self.pid, signal.SIGKILL)
                    await asyncio.sleep(_LOOK_EVERY_S)
        await asyncio.wait([reading], timeout=_ANSWER_WITHIN_S)
        reading.cancel()
        self._log.close()
        self.ended = WorkerEnded(self._why or _how(code))
        self.gone.set()
        self.idle.set()
        self._on_gone(self)

    async def _read_log(self) -> None:
        stream = self._process.stdout
        while stream and (data := await stream.read(65_536)):
            self._log.feed(data)

    def _close_link(self) -> None:
        if self._link is not None:
            os.close(self._link)
            self._link = None


async def _status_at(host: str, port: int, netloc: str, path: str) -> int | None:
    reader, writer = await asyncio.open_connection(host, port, limit=_MOST_WORDS)
    try:
        if not path:
            return 0
        head = f"GET {path} HTTP/1.1\r\nHost: {netloc}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        found = _STATUS.match(await reader.readuntil(b"\r\n"))
        return int(found[1]) if found else None
    finally:
        writer.close()


def _free_port() -> int:
    # Free now: whoever takes it in the next moment makes the command fail, which is tried again.
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _descendants(pid: int) -> Iterator[int]:
    """Yield the processes below one, none where the system does not tell."""
    with contextlib.suppress(OSError):
        for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield int(word)
            yield from _descendants(int(word))


def _cpu_s(pids: Iterable[int]) -> float:
    """Return how long processes have computed; 0 where the system does not tell."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            said = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            ticks += int(said[11]) + int(said[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _how(code: int) -> str:
    if code == 127:
        return "cannot be started: there is no such program"
    signalled = -code if code < 0 else code - 128 if code > 128 else 0
    try:
        if signalled:
            return f"was killed by {signal.Signals(signalled).name}"
    except ValueError:
        pass
    return f"ended with exit code {code}"
