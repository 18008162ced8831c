"""Runs the real `tollway` in a home of its own, and stops what it started."""

import atexit
import contextlib
import fcntl
import functools
import json
import os
import pty
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

NO_KEYRING = "keyring.backends.fail.Keyring"
PATIENCE_S = 100.0
# What the interpreter reads when it starts, and so means nothing to a fork.
INTERPRETERS_OWN = ("PYTHON", "LANG", "LC_", "COVERAGE")


class Home:
    """A person's home folder with nothing of the test's own environment in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / ".config/tollway/gateway.toml"
        self.data = path / ".local/share/tollway"
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(path),
            # The socket of a ledger with a long path is there.
            "TMPDIR": tempfile.gettempdir(),
            # No test may write to the keyring of whoever runs it.
            "PYTHON_KEYRING_BACKEND": NO_KEYRING,
        }

    def write(self, text: str) -> None:
        """Write gateway.toml."""
        self.config.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.config.write_text(text)
        self.config.chmod(0o600)

    def tollway(
        self, *words: str, stdin: str = "", fresh: bool = False, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the program and return what it said.

        It is a process of its own either way; with `fresh` its interpreter is new as well, as a
        test needs that asks what the program imports or how it starts.
        """
        return run(*words, env={**self.env, **env}, cwd=self.path, stdin=stdin, fresh=fresh)

    def on_terminal(
        self, *words: str, columns: int = 60, typed: str = "", **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the program on a terminal of that width; return all that it wrote there.

        What is `typed` waits in the terminal from the start, and is shown where it stands.
        """
        env = {"TERM": "xterm-256color", **self.env, **env}
        return fork_server().run_on_terminal(words, env, self.path, columns, typed)


def run(
    *words: str, env: dict[str, str], cwd: Path, stdin: str = "", fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run the program with this environment, in this folder, and return what it said."""
    own = [name for name in env if name.startswith(INTERPRETERS_OWN)]
    if not fresh and own in ([], ["PYTHON_KEYRING_BACKEND"]):
        return fork_server().run(words, env, cwd, stdin)
    return subprocess.run(
        [sys.executable, "-m", "tollway.cli", *words],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=env,
        timeout=PATIENCE_S,
    )


class ForkServer:
    """A process that has imported the program, and forks for each run of it."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # Pipes, as its forks have: what Python decides about its streams, it decides here.
            self._popen = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("fork_server.py")),
                 str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, env={"PATH": os.environ["PATH"]},
            )  # fmt: skip
        if self._control.recv(16) != b"ready\n":
            _, why = self._popen.communicate()
            raise RuntimeError(f"The program cannot be imported: {why.decode()}")
        atexit.register(self.close)

    def close(self) -> int:
        """Let it end, and return its exit code."""
        atexit.unregister(self.close)
        self._control.close()
        self._popen.communicate(timeout=PATIENCE_S)
        return self._popen.returncode

    def children(self) -> list[int]:
        """Return the processes that run now."""
        pid = self._popen.pid
        return [int(pid) for pid in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def run(
        self, words: tuple[str, ...], env: dict[str, str], cwd: Path, stdin: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the program in a fork; return what it said."""
        (reading, ours), (out, writing), (err, complaining) = (os.pipe() for _ in range(3))
        with self._forked(words, env, cwd, [reading, writing, complaining]) as (pid, lines):
            try:
                said = talk(ours, stdin.encode(), out, err)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise
            code = int(lines.readline())
        return _done(words, code, said[0], said[1])

    def run_on_terminal(
        self, words: tuple[str, ...], env: dict[str, str], cwd: Path, columns: int, typed: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the program in a fork with a terminal for all its streams; return what that got."""
        ours, theirs = pty.openpty()
        os.write(ours, typed.encode())
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        said = b""
        with self._forked(words, env, cwd, [theirs, os.dup(theirs), os.dup(theirs)]) as (_, lines):
            try:
                while select.select([ours], [], [], PATIENCE_S)[0]:
                    said += os.read(ours, 65536)
            except OSError:  # the last one that had it open has gone
                code = int(lines.readline())
            finally:
                os.close(ours)
        return _done(words, code, said.decode().replace("\r\n", "\n"), "")

    @contextlib.contextmanager
    def _forked(
        self, words: tuple[str, ...], env: dict[str, str], cwd: Path, fds: list[int]
    ) -> Iterator[tuple[int, BinaryIO]]:
        """Yield a fork's pid, and what tells its exit code; it has `fds`, which are closed here."""
        message = json.dumps({"words": words, "env": env, "cwd": os.path.abspath(cwd)}).encode()
        answers, theirs = socket.socketpair()
        with theirs, answers.makefile("rb") as lines, answers:
            try:
                socket.send_fds(self._control, [message], [*fds, theirs.fileno()])
            finally:
                for fd in fds:
                    os.close(fd)
            theirs.close()
            yield int(lines.readline()), lines


def _done(
    words: tuple[str, ...], code: int, out: str, err: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess(
        [sys.executable, "-m", "tollway.cli", *words], code, out, err
    )


def talk(into: int, text: bytes, out: int, err: int) -> tuple[str, str]:
    """Write `text` to one pipe and read two others to their ends; all are closed then.

    Raises:
        TimeoutError: They did not end in time.
    """
    ends = time.monotonic() + PATIENCE_S
    said = {out: b"", err: b""}
    with selectors.DefaultSelector() as selector:
        try:
            selector.register(into, selectors.EVENT_WRITE)
            selector.register(out, selectors.EVENT_READ)
            selector.register(err, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(ends - time.monotonic())
                if not ready:
                    raise TimeoutError(f"The program has not ended after {PATIENCE_S:.0f} s")
                for key, _ in ready:
                    if key.fd == into:
                        text = _write(into, text)
                        ended = not text
                    else:
                        piece = os.read(key.fd, 65536)
                        said[key.fd] += piece
                        ended = not piece
                    if ended:
                        selector.unregister(key.fd)
                        os.close(key.fd)
        finally:
            for key in list(selector.get_map().values()):
                os.close(key.fd)
    # As text files read them: "\r\n" is one line's end.
    first, second = (text.decode().replace("\r\n", "\n") for text in said.values())
    return first, second


def _write(fd: int, text: bytes) -> bytes:
    """Write what fits, and return the rest; nobody may want any of it."""
    try:
        return text[os.write(fd, text[:4096]) :]
    except BrokenPipeError:
        return b""


@functools.cache
def fork_server() -> ForkServer:
    """Return the one server of this test process."""
    return ForkServer()
