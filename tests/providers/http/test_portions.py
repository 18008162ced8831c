"""What comes much at once is read a portion at a time, by turns."""

import asyncio
import contextlib
import gzip

from transports import ask, whole
from upstreams import answer, reads, says, stalls, upstream

from tollway.providers.http.client import HttpTransport
from tollway.providers.http.portions import InPortions, Portions


class Sender:
    """A connection that has so many portions left to be read."""

    def __init__(self, name: str, left: int, read: list[str]) -> None:
        self.name = name
        self.left = left
        self.read = read

    def take_portion(self) -> bool:
        """Note it."""
        self.read.append(self.name)
        self.left -= 1
        return self.left > 0


async def test_those_who_send_much_share_a_part_of_each_turn_of_the_loop() -> None:
    """However many they are, everything else goes on between two portions."""
    read: list[str] = []
    portions = Portions(turn_s=0)
    portions.add(Sender("a", 3, read))
    assert read == ["a"]  # nobody was before it in this turn
    portions.add(Sender("b", 2, read))
    portions.add(Sender("c", 1, read))
    assert read == ["a"]
    for so_far in ("aa", "aab", "aabc", "aabca", "aabcab"):
        await asyncio.sleep(0)
        assert "".join(read) == so_far
    await asyncio.sleep(0)
    portions.add(Sender("d", 1, read))
    assert read[-1] == "d"


async def test_who_resumes_within_its_portion_stands_in_line_once() -> None:
    """Its next portion is not two, nor that of one that has ended."""
    read: list[str] = []
    portions = Portions(turn_s=1)

    class Resumes(Sender):
        def take_portion(self) -> bool:
            portions.add(self)
            return super().take_portion()

    portions.add(Resumes("a", 9, read))
    for _ in range(2):
        await asyncio.sleep(0)
    assert read == ["a"] * 3


async def test_an_answer_that_comes_at_once_is_taken_in_portions(transport: HttpTransport) -> None:
    """What is done with each has a turn of its own: the smallest events take long."""
    body = b"x" * 100_000
    async with upstream(
        [reads(), says(answer(body, "Content-Type: text/event-stream")), stalls()]
    ) as server:
        got = await transport.send(ask(server.url))
        before = got.size
        while got.size < len(body):
            await asyncio.sleep(0)
            # One for the turn, and one for what was read in it.
            assert got.size - before <= 2 * InPortions.PORTION
            before = got.size
        assert await whole(got) == body


async def test_a_small_answer_that_swells_is_taken_in_portions(transport: HttpTransport) -> None:
    """All of it has come at once, and nothing would wait between two pieces of it."""
    packed = answer(gzip.compress(b": \n" * 500_000), "Content-Encoding: gzip")
    turns, seen = 0, -1

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    async with upstream([reads(), says(packed), stalls()]) as server:
        got = await transport.send(ask(server.url))
        async for _ in got.chunks():
            assert turns > seen
            seen = turns
    counting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await counting
