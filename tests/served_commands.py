"""Models that `command_server.py` serves, as the daemon runs them."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tollway.providers.http.client import HttpTransport
from tollway.providers.llamacpp.adapter import Command, Limits, LocalModel, LocalModels
from tollway.providers.transport import Request

SERVER = str(Path(__file__).with_name("command_server.py"))
PATIENT = Limits(back_off_s=(), sweep_s=3600, stop_within_s=30)


def served(name: str = "qwen", *words: str, within_s: float = 60, **more: Any) -> LocalModel:
    """Return a model that the test's server serves."""
    command = Command(
        words=(sys.executable, SERVER, "${PORT}", *words),
        base_url="http://127.0.0.1:${PORT}/v1",
        health=more.pop("health", "/health"),
        start_within_s=within_s,
        env=(("ECHO", "port ${PORT}"),),
        model=more.pop("served_as", ""),
    )
    fields: dict[str, Any] = {
        "name": name, "path": Path(), "context": 8192, "gpu_layers": "auto",
        "idle_unload_s": 900.0, "command": command, **more,
    }  # fmt: skip
    return LocalModel(**fields)


@asynccontextmanager
async def serving(
    folder: Path, *models: LocalModel, limits: Limits = PATIENT, **options: Any
) -> AsyncIterator[LocalModels]:
    """Serve commands, and end them all."""
    transport = HttpTransport()
    local = LocalModels(log_folder=folder / "logs", transport=transport, limits=limits, **options)
    try:
        await local.configure({one.name: one for one in models or (served(),)})
        yield local
    finally:
        await local.close()
        await transport.close()


def request(text: str = "hi") -> Request:
    """Return a chat, as the gate sends it."""
    said = {"model": "qwen", "messages": [{"role": "user", "content": text}]}
    return Request(
        url="/chat/completions",
        headers=(("content-type", "application/json"),),
        body=json.dumps(said).encode(),
    )
