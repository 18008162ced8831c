"""A registered model: its one owner, who starts, restarts and stops its worker.

Callers say what they need and never look at the state first: what decides and what acts stand
in one place, without an `await` between them.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec

from tollway.providers.errors import LocalModelBusy, LocalModelFailed, UpstreamTimeout
from tollway.providers.llamacpp.answer import LocalAnswer
from tollway.providers.llamacpp.fit import estimate, offload, resident_bytes, usable_context
from tollway.providers.llamacpp.frames import Load, Submit
from tollway.providers.llamacpp.gguf import POOLINGS, GgufError, ModelInfo, describe
from tollway.providers.llamacpp.install import LLAMA_CPP_PYTHON, gpu, install_line, installed
from tollway.providers.llamacpp.openai import Asked, writer
from tollway.providers.llamacpp.state import Limits, LocalModel, ModelState, State
from tollway.providers.llamacpp.worker import Call, CannotLoad, Log, Worker, WorkerEnded

SHOWN_LINES = 20


class Surroundings(msgspec.Struct, frozen=True):
    """What a resident needs of its house."""

    limits: Limits
    clock: Callable[[], float]
    log_folder: Path
    make_room: Callable[["Resident", ModelInfo, int], Awaitable[None]]
    changed: Callable[["Resident"], None]


class Resident:
    """One model and its worker, of which there is never more than one."""

    def __init__(self, model: LocalModel, around: Surroundings) -> None:
        self.model = model
        self.info: ModelInfo | None = None
        self.state: State = "registered"
        self.problem = ""
        self.percent = 0
        self.waiting = 0
        self.running = 0
        self.reserved = 0  # bytes that a load in progress will take
        self.idle_since = around.clock()
        self.loaded_at: float | None = None
        self.tokens_per_s: float | None = None
        self.quiet = asyncio.Event()  # nobody waits and nothing runs
        self.quiet.set()
        self.log = Log(around.log_folder / f"{_file_name(model.name)}.log")
        self._around = around
        self._worker: Worker | None = None
        self._loading: asyncio.Task[None] | None = None
        self._admitted = False  # the load in progress has its room; from here on it is not cut
        self._stopping: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()  # whoever generates has it; asyncio's locks are fair
        self._line: list[object] = []  # who waits for the turn, in that order
        self._deaths: deque[float] = deque(maxlen=around.limits.deaths)
        self._known: tuple[int, ...] = ()  # which file `info` describes
        self._stuck: tuple[LocalModelFailed, tuple[int, ...]] | None = None
        self._closed = asyncio.Event()

    # What callers ask for.

    async def ask(self, asked: Asked, first_s: float | None) -> LocalAnswer:
        """Return the answer once it has begun, after every call that came before.

        `first_s` counts from when the model is loaded and includes the wait for our turn.

        Raises:
            LocalModelFailed: It cannot be loaded, or died before it answered.
            LocalModelBusy: Our turn did not come within `first_s`.
            UpstreamTimeout: It was our turn, and nothing came for what was left of `first_s`.
        """
        loop = asyncio.get_running_loop()
        with self._present():
            worker = await self.ready()
            limit = None if first_s is None else loop.time() + first_s
            await self._take_turn(limit)
            try:
                if (now := await self.ready()) is not worker:  # it died or went while we waited
                    worker, limit = now, None if first_s is None else loop.time() + first_s
                call = self._submit(worker, asked.job)
            except BaseException:  # a cancel too: nobody else would get a turn
                self._turn.release()
                raise
            answer = LocalAnswer(self.model.name, worker, call, writer(asked))
            try:
                async with asyncio.timeout_at(limit):
                    await answer.begin()
            except TimeoutError as fault:
                answer.cancel()
                raise UpstreamTimeout(
                    f"`{self.model.name}` did not begin to answer in time", phase="first"
                ) from fault
            except BaseException:  # a cancel too: the worker must not go on for nobody
                answer.cancel()
                raise
        return answer

    async def ready(self) -> Worker:
        """Return the loaded worker, loading it where it is not: once, for all who ask.

        A caller that is cancelled leaves the model loading; a load that fails is told to all
        who wait for it, and the next call tries afresh.

        Raises:
            LocalModelFailed: It cannot be loaded.
        """
        while True:
            if self._stopping:
                await asyncio.shield(self._stopping)
            elif self._worker and self.state == "ready":
                return self._worker
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
        with self._present():
            await self.ready()

    async def unload(self) -> None:
        """Return when it is out of memory; running calls finish first."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name=f"stop {self.model.name}")
        await asyncio.shield(self._stopping)

    async def count(self, job: Submit) -> int | None:
        """Return how many tokens a job's prompts have, None unless the model is loaded."""
        worker = self._worker
        if worker is None or self.state != "ready":
            return None
        try:
            return await worker.count(job, lambda _: None)
        except WorkerEnded:
            return None

    def change(self, model: LocalModel) -> None:
        """Take a changed configuration; what runs finishes, the next call loads afresh."""
        old, self.model = self.model, model
        self.forgive()
        self._known = ()
        if (old.path, old.context, old.gpu_layers) != (model.path, model.context, model.gpu_layers):
            self.info = None
            if (self._worker or self._loading) and self._stopping is None:
                self._stopping = asyncio.create_task(self._stop(), name=f"stop {model.name}")

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
        if self._worker:
            await self._worker.stop(self._around.limits.stop_within_s)
        for task in (self._loading, self._stopping):
            if task:
                await asyncio.wait([task])

    async def look(self) -> None:
        """Read the file's header, so that its context is known; a bad file is told on a call."""
        with contextlib.suppress(GgufError):
            await self._describe()

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
    def context(self) -> int:
        """The tokens that fit, as loaded or as it would be."""
        return usable_context(self.info, self.model.context) if self.info else self.model.context

    @property
    def memory(self) -> tuple[int, int]:
        """Bytes in RAM, and how many of them are the mapped file."""
        return resident_bytes(self._worker.pid) if self._worker else (0, 0)

    @property
    def still_needs(self) -> int:
        """Bytes that it would take more than it has; 0 where only a worker can tell."""
        if self.loaded or self.reserved or self.info is None:
            return 0
        if self.model.gpu_layers != 0 and gpu():
            return 0
        return estimate(self.info, self.context).total

    @property
    def idle_s(self) -> float:
        """Seconds since the last call ended or the model was loaded."""
        return self._around.clock() - self.idle_since

    def kill_if_hung(self) -> None:
        """Kill a worker that should be sending frames and has not for too long."""
        worker = self._worker
        silent = self._around.clock() - worker.heard_at if worker else 0.0
        if worker and (worker.busy or self._loading) and silent > self._around.limits.hang_s:
            worker.kill(f"gave no sign of life for {silent:.0f} s and was killed")

    def tell(self) -> ModelState:
        """Return its state for people."""
        alive = self.state in {"loading", "ready", "draining"}
        return ModelState(
            name=self.model.name,
            state=self.state,
            percent=self.percent,
            pid=self._worker.pid if self._worker else None,
            rss_bytes=self.memory[0],
            context=self.context,
            running=self.running,
            waiting=self.waiting,
            idle_s=self.idle_s if self.state == "ready" and not self.busy else None,
            tokens_per_s=self.tokens_per_s,
            loaded_at=self.loaded_at if alive else None,
            problem=self.problem,
            log=tuple(self.log.lines)[-SHOWN_LINES:],
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

    async def _take_turn(self, limit: float | None) -> None:
        place = object()
        self._line.append(place)
        try:
            async with asyncio.timeout_at(limit):
                await self._turn.acquire()
        except TimeoutError as fault:
            before = 1 + self._line.index(place)
            calls = "1 call is" if before == 1 else f"{before} calls are"
            raise LocalModelBusy(
                f"The model `{self.model.name}` is busy: {calls} before this one",
                hint="Ask again later; it answers one call after the other",
            ) from fault
        finally:
            self._line.remove(place)

    def _submit(self, worker: Worker, job: Submit) -> Call:
        try:
            call = worker.submit(job, self._call_ended)
        except WorkerEnded as fault:
            raise self._died(fault) from fault
        self.running += 1
        return call

    def _call_ended(self, call: Call) -> None:
        self.running -= 1
        self._turn.release()
        if call.first_at is not None and call.last_at > call.first_at:
            self.tokens_per_s = (call.used.completion - 1) / (call.last_at - call.first_at)
        self._maybe_quiet()

    def _set(self, state: State, problem: str = "") -> None:
        self.state, self.problem = state, problem
        self._around.changed(self)

    def _refuse_if_stuck(self) -> None:
        if self._closed.is_set():
            raise LocalModelFailed(f"`{self.model.name}` is being stopped", sent=False)
        if self._stuck:
            fault, file = self._stuck
            if file == _identity(self.model.path):
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
        """Bring the model into memory.

        Raises:
            LocalModelFailed: With words for whoever asked.
        """
        await self._back_off()
        if not installed():
            raise LocalModelFailed(
                "Local models need llama-cpp-python, which is not installed",
                hint=f"{install_line()} (`tollway doctor` shows the other builds)",
                sent=False,
                again=False,
            )
        self.percent = 0
        self._set("starting")
        try:
            info = await self._describe()
        except GgufError as fault:
            raise self._stay_failed(fault.message, fault.hint) from fault
        context = usable_context(info, self.model.context)
        await self._around.make_room(self, info, context)
        self._admitted = True
        worker = await self._start()
        try:
            await worker.load(self._how_to_load(info, context), self._progress)
        except CannotLoad as fault:
            await worker.stop(self._around.limits.stop_within_s)
            raise self._cannot_load(fault) from fault
        except WorkerEnded as fault:
            raise self._died(fault) from fault
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

    async def _describe(self) -> ModelInfo:
        path = self.model.path
        identity = await asyncio.to_thread(_identity, path)
        if self.info is None or identity != self._known:
            self.info = await asyncio.to_thread(describe, path)
            self._known = identity
        return self.info

    async def _start(self) -> Worker:
        try:
            worker = await Worker.start(self.log, self._around.clock)
        except OSError as fault:
            raise LocalModelFailed(
                f"The worker of `{self.model.name}` cannot be started: {fault.strerror}",
                sent=False,
            ) from fault
        self._worker = worker
        worker.on_gone(self._worker_gone)
        if self._closed.is_set():
            await worker.stop(self._around.limits.stop_within_s)
        self._set("loading")
        return worker

    def _how_to_load(self, info: ModelInfo, context: int) -> Load:
        layers = self.model.gpu_layers
        return Load(
            path=str(self.model.path),
            context=context,
            gpu_layers={"auto": None, "all": -1}[layers] if isinstance(layers, str) else layers,
            offload=offload(info, context),
            pooling=POOLINGS.index(info.pooling) if info.pooling and info.embeds else None,
            version=LLAMA_CPP_PYTHON,
        )

    def _progress(self, percent: int) -> None:
        self.percent = percent
        self._around.changed(self)

    def _worker_gone(self, worker: Worker) -> None:
        """Take note of an end, which nobody may have asked for."""
        if self._worker is worker:
            self._worker = None
        if worker.expected or worker.ended is None:
            return
        self._deaths.append(self._around.clock())
        fault = self._died(worker.ended)
        first = self._deaths[0]
        within = self._around.clock() - first < self._around.limits.deaths_within_s
        if len(self._deaths) == self._around.limits.deaths and within:
            fault = self._stay_failed(
                f"{fault.message}, the last of {len(self._deaths)} deaths in a short while",
                f"`tollway models load {self.model.name}` tries again",
            )
        self._set("failed", fault.message)

    def _died(self, fault: WorkerEnded) -> LocalModelFailed:
        hint = "The next call starts it again; `tollway models ps` shows its last words"
        if "SIGILL" in fault.message or "SIGSEGV" in fault.message:
            hint = f"llama-cpp-python may be built for another CPU: {install_line()}"
        return LocalModelFailed(
            f"The worker of `{self.model.name}` {fault.message}", hint=hint, sent=False
        )

    def _cannot_load(self, fault: CannotLoad) -> LocalModelFailed:
        failed = fault.failed
        if failed.kind in {"missing", "version"}:
            return self._stay_failed(failed.message, install_line())
        words = next((line for line in reversed(self.log.lines) if "error" in line.lower()), "")
        lines = "\n".join(self.log.lines).lower()
        if "out of memory" in lines or "failed to allocate" in lines:
            words = "out of memory"
        told = f"`{self.model.name}` cannot be loaded: {failed.message}"
        told = f"{told} ({words})" if words else told
        # Callers are told this: where the file is, is the owner's.
        told = told.replace(f"{self.model.path.parent}/", "")
        return self._stay_failed(told, "See `tollway models ps`")

    def _stay_failed(self, message: str, hint: str) -> LocalModelFailed:
        """Return an error that every call gets until a person, or another file, changes it."""
        fault = LocalModelFailed(message, hint=hint, sent=False, again=False)
        self._stuck = (fault, _identity(self.model.path))
        return fault

    async def _stop(self) -> None:
        try:
            if self._loading:
                if not self._admitted:
                    # It may wait behind a load that waits for us; whoever wants it loads it anew.
                    self._loading.cancel()
                await asyncio.wait([self._loading])
            if worker := self._worker:
                self._set("draining")
                await worker.drain(self._around.limits.stop_within_s)
            if self.state != "failed":
                self._set("stopped")
        finally:
            self._stopping = None


def _identity(path: Path) -> tuple[int, ...]:
    """Return what changes when a file is replaced or written; empty where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _file_name(name: str) -> str:
    return "".join(char if char.isalnum() or char in "-_." else "_" for char in name)
