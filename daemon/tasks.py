"""Background work with an owner: it is named, its crash is logged, and it can be waited for."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")


class Tasks:
    """Tasks that belong to one owner. A crash in one is logged and ends that one alone."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run `work` until it ends or the owner is closed; return its task.

        The task is kept alive here. Whoever awaits it gets its exception too.
        """
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.error("`%s` crashed", task.get_name(), exc_info=fault)

    async def wait(self, timeout_s: float) -> bool:
        """Return True once everything has ended by itself, False after `timeout_s` seconds."""
        if self._running:
            await asyncio.wait(tuple(self._running), timeout=timeout_s)
        return not self._running

    async def close(self) -> None:
        """Cancel what still runs and return once it has ended."""
        while self._running:
            for task in self._running:
                task.cancel()
            await asyncio.wait(tuple(self._running))
