"""Every test of the HTTP client runs under both event loops, and leaves nothing behind."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from tollway.providers.http.client import HttpTransport


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Name the loops: asyncio's own shows leaks as warnings, uvloop is what the daemon runs."""
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def transport() -> AsyncIterator[HttpTransport]:
    """Give a client, and see that no socket and no task of it is left afterwards."""
    client = HttpTransport()
    before = asyncio.all_tasks()
    yield client
    await client.close()
    assert client.open_connections == 0
    assert client.idle_connections == 0
    assert asyncio.all_tasks() - before <= {asyncio.current_task()}
    gc.collect()  # an unclosed transport warns, and a warning is an error
