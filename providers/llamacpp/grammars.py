"""The process that knows a vocabulary, and its copies, in each of which one grammar judges tokens.

`apart.py` is its other side. It has one thread, so that a copy of it can do all that it can.
"""

import contextlib
import ctypes
import mmap
import os
import resource
import select
import signal
import socket
import sys
import time
from array import array
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tollway.providers.llamacpp.apart import (
    ALLOWED,
    ANSWERED,
    ASKED,
    FAILED,
    LENGTH,
    MASKED,
    NO_TOKEN,
    TOKEN_BYTES,
    TOO_MUCH,
    Wanted,
)
from tollway.providers.llamacpp.native import GrammarFailed, NativeFailed
from tollway.providers.llamacpp.samplers import CANDIDATE, apply

PR_SET_PDEATHSIG = 1
_BYTES = 2 * 2**30  # of memory: a grammar that takes more ends its process
# Of stack, for a trial: as little as a thread has anywhere, for the worker's compile the same.
_TRIAL_STACK = 2**20
# How a process ends that takes too long, too much stack or too much memory. Any other end of it,
# as by the system when there is no memory left for anybody, says nothing of its grammar.
_ITS_OWN_ENDS = {signal.SIGPROF, signal.SIGSEGV, signal.SIGABRT}
_AT_ONCE = 4096  # tokens: llama.cpp takes up to 300 bytes for each that it looks at
# Of the first tokens by a grammar that is tried, so many in any case, and more while they cost
# little, for what makes it slow may stand behind what does not.
_TRIAL_TOKENS = 4
_MORE_S = 0.3
_MORE_TOKENS = 256

Mask = npt.NDArray[np.bool_]


class Vocabulary:
    """A model's tokens, for the grammars of this process."""

    def __init__(self, llama: Any, vocab: Any) -> None:
        self.llama = llama
        self.vocab = vocab
        self.size = int(llama.llama_vocab_n_tokens(vocab))

    def ends(self) -> Mask:
        """Return which tokens end an answer."""
        is_end = self.llama.llama_vocab_is_eog
        return np.array([is_end(self.vocab, token) for token in range(self.size)], np.bool_)


class Grammar:
    """A grammar, and where it stands. It ends with its process."""

    def __init__(self, words: Vocabulary, grammar: str) -> None:
        """Compile a grammar.

        Raises:
            NativeFailed: llama.cpp does not understand it.
        """
        self._words = words
        self._sampler = words.llama.llama_sampler_init_grammar(
            words.vocab, grammar.encode(), b"root"
        )
        if not self._sampler:
            raise NativeFailed("llama.cpp does not understand the grammar")

    def judge(self, token: int, mask: Mask) -> int:
        """Accept a token and return ALLOWED; where it may not be, say in `mask` which may: MASKED.

        What was chosen is nearly always allowed; asking for one token is cheap, for all dear.

        Raises:
            GrammarFailed: None may be.
        """
        if self.allows(token):
            self.accept(token)
            return ALLOWED
        mask[:] = self.allowed()
        if not mask.any():
            raise GrammarFailed("the grammar allows no token here")
        return MASKED

    def allows(self, token: int) -> bool:
        """Return whether a token may come next."""
        one = np.array([(token, 1.0, 0.0)], CANDIDATE)
        apply(self._words.llama, self._sampler, one)
        return bool(np.isfinite(one["logit"][0]))

    def allowed(self) -> Mask:
        """Return which tokens may come next."""
        found = np.zeros(self._words.size, np.bool_)
        for start in range(0, self._words.size, _AT_ONCE):
            tokens = np.arange(start, min(start + _AT_ONCE, self._words.size), dtype=np.int32)
            data = np.zeros(len(tokens), CANDIDATE)
            data["id"] = tokens
            apply(self._words.llama, self._sampler, data)
            found[data["id"]] = np.isfinite(data["logit"])
        return found

    def accept(self, token: int) -> None:
        """Take a token that may come next; any other would end the process."""
        self._words.llama.llama_sampler_accept(self._sampler, token)


def serve(link: socket.socket, words: Vocabulary) -> None:
    """Make a copy of this process for each grammar that is wanted, until the link ends."""
    copies = _Copies()
    while True:
        if not copies.wait(link):
            continue
        head, files, *_ = socket.recv_fds(link, LENGTH.size, 2)
        if not head:
            return
        its = socket.socket(fileno=files[0])
        length = LENGTH.unpack(head)[0]
        copies.make(its, lambda: _live(link, its, files[1], length, words))  # noqa: B023 - at once
        os.close(files[1])


class _Copies:
    """The copies of this process, and their links, by which it tells how they ended."""

    def __init__(self) -> None:
        self._ends, wakes = socket.socketpair()  # can be read from when a copy has ended
        for one in (self._ends, wakes):
            one.setblocking(False)
        self._wakes = wakes
        self._links: dict[int, socket.socket] = {}
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)

    def make(self, link: socket.socket, work: Callable[[], None]) -> None:
        """Have a copy do some work; where there is none, its link is closed."""
        parent = os.getpid()
        try:
            if child := os.fork():
                self._links[child] = link
                return
        except OSError:
            link.close()
            return
        try:
            if sys.platform == "linux":
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == parent:  # else it died before prctl: no signal will come any more
                self._forget()
                work()
        except MemoryError:
            os.abort()
        finally:
            os._exit(0)

    def wait(self, link: socket.socket) -> bool:
        """Wait for whatever happens first; return whether there is something to read in a link.

        A copy that nobody waits for any more is ended: it may be busy for seconds to come.
        """
        looked = select.poll()
        for one in (link, self._ends):
            looked.register(one, select.POLLIN)
        nobodys = {one.fileno(): child for child, one in self._links.items()}
        for file in nobodys:
            looked.register(file, 0)  # told of is only that its other side is closed
        found = {file for file, _ in looked.poll()}
        for file in found & nobodys.keys():
            os.kill(nobodys[file], signal.SIGKILL)  # not buried yet, so it is nobody else
            self._links.pop(nobodys[file]).close()
        self._bury()
        return link.fileno() in found

    def _bury(self) -> None:
        """Tell of those that ended themselves; close the links of all that have ended."""
        with contextlib.suppress(BlockingIOError):
            self._ends.recv(4096)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if link := self._links.pop(ended[0], None):
                    with link, contextlib.suppress(OSError):
                        if os.WIFSIGNALED(ended[1]) and os.WTERMSIG(ended[1]) in _ITS_OWN_ENDS:
                            link.sendall(ANSWERED.pack(TOO_MUCH))

    def _forget(self) -> None:
        """Close, in a copy, what is its parent's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for one in (self._ends, self._wakes, *self._links.values()):
            one.close()


def _live(
    parent: socket.socket, link: socket.socket, file: int, length: int, words: Vocabulary
) -> None:
    """Judge tokens until nobody asks for more."""
    parent.close()
    wanted = msgspec.msgpack.decode(os.pread(file, length, words.size), type=Wanted)
    with contextlib.suppress(ValueError, OSError):  # not everywhere can it be set
        resource.setrlimit(resource.RLIMIT_DATA, (_BYTES, _BYTES))
    if wanted.trial:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_STACK, (_TRIAL_STACK, _TRIAL_STACK))
    mask = np.frombuffer(mmap.mmap(file, words.size), np.bool_)
    try:
        with _Limited(wanted.token_s):
            grammar = Grammar(words, wanted.grammar)
            if wanted.trial:
                _try_out(grammar, words.ends())
                link.sendall(ANSWERED.pack(ALLOWED))
                return
    except NativeFailed:  # the call itself is told why
        link.sendall(ANSWERED.pack(ALLOWED if wanted.trial else FAILED))
        return
    while asked := _exactly(link, ASKED.size):
        count = ASKED.unpack(asked)[0]
        *told, last = array("i", _exactly(link, count * TOKEN_BYTES))
        try:
            with _Limited(wanted.token_s):
                for token in told:
                    grammar.accept(token)
                answer = grammar.judge(last, mask)
        except GrammarFailed:
            answer = NO_TOKEN
        link.sendall(ANSWERED.pack(answer))


def _try_out(grammar: Grammar, ends: Mask) -> None:
    """Take the first tokens that a grammar allows."""
    token = -1
    for at in range(_MORE_TOKENS):
        if at >= _TRIAL_TOKENS and time.process_time() > _MORE_S:
            return
        if token < 0 or not grammar.allows(token):
            going_on = grammar.allowed() & ~ends
            if not going_on.any():
                return
            token = int(going_on.argmax())
        grammar.accept(token)


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
