"""Streams of a model that is a command, as the gate is handed them."""

import os
import signal
from pathlib import Path

import pytest
from served_commands import request, serving

from tollway.providers.errors import UpstreamBroke, UpstreamError, UpstreamTimeout
from tollway.providers.llamacpp.served import ServedAnswer
from tollway.providers.llamacpp.state import Terms
from tollway.providers.transport import Pushed

EVENTS = b"data: one\n\ndata: two\n\ndata: three\n\n"


class Client:
    """Who is given an answer: in pieces, or in chunks as they stand on the wire."""

    def __init__(self) -> None:
        self.got = b""
        self.wants = 100

    def take(self, piece: bytes) -> bool:
        """Take a piece; return whether another may come."""
        self.got += piece
        self.wants -= 1
        return self.wants > 0

    def passes(self, chunk: bytes, _now_s: float) -> bool:
        """Take a chunk with its framing, if it is one and whole."""
        size, _, rest = chunk.partition(b"\r\n")
        data = rest.removesuffix(b"\r\n")
        if not data or int(size, 16) != len(data):
            return False
        self.take(data)
        return True


@pytest.mark.parametrize("framed", [False, True], ids=["pieces", "chunks"])
async def test_a_stream_is_handed_on_as_it_comes(tmp_path: Path, framed: bool) -> None:
    """To its end; or until no more is wanted for now, and from there on."""
    async with serving(tmp_path) as local:
        answer = await local.forward("qwen", request("say one two three end"))
        assert isinstance(answer, Pushed) and isinstance(answer, ServedAnswer)
        client = Client()
        client.wants = 2 if not framed else 100
        ended = await answer.each(client.take, client.passes if framed else None)
        while not ended:
            client.wants = 100
            ended = await answer.each(client.take)
        assert client.got == EVENTS
        await answer.close()
        assert local.states()[0].running == 0


@pytest.mark.parametrize(
    ("end", "error", "words"),
    [
        ("die", UpstreamBroke, "`qwen` closed"),
        ("hang", UpstreamTimeout, "`qwen` was still at work"),
    ],
)
async def test_what_came_before_an_early_end_is_handed_on(
    tmp_path: Path, end: str, error: type[UpstreamError], words: str
) -> None:
    """Its error names the model, and says where the server died; a deadline holds there too."""
    async with serving(tmp_path) as local:
        client = Client()
        terms = Terms(deadline_s=5 if end == "hang" else None)
        answer = await local.forward("qwen", request(f"say one two three {end}"), terms)
        with pytest.raises(error) as raised:
            await answer.each(client.take, client.passes)
        assert words in raised.value.message
        assert client.got == EVENTS
        assert raised.value.death == ("alone" if end == "die" else "")
        await answer.close()


async def test_what_the_reader_raises_is_no_end_of_the_server(tmp_path: Path) -> None:
    """It is raised as it is and at once, with no look at whether the server has ended."""
    async with serving(tmp_path) as local:
        answer = await local.forward("qwen", request("say one two three hang"))
        unreadable = UpstreamBroke("The provider's answer cannot be read")

        def take(_piece: bytes) -> bool:
            os.kill(local.states()[0].pid or 0, signal.SIGKILL)
            raise unreadable

        with pytest.raises(UpstreamBroke) as raised:
            await answer.each(take)
        assert raised.value is unreadable
        assert unreadable.death == ""
        await answer.close()
