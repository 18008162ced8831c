"""One daemon makes way for the next without a refused connection.

The one rule: the listening socket changes hands only once the old daemon has settled every call
and let go of the ledger. Until then connections wait in the socket's backlog. The next daemon
proves first that it could serve; if it ends before its turn, the old one goes on.

The runs of `tollway run` go with the socket, which is why their calls never meet a daemon that
does not know them: what they spent is in the ledger by then, and nothing of them is held. They go
as the hashes of their secrets, over the owner's own socket or in this process's memory.
"""

import asyncio
import contextlib
import fcntl
import os
import socket
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from tollway.daemon import early, secrets, tls
from tollway.daemon.config.load import load
from tollway.daemon.config.schema import Config
from tollway.daemon.errors import CannotStart, LedgerUnavailable
from tollway.daemon.ledger import upgrade
from tollway.daemon.ledger.faults import reason
from tollway.daemon.ledger.lock import holder, refuse_second_name
from tollway.daemon.ledger.reading import open_read_only
from tollway.daemon.ledger.schema import VERSION, version
from tollway.daemon.process import bind
from tollway.daemon.runs import Carried

PATH = "/control/handover"
_FIRST_FD = 3  # where systemd puts them: sd_listen_fds(3)
_MOST_FDS = 32
_ABOVE = 256  # no descriptor that is put in place for the next program is at or below it
_ANSWER_WITHIN_S = 30.0
_SEND_WITHIN_S = 5.0
_LOOK_WITHIN_S = 60.0
_FREE_WITHIN_S = 60.0
_PAUSE_S = 0.02
_MOST_LINES = 12
_HANDED = b"listen\n"
_RUNS = "TOLLWAY_RUNS"  # "PID:FD": where this process's last program left its runs
_MOST_BYTES = 1 << 26
_PROGRAM = (sys.executable, "-P", "-m", "tollway.daemon")


class Offer(msgspec.Struct, frozen=True):
    """What a new daemon says to the one that runs: the address that it would serve.

    Without `begin` it only asks whether that is the same address. `hurry` cuts the calls that
    run.
    """

    host: str
    port: int
    begin: bool = False
    hurry: bool = False


class Same(msgspec.Struct, frozen=True):
    """The answer: whether the old daemon's sockets are of that address."""

    same: bool


class Handed(msgspec.Struct, frozen=True):
    """What one daemon leaves to the next: its listening sockets and the runs that it knew.

    `runs` is None where nothing was said of them: it is no daemon's, or an older one's.
    """

    sockets: list[socket.socket] = []
    runs: tuple[Carried, ...] | None = None


class Successor:
    """The old daemon's end of the connection on which the sockets go over."""

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection beyond the request that came on it."""
        self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        self._socket.setblocking(False)

    @property
    def gone(self) -> bool:
        """Whether the new daemon has ended, or given up."""
        try:
            return self._socket.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def give(self, handed: Handed) -> bool:
        """Hand the listening sockets and the runs over; return whether they were taken."""
        self._socket.settimeout(_SEND_WITHIN_S)
        try:
            socket.send_fds(self._socket, [_HANDED], [one.fileno() for one in handed.sockets])
            # Behind the word, where an older daemon does not look.
            self._socket.sendall(msgspec.json.encode(handed.runs))
        except OSError:
            return False
        finally:
            self._socket.close()
        return True

    def close(self) -> None:
        """Give nothing."""
        self._socket.close()


def check(config: Config) -> None:
    """Return if a daemon with this configuration could serve, as far as can be known beforehand.

    Raises:
        SecretError: Providers' secrets cannot be had; the message has a line for each.
        ConfigError: The certificate or its key cannot be used.
        LedgerInvalid: The ledger is another program's, or a newer Tollway's, or has two names.
        LedgerUnavailable: It cannot be read, or there is no room to upgrade it.
    """
    secrets.demand(config)
    tls.read(config)
    path = config.ledger.path
    if not path.exists():
        return  # it will be made
    refuse_second_name(path)
    try:
        # An older version is no fault: the daemon upgrades it when it opens it.
        with contextlib.closing(open_read_only(path)) as db:
            if 0 < version(db, path) < VERSION:
                upgrade.require_room(db, path.parent)
    except (sqlite3.Error, OSError) as fault:
        why = reason(fault, path)
        raise LedgerUnavailable(
            f"The ledger `{path}` cannot be used: {why.what}", hint=why.fix
        ) from fault


def take_over(config: Config, *, hurry: bool = False) -> Handed:
    """Return the sockets to listen on, once the daemon that ran has let go of its ledger.

    They are the old daemon's where it serves the same address, else new ones. Empty where there
    is no old daemon, or it died on the way: then the address is free to be bound. Its runs come
    with them.

    Raises:
        GatewayError: This one could not serve, or the old one refuses; it goes on untouched.
    """
    check(config)
    host, port = config.server.host, config.server.port
    try:
        with _connection(config.admin_socket) as one:
            same = _asked(one, Offer(host, port)).same
    except (FileNotFoundError, ConnectionRefusedError):
        return Handed()
    own = [] if same else bind(host, port)
    try:
        with _connection(config.admin_socket) as one:
            _asked(one, Offer(host, port, begin=True, hurry=hurry))
            one.settimeout(None)  # it ends by its own deadline, or with its process
            handed = _handed(one)
        _until_free(config.ledger.path)
    except BaseException:  # an interrupt too: the new address is given back
        for mine in own:
            mine.close()
        raise
    if same:
        return handed
    for old in handed.sockets:
        old.close()
    return Handed(own, handed.runs)


def _until_free(ledger: Path) -> None:
    """Return once nobody holds the ledger, or has held it for too long to be waited for.

    The old daemon gives up on a disk that does not answer; its process ends when that does.
    """
    ends = time.monotonic() + _FREE_WITHIN_S
    while holder(ledger) and time.monotonic() < ends:
        time.sleep(_PAUSE_S)


def _connection(path: Path) -> socket.socket:
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    one.settimeout(_ANSWER_WITHIN_S)
    try:
        one.connect(str(path))
    except OSError:
        one.close()
        raise
    return one


def _asked(one: socket.socket, offer: Offer) -> Same:
    """Send an offer and read its answer, and not a byte more: sockets come behind it."""
    body = msgspec.json.encode(offer)
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    try:
        one.sendall(head.encode() + body)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += _byte(one)
        said, _, _ = answer.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in said.split(b"\r\n")[1:])
        content = b"".join(_byte(one) for _ in range(int(fields[b"content-length"])))
    except (OSError, ValueError, KeyError) as fault:
        raise CannotStart(
            "The daemon that runs does not answer in time, and was left as it is",
            hint="`tollway down` stops it, `tollway up` starts another",
        ) from fault
    if said.split(b" ")[1] == b"200":
        return msgspec.json.decode(content, type=Same)
    try:
        error = msgspec.json.decode(content)["error"]
        refused = CannotStart(str(error["message"]), hint=str(error.get("hint") or ""))
    except (msgspec.DecodeError, KeyError, TypeError):
        refused = CannotStart("The daemon that runs cannot make way for another")
    raise refused


def _byte(one: socket.socket) -> bytes:
    # One at a time: the sockets come with the bytes behind the answer, and are lost on a reader
    # that takes those without asking for descriptors.
    found = one.recv(1)
    if not found:
        raise ConnectionResetError
    return found


def _handed(one: socket.socket) -> Handed:
    """Return what comes, nothing where the old daemon ended without a word."""
    try:
        word, fds, _, _ = socket.recv_fds(one, len(_HANDED), _MOST_FDS)
    except ConnectionResetError:
        return Handed()
    if word != _HANDED:
        return Handed()
    sockets = [_adopted(fd) for fd in fds]
    one.settimeout(_SEND_WITHIN_S)
    said = b""
    with contextlib.suppress(OSError):
        while len(said) < _MOST_BYTES and (piece := one.recv(1 << 16)):
            said += piece
    return Handed(sockets, _runs(said))


def _runs(said: bytes) -> tuple[Carried, ...] | None:
    """Return the runs that were told of; None for words that are no list of them.

    Without them the daemon serves all the same: runs that go on tell of themselves.
    """
    try:
        return msgspec.json.decode(said, type=tuple[Carried, ...])
    except msgspec.MsgspecError:
        return None


def _adopted(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)  # a model's worker must not hold the port
    one = socket.socket(fileno=fd)
    one.setblocking(False)
    return one


def inherited(config: Config) -> Handed:
    """Return the sockets that systemd, or this process before it began anew, listens on for us.

    The environment is `sd_listen_fds(3)`'s, and is gone afterwards. Empty without any. The runs
    that this process knew before come with them.

    Raises:
        CannotStart: They are no sockets of `server.listen`: what that allows is not asked of
            another address.
    """
    runs = _left_behind()
    names = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    pid, count, _ = (os.environ.pop(name, "") for name in names)
    if pid != str(os.getpid()) or not count.isdecimal():
        return Handed([], runs)
    found = [_adopted(fd) for fd in range(_FIRST_FD, _FIRST_FD + min(int(count), _MOST_FDS))]
    for one in found:
        if not _is_of(one, config):
            raise CannotStart(
                f"The socket that was passed, `{_shown(one)}`, is not of `server.listen`, "
                f'"{config.server.host}:{config.server.port}"',
                hint="Make `ListenStream=` of the socket unit and `server.listen` the same: "
                "`tollway service install` does",
            )
    return Handed(found, runs)


def _left_behind() -> tuple[Carried, ...] | None:
    """Return the runs that this process's last program knew; None where it said nothing."""
    pid, _, fd = os.environ.pop(_RUNS, "").partition(":")
    if pid != str(os.getpid()) or not fd.isdecimal():
        return None
    try:
        with os.fdopen(int(fd), "rb") as memory:
            memory.seek(0)
            return _runs(memory.read())
    except OSError:
        return None


def _shown(one: socket.socket) -> str:
    address = one.getsockname()
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)


def _is_of(one: socket.socket, config: Config) -> bool:
    """Whether a socket listens at an address that `server.listen` stands for."""
    if one.type != socket.SOCK_STREAM or one.family not in {socket.AF_INET, socket.AF_INET6}:
        return False
    if not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    host, port = config.server.host, config.server.port
    mine = one.getsockname()[:2]
    named = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return any(mine[0] == at[0] and port in {0, mine[1]} for *_, at in named)


def look(config: Config, serving: str) -> int:
    """Return 0 if a daemon with this configuration could serve after the one at "host:port".

    Raises:
        GatewayError: It could not.
    """
    check(config)
    server = config.server
    if f"{server.host}:{server.port}" != serving:
        for one in bind(server.host, server.port):
            one.close()
    return 0


async def looked(serving: Config) -> None:
    """Return if a new program, as it stands on disk now, could serve in the place of this one.

    Raises:
        CannotStart: It could not; in its own words.
    """
    command = [*_PROGRAM, "--config", str(serving.path)]
    command += ["--check", f"{serving.server.host}:{serving.server.port}"]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_LOOK_WITHIN_S):
            _, said = await process.communicate()
    except TimeoutError:
        raise CannotStart("The new program did not start in time") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = said.decode("utf-8", "replace").strip().splitlines()
        hints = [line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")]
        words = [line.removeprefix("error: ") for line in lines if not line.startswith("hint: ")]
        raise CannotStart("\n".join(words[-_MOST_LINES:]), hint="\n".join(hints))


def begin_anew(config: Config, handed: Handed) -> None:
    """Become a new program with the same process id, which inherits these sockets and runs.

    Whoever watches over this process, a terminal, systemd or a container, sees it go on. The
    sockets are left behind where the file, as it stands now, wants another address.
    """
    early.hold()
    sockets = handed.sockets
    server = load(config.path).server
    if (server.host, server.port) != (config.server.host, config.server.port):
        for one in sockets:
            one.close()
        sockets = []
    # First out of the way, or one would be put over another.
    high = [_moved(one) for one in (*map(socket.socket.fileno, sockets), *_memory(handed.runs))]
    for place, fd in enumerate(high, _FIRST_FD):
        os.dup2(fd, place, inheritable=True)
    if sockets:
        os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets))}
    if len(high) > len(sockets):
        os.environ[_RUNS] = f"{os.getpid()}:{_FIRST_FD + len(sockets)}"
    sys.stdout.flush()
    sys.stderr.flush()
    command = [*_PROGRAM, "--config", str(config.path)]
    os.execv(command[0], command)  # noqa: S606 - our own interpreter, no shell


def _moved(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE)


def _memory(runs: Sequence[Carried] | None) -> Iterator[int]:
    """Yield a descriptor to read the runs from: of memory, or else of a file without a name."""
    try:
        if sys.platform == "linux":
            fd = os.memfd_create("tollway-runs")
        else:
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        os.write(fd, msgspec.json.encode(runs))
    except OSError:
        return  # no room for it is no reason not to begin: the runs then tell of themselves
    yield fd
