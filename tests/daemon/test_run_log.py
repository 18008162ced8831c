"""The log never holds up a call, and background work never ends unseen."""

import asyncio
import logging
import os
import threading

import pytest

from tollway.daemon.log import Log
from tollway.daemon.tasks import Tasks


def test_a_log_that_nobody_reads_holds_nobody_up() -> None:
    """A stopped terminal or a full pipe: lines are counted instead of kept, and said so later."""
    reading, writing = os.pipe()
    log = Log(writing)
    for number in range(60_000):
        log.put("info", f"line {number}", {})
    got: list[bytes] = []

    def read() -> None:
        with os.fdopen(reading, "rb") as pipe:
            got.append(pipe.read())

    reader = threading.Thread(target=read)
    reader.start()
    log.flush()
    log.close()
    os.close(writing)
    reader.join()
    assert b"line 0\n" in got[0]
    assert b"lines were lost" in got[0]


def test_everything_python_logs_passes_the_mask() -> None:
    """Libraries log too; a key in a message or a traceback of theirs is blanked out."""
    reading, writing = os.pipe()
    log = Log(writing)
    log.install("info", "text")
    log.mask.hide(["sk-provider-secret", "short"])
    try:
        secret = "with tw-CANARY0123456 and sk-provider-secret"
        try:
            raise ValueError(secret)
        except ValueError:
            logging.getLogger("somebody.else").exception("failed short of %s", secret)
        log.flush()
    finally:
        log.close()
        os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    assert "failed short of with tw-*** and ***" in said
    assert "ValueError: with tw-*** and ***" in said
    assert "CANARY" not in said
    assert all(line.startswith(("20", "    ")) for line in said.splitlines())


async def test_a_crash_in_the_background_is_logged_and_ends_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One task's bug is that task's end, with its traceback under its name."""
    tasks = Tasks()
    go = asyncio.Event()

    async def crash() -> None:
        raise RuntimeError("boom")

    other = tasks.start(go.wait(), name="other")
    crashed = tasks.start(crash(), name="the crash")
    await asyncio.wait([crashed])
    assert "`the crash` crashed" in caplog.text
    assert "boom" in caplog.text
    assert not other.done()
    assert not await tasks.wait(0.001)
    go.set()
    assert await tasks.wait(30)
    assert len(tasks) == 0


async def test_closing_the_owner_ends_what_still_runs() -> None:
    """Cancelled work may clean up first, and is waited for."""
    tasks = Tasks()
    cleaned = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    task = tasks.start(work(), name="work")
    await asyncio.sleep(0)
    await tasks.close()
    assert task.cancelled()
    assert cleaned.is_set()
