"""What adds an extra to the very installation that runs."""

import shlex
import shutil
import sys
from pathlib import Path


def install(extra: str) -> str:
    """Return the command: `pip install 'tollway[NAME]'` where a bare `pip` is this Python's own.

    Elsewhere (`uv tool install`, pipx, a virtual environment that is not active) it is another's,
    which has no Tollway and would look in a registry for a package of that name.
    """
    pip = shutil.which("pip")
    ours = pip is not None and Path(pip).parent == Path(sys.executable).parent
    tool = "pip" if ours else f"{shlex.quote(sys.executable)} -m pip"
    return f"{tool} install 'tollway[{extra}]'"
