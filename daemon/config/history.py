"""The versions of gateway.toml that were known to be good, beside the ledger.

Rule: what is kept has been validated, and so holds no secret. A file that a person broke, maybe
by writing a secret into it, is never copied.
"""

import os
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import msgspec

from tollway.daemon.config import files, shown
from tollway.daemon.config.paths import private_folder
from tollway.daemon.errors import ConfigError

_MOST = 100  # versions in a folder; the oldest goes first


class Version(msgspec.Struct, frozen=True):
    """One version that was in force: since when, who made it, by what."""

    number: int
    at: str  # UTC, ISO 8601
    who: str
    what: str
    path: str  # the gateway.toml that it is a version of, by the name that it was called by
    digest: str
    real: str = ""  # what that name, maybe a symbolic link, stood for then; "" in old versions

    def of(self, path: Path) -> bool:
        """Whether it is a version of that file, by this name or another, or of that name.

        Several links lead to one file; and what puts files in place anew each time (a home folder
        of Nix, Kubernetes) points a link of the same name at the next.
        """
        return os.path.abspath(path) == self.path or os.path.realpath(path) == self.real


class _Index(msgspec.Struct):
    versions: list[Version] = []
    last: int = 0  # numbers are never used twice


def digest(text: str) -> str:
    """Return what tells one version of a file from another."""
    return sha256(text.encode()).hexdigest()


def versions(folder: Path, path: Path) -> list[Version]:
    """Return the kept versions of a file, newest first.

    Raises:
        ConfigError: The history cannot be read.
    """
    return [one for one in reversed(_index(folder).versions) if one.of(path)]


def text_of(folder: Path, version: Version) -> str:
    """Return the text of a kept version.

    Raises:
        ConfigError: It is gone, or not what was kept.
    """
    try:
        text = _file(folder, version.number).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as fault:
        raise ConfigError(f"Version {version.number} cannot be read") from fault
    if digest(text) != version.digest:
        raise ConfigError(f"Version {version.number} was changed after it was kept")
    return text


def file_of(folder: Path, version: Version) -> Path:
    """Return the file that a kept version's text is in."""
    return _file(folder, version.number)


def keep(folder: Path, path: Path, text: str, *, who: str, what: str) -> int | None:
    """Keep a version that has been validated; return its number.

    None for one that may hold a secret in a comment. One that is the newest already keeps its
    number.

    Raises:
        ConfigError: The folder cannot be written.
    """
    if shown.holds_secret(text):
        return None
    private_folder(folder)
    with files.locked(folder / ".lock"):
        index = _index(folder)
        latest = next((one for one in reversed(index.versions) if one.of(path)), None)
        if latest and latest.digest == digest(text):
            return latest.number
        index.last += 1
        now = datetime.now(UTC).isoformat(timespec="seconds")
        names = os.path.abspath(path), digest(text), os.path.realpath(path)
        version = Version(index.last, now, who, what, *names)
        files.replace(_file(folder, version.number), text.encode())
        index.versions.append(version)
        gone, index.versions = index.versions[:-_MOST], index.versions[-_MOST:]
        _write(folder, index)
        for old in gone:
            _file(folder, old.number).unlink(missing_ok=True)
        return version.number


def forget(folder: Path, number: int) -> None:
    """Drop a version that never came into force.

    Raises:
        ConfigError: The folder cannot be written.
    """
    with files.locked(folder / ".lock"):
        index = _index(folder)
        index.versions = [one for one in index.versions if one.number != number]
        _write(folder, index)
        _file(folder, number).unlink(missing_ok=True)


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:06}.toml"


def _index(folder: Path) -> _Index:
    try:
        return msgspec.json.decode((folder / "index.json").read_bytes(), type=_Index)
    except FileNotFoundError:
        return _Index()
    except PermissionError as fault:
        raise ConfigError(
            f"The history in `{folder}` cannot be read: it is closed to this user",
            hint=f"`ls -ld {folder}` says whose it is",
        ) from fault
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise ConfigError(
            f"The history in `{folder}` cannot be read",
            hint=f"Move `{folder / 'index.json'}` away to begin a new one",
        ) from fault


def _write(folder: Path, index: _Index) -> None:
    files.replace(folder / "index.json", msgspec.json.encode(index))
