"""What Gemini CLI must be told beside its environment, for as long as it runs.

Where GOOGLE_GEMINI_BASE_URL is set it takes itself to be behind a company's gateway, and then
ends in non-interactive use with "Invalid auth method selected"; where a person has signed in to
Google, it goes there past that address. Both end once its settings name the key, and no variable
or option says that (seen with 0.61). So it gets a home of its own: the person's, link by link,
with settings that sign in by key.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tollway.cli.boundary import UsageProblem
from tollway.cli.run_env import GEMINI

_HOME = "GEMINI_CLI_HOME"
_SETTINGS = "settings.json"
_KEY = "gemini-api-key"
_BY_KEY = re.compile(rf'"selectedType"\s*:\s*"{_KEY}"')


@contextmanager
def agent_settings(agent: str, environ: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yield the variable that makes Gemini CLI use its key; nothing for others, or where it does.

    What it leaves in its home, sessions and all, is the person's in the end; changes of its
    settings are not.

    Raises:
        UsageProblem: Its settings are not plain JSON, and do not name the key.
    """
    own = Path(environ.get(_HOME) or Path.home()) / ".gemini"
    said = _settings(own / _SETTINGS) if agent == GEMINI else None
    if said is None:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="tollway-gemini-") as home:
        folder = Path(home) / ".gemini"
        folder.mkdir()
        for entry in own.iterdir() if own.is_dir() else ():
            if entry.name != _SETTINGS:
                (folder / entry.name).symlink_to(entry.absolute())
        (folder / _SETTINGS).write_text(json.dumps(said), "utf-8")
        try:
            yield {_HOME: home}
        finally:
            _keep(folder, own)


def _settings(path: Path) -> dict[str, Any] | None:
    """Return settings that sign in by key, whatever else they say; None where they do already."""
    try:
        text = path.read_text("utf-8")
    except OSError:
        text = "{}"
    if _BY_KEY.search(text):
        return None
    try:
        said = json.loads(text)
    except ValueError as fault:
        raise UsageProblem(
            f"{path} does not sign in by key, and is no plain JSON that could be led there",
            hint='Choose "Use Gemini API key" with `/auth` in Gemini CLI once',
        ) from fault
    said = said if isinstance(said, dict) else {}
    return said | {"security": _object(said, "security") | {"auth": {"selectedType": _KEY}}}


def _object(said: dict[str, Any], name: str) -> dict[str, Any]:
    found = said.get(name)
    return found if isinstance(found, dict) else {}


def _keep(folder: Path, own: Path) -> None:
    """Move what is new in a folder to the person's own; a file may have replaced its link."""
    for entry in folder.iterdir():
        if entry.is_symlink() or entry.name == _SETTINGS:
            continue
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        to = own / entry.name
        if entry.is_dir():
            shutil.copytree(entry, to, dirs_exist_ok=True)
        else:
            os.replace(shutil.copy2(entry, own / f".{entry.name}.new"), to)
