"""One daemon makes way for the next without a refused connection.

The one rule: the listening socket alone changes hands, and only once the old daemon has settled
every call and let go of the ledger. Until then connections wait in the socket's backlog. The next
daemon proves first that it could serve; if it ends before its turn, the old one goes on.
"""

import asyncio
import contextlib
import fcntl
import os
import socket
import sqlite3
import sys
from pathlib import Path

import msgspec

from tollway.daemon import secrets, tls
from tollway.daemon.config.load import load
from tollway.daemon.config.schema import Config
from tollway.daemon.errors import CannotStart, LedgerUnavailable
from tollway.daemon.ledger.faults import reason
from tollway.daemon.ledger.reading import open_read_only
from tollway.daemon.ledger.schema import version
from tollway.daemon.process import bind

PATH = "/control/handover"
_FIRST_FD = 3  # where systemd puts them: sd_listen_fds(3)
_MOST_FDS = 32
_ABOVE = 256  # no descriptor that is put in place for the next program is at or below it
_ANSWER_WITHIN_S = 30.0
_SEND_WITHIN_S = 5.0
_LOOK_WITHIN_S = 60.0
_MOST_LINES = 12
_HANDED = b"listen\n"
_PROGRAM = (sys.executable, "-P", "-m", "tollway.daemon.run")


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

    def give(self, sockets: list[socket.socket]) -> bool:
        """Hand the listening sockets over; return whether they were taken."""
        self._socket.settimeout(_SEND_WITHIN_S)
        try:
            socket.send_fds(self._socket, [_HANDED], [one.fileno() for one in sockets])
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
        LedgerInvalid: The ledger is another program's, or a newer Tollway's.
        LedgerUnavailable: It cannot be read.
    """
    secrets.demand(config)
    tls.read(config)
    path = config.ledger.path
    if not path.exists():
        return  # it will be made
    try:
        # An older version is no fault: the daemon upgrades it when it opens it.
        with contextlib.closing(open_read_only(path)) as db:
            version(db, path)
    except sqlite3.Error as fault:
        raise LedgerUnavailable(
            f"The ledger `{path}` cannot be read: {reason(fault).what}", hint=reason(fault).fix
        ) from fault


def take_over(config: Config, *, hurry: bool = False) -> list[socket.socket]:
    """Return the sockets to listen on, once the daemon that ran has let go of its ledger.

    They are the old daemon's where it serves the same address, else new ones. Empty where there
    is no old daemon, or it died on the way: then the address is free to be bound.

    Raises:
        GatewayError: This one could not serve, or the old one refuses; it goes on untouched.
    """
    check(config)
    host, port = config.server.host, config.server.port
    try:
        with _connection(config.admin_socket) as one:
            same = _asked(one, Offer(host, port)).same
    except (FileNotFoundError, ConnectionRefusedError):
        return []
    own = [] if same else bind(host, port)
    try:
        with _connection(config.admin_socket) as one:
            _asked(one, Offer(host, port, begin=True, hurry=hurry))
            one.settimeout(None)  # it ends by its own deadline, or with its process
            handed = _handed(one)
    except BaseException:  # an interrupt too: the new address is given back
        for mine in own:
            mine.close()
        raise
    if same:
        return handed
    for old in handed:
        old.close()
    return own


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


def _handed(one: socket.socket) -> list[socket.socket]:
    """Return the sockets that come, none where the old daemon ended without a word."""
    try:
        word, fds, _, _ = socket.recv_fds(one, len(_HANDED), _MOST_FDS)
    except ConnectionResetError:
        return []
    if word != _HANDED:
        return []
    return [_adopted(fd) for fd in fds]


def _adopted(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)  # a model's worker must not hold the port
    one = socket.socket(fileno=fd)
    one.setblocking(False)
    return one


def inherited(config: Config) -> list[socket.socket]:
    """Return the sockets that systemd, or this process before it began anew, listens on for us.

    The environment is `sd_listen_fds(3)`'s, and is gone afterwards. Empty without any.

    Raises:
        CannotStart: They are no sockets of `server.listen`: what that allows is not asked of
            another address.
    """
    names = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    pid, count, _ = (os.environ.pop(name, "") for name in names)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    found = [_adopted(fd) for fd in range(_FIRST_FD, _FIRST_FD + min(int(count), _MOST_FDS))]
    for one in found:
        if not _is_of(one, config):
            raise CannotStart(
                f"The socket that was passed, `{_shown(one)}`, is not of `server.listen`, "
                f'"{config.server.host}:{config.server.port}"',
                hint="Make `ListenStream=` of the socket unit and `server.listen` the same: "
                "`tollway service install` does",
            )
    return found


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


def begin_anew(config: Config, sockets: list[socket.socket]) -> None:
    """Become a new program with the same process id, which inherits these sockets.

    Whoever watches over this process, a terminal, systemd or a container, sees it go on. The
    sockets are left behind where the file, as it stands now, wants another address.
    """
    server = load(config.path).server
    if (server.host, server.port) != (config.server.host, config.server.port):
        for one in sockets:
            one.close()
        sockets = []
    # First out of the way, or one would be put over another.
    high = [_moved(one.fileno()) for one in sockets]
    for place, fd in enumerate(high, _FIRST_FD):
        os.dup2(fd, place, inheritable=True)
    if sockets:
        os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets))}
    sys.stdout.flush()
    sys.stderr.flush()
    command = [*_PROGRAM, "--config", str(config.path)]
    os.execv(command[0], command)  # noqa: S606 - our own interpreter, no shell


def _moved(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE)
