"""A model that a command serves: the same life as our own workers', its calls over HTTP."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import cast
from urllib.parse import urlsplit

import msgspec

from tollway.providers.canon import Usage
from tollway.providers.dialects.json_edit import edit, fields
from tollway.providers.errors import (
    GatewayError,
    LocalModelFailed,
    UpstreamBroke,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from tollway.providers.http.answer import HttpAnswer
from tollway.providers.llamacpp.command import ENDED_WELL, Server
from tollway.providers.llamacpp.fit import resident_bytes
from tollway.providers.llamacpp.lifecycle import Resident, Surroundings
from tollway.providers.llamacpp.shares import Share
from tollway.providers.llamacpp.state import Command, LocalModel, Terms
from tollway.providers.llamacpp.worker import WorkerEnded
from tollway.providers.transport import Answer, Pushed, Request, Transport

# How long a server whose connection broke may take to be gone, if that is why.
_GONE_WITHIN_S = 2.0


class CommandResident(Resident[Server]):
    """A model whose server is a command; see `lifecycle.Resident`."""

    word = "command"

    def __init__(
        self,
        model: LocalModel,
        around: Surroundings,
        transport: Transport,
        secret: Callable[[], Callable[[str], str] | None] = lambda: None,
    ) -> None:
        super().__init__(model, around)
        self._transport = transport
        self._secret = secret

    @property
    def _command(self) -> Command:
        command = self.model.command
        assert command is not None  # noqa: S101 - who makes one of these has looked
        return command

    async def forward(self, request: Request, terms: Terms) -> "ServedAnswer":
        """Send a request, whose URL is a path behind the server's base URL; return its answer.

        Of the terms, those that a server can be held to from outside: `deadline_s` and `begun`.

        Raises:
            LocalModelFailed: It cannot be started.
            UpstreamError: As `Transport.send`.
        """
        loop = asyncio.get_running_loop()
        with self._present():
            server = await self.ready()
            server.enter()
            self.running += 1
        until = None if terms.deadline_s is None else loop.time() + terms.deadline_s
        share = self.shares.enter()
        call = _Call(self, server, share, until)
        if terms.begun:
            terms.begun(call)
        named = _named(request.body, self._command.model)
        there = msgspec.structs.replace(request, url=server.base_url + request.url, body=named)
        with contextlib.ExitStack() as undo:
            undo.callback(call.end)  # of a cancel too: it runs no more
            try:
                async with asyncio.timeout_at(until):
                    answer = await self._transport.send(there)
            except TimeoutError as fault:
                raise _too_long(self.model.name) from fault
            except UpstreamError as fault:
                await _explain(fault, call)
                raise
            undo.pop_all()
        server.heard()
        return ServedAnswer(answer, call)

    @property
    def now(self) -> float:
        """Monotonic seconds."""
        return self._around.clock()

    def left(self, server: Server, silent_since: float | None) -> None:
        """Take note that a call has ended, perhaps without a byte."""
        limits = self._around.limits
        if silent_since is not None:
            server.given_up(silent_since, limits.hang_s, limits.unanswered)
        server.leave()
        self.running -= 1
        self._maybe_quiet()

    @property
    def needs(self) -> int:
        """See `Resident`: what the configuration says."""
        return self._command.memory

    @property
    def memory(self) -> tuple[int, int]:
        """See `Resident`: of all its processes; the first one is a keeper of ours."""
        parts = [resident_bytes(pid) for pid in self._process.pids] if self._process else []
        return sum(held for held, _ in parts), sum(mapped for _, mapped in parts)

    @property
    def context(self) -> int:
        """See `Resident`: 0, for the command alone knows."""
        return 0

    def require_room(self, free: int) -> None:
        """See `Resident`."""
        if self.needs > free:
            raise LocalModelFailed(
                f"`{self.model.name}` needs {self.needs >> 20} MiB of memory by its `memory`, and"
                f" {free >> 20} MiB are free",
                sent=False,
                again=False,
            )

    def _identity(self) -> tuple[int, ...]:
        return (hash(self.model.how),)

    def _is_other(self, old: LocalModel) -> bool:
        return old.command != self.model.command

    def _died_hint(self, fault: WorkerEnded) -> str:
        if fault.message == ENDED_WELL:
            return "A command must stay: leave out what puts it in the background (`&`, `-d`)"
        return "`tollway models ps` shows its last words"

    async def _bring_up(self) -> None:
        command = self._command
        limits = self._around.limits
        secrets = await self._secrets(command)
        await self._around.make_room(self)
        self._admitted = True
        try:
            server = await Server.start(
                command, limits.stop_within_s, self.log, self._around.clock, secrets
            )
        except OSError as fault:
            raise LocalModelFailed(
                f"The command of `{self.model.name}` cannot be started: {fault.strerror}",
                sent=False,
            ) from fault
        server.on_gone(self._gone)
        await self._started(server)
        try:
            await server.until_healthy(command.health, command.start_within_s)
        except WorkerEnded as fault:
            raise self._died(fault) from fault
        except TimeoutError as fault:
            server.kill(f"was not ready within {command.start_within_s:g} s and was killed")
            await server.gone.wait()
            raise LocalModelFailed(
                f"The command of `{self.model.name}` was not ready within"
                f" {command.start_within_s:g} s",
                hint="`tollway models ps` shows its last words; `start_within` gives it more time",
                sent=False,
            ) from fault

    async def _secrets(self, command: Command) -> dict[str, str]:
        """Return the variables whose values are kept elsewhere; looked up at each start."""
        found: dict[str, str] = {}
        for name, kept in command.secrets:
            look_up = self._secret()
            assert look_up is not None  # noqa: S101 - who configures secrets gives a way
            try:
                # A keyring may ask a person, or another process.
                found[name] = await asyncio.to_thread(look_up, kept)
            except GatewayError as fault:
                raise LocalModelFailed(
                    f"The command of `{self.model.name}` lacks its `{name}`: {fault.message}",
                    hint=fault.hint,
                    sent=False,
                ) from fault
        return found

    def kill_if_hung(self) -> None:
        """See `Resident`. While it starts, `start_within` is the limit; idle, nobody waits."""
        server, limits = self._process, self._around.limits
        if server is None or not (server.busy or self._loading):
            return
        if server.busy and self._around.clock() - server.heard_at > limits.hang_s:
            server.doubt(self._command.health, limits.deaf_s)
        # Only the system can say it of a program that we did not write.
        if (stood_s := server.look(2 * limits.sweep_s)) > limits.stopped_s:
            server.kill(f"was stopped for {stood_s:.0f} s and was killed")


class _Call:
    """One call under way at a server; `end` it once, a second time does nothing."""

    usage_so_far = Usage()  # as long as it has not answered, it has told none

    def __init__(
        self, resident: CommandResident, server: Server, share: Share, until: float | None
    ) -> None:
        self.server = server
        self.share = share
        self.until = until
        self.name = resident.model.name
        self._resident: CommandResident | None = resident
        self._began = resident.now
        self._answered = False

    @property
    def gpu_ms(self) -> int:
        """Its part of the model's time until now, in milliseconds."""
        return self.share.ms

    def heard(self) -> None:
        """Take note of a piece of the answer."""
        self._answered = True
        self.server.answers()

    def end(self) -> None:
        if resident := self._resident:
            self._resident = None
            self.share.end()
            resident.left(self.server, None if self._answered else self._began)


class ServedAnswer(Pushed):
    """A server's answer, which counts as running until it is closed. See `transport.Answer`."""

    def __init__(self, answer: Answer, call: _Call) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self._answer = answer
        self._pieces = cast(HttpAnswer, answer.chunks())  # servers of commands speak HTTP
        self._call = call

    @property
    def gpu_ms(self) -> int:
        """As of its call."""
        return self._call.gpu_ms

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes.

        Raises:
            UpstreamBroke, UpstreamTimeout: As `Answer.chunks`; and once the deadline is over.
        """
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece."""
        async with self._held():
            piece = await anext(self._pieces)
        self._call.heard()
        return piece

    async def each(
        self,
        take: Callable[[bytes], bool],
        passes: Callable[[bytes, float], bool] | None = None,
    ) -> bool:
        """Give the body's pieces to `take` as they come; see `transport.Pushed`.

        Raises:
            UpstreamBroke, UpstreamTimeout: As `chunks`; or whatever `take` or `passes` raises.
        """
        heard = self._call.heard

        def taken(piece: bytes) -> bool:
            heard()
            return take(piece)

        def passed(chunk: bytes, now_s: float) -> bool:
            heard()
            return passes is not None and passes(chunk, now_s)

        async with self._held():
            return await self._pieces.each(taken, passed if passes else None)

    def enough(self) -> None:
        """Let `each` end behind the chunk that was passed to its `passes`."""
        self._pieces.enough()

    @contextlib.asynccontextmanager
    async def _held(self) -> AsyncIterator[None]:
        """End what waits within at the deadline, and name the model in its errors."""
        try:
            async with asyncio.timeout_at(self._call.until):
                yield
        except TimeoutError as fault:
            raise _too_long(self._call.name) from fault
        except UpstreamError as fault:
            if fault is self._pieces.error:  # not the reader's own
                await _explain(fault, self._call)
            raise

    async def close(self) -> None:
        """Give the connection back, and the slot."""
        try:
            await self._answer.close()
        finally:
            self._call.end()


async def _explain(fault: UpstreamError, call: _Call) -> None:
    """Name the model in an error, not its port, and note whether its server has just died."""
    server = call.server
    fault.message = fault.message.replace(urlsplit(server.base_url).netloc, call.name)
    if isinstance(fault, UpstreamUnreachable | UpstreamBroke):
        calls = server.calls
        with contextlib.suppress(TimeoutError):  # connections end before the process has
            await asyncio.wait_for(server.gone.wait(), _GONE_WITHIN_S)
        if server.gone.is_set() and not server.expected:
            fault.death = "alone" if calls == 1 else "among"


def _too_long(name: str) -> UpstreamTimeout:
    return UpstreamTimeout(f"`{name}` was still at work at its `deadline`", phase="idle")


def _named(body: bytes, model: str) -> bytes:
    """Return a request with the name that the server knows the model by."""
    if not model or not body:
        return body
    return edit(body, fields(body), {"model": msgspec.json.encode(model)})
