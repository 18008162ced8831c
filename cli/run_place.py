"""Where a program is started: its project and its branch, as tags."""

import re
import shutil
import subprocess
from pathlib import Path

_MOST = 128
_OTHER = re.compile(r"[^!-+\--~]+")  # what no value of a tag may hold
_WITHIN_S = 3.0


def place(folder: Path) -> dict[str, str]:
    """Return the tags `project` and `branch` of a folder; outside of git there is no branch.

    The project is called as its remote `origin` is, else as the folder at its top.
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    remote = _git(folder, "config", "--get", "remote.origin.url")
    # Away from every branch there is no name, and the commit tells.
    branch = _git(folder, "symbolic-ref", "--short", "-q", "HEAD") or _git(
        folder, "rev-parse", "--short", "HEAD"
    )
    name = _last(remote) or _last(top) or folder.name
    found = {"project": tag_value(name), "branch": tag_value(branch)}
    return {tag: value for tag, value in found.items() if value}


def _last(path: str) -> str:
    # A password in a remote stands before an @.
    return re.split(r"[/:@]", path.rstrip("/").removesuffix(".git"))[-1]


def tag_value(text: str) -> str:
    """Return a text as the value of a tag: no space and no comma, at most 128 characters."""
    return _OTHER.sub("_", text)[:_MOST]


def _git(folder: Path, *words: str) -> str:
    """Return what git says, "" where it is not there or has nothing to say."""
    program = shutil.which("git")
    if program is None:
        return ""
    try:
        ended = subprocess.run(  # noqa: S603 - fixed words, no shell
            [program, *words],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_WITHIN_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return ended.stdout.strip() if ended.returncode == 0 else ""
