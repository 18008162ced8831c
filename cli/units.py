"""What a service manager is told of the daemon: systemd's units, launchd's property list.

Pure text from a configuration; `service.py` puts it where it belongs.
"""

import os
import plistlib
import re
import tempfile
from pathlib import Path

import msgspec

from tollway.cli.start import daemon_command
from tollway.daemon.config.paths import StatePaths, state_paths
from tollway.daemon.config.schema import Config

NAME = "tollway"
LABEL = "dev.tollway.gateway"
_DRAIN_MARGIN_S = 30
_FILES = 65_536
# What the kernel calls the devices of NVIDIA's, AMD's, Intel's GPUs; what is not there is no fault.
_GPUS = ("char-nvidia*", "char-drm", "/dev/kfd")
# Taken from the process for good; none needs a namespace, so the user's manager can do it too.
_GIVEN_UP = (
    "NoNewPrivileges=yes",
    "RestrictSUIDSGID=yes",
    "RestrictRealtime=yes",
    "LockPersonality=yes",
    "SystemCallArchitectures=native",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "UMask=0077",
)
_WALLED = (
    "ProtectSystem=strict",
    "ProtectHome=read-only",
    "ProtectControlGroups=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "RestrictNamespaces=yes",
)


class Wanted(msgspec.Struct, frozen=True):
    """How the service is to run.

    `system`: for the whole machine, as `user`, rather than by a person's own manager. `walled`:
    with a view of the file system of its own. `environment` is the caller's, for the folders
    that it names.
    """

    config: Config
    system: bool
    home: Path
    user: str = ""
    walled: bool = True
    environment: dict[str, str] = {}

    @property
    def paths(self) -> StatePaths:
        """What the daemon keeps beside its ledger."""
        return state_paths(self.config.ledger.path)

    @property
    def env_file(self) -> Path:
        """Where secrets of `env:NAME` are read from; it need not be there."""
        return self.config.path.with_name(f"{NAME}.env")


def socket_unit(wanted: Wanted) -> str:
    """Return the socket's unit: systemd listens, also while the daemon is down or begins anew."""
    server = wanted.config.server
    host = f"[{server.host}]" if ":" in server.host else server.host
    host = "127.0.0.1" if host == "localhost" else host
    return f"""# Written by `tollway service install`; written again by the next one.
[Unit]
Description=Where Tollway listens

[Socket]
ListenStream={host}:{server.port}
Backlog=1024

[Install]
WantedBy=sockets.target
"""


def service_unit(wanted: Wanted) -> str:
    """Return the daemon's unit."""
    config = wanted.config
    network = ("After=network-online.target", "Wants=network-online.target")
    run = command(daemon_command(config.path))
    again = command(_program(config.path, "reload"))
    lines = [
        "# Written by `tollway service install`; written again by the next one.",
        "[Unit]",
        "Description=Tollway, an AI gateway",
        f"Requires={NAME}.socket",
        f"After={NAME}.socket",
        *(network if wanted.system else ()),
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        f"ExecStart={run}",
        f"ExecReload={again}",
        "Restart=on-failure",
        "RestartSec=1",
        f"TimeoutStopSec={int(config.server.drain) + _DRAIN_MARGIN_S}",
        "WatchdogSec=30",
        f"LimitNOFILE={_FILES}",
        *((f"User={wanted.user}",) if wanted.system else ()),
        *(f"Environment={quoted(f'{name}={value}')}" for name, value in _environment(wanted)),
        f"EnvironmentFile=-{_plain(str(wanted.env_file))}",
        "",
        "# What it cannot do, even where somebody got into it.",
        *_GIVEN_UP,
        *_walls(wanted),
        "",
        "[Install]",
        f"WantedBy={'multi-user.target' if wanted.system else 'default.target'}",
        f"Also={NAME}.socket",
        "",
    ]
    return "\n".join(lines)


def _walls(wanted: Wanted) -> list[str]:
    if not wanted.walled:
        return []
    lines = list(_WALLED)
    temporary = any(
        wanted.config.admin_socket.is_relative_to(folder)
        for folder in {"/tmp", "/var/tmp", tempfile.gettempdir()}  # noqa: S108 - what is private
    )
    # With one of its own, `tollway status` would look for the socket in another.
    lines.append(f"PrivateTmp={'no' if temporary else 'yes'}")
    lines += [f"ReadWritePaths=-{quoted(str(folder))}" for folder in _written(wanted)]
    if wanted.system:
        lines += ["CapabilityBoundingSet=", "AmbientCapabilities=", "ProtectProc=invisible"]
        # No disk, no keyboard; GPUs, for the models.
        lines += ["DevicePolicy=closed", *(f"DeviceAllow={device} rw" for device in _GPUS)]
    return lines


def _written(wanted: Wanted) -> list[Path]:
    """Return the folders that the daemon, or a command that serves a model, writes to."""
    config = wanted.config
    folders = [wanted.paths.folder, config.admin_socket.parent]
    if any(model.command for model in config.models.values()):
        folders.append(wanted.home / ".cache")
    return list(dict.fromkeys(folders))


def _environment(wanted: Wanted) -> list[tuple[str, str]]:
    """Return the variables by which the daemon finds what the command line finds."""
    names = ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "HF_HOME")
    return [(name, wanted.environment[name]) for name in names if name in wanted.environment]


def _program(config: Path, *words: str) -> list[str]:
    python = daemon_command(config)[:2]
    return [*python, "-m", "tollway.cli", *words, "--config", str(config)]


def command(words: list[str]) -> str:
    """Return a command as a unit file takes it: `$` stands for itself too."""
    return " ".join(quoted(word.replace("$", "$$")) for word in words)


def _plain(text: str) -> str:
    # A whole line is one path there, blanks included, and quotes would be a part of it.
    return text.replace("%", "%%")


def quoted(word: str) -> str:
    """Return a word as a unit file takes it in a list: `%` stands for itself."""
    word = _plain(word)
    if re.fullmatch(r"[A-Za-z0-9_@%+=:,./$-]+", word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def launchd(wanted: Wanted) -> bytes:
    """Return launchd's property list. It starts the daemon at login, or with the machine."""
    log = str(wanted.paths.log)
    said: dict[str, object] = {
        "Label": LABEL,
        "ProgramArguments": daemon_command(wanted.config.path),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "StandardOutPath": log,
        "StandardErrorPath": log,
        "WorkingDirectory": str(wanted.paths.folder),
        "Umask": 0o077,
        "ExitTimeOut": int(wanted.config.server.drain) + _DRAIN_MARGIN_S,
        "SoftResourceLimits": {"NumberOfFiles": _FILES},
        "ProcessType": "Interactive",
    }
    if variables := dict(_environment(wanted)):
        said["EnvironmentVariables"] = variables
    if wanted.system:
        said["UserName"] = wanted.user
    return plistlib.dumps(said, sort_keys=False)


def environment() -> dict[str, str]:
    """Return this process's variables."""
    return dict(os.environ)
