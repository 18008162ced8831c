"""What the daemon has of the system: sockets, a pidfile, its limits, the word that it is ready."""

import contextlib
import errno
import os
import resource
import socket
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from tollway.daemon.config.paths import private_folder
from tollway.daemon.errors import CannotStart
from tollway.daemon.runs import Carried
from tollway.providers.errors import GatewayError

BACKLOG = 1024
UNLIMITED = 2**31  # connections, where the system bounds no files
_PRIVATE = 0o077
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # no such address here, or not its family
_LISTEN = "0A"  # the state's number in /proc/net/tcp


# Who watches over the process: nobody, whoever ran `tollway serve`, or systemd.
StartedBy = Literal["up", "serve", "systemd"]


class Ready(msgspec.Struct, frozen=True):
    """What the starter is told: `ready`, or the error that there was."""

    ready: bool
    pid: int
    listen: str = ""
    url: str = ""
    error: dict[str, str] | None = None


class Start(msgspec.Struct, frozen=True):
    """How a daemon came to be.

    `ready_fd` is the pipe of who waits for it, `sockets` are those that it was given, `runs` what
    the daemon before it knew of `tollway run` (None: there was none that said so), and `by` says
    who watches over the process.
    """

    ready_fd: int | None = None
    sockets: tuple[socket.socket, ...] = ()
    by: StartedBy = "up"
    runs: tuple[Carried, ...] | None = None


def too_poor(fault: BaseException) -> CannotStart | None:
    """Return the words for a fault of a process that the system lets have too little, else None."""
    code = fault.errno if isinstance(fault, OSError) else None
    if code in (errno.EMFILE, errno.ENFILE):
        return CannotStart(
            "The daemon may not open as many files as it needs",
            hint="`ulimit -n 4096`, or LimitNOFILE of its service, lets it",
        )
    no_thread = isinstance(fault, RuntimeError) and "start new thread" in str(fault)
    if no_thread or code == errno.ENOMEM or isinstance(fault, MemoryError):
        return CannotStart(
            f"The daemon {'may begin no thread' if no_thread else 'finds too little memory'}",
            hint="`ulimit -v unlimited` and `ulimit -u unlimited`, or MemoryMax and TasksMax of"
            " its service, let it have more",
        )
    return None


def tell(fd: int | None, word: Ready) -> None:
    """Tell whoever waits at the other end of a pipe, in one line of JSON, and close it."""
    if fd is None:
        return
    # The starter may be gone: that is no reason not to serve.
    with contextlib.suppress(OSError):
        os.write(fd, msgspec.json.encode(word) + b"\n")
        os.close(fd)


def tell_error(fd: int | None, error: GatewayError) -> None:
    """Tell the starter why there will be no daemon."""
    said = {"message": error.message, "hint": error.hint, "code": error.code}
    tell(fd, Ready(ready=False, pid=os.getpid(), error=said))


def make_private() -> None:
    """Let no file of ours be anyone else's to read, and a crash leave none of what was in memory.

    A core file has providers' keys and prompts in it, of a local model's worker too. The hard
    limit stays: `prlimit --core=unlimited --pid PID` is for who looks for a fault.
    """
    os.umask(_PRIVATE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def raise_file_limit() -> int:
    """Allow as many open files as the system lets us; return how many connections that is for.

    Half of them: a call has a connection on either side.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return UNLIMITED if soft < 0 else max(16, soft // 2 - 64)


def bind(host: str, port: int) -> list[socket.socket]:
    """Return sockets bound to every address that a host name stands for, not yet listening.

    Of several, those that this machine does not have are left out: `localhost` is ::1 too where
    IPv6 is turned off, as in containers.

    Raises:
        CannotStart: Taken, not ours to take, or no address of this machine.
    """
    bound: list[socket.socket] = []
    absent: OSError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for info in dict.fromkeys(found):
            try:
                _bind(info, bound)
            except OSError as fault:
                if fault.errno not in _ABSENT:
                    raise
                absent = fault
        if absent is not None and not bound:
            raise absent
    except OSError as fault:
        close_all(bound)
        raise _cannot_listen(host, port, fault) from fault
    return bound


def _bind(info: tuple[Any, ...], bound: list[socket.socket]) -> None:
    family, kind, protocol, _, address = info
    one = socket.socket(family, kind, protocol)
    try:
        # Connections of a daemon that has just ended do not hold its port; a listener does.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.listen(BACKLOG)
    except OSError:
        one.close()
        raise
    bound.append(one)


def close_all(sockets: Iterable[socket.socket]) -> None:
    """Close them."""
    for one in sockets:
        one.close()


def _cannot_listen(host: str, port: int, fault: OSError) -> CannotStart:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if fault.errno == errno.EADDRINUSE:
        who = listener(port)
        return CannotStart(
            f"The address `{address}` is in use" + (f" by {who}" if who else ""),
            hint="Stop that, or set another `server.listen` in gateway.toml",
        )
    if fault.errno == errno.EACCES:
        return CannotStart(
            f"The address `{address}` is not allowed to this user",
            hint="Ports below 1024 belong to root; set another `server.listen`",
        )
    return too_poor(fault) or CannotStart(
        f"The address `{address}` cannot be listened on: {fault.strerror or fault}",
        hint="`server.listen` must be an address of this machine",
    )


def listener(port: int) -> str:
    """Return who listens on a TCP port, as "`name` (pid 12)", or "" where that cannot be seen."""
    inodes = set(_listening(port))
    if not inodes:
        return ""
    for process in Path("/proc").glob("[0-9]*"):
        # Other users' processes are closed to us, and any may end while we look.
        with contextlib.suppress(OSError):
            for link in (process / "fd").iterdir():
                if os.readlink(link).removeprefix("socket:") in inodes:
                    return f"{_program(process)} (pid {process.name})"
    return ""


def _listening(port: int) -> Iterator[str]:
    """Yield "[inode]" of each socket that listens on a port."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                field = line.split()
                if field[3] == _LISTEN and int(field[1].rpartition(":")[2], 16) == port:
                    yield f"[{field[9]}]"


def _program(process: Path) -> str:
    words = (process / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    if any("tollway" in word for word in words):
        return "another Tollway"
    return f"`{Path(words[0]).name}`"


def bind_admin(path: Path) -> socket.socket:
    """Return the socket for the owner, listening: its file has mode 0600.

    A file that a dead daemon left is replaced.

    Raises:
        CannotStart: Somebody answers there, or it cannot be made.
        ConfigError: Its folder is open to others.
    """
    hint = "`server.admin_socket` in gateway.toml sets another path"
    private_folder(path.parent)
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        _clear(path, hint)
        one.bind(str(path))
        one.listen(BACKLOG)
    except OSError as fault:
        one.close()
        # A path that is too long comes without an errno.
        why = fault.strerror or fault
        raise CannotStart(f"The admin socket `{path}` cannot be made: {why}", hint=hint) from fault
    except CannotStart:
        one.close()
        raise
    finally:
        os.umask(before)
    return one


def _clear(path: Path, hint: str) -> None:
    """Remove a socket file at which nobody answers."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise CannotStart(f"`{path}` is not a socket, and is in the admin socket's way", hint=hint)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except FileNotFoundError:
            return
        else:
            raise CannotStart(
                f"Another daemon answers at `{path}`",
                hint="`tollway down` stops it; one daemon serves one ledger",
            )


class PidFile:
    """The daemon's process id in a file, for people. The ledger's lock is what counts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self) -> None:
        """Write our id over whatever a dead daemon left; on a full disk there is no file then."""
        with contextlib.suppress(OSError):
            try:
                self.path.write_text(f"{os.getpid()}\n")
            except OSError:
                self.path.unlink()  # empty, which nobody would remove as theirs

    def remove(self) -> None:
        """Remove it, if it is still ours."""
        with contextlib.suppress(OSError):
            if self.path.read_text().strip() == str(os.getpid()):
                self.path.unlink()
