"""The process that knows a vocabulary, and its copies, in each of which one chain chooses tokens.

`apart.py` is its other side. It has one thread, so that a copy of it can do all that it can.
"""

import contextlib
import ctypes
import mmap
import os
import resource
import signal
import socket
import sys
from array import array
from collections.abc import Callable

import msgspec
import numpy as np

from tollway.providers.llamacpp.apart import (
    ANSWERED,
    ASKED,
    BEGUN,
    FAILED,
    LENGTH,
    NO_TOKEN,
    Wanted,
)
from tollway.providers.llamacpp.native import GrammarFailed, NativeFailed
from tollway.providers.llamacpp.samplers import Chain, Samplers

PR_SET_PDEATHSIG = 1
_BYTES = 2 * 2**30  # of memory: a grammar that takes more ends its process


def serve(link: socket.socket, samplers: Samplers) -> None:
    """Make a copy of this process for each chain that is wanted, until the link ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    link.sendall(b"\1")
    while True:
        head, files, *_ = socket.recv_fds(link, LENGTH.size, 2)
        if not head:
            return
        wanted = msgspec.msgpack.decode(_exactly(link, *LENGTH.unpack(head)), type=Wanted)
        _in_a_copy(lambda: _live(link, files, wanted, samplers))  # noqa: B023 - run at once
        for file in files:
            os.close(file)


def _in_a_copy(work: Callable[[], None]) -> None:
    parent = os.getpid()
    try:
        if os.fork():
            return
    except OSError:
        return  # whoever wants the chain finds its link closed
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:  # else it died before prctl: no signal will come any more
            work()
    finally:
        os._exit(0)


def _live(parent: socket.socket, files: list[int], wanted: Wanted, samplers: Samplers) -> None:
    """Choose tokens until nobody asks for more."""
    parent.close()
    with contextlib.suppress(ValueError, OSError):  # not everywhere can it be set
        resource.setrlimit(resource.RLIMIT_DATA, (_BYTES, _BYTES))
    link = socket.socket(fileno=files[0])
    logits = np.frombuffer(mmap.mmap(files[1], 0), np.float32)
    link.sendall(ANSWERED.pack(BEGUN))
    if wanted.trial:
        with _Limited(wanted.token_s), contextlib.suppress(NativeFailed):  # the call is told why
            samplers.begin_by(wanted.grammar)
        link.sendall(ANSWERED.pack(0))
        return
    chain: Chain | None = None
    while asked := _exactly(link, ASKED.size):
        held, count = ASKED.unpack(asked)
        seen = array("i", _exactly(link, count * ANSWERED.size))
        try:
            with _Limited(wanted.token_s):
                chain = chain or samplers.chain(wanted.sampling, wanted.seed, wanted.grammar)
                for token in seen:
                    chain.accept(token)
                chain.held = held
                answer = chain.choose(logits)
        except GrammarFailed:
            answer = NO_TOKEN
        except NativeFailed:
            answer = FAILED
        link.sendall(ANSWERED.pack(answer))


class _Limited:
    """Bounds the seconds of CPU that are used within it: what takes more ends the process."""

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s

    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, self._most_s)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _exactly(link: socket.socket, count: int) -> bytes:
    """Return so many bytes, none where the other side is gone."""
    data = link.recv(count, socket.MSG_WAITALL) if count else b""
    return data if len(data) == count else b""
