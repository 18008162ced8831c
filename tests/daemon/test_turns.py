"""Who begins in which turn of the event loop."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from tollway.daemon.turns import Turns, line_of

EACH = 3


@pytest.fixture
async def turns() -> AsyncIterator[Turns]:
    """Return turns in which three may begin, since somebody was refused."""
    found = Turns(asyncio.get_running_loop(), EACH, calm_s=3600)
    found.refused()
    yield found


class Begun:
    """Who has begun, and in which turn of the loop."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.turn = 0
        self.seen: list[tuple[int, str]] = []

    async def one(self, name: str) -> None:
        """Begin when it may; the line's number is the name's first letter."""
        if not self.turns.free():
            await self.turns.wait(ord(name[0]))
        self.seen.append((self.turn, name))

    async def all(self, *names: str) -> dict[int, list[str]]:
        """Return who began in each turn once all have."""
        tasks = [asyncio.create_task(self.one(name)) for name in names]
        while len(self.seen) < len(names):
            await asyncio.sleep(0)
            self.turn += 1
        await asyncio.gather(*tasks)
        found: dict[int, list[str]] = {}
        for turn, name in self.seen:
            found.setdefault(turn, []).append(name)
        return found


async def test_so_many_begin_in_a_turn_and_the_rest_in_order(turns: Turns) -> None:
    """None is left out, none goes twice, and no turn has more than may."""
    names = [f"a{number}" for number in range(11)]
    found = await Begun(turns).all(*names)
    assert [len(one) for one in found.values()] == [3, 3, 3, 2]
    assert [name for one in found.values() for name in one] == names


async def test_where_nobody_is_refused_all_begin_at_once() -> None:
    """There is nobody to put before another, and each turn of the loop has its cost."""
    turns = Turns(asyncio.get_running_loop(), EACH, calm_s=0)
    names = [f"a{number}" for number in range(30)]
    assert await Begun(turns).all(*names) == {0: names}
    turns.refused()  # and the crowd is gone again
    assert turns.free()


async def test_lines_take_turns(turns: Turns) -> None:
    """One request of another key does not wait for all of the key that floods."""
    found = await Begun(turns).all(*[f"a{number}" for number in range(30)], "b0", "c0")
    order = [name for one in found.values() for name in one]
    assert order.index("b0") < 2 * EACH
    assert order.index("c0") < 2 * EACH
    assert [name for name in order if name[0] == "a"] == [f"a{number}" for number in range(30)]


async def test_who_leaves_the_line_takes_nobodys_turn(turns: Turns) -> None:
    """A client that hangs up while it waits is passed over, and the others go on."""
    begun = Begun(turns)
    tasks = [asyncio.create_task(begun.one(f"a{number}")) for number in range(10)]
    await asyncio.sleep(0)
    for task in tasks[3:8]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [name for _, name in begun.seen] == ["a0", "a1", "a2", "a8", "a9"]


async def test_at_rest_nothing_is_left_to_do(turns: Turns) -> None:
    """No line stays, and after a pause as many may begin as ever."""
    for _ in range(3):
        assert [turns.free() for _ in range(EACH + 1)] == [True] * EACH + [False]
        for _ in range(3):
            await asyncio.sleep(0)
    assert not turns._lines
    assert not turns._running


def test_who_sends_the_same_credentials_waits_in_one_line() -> None:
    """By whichever header; without any it is the client's address that counts."""

    def line(client: str = "1.2.3.4", **headers: str) -> int:
        pairs = {name.replace("_", "-"): value for name, value in headers.items()}
        return line_of(client, CIMultiDictProxy(CIMultiDict(pairs)))

    assert line(x_api_key="tw-a") == line(X_Api_Key="tw-a", content_type="x")
    different = [line(), line("1.2.3.5"), line(x_api_key="a"), line(authorization="a")]
    assert len(set(different)) == 4
