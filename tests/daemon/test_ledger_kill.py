"""A daemon killed at any instant: what was acknowledged is there, once, at the right price."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import ledger_child

from tollway.daemon.ledger import calls
from tollway.daemon.ledger.rows import SpentQuery
from tollway.daemon.ledger.verify import verify
from tollway.daemon.ledger.writer import Ledger

RUNS = 12


def run_and_kill(path: Path, first: int, lines: int) -> list[list[str]]:
    """Kill a writing process after it has acknowledged so much; return what it acknowledged."""
    environment = {**os.environ, "PYTHONPATH": str(Path(ledger_child.__file__).parent)}
    with subprocess.Popen(
        [sys.executable, ledger_child.__file__, str(path), str(first)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
        said += child.stdout.readlines()
    # The last line may have been cut by the kill, in the pipe or in the middle.
    return [line.split() for line in said if line.endswith("\n")]


async def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Each admitted call has one row: settled as it was told, or recovered at its hold."""
    path = tmp_path / "ledger.db"
    dice = random.Random(1)  # noqa: S311 - where to kill
    settled: dict[str, int] = {}
    admitted: set[str] = set()
    recovered_before: set[str] = set()
    for run in range(RUNS):
        said = run_and_kill(path, 10_000 * (run + 1), dice.randrange(1, 400))
        admitted |= {words[1] for words in said if words[0] == "A"}
        settled |= {words[1]: int(words[2]) for words in said if words[0] == "S"}
        left = {one.check for one in verify(path)}
        assert left <= {"open call"}
        ledger = Ledger(path)
        ledger.start()
        assert bool(ledger.recovered) == ("open call" in left)
        (spent,) = await ledger.spent([SpentQuery("box", "", 0)])
        await ledger.close()
        assert verify(path) == []

        rows = {row.id: row for row in calls.recent(path, limit=100_000)}
        assert admitted <= rows.keys()
        assert sum(row.cost_nanousd for row in rows.values()) == spent
        for call_id, cost in settled.items():
            assert (rows[call_id].state, rows[call_id].cost_nanousd) == ("settled", cost)
        recovered = {call_id for call_id, row in rows.items() if row.state == "recovered"}
        assert len(recovered - recovered_before) == ledger.recovered
        assert recovered_before <= recovered
        for call_id in recovered:
            *before, last = calls.one(path, call_id).attempts
            assert (last.ending, last.cost_nanousd, last.estimated) == ("recovered", 1000, True)
            assert [one.cost_nanousd for one in before] in ([], [7])
            assert rows[call_id].cost_nanousd == 1000 + 7 * len(before)
        recovered_before = recovered
        assert {row.state for row in rows.values()} <= {"settled", "recovered"}
