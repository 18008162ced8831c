"""Where everything is: the configuration, the user's data, and what the daemon keeps.

The names are worked out here and nowhere else, so that the command line and the daemon agree.
Nothing here touches a disk but `find_config`, which looks, and `private_folder`, which makes.
"""

import os
import stat
import tempfile
from hashlib import sha256
from pathlib import Path

import msgspec

from tollway.daemon.errors import ConfigError

NAME = "gateway.toml"
# A socket's path has 108 bytes in Linux and 104 elsewhere, the end mark included.
LONGEST_SOCKET = 100


def find_config(explicit: Path | None = None) -> Path:
    """Return the gateway.toml to use.

    Looked for at `explicit` (the option `--config`), $TOLLWAY_CONFIG, ./gateway.toml, and
    $XDG_CONFIG_HOME/tollway/gateway.toml, in this order. One that is named must be there.

    Raises:
        ConfigError: There is none, or the named one is missing.
    """
    if explicit is not None:
        return _named(explicit, "--config")
    if said := os.environ.get("TOLLWAY_CONFIG"):
        return _named(Path(said), "$TOLLWAY_CONFIG")
    for path in places_of(None):
        if path.is_file():
            return path
    raise ConfigError(
        f"No {NAME} here or in `{config_folder()}`",
        hint="`tollway init` writes one; `--config PATH` names one elsewhere",
    )


def places_of(explicit: Path | None) -> tuple[Path, ...]:
    """Return where `find_config` looks for a file, the first one first."""
    named = explicit or os.environ.get("TOLLWAY_CONFIG")
    if named:
        return (Path(named).expanduser(),)
    return Path(NAME), config_folder() / NAME


def _named(path: Path, by: str) -> Path:
    path = path.expanduser()
    if not path.exists():
        raise ConfigError(
            f"{path}:1: there is no such file, and {by} names it", hint="`tollway init` writes one"
        )
    return path


def config_folder() -> Path:
    """Return the user's folder for configuration; it may not exist yet."""
    return _xdg("XDG_CONFIG_HOME", ".config") / "tollway"


def data_folder() -> Path:
    """Return the user's folder for the ledger and the vault; it may not exist yet."""
    return _xdg("XDG_DATA_HOME", ".local/share") / "tollway"


def _xdg(variable: str, otherwise: str) -> Path:
    said = os.environ.get(variable, "")
    # The XDG specification has relative paths ignored.
    return Path(said) if os.path.isabs(said) else home() / otherwise


def home() -> Path:
    """Return the user's home folder.

    Raises:
        ConfigError: $HOME is no whole path, which would be another folder to each program; or it
            is not set, and the system has no home folder of this user.
    """
    said = os.environ.get("HOME")
    found = os.path.expanduser("~") if said is None else said
    if not os.path.isabs(found):
        what = (
            f"not set, and the system knows none of this user (uid {os.getuid()})"
            if said is None
            else f"`{said}`, which is no folder's whole path"
        )
        raise ConfigError(f"$HOME is {what}", hint="`export HOME=/home/NAME` sets it")
    return Path(found)


class StatePaths(msgspec.Struct, frozen=True):
    """What a daemon keeps beside its ledger; none need exist yet."""

    folder: Path
    pidfile: Path
    lock: Path
    log: Path
    rates: Path  # how rate limits stood when a daemon ended; gone while one runs
    history: Path  # a folder: earlier versions of gateway.toml


def state_paths(ledger: Path) -> StatePaths:
    """Return where the daemon with this ledger keeps its state.

    Two ledgers in one folder have files of their own; the history is shared, and says of each
    version whose it is.
    """
    folder = ledger.parent
    stem = _stem(ledger)
    return StatePaths(
        folder=folder,
        pidfile=folder / f"{stem}.pid",
        lock=folder / f"{stem}.lock",
        log=folder / f"{stem}.log",
        rates=folder / f"{stem}.rates",
        history=folder / "history",
    )


def _stem(ledger: Path) -> str:
    return "tollway" if ledger.name == "ledger.db" else f"tollway-{ledger.stem}"


def socket_beside(ledger: Path) -> Path:
    """Return the admin socket of the daemon with this ledger: beside it where that fits.

    A longer path goes to a folder under $XDG_RUNTIME_DIR, or else the temporary folder, whose
    name comes from the ledger's. Make it with `private_folder` before listening, and check it
    with that before connecting: in the temporary folder anyone could have made it first.
    """
    beside = ledger.parent / f"{_stem(ledger)}.sock"
    if len(os.fsencode(beside)) <= LONGEST_SOCKET:
        return beside
    digest = sha256(os.fsencode(ledger)).hexdigest()[:16]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    for base in (runtime, tempfile.gettempdir(), "/tmp"):  # noqa: S108 - private_folder checks
        short = Path(base, f"tollway-{digest}", "admin.sock")
        if os.path.isabs(base) and len(os.fsencode(short)) <= LONGEST_SOCKET:
            break
    return short


def private_folder(folder: Path) -> Path:
    """Return the folder, made with mode 0700 where it was missing, parents included.

    Raises:
        ConfigError: It cannot be made, is no folder, or others own it or may write to it.
    """
    above = folder
    try:
        missing = [one for one in (folder, *folder.parents) if not one.exists()]
        above = missing[-1].parent if missing else folder
        if not above.is_dir():
            raise ConfigError(
                f"`{above}` is in the way: a folder is wanted there",
                hint="Move it away, or see what $HOME, $XDG_DATA_HOME and `ledger.path` say",
            )
        for one in reversed(missing):
            one.mkdir(mode=0o700, exist_ok=True)
        found = folder.stat()
    except OSError as fault:
        raise ConfigError(
            f"The folder `{folder}` cannot be made: {fault.strerror}",
            hint=f"See who may write to `{above}`, and whether its disk is full or read-only",
        ) from fault
    # Writing by the group is let through: where every user has a group of their own, a plain
    # mkdir makes such folders.
    if found.st_uid not in {os.geteuid(), 0} or found.st_mode & stat.S_IWOTH:
        raise ConfigError(
            f"The folder `{folder}` belongs to someone else, or everyone may write to it",
            hint=f"`chmod 700 {folder}`, or move the ledger to a folder of your own",
        )
    return folder
