"""Helpers for tests that run the real small model in its worker."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gguf_files import small_model

from tollway.providers.llamacpp.adapter import (
    Limits,
    LocalModel,
    LocalModels,
    MeteredAnswer,
    ModelState,
)

NAME = "smol"
PATIENT = Limits(back_off_s=(), sweep_s=3600)  # nothing happens but what a test asks for


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return its time in seconds."""
        return self.now


def model(path: Path | None = None, **changes: Any) -> LocalModel:
    """Return a model's configuration, the small one's by default."""
    fields: dict[str, Any] = {
        "name": NAME, "path": path or small_model(), "context": 2048, "gpu_layers": 0,
        "idle_unload_s": 900.0, **changes,
    }  # fmt: skip
    return LocalModel(**fields)


@asynccontextmanager
async def serving(
    folder: Path, *models: LocalModel, limits: Limits = PATIENT, **options: Any
) -> AsyncIterator[LocalModels]:
    """Serve models, the real small one by default, and end all their workers."""
    local = LocalModels(log_folder=folder / "logs", limits=limits, **options)
    try:
        await local.configure({one.name: one for one in models or (model(),)})
        yield local
    finally:
        await local.close()


def chat(text: str, **fields: Any) -> bytes:
    """Return a chat request: greedy and short unless told otherwise."""
    said = {"model": NAME, "messages": [{"role": "user", "content": text}]}
    return json.dumps({**said, "temperature": 0, "max_tokens": 24, **fields}).encode()


async def body_of(answer: MeteredAnswer) -> bytes:
    """Return all bytes of an answer, and close it."""
    try:
        return b"".join([chunk async for chunk in answer.chunks()])
    finally:
        await answer.close()


async def whole(local: LocalModels, request: bytes, endpoint: Any = "chat") -> Any:
    """Return the JSON of an unstreamed answer."""
    answer = await local.send(NAME, endpoint, request)
    found = json.loads(await body_of(answer))
    assert answer.status == 200, found
    return found


async def text_of(local: LocalModels, request: bytes) -> str:
    """Return what an unstreamed chat answer says."""
    found = await whole(local, request)
    return str(found["choices"][0]["message"]["content"])


def state_of(local: LocalModels) -> ModelState:
    """Return the small model's state."""
    return next(state for state in local.states() if state.name == NAME)


def states_seen(seen: list[str]) -> Callable[[ModelState], None]:
    """Return an `on_change` that notes each new state once."""

    def note(state: ModelState) -> None:
        if not seen or seen[-1] != state.state:
            seen.append(state.state)

    return note


async def until(holds: Callable[[], bool]) -> None:
    """Return once a condition holds; the test's time limit bounds the wait."""
    while not holds():  # noqa: ASYNC110 - what is waited for happens in another process
        await asyncio.sleep(0.005)
