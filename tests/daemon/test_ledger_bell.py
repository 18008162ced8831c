"""The event loop and the ledger's thread wake each other, and nothing that was said is missed."""

import asyncio
import resource
import select
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from ledger_rows import attempt, ended, opened

from tollway.daemon.ledger.bell import Bell, Wire
from tollway.daemon.ledger.rows import CallEnded
from tollway.daemon.ledger.writer import Ledger


def rings(bell: Bell) -> bool:
    """Return whether who watches would be woken."""
    return bool(select.select([bell.fd], [], [], 0)[0])


@pytest.mark.parametrize("piped", [False, True], ids=["eventfd", "pipe"])
def test_a_bell_that_rang_before_anybody_waited_is_heard_once(piped: bool) -> None:
    """Else a wake between looking at a queue and waiting for it would be lost."""
    bell = Bell(piped=piped)
    bell.ring()
    bell.ring()
    assert rings(bell)
    bell.wait(3600)
    assert not rings(bell)
    bell.wait(0)
    bell.heard()  # nothing happens
    ringer = threading.Thread(target=bell.ring)
    ringer.start()
    bell.wait(3600)
    ringer.join()


@pytest.mark.parametrize("piped", [False, True], ids=["eventfd", "pipe"])
def test_a_bell_that_cannot_be_opened_is_one_error_and_no_second(piped: bool) -> None:
    """Where all files that a process may open are open; what is not there is not closed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            Bell(piped=piped)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_bell_that_rings_on_and_on_keeps_nobody() -> None:
    """Who rings must not wait for who hears: a pipe has an end."""
    bell = Bell(piped=True)
    for _ in range(20_000):
        bell.ring()
    bell.wait(3600)
    assert not rings(bell)
    bell.ring()
    assert rings(bell)


def test_what_a_thread_says_is_heard_in_its_order_on_the_loop_that_listens() -> None:
    """Also what was said while none did, and after one has ended."""
    heard: list[int] = []
    enough: list[tuple[int, asyncio.Event]] = []

    def hear(said: int) -> None:
        heard.append(said)
        if len(heard) == enough[-1][0]:
            enough[-1][1].set()

    wire = Wire(hear)

    async def listens(until: int) -> None:
        enough.append((until, asyncio.Event()))
        wire.listen(asyncio.get_running_loop())
        async with asyncio.timeout(30):
            await enough[-1][1].wait()

    def says() -> None:
        for number in range(1, 1000):
            wire.say(number)

    wire.say(0)
    thread = threading.Thread(target=says)
    thread.start()
    asyncio.run(listens(1000))
    thread.join()
    wire.say(1000)
    asyncio.run(listens(1001))
    wire.close()
    assert heard == list(range(1001))


def test_a_settlement_that_was_the_last_act_of_a_loop_is_written(tmp_path: Path) -> None:
    """The thread is woken in the loop's next turn, and there may be none."""
    path = tmp_path / "ledger.db"
    ledger = Ledger(path)
    ledger.start()
    call, other = opened(1), opened(2)

    async def ends() -> None:
        await ledger.admit(call, first := attempt(call))
        ledger.settle(CallEnded(call.id, call.admitted_ms + 1000, "answered"), ended(first))

    async def goes_on() -> None:
        async with asyncio.timeout(30):
            await ledger.admit(other, attempt(other))
        await ledger.close()

    asyncio.run(ends())
    asyncio.run(goes_on())
    with closing(sqlite3.connect(path)) as db:
        states = db.execute("SELECT id, state FROM calls ORDER BY seq").fetchall()
    assert states == [(call.id, 0), (other.id, 1)]
