"""What can be known of a gateway.toml with mistakes in it: where its ledger is, what it said.

Whatever only reads the ledger, or stops a daemon, must work on such a file.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from tollway.cli import show
from tollway.daemon.config import history, shown
from tollway.daemon.config.check import zone_wrong
from tollway.daemon.config.load import SECTIONS, load, parse
from tollway.daemon.config.paths import data_folder, find_config, places_of, state_paths
from tollway.daemon.config.schema import Config, LedgerFile, Server
from tollway.daemon.errors import ConfigError

# A line that begins a table, or sets a key of [ledger] before the first one.
_TABLE = re.compile(r"\s*\[")
_PATH = re.compile(r"\bpath\b")
_LEDGER = re.compile(r"""\s*\[{0,2}\s*["']?ledger\b""")


class Rough(msgspec.Struct, frozen=True):
    """The tables of a file that can be read, without those that cannot.

    `ledger_known` is False where what is wrong may be what says where the ledger is.
    """

    said: dict[str, object]
    ledger_known: bool

    def text(self, table: str, key: str) -> str | None:
        """Return a text in a table, None where there is none."""
        found = self.said.get(table)
        value = found.get(key) if isinstance(found, dict) else None
        return value if isinstance(value, str) else None

    @property
    def ledger(self) -> Path:
        """The ledger that it names, else the default one; paths are taken as `load` takes them."""
        return data_folder() / Path(self.text("ledger", "path") or "ledger.db").expanduser()


def rough(config: Path) -> Rough:
    """Return what of a file can be read, table by table."""
    try:
        text = config.read_text()
    except (OSError, UnicodeDecodeError):
        return Rough({}, ledger_known=False)
    said = _toml(text)
    if said is not None:
        return Rough(said, ledger_known=_tells_ledger(said))
    said, known = {}, True
    for part in _tables(text):
        found = _toml(part)
        if found is not None:
            said = {**found, **said}  # a table that comes twice, which is a mistake, counts once
        elif any(_LEDGER.match(line) for line in part.splitlines()):
            known = False
    return Rough(said, known and _tells_ledger(said))


def _tells_ledger(said: Mapping[str, object]) -> bool:
    """Whether the ledger is where it is said, or usual: no other word may be meant to say where."""
    table = said.get("ledger", {})
    if not isinstance(table, dict):
        return False
    if "path" in table:
        return isinstance(table["path"], str) and bool(table["path"])
    keys = LedgerFile.__struct_fields__
    near = (shown.meant(key, keys) for key in table if key not in keys)
    if any(not meant or _PATH.search(meant) for meant in near):
        return False
    others = (one for name, one in said.items() if name not in SECTIONS)
    return not any(isinstance(one, dict) and "path" in one for one in others)


def find(explicit: Path | None) -> Path:
    """Return the gateway.toml to use.

    Raises:
        ConfigError: There is none; the hint says which kept version can be put where it was.
    """
    try:
        return find_config(explicit)
    except ConfigError as error:
        if (kept := _newest(places_of(explicit))) is None:
            raise
        file, path, number = kept
        raise ConfigError(
            error.message,
            hint=f"`cp {shlex.quote(file)} {shlex.quote(path)}` brings back version {number} of it,"
            " the last that was in force",
        ) from error


def _newest(paths: Sequence[Path]) -> tuple[str, str, int] | None:
    """Return the last version of a file that is gone, beside the usual ledger: file, path, number.

    The user's own gateway.toml comes before one of the folder.
    """
    folder = state_paths(data_folder() / "ledger.db").history
    for path in map(os.path.abspath, reversed(paths)):
        with contextlib.suppress(ConfigError):
            for version in history.versions(folder, Path(path)):
                return str(history.file_of(folder, version)), path, version.number
    return None


def load_to_read(explicit: Path | None) -> Config:
    """Return the configuration for a command that reads the ledger and changes nothing.

    Where the file is wrong now it is the last version that was in force, or none but where the
    ledger is; a warning says so.

    Raises:
        ConfigError: There is no file; or it is wrong, and nobody can say where its ledger is.
    """
    path = find(explicit)
    try:
        return load(path)
    except ConfigError as error:
        found = rough(path)
        if not found.ledger_known or not found.ledger.is_file():
            raise
        kept, of = _last(path, found)
        for text in (
            *error.message.splitlines(),
            f"Reading `{found.ledger}` with {of} in its place",
        ):
            show.note([show.Painted("warning", "yellow"), f": {text}"])
        return kept


def _last(path: Path, found: Rough) -> tuple[Config, str]:
    """Return what was in force last, and which version that is."""
    folder = state_paths(found.ledger).history
    try:
        for version in history.versions(folder, path):
            kept = parse(history.text_of(folder, version), path=path)
            if kept.ledger.path == found.ledger:
                return kept, f"version {version.number} of `tollway config history`"
            break
    except ConfigError:
        pass  # of another release, or not to be read: the ledger can be, all the same
    zone = found.text("server", "timezone") or "UTC"
    return (
        Config(
            path=Path(os.path.abspath(path)),
            ledger=LedgerFile(path=found.ledger),
            server=Server(timezone="UTC" if zone_wrong(zone) else zone),
        ),
        "no other",
    )


def _toml(text: str) -> dict[str, object] | None:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return None


def _tables(text: str) -> Iterator[str]:
    """Yield a text in parts, each from the head of a table to the next."""
    part: list[str] = []
    for line in text.splitlines(keepends=True):
        if _TABLE.match(line) and part:
            yield "".join(part)
            part = []
        part.append(line)
    yield "".join(part)
