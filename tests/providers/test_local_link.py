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
    Cancel,
    Count,
    Counted,
    Done,
    Drain,
    Ping,
    Pong,
    Prompt,
    Submit,
    Used,
    frame_length,
    pack,
    read_up,
)

# Its main thread is in a step that never ends.
BUSY = """
import socket, sys, threading
from tollway.providers.llamacpp.child import Link
from tollway.providers.llamacpp.jobs import Arrived, Read
class Engine:
    def doubts(self, job):
        return False
    def read(self, job):
        print("read", job.id, threading.current_thread() is threading.main_thread(), flush=True)
        return Arrived(job, Read([[1]]))
link = Link(socket.socket(fileno=int(sys.argv[1])))
link.serve(Engine())
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
        try:
            yield ours, child.stdout, child
        finally:
            child.kill()  # else a test that fails would wait for it


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
class Engine:
    def doubts(self, job):
        return False
    def read(self, job):
        print("reads", flush=True)
        sys.stdin.read()
link = Link(socket.socket(fileno=int(sys.argv[1])))
link.serve(Engine())
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


# A call of an even number is tried out until a line comes in. Two threads print: a line a write.
DOUBTS = """
import socket, sys
from tollway.providers.llamacpp.child import Link
from tollway.providers.llamacpp.frames import Counted, Drain
from tollway.providers.llamacpp.jobs import Arrived, Read
tried = set()
class Engine:
    def count(self, asked):
        return Counted(asked.id, 1)
    def doubts(self, job):
        return job.id % 2 == 0 and job.id not in tried
    def try_out(self, job):
        print(f"tries {job.id}\\n", end="", flush=True)
        sys.stdin.readline()
        tried.add(job.id)
    def read(self, job):
        return Arrived(job, Read([[1]]))
link = Link(socket.socket(fileno=int(sys.argv[1])))
link.serve(Engine())
print("ready", flush=True)
while not isinstance(message := link.inbox.get(), Drain):
    print(f"took {message.job.id}\\n", end="", flush=True)
print("drains", flush=True)
"""


def test_nobody_waits_for_another_s_call_that_is_tried_out() -> None:
    """Neither a call nor a count; whoever leaves meanwhile is told so, and is tried out no more."""
    with running(DOUBTS) as (ours, said, child):
        assert child.stdin
        for number in (2, 3, 4, 6):
            ours.sendall(pack([Submit(number, "completions", [Prompt(text="a")])]))
        assert {said.readline(), said.readline()} == {b"tries 2\n", b"took 3\n"}
        ours.sendall(pack([Count(5, "completions", [Prompt(text="a")])]))
        assert read_up(_body(ours)) == [Counted(5, 1)]
        ours.sendall(pack([Cancel(4)]))
        assert read_up(_body(ours)) == [Done(4, Used(), cancelled=True)]
        child.stdin.write(b"\n\n")
        child.stdin.flush()
        assert {said.readline() for _ in range(3)} == {b"took 2\n", b"tries 6\n", b"took 6\n"}
        ours.close()
        assert child.wait(30) == 0


def test_a_process_does_not_end_before_a_call_that_is_tried_out_has_come() -> None:
    """To drain is to finish what was sent before."""
    with running(DOUBTS) as (ours, said, child):
        assert child.stdin
        ours.sendall(pack([Submit(2, "completions", [Prompt(text="a")])]))
        ours.sendall(pack([Drain()]))
        assert said.readline() == b"tries 2\n"
        child.stdin.write(b"\n")
        child.stdin.flush()
        assert [said.readline(), said.readline()] == [b"took 2\n", b"drains\n"]


def _body(link: socket.socket) -> bytes:
    with link.makefile("rb") as file:
        return file.read(frame_length(file.read(4)))
