"""A program that has the terminal to itself: its signals, its stops, its exit code."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

# What somebody may send to this process and mean the program. Ctrl-C and Ctrl-\ at a terminal go
# to both of themselves, so they are passed on only when a process sent them.
_PASSED_ON = frozenset(
    {
        *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM),
        *(signal.SIGUSR1, signal.SIGUSR2),
    }
)
_AWAITED = _PASSED_ON | {signal.SIGCHLD}
# Python ignores these, and what it starts would too.
_TO_DEFAULT = (signal.SIGPIPE, signal.SIGXFSZ)


@contextmanager
def signals_held() -> Iterator[None]:
    """Keep signals waiting for `child` to look at them, and from ending the block early."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    try:
        yield
    finally:
        while signal.sigtimedwait(_AWAITED, 0):
            pass  # what came behind the program's end was meant for it
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def child(
    program: str,
    words: tuple[str, ...],
    env: Mapping[str, str],
    beat: Callable[[], None],
    every_s: float,
) -> int:
    """Run a program in the foreground and return its exit code, 128 + N where signal N ended it.

    To be called within `signals_held`. `beat` is called every so often while it runs.

    Raises:
        OSError: It cannot be started.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ()) - _AWAITED
    pid = os.posix_spawn(program, words, env, setsigmask=mask, setsigdef=_TO_DEFAULT)
    due_s = time.monotonic() + every_s
    while True:
        info = signal.sigtimedwait(_AWAITED, max(0.0, due_s - time.monotonic()))
        if info is None:
            beat()
            due_s = time.monotonic() + every_s
        elif info.si_signo != signal.SIGCHLD:
            if info.si_code <= 0:  # from a process: the kernel's own are above
                os.kill(pid, info.si_signo)
        elif (code := _ended(pid)) is not None:
            return code


def _ended(pid: int) -> int | None:
    """Return the exit code of a program that has ended, None where it runs on or was stopped."""
    found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
    if not found:
        return None
    if os.WIFSTOPPED(status):
        # At a terminal it stopped itself: so do we, that the shell gets it back until `fg`.
        # Elsewhere nobody would let us go on: whoever stops all processes for a while and has
        # us go on first would leave us standing for ever.
        if _at_terminal(pid):
            # Not SIGSTOP: the kernel lets this one go where no shell could say `fg`.
            os.kill(os.getpid(), signal.SIGTSTP)
            os.kill(pid, signal.SIGCONT)
        return None
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _at_terminal(pid: int) -> bool:
    """Whether we, or the program, are what a terminal's shell waits for."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) in {os.getpgrp(), os.getpgid(pid)}
    except OSError:
        return False
    finally:
        os.close(terminal)
