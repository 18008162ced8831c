"""Ctrl-C in the moments in which the program is imported, before the boundary stands."""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

_INTERRUPTED = 130  # as in the boundary, whose import takes a part of these moments


def take_signals() -> None:
    """Have Ctrl-C end the process without a word; nothing has been begun that could be lost.

    SIGTERM too, with 0, where the process is to become the daemon, which ends so later.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
    if _is_serve(sys.argv[1:]) and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _stopped)


def give_back() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again: the boundary stands and shows it."""
    if signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_serve(words: Sequence[str]) -> bool:
    left = iter(words)
    for word in left:
        if word == "--config":
            next(left, None)
        elif not word.startswith("-"):
            return word == "serve"
    return False


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    # At once: an exception in the middle of an import is swallowed there, or shown.
    os._exit(_INTERRUPTED)


def _stopped(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)
