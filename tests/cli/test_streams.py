"""Commands whose standard streams are closed, or lead to nobody."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from gateway import gateway
from run_program import ANSWERS
from shell import PATIENCE_S, Running

TOLLWAY = (sys.executable, "-m", "tollway.cli")


async def run(daemon: Running, folder: Path, how: str, program: str) -> None:
    """Have a shell start `tollway run` of a shell's program; `how` has "$@" for all of it."""
    words = ("--config", str(daemon.config), "run", "--", "sh", "-c", program)
    shell = await asyncio.create_subprocess_exec(
        *("sh", "-c", how, "sh", *TOLLWAY, *words),
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
    )
    async with asyncio.timeout(PATIENCE_S):
        await shell.wait()


async def test_a_run_ends_as_its_program_where_nobody_reads_its_talk(tmp_path: Path) -> None:
    """`tollway run ... 2>&1 | head`: the program is started, and its exit code is what is told."""
    os.mkfifo(tmp_path / "pipe")
    # Reader and writer in one, so that it opens; then a writer alone, whom nobody reads.
    left = 'exec 3<>pipe 4>pipe 3>&-; "$@" 2>&4 4>&-; echo $? > code'
    async with gateway(ANSWERS) as gate:
        await run(gate.daemon, tmp_path, left, "echo ran > file; exit 3")
    assert (tmp_path / "code").read_text() == "3\n"
    assert (tmp_path / "file").read_text() == "ran\n"


async def test_a_run_ends_as_its_program_where_streams_are_closed(tmp_path: Path) -> None:
    """And what the program says does not land in what was opened in their place."""
    closed = '"$@" <&- >&- 2>&-; echo $? > code'
    program = "echo said; echo talked >&2; readlink /proc/$$/fd/2 > file; exit 4"
    async with gateway(ANSWERS) as gate:
        await run(gate.daemon, tmp_path, closed, program)
    assert (tmp_path / "code").read_text() == "4\n"
    assert (tmp_path / "file").read_text() == "/dev/null\n"


def test_data_for_a_closed_stdout_is_for_nobody() -> None:
    """That is no mistake of ours."""
    ended = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *TOLLWAY, "--version"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_data_for_a_full_disk_is_an_error_with_its_hint(tmp_path: Path) -> None:
    """Python added its own two lines to ours, and ended with 120."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*TOLLWAY, "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            check=False,
            timeout=PATIENCE_S,
        )
    assert done.returncode == 1
    assert done.stderr == (
        "error: No space left on device\n"
        "hint: Free some space where its output or files go, or name another disk\n"
    )
