"""How soon a model whose process died is there again, in a loop whose time is virtual."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from local_models import model

from tollway.providers.errors import LocalModelFailed
from tollway.providers.llamacpp.lifecycle import Resident, Surroundings
from tollway.providers.llamacpp.state import Limits, LocalModel
from tollway.providers.llamacpp.worker import WorkerEnded

LOAD_S = 40.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that waits for no timer: where nothing else is to do, its time jumps there."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.now

    def _run_once(self) -> None:
        # The names are the standard library's own; there is no public way.
        inner: Any = self
        if not inner._ready and inner._scheduled:
            self.now = max(self.now, inner._scheduled[0].when())
        inner.call_soon(lambda: None)  # so that it never sleeps
        super()._run_once()  # type: ignore[misc]


class Process:
    """A process that does nothing but be there."""

    pid = 0
    ended: WorkerEnded | None = None
    expected = False
    busy = False
    heard_at = 0.0

    async def drain(self, within_s: float) -> None:
        """End."""

    async def stop(self, within_s: float) -> None:
        """End."""

    def kill(self, why: str = "") -> None:
        """End."""


class Loaded(Resident[Process]):
    """A model that takes its time to load."""

    async def _bring_up(self) -> None:
        await asyncio.sleep(LOAD_S)
        await self._started(Process())

    def _identity(self) -> tuple[int, ...]:
        return ()

    def _is_other(self, old: LocalModel) -> bool:
        return False

    def _died_hint(self, fault: WorkerEnded) -> str:
        return ""

    def die(self) -> None:
        """Have its process die, as a crash does."""
        assert self._process is not None
        process = self._process
        process.ended = WorkerEnded("was killed by SIGSEGV")
        self._gone(process)


async def _nothing(_: object) -> None:
    return None


def test_after_a_death_the_next_call_is_answered_within_the_load_and_a_second(
    tmp_path: Path,
) -> None:
    """After each death that is forgiven at all; the one after those is told at once.

    With the patience that people have, not with a test's.
    """
    loop = VirtualLoop()
    limits = Limits()

    async def lives() -> list[float]:
        around = Surroundings(
            limits=limits,
            clock=loop.time,
            log_folder=tmp_path,
            make_room=_nothing,
            changed=lambda _: None,
        )
        resident = Loaded(model(tmp_path / "m.gguf"), around)
        took = []
        for _ in range(limits.deaths):
            began = loop.time()
            await resident.ready()
            took.append(loop.time() - began)
            resident.die()
        began = loop.time()
        with pytest.raises(LocalModelFailed, match="the last of 3 deaths"):
            await resident.ready()
        assert loop.time() == began
        return took

    try:
        took = loop.run_until_complete(lives())
    finally:
        loop.close()
    assert took == [LOAD_S, LOAD_S, LOAD_S + 0.5]
    assert all(one <= LOAD_S + 1 for one in took)
