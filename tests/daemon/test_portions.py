"""Bodies in chunks are read a portion at a time, by turns."""

import asyncio

from tollway.daemon.portions import Portions


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


async def test_those_who_send_small_chunks_share_a_part_of_each_turn_of_the_loop() -> None:
    """However many they are, everything else goes on between two portions."""
    read: list[str] = []
    portions = Portions(asyncio.get_running_loop(), turn_s=0)
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
