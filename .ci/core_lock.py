"""Print the lines of requirements.lock that a wheel's core needs, dependencies included."""

import re
import sys
import zipfile
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def needed(wheel: Path) -> set[str]:
    """Return the names of all packages that a wheel needs here, without its extras."""
    with zipfile.ZipFile(wheel) as files:
        name = next(one for one in files.namelist() if one.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(files.read(name).decode())
    waiting = [(Requirement(text), {""}) for text in metadata.get_all("Requires-Dist") or []]
    found: set[str] = set()
    while waiting:
        requirement, extras = waiting.pop()
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in extras):
            continue
        name = canonicalize_name(requirement.name)
        if name in found and not requirement.extras:
            continue
        found.add(name)
        try:
            below = requires(name) or []
        except PackageNotFoundError:
            below = []
        waiting += [(Requirement(text), requirement.extras or {""}) for text in below]
    return found


def main() -> None:
    """Print the lines for the wheel that the command line names."""
    names = needed(Path(sys.argv[1]))
    lock = (ROOT / "requirements.lock").read_text()
    for entry in re.split(r"\n(?=\S)", lock):
        if canonicalize_name(re.split(r"[=\s\[]", entry, maxsplit=1)[0]) in names:
            print(entry.strip())


main()
