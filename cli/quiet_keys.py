"""Keys that are pressed while something is drawn are not shown: they would stand in the drawing."""

import os
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def quiet_keys() -> Iterator[None]:
    """Keep the terminal of stdout from showing keys; Ctrl-C and the like still mean what they mean.

    A drawn line is as wide as the terminal: the `^C` behind it would begin a line that what draws
    knows nothing of. What is typed meanwhile is read afterwards.
    """
    before = None
    with suppress(OSError, ValueError, termios.error):
        fd = sys.stdout.fileno()
        # In the background the terminal is another's, and who changes it is stopped.
        if os.tcgetpgrp(fd) == os.getpgrp():
            before = termios.tcgetattr(fd)
            quiet = [*before]
            quiet[3] &= ~termios.ECHO
            termios.tcsetattr(fd, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        if before:
            with suppress(OSError, termios.error):  # it is gone, as when a window is closed
                termios.tcsetattr(fd, termios.TCSADRAIN, before)
