"""The event loop is watched by a thread that needs nothing of it."""

import asyncio
import logging
import sys
import threading
import time

import pytest
from shell import running, until

from tollway.daemon.watchdog import Watchdog, stack


def stand_still(seconds: float, secret: str) -> None:
    """Do what no coroutine should."""
    assert secret
    time.sleep(seconds)


async def test_a_loop_that_stands_still_is_told_with_where_it_stands(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Files, lines and functions, while it still stands; no value of a variable, ever."""
    dog = Watchdog(after_s=0.05, every_s=0.01)
    dog.start()
    try:
        with caplog.at_level(logging.WARNING, "tollway"):
            while not dog.state.stalls:  # on a busy machine the whole process may pause instead
                stand_still(0.3, "canary-4711")
                await asyncio.sleep(0.05)
    finally:
        dog.close()
    assert "the event loop has stood still for" in caplog.text
    assert "tests/daemon/test_watchdog.py:" in caplog.text
    assert " stand_still\n" in caplog.text + "\n"
    assert "canary" not in caplog.text
    state = dog.state
    assert state.longest_s >= 0.05
    assert state.stalled_s >= state.longest_s
    assert state.last_at <= time.time()


async def test_stacks_are_told_seldom_and_stalls_counted_always(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A loop that stalls all the time must not fill the log as well."""
    dog = Watchdog(after_s=0.02, every_s=0.005, log_every_s=1000)
    dog.start()
    try:
        with caplog.at_level(logging.WARNING, "tollway"):
            while dog.state.stalls < 3:
                stand_still(0.1, "x")
                await asyncio.sleep(0.02)
    finally:
        dog.close()
    assert caplog.text.count("the event loop has stood still") == 1


async def test_a_loop_that_turns_is_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """Waiting is no stall, however long."""
    dog = Watchdog(after_s=60, every_s=0.01)
    dog.start()
    await asyncio.sleep(0.05)
    dog.close()
    assert dog.state.stalls == 0
    assert caplog.text == ""


async def test_the_thread_ends_with_the_daemon_and_status_tells_its_count() -> None:
    """What `tollway status` and the metrics read."""
    async with running() as daemon:
        assert any(one.name == "watchdog" for one in threading.enumerate())
        said = (await daemon.ask("GET", "/control/status", admin=True)).json()
        assert set(said["loop"]) == {"stalls", "stalled_s", "longest_s", "last_at", "paused"}
        assert said["connections"] == 0
    await until(lambda: not any(one.name == "watchdog" for one in threading.enumerate()))


def test_a_stack_has_the_innermost_frame_last() -> None:
    """As Python's own tracebacks."""
    last = stack(sys._getframe()).splitlines()[-1]
    assert last.startswith("tests/daemon/test_watchdog.py:")
    assert last.endswith(" test_a_stack_has_the_innermost_frame_last")
