"""How calls reach a worker: read beside its steps, and refused before they cost any."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pytest

pytest.importorskip("jinja2", reason="jinja2 comes with the `local` extra")
from tollway.providers.llamacpp.frames import (
    Ping,
    Pong,
    Prompt,
    Submit,
    frame_length,
    pack,
    read_up,
)

# Its main thread is in a step that never ends.
BUSY = """
import socket, sys, threading
from tollway.providers.llamacpp.child import Link
from tollway.providers.llamacpp.jobs import Arrived, Read
def read(job):
    print("read", job.id, threading.current_thread() is threading.main_thread(), flush=True)
    return Arrived(job, Read([[1]]))
link = Link(socket.socket(fileno=int(sys.argv[1])))
link.read = read
print("ready", flush=True)
sys.stdin.read()
print("took", link.inbox.get_nowait().job.id, flush=True)
"""


@contextmanager
def running(script: str) -> Iterator[tuple[socket.socket, IO[bytes], "subprocess.Popen[bytes]"]]:
    """Run a script that is given its end of a link; yield ours, what it prints, and itself."""
    ours, its = socket.socketpair()
    with (
        ours,
        subprocess.Popen(
            [sys.executable, "-c", script, str(its.fileno())],
            pass_fds=(its.fileno(),),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as child,
    ):
        its.close()
        assert child.stdout
        assert child.stdout.readline() == b"ready\n"
        yield ours, child.stdout, child


def test_a_call_is_read_while_a_step_runs() -> None:
    """A text of megabytes is cut into tokens for seconds: no stream stands still for that."""
    with running(BUSY) as (ours, said, child):
        ours.sendall(pack([Submit(7, "completions", [Prompt(text="a")])]))
        assert said.readline() == b"read 7 False\n"
        # The next one is read once the first has been handed over.
        ours.sendall(pack([Submit(8, "completions", [Prompt(text="a")])]))
        assert said.readline() == b"read 8 False\n"
        assert child.stdin
        child.stdin.close()
        assert said.readline() == b"took 7\n"
        assert child.wait(30) == 0


# Its main thread is in a step that never ends, and another cuts a text that never ends.
DEAF = """
import socket, sys
from tollway.providers.llamacpp.child import Link
def read(job):
    print("reads", flush=True)
    sys.stdin.read()
link = Link(socket.socket(fileno=int(sys.argv[1])))
link.read = read
print("ready", flush=True)
link.inbox.get()
"""


def test_a_process_says_that_it_runs_beside_all_that_takes_long() -> None:
    """A step may take minutes, and so may a text: who asks whether it runs is answered at once."""
    with running(DEAF) as (ours, said, child):
        ours.sendall(pack([Submit(7, "completions", [Prompt(text="a")])]))
        assert said.readline() == b"reads\n"
        for _ in range(2):
            ours.sendall(pack([Ping()]))
            assert read_up(_body(ours)) == [Pong()]
        ours.close()
        assert child.wait(30) == 0  # the link's end is heard as well


def _body(link: socket.socket) -> bytes:
    with link.makefile("rb") as file:
        return file.read(frame_length(file.read(4)))
