"""Names and files of other programs' configurations, for the commands that take them over."""

import importlib
import re
from pathlib import Path
from typing import Any

from tollway.cli import show
from tollway.cli.boundary import UsageProblem
from tollway.daemon.config.check import name_wrong
from tollway.providers import extras
from tollway.providers.errors import GatewayError

_MOST_BYTES = 4 * 2**20


class NotUnderstood(ValueError):
    """The file is no configuration of that program; the text says where."""


def fitting(section: str, name: str) -> str:
    """Return a name that a table of this section can have, as near as can be."""
    if not name_wrong(section, name):
        return name
    kept = "A-Za-z0-9._@+:/-" if section == "routes" else "A-Za-z0-9._@+:-"
    fitted = re.sub(f"[^{kept}]+", "-", name).strip("-._@+:/")
    return fitted[:100] or section.removesuffix("s")


def read_yaml(file: Path) -> object:
    """Return the value of a YAML file.

    Raises:
        UsageProblem: It cannot be read, is no YAML, or is too large to be a configuration.
        GatewayError: PyYAML is not installed.
    """
    try:
        text = file.expanduser().read_bytes()
    except OSError as fault:
        raise UsageProblem(f"`{file}` cannot be read: {fault.strerror}") from fault
    if len(text) > _MOST_BYTES:
        raise UsageProblem(f"`{file}` is no configuration: it has {show.size(len(text))}")
    try:
        yaml: Any = importlib.import_module("yaml")  # only this needs it; it need not be there
    except ImportError as fault:
        raise GatewayError(
            "Reading YAML needs PyYAML, which is not installed",
            hint=f"`{extras.install('yaml')}` installs it",
        ) from fault
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as fault:
        raise UsageProblem(f"`{file}` is not YAML: {fault}") from fault
