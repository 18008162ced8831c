"""What `doctor` can mend by itself: what nobody would have to think about."""

import os
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from tollway.cli.discover import provider_keys
from tollway.daemon import secrets
from tollway.daemon.config.paths import private_folder, state_paths
from tollway.daemon.config.schema import Config, SecretRef
from tollway.daemon.errors import ConfigError
from tollway.daemon.ledger.lock import holder

State = Literal["ok", "warn", "fail", "fixed"]


class Check(msgspec.Struct, frozen=True):
    """One thing looked at. `fix` says what to do, "" where nothing is wrong or it was done."""

    name: str
    state: State
    detail: str
    fix: str = ""


# --- who may read -------------------------------------------------------------------------------


def modes(config: Config, *, repair: bool) -> Iterator[Check]:
    """Yield what lets others read or write what is the owner's; closed where it is asked for."""
    found = [path for path in dict.fromkeys(_private(config)) if openness(path)]
    for path in found:
        yield _closed(path) if repair else _open(path)
    if not found:
        yield Check("permissions", "ok", "what is yours is closed to others")


def _private(config: Config) -> Iterator[Path]:
    yield from (config.path, state_paths(config.ledger.path).folder, config.ledger.path)
    yield config.admin_socket
    yield from (path for path in (secrets.vault_path(), secrets.vault_key_path()) if path)
    for ref in _references(config):
        place, _, name = ref.partition(":")
        if place == "file" and _own(path := config.path.parent / os.path.expanduser(name)):
            yield path
    if config.server.tls is not None and _own(config.server.tls.key):
        yield config.server.tls.key


def _references(value: object) -> Iterator[SecretRef]:
    """Yield every secret that a configuration names, wherever in it."""
    if isinstance(value, SecretRef):
        yield value
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from _references(getattr(value, field))
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _references(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _references(one)


def _own(path: Path) -> bool:
    """Whether it is this user's to close: a container's secrets are its runtime's."""
    try:
        return path.stat().st_uid == os.geteuid()
    except OSError:
        return False


def openness(path: Path) -> int:
    """Return the mode bits that let others in, 0 for none or where there is nothing."""
    try:
        found = path.stat()
    except OSError:
        return 0
    # A folder that others may look at but not into gives nothing away; a file must be closed.
    allowed = 0o011 if stat.S_ISDIR(found.st_mode) else 0
    return found.st_mode & 0o077 & ~allowed


def _wanted(path: Path) -> int:
    return 0o700 if path.is_dir() else 0o600


def _open(path: Path, why: str = "") -> Check:
    bits = openness(path)
    may = "written" if bits & 0o022 else "read"
    return Check(
        "permissions",
        "fail" if bits & 0o022 else "warn",
        f"`{path}` may be {may} by others{why}",
        f"`tollway doctor --fix`, or `chmod {_wanted(path):o} {path}`",
    )


def _closed(path: Path) -> Check:
    was = path.stat().st_mode & 0o777
    try:
        path.chmod(_wanted(path))
    except OSError as fault:
        return _open(path, f", and cannot be closed: {fault.strerror}")
    told = f"`{path}` was open to others ({was:o}), and is closed now ({_wanted(path):o})"
    return Check("permissions", "fixed", told)


# --- what is missing, and what was left ---------------------------------------------------------


def folder(config: Config, *, repair: bool) -> Iterator[Check]:
    """Make the ledger's folder where it is missing and that is asked for; the daemon would too."""
    path = config.ledger.path.parent
    if not repair or path.exists():
        return
    try:
        private_folder(path)
    except ConfigError as error:
        yield Check("ledger folder", "fail", error.message, error.hint or "Set `ledger.path`")
    else:
        yield Check("ledger folder", "fixed", f"`{path}` was missing, and is there now")


def leftovers(config: Config, *, repair: bool) -> Iterator[Check]:
    """Yield what a daemon that was killed could not take away; removed where it is asked for."""
    if holder(config.ledger.path):
        return  # it runs, or another one does that answers for these files
    found = [config.admin_socket] if _deserted(config.admin_socket) else []
    pidfile = state_paths(config.ledger.path).pidfile
    found += [pidfile] if pidfile.is_file() else []
    for path in found:
        told = f"`{path}` was left by a daemon that was killed"
        if not repair:
            fix = "`tollway doctor --fix` removes it; the next start does too"
            yield Check("leftovers", "warn", told, fix)
            continue
        try:
            path.unlink(missing_ok=True)
        except OSError as fault:
            why = f"{told}, and cannot be removed: {fault.strerror}"
            yield Check("leftovers", "warn", why, f"`rm {path}`")
        else:
            yield Check("leftovers", "fixed", f"{told}, and is gone now")


def _deserted(path: Path) -> bool:
    """Whether it is a socket at which nobody listens."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            probe.connect(str(path))
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


# --- what is there and unused -------------------------------------------------------------------


def environment(config: Config, environ: Mapping[str, str]) -> Iterator[Check]:
    """Yield the provider keys of the environment that no provider makes use of."""
    kinds = {one.kind for one in config.providers.values()}
    named = {str(ref).removeprefix("env:") for ref in _references(config)}
    for name, kind in provider_keys(environ).items():
        # One of ours is how a client library is led here.
        if kind in kinds or name in named or environ[name].startswith("tw-"):
            continue
        yield Check(
            "environment",
            "warn",
            f"`{name}` is set, and no provider uses it",
            f"`tollway providers add {kind} --kind {kind} --api-key env:{name}`, or unset it: "
            "programs that find it go past the gateway",
        )
