"""A GGUF file and the worker of ours that serves it."""

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from tollway.providers.errors import (
    LocalModelBusy,
    LocalModelFailed,
    RequestInvalid,
    UpstreamTimeout,
)
from tollway.providers.llamacpp import fit
from tollway.providers.llamacpp.answer import LocalAnswer
from tollway.providers.llamacpp.frames import Load, Prompt, Ready, Submit
from tollway.providers.llamacpp.gguf import POOLINGS, GgufError, ModelInfo, describe, files_of
from tollway.providers.llamacpp.install import (
    LLAMA_CPP_PYTHON,
    gpu,
    install_line,
    installed,
    unused,
)
from tollway.providers.llamacpp.lifecycle import Resident, Surroundings
from tollway.providers.llamacpp.openai import Asked
from tollway.providers.llamacpp.shares import Share
from tollway.providers.llamacpp.state import LocalModel, Terms
from tollway.providers.llamacpp.worker import Call, CannotLoad, Worker, WorkerEnded, is_stopped
from tollway.providers.llamacpp.writing import writer
from tollway.providers.words import counted

log = logging.getLogger(__name__)

_STRICT = "tools.strict"
# Read once before the first call: it finds what crashes, and pages the weights in.
_WARM_UP = "a"


class GgufResident(Resident[Worker]):
    """A model whose worker runs llama.cpp; see `lifecycle.Resident`."""

    def __init__(self, model: LocalModel, around: Surroundings) -> None:
        super().__init__(model, around)
        self.info: ModelInfo | None = None
        self._marks = True  # its family marks tool calls, so that they can be held to schemas
        self._known: tuple[int, ...] = ()  # which file `info` describes
        self._loaded: tuple[int, ...] = ()  # which file the worker has
        self._other: tuple[int, ...] = ()  # which was found in its place
        self._ready: Ready | None = None
        self._turns = asyncio.Semaphore(model.slots)  # asyncio's are fair
        self._line: list[object] = []  # who waits for a turn, in that order
        self._suspect = asyncio.Lock()  # held by a call that comes again, until it is answered

    async def ask(self, asked: Asked, terms: Terms) -> LocalAnswer:
        """Return the answer once it has begun, after the calls that came before.

        Raises:
            LocalModelFailed: It cannot be loaded, or died before it answered.
            LocalModelBusy: Our turn did not come within `first_s`.
            UpstreamTimeout: It was our turn, and nothing came for what was left of `first_s`.
            RequestInvalid: The call holds what cannot be told to a worker.
        """
        if terms.again:
            async with self._suspect:
                return await self.ask(asked, replace(terms, again=False))
        first_s = terms.first_s
        loop = asyncio.get_running_loop()
        with self._present():
            worker = await self.ready()
            limit = None if first_s is None else loop.time() + first_s
            turns = self._turns
            await self._take_turn(turns, limit)
            try:
                if (now := await self.ready()) is not worker:  # it died or went while we waited
                    worker, limit = now, None if first_s is None else loop.time() + first_s
                share, call = self._submit(worker, asked.job, turns, terms.deadline_s)
            except BaseException:  # a cancel too: nobody else would get a turn
                turns.release()
                raise
        answer = LocalAnswer(self.model.name, worker, call, writer(asked), share)
        if terms.begun:
            terms.begun(answer)
        if not self._marks and _is_strict(asked.job):
            answer.dropped = (_STRICT,)
        try:
            async with asyncio.timeout_at(limit):
                await answer.begin()
        except TimeoutError as fault:
            answer.cancel()
            raise UpstreamTimeout(
                f"`{self.model.name}` did not begin to answer in time", phase="first"
            ) from fault
        except BaseException:  # a cancel too: the worker must not go on for nobody
            await answer.close()  # its place is free when it has ended, not before
            raise
        return answer

    async def count(self, job: Submit) -> int | None:
        """Return how many tokens a job's prompts have, None unless the model is loaded.

        None too where it does not say so in time: it hangs, or texts of megabytes come first.
        """
        worker = self._process
        if worker is None or self.state != "ready":
            return None
        try:
            async with asyncio.timeout(self._around.limits.count_s):
                return await worker.count(job, lambda _: None)
        except (WorkerEnded, TimeoutError):
            return None

    def kill_if_hung(self) -> None:
        """See `Resident`; its process too is asked whether it runs while somebody waits for it."""
        super().kill_if_hung()
        worker, limits = self._process, self._around.limits
        if worker is None or not (worker.busy or self._loading):
            return
        silent = worker.look(2 * limits.sweep_s)
        if silent > limits.stopped_s and is_stopped(worker.pid):
            worker.kill(f"was stopped for {silent:.0f} s and was killed")
        elif silent > limits.deaf_s and not self._loading:
            worker.kill(f"gave no sign of life for {silent:.0f} s and was killed")

    def change(self, model: LocalModel) -> None:
        """See `Resident`."""
        if model.slots != self.model.slots:
            self._turns = asyncio.Semaphore(model.slots)
        self._known = ()
        super().change(model)

    def _is_other(self, old: LocalModel) -> bool:
        new = self.model
        other = (old.path, old.how) != (new.path, new.how)
        if other:
            self.info = None
        return other

    async def look(self) -> None:
        """Read the file's header, so that its context is known; a bad file is told on a call."""
        with contextlib.suppress(GgufError):
            await self._describe()

    async def notice(self, *, still: bool = True) -> None:
        """See `Resident`: another file is loaded by the next call, if it is a whole model."""
        if not self.loaded or self._ready is None:
            return
        found = await asyncio.to_thread(self._identity)
        before, self._other = self._other, found
        if found == self._loaded:
            self._say_if_unused(self._ready)
            return
        if still and found != before:  # it may be on its way still
            return
        try:
            await asyncio.to_thread(describe, self.model.path)
        except GgufError as fault:
            self.warning = (
                f"its file was replaced, and what was loaded before serves on: {fault.message}",
                fault.hint,
            )
        else:
            if self.loaded:
                log.info("%s: its file was replaced and is loaded anew", self.model.name)
                self._renew()

    @property
    def made_s(self) -> int | None:
        """See `Resident`: when its file was written."""
        return max(self._known[3::4], default=0) // 10**9 or None

    @property
    def context(self) -> int:
        """The tokens that fit, as loaded or as it would be."""
        wanted = self.model.context
        return fit.usable_context(self.info, wanted) if self.info else wanted

    @property
    def needs(self) -> int:
        """See `Resident`. A GPU's memory is the worker's to ask: it says so if that is full."""
        if self.info is None or (self.model.gpu_layers != 0 and gpu()):
            return 0
        return fit.estimate(self.info, self.context, self.model.layout).total

    @property
    def memory(self) -> tuple[int, int]:
        """See `Resident`; of the mapped file only what the model can need of it.

        Most weights llama.cpp copies out of it for the CPU, in another order. Their pages stay
        mapped, but whoever needs memory may have them.
        """
        held, mapped = super().memory
        if not (needs := self.needs):
            return held, mapped
        own = held - mapped
        mapped = min(mapped, max(0, needs - own))
        return own + mapped, mapped

    def require_room(self, free: int) -> None:
        """See `Resident`."""
        if self.info:
            fit.require_room(self.model.name, self.info, self.context, free, self.model.layout)

    # How it is done.

    async def _take_turn(self, turns: asyncio.Semaphore, limit: float | None) -> None:
        place = object()
        self._line.append(place)
        try:
            async with asyncio.timeout_at(limit):
                await turns.acquire()
        except TimeoutError as fault:
            before = self.model.slots + self._line.index(place)
            calls = counted(before, "call is", "calls are")
            raise LocalModelBusy(
                f"The model `{self.model.name}` is busy: {calls} before this one",
                hint="Ask again later",
            ) from fault
        finally:
            self._line.remove(place)

    def _submit(
        self, worker: Worker, job: Submit, turns: asyncio.Semaphore, deadline_s: float | None
    ) -> tuple[Share, Call]:
        share = self.shares.enter()

        def ended(call: Call) -> None:
            share.end()
            self.running -= 1
            turns.release()
            if call.first_at is not None and call.last_at > call.first_at:
                self.tokens_per_s = (call.used.completion - 1) / (call.last_at - call.first_at)
            self._maybe_quiet()

        try:
            call = worker.submit(job, ended, deadline_s)
        except WorkerEnded as fault:
            share.end()
            raise self._died(fault) from fault
        except RequestInvalid:
            share.end()
            raise
        self.running += 1
        return share, call

    async def _bring_up(self) -> None:
        if not installed():
            raise LocalModelFailed(
                "Local models need llama-cpp-python, which is not installed",
                hint=f"{install_line()} (`tollway doctor` shows the other builds)",
                sent=False,
                again=False,
            )
        try:
            info = await self._describe()
        except GgufError as fault:
            raise self._stay_failed(fault.message, fault.hint) from fault
        self._loaded = self._known
        await self._around.make_room(self)
        self._admitted = True
        worker = await self._start()
        try:
            loaded = await worker.load(self._how_to_load(info), self._progress)
            self._marks = loaded.marks
            self._ready = loaded
            self._say_if_unused(loaded)
            await self._warm_up(worker, info)
        except CannotLoad as fault:
            await worker.stop(self._around.limits.stop_within_s)
            raise self._cannot_load(fault) from fault
        except WorkerEnded as fault:
            raise self._died(fault) from fault

    def _say_if_unused(self, loaded: Ready) -> None:
        # No error: the same file may be that of a machine with a GPU.
        self.warning = ("", "") if loaded.gpu_layers else unused(self.model.gpu_layers)
        if self.warning[0]:
            log.warning("%s: %s", self.model.name, self.warning[0])

    async def _warm_up(self, worker: Worker, info: ModelInfo) -> None:
        """Have a token read and made, so that what crashes does so before a call depends on it."""
        kind: Literal["embeddings", "completions"] = "embeddings" if info.embeds else "completions"
        job = Submit(0, kind, [Prompt(text=_WARM_UP)], max_tokens=None if info.embeds else 1)
        call = worker.submit(job, lambda _: None)
        while not call.ended.is_set():
            await call.next()

    async def _describe(self) -> ModelInfo:
        path = self.model.path
        identity = await asyncio.to_thread(identity_of, path)
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
        worker.on_gone(self._gone)
        await self._started(worker)
        return worker

    def _how_to_load(self, info: ModelInfo) -> Load:
        layers = self.model.gpu_layers
        return Load(
            path=str(self.model.path),
            context=self.context,
            gpu_layers={"auto": None, "all": -1}[layers] if isinstance(layers, str) else layers,
            offload=fit.offload(info, self.context, self.model.layout),
            pooling=POOLINGS.index(info.pooling) if info.pooling and info.embeds else None,
            version=LLAMA_CPP_PYTHON,
            slots=self.model.slots,
            kv=self.model.kv,
            kv_type=self.model.kv_type,
            whole=info.whole,
        )

    def _progress(self, percent: int) -> None:
        self.percent = percent
        self._around.changed(self)

    def _identity(self) -> tuple[int, ...]:
        return identity_of(self.model.path)

    def _died_hint(self, fault: WorkerEnded) -> str:
        if "SIGILL" in fault.message or "SIGSEGV" in fault.message:
            return f"llama-cpp-python may be built for another CPU: {install_line()}"
        return "The next call starts it again; `tollway models ps` shows its last words"

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


def _is_strict(job: Submit) -> bool:
    """Whether a call wants valid arguments of calls that it does not force."""
    free = job.shape is not None and job.shape.auto
    return free and any(tool.strict for tool in job.prompts[0].tools)


def identity_of(path: Path) -> tuple[int, ...]:
    """Return what changes when a file of a model is replaced or written; empty where none is."""
    return tuple(number for file in files_of(path) for number in _stamp(file))


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
