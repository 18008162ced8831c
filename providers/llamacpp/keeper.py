"""The process between the daemon and a command: nothing of the command outlives the daemon.

Started as `python -m tollway.providers.llamacpp.keeper FD GRACE -- PROGRAM ARGUMENT...` at the
head of a process group of its own. FD is a pipe whose other end only the daemon has: when that
closes, by a stop or by the daemon's death, the command's whole group is asked to end, and killed
after GRACE seconds. It imports nothing of ours, so that it is small.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

_CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children")
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main() -> int:
    """Run the command until it ends or must; return its exit code, 128 and more for a signal."""
    link, grace_s, words = int(sys.argv[1]), float(sys.argv[2]), sys.argv[4:]
    os.set_inheritable(link, False)
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # for the command alone; a handler is not inherited

    def die_with_us() -> None:
        if libc:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    try:
        command = subprocess.Popen(  # noqa: S603 - no shell, and what the owner wrote
            words,
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_us,  # noqa: PLW1509 - there is no thread yet
        )
    except OSError as fault:
        print(f"{words[0]}: {fault.strerror}", file=sys.stderr, flush=True)
        return 127
    threading.Thread(target=_end_with, args=(link, grace_s, command), daemon=True).start()
    code = command.wait()
    _finish()
    return code if code >= 0 else 128 - code


def _end_with(link: int, grace_s: float, command: "subprocess.Popen[bytes]") -> None:
    """Wait for the end of the link, then end the command: kindly first.

    What it leaves behind is for `_finish`, which must run: to kill the whole group, ourselves in
    it, spares who has left the group.
    """
    select.select([link], [], [])
    with contextlib.suppress(OSError):
        os.killpg(0, signal.SIGTERM)
    try:
        command.wait(grace_s)
    except subprocess.TimeoutExpired:
        command.kill()
    if sys.platform != "linux":
        with contextlib.suppress(OSError):
            os.killpg(0, signal.SIGKILL)  # ourselves too: nobody tells us whose parent has ended


def _finish() -> None:
    """End what the command left behind: a server's helpers hold memory, and the port."""
    while children := _children():
        for child in children:
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
        for child in children:
            with contextlib.suppress(OSError):
                os.waitpid(child, 0)  # its own children are ours then


def _children() -> list[int]:
    """Return our children: of the command's, those whose parents have ended came to us."""
    found = []
    with contextlib.suppress(OSError):
        found = [int(word) for word in _CHILDREN.read_text().split()]
    return found


if __name__ == "__main__":
    sys.exit(main())
