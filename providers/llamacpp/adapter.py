"""All models on this box as one more provider that speaks OpenAI."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

from msgspec.structs import replace

from tollway.providers.canon import Endpoint, Usage
from tollway.providers.errors import LocalModelFailed, RequestInvalid
from tollway.providers.llamacpp.answer import Refusal
from tollway.providers.llamacpp.fit import available_memory
from tollway.providers.llamacpp.lifecycle import AnyResident, Surroundings
from tollway.providers.llamacpp.openai import read_request
from tollway.providers.llamacpp.pool import Loaded, is_apart, may_meet, who_leaves
from tollway.providers.llamacpp.resident import GgufResident
from tollway.providers.llamacpp.served import CommandResident, ServedAnswer
from tollway.providers.llamacpp.state import (
    Command,
    Limits,
    LocalModel,
    ModelState,
    State,
    Terms,
)
from tollway.providers.llamacpp.writing import refusal
from tollway.providers.transport import Answer, Request, Transport

log = logging.getLogger(__name__)

_PLAIN = Terms()
# How long what fits is believed without another look at the system's memory.
_FITS_S = 0.1
# How often a load that waits for others' ends looks whether there is room by now.
_LOOK_S = 1.0

__all__ = ["Command", "Limits", "LocalModel", "LocalModels", "MeteredAnswer", "ModelState", "Terms"]


class MeteredAnswer(Answer, Protocol):
    """An answer that knows at any time what it has cost."""

    @property
    def usage_so_far(self) -> Usage:
        """The tokens read and made until now, final after `close` or the last chunk."""
        ...

    @property
    def gpu_ms(self) -> int:
        """Its part of the model's time until now, in milliseconds."""
        ...


class LocalModels:
    """The local models of a configuration, each loaded by its first call."""

    def __init__(
        self,
        *,
        log_folder: Path,
        transport: Transport | None = None,
        on_change: Callable[[ModelState], None] | None = None,
        limits: Limits | None = None,
        memory: Callable[[], int | None] = available_memory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start nothing yet.

        Args:
            log_folder: Each worker's standard error goes to model-NAME.log there.
            transport: Asks the servers of models that are commands.
            on_change: Called with every change of a model's state, percents of a load included.
            limits: How patient to be; for tests mostly.
            memory: How many bytes are free, None where that can't be known.
            clock: Monotonic seconds.
        """
        self._residents: dict[str, AnyResident] = {}
        self._retiring: dict[AnyResident, asyncio.Task[None]] = {}
        self._apart: dict[str, tuple[str, ...]] = {}
        self._early: set[asyncio.Task[None]] = set()  # loads that nobody has called for yet
        self._times: dict[str, tuple[int, int]] = {}  # that nobody has asked for yet
        self._transport = transport
        self._on_change = on_change
        self._limits = limits or Limits()
        self._memory = memory
        # Whether a call of a model has its turn: it may be on its way here, still unseen.
        self.has_turn: Callable[[str], bool] = lambda name: False
        # Returns what is kept at a place that a command's `secrets` name, or raises a GatewayError
        # that says why not; called in a thread.
        self.secret: Callable[[str], str] | None = None
        self._admission = asyncio.Lock()
        # What fitted when last looked, until something of ours changes: a line of a hundred calls
        # asks some thousand times a second.
        self._fitted: dict[frozenset[str], bool] = {}
        self._fitted_at = 0.0
        self._clock = clock
        self._sweeper: asyncio.Task[None] | None = None
        self._around = Surroundings(
            limits=self._limits,
            clock=clock,
            log_folder=log_folder,
            make_room=self._make_room,
            changed=self._changed,
        )

    async def configure(self, models: Mapping[str, LocalModel]) -> None:
        """Serve these models from now on.

        New ones are registered, removed ones stop once their calls are done, changed ones are
        loaded again by their next call. Running calls finish as they began.
        """
        for name in tuple(self._residents):
            if name not in models or _is_command(models[name]) != _is_command(
                self._residents[name].model
            ):
                self._retire(name)
        fresh: list[AnyResident] = []
        for name, model in models.items():
            known = self._residents.get(name)
            if known is None:
                known = self._residents[name] = self._resident(model)
                fresh.append(known)
            elif known.model != model:
                known.change(model)
                fresh.append(known)
        self._residents = {name: self._residents[name] for name in models}
        self._apart = {name: model.apart_from for name, model in models.items()}
        self._fitted.clear()
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep_for_ever(), name="local models")
            self._sweeper.add_done_callback(_log_fault)
        for resident in fresh:
            await resident.look()
        for resident in fresh:
            if resident.model.load_at_start and not resident.present:
                task = asyncio.create_task(self._load_early(resident))
                self._early.add(task)
                task.add_done_callback(self._early.discard)

    def _resident(self, model: LocalModel) -> AnyResident:
        if model.command is None:
            return GgufResident(model, self._around)
        if self._transport is None:
            raise ValueError(f"{model.name} is a command, and there is no transport to ask it by")
        return CommandResident(model, self._around, self._transport, lambda: self.secret)

    def _retire(self, name: str) -> None:
        resident = self._residents.pop(name)
        task = asyncio.create_task(resident.retire(), name=f"retire {name}")
        self._retiring[resident] = task
        task.add_done_callback(self._retired)

    async def _load_early(self, resident: AnyResident) -> None:
        try:
            await resident.load()
        except LocalModelFailed as fault:
            log.error("%s is not loaded at the start: %s", resident.model.name, fault.message)

    async def send(
        self, name: str, endpoint: Endpoint, body: bytes, terms: Terms = _PLAIN
    ) -> MeteredAnswer:
        """Return the answer of a model that our own worker serves, once it has begun.

        It is a 200 (events or one JSON body) or a 400 in OpenAI's shape, for a request that the
        model can't do.

        Raises:
            LocalModelFailed: No such model; it cannot be loaded; or it died before it answered.
            UpstreamTimeout: Nothing came for `terms.first_s`.
        """
        resident = self._named(name)
        if not isinstance(resident, GgufResident):
            raise LocalModelFailed(f"`{name}` is now served by a command", sent=False)
        try:
            asked = read_request(endpoint, body)
            if terms.owner:
                asked = replace(asked, job=replace(asked.job, owner=terms.owner))
            return await resident.ask(asked, terms)
        except RequestInvalid as fault:
            return Refusal(refusal(fault))

    async def forward(self, name: str, request: Request, terms: Terms = _PLAIN) -> ServedAnswer:
        """Return the answer of a model that a command serves; `request.url` is a path there.

        Raises:
            LocalModelFailed: No such model, or it cannot be started.
            UpstreamError: As `Transport.send`; UpstreamTimeout also after `terms.deadline_s`.
        """
        resident = self._named(name)
        if not isinstance(resident, CommandResident):
            raise LocalModelFailed(f"`{name}` is not served by a command any more", sent=False)
        return await resident.forward(request, terms)

    async def count(
        self, name: str, endpoint: Endpoint, body: bytes, owner: str = ""
    ) -> int | None:
        """Return the exact tokens of a request's prompt; None unless our own worker has it.

        `owner` is as in `Terms`.
        """
        resident = self._named(name)
        if not isinstance(resident, GgufResident):
            return None
        try:
            return await resident.count(replace(read_request(endpoint, body).job, owner=owner))
        except RequestInvalid:
            return None

    async def load(self, name: str) -> None:
        """Load a model, though it had failed before.

        Raises:
            LocalModelFailed: No such model, or it cannot be loaded.
        """
        await self._named(name).load()

    async def unload(self, name: str) -> None:
        """Return once a model is out of memory; its running calls finish first.

        Raises:
            LocalModelFailed: No such model.
        """
        await self._named(name).unload()

    def fits(self, names: Collection[str]) -> bool:
        """Return whether these models can be in memory at the same time, all others unloaded.

        True too where that cannot be known: then the load itself tells.
        """
        if self._clock() - self._fitted_at > _FITS_S:
            self._fitted.clear()
            self._fitted_at = self._clock()
        asked = frozenset(names)
        known = self._fitted.get(asked)
        if known is None:
            known = self._fitted[asked] = self._fits(asked)
        return known

    def _fits(self, names: Collection[str]) -> bool:
        if not may_meet(names, self._apart):
            return False
        wanted = [self._residents[name] for name in names if name in self._residents]
        need = sum(one.still_needs for one in wanted)
        free = self._free(None) if need else None
        if free is None:
            return True
        others = (one for name, one in self._residents.items() if name not in names)
        # What is being loaded too: it can go once its calls are done. And what is on its way out,
        # be it of a model that is to come again.
        spare = [one for one in others if one.present and not one.model.pinned]
        spare += [one for one in wanted if one.still_needs]
        spare += self._retiring
        return need <= free + sum(max(one.memory[0], one.reserved) for one in spare)

    def states(self) -> list[ModelState]:
        """Return the state of every model, in the configuration's order."""
        return [resident.tell() for resident in self._residents.values()]

    def state(self, name: str) -> State | None:
        """Return what a model is doing, None where there is none of that name."""
        found = self._residents.get(name)
        return found.state if found else None

    def times(self) -> dict[str, tuple[int, int]]:
        """Return each model's milliseconds at work and idle in memory, since this was last asked.

        Models without either are left out; those that have just been removed are in it.
        """
        for resident in (*self._residents.values(), *self._retiring):
            self._take_time(resident)
        found, self._times = self._times, {}
        return found

    def _take_time(self, resident: AnyResident) -> None:
        busy, idle = resident.shares.take()
        if busy or idle:
            before = self._times.get(resident.model.name, (0, 0))
            self._times[resident.model.name] = (before[0] + busy, before[1] + idle)

    def context_of(self, name: str) -> int:
        """Return how many tokens prompt and answer may have together.

        Raises:
            LocalModelFailed: No such model.
        """
        return self._named(name).context

    def made_s(self, name: str) -> int | None:
        """Return when a model was made, in unix seconds; None where that is not known."""
        found = self._residents.get(name)
        return found.made_s if found else None

    async def sweep(self) -> None:
        """Unload what was idle for too long or replaced on disk, and kill what hangs.

        Done by itself now and then.
        """
        everyone = [*self._residents.values(), *self._retiring]
        for resident in everyone:
            resident.kill_if_hung()
        for resident in self._residents.values():
            await resident.notice()
        for resident in everyone:
            if self._spare(resident) and resident.idle_s >= resident.model.idle_unload_s:
                await resident.unload()

    async def close(self) -> None:
        """End every worker. Running calls end with an error: drain first."""
        if self._sweeper:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        residents = [*self._residents.values(), *self._retiring]
        for task in self._early:
            task.cancel()
        await asyncio.gather(*(resident.close() for resident in residents))
        retiring = list(self._retiring.values())
        if retiring:
            await asyncio.wait(retiring)

    def _retired(self, task: asyncio.Task[None]) -> None:
        for resident in [one for one, theirs in self._retiring.items() if theirs is task]:
            del self._retiring[resident]
            self._take_time(resident)

    def _named(self, name: str) -> AnyResident:
        if name not in self._residents:
            raise LocalModelFailed(
                f"There is no local model `{name}`",
                hint="`tollway models list`",
                sent=False,
                again=False,
            )
        return self._residents[name]

    def _changed(self, resident: AnyResident) -> None:
        self._fitted.clear()
        if self._on_change:
            self._on_change(resident.tell())

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._limits.sweep_s)
            await self.sweep()

    async def _make_room(self, resident: AnyResident) -> None:
        """Reserve what a model needs, unloading idle ones where that lets it come.

        Raises:
            LocalModelFailed: It cannot.
        """
        while going := await self._reserve(resident):
            # Not under the lock: their last calls may take long, and others may have room. Nor to
            # their end in any case: one that is at work may be idle before.
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait(going, timeout=_LOOK_S, return_when=first)

    async def _reserve(self, resident: AnyResident) -> list[asyncio.Task[None]]:
        """Make room, or return what to wait for first."""
        async with self._admission:  # so that two loads don't both take the last of it
            need = resident.needs
            while True:
                free = self._free(resident) if need else None
                out = who_leaves(
                    need if free is not None else 0, free or 0, self._loaded(resident.model.name)
                )
                if not out:
                    break
                # One at a time: while it ends, another may be called, or have ended by itself.
                await self._residents[out[0]].unload()
            if out is None and (going := self._going()):
                return going
            self._refuse_beside(resident)
            if free is not None:
                self._take_room(resident, max(0, free), need)
        return []

    def _going(self) -> list[asyncio.Task[None]]:
        """Return what can make room by its end.

        That is the stops of models that were removed, and the loads that no call has its turn for:
        what a person asked to have loaded can go for a call, once it is there. Not what waits for
        room itself: it may have been removed, and end once this load has.
        """
        retiring = self._retiring.items()
        going = [task for one, task in retiring if one.present and not one.waits_for_room]
        for name, one in self._residents.items():
            if one.coming and not one.model.pinned and not self.has_turn(name):
                going.append(one.coming)
        return going

    def _take_room(self, resident: AnyResident, free: int, need: int) -> None:
        try:
            resident.require_room(free)
        except LocalModelFailed as fault:
            # What runs here beside it may end and make room; nothing else of ours will.
            fault.again = any(
                other.busy for other in self._residents.values() if other is not resident
            )
            raise
        resident.reserved = need
        self._fitted.clear()

    def _refuse_beside(self, resident: AnyResident) -> None:
        """Refuse where one is still there that the model may not run beside."""
        name = resident.model.name
        for beside, other in self._residents.items():
            if not is_apart(name, beside, self._apart):
                continue
            if other.present and not other.waits_for_room:
                why = "pinned" if other.model.pinned else "at work"
                raise LocalModelFailed(
                    f"`{name}` may not run beside `{beside}`, which is {why}",
                    hint="Ask again later, or change `apart_from`",
                    sent=False,
                )

    def _free(self, but: AnyResident | None) -> int | None:
        """Return the bytes that are free; below 0 where what goes first pays for that."""
        free = self._memory()
        if free is None:
            return None
        for resident in [*self._residents.values(), *self._retiring]:
            held, mapped = resident.memory
            free -= mapped
            if resident is not but and resident.reserved:
                free -= max(0, resident.reserved - held)
        return free

    def _spare(self, resident: AnyResident) -> bool:
        """Return whether it is in memory and nobody would miss it now."""
        called = resident.busy or self.has_turn(resident.model.name)
        return resident.loaded and not called and not resident.model.pinned

    def _loaded(self, but: str) -> list[Loaded]:
        """Return who is in memory beside a model.

        Also those on their way there, which can go once they have come if nobody waits for them,
        and those on their way out.
        """
        return [
            Loaded(
                name,
                held=max(resident.memory[0], resident.reserved),
                idle_s=resident.idle_s,
                busy=resident.busy or self.has_turn(name),
                pinned=resident.model.pinned,
                apart=is_apart(name, but, self._apart),
            )
            for name, resident in self._residents.items()
            if resident.present and not resident.waits_for_room and name != but
        ]


def _is_command(model: LocalModel) -> bool:
    return model.command is not None


def _log_fault(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (fault := task.exception()):
        log.error("idle and hung models are no longer looked for", exc_info=fault)
