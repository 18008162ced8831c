"""Where the daemon is process 1 of a container, it takes leave of what its children leave."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# A process to which orphans are given, as to process 1; and one whose end its owner asks for late.
PROGRAM = """
import ctypes, json, os, subprocess, sys
from tollway.daemon.orphans import once

ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
said = subprocess.run(["sh", "-c", "sleep 0.1 & echo $!"], capture_output=True, check=True)
orphan = int(said.stdout)
while True:
    new = once(set())
    if orphan in new:
        break
own = subprocess.Popen(["true"])
os.waitid(os.P_PID, own.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not waited for yet
seen = once(new)
print(json.dumps([orphan, sorted(seen), own.pid, own.wait(), os.path.exists(f"/proc/{orphan}")]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are given to process 1 alone")
def test_an_orphan_that_has_ended_goes_and_one_s_own_child_is_left_to_its_owner() -> None:
    """They stayed as zombies, until the container could have no more processes."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, check=True, text=True
    )
    orphan, seen, own, code, still = json.loads(done.stdout)
    assert not still
    assert own in seen, "it had ended before this look, so the next one would take it"
    assert orphan in seen, "it was there as the look began"
    assert code == 0
    assert not Path(f"/proc/{orphan}").exists()
