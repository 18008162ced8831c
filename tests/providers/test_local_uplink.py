"""The daemon's end of a worker's link, and the answers that are handed on from it."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.providers.llamacpp.answer import LocalAnswer
from tollway.providers.llamacpp.frames import (
    MAX_FRAME,
    Broken,
    ChoiceEnded,
    Done,
    FrameError,
    Pong,
    Prompt,
    Reading,
    Submit,
    Token,
    Up,
    Used,
    pack,
    read_up,
)
from tollway.providers.llamacpp.link import Uplink
from tollway.providers.llamacpp.openai import Asked
from tollway.providers.llamacpp.shares import Shares
from tollway.providers.llamacpp.worker import Call
from tollway.providers.llamacpp.writing import writer
from tollway.providers.transport import Pushed

FRAMES: list[list[Up]] = [
    [Pong()],
    [Reading(1, 5, 5, 0)],
    [Token(1, 0, "a" * 300), Token(2, 0, "é")],
    [ChoiceEnded(1, 0, "stop", ""), Done(1, Used(5, 0, 1))],
]
STREAM = b"".join(map(pack, FRAMES))


@given(cuts=st.sets(st.integers(1, len(STREAM) - 1)), before=st.integers(0, len(STREAM)))
def test_frames_do_not_depend_on_where_the_pieces_fall(cuts: set[int], before: int) -> None:
    """The socket may cut them anywhere, and some may come before anyone listens."""

    async def go() -> list[list[Up]]:
        link, found = Uplink(), []
        ends = sorted({*cuts, before, len(STREAM)})
        for begin, end in zip([0, *ends], ends, strict=False):
            if begin == before:
                link.listen(lambda body: found.append(read_up(body)))
            link.data_received(STREAM[begin:end])
        if before == len(STREAM):
            link.listen(lambda body: found.append(read_up(body)))
        assert not link.ended.done()
        link.connection_lost(None)
        await link.ended
        return found

    assert asyncio.run(go()) == FRAMES


@pytest.mark.parametrize(
    "broken", [(MAX_FRAME + 1).to_bytes(4, "little"), b"\1\0\0\0\xc1", bytes(4)]
)
async def test_what_cannot_be_read_is_the_end_behind_what_could(broken: bytes) -> None:
    """A worker that writes nonsense is ended; what it had said before that stands."""
    link, found = Uplink(), []

    def hear(body: bytes) -> None:
        found.append(read_up(body))

    link.listen(hear)
    link.data_received(STREAM + broken + STREAM)
    assert link.ended.done()
    assert isinstance(link.fault, FrameError)
    link.data_received(STREAM)
    assert found == FRAMES


def begun() -> tuple[Call, LocalAnswer]:
    """Return a streamed chat whose worker is this test, and its answer."""
    call = Call(1, 1, lambda _: None)
    asked = Asked("chat", "tiny", Submit(1, "chat", [Prompt()]), stream=True)
    share = Shares(time.monotonic).enter()
    return call, LocalAnswer("tiny", None, call, writer(asked), share)  # type: ignore[arg-type]


class Client:
    """Who is given the pieces of an answer, and always wants more."""

    def __init__(self) -> None:
        self.got: list[bytes] = []

    def take(self, piece: bytes) -> bool:
        """Take a piece."""
        self.got.append(piece)
        return True


def says(call: Call, *ups: Up) -> None:
    """Have a step of the worker bring something."""
    for up in ups:
        call.put(up)
    call.wake()


async def test_pieces_are_handed_on_as_they_come_without_a_turn_of_the_loop() -> None:
    """What a step brought is one piece, and what nothing stands in is none."""
    call, answer = begun()
    assert isinstance(answer, Pushed)
    client = Client()
    got = client.got
    says(call, Reading(1, 5, 5, 0), Token(1, 0, "A"))
    reading = asyncio.create_task(answer.each(client.take))
    await asyncio.sleep(0)
    assert len(got) == 1 and b'"content":"A"' in got[0]
    says(call, Token(1, 0, ""))
    assert len(got) == 1
    says(call, Token(1, 0, "B"), Token(1, 0, "C"))
    assert len(got) == 2 and b'"content":"B"' in got[1] and b'"content":"C"' in got[1]
    says(call, ChoiceEnded(1, 0, "stop", ""), Done(1, Used(5, 0, 3)))
    assert await reading is True
    assert got[-1].endswith(b"data: [DONE]\n\n")


async def test_a_chunk_may_be_passed_as_it_stands_on_the_wire() -> None:
    """Whoever passes it on writes nothing of his own; what he does not want is given as a piece."""
    call, answer = begun()
    client = Client()
    got = client.got
    chunks: list[bytes] = []

    def passes(chunk: bytes, _now_s: float) -> bool:
        if b'"B"' in chunk:
            chunks.append(chunk)
            answer.enough()
        return b'"B"' in chunk

    reading = asyncio.create_task(answer.each(client.take, passes))
    await asyncio.sleep(0)
    says(call, Token(1, 0, "A"))
    says(call, Token(1, 0, "B"))
    says(call, Token(1, 0, "C"))  # waits: enough has been said for now
    assert await reading is False
    size, _, rest = chunks[0].partition(b"\r\n")
    assert int(size, 16) == len(rest) - 2 and rest.startswith(b"data: ")
    assert len(got) == 1
    says(call, Broken(1, "no memory"))
    with pytest.raises(Exception, match="no memory"):
        await answer.each(client.take, passes)
    assert b'"C"' in got[1]


async def test_what_the_reader_raises_is_raised_to_him() -> None:
    """And to nobody else: other calls' pieces stand in the same frame."""
    call, answer = begun()

    def take(_piece: bytes) -> bool:
        raise ValueError("my own")

    reading = asyncio.create_task(answer.each(take))
    await asyncio.sleep(0)
    says(call, Token(1, 0, "A"))
    with pytest.raises(ValueError, match="my own"):
        await reading
    says(call, Token(1, 0, "B"))
    assert b'"B"' in await anext(answer)
