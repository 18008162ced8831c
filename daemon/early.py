"""Being told to stop in the second in which the daemon is imported and reads its file.

Ctrl-C ends it without a word and with the exit code that shells expect, SIGTERM with 0 as later.
From a program that becomes the daemon on, no moment is left in which Python itself would hear of
it and show a traceback: the signals are held, and wait for the daemon's first lines.
"""

import os
import signal
from types import FrameType

_CODES = {signal.SIGINT: 130, signal.SIGTERM: 0}
SIGNALS = tuple(_CODES)


class StoppedEarly(Exception):
    """The daemon was told to stop before it served; `code` is its exit code."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)
        self.code = _CODES[number]


def hold() -> None:
    """Keep the signals back until the program that this process becomes takes them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (*SIGNALS, signal.SIGHUP))


def take(*, looks: bool = False) -> None:
    """End the process when it is told to stop, or was while they were held.

    Where it only `looks` whether a daemon could serve, 0 would say yes: SIGTERM ends it as any
    program.
    """
    for number in SIGNALS:
        # A background job of a shell's script ignores Ctrl-C.
        if signal.getsignal(number) is not signal.SIG_IGN and not (
            looks and number is signal.SIGTERM
        ):
            signal.signal(number, _end)
    if not looks:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def take_reloads() -> None:
    """Let SIGHUP come, or come now where it was held: somebody listens to it."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP,))


def _end(number: int, _frame: FrameType | None) -> None:
    # At once: an exception in the middle of an import is swallowed there, or shown. Nothing has
    # been begun that a kill could not end as well.
    os._exit(_CODES[signal.Signals(number)])
