"""How notices leave the gateway: a webhook that gets JSON, and a command that gets it on stdin.

Both are the owner's own, and both may hang, fail or be slow: each has one worker behind a queue
of bounded length, a time limit, and its failures stand in the log and in `status`.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec

from tollway.daemon import secrets
from tollway.daemon.config.schema import Alerts as Wanted
from tollway.daemon.config.schema import SecretRef
from tollway.daemon.config.values import is_secret_ref
from tollway.daemon.errors import SecretError
from tollway.daemon.log import printable
from tollway.daemon.tasks import Tasks
from tollway.providers.errors import GatewayError, UpstreamError
from tollway.providers.transport import Request, Timeouts, Transport
from tollway.providers.words import counted

log = logging.getLogger(__name__)

_MOST_WAITING = 200
_TIMEOUTS = Timeouts(connect_s=5.0, first_s=10.0, idle_s=10.0)
_POST_WITHIN_S = 20.0
_COMMAND_WITHIN_S = 30.0
# Before each further try of a webhook; after the last one the notice is given up.
PAUSES_S = (1.0, 4.0, 15.0, 60.0, 240.0)
_PASSING = frozenset({408, 425, 429})  # 4xx that a further try may mend
# All that a command gets of our environment: the rest may hold providers' keys.
_ENVIRONMENT = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR"),
    *("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY"),
)
_LONGEST_WORD = 300
_PIECE = 65_536  # bytes of a command's stderr that are read at once, and kept at most
_MOST_READS = 16


class Notice(msgspec.Struct, frozen=True):
    """One thing that the owner is told. `at` is unix seconds; `facts` are for programs.

    `id` names what is told, not the telling: whoever gets it twice has seen it.
    """

    id: str
    kind: Literal[
        "budget",
        "overrun",
        "report",
        "ledger",
        "ledger_back",
        "provider",
        "provider_back",
        "disk",
        "disk_back",
        "certificate",
    ]
    at: float
    text: str
    facts: dict[str, str | None] = {}


def as_json(notice: Notice) -> bytes:
    """Return a notice as webhooks and commands get it; `text` is what chat services show."""
    at = datetime.fromtimestamp(notice.at, UTC).isoformat(timespec="milliseconds")
    head = {"id": notice.id, "kind": notice.kind, "at": at, "text": notice.text}
    return msgspec.json.encode(head | notice.facts)


# Tells one notice; returns what went wrong, "" for nothing.
Tell = Callable[[Notice], Coroutine[Any, Any, str]]


class Channels:
    """The webhook and the command of the configuration in force."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.pauses_s: tuple[float, ...] = PAUSES_S
        self.post_within_s = _POST_WITHIN_S
        self.command_within_s = _COMMAND_WITHIN_S
        self._tasks = Tasks()
        self._workers: dict[str, _Worker] = {}
        self._wanted = Wanted()
        self._folder = Path()

    @property
    def problems(self) -> tuple[str, ...]:
        """What went wrong when each channel was last used; nothing where it worked."""
        return tuple(one.problem for one in self._workers.values() if one.problem)

    def configure(self, wanted: Wanted, folder: Path) -> None:
        """Use these channels from now on; `folder` is gateway.toml's."""
        self._wanted, self._folder = wanted, folder
        for name, there in (("webhook", wanted.webhook), ("command", wanted.command)):
            if not there and name in self._workers:
                self._workers[name].problem = ""

    def put(self, notice: Notice) -> None:
        """Hand a notice to every channel there is; returns at once."""
        if self._wanted.webhook:
            self._worker("webhook", self._post).put(notice)
        if self._wanted.command:
            self._worker("command", self._run).put(notice)

    def _worker(self, name: str, tell: Tell) -> "_Worker":
        if name not in self._workers:
            worker = self._workers[name] = _Worker(name, tell, self._tasks)
            self._tasks.start(worker.work(), name=f"alerts: {name}")
        return self._workers[name]

    async def emptied(self) -> None:
        """Return once every notice was told or given up."""
        for worker in tuple(self._workers.values()):
            await worker.waiting.join()

    async def close(self) -> None:
        """Stop; what was not told is counted in the log."""
        await self._tasks.close()
        for name, worker in self._workers.items():
            if left := worker.left:
                log.warning("%s did not get to the %s", counted(left, "alert"), name)

    # --- webhook --------------------------------------------------------------------------------

    async def _post(self, notice: Notice) -> str:
        body = as_json(notice)
        for pause_s in (*self.pauses_s, None):
            problem, again = await self._try(notice, body)
            if not problem or not again or pause_s is None:
                return problem
            log.info("the alert webhook failed and is tried again: %s", problem)
            await asyncio.sleep(pause_s)
        raise AssertionError  # the last pause is None

    async def _try(self, notice: Notice, body: bytes) -> tuple[str, bool]:
        """Post once; return what went wrong, "" for nothing, and whether a further try may help."""
        try:
            async with asyncio.timeout(self.post_within_s):
                status = await self._answered(notice, body)
        except TimeoutError:
            return "the webhook does not answer in time", True
        except UpstreamError as error:
            # Their words name the address, which can be a secret.
            return f"the webhook cannot be reached ({error.code})", True
        except GatewayError as error:
            return error.message, False
        if 200 <= status < 300:
            return "", False
        again = status >= 500 or status in _PASSING
        return f"the webhook answered HTTP {status}", again

    async def _answered(self, notice: Notice, body: bytes) -> int:
        if not self._wanted.webhook:
            return 204  # taken out of the file meanwhile
        answer = await self._transport.send(
            Request(
                url=await self._url(self._wanted.webhook),
                headers=(
                    ("content-type", "application/json"),
                    ("user-agent", "tollway"),
                    ("x-tollway-alert", quote(notice.id, safe=" /:=.-")),
                ),
                body=body,
                timeouts=_TIMEOUTS,
            )
        )
        try:
            async for _ in answer.chunks():
                pass
        finally:
            await answer.close()
        return answer.status

    async def _url(self, said: str) -> str:
        if not is_secret_ref(said):
            return said
        found = await asyncio.to_thread(secrets.resolve, SecretRef(said), base=self._folder)
        if urlsplit(found.reveal()).scheme not in {"http", "https"}:
            raise SecretError(f"The secret `{said}` is no webhook's URL")
        return found.reveal()

    # --- command --------------------------------------------------------------------------------

    async def _run(self, notice: Notice) -> str:
        command = self._wanted.command
        if not command:
            return ""
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        body = as_json(notice)
        environment |= {
            "TOLLWAY_ALERT": body.decode(),
            "TOLLWAY_ALERT_KIND": notice.kind,
            # A model's name is its caller's to choose; no variable goes on behind a NUL.
            "TOLLWAY_ALERT_TEXT": printable(notice.text),
        }
        try:
            words = _LastWords()
        except OSError as fault:
            return f"the command `{command[0]}` cannot be run: {fault.strerror}"
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=words.theirs,
                env=environment,
                cwd=self._folder,
                start_new_session=True,  # so that its children end with it
            )
        except OSError as fault:
            words.close()
            return f"the command `{command[0]}` cannot be run: {fault.strerror}"
        words.begin()
        until_s = asyncio.get_running_loop().time() + self.command_within_s
        rest = _Rest(process.pid, words, until_s)
        try:
            async with asyncio.timeout_at(until_s):
                await process.communicate(body)
        except TimeoutError:
            return (
                f"the command `{command[0]}` had not ended after {self.command_within_s:g} s and"
                " was killed"
            )
        finally:
            if process.returncode is None:
                rest.kill()
                await process.wait()
            else:
                self._tasks.start(rest.end(), name="alerts: what a command left behind")
        if process.returncode:
            said = words.last()
            why = f": {said[:_LONGEST_WORD]}" if said else ""
            return f"the command `{command[0]}` ended with {process.returncode}{why}"
        return ""


class _LastWords:
    """What a command writes to its stderr: the end of it, however much it is.

    A pipe of our own, since a command's end must not wait for children that hold its other side.
    """

    def __init__(self) -> None:
        self._ours, self.theirs = os.pipe()
        os.set_blocking(self._ours, False)
        self._said = b""
        self._begun = self._closed = False
        self.over = asyncio.Event()  # nobody has the other side any more

    def begin(self) -> None:
        """Read, once the command has the other side."""
        os.close(self.theirs)
        self._begun = True
        asyncio.get_running_loop().add_reader(self._ours, self._read)

    def last(self) -> str:
        """Return the last line so far, "" for none."""
        for _ in range(_MOST_READS):
            if not self._read():
                break
        return next(reversed(self._said.decode("utf-8", "replace").strip().splitlines()), "")

    def close(self) -> None:
        """Read no more."""
        if not self._closed:
            self._closed = True
            asyncio.get_running_loop().remove_reader(self._ours)
            os.close(self._ours)
            if not self._begun:
                os.close(self.theirs)

    def _read(self) -> bool:
        """Take a piece; return whether there may be more."""
        if self._closed or self.over.is_set():
            return False
        try:
            piece = os.read(self._ours, _PIECE)
        except BlockingIOError:
            return False
        self._said = (self._said + piece)[-_PIECE:]
        if not piece:
            self.over.set()
            asyncio.get_running_loop().remove_reader(self._ours)
        return bool(piece)


class _Rest(NamedTuple):
    """The processes of a command that may outlive it, by the group that they are in."""

    group: int
    words: _LastWords
    until_s: float

    async def end(self) -> None:
        """Give those that hold the command's stderr the time that it had; then kill all."""
        try:
            async with asyncio.timeout_at(self.until_s):
                await self.words.over.wait()
        except TimeoutError:
            log.warning("what an alert's command left running was killed")
        finally:
            self.kill()

    def kill(self) -> None:
        """End what is left of it now."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.group, signal.SIGKILL)
        self.words.close()


class _Worker:
    """Tells one channel's notices, one after the other."""

    def __init__(self, name: str, tell: Tell, tasks: Tasks) -> None:
        self._name = name
        self._tasks = tasks
        self._tell = tell
        self.waiting: asyncio.Queue[Notice] = asyncio.Queue(_MOST_WAITING)
        self.problem = ""
        self._busy = False

    @property
    def left(self) -> int:
        """How many notices are not told yet."""
        return self.waiting.qsize() + self._busy

    def put(self, notice: Notice) -> None:
        """Queue a notice; where the queue is full it is lost, which is logged."""
        try:
            self.waiting.put_nowait(notice)
        except asyncio.QueueFull:
            self.problem = f"more alerts wait for the {self._name} than can be kept"
            log.error("%s: %s is not told", self.problem, notice.id)

    async def work(self) -> None:
        """Tell what is queued; never returns."""
        while True:
            notice = await self.waiting.get()
            self._busy = True
            # A task of its own: a crash in one telling is logged there, and ends that one alone.
            telling = self._tasks.start(self._tell(notice), name=f"alerts: {self._name}: tell")
            await asyncio.wait([telling])
            crashed = telling.cancelled() or telling.exception() is not None
            self.problem = f"the {self._name} failed" if crashed else telling.result()
            if self.problem:
                log.error("an alert was not told: %s", self.problem)
            self._busy = False
            self.waiting.task_done()
