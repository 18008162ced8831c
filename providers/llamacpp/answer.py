"""A local model's answer, in the shape of a provider's."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from tollway.providers.canon import Usage
from tollway.providers.errors import AnswerHeldUp, LocalModelFailed, UpstreamBroke, UpstreamError
from tollway.providers.llamacpp.frames import Broken, Done, Reading, Refused
from tollway.providers.llamacpp.shares import Share
from tollway.providers.llamacpp.worker import Call, Worker, WorkerEnded
from tollway.providers.llamacpp.writing import Writer, refusal
from tollway.providers.transport import Pushed

# Longer than any one engine step should take; a hung worker is the watchdog's business.
CANCEL_WITHIN_S = 10.0

Died = TypeVar("Died", bound=UpstreamError)


class Refusal:
    """A 400 that the gateway's side could write without asking the model."""

    status = 400

    def __init__(self, body: bytes) -> None:
        self.headers = [("content-type", "application/json")]
        self.usage_so_far = Usage()
        self.gpu_ms = 0
        self._body = body

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the error body."""
        yield self._body

    async def close(self) -> None:
        """There is nothing to give back."""


class LocalAnswer(Pushed):
    """What a worker generates, as OpenAI events or as one body. See `transport.Answer`."""

    # What of the request the model could not be held to, as `x-tollway-dropped` says it.
    dropped: tuple[str, ...] = ()

    def __init__(self, name: str, worker: Worker, call: Call, writer: Writer, share: Share) -> None:
        self._share = share
        self.status = 200
        self.headers = [("content-type", writer.content_type)]
        self._name = name
        self._worker = worker
        self._call = call
        self._writer = writer
        self._first = b""
        self._whole = False
        self._enough = False  # for now: who is given the pieces wants no more
        self._fault: UpstreamBroke | None = None  # it ended so, behind all that it had said

    @property
    def gpu_ms(self) -> int:
        """Its part of the model's time until now, in milliseconds."""
        return self._share.ms

    @property
    def usage_so_far(self) -> Usage:
        """The tokens read and made until now; exact, also for an answer that was cut off."""
        used = self._call.used
        return Usage(
            input=used.prompt - used.cached, cache_read=used.cached, output=used.completion
        )

    async def begin(self) -> None:
        """Return once the answer is certain to have begun, or was refused (`status`).

        Raises:
            LocalModelFailed: The worker died, or the engine failed, before that.
            AnswerHeldUp: What the caller holds it to allows no beginning.
        """
        try:
            while isinstance(up := await self._call.next(), Reading):
                pass
        except WorkerEnded as fault:
            failed = LocalModelFailed(
                f"The worker of `{self._name}` {fault.message} before it answered",
                hint="The next call starts it again; `tollway models ps` shows its last words",
                sent=False,
            )
            raise self._of_death(failed, fault) from fault
        match up:
            case Broken(param=param) if param:
                raise self._held_up(up)
            case Broken(message=message):
                raise LocalModelFailed(
                    f"The engine of `{self._name}` failed: {message}", sent=False
                )
            case Refused():
                self.status = 400
                self.headers = [("content-type", "application/json")]
                self._first, self._whole = refusal(up), True
            case _:
                self._first = self._writer.write(up)
                self._whole = isinstance(up, Done)

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it is generated.

        Raises:
            UpstreamBroke: The worker died, the engine failed, or it is an AnswerHeldUp, in the
                middle.
        """
        return self

    async def __anext__(self) -> bytes:
        """Return all that has been said since the last piece, waiting where nothing has."""
        while not (data := self._taken()):
            if self._whole:
                raise StopAsyncIteration
            if self._fault is not None:
                raise self._fault
            await self._call.told(self._is_nothing)
        return data

    async def each(
        self,
        take: Callable[[bytes], bool],
        passes: Callable[[bytes, float], bool] | None = None,
    ) -> bool:
        """Give the body's pieces to `take` as they are generated; see `transport.Pushed`.

        Raises:
            UpstreamBroke: As `chunks` does.
        """
        self._enough = False
        clock = asyncio.get_running_loop().time

        def give() -> bool:
            data = self._taken()
            if (
                data
                and not (passes and passes(b"%x\r\n%b\r\n" % (len(data), data), clock()))
                and not take(data)
            ):
                self._enough = True
            return not (self._enough or self._whole or self._fault)

        if give():
            await self._call.told(give)
        if self._fault is not None and not self._enough:
            raise self._fault
        return not self._enough

    def enough(self) -> None:
        """Let `each` end behind the piece that was passed to its `passes`."""
        self._enough = True

    async def close(self) -> None:
        """Cancel what still runs, which takes one engine step; `usage_so_far` is final then."""
        self.cancel()
        try:
            await asyncio.wait_for(self._call.ended.wait(), CANCEL_WITHIN_S)
        except TimeoutError:
            return  # the usage stays what was counted until now

    def cancel(self) -> None:
        """Tell the worker that nobody listens; returns at once."""
        self._worker.cancel(self._call)

    def _is_nothing(self) -> bool:
        """Whether what has come says nothing; else it is the next piece."""
        self._first = self._taken()
        return not (self._first or self._whole or self._fault)

    def _taken(self) -> bytes:
        """Return all that is there; an end or a fault behind it is noted."""
        said, self._first = [self._first], b""
        try:
            while not (self._whole or self._fault) and (up := self._call.next_now()):
                if isinstance(up, Broken):
                    broke = UpstreamBroke(f"The engine of `{self._name}` failed: {up.message}")
                    self._fault = self._held_up(up) if up.param else broke
                else:
                    said.append(self._writer.write(up))
                    self._whole = isinstance(up, Done)
        except WorkerEnded as fault:
            broke = UpstreamBroke(
                f"The worker of `{self._name}` {fault.message} in the middle of its answer",
                hint="The next call starts it again; `tollway models ps` shows its last words",
            )
            broke.__cause__ = fault
            self._fault = self._of_death(broke, fault)
        return b"".join(said)

    def _held_up(self, up: Broken) -> AnswerHeldUp:
        error = AnswerHeldUp(f"The model `{self._name}` cannot go on: {up.message}")
        error.param = up.param
        return error

    def _of_death(self, error: Died, fault: WorkerEnded) -> Died:
        """Return the error with what is known of the death; an end that we asked for is none."""
        if not self._worker.expected:
            error.death = "alone" if fault.calls == 1 else "among"
        return error
