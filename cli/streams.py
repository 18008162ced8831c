"""Standard streams that are not as a shell gives them: closed, or left by who read them."""

import os
import sys
from collections.abc import Iterable


def open_closed() -> None:
    """Have /dev/null stand for each standard stream that is closed.

    Python has None in its place, and what is opened next would get its number: what a program
    that we start says would be written into the ledger, or to the daemon.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _to_null(number)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8"))


def talk(lines: Iterable[str]) -> None:
    """Print lines on stderr. That nobody reads there changes nothing of what is done."""
    try:
        for line in lines:
            print(line, file=sys.stderr, flush=True)
    except OSError:  # such as a pipe into `head`, a terminal that was closed, a full disk
        _to_null(sys.stderr.fileno())  # else Python ends with 120, as it cannot flush


def _to_null(number: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, number)  # which a program that we start has too
    if null != number:
        os.close(null)
    os.set_inheritable(number, True)
