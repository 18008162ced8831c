"""Chains of samplers in processes of their own, for grammars that callers wrote.

llama.cpp can be killed or frozen by a grammar, and nothing ends a call of it but the end of its
process. So the worker starts a second process that knows the vocabulary alone, and that makes a
copy of itself for each such chain. A copy is given a step's output in memory that both see, says
which token it chose, and is ended by the system where one token takes it too long. The other
answers go on meanwhile: see `native.Late`.
"""

import contextlib
import mmap
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from array import array
from typing import IO

import msgspec
import numpy as np
import numpy.typing as npt

from tollway.providers.llamacpp.frames import Sampling
from tollway.providers.llamacpp.native import GrammarFailed, GrammarTooSlow, NativeFailed

Floats = npt.NDArray[np.float32]

# What goes to a chain: whether its grammar binds already, and how many tokens of the prompt follow
# that its penalties should know. What comes back: a token, or one of these.
ASKED = struct.Struct("=?I")
ANSWERED = struct.Struct("=i")
BEGUN, NO_TOKEN, FAILED = -1, -2, -3
LENGTH = struct.Struct("=I")
_START_S = 60.0  # for the process that knows the vocabulary
# It needs no GPU; one that is only looked at takes hundreds of megabytes of its memory.
_NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "GGML_VK_VISIBLE_DEVICES": ""}


class Wanted(msgspec.Struct, frozen=True):
    """A chain to make, which ends with its process where a token takes `token_s` of CPU.

    For a `trial`, its grammar is only tried out, in as much.
    """

    grammar: str
    sampling: Sampling = Sampling()
    seed: int | None = None
    trial: bool = False
    token_s: float = 2.0


class ApartChain:
    """A chain in a process of its own. See `native.Chain`."""

    def __init__(self, link: socket.socket, room: mmap.mmap) -> None:
        self.held = True
        self.logits: Floats = np.frombuffer(room, np.float32)
        self._link = link
        self._begun = False
        self._seen = array("i")  # tokens of the prompt that it has not been told of

    def accept(self, token: int) -> None:
        """See `native.Chain`."""
        self._seen.append(token)

    def free(self) -> None:
        """See `native.Chain`. Its process ends by itself, soon."""
        self._link.close()

    def ask(self, logits: Floats) -> None:
        """Have it choose a token; `answer` tells which."""
        self.logits[:] = logits
        with contextlib.suppress(OSError):  # it is gone, which `answer` will find
            self._link.sendall(ASKED.pack(self.held, len(self._seen)) + self._seen.tobytes())
        self._seen = array("i")

    def answer(self, wait_s: float) -> int | None:
        """Return the token, None where it has not been chosen within so many seconds.

        Raises:
            GrammarTooSlow: The grammar took too long, or ended the process.
            GrammarFailed: The grammar allows no token.
            NativeFailed: No token is possible, or there is no process.
        """
        self._link.settimeout(wait_s)
        try:
            data = self._link.recv(ANSWERED.size, socket.MSG_WAITALL)
        except (TimeoutError, BlockingIOError):
            return None
        except OSError:
            data = b""
        if len(data) < ANSWERED.size:
            if self._begun:
                raise GrammarTooSlow("the grammar takes too long, or more memory than there is")
            raise NativeFailed("there is no process for the grammar")
        (found,) = ANSWERED.unpack(data)
        if found == BEGUN:
            self._begun = True
            return self.answer(wait_s)
        if found == NO_TOKEN:
            raise GrammarFailed("the grammar allows no token here")
        if found == FAILED:
            raise NativeFailed("no token was chosen")
        return int(found)


class Apart:
    """Starts chains in processes of their own, for a model's vocabulary."""

    def __init__(self, path: str, version: str, vocabulary: int) -> None:
        self._command = [
            sys.executable, "-P", "-m", "tollway.providers.llamacpp.child",
        ]  # fmt: skip
        self._model = [path, version]
        self._room = vocabulary * np.dtype(np.float32).itemsize
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._turn = threading.Lock()

    def chain(self, wanted: Wanted) -> ApartChain:
        """Return a chain; that its process cannot be had, its first `answer` tells.

        Raises:
            NativeFailed: The process that makes them cannot be started.
        """
        with _shared() as file:
            file.truncate(self._room)
            room = mmap.mmap(file.fileno(), self._room)
            ours, its = socket.socketpair()
            with its, contextlib.ExitStack() as in_vain:
                in_vain.callback(ours.close)
                self._hand_over(wanted, [its.fileno(), file.fileno()])
                in_vain.pop_all()
        return ApartChain(ours, room)

    def bears(self, grammar: str) -> bool:
        """See `native.Native`.

        Raises:
            NativeFailed: There is no process to try it in.
        """
        chain = self.chain(Wanted(grammar, trial=True))
        try:
            chain.answer(_START_S)
        except GrammarFailed:
            return False
        finally:
            chain.free()
        return True

    def close(self) -> None:
        """End the process that makes chains; those that it made end with their calls."""
        with self._turn:
            self._end()

    def _hand_over(self, wanted: Wanted, files: list[int]) -> None:
        body = msgspec.msgpack.encode(wanted)
        with self._turn:
            for again in (True, False):
                link = self._link or self._start()
                try:
                    socket.send_fds(link, [LENGTH.pack(len(body))], files)
                    link.sendall(body)
                except OSError as fault:
                    self._end()
                    if not again:
                        raise NativeFailed("the process for grammars has ended") from fault
                else:
                    return

    def _start(self) -> socket.socket:
        ours, its = socket.socketpair()
        with its:
            words = [*self._command, str(its.fileno()), str(os.getpid()), *self._model]
            self._process = subprocess.Popen(  # noqa: S603 - ourselves, without a shell
                words,
                pass_fds=(its.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, **_NO_GPU},
            )
        self._link = ours
        ours.settimeout(_START_S)
        try:
            ready = ours.recv(1)
        except OSError:
            ready = b""
        if not ready:
            self._end()
            raise NativeFailed("the process for grammars cannot be started")
        ours.settimeout(None)
        return ours

    def _end(self) -> None:
        if self._link:
            self._link.close()
            self._link = None
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


def _shared() -> IO[bytes]:
    """Return a file without a name: in memory, where there are such."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("logits"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
