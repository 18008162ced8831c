"""`service`: the daemon as a service of systemd, or of launchd on a Mac."""

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tollway.cli import show, units
from tollway.cli.control import Control, load_config
from tollway.cli.options import AsJson, ConfigFile
from tollway.cli.placed import place
from tollway.cli.units import NAME, Wanted
from tollway.daemon.config.load import parse
from tollway.daemon.config.paths import home, private_folder
from tollway.daemon.config.schema import Config
from tollway.daemon.errors import DaemonUnreachable
from tollway.providers.errors import GatewayError, RequestInvalid

_MANAGER_WITHIN_S = 90

System = Annotated[
    bool | None,
    typer.Option("--system/--user", help="For the machine, or for you; as root the former."),
]
RunAs = Annotated[
    str | None,
    typer.Option("--run-as", metavar="USER", help="Who runs it; else whose gateway.toml it is."),
]
Printed = Annotated[bool, typer.Option("--print", help="Print the files, and write none.")]
NoStart = Annotated[bool, typer.Option("--no-start", help="Write the files, and start nothing.")]


class NoManager(GatewayError):
    """There is no service manager here, or it refuses."""

    status = 503
    code = "no_service_manager"


class Service(msgspec.Struct, frozen=True):
    """The service as its manager sees it."""

    manager: str
    state: str
    since: str
    pid: int
    restarts: int
    enabled: str
    files: list[Path]


def install(
    config: ConfigFile = None,
    system: System = None,
    run_as: RunAs = None,
    printed: Printed = False,
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """Install the daemon as a service, and start it.

    systemd listens for it (no connection is refused while it restarts), watches over it, and
    keeps it from all that it does not need; GPUs, models, the ledger's folder are open to it. On
    a Mac launchd runs it. Secrets of `env:NAME` are read from `tollway.env` beside gateway.toml.

    Examples:
        tollway service install
        tollway service install --print
        sudo tollway service install --system --run-as tollway
    """
    loaded = load_config(config)
    wanted = _wanted(loaded, system=system, run_as=run_as)
    files = _files(wanted)
    if printed:
        if as_json:
            show.emit({str(path): text.decode() for path, text in files.items()})
        else:
            typer.echo("\n".join(f"# {path}\n{text.decode()}" for path, text in files.items()))
        return
    _require_alone(loaded)
    _make_folder(wanted)
    for path, text in files.items():
        _write(path, text)
    if not no_start:
        _start(wanted)
    _told(wanted)
    if as_json:
        show.emit({"files": list(files), "started": not no_start})
    else:
        for path in files:
            show.pairs([("wrote", str(path))])


def uninstall(config: ConfigFile = None, system: System = None, as_json: AsJson = False) -> None:
    """Stop the service and remove its files.

    gateway.toml, the ledger and the models stay.

    Example:
        tollway service uninstall
    """
    del config  # the service has one name, whatever it serves
    whole = _is_system(system)
    files = [path for path in _places(system=whole) if path.exists()]
    if files and _is_mac():
        _manage(
            ["launchctl", "bootout", f"{_domain(system=whole)}/{units.LABEL}"], bad_is_fine=True
        )
    elif files:
        # A manager that does not run has nothing to stop.
        units_ = [path.name for path in files]
        _manage(_systemctl(whole, "disable", "--now", *units_), bad_is_fine=True)
    for path in files:
        path.unlink()
    if files and not _is_mac():
        _manage(_systemctl(whole, "daemon-reload"), bad_is_fine=True)
    if as_json:
        show.emit({"removed": files})
    elif not files:
        show.note("There is no service to remove")
    for path in files if not as_json else ():
        show.pairs([("removed", str(path))])


def status(config: ConfigFile = None, system: System = None, as_json: AsJson = False) -> None:
    """Show how the service manager sees the daemon.

    `tollway status` is the daemon's own word. Exits with 1 where no service is installed.

    Example:
        tollway service status
    """
    del config
    whole = _is_system(system)
    files = [path for path in _places(system=whole) if path.exists()]
    if not files:
        raise GatewayError(
            "There is no service of Tollway", hint="`tollway service install` makes one"
        )
    found = _of_launchd(files, system=whole) if _is_mac() else _of_systemd(files, system=whole)
    if as_json:
        show.emit(found)
        return
    show.pairs(
        [
            ("manager", found.manager),
            ("state", f"{found.state}{f', since {found.since}' if found.since else ''}"),
            ("enabled", found.enabled),
            ("pid", str(found.pid or "-")),
            ("restarts", str(found.restarts)),
            *(("file", str(path)) for path in found.files),
        ]
    )


def _wanted(config: Config, *, system: bool | None, run_as: str | None) -> Wanted:
    whole = _is_system(system)
    if run_as and not whole:
        raise RequestInvalid("`--run-as` is for a service of the machine", hint="Add `--system`")
    try:
        owner = pwd.getpwnam(run_as) if run_as else pwd.getpwuid(config.path.stat().st_uid)
    except KeyError as fault:
        raise RequestInvalid(
            f"There is no user `{run_as}` here",
            hint=f"`useradd --system --create-home {run_as}` makes one",
        ) from fault
    if whole and owner.pw_uid == 0 and run_as is None:
        raise RequestInvalid(
            f"`{config.path}` is root's, and a gateway need not run as root",
            hint="`--run-as USER` says who runs it; gateway.toml must be that user's to read",
        )
    environment = units.environment()
    if whole and owner.pw_uid != os.geteuid():
        # Paths begin in that user's home, and what this shell says counts for nothing there.
        config = parse(config.path.read_text(), path=config.path, home=Path(owner.pw_dir))
        environment = {}
    if not (config.server.admin_socket or config.admin_socket.parent == config.ledger.path.parent):
        raise RequestInvalid(
            f"The path of `{config.ledger.path.parent}` is too long for a socket, and a service has"
            " another temporary folder than you",
            hint='Set `server.admin_socket` in gateway.toml, such as "tollway.sock" beside it',
        )
    if not config.server.port:
        raise RequestInvalid(
            "`server.listen` leaves the port open, and a service needs one that clients know",
            hint='Write listen = "127.0.0.1:4141"',
        )
    return Wanted(
        config=config,
        system=whole,
        user=owner.pw_name,
        home=Path(owner.pw_dir),
        walled=whole or _can_wall(),
        environment=environment,
    )


def _is_system(said: bool | None) -> bool:
    return os.geteuid() == 0 if said is None else said


def _is_mac() -> bool:
    return sys.platform == "darwin"


def _can_wall() -> bool:
    """Whether a user's own services may have a view of the file system of their own.

    It takes a user namespace, which some distributions keep for root; a service that asks for
    one there does not start.
    """
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    tried = subprocess.run(  # noqa: S603 - a fixed command
        [unshare, "--user", "--map-root-user", "--mount", "true"], capture_output=True, check=False
    )
    return tried.returncode == 0


def _places(*, system: bool) -> list[Path]:
    if _is_mac():
        folder = Path("/Library/LaunchDaemons") if system else home() / "Library/LaunchAgents"
        return [folder / f"{units.LABEL}.plist"]
    if system:
        folder = Path("/etc/systemd/system")
    else:
        said = os.environ.get("XDG_CONFIG_HOME", "")
        base = Path(said) if os.path.isabs(said) else home() / ".config"
        folder = base / "systemd/user"
    return [folder / f"{NAME}.socket", folder / f"{NAME}.service"]


def _files(wanted: Wanted) -> dict[Path, bytes]:
    places = _places(system=wanted.system)
    if _is_mac():
        return {places[0]: units.launchd(wanted)}
    return dict(
        zip(
            places,
            (units.socket_unit(wanted).encode(), units.service_unit(wanted).encode()),
            strict=True,
        )
    )


def _require_alone(config: Config) -> None:
    try:
        said = Control(config.admin_socket).get("/control/status")
    except DaemonUnreachable:
        return
    if said.get("started_by") != "systemd":
        raise GatewayError(
            f"A daemon runs already (pid {said['pid']}), and two cannot serve one ledger",
            hint="`tollway down` stops it; then install the service",
        )


def _make_folder(wanted: Wanted) -> None:
    """Make the ledger's folder: a service that may write there alone cannot make it."""
    folder = wanted.paths.folder
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    private_folder(folder)
    if wanted.system:
        owner = pwd.getpwnam(wanted.user)
        for one in missing:
            os.chown(one, owner.pw_uid, owner.pw_gid)


def _write(path: Path, text: bytes) -> None:
    place(
        path,
        text,
        denied="`sudo tollway service install --system`, or without `--system` for you alone",
    )
    path.chmod(0o644)


def _start(wanted: Wanted) -> None:
    if _is_mac():
        (path,) = _places(system=True) if wanted.system else _places(system=False)
        domain = _domain(system=wanted.system)
        _manage(["launchctl", "bootout", f"{domain}/{units.LABEL}"], bad_is_fine=True)
        _manage(["launchctl", "bootstrap", domain, str(path)])
        return
    names = (f"{NAME}.socket", f"{NAME}.service")
    _manage(_systemctl(wanted.system, "daemon-reload"))
    _manage(_systemctl(wanted.system, "enable", *names))
    # The socket first, or the service would be given none; `restart` also where both run.
    for name in names:
        _manage(_systemctl(wanted.system, "restart", name))


def _domain(*, system: bool) -> str:
    return "system" if system else f"gui/{os.getuid()}"


def _systemctl(system: bool, *words: str) -> list[str]:
    return ["systemctl", *(() if system else ("--user",)), *words]


def _manage(command: list[str], *, bad_is_fine: bool = False) -> str:
    try:
        with show.waiting("Asking the service manager"):
            done = subprocess.run(  # noqa: S603 - the manager's own program, no shell
                command, capture_output=True, text=True, check=False, timeout=_MANAGER_WITHIN_S
            )
    except (OSError, subprocess.TimeoutExpired) as fault:
        if bad_is_fine:
            return ""
        raise NoManager(
            f"`{command[0]}` cannot be run: {fault}",
            hint="The files are written; `tollway up` starts a daemon without a manager",
        ) from fault
    if done.returncode and not bad_is_fine:
        words = " ".join(command)
        raise NoManager(
            f"`{words}` failed: {done.stderr.strip() or done.stdout.strip()}",
            hint=f"`journalctl {'--user ' if '--user' in command else ''}-u {NAME}` says why, where"
            " systemd runs; the files are written",
        )
    return done.stdout


def _told(wanted: Wanted) -> None:
    """Say what the person still has to do."""
    named = [
        ref.removeprefix("env:")
        for one in wanted.config.providers.values()
        for ref in one.keys
        if ref.startswith("env:")
    ]
    if named and not wanted.env_file.exists():
        show.note(
            f"note: a service does not know {', '.join(dict.fromkeys(named))} of your shell: write"
            f" NAME=VALUE lines into `{wanted.env_file}` (mode 0600), or keep them with"
            " `tollway secrets set`"
        )
    if not wanted.system and not _is_mac():
        show.note("note: `loginctl enable-linger` lets it run while you are logged out")
    if not wanted.walled:
        show.note(
            "note: this system gives your own services no view of the file system of their own:"
            " ProtectSystem, ProtectHome and PrivateTmp are left out"
        )


def _of_systemd(files: list[Path], *, system: bool) -> Service:
    asked = ("ActiveState", "SubState", "ActiveEnterTimestamp", "MainPID", "NRestarts",
             "UnitFileState")  # fmt: skip
    said = _manage(_systemctl(system, "show", f"{NAME}.service", f"--property={','.join(asked)}"))
    found = dict(line.partition("=")[::2] for line in said.splitlines())
    return Service(
        manager="systemd" if system else "systemd --user",
        state=f"{found.get('ActiveState', '')} ({found.get('SubState', '')})",
        since=found.get("ActiveEnterTimestamp", ""),
        pid=int(found.get("MainPID") or 0),
        restarts=int(found.get("NRestarts") or 0),
        enabled=found.get("UnitFileState", ""),
        files=files,
    )


def _of_launchd(files: list[Path], *, system: bool) -> Service:
    said = _manage(
        ["launchctl", "print", f"{_domain(system=system)}/{units.LABEL}"], bad_is_fine=True
    )
    found = dict(line.strip().partition(" = ")[::2] for line in said.splitlines())
    return Service(
        manager="launchd",
        state=found.get("state", "not loaded"),
        since="",
        pid=int(found.get("pid") or 0),
        restarts=max(0, int(found.get("runs") or 1) - 1),
        enabled="yes",
        files=files,
    )
