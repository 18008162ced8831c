"""The person's own editor."""

import os
import shlex
import shutil
import sys

from tollway.cli.boundary import UsageProblem

# Those that draw on the terminal: without one they wait for ever, or ask for keys that nobody has.
_DRAW = frozenset(
    {"sensible-editor", "editor", "nano", "pico", "vi", "vim", "nvim", "vim.basic", "vim.tiny"}
    | {"ex", "joe", "micro", "hx", "helix", "kak", "mcedit", "ne"}
)
# What Debian's `sensible-editor` looks for, in its order.
_EDITORS = ("sensible-editor", "editor", "nano", "vi")


def editor() -> list[str]:
    """Return the words that start it: $VISUAL, $EDITOR, else what this system has.

    Raises:
        UsageProblem: There is none, the variable is no command, or it is one that draws on a
            terminal and there is none.
    """
    said = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    try:
        words = shlex.split(said or "")
    except ValueError as fault:
        raise UsageProblem(f"$EDITOR is `{said}`: {fault}") from fault
    found = words or [name for name in _EDITORS if shutil.which(name)][:1]
    if not found or not shutil.which(found[0]):
        what = f"There is no program `{found[0]}`" if found else "There is no editor"
        raise UsageProblem(what, hint="Set $EDITOR to yours, such as `EDITOR=nano`")
    if os.path.basename(found[0]) in _DRAW and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageProblem(
            f"`{found[0]}` needs a terminal, and there is none",
            hint="Change the file itself and say `tollway config check`, or set $EDITOR to a"
            " program that needs none",
        )
    return found
