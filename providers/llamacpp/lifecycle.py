"""A model's life, whatever runs it: one owner, who starts, restarts and stops its process.

Callers say what they need and never look at the state first: what decides and what acts stand
in one place, without an `await` between them.
"""

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar
from urllib.parse import quote

import msgspec

from tollway.providers.errors import LocalModelFailed
from tollway.providers.llamacpp.fit import resident_bytes
from tollway.providers.llamacpp.shares import Shares
from tollway.providers.llamacpp.state import Limits, LocalModel, ModelState, State
from tollway.providers.llamacpp.worker import Log, WorkerEnded

SHOWN_LINES = 20


class Process(Protocol):
    """A running process that serves a model."""

    pid: int
    ended: WorkerEnded | None
    expected: bool  # we asked it to end
    heard_at: float  # when it last gave a sign of life

    @property
    def busy(self) -> bool:
        """Whether signs of life should come."""
        ...

    async def drain(self, within_s: float) -> None:
        """Let it finish its calls, then return when it has ended; killed if not `within_s`."""
        ...

    async def stop(self, within_s: float) -> None:
        """End it now, its calls with it; return when it is gone."""
        ...

    def kill(self, why: str = "") -> None:
        """End it at once; `why` is told instead of the signal."""
        ...


P = TypeVar("P", bound=Process)


class Surroundings(msgspec.Struct, frozen=True):
    """What a resident needs of its house."""

    limits: Limits
    clock: Callable[[], float]
    log_folder: Path
    make_room: Callable[["AnyResident"], Awaitable[None]]
    changed: Callable[["AnyResident"], None]


class Resident(ABC, Generic[P]):
    """One model and its process, of which there is never more than one."""

    word = "worker"  # what people are told that the process is

    def __init__(self, model: LocalModel, around: Surroundings) -> None:
        self.model = model
        self.state: State = "registered"
        self.problem = ""
        self.warning = ("", "")  # of what is loaded, and what to do about it
        self.percent = 0
        self.waiting = 0
        self.running = 0
        self.reserved = 0  # bytes that a load in progress will take
        self.idle_since = around.clock()
        self.loaded_at: float | None = None
        self.tokens_per_s: float | None = None
        self.quiet = asyncio.Event()  # nobody waits and nothing runs
        self.quiet.set()
        self.log = Log(around.log_folder / log_name(model.name))
        self.shares = Shares(around.clock)
        self._around = around
        self._process: P | None = None
        self._loading: asyncio.Task[None] | None = None
        self._admitted = False  # the load in progress has its room; from here on it is not cut
        self._stopping: asyncio.Task[None] | None = None
        self._deaths: deque[float] = deque(maxlen=around.limits.deaths)
        self._stuck: tuple[LocalModelFailed, tuple[int, ...]] | None = None
        self._closed = asyncio.Event()

    # What each kind of resident has of its own.

    @abstractmethod
    async def _bring_up(self) -> None:
        """Return once there is a process that can take calls.

        Raises:
            LocalModelFailed: With words for whoever asked.
        """

    @abstractmethod
    def _identity(self) -> tuple[int, ...]:
        """Return what must change before a load that failed for good is worth another try."""

    @abstractmethod
    def _is_other(self, old: LocalModel) -> bool:
        """Whether what is loaded is not what the configuration now asks for."""

    @abstractmethod
    def _died_hint(self, fault: WorkerEnded) -> str:
        """Return what to do about a process that died."""

    async def look(self) -> None:
        """Find out what can be known of the model before it is loaded."""

    async def notice(self, *, still: bool = True) -> None:
        """Take note of what was loaded having been replaced; `still`: once that stands still."""

    @property
    def made_s(self) -> int | None:
        """When the model was made, in unix seconds, as far as it is known."""
        return None

    @property
    def context(self) -> int:
        """The tokens that fit, as loaded or as it would be."""
        return self.model.context

    @property
    def needs(self) -> int:
        """Bytes of RAM that it takes once loaded; 0 where that cannot be known before."""
        return 0

    @property
    def still_needs(self) -> int:
        """Bytes that it would take more than it has; 0 where that cannot be known."""
        return 0 if self.loaded or self.reserved else self.needs

    def require_room(self, free: int) -> None:
        """Return if it fits into `free` bytes.

        Raises:
            LocalModelFailed: It does not; the words say what would help.
        """

    @property
    def memory(self) -> tuple[int, int]:
        """Bytes in RAM, and how many of them are mapped files."""
        return resident_bytes(self._process.pid) if self._process else (0, 0)

    # What callers ask for.

    async def ready(self) -> P:
        """Return the loaded process, loading it where it is not: once, for all who ask.

        A caller that is cancelled leaves the model loading; a load that fails is told to all
        who wait for it, and the next call tries afresh.

        Raises:
            LocalModelFailed: It cannot be loaded.
        """
        while True:
            if self._stopping:
                await asyncio.shield(self._stopping)
            elif self._process and self.state == "ready":
                return self._process
            else:
                if self._loading is None:
                    self._refuse_if_stuck()
                    self._loading = asyncio.create_task(
                        self._load(), name=f"load {self.model.name}"
                    )
                    self._loading.add_done_callback(self._load_ended)
                await asyncio.wait([loading := self._loading])
                if not loading.cancelled():  # else it was stopped before it took any memory
                    loading.result()

    async def load(self) -> None:
        """Load it, forgetting that it failed before.

        Raises:
            LocalModelFailed: It cannot be loaded.
        """
        self.forgive()
        await self.notice(still=False)
        with self._present():
            await self.ready()

    async def unload(self) -> None:
        """Return when it is out of memory; running calls finish first."""
        await asyncio.shield(self._renew())

    def _renew(self) -> asyncio.Task[None]:
        """Return what stops it: running calls finish, and the next one loads afresh."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name=f"stop {self.model.name}")
        return self._stopping

    def change(self, model: LocalModel) -> None:
        """Take a changed configuration; what runs finishes, the next call loads afresh."""
        old, self.model = self.model, model
        self.forgive()
        if self._is_other(old) and (self._process or self._loading):
            self._renew()

    def forgive(self) -> None:
        """Forget past failures."""
        self._stuck = None
        self._deaths.clear()

    async def retire(self) -> None:
        """Finish what runs and waits, then stop for good."""
        await self.quiet.wait()
        await self.unload()
        self._closed.set()

    async def close(self) -> None:
        """Stop at once; running calls end with an error."""
        self._closed.set()
        if self._process:
            await self._process.stop(self._around.limits.stop_within_s)
        for task in (self._loading, self._stopping):
            if task:
                await asyncio.wait([task])

    # What the house asks.

    @property
    def busy(self) -> bool:
        """Whether a call waits or runs."""
        return bool(self.waiting or self.running)

    @property
    def loaded(self) -> bool:
        """Whether it is in memory and could be unloaded."""
        return self.state == "ready" and self._stopping is None

    @property
    def present(self) -> bool:
        """Whether there is a process, loaded or on its way."""
        return self._process is not None or self._loading is not None

    @property
    def waits_for_room(self) -> bool:
        """Whether it is on its way and has taken nothing yet."""
        return self._process is None and not self._admitted

    @property
    def coming(self) -> asyncio.Task[None] | None:
        """The load that has its room and will end by itself, if there is one."""
        return self._loading if self._admitted else None

    @property
    def idle_s(self) -> float:
        """Seconds since the last call ended or the model was loaded."""
        return self._around.clock() - self.idle_since

    def kill_if_hung(self) -> None:
        """Kill a process that should give signs of life and has not for too long."""
        process = self._process
        silent = self._around.clock() - process.heard_at if process else 0.0
        if process and (process.busy or self._loading) and silent > self._around.limits.hang_s:
            process.kill(f"gave no sign of life for {silent:.0f} s and was killed")

    def tell(self) -> ModelState:
        """Return its state for people."""
        alive = self.state in {"loading", "ready", "draining"}
        warning, fix = self.warning if alive else ("", "")
        return ModelState(
            name=self.model.name,
            state=self.state,
            percent=self.percent,
            pid=self._process.pid if self._process else None,
            rss_bytes=self.memory[0],
            context=self.context,
            running=self.running,
            waiting=self.waiting,
            idle_s=self.idle_s if self.state == "ready" and not self.busy else None,
            tokens_per_s=self.tokens_per_s,
            loaded_at=self.loaded_at if alive else None,
            problem=self.problem,
            log=tuple(self.log.lines)[-SHOWN_LINES:],
            warning=warning,
            fix=fix,
        )

    # How it is done.

    @contextlib.contextmanager
    def _present(self) -> Iterator[None]:
        self.waiting += 1
        self.quiet.clear()
        try:
            yield
        finally:
            self.waiting -= 1
            self._maybe_quiet()

    def _maybe_quiet(self) -> None:
        if not self.busy:
            self.idle_since = self._around.clock()
            self.quiet.set()

    def _set(self, state: State, problem: str = "") -> None:
        self.state, self.problem = state, problem
        self._around.changed(self)

    def _refuse_if_stuck(self) -> None:
        if self._closed.is_set():
            raise LocalModelFailed(f"`{self.model.name}` is being stopped", sent=False)
        if self._stuck:
            fault, found = self._stuck
            if found == self._identity():
                raise LocalModelFailed(fault.message, hint=fault.hint, sent=False, again=False)
            self.forgive()  # the file was replaced

    def _load_ended(self, task: asyncio.Task[None]) -> None:
        self._loading = None
        self._admitted = False
        self.reserved = 0
        if not task.cancelled() and (fault := task.exception()):
            told = self._stuck[0] if self._stuck else fault
            self._set("failed", told.message if isinstance(told, LocalModelFailed) else repr(told))

    async def _load(self) -> None:
        await self._back_off()
        self.percent = 0
        self._set("starting")
        await self._bring_up()
        self.percent = 100
        self.loaded_at = time.time()
        self.idle_since = self._around.clock()
        self._set("ready")

    async def _back_off(self) -> None:
        now = self._around.clock()
        recent = sum(now - at < self._around.limits.deaths_within_s for at in self._deaths)
        delays = self._around.limits.back_off_s
        if recent and delays and (delay := delays[min(recent, len(delays)) - 1]):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), delay)
        self._refuse_if_stuck()

    async def _started(self, process: P) -> None:
        """Take note of a process that was started."""
        self._process = process
        self.shares.alive()
        if self._closed.is_set():
            await process.stop(self._around.limits.stop_within_s)
        self._set("loading")

    def _gone(self, process: P) -> None:
        """Take note of an end, which nobody may have asked for."""
        if self._process is process:
            self._process = None
            self.shares.rest()
        if process.expected or process.ended is None:
            return
        self._deaths.append(self._around.clock())
        fault = self._died(process.ended)
        first = self._deaths[0]
        within = self._around.clock() - first < self._around.limits.deaths_within_s
        if len(self._deaths) == self._around.limits.deaths and within:
            fault = self._stay_failed(
                f"{fault.message}, the last of {len(self._deaths)} deaths in a short while",
                f"`tollway models load {self.model.name}` tries again",
            )
        self._set("failed", fault.message)

    def _died(self, fault: WorkerEnded) -> LocalModelFailed:
        failed = LocalModelFailed(
            f"The {self.word} of `{self.model.name}` {fault.message}",
            hint=self._died_hint(fault),
            sent=False,
        )
        failed.death = "loading"
        return failed

    def _stay_failed(self, message: str, hint: str) -> LocalModelFailed:
        """Return an error that every call gets until a person, or another file, changes it."""
        fault = LocalModelFailed(message, hint=hint, sent=False, again=False)
        self._stuck = (fault, self._identity())
        return fault

    async def _stop(self) -> None:
        try:
            if self._loading:
                if not self._admitted:
                    # It may wait behind a load that waits for us; whoever wants it loads it anew.
                    self._loading.cancel()
                await asyncio.wait([self._loading])
            if process := self._process:
                self._set("draining")
                await process.drain(self._around.limits.stop_within_s)
            if self.state != "failed":
                self._set("stopped")
        finally:
            self._stopping = None


AnyResident: TypeAlias = Resident[Any]


def log_name(name: str) -> str:
    """Return the name of a model's log: its own, whatever the model and its daemon are called."""
    return f"model-{quote(name, safe='@+')}.log"
