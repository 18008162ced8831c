"""`serve`, `up`, `down` and `restart`: the daemon's life, as its owner sees it."""

import os
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import msgspec
import typer

from tollway.cli import show
from tollway.cli.control import (
    Control,
    OtherVersion,
    Place,
    convert,
    load_config,
    place,
    require_same_file,
    version_note,
)
from tollway.cli.options import AsJson, ConfigFile
from tollway.daemon import early
from tollway.daemon.config.paths import StatePaths, private_folder, state_paths
from tollway.daemon.config.schema import Config
from tollway.daemon.errors import ConfigError, DaemonUnreachable, LedgerHeld, SecretError
from tollway.daemon.ledger.lock import holder
from tollway.providers.errors import GatewayError

_MARGIN_S = 30.0  # what a stop may take beyond `server.drain`: settling, closing the ledger
_LOG_LINES = 12
_LOOK_S = 90.0  # for a new program to prove that it could serve
_PAUSE_S = 0.05

Wait = Annotated[float, typer.Option(min=1, metavar="SECONDS", help="How long to wait for it.")]
Now = Annotated[bool, typer.Option("--now", help="Cut the calls in flight; they are settled.")]


class Started(msgspec.Struct, frozen=True):
    """What `up` prints: where the daemon listens, and where it writes."""

    url: str
    pid: int
    config: Path
    log: Path
    already_running: bool = False
    note: str = ""  # that it is of another version


class _Ready(msgspec.Struct):
    """The line that the daemon writes to its starter."""

    ready: bool
    pid: int
    url: str = ""
    error: dict[str, str] | None = None


def daemon_command(config: Path, *more: str) -> list[str]:
    """Return the command that runs the daemon; `-P` keeps the folder it starts in off its path."""
    return [sys.executable, "-P", "-m", "tollway.daemon", "--config", str(config), *more]


def serve(config: ConfigFile = None) -> NoReturn:
    """Run the daemon in the foreground.

    It logs to the terminal; Ctrl-C drains it, a second one hurries.

    Example:
        tollway serve --config ./gateway.toml
    """
    path = load_config(config).path
    command = daemon_command(path.absolute())
    sys.stdout.flush()
    early.hold()
    # This process becomes the daemon, so that signals from a terminal or a supervisor reach it.
    os.execv(command[0], command)  # noqa: S606 - our own interpreter, no shell


def up(config: ConfigFile = None, wait: Wait = 60.0, as_json: AsJson = False) -> None:
    """Start the daemon in the background and wait until it is ready.

    It prints where the daemon listens and where it logs; if it cannot start, why. A daemon that
    runs already is left alone; one that serves another file beside this ledger is an error.

    Example:
        tollway up
    """
    loaded = load_config(config)
    started = ensure_up(loaded, wait)
    if as_json:
        show.emit(started)
        return
    if started.already_running:
        show.note("The daemon runs already")
        if started.note:
            show.note(started.note)
    _show(started)


def _show(started: Started) -> None:
    show.pairs(
        [
            ("url", started.url),
            ("pid", str(started.pid)),
            ("config", show.place(started.config)),
            ("log", show.place(started.log)),
        ]
    )


def ensure_up(config: Config, wait_s: float = 60.0) -> Started:
    """Return where the daemon listens, having started one where none runs.

    Raises:
        GatewayError: It does not start, or serves another file.
    """
    paths = state_paths(config.ledger.path)
    if found := _running(config, paths):
        return found
    try:
        return _start(config, paths, wait_s)
    except LedgerHeld:
        # Somebody else's start was sooner: of two `run`s at once, one makes the daemon of both.
        if found := _begun_meanwhile(config, paths, wait_s):
            return found
        raise


def _begun_meanwhile(config: Config, paths: StatePaths, wait_s: float) -> Started | None:
    """Return the daemon that has taken the ledger just now, None where whoever has it is older."""
    with show.waiting("Starting"):
        while held := holder(config.ledger.path):
            if found := _running(config, paths):
                return found
            if time.time() - held.since_ms / 1000 > wait_s:
                return None
            time.sleep(_PAUSE_S)
    return None


def _running(config: Config, paths: StatePaths) -> Started | None:
    try:
        answer = Control(config.admin_socket).get("/control/status")
    except DaemonUnreachable:
        return None
    said = convert(answer, _Answering)
    served = said.config.path
    instead = f"`tollway restart --config {shlex.quote(str(config.path))}`"
    hint = (
        f"{instead} serves this file in its place; one beside it needs a `ledger.path` of its own"
    )
    require_same_file(served, config.path, hint=hint)
    other = version_note(answer)
    return Started(said.url, said.pid, Path(served), paths.log, already_running=True, note=other)


class _Served(msgspec.Struct):
    path: str


class _Answering(msgspec.Struct):
    """What even a daemon of another version says of itself."""

    pid: int
    url: str
    config: _Served
    started_at: float = 0.0
    started_by: str = "up"
    draining: bool = False


def _start(config: Config, paths: StatePaths, wait_s: float, *words: str) -> Started:
    private_folder(paths.folder)
    reading, writing = os.pipe()
    log = _open_log(paths)
    from_here = os.fstat(log).st_size
    try:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
            daemon_command(config.path.absolute(), "--ready-fd", str(writing), *words),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[writing],
            cwd=paths.folder,
            start_new_session=True,
        )
    finally:
        os.close(writing)
        os.close(log)
    try:
        waits = "Waiting for the calls in flight" if words else "Starting"
        with show.waiting(waits):
            line = _first_line(reading, wait_s)
    finally:
        os.close(reading)
    if line is None:
        raise GatewayError(
            f"The daemon (pid {process.pid}) is not ready after {show.duration(wait_s)}",
            hint=f"It may still become so: `tollway status`; its log is `{paths.log}`",
        )
    word = msgspec.json.decode(line, type=_Ready) if line else None
    if word is None or not word.ready:
        raise _not_started(word, paths.log, from_here)
    return Started(word.url, word.pid, config.path, paths.log)


def _open_log(paths: StatePaths) -> int:
    try:
        return os.open(paths.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as fault:
        why = (fault.strerror or str(fault)).lower()
        raise GatewayError(
            f"The daemon's log `{paths.log}` cannot be written: {why}",
            hint="It stands beside the ledger: make that folder writable, or set `ledger.path` "
            "in gateway.toml to a file in another",
        ) from fault


def _first_line(fd: int, wait_s: float) -> bytes | None:
    """Return what the daemon says, b"" if it ended without a word, None if time is up."""
    line = b""
    ends = time.monotonic() + wait_s
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([fd], [], [], max(0.0, ends - time.monotonic()))
        if not ready:
            return None
        piece = os.read(fd, 65536)
        if not piece:
            return b""
        line += piece
    return line


def _not_started(word: _Ready | None, log: Path, from_here: int) -> GatewayError:
    if word and word.error:
        kinds = {one.code: one for one in (ConfigError, LedgerHeld, SecretError)}
        kind = kinds.get(word.error.get("code", ""), GatewayError)
        message = word.error.get("message") or "The daemon does not start"
        return kind(message, hint=word.error.get("hint", ""))
    with log.open("rb") as file:
        file.seek(from_here)
        last = file.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
    return GatewayError(
        "\n".join(["The daemon ended before it was ready", *last]), hint=f"Its log is `{log}`"
    )


def down(config: ConfigFile = None, now: Now = False, as_json: AsJson = False) -> None:
    """Stop the daemon: calls in flight may end.

    It takes no new calls, and waits for those in flight up to `server.drain`; what is left then
    is cut with a proper error and settled. Returns when the process is gone.

    Example:
        tollway down --now
    """
    pid = _stop(place(config), now=now)
    if as_json:
        show.emit({"stopped": pid is not None, "pid": pid})
    else:
        show.note("The daemon was not running" if pid is None else f"Stopped (pid {pid})")


class Restarted(msgspec.Struct, frozen=True):
    """What `restart` prints: the new daemon, and how it came into the old one's place.

    `how`: "handed over" its socket to a new process; "anew" in the same process, which a
    terminal, a container or systemd watches over; "started" where none ran, or it hung.
    """

    url: str
    pid: int
    was_pid: int | None
    config: Path
    log: Path
    how: Literal["handed over", "anew", "started"]


def restart(
    config: ConfigFile = None, now: Now = False, wait: Wait = 60.0, as_json: AsJson = False
) -> None:
    """Put a new daemon in the old one's place; no connection is refused.

    The new one first proves that it could serve: configuration, secrets, ledger, address. If it
    could not, the old one goes on untouched. Else that takes no more connections, lets its calls
    end, up to `server.drain`, and hands its socket over; connections wait meanwhile. A daemon
    of `tollway serve` or systemd begins anew in its own process.

    Example:
        tollway restart
    """
    loaded = load_config(config)
    paths = state_paths(loaded.ledger.path)
    where = place(config)
    old = _answer(where)
    patience_s = where.drain_s + _MARGIN_S + wait
    how: Literal["handed over", "anew", "started"] = "handed over"
    if old is None:
        was, how = _stop(where, now=now), "started"
        started = _start(loaded, paths, wait)
    elif old.started_by == "up":
        was = old.pid
        started = _succeed(loaded, paths, patience_s, old, now=now)
    else:
        was, how = old.pid, "anew"
        started = _anew(loaded, paths, patience_s, old, now=now)
    done = Restarted(started.url, started.pid, was, started.config, started.log, how)
    if as_json:
        show.emit(done)
        return
    show.note(_told(done))
    _show(started)


def _told(done: Restarted) -> str:
    if done.how == "handed over":
        return f"Pid {done.was_pid} made way for pid {done.pid}; no connection was refused"
    if done.how == "anew":
        return f"Pid {done.pid} began anew; no connection was refused"
    if done.was_pid is None:
        return "The daemon was not running"
    return f"Pid {done.was_pid} could not hand over, and was stopped"


def _answer(where: Place) -> "_Answering | None":
    try:
        return convert(Control(where.socket).get("/control/status"), _Answering)
    except (DaemonUnreachable, OtherVersion):  # one too old to hand over, too, is stopped
        return None


def _succeed(
    config: Config, paths: StatePaths, wait_s: float, old: "_Answering", *, now: bool
) -> Started:
    """Start a daemon that takes over from the one that runs.

    Raises:
        GatewayError: It could not serve, and the old one goes on.
    """
    words = ("--take-over", "--hurry") if now else ("--take-over",)
    process = _opened(old.pid)
    try:
        started = _start(config, paths, wait_s, *words)
        if process is not None:
            select.select([process], [], [], _MARGIN_S)  # it has nothing left but to end
        return started
    except GatewayError as error:
        still = _answer(Place(config.admin_socket, config.ledger.path, 0))
        if still and still.pid == old.pid and not still.draining:
            goes_on = f"The daemon that runs (pid {old.pid}) goes on as it was"
            error.hint = f"{error.hint}\n{goes_on}" if error.hint else goes_on
        raise
    finally:
        if process is not None:
            os.close(process)


def _opened(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _anew(
    config: Config, paths: StatePaths, wait_s: float, old: "_Answering", *, now: bool
) -> Started:
    """Have a daemon begin anew in its own process, and return once it has.

    Raises:
        GatewayError: It could not serve as it stands now, and goes on; or it does not come back.
    """
    where = Place(config.admin_socket, config.ledger.path, 0)
    with show.waiting("Restarting: calls in flight may end"):
        Control(where.socket, timeout_s=_LOOK_S).post("/control/restart", {"hurry": now})
        ends = time.monotonic() + wait_s
        while time.monotonic() < ends:
            new = _answer(where)
            if new and new.started_at != old.started_at:
                return Started(new.url, new.pid, config.path, paths.log)
            time.sleep(_PAUSE_S)
    raise GatewayError(
        f"The daemon (pid {old.pid}) has not come back after {show.duration(wait_s)}",
        hint="`tollway status` says whether it runs",
    )


def _stop(where: Place, *, now: bool) -> int | None:
    """Return the pid of the daemon that has ended, None where none was running.

    Raises:
        GatewayError: It is another user's, or still there when the time was up.
    """
    pid = _pid(where)
    process = None if pid is None else _opened(pid)
    if pid is None or process is None:
        return None
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        if now:
            # Another signal: two equal ones that wait for the daemon become one.
            signal.pidfd_send_signal(process, signal.SIGINT)
        with show.waiting("Stopping: calls in flight may end"):
            ended, _, _ = select.select([process], [], [], where.drain_s + _MARGIN_S)
    except PermissionError as fault:
        raise GatewayError(f"The daemon (pid {pid}) is another user's") from fault
    finally:
        os.close(process)
    if not ended:
        raise GatewayError(
            f"The daemon (pid {pid}) has not ended in time",
            hint="`tollway down --now` cuts what is left"
            if not now
            else f"`kill -9 {pid}` ends it; the ledger recovers at the next start",
        )
    return pid


def _pid(where: Place) -> int | None:
    if answer := _answer(where):
        return answer.pid
    # It may hang, or speak of other things. Then the lock of the ledger says who it is.
    held = holder(where.ledger)
    return held.pid if held and held.pid else None
