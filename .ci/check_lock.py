"""Check that the lock files name what pyproject.toml asks for, and only hashes prove it."""

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def main() -> int:
    """Return 1, with words, where a lock file is behind pyproject.toml."""
    text = "\n".join(path.read_text() for path in sorted(ROOT.glob("requirements*.lock")))
    locked: dict[str, str] = {}
    faults = []
    for entry in re.split(r"\n(?=\S)", text):
        name, _, rest = entry.partition("==")
        locked[canonicalize_name(name)] = re.split(r"[\s;\\]", rest, maxsplit=1)[0]
        if "--hash=sha256:" not in entry:
            faults.append(f"`{name}` has no hash")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = list(project["project"]["dependencies"])
    for extra in project["project"]["optional-dependencies"].values():
        asked += extra
    for group in project["dependency-groups"].values():
        asked += group
    for requirement in map(Requirement, asked):
        version = locked.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version):
            faults.append(f"`{requirement}` is asked for, and {version} is locked")
    for fault in faults:
        print(f"error: {fault}; run `.ci/lock`", file=sys.stderr)
    return 1 if faults else 0


sys.exit(main())
