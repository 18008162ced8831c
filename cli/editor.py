"""The person's own editor."""

import os
import shlex
import shutil

from tollway.cli.boundary import UsageProblem

# What Debian's `sensible-editor` looks for, in its order.
_EDITORS = ("sensible-editor", "editor", "nano", "vi")


def editor() -> list[str]:
    """Return the words that start it: $VISUAL, $EDITOR, else what this system has.

    Raises:
        UsageProblem: There is none, or the variable is no command.
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
    return found
