"""`ledger.keep` and its like in a running daemon: at the start, and when the file changes."""

import time
from pathlib import Path

from ledger_rows import attempt, closed, ended, opened
from shell import Running, running, short_folder, until

from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.verify import verify
from tollway.daemon.ledger.writer import Ledger

DAY_MS = 86_400_000
NOW_MS = time.time_ns() // 1_000_000


async def write(folder: Path, *ages: int) -> None:
    """Write a ledger with calls of so many days ago."""
    ledger = Ledger(folder / "ledger.db")
    ledger.start()
    for number, days in enumerate(ages):
        call = opened(number, NOW_MS - days * DAY_MS)
        await ledger.admit(call, attempt(call))
        await ledger.settle(closed(call), ended(attempt(call)))
    await ledger.close()


def days_left(daemon: Running) -> list[int]:
    """Return the ages of the calls that are there, in days."""
    with reading(daemon.folder / "ledger.db") as db:
        rows = db.execute("SELECT admitted_ms FROM calls ORDER BY seq")
        return [round((NOW_MS - ms) / DAY_MS) for (ms,) in rows]


def rewrite(daemon: Running, old: str, new: str) -> None:
    """Replace a piece of the daemon's file."""
    text = daemon.config.read_text()
    assert old in text
    daemon.config.write_text(text.replace(old, new))


async def test_the_daemon_keeps_what_the_file_says_and_follows_a_reload() -> None:
    """Without a word 400 days; a shorter time is taken up once it is confirmed."""
    with short_folder() as folder:
        await write(folder, 500, 300, 20, 2)
        async with running(folder=folder) as daemon:
            await until(lambda: days_left(daemon) == [300, 20, 2])
            rewrite(daemon, "[ledger]\n", '[ledger]\nkeep = "30d"\n')

            async def pending() -> bool:
                answer = await daemon.ask("GET", "/control/status", admin=True)
                state = answer.json()["config"]
                return bool(state["state"] == "pending" and "ledger.keep" in state["problem"])

            await until(pending)
            assert days_left(daemon) == [300, 20, 2]
            answer = await daemon.ask("POST", "/control/reload", admin=True)
            assert answer.json()["changed"] == ["ledger.keep"]
            await until(lambda: days_left(daemon) == [20, 2])
            # More is kept without a question.
            rewrite(daemon, '"30d"', '"40d"')
            await until(lambda: int(daemon.server.daemon.config.ledger.keep) == 40 * 86_400)
            assert daemon.server.reloader.state.state == "ok"
        assert verify(folder / "ledger.db") == []
