"""Grammars in processes of their own, each of which judges one choice's tokens.

llama.cpp can be killed or frozen by a grammar, be it written by a caller or made of its schema, and
nothing ends a call of it but the end of its process. So the worker starts a second process, which
knows the vocabulary alone and makes a copy of itself for each grammar: see `grammars.py`. A copy
that takes too long for one token is ended by the system; the other answers go on meanwhile: see
`native.Late`.
"""

import contextlib
import mmap
import os
import re
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

from tollway.providers.llamacpp.native import (
    GrammarFailed,
    GrammarLost,
    GrammarTooSlow,
    NativeFailed,
)

# What goes to a grammar: of the tokens that follow, the last one is to be judged, the others it
# must accept. What comes back: one of the words below.
ASKED = struct.Struct("=I")
ANSWERED = struct.Struct("=B")
ALLOWED, MASKED, NO_TOKEN, FAILED, TOO_MUCH = range(5)
TOKEN_BYTES = 4
LENGTH = struct.Struct("=I")  # of what is wanted, which stands behind the mask in its file
_TRIAL_S = 60.0  # on a loaded box: of CPU a trial has much less
# It needs no GPU; one that is only looked at takes hundreds of megabytes of its memory.
_NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "GGML_VK_VISIBLE_DEVICES": ""}
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")  # llama.cpp makes the others' names of its own


class Wanted(msgspec.Struct, frozen=True):
    """A grammar to judge by, which ends with its process where a token takes `token_s` of CPU.

    For a `trial` it is only tried out, in as much.
    """

    grammar: str
    trial: bool = False
    token_s: float = 2.0


class ApartGrammar:
    """A grammar in a process of its own, and where it stands in one answer."""

    def __init__(self, link: socket.socket, room: mmap.mmap) -> None:
        self.mask: npt.NDArray[np.bool_] = np.frombuffer(room, np.bool_)  # what it allows, by token
        self._link = link
        self._untold = array("i")

    def ask(self, token: int) -> None:
        """Have it judge a token, and accept it if it may be; `answer` tells."""
        tokens = array("i", [*self._untold, token])
        with contextlib.suppress(OSError):  # it is gone, which `answer` will find
            self._link.sendall(ASKED.pack(len(tokens)) + tokens.tobytes())
        self._untold = array("i")

    def answer(self, wait_s: float) -> bool | None:
        """Return whether it accepted the token; if not, `mask` tells which it allows.

        None where that is not known within so many seconds.

        Raises:
            GrammarTooSlow: It took too long, or ended its process.
            GrammarFailed: It allows no token.
            GrammarLost: There is no process, or somebody else ended it.
            NativeFailed: llama.cpp does not understand it.
        """
        self._link.settimeout(wait_s)
        try:
            data = self._link.recv(ANSWERED.size)
        except (TimeoutError, BlockingIOError):
            return None
        except OSError:
            data = b""
        if not data:
            raise GrammarLost("there is no process for the grammar, or it was killed")
        found = ANSWERED.unpack(data)[0]
        if found == TOO_MUCH:
            raise GrammarTooSlow("the grammar takes too long, or more memory than there is")
        if found == NO_TOKEN:
            raise GrammarFailed("the grammar allows no token here")
        if found == FAILED:
            raise NativeFailed("llama.cpp does not understand the grammar")
        return bool(found == ALLOWED)

    def accept(self, token: int) -> None:
        """Have it accept a token that it allows, before the next one is judged."""
        self._untold.append(token)

    def free(self) -> None:
        """Let it go; its process ends by itself, soon."""
        self._link.close()


class Apart:
    """Starts grammars in processes of their own, for a model's vocabulary."""

    def __init__(self, path: str, version: str, vocabulary: int) -> None:
        self._path = path
        self._version = version
        # It may be gone, or another's, when it is needed: this process serves on what it loaded.
        self._file = _opened(path)
        self._vocabulary = vocabulary
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._turn = threading.Lock()

    def grammar(self, wanted: Wanted) -> ApartGrammar:
        """Return a grammar; that its process cannot be had, its first `answer` tells.

        Raises:
            GrammarLost: The process that makes them cannot be started, or there is no file for it.
        """
        body = msgspec.msgpack.encode(wanted)
        try:
            return self._made(body)
        except OSError as fault:  # out of files or memory: this answer's end, and no other's
            raise GrammarLost(f"there is no room for a grammar: {fault.strerror}") from fault

    def _made(self, body: bytes) -> ApartGrammar:
        with _shared() as file:
            file.truncate(self._vocabulary)
            # Not through the link: one that starts still, or was stopped, would be waited for.
            file.seek(self._vocabulary)
            file.write(body)
            room = mmap.mmap(file.fileno(), self._vocabulary)
            ours, its = socket.socketpair()
            with its, contextlib.ExitStack() as in_vain:
                in_vain.callback(ours.close)
                self._hand_over(len(body), [its.fileno(), file.fileno()])
                in_vain.pop_all()
        return ApartGrammar(ours, room)

    def bears(self, grammar: str) -> bool:
        """See `native.Native`."""
        tried = self.grammar(Wanted(grammar, trial=True))
        try:
            tried.answer(_TRIAL_S)
        except GrammarFailed:
            return False
        finally:
            tried.free()
        return True

    def close(self) -> None:
        """End the process that makes grammars; those that it made end with their answers."""
        with self._turn:
            self._end()
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _hand_over(self, length: int, files: list[int]) -> None:
        with self._turn:
            for again in (True, False):
                link = self._link or self._start()
                try:
                    socket.send_fds(link, [LENGTH.pack(length)], files)
                except OSError as fault:
                    self._end()
                    if not again:
                        raise GrammarLost("the process for grammars has ended") from fault
                else:
                    return

    def _start(self) -> socket.socket:
        """Start the process that makes grammars; what is sent to it waits until it can."""
        ours, its = socket.socketpair()
        module = "tollway.providers.llamacpp.child"
        words = [sys.executable, "-P", "-m", module, str(its.fileno()), str(os.getpid())]
        path, files = self._path, [its.fileno()]
        if self._file is not None:
            path = f"/proc/self/fd/{self._file}"
            files.append(self._file)
        with its:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - ourselves, without a shell
                    [*words, path, self._version],
                    pass_fds=files,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **_NO_GPU},
                )
            except OSError as fault:
                ours.close()
                raise GrammarLost("the process for grammars cannot be started") from fault
        self._link = ours
        return ours

    def _end(self) -> None:
        if self._link:
            self._link.close()
            self._link = None
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


def _opened(path: str) -> int | None:
    """Return an open model, None where it must be opened by its name to be read."""
    if sys.platform != "linux" or _PART.search(path):
        return None
    try:
        return os.open(path, os.O_RDONLY)
    except OSError:
        return None


def _shared() -> IO[bytes]:
    """Return a file without a name: in memory, where there are such."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("mask"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
