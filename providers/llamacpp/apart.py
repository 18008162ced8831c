"""Work that may kill its process or never end, done in a process of its own."""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
_WALL_S = 60  # should it wait for something that no thread of it will ever do
_FILES = 65_536  # more than a worker ever has open


def survives(work: Callable[[], object], cpu_s: int) -> bool:
    """Return whether `work` ends within so many seconds of CPU, and does not end its process.

    What it returns or raises is lost: it is done in a copy of this process, which the system stops.
    The copy holds no file of ours, and dies with the thread that asked. Else a process that dies
    meanwhile would be heard of only once its copy has ended too.
    """
    # Looked for here: a copy that was made while another thread loads a library never could.
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    parent = os.getpid()
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) >= 0
    try:
        os.closerange(0, _FILES)
        if prctl:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:  # else it died before prctl: no signal will come any more
            signal.alarm(_WALL_S)
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
            work()
    finally:
        os._exit(0)
