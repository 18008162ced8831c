"""Asks the running daemon, over its Unix socket: whoever may open that is the owner."""

from __future__ import annotations

import http.client
import os
import socket
import struct
from collections.abc import Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TypeVar, cast

import msgspec

from tollway.cli.broken import find, rough
from tollway.daemon.config.load import load
from tollway.daemon.config.paths import data_folder, places_of, socket_beside
from tollway.daemon.config.schema import Config, Server
from tollway.daemon.errors import (
    BudgetSpent,
    ConfigError,
    DaemonUnreachable,
    Draining,
    LedgerUnavailable,
    ModelNotFound,
    NotFound,
    SecretError,
    Unpriced,
)
from tollway.daemon.ledger.lock import holder
from tollway.providers.errors import GatewayError, RequestInvalid

_KINDS: dict[str, type[GatewayError]] = {
    kind.code: kind
    for kind in (
        BudgetSpent,
        ConfigError,
        Draining,
        LedgerUnavailable,
        ModelNotFound,
        NotFound,
        RequestInvalid,
        SecretError,
        Unpriced,
    )
}

T = TypeVar("T")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP to a socket file. The Host header says `localhost`."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
            self._check_owner(self.sock)
        except OSError:
            self.sock.close()
            raise

    def _check_owner(self, connected: socket.socket) -> None:
        """Refuse a stranger's socket: prompts and keys go over it, and /tmp is everyone's."""
        if hasattr(socket, "SO_PEERCRED"):
            size = struct.calcsize("3i")
            peer = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
            _, uid, _ = struct.unpack("3i", peer)
            if os.geteuid() not in (0, uid):
                raise PermissionError


class Beside(msgspec.Struct):
    """What came beside a stream's data: headers, names in lower case, and comments, in order."""

    headers: dict[str, str] = {}
    comments: list[str] = []

    @property
    def streamed(self) -> bool:
        """Whether the answer is a stream of events."""
        return self.headers.get("content-type", "").startswith("text/event-stream")


class Control:
    """The daemon behind a socket. Each question is one connection.

    `ledger` is that of its file: where nobody answers, it tells whether a daemon runs all the same.
    """

    def __init__(
        self, socket_path: Path, *, timeout_s: float = 10.0, ledger: Path | None = None
    ) -> None:
        self.socket_path = socket_path
        self.ledger = ledger
        self._timeout_s = timeout_s

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> dict[str, object]:
        """Return what the daemon answers, as JSON's types; to whom a key in `headers` names.

        Raises:
            DaemonUnreachable: Nobody answers at the socket, or not in time.
            GatewayError: The daemon refused, in its own words; the class that its code names.
        """
        return self._ask("GET", path, None, self._timeout_s, headers)

    def post(
        self, path: str, body: object = None, *, timeout_s: float | None = None
    ) -> dict[str, object]:
        """Send `body` as JSON (none when None) and return the answer. Raises as `get` does."""
        return self._ask("POST", path, body, timeout_s or self._timeout_s)

    def stream(
        self,
        path: str,
        body: object,
        *,
        headers: Mapping[str, str] | None = None,
        beside: Beside | None = None,
        timeout_s: float = 600.0,
    ) -> Generator[bytes, None, None]:
        """Yield the data of each server-sent event as it comes, to the end of the answer.

        `headers` are sent, `beside` is filled with what comes beside the data. `timeout_s`
        bounds the silence between two pieces, not the whole. An answer that is one JSON object
        comes as one piece. Raises as `get` does, also while the stream runs.
        """
        beside = beside or Beside()
        with closing(_UnixConnection(self.socket_path, timeout_s)) as connection:
            answer = self._send(connection, "POST", path, body, headers)
            beside.headers |= {name.lower(): value for name, value in answer.getheaders()}
            if not beside.streamed:
                yield self._read(answer)
                return
            data: list[bytes] = []
            while line := self._line(answer):
                field, _, value = line.rstrip(b"\r\n").partition(b":")
                if field == b"data":
                    data.append(value.removeprefix(b" "))
                elif value:
                    if not field:
                        beside.comments.append(value.strip().decode("utf-8", "replace"))
                elif not field and data:
                    yield b"\n".join(data)
                    data = []

    def _ask(
        self,
        method: str,
        path: str,
        body: object,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, object]:
        with closing(_UnixConnection(self.socket_path, timeout_s)) as connection:
            content = self._read(self._send(connection, method, path, body, headers))
        return cast("dict[str, object]", msgspec.json.decode(content or b"{}"))

    def _send(
        self,
        connection: _UnixConnection,
        method: str,
        path: str,
        body: object,
        headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        content = None if body is None else msgspec.json.encode(body)
        sent = {} if content is None else {"content-type": "application/json"}
        try:
            connection.request(method, path, content, {**sent, **(headers or {})})
            answer = connection.getresponse()
        except TimeoutError as fault:
            raise self._silent() from fault
        except (OSError, http.client.HTTPException) as fault:
            raise self._gone(fault) from fault
        if answer.status >= 400:
            error = refusal(answer.status, self._read(answer))
            # What it says of a path; of a key or a run that it lacks, it says another thing.
            if isinstance(error, NotFound) and f"{path}` here" in error.message:
                raise OtherVersion(
                    f"The daemon is of another version: it has no `{path}`",
                    hint="`tollway restart` puts this version in its place",
                ) from error
            raise error
        return answer

    def _read(self, answer: http.client.HTTPResponse) -> bytes:
        try:
            return answer.read()
        except TimeoutError as fault:
            raise self._silent() from fault
        except (OSError, http.client.HTTPException) as fault:
            raise self._gone(fault) from fault

    def _line(self, answer: http.client.HTTPResponse) -> bytes:
        try:
            return answer.readline()
        except TimeoutError as fault:
            raise self._silent() from fault
        except (OSError, http.client.HTTPException) as fault:
            raise self._gone(fault) from fault

    def _silent(self) -> GatewayError:
        return DaemonUnreachable(
            f"The daemon at `{self.socket_path}` does not answer in time",
            hint="`tollway status` asks again; `tollway restart` starts it afresh",
        )

    def _gone(self, fault: OSError | http.client.HTTPException) -> GatewayError:
        if isinstance(fault, PermissionError):
            return SocketClosed(
                f"The daemon's socket `{self.socket_path}` is another user's",
                hint="Only the user who started the daemon may ask it",
            )
        if isinstance(fault, FileNotFoundError | ConnectionRefusedError):
            if self.ledger is not None and (held := holder(self.ledger)) and held.pid:
                # Its socket was deleted, or is another in the file since it began.
                return DaemonUnreachable(
                    f"No daemon answers at `{self.socket_path}`, and process {held.pid} has its"
                    " ledger",
                    hint="`tollway restart` starts the daemon afresh, with the socket of the file",
                )
            return DaemonUnreachable(
                f"No daemon answers at `{self.socket_path}`", hint="`tollway up` starts it"
            )
        return DaemonUnreachable(
            f"The daemon at `{self.socket_path}` broke off: {fault or type(fault).__name__}",
            hint="`tollway status` says whether it still runs",
        )


class SocketClosed(DaemonUnreachable):
    """The daemon is another user's: nothing that this one does brings an answer."""


class OtherVersion(GatewayError):
    """The daemon does not say what this program asks it for: it is of another version."""

    code = "other_version"


def version_note(said: Mapping[str, object]) -> str:
    """Return what to say of a daemon whose version is not this program's; "" where they agree."""
    theirs, ours = said.get("version"), _own_version()
    if theirs is None or theirs == ours:
        return ""
    return f"The daemon is of version {theirs}, this is {ours}: `tollway restart` brings it up"


def convert(said: object, kind: type[T]) -> T:
    """Return a daemon's answer as a Struct of this program's.

    What an older daemon leaves out takes the field's default; what a newer one adds is left alone.

    Raises:
        OtherVersion: Something is missing that has no default, or is of another type.
    """
    try:
        return msgspec.convert(said, kind)
    except msgspec.ValidationError as fault:
        theirs = said.get("version") if isinstance(said, dict) else None
        ours = _own_version()
        told = (
            "began before this program was replaced"
            if theirs == ours
            else (f"is of {f'version {theirs}' if theirs else 'another version'}, this is {ours}")
        )
        raise OtherVersion(
            f"The daemon {told}; its answer is not understood: {fault}",
            hint="`tollway restart` puts this version in its place",
        ) from fault


def _own_version() -> str:
    from importlib.metadata import version  # noqa: PLC0415 - 20 ms that only a few need

    return version("tollway")


def refusal(status: int, body: bytes) -> GatewayError:
    """Return the error that an answer's body describes, in the same words.

    Both shapes are read: the control plane's {message, hint, code} and the OpenAI dialect's.
    """
    try:
        said = msgspec.json.decode(body)["error"]
        message, hint, code = said["message"], said.get("hint") or "", said.get("code") or ""
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return GatewayError(f"The daemon answered {status} without saying why")
    kind = _KINDS.get(str(code), GatewayError)
    error = kind(str(message), hint=str(hint))
    error.status = status
    if kind is GatewayError and code:
        error.code = str(code)
    return error


def load_config(explicit: Path | None) -> Config:
    """Return the configuration that a command works with.

    Raises:
        ConfigError: There is none, or it is wrong; a line for each mistake.
    """
    return load(find(explicit))


class Place(msgspec.Struct, frozen=True):
    """Where to find the daemon of a gateway.toml, as far as the file can be read now."""

    socket: Path
    ledger: Path
    drain_s: float


def place(explicit: Path | None) -> Place:
    """Return where the daemon of this configuration is, also where its file is broken now.

    `status` must be able to say what is wrong with the file, and `down` to stop what runs.

    Raises:
        ConfigError: There is no file, or it is broken, and no daemon is where it seems to point.
    """
    try:
        path = find(explicit)
    except ConfigError:
        if (without := _place_without(explicit)) is None:
            raise
        return without
    try:
        config = load(path)
    except ConfigError:
        found = rough(path)
        ledger, admin = found.ledger, found.text("server", "admin_socket")
        socket_path = (
            path.absolute().parent / Path(admin).expanduser() if admin else socket_beside(ledger)
        )
        if not socket_path.exists():
            raise
        return Place(socket_path, ledger, Server().drain)
    return Place(config.admin_socket, config.ledger.path, config.server.drain)


def _place_without(explicit: Path | None) -> Place | None:
    """Return where a daemon with the usual ledger serves a file that is gone now, if one does."""
    ledger = data_folder() / "ledger.db"
    where = Place(socket_beside(ledger), ledger, Server().drain)
    try:
        status = Control(where.socket).get("/control/status")
        served = msgspec.convert(status["config"], dict[str, object])["path"]
    except (GatewayError, KeyError, msgspec.ValidationError):
        return None
    # Another file than this one may be none of this command's business: `down` stops a daemon.
    wanted = {os.path.abspath(path) for path in places_of(explicit)}
    return where if served in wanted else None


def reach(explicit: Path | None) -> Control:
    """Return the daemon that serves this configuration, also where its file is broken now.

    Raises:
        ConfigError: As `place`.
    """
    where = place(explicit)
    return Control(where.socket, ledger=where.ledger)


def require_same_file(served: str, path: Path, *, hint: str = "") -> None:
    """Return when the file that a daemon serves is this very one.

    Raises:
        GatewayError: It is another; the message names it, and `hint` how to go on if not by it.
    """
    if os.path.realpath(served) != os.path.realpath(path):
        raise GatewayError(
            f"The running daemon serves `{served}`",
            hint=hint or f"`tollway --config {served}` changes it",
        )


def reload_daemon(config: Config) -> dict[str, object] | None:
    """Make the daemon serve the file that was just edited; None where no daemon runs.

    Raises:
        GatewayError: The daemon refuses it: the file is valid, but cannot be served.
    """
    try:
        return Control(config.admin_socket, timeout_s=60).post("/control/reload")
    except DaemonUnreachable:
        if holder(config.ledger.path):
            raise
        return None
