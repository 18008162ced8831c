"""The recordings served: what leaves the replay server is what was recorded."""

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire.replay_server import ReplayServer, cut

STREAM = "openai/chat_stream_gpt-4o"


@given(st.binary(max_size=200), st.sampled_from(["whole", "event", "utf8", "random:1", "1", "7"]))
def test_the_pieces_are_the_body(body: bytes, how: str) -> None:
    """However it is cut."""
    assert b"".join(cut(body, how)) == body


async def test_a_recording_is_served_as_it_came() -> None:
    """Status, content type and bytes, in pieces of any size."""
    async with ReplayServer() as server, aiohttp.ClientSession() as session:
        for chunk in ("whole", "event", "recorded", "1"):
            url = server.url(STREAM, chunk=chunk)
            async with session.post(f"{url}/chat/completions", json={"a": 1}) as answer:
                assert await answer.read() == server.recordings[STREAM].body
                assert answer.content_type == "text/event-stream"
        assert server.received[0][1] == b'{"a": 1}'
        url = server.url("openrouter/chat_err429_gemini-2-0-flash-exp-free")
        async with session.post(f"{url}/chat/completions") as answer:
            assert answer.status == 429


async def test_the_recording_most_alike_answers_a_plain_path() -> None:
    """Model first, then streaming, then whatever else is the same."""
    async with ReplayServer() as server, aiohttp.ClientSession() as session:
        asked = {"model": "grok-code-fast-1", "stream": True, "max_tokens": 4000}
        async with session.post(f"{server.address}/v1/chat/completions", json=asked) as answer:
            assert b'"cost_in_usd_ticks":955600' in await answer.read()


async def test_faults_happen_where_they_should() -> None:
    """After so many bytes, or instead of an answer."""
    async with ReplayServer() as server, aiohttp.ClientSession() as session:
        body = server.recordings[STREAM].body
        async with session.post(server.url(STREAM, fault="truncate:100")) as answer:
            assert await answer.read() == body[:100]
        async with session.post(server.url(STREAM, fault="status:503")) as answer:
            assert answer.status == 503
        with pytest.raises(aiohttp.ClientError):
            async with session.post(server.url(STREAM, fault="drop:100")) as answer:
                await answer.read()
        with pytest.raises(aiohttp.ClientError):
            await session.post(server.url(STREAM, fault="reset"))
        async with session.post(server.url(STREAM, fault="stall:100")) as answer:
            assert await answer.content.readexactly(100) == body[:100]
