"""`tollway run` and its program: signals, stops, the terminal."""

import asyncio
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gateway import gateway
from run_program import ANSWERS, python, start
from shell import PATIENCE_S, until

TRAPS = """
import os, signal
def took(number, frame):
    os.write(1, b"took %d\\n" % number)
    os._exit(3)
for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(one, took)
assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
async def test_a_signal_goes_to_the_program(tmp_path: Path, number: int) -> None:
    """A supervisor that stops `tollway run` means the program; its cost is told all the same."""
    async with gateway(ANSWERS) as gate:
        run = await start(gate.daemon, tmp_path, *python(TRAPS))
        assert await run.line() == "ready"
        run.process.send_signal(number)
        code, out, err = await run.end()
        assert (code, out) == (3, f"took {int(number)}\n"), err
        assert "tollway: no calls" in err


STOPS = """
import os, signal
os.write(1, b"%d\\n" % os.getppid())
os.kill(os.getpid(), signal.SIGSTOP)
os.write(1, b"on\\n")
"""


async def test_a_program_that_stops_itself_stops_the_run_until_fg(tmp_path: Path) -> None:
    """Ctrl-Z in an agent that reads keys by itself: the shell must get its terminal back."""
    async with gateway(ANSWERS) as gate:
        said = await asyncio.to_thread(
            _at_a_terminal, gate.daemon.config, tmp_path, _SHELL, STOPS, _goes_on
        )
    assert b"on\r\n" in said
    assert b"ended 0" in said


async def test_without_a_terminal_a_program_that_stops_leaves_the_run_going(tmp_path: Path) -> None:
    """Nobody is there to say `fg`: a run that stopped too would stand when its program goes on."""
    async with gateway(ANSWERS) as gate:
        run = await start(gate.daemon, tmp_path, *python(STOPS))
        parent = int(await run.line())
        children = Path(f"/proc/{parent}/task/{parent}/children")
        (pid,) = map(int, children.read_text().split())  # noqa: ASYNC240 - of the kernel
        await until(lambda: _state(pid) == "T")
        runs = gate.daemon.server.daemon.runs
        (known,) = runs._known.values()
        told = known.until_s
        await until(lambda: known.until_s > told)  # it goes on to say that it is there
        os.kill(pid, signal.SIGCONT)
        code, out, _ = await run.end()
        assert (code, out) == (0, "on\n")


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


COUNTS = """
import signal, sys, time
count = 0
def took(number, frame):
    global count
    count += 1
signal.signal(signal.SIGINT, took)
print("ready", sys.stdin.isatty(), flush=True)
sys.stdin.readline()
print("count", count, flush=True)
"""


async def test_ctrl_c_at_a_terminal_reaches_the_program_once(tmp_path: Path) -> None:
    """The terminal sends it to both; the run waits for the program, which may live on."""
    async with gateway(ANSWERS) as gate:
        said = await asyncio.to_thread(
            _at_a_terminal, gate.daemon.config, tmp_path, _LEAD, COUNTS, _interrupted
        )
    assert b"ready True" in said
    assert b"count 1" in said
    assert b"tollway: no calls" in said


def _at_a_terminal(
    config: Path, folder: Path, shell: str, program: str, types: Callable[[int], bytes]
) -> bytes:
    """Run a program at a terminal below a shell of a session of its own; return all it said."""
    main, other = pty.openpty()
    words = [sys.executable, "-m", "tollway.cli", "--config", str(config), "run"]
    process = subprocess.Popen(
        # Of its own, so that the terminal's signals go where they would.
        [sys.executable, "-c", shell, *words, *python(program)],
        stdin=other, stdout=other, stderr=other, cwd=folder, start_new_session=True,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
    )  # fmt: skip
    os.close(other)
    try:
        said = types(main)
        process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()
        os.close(main)
    return said


def _interrupted(main: int) -> bytes:
    said = _until(main, b"ready")
    os.write(main, b"\x03")
    said += _until(main, b"^C")
    os.write(main, b"\n")
    return said + _until(main, b"tollway: no calls")


def _goes_on(main: int) -> bytes:
    said = _until(main, b"stopped")
    os.write(main, b"fg\n")
    return said + _until(main, b"ended")


_LEAD = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
# What a shell does of a job: a group of its own that has the terminal until it stops.
_SHELL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
pid = os.fork()
if not pid:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
_, status = os.waitpid(pid, os.WUNTRACED)
os.tcsetpgrp(0, os.getpgrp())
os.write(1, b"stopped\\n" if os.WIFSTOPPED(status) else b"went on\\n")
assert sys.stdin.readline() == "fg\\n"
os.tcsetpgrp(0, pid)
os.killpg(pid, signal.SIGCONT)
_, status = os.waitpid(pid, 0)
os.write(1, b"ended %d\\n" % os.waitstatus_to_exitcode(status))
"""


def _until(file: int, wanted: bytes) -> bytes:
    said = b""
    while wanted not in said:
        said += os.read(file, 4096)
    return said
