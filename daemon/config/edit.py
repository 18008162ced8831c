"""Change gateway.toml in place: what a person wrote around the change stays as it is.

An edit is checked before it replaces anything, is all or nothing, and can be undone.
"""

import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tollway.daemon.config import files, history
from tollway.daemon.config.history import Version, digest
from tollway.daemon.config.load import parse
from tollway.daemon.config.paths import data_folder, private_folder, state_paths
from tollway.daemon.config.schema import Config
from tollway.daemon.config.toml import read_text, tables_of
from tollway.daemon.config.validity import revived
from tollway.daemon.errors import ConfigError, NotFound

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

_LEDGER_PATH = re.compile(r'^\s*\[ledger\][^\[]*?^\s*path\s*=\s*["\']([^"\'\n]+)', re.MULTILINE)


class Edited(msgspec.Struct, frozen=True):
    """What an edit did. `version` is the number in the history that undoes it."""

    config: Config
    changed: bool
    version: int | None  # None: what was there before did not validate, or may hold a secret
    digest: str  # of the file as it is now


def edit(
    path: Path,
    change: "Callable[[TOMLDocument], None]",
    *,
    what: str,
    who: str,
    expect: str | None = None,
) -> Edited:
    """Change a gateway.toml: `change` gets the document and alters it.

    Comments, order and blank lines survive; a comment right above a table goes where the table
    goes. A symbolic link stays one. Edits by several processes at once wait for each other.

    Args:
        path: The file.
        change: Alters the document; `table` helps. What it raises leaves the file alone.
        what: What is done, in a few words, for the history.
        who: Who does it.
        expect: The digest of the text that the caller decided by; another text is refused.

    Raises:
        ConfigError: The file is not TOML; the result is not valid; it was changed meanwhile; or
            it cannot be written. The file is as it was.
    """
    return _swap(path, lambda text: _changed(text, change, path), what=what, who=who, expect=expect)


def rewrite(path: Path, text: str, *, what: str, who: str, expect: str | None = None) -> Edited:
    """Put a whole new text in the place of the file's, as `edit` does.

    Raises:
        ConfigError: As `edit`.
    """
    return _swap(path, lambda _: text, what=what, who=who, expect=expect)


def rollback(path: Path, number: int, *, who: str, expect: str | None = None) -> Edited:
    """Put a kept version in the place of the file, whatever state that is in.

    This is an edit: it is checked, and the version before it is kept.

    Raises:
        ConfigError: As `edit`.
        NotFound: There is no such version of this file.
    """
    return _swap(
        path,
        lambda text: _version(text, path, number),
        what=f"rollback to {number}",
        who=who,
        expect=expect,
    )


def revived_by_rollback(path: Path, number: int) -> tuple[list[str], str]:
    """Return the keys that a rollback would bring back to life, and the digest of the file now.

    What is compared with is the file; where that is broken, the version that was in force last.

    Raises:
        ConfigError, NotFound: As `rollback`.
    """
    text = read_text(path)
    said = _version(text, path, number)
    try:
        after = parse(said, path=path)
    except ConfigError as error:
        # The lines are that version's, and the file of this name has others.
        raise ConfigError(
            f"Version {number}, not the file as it is now, is wrong by now:\n{error.message}",
            hint=f"`tollway config diff {number}` shows what it says otherwise",
        ) from error
    try:
        before = parse(text, path=path)
    except ConfigError:
        folder = _history_folder(text, path)
        newest = history.versions(folder, path)[0]
        before = parse(history.text_of(folder, newest), path=path)
    return revived(before, after, time.time()), digest(text)


def kept(config: Config) -> list[Version]:
    """Return the versions of a configuration's file, newest first; the first is in force.

    Raises:
        ConfigError: The history cannot be read.
    """
    return history.versions(state_paths(config.ledger.path).history, config.path)


def remember(path: Path, *, who: str, what: str, served: Config | None = None) -> int | None:
    """Keep the file as it is now, if it is valid, and return its number in the history.

    For versions that a person wrote by hand: the daemon calls this when it has taken one up, and
    says what it took up. None where the file says something else by now, maybe half written: it
    never was in force.

    Raises:
        ConfigError: The file is not valid, or the history cannot be written.
    """
    with ExitStack() as turn:
        try:
            # An edit between the reading and the keeping would find itself before what it changed.
            turn.enter_context(_turn(Path(os.path.realpath(path))))
        except ConfigError as refused:
            if not isinstance(refused.__cause__, OSError):
                raise
            # The daemon need not be let write beside its file, only beside its ledger.
        text = read_text(path)
        config = parse(text, path=path)
        if served is not None and config.stated != served.stated:
            return None
        folder = state_paths(config.ledger.path).history
        return history.keep(folder, path, text, who=who, what=what)


def write_new(path: Path, data: Mapping[str, object], *, heading: str = "") -> Config:
    """Write a first gateway.toml and return what it says. Its mode is 0600.

    Raises:
        ConfigError: There is one already, it would not be valid, or it cannot be written.
    """
    import tomli_w  # noqa: PLC0415 - only here

    above = "".join(f"# {line}".rstrip() + "\n" for line in heading.splitlines())
    text = (above + "\n" if above else "") + tomli_w.dumps(data)
    config = parse(text, path=path)
    if not path.parent.exists():
        private_folder(path.parent)
    files.create(path, text.encode())
    return config


def _swap(
    path: Path, make: Callable[[str], str], *, what: str, who: str, expect: str | None
) -> Edited:
    # The link stays; what it points at is replaced.
    target = Path(os.path.realpath(path))
    before = read_text(target, shown=path)
    with _turn(target):
        before = read_text(target, shown=path)
        if expect is not None and digest(before) != expect:
            raise _moved(path)
        after = make(before)
        config = parse(after, path=path)
        if after == before:
            return Edited(config, changed=False, version=None, digest=digest(before))
        folder = state_paths(config.ledger.path).history
        version = _keep_valid(folder, path, before)
        number = history.keep(folder, path, after, who=who, what=what)
        try:
            # Editors do not know of the lock.
            if read_text(target, shown=path) != before:
                raise _moved(path)
            files.replace(target, after.encode())
        except BaseException:  # an interrupt too: what never came into force is no version
            if number is not None:
                history.forget(folder, number)
            raise
    return Edited(config, changed=True, version=version, digest=digest(after))


def _turn(target: Path) -> AbstractContextManager[None]:
    """Return what keeps others from changing a file through here while the block runs."""
    return files.locked(target.parent / f".{target.name}.lock")


def _keep_valid(folder: Path, path: Path, text: str) -> int | None:
    try:
        parse(text, path=path)
    except ConfigError:
        # Broken by hand, and maybe broken by a secret: not ours to copy.
        return None
    return history.keep(folder, path, text, who="", what="as it was found")


def _moved(path: Path) -> ConfigError:
    return ConfigError(
        f"`{path}` was changed by someone else meanwhile; nothing was written",
        hint="Look at it, then run the command again",
    )


def _version(text: str, path: Path, number: int) -> str:
    """Return a kept version; `text` is the file's, and says where the history is."""
    folder = _history_folder(text, path)
    for version in history.versions(folder, path):
        if version.number == number:
            return history.text_of(folder, version)
    raise NotFound(
        f"There is no version {number} of `{path}`", hint="`tollway config history` lists them"
    )


def _history_folder(text: str, path: Path) -> Path:
    """Return where the history is, also for a file that is broken."""
    try:
        return state_paths(parse(text, path=path).ledger.path).history
    except ConfigError:
        found = _LEDGER_PATH.search(text)
        ledger = Path(found[1]).expanduser() if found else Path("ledger.db")
        return state_paths(data_folder() / ledger).history


def _changed(text: str, change: "Callable[[TOMLDocument], None]", path: Path) -> str:
    import tomlkit  # noqa: PLC0415 - 40 ms, and most commands only read
    from tomlkit.exceptions import TOMLKitError  # noqa: PLC0415

    from tollway.daemon.config import document  # noqa: PLC0415

    tables_of(text, name=path)  # says the line where it is no TOML; tomlkit's words are worse
    whole = text if text.endswith("\n") or not text else text + "\n"
    try:
        tree = tomlkit.parse(whole)
        if tree.as_string() != whole:
            raise ConfigError(
                f"`{path}` is written in a way that cannot be edited without changing more",
                hint="Edit it by hand",
            )
        old = document.attach_comments(tree)
        change(tree)
        document.space_out(tree, old)
        after = tree.as_string()
        if not whole.startswith("\n"):
            after = after.lstrip("\n")
    except (TOMLKitError, RecursionError) as fault:
        raise ConfigError(
            f"`{path}` cannot be edited: {type(fault).__name__}", hint="Edit it by hand"
        ) from fault
    if "\r\n" in text and not re.search(r"(?<!\r)\n", text):
        after = re.sub(r"(?<!\r)\n", "\r\n", after)
    return after if after != whole else text
