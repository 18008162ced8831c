"""A name that nobody answers for keeps no other name from being found."""

import asyncio
import socket
from collections import Counter
from typing import Any

import pytest
from transports import ask, whole
from upstreams import answer, eventually, reads, says, upstream

from tollway.providers.errors import UpstreamTimeout, UpstreamUnreachable
from tollway.providers.http.client import HttpTransport
from tollway.providers.transport import Timeouts

IMPATIENT = Timeouts(connect_s=0.05, first_s=30.0, idle_s=30.0)


class Resolving(asyncio.SelectorEventLoop):
    """A loop whose resolver knows `localhost`, and hangs over everything else until told."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.answers: asyncio.Future[None]

    async def getaddrinfo(self, host: Any, port: Any, **more: Any) -> Any:
        """Return loopback, or nothing for a while, and then that there is no such name."""
        self.asked[host] += 1
        if host != "localhost":
            await self.answers
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


async def scene(loop: Resolving) -> None:
    """Call a provider whose name hangs, often, and another one."""
    loop.answers = loop.create_future()
    client = HttpTransport()
    async with upstream([reads(), says(answer(b"ok"))]) as server:
        gone = "http://models.example:9/"
        hasty = [asyncio.create_task(client.send(ask(gone, timeouts=IMPATIENT))) for _ in range(9)]
        for one in hasty:
            with pytest.raises(UpstreamTimeout):
                await one
        patient = [asyncio.create_task(client.send(ask(gone))) for _ in range(9)]
        for _ in range(3):
            got = await client.send(ask(f"http://localhost:{server.port}/"))
            assert await whole(got) == b"ok"
        # One look-up for all of them, those who have left included: one thread that hangs.
        assert loop.asked["models.example"] == 1
        loop.answers.set_result(None)
        for one in patient:
            with pytest.raises(UpstreamUnreachable, match="cannot be found: no such name"):
                await one
        # Nothing is kept: the name may be known now.
        with pytest.raises(UpstreamUnreachable):
            await client.send(ask(gone))
        assert loop.asked["models.example"] == 2
        loop.answers = loop.create_future()
        left = asyncio.create_task(client.send(ask(gone)))
        await eventually(lambda: loop.asked["models.example"] == 3)
        await client.close()
        with pytest.raises(UpstreamUnreachable):
            await left
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_a_name_is_looked_up_once_for_all_who_wait() -> None:
    """The threads that look names up are few, and one that hangs is lost for seconds."""
    loop = Resolving()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(scene(loop))
