"""`doctor`: everything that a call needs, looked at one by one, each with a fix."""

import os
import platform
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tollway.cli import doctor_fix, key_ends, show
from tollway.cli.boundary import ANSWER_IS_NO, closed_to_us
from tollway.cli.budget_prices import doubts
from tollway.cli.control import Control, SocketClosed, convert, load_config
from tollway.cli.discover import gpus
from tollway.cli.doctor_fix import Check, State
from tollway.cli.health import Provider, ill
from tollway.cli.models_info import ask_llama_cpp
from tollway.cli.options import AsJson, ConfigFile
from tollway.cli.secrets import place
from tollway.cli.upstreams import reach_all
from tollway.daemon import secrets, tls
from tollway.daemon.config.paths import state_paths
from tollway.daemon.config.schema import Config, Layers
from tollway.daemon.errors import (
    CannotStart,
    ConfigError,
    DaemonUnreachable,
    LedgerInvalid,
    LedgerUnavailable,
    SecretError,
)
from tollway.daemon.ledger import release
from tollway.daemon.ledger.lock import holder
from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.retention import Policy, size, size_warning
from tollway.daemon.process import bind, close_all, raise_file_limit
from tollway.providers.errors import GatewayError
from tollway.providers.llamacpp import gpus as nvidia
from tollway.providers.llamacpp import install, probe
from tollway.providers.llamacpp.fit import Layout
from tollway.providers.llamacpp.gguf import describe
from tollway.providers.words import counted

_COLOURS: dict[State, show.Colour] = {
    "ok": "green", "warn": "yellow", "fail": "red", "fixed": "cyan",
}  # fmt: skip
_FEW_TOKENS = 512  # of context, for a model that is only tried
_MUCH_FREE = 256 * 2**20  # within the ledger, before it is worth a word
_LEAST_BYTES = 100 * 2**20  # below it the ledger's write-ahead file alone may not fit
_FEW_BYTES = 2**30
_FEW_CONNECTIONS = 100  # for which there is room: streams and idle clients soon take as many
_OLDEST = 1_767_225_600  # 2026-01-01: a clock before it has never been set

Offline = Annotated[bool, typer.Option("--offline", help="Ask no provider.")]
Fix = Annotated[bool, typer.Option("--fix", help="Mend what is safe to mend, and say what was.")]


def doctor(
    config: ConfigFile = None, offline: Offline = False, fix: Fix = False, as_json: AsJson = False
) -> None:
    """Check everything that a call needs, each with a fix.

    Configuration, prices that budgets need, permissions, secrets and where they are kept, the
    certificate, keys that end within two weeks, the ledger, its SQLite and its disk, the port,
    the daemon, the limit on files, each provider and its key, llama-cpp-python and a model of
    yours in it, the GPU, the clock. --fix closes files and keys that others may read, makes the
    ledger's folder, and removes what a killed daemon left; all else is yours to decide.
    Exits with 1 if anything fails. Secrets are never shown.

    Examples:
        tollway doctor --offline
        tollway doctor --fix
    """
    with show.waiting("Looking"):
        checks = list(_all(config, offline=offline, repair=fix))
    failed = any(check.state == "fail" for check in checks)
    if as_json:
        show.emit({"ok": not failed, "checks": checks})
    else:
        _print(checks)
    if failed:
        raise typer.Exit(ANSWER_IS_NO)


def _print(checks: list[Check]) -> None:
    for check in checks:
        first, *more = show.place(check.detail).splitlines() or [""]
        show.say(
            [show.Painted(f"{check.state:5}", _COLOURS[check.state]), f" {check.name}: {first}"]
        )
        for line in more:
            show.say(f"      {line}")
        for line in check.fix.splitlines():
            show.say([show.Painted("      fix", "cyan"), f": {line}"])


def _all(explicit: Path | None, *, offline: bool, repair: bool) -> Iterator[Check]:
    yield _python()
    yield _sqlite()
    yield _clock()
    try:
        config = load_config(explicit)
    except ConfigError as error:
        yield Check("configuration", "fail", error.message, error.hint or "Mend these lines")
        yield _backend()
        yield from _graphics()
        return
    yield _configuration(config)
    yield from _prices(config)
    try:
        yield from _state(config, repair=repair)
    except OSError as fault:  # of a folder that is closed to this user, nothing more can be said
        told = f"`{fault.filename or config.ledger.path}`: {fault.strerror or fault}"
        shut = isinstance(fault, PermissionError)
        yield Check("files", "fail", told, closed_to_us() if shut else "Set another `ledger.path`")
    if not offline and config.providers:
        for one in reach_all(config):
            whose = f", {one.key}" if one.key else ""
            yield Check(f"provider {one.provider}{whose}", one.state, one.detail, one.fix)
    yield from _llama(config)
    yield from _commands(config)
    yield from _graphics()


def _state(config: Config, *, repair: bool) -> Iterator[Check]:
    """Yield what there is to say of what is kept on this box."""
    yield from doctor_fix.folder(config, repair=repair)
    yield from doctor_fix.leftovers(config, repair=repair)
    yield from doctor_fix.modes(config, repair=repair)
    yield _backend(config)
    yield from _secrets(config)
    yield from doctor_fix.environment(config, os.environ)
    yield from _certificate(config)
    for name, last in key_ends.ending_soon(config):
        yield Check(f"key {name}", "warn", f"works until {last}", key_ends.prolongs(name))
    yield _ledger(config)
    yield _disk(config)
    yield from _daemon(config)


def _python() -> Check:
    build = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check("python", "ok", f"{build}, {sys.executable}")


def _clock() -> Check:
    now = time.time()
    if now < _OLDEST:
        return Check(
            "clock",
            "fail",
            f"It is {show.when(now)} by this box's clock",
            "Set it: budgets turn over by the clock, and TLS needs it",
        )
    return Check("clock", "ok", show.when(now))


def _configuration(config: Config) -> Check:
    if config.warnings:
        return Check(
            "configuration",
            "warn",
            "\n".join(config.warnings),
            "Mend these lines, or live with them",
        )
    return Check("configuration", "ok", str(config.path))


def _prices(config: Config) -> Iterator[Check]:
    with suppress(GatewayError):  # a ledger that cannot be read has a line of its own
        if lines := doubts(config):
            fix = "`tollway prices set TARGET --input USD --output USD`, or `--free`"
            yield Check("prices", "warn", "\n".join(lines), fix)


def _backend(config: Config | None = None) -> Check:
    try:
        found = secrets.backend()
    except SecretError as error:
        return Check("secrets", "fail", error.message, error.hint)
    if found.kind != "none":
        return Check("secrets", "ok", f"kept in {place(found)}, {found.why}")
    named = config and any(
        key.startswith("keyring:") for one in config.providers.values() for key in one.keys
    )
    return Check(
        "secrets",
        "fail" if named else "warn",
        f"kept nowhere: {found.why}",
        "`tollway secrets backend vault` keeps them in an encrypted file",
    )


def _secrets(config: Config) -> Iterator[Check]:
    for name, provider in config.providers.items():
        for key in provider.keys:
            try:
                secrets.resolve(key, base=config.path.parent)
            except GatewayError as error:
                yield Check(f"secret of {name}", "fail", error.message, error.hint)
            else:
                yield Check(f"secret of {name}", "ok", str(key))


def _certificate(config: Config) -> Iterator[Check]:
    try:
        found = tls.read(config)
    except ConfigError as error:
        yield Check("certificate", "fail", error.message, error.hint or "Mend this, or the file")
        return
    if found is None:
        return
    ends = show.when(found.ends)
    if problem := found.problem(time.time()):
        fix = "Renew it; the daemon takes the new files up by itself"
        yield Check("certificate", "fail" if found.ends < time.time() else "warn", problem, fix)
    else:
        yield Check("certificate", "ok", f"for {', '.join(found.names)}, until {ends}")


def _ledger(config: Config) -> Check:
    path = config.ledger.path
    there = next(one for one in (path.parent, *path.parent.parents) if one.exists())
    if not os.access(there, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        return Check(
            "ledger",
            "fail",
            f"`{path}` cannot be written",
            "Give it to this user, or set `ledger.path`: no call is admitted without a ledger",
        )
    if not path.exists():
        return Check("ledger", "ok", f"{path}, made at the first start")
    try:
        with reading(path) as db:
            now = size(db)
    except (LedgerInvalid, LedgerUnavailable) as error:
        return Check("ledger", "fail", error.message, error.hint)
    most = config.ledger.max_size
    told = f"{path}, {show.size(now.used)} of at most {show.size(most)}"
    if near := size_warning(Policy(most_bytes=most), now):
        return Check("ledger", "warn", told, near.partition(": ")[2])
    if now.free > now.used and now.free > _MUCH_FREE:
        told += f", and {show.size(now.free)} free"
        return Check("ledger", "ok", told, "`tollway ledger vacuum` gives that back to the disk")
    return Check("ledger", "ok", told)


def _disk(config: Config) -> Check:
    folder = config.ledger.path.parent
    there = next(one for one in (folder, *folder.parents) if one.exists())
    free = shutil.disk_usage(there).free
    state: State = "fail" if free < _LEAST_BYTES else "warn" if free < _FEW_BYTES else "ok"
    fix = "" if state == "ok" else "Make room: a full disk stops every call"
    return Check("disk", state, f"{show.size(free)} free where the ledger is", fix)


def _daemon(config: Config) -> Iterator[Check]:
    server = config.server
    try:
        said = Control(config.admin_socket).get("/control/status")
    except DaemonUnreachable as error:
        if holder(config.ledger.path):
            again = "" if isinstance(error, SocketClosed) else "`tollway restart`"
            yield Check("daemon", "fail", f"It runs, but: {error.message}", again or error.hint)
            return
        yield Check("daemon", "warn", "It does not run", "`tollway up` starts it")
        yield _port(server.host, server.port)
        if (room := raise_file_limit()) < min(server.max_connections, _FEW_CONNECTIONS):
            told = f"Started from here, it would have room for {counted(room, 'connection')}"
            yield Check("files", "warn", told, "Raise the limit on open files (`ulimit -n 4096`)")
        return
    except GatewayError as error:
        yield Check("daemon", "fail", error.message, error.hint)
        return
    found = convert(said, _Problems)
    for name, state, why, again in ill(found.providers):
        told = f"{state.text}: {why}" + (f"; tried again {again}" if again else "")
        provider = re.split(r"[/ ]", name)[0]
        yield Check(
            f"health of {name}", "warn", told, f"`tollway providers test {provider}` asks it"
        )
    for problem in found.problems:
        restart = "`tollway restart`"
        log = state_paths(config.ledger.path).log
        fix = restart if restart in problem else f"`{log}` tells more"
        yield Check("daemon", "fail", problem, fix)
    if not found.problems:
        yield Check("daemon", "ok", f"pid {said['pid']}, listens at {said['listen']}")


def _port(host: str, port: int) -> Check:
    try:
        close_all(bind(host, port))
    except CannotStart as error:
        return Check("port", "fail", error.message, error.hint)
    return Check("port", "ok", f"{port} is free")


class _Problems(msgspec.Struct):
    problems: list[str]
    providers: list[Provider] = []


def _sqlite() -> Check:
    found = release.present()
    told = release.shown(found)
    try:
        release.require(found)
    except LedgerUnavailable as error:
        return Check("sqlite", "fail", error.message, error.hint)
    if release.loses_rows(found):
        return Check(
            "sqlite",
            "warn",
            f"{told}: before 3.51.3 a checkpoint could lose rows; the gateway's own avoid that, "
            "other programs' may not",
            "Open the ledger with no other program that writes while the daemon runs; a Python "
            "with SQLite 3.51.3 ends this",
        )
    return Check("sqlite", "ok", told)


def _commands(config: Config) -> Iterator[Check]:
    for name, model in config.models.items():
        program = next(iter(shlex.split(model.command or "")), "")
        # A relative path begins where the daemon runs, which may be elsewhere.
        if not program or ("/" in program and not program.startswith("/")):
            continue
        if shutil.which(program, path=model.env.get("PATH")) is None:
            told = f"`{program}` is no program that this user can run"
            yield Check(f"model {name}", "fail", told, "Install it, or mend its `command`")
        else:
            yield Check(f"model {name}", "ok", f"`{program}` can be run")


def _llama(config: Config) -> Iterator[Check]:
    files = {name: model.gguf for name, model in config.models.items() if model.gguf}
    if not files:
        if not install.installed():
            told = "not installed, which only GGUF models of this box would need; this line adds it"
            yield Check("llama-cpp-python", "ok", told, install.install_line())
        return
    there = {name: path for name, path in files.items() if path.is_file()}
    # The smallest is read, as a load would: that this build can is seen by trying.
    tried = min(there, key=lambda name: there[name].stat().st_size, default="")
    said, wrong = _tried(there.get(tried))
    yield _engine(said)
    for name, path in files.items():
        if name not in there:
            yield Check(f"model {name}", "fail", f"`{path}` is not there", "Mend its `gguf`")
        elif no := wrong if name == tried else _unreadable(path):
            yield Check(f"model {name}", "fail", no.message, no.hint)
        elif idle := _idle_layers(said, config.models[name].gpu_layers):
            yield Check(f"model {name}", "warn", *idle)
        elif name == tried and not said.fault:
            yield Check(f"model {name}", "ok", f"`{path}` can be loaded")


def _tried(path: Path | None) -> tuple[probe.Answer, GatewayError | None]:
    """Return what llama.cpp says of this box, having gone through a load of a model if any."""
    if path is None:
        return probe.ask(probe.Question()), None
    try:
        return ask_llama_cpp(path, describe(path), _FEW_TOKENS, Layout()), None
    except GatewayError as error:
        return probe.ask(probe.Question()), error


def _unreadable(path: Path) -> GatewayError | None:
    """Return why a model's file is none, by its header."""
    try:
        describe(path)
    except GatewayError as error:
        return error
    return None


def _idle_layers(said: probe.Answer, layers: Layers) -> tuple[str, str] | None:
    """Return what to say of a model's `gpu_layers` where this build has no GPU to put them on."""
    if said.fault or any(one.kind in {"gpu", "shared"} for one in said.devices):
        return None
    told, fix = install.unused(layers)
    return (told, fix) if told else None


def _engine(said: probe.Answer) -> Check:
    """Check llama-cpp-python, which answered from a process of its own: it may crash there."""
    name = "llama-cpp-python"
    if said.fault:
        return Check(name, "fail", said.message, install.install_help())
    cards = [one for one in said.devices if one.kind in {"gpu", "shared"}]
    if not cards and (kind := install.gpu()):
        told = f"{install.LLAMA_CPP_PYTHON}, built for the CPU, and this machine has a GPU ({kind})"
        return Check(name, "warn", told, install.install_line())
    where = ", ".join(one.description for one in cards) or "the CPU"
    return Check(name, "ok", f"{install.LLAMA_CPP_PYTHON}, computes on {where}")


def _graphics() -> Iterator[Check]:
    found = nvidia.gpus()
    for card in found:
        told = f"{card.name}, {show.size(card.free)} of {show.size(card.total)} free"
        if card.busy is not None:
            told += f", {card.busy}% busy"
        held = [f"pid {one.pid} {show.size(one.bytes)}".rstrip(" -") for one in card.users]
        yield Check("gpu", "ok", f"{told}; used by {', '.join(held)}" if held else told)
    for gpu in gpus() if not found else ():
        yield Check("gpu", "ok", f"{gpu.name}, {show.size(gpu.memory_mib * 2**20)}")
