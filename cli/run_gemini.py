"""What Gemini CLI must be told beside its environment, for as long as it runs.

Where GOOGLE_GEMINI_BASE_URL is set it takes itself to be behind a company's gateway, and then
ends in non-interactive use with "Invalid auth method selected"; where a person has signed in to
Google, it goes there past that address. Both end once its settings name the key, and no variable
or option says that (seen with 0.61). Nor does one say which model it is to search, fetch, sum up
and send its agents out with: those are names of Google's, and where none of them is served it asks
again without end. So it gets a home of its own: the person's, link by link, with settings that
sign in by key and put the run's model in the place of those names.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tollway.cli.boundary import UsageProblem
from tollway.cli.edits import warn
from tollway.cli.run_agents import GEMINI, agent_of
from tollway.cli.run_env import Gateway

_HOME = "GEMINI_CLI_HOME"
_SETTINGS = "settings.json"
_KEY = "gemini-api-key"
# What 0.61 asks for beside the model that it is told, and what its `/model` offers.
ITS_MODELS = (
    *("flash", "flash-lite", "pro", "gemini-2.5-flash", "gemini-2.5-flash-lite", "gemini-2.5-pro"),
    *("gemini-3-flash", "gemini-3-flash-preview", "gemini-3-pro-preview", "gemini-3.1-pro-preview"),
    *("gemini-3.1-pro-preview-customtools", "gemini-3.1-flash-lite-preview"),
    *("gemini-3.1-flash-lite", "gemini-3.5-flash-lite", "gemini-3.5-flash", "gemini-3.8-flash"),
    "gemini-2.5-computer-use-preview-10-2025",
)
# It takes every model to have a window of so many tokens, and sums up at half of it.
_ITS_WINDOW = 1 << 20
_SUMS_UP_AT = 0.5
_LEAST_WINDOW = 32_000  # in less, half of it is filled by its own instructions and tools
_BY_KEY = re.compile(rf'"selectedType"\s*:\s*"{_KEY}"')


@contextmanager
def agent_settings(
    command: Sequence[str], environ: Mapping[str, str], gateway: Gateway
) -> Iterator[dict[str, str]]:
    """Yield the variable that makes Gemini CLI use its key, and one model alone where it is named.

    Nothing for other programs, or where its settings say all that.

    What it leaves in its home, sessions and all, is the person's in the end; changes of its
    settings are not.

    Raises:
        UsageProblem: Its settings are not plain JSON, and do not name the key.
    """
    own = Path(environ.get(_HOME) or Path.home()) / ".gemini"
    said = _settings(own / _SETTINGS, gateway) if agent_of(command) == GEMINI else None
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


def _settings(path: Path, gateway: Gateway) -> dict[str, Any] | None:
    """Return settings that sign in by key and use a model; None where the person's are to hold."""
    try:
        text = path.read_text("utf-8")
    except OSError:
        text = "{}"
    by_key, model = bool(_BY_KEY.search(text)), gateway.model
    if by_key and model is None:
        return None
    try:
        said = json.loads(text)
    except ValueError as fault:
        if by_key:
            warn(f"{path} has comments: what Gemini CLI calls beside `{model}` has Google's names")
            return None
        raise UsageProblem(
            f"{path} does not sign in by key, and is no plain JSON that could be led there",
            hint='Choose "Use Gemini API key" with `/auth` in Gemini CLI once',
        ) from fault
    said = said if isinstance(said, dict) else {}
    said |= {"security": _object(said, "security") | {"auth": {"selectedType": _KEY}}}
    if model is not None:
        said |= {"modelConfigs": _led(said, model)}
    if gateway.window and _LEAST_WINDOW <= gateway.window < _ITS_WINDOW:
        share = {"compressionThreshold": round(_SUMS_UP_AT * gateway.window / _ITS_WINDOW, 4)}
        said |= {"model": share | _object(said, "model")}
    return said


def _led(said: dict[str, Any], model: str) -> dict[str, Any]:
    """Return settings of models with one in the place of all that Gemini CLI names itself."""
    configs = _object(said, "modelConfigs")
    found = configs.get("customOverrides")
    own = found if isinstance(found, list) else []
    ours = [{"match": {"model": name}, "modelConfig": {"model": model}} for name in ITS_MODELS]
    return configs | {"customOverrides": [*own, *ours]}


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
