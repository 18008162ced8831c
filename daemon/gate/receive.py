"""One answer, from its status to its last byte: what the client gets, and whether it counts.

Nothing reaches the client before the first valid event, so that a target that fails early can
be replaced unseen; nothing last reaches it before the call is settled on disk.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from math import inf
from typing import TYPE_CHECKING, cast

from tollway.daemon.gate.attempt import Attempt
from tollway.daemon.gate.chain import Failure
from tollway.daemon.gate.gather import gather, is_drip, nothing_but_life, read_whole, tail
from tollway.daemon.gate.refused import lowered, refused
from tollway.daemon.gate.translate import Embedded, Interpreter
from tollway.providers.conversation import Conversation
from tollway.providers.dialects.error_words import json_in
from tollway.providers.embedding import Embedding
from tollway.providers.errors import (
    UpstreamBroke,
    UpstreamError,
    UpstreamGaveUp,
    UpstreamRefused,
)
from tollway.providers.headers import to_client
from tollway.providers.http.framing import LISTED, SIZE_LINES, size_line
from tollway.providers.refusals import (
    is_no_such_model,
    is_over_rate,
    is_overflow,
    is_sealed,
    is_spoilt,
    is_too_long,
    verdict,
    verdict_of,
)
from tollway.providers.retry_hints import hint_s, may_retry
from tollway.providers.sse import Event, is_half
from tollway.providers.sse import Splitter as SseSplitter
from tollway.providers.streams import Splitter, splitter_of
from tollway.providers.transport import Answer, Pushed

if TYPE_CHECKING:
    from tollway.daemon.gate.send import Exchange

# An error answer longer than this is cut: nobody reads on, and it must not fill the memory.
_MOST_ERROR = 1024 * 1024
_WORDS_WITHIN_S = 300.0  # of a refusal, whose status says the most
# A refusal by one target that another may not share.
_TRY_NEXT = frozenset({401, 402, 403, 404, 408, 409, 413, 421, 424, 425, 429})
# Those that a client is told to wait for.
_LATER = frozenset({429, 498, 503, 529})
# Gateway Timeout, and Cloudflare's: its origin took the request and did not answer in time.
_WAITED_OUT = frozenset({504, 524})
_DONE = b"[DONE]"
# Events that fill a silence: Anthropic's, and OpenAI's in Responses.
_FILLERS = frozenset({b"ping", b"keepalive"})


class UpstreamGarbage(UpstreamBroke):
    """The provider answered 200 with something that is no answer."""

    code = "upstream_garbage"


async def receive(exchange: "Exchange", attempt: Attempt) -> Failure | None:
    """Read an attempt's answer into the exchange's pipe and settle it.

    Returns:
        None once the call is settled and the client has it all; a `Failure` where nothing of
        it has been shown, so that another target may be tried.

    Raises:
        UpstreamError: It broke after the client had seen some of it.
    """
    answer = cast(Answer, attempt.answer)
    exchange.lost(getattr(answer, "dropped", ()))
    if not 200 <= answer.status < 300:
        return await _refusal(exchange, attempt, answer)
    kind = _content_type(answer)
    splitter = splitter_of(kind) if exchange.call.stream else None
    if splitter is not None:
        return await _stream(exchange, attempt, answer, splitter)
    # HTML is some other server's page, whatever stands in it.
    streamed = exchange.call.stream and "html" not in kind
    try:
        body, events = await gather(answer, attempt.target, streamed=streamed)
    except UpstreamError as error:
        return Failure(error, again=True)
    if events:
        return await _stream(exchange, attempt, answer, SseSplitter(), body)
    return await _whole(exchange, attempt, answer, body)


def _content_type(answer: Answer) -> str:
    for name, value in answer.headers:
        if name.lower() == "content-type":
            return value.lower()
    return ""


async def _refusal(exchange: "Exchange", attempt: Attempt, answer: Answer) -> Failure:
    body = bytearray()
    try:
        # In all, not between two pieces: words that trickle in would keep the call for ever.
        async with asyncio.timeout(min(attempt.target.timeouts.idle_s, _WORDS_WITHIN_S)):
            async for chunk in answer.chunks():
                body += chunk
                if len(body) > _MOST_ERROR:
                    break
    except (UpstreamError, TimeoutError):
        pass  # the status says enough
    status, said = answer.status, bytes(body)
    of_key = verdict(status, said)
    error = refused(exchange, attempt, answer, said, of_key)
    of_rate = is_over_rate(status, said)
    overflow = (status == 413 and not of_rate) or is_overflow(status, said)
    again = status in _TRY_NEXT or status >= 500 or status < 400 or overflow or of_rate
    again = again or is_no_such_model(status, said) or is_spoilt(status, said)
    if attempt.target.callers:
        # Its caller has to mend it, and another's account would pay unasked.
        again = again and status not in (401, 403)
    elif of_key:
        again = of_key != "filtered"
    return Failure(
        error,
        again,
        "upstream_timeout" if _is_waited_out(attempt, status, said) else "upstream_refused",
        hint_s=_hinted(error, answer.headers, said),
        overflow=overflow,
        refused_retry=may_retry(answer.headers) is False,
        lower=lowered(attempt, status, said),
        sealed=is_sealed(status, said),
    )


def _is_waited_out(attempt: Attempt, status: int, said: bytes) -> bool:
    """Whether a proxy before the provider says that it waited for too long.

    The provider has the request, may answer it to nobody, and bills that. Its own refusals are
    JSON in every dialect, at Google's in a list too.
    """
    own = type(json_in(said)) in (dict, list) or attempt.target.local
    return status in _WAITED_OUT and not own


def _hinted(
    error: UpstreamRefused, headers: Sequence[tuple[str, str]], said: bytes
) -> float | None:
    """Return how long a refusal asks to wait, which its client is told too, however it was said."""
    hint = hint_s(headers, said, time.time())
    if error.status in _LATER:
        error.retry_after_s = hint
    return hint


def _within(attempt: Attempt, error: UpstreamRefused) -> Failure:
    """Return a failure that stands in an answer of 200: refused, and nothing came of it."""
    return Failure(
        error,
        verdict_of(error) != "filtered",
        "upstream_refused",
        hint_s=_hinted(error, (), error.body),
        overflow=is_too_long(error),
        lower=lowered(attempt, error.upstream_status, error.body),
        sealed=is_sealed(error.upstream_status, error.body),
    )


async def _whole(
    exchange: "Exchange", attempt: Attempt, answer: Answer, body: bytes
) -> Failure | None:
    reader = attempt.reader
    readable = read_whole(reader, body)
    if reader.failed:
        if reader.produced or reader.usage:
            # It worked before it failed, and may bill for that.
            return Failure(reader.failed, again=False, ending="upstream_broke")
        return _within(attempt, reader.failed)
    if not reader.begun:
        garbage = UpstreamGarbage(
            f"`{attempt.target.provider}` answered 200 with something that is not an answer"
        )
        return Failure(garbage, again=True)
    headers = to_client(answer.headers, callers=attempt.target.callers)
    said = attempt.version.said
    embedded = (
        Embedded(exchange.call, said, attempt.version) if isinstance(said, Embedding) else None
    )
    interpreter = embedded or _interpreter(exchange, attempt)
    if interpreter:
        try:
            body, headers = interpreter.whole(readable), interpreter.headers(headers)
        except UpstreamError as error:
            gave_up = isinstance(error, UpstreamGaveUp)
            return Failure(error, again=False, ending="upstream_broke" if gave_up else "garbage")
        exchange.lost(interpreter.dropped)
    attempt.saw_first()
    await exchange.settle(attempt)
    # Who asked for a stream, and speaks another dialect, gets a stream of the whole answer.
    whole = interpreter is None or not exchange.call.stream
    exchange.pipe.open(exchange.head(attempt, headers, whole=whole))
    await exchange.pipe.put(body)
    exchange.pipe.finish()
    return None


def _interpreter(exchange: "Exchange", attempt: Attempt) -> Interpreter | None:
    """Return what turns an answer into the client's dialect, where that is another one."""
    if not isinstance(attempt.version.said, Conversation):
        return None
    quirks = attempt.target.kind.quirks
    return Interpreter(exchange.call, attempt.version, quirks, attempt.reader)


async def _stream(
    exchange: "Exchange", attempt: Attempt, answer: Answer, splitter: Splitter, begun: bytes = b""
) -> Failure | None:
    relay = _Relay(exchange, attempt, answer, splitter)
    chunks = answer.chunks()
    try:
        more = not begun or relay.feed(begun)
        while not (more and await _each(chunks, relay)):
            if relay.over:
                break
            await exchange.pipe.room()
            more = True
        else:
            relay.end_of_body()
        if relay.last and not relay.done:
            relay.last += await tail(chunks)
    except UpstreamError as error:
        if not relay.shown:
            return Failure(error, again=True)
        if not attempt.reader.ended:
            raise
        # The answer is whole; what broke is the connection behind it.
    if relay.failed and not relay.shown:
        if isinstance(relay.failed, UpstreamGaveUp):
            return Failure(relay.failed, again=False)
        return _within(attempt, relay.failed)
    await relay.finish()
    if not relay.failed and not relay.capped:
        # Read the few bytes behind the end, so that the connection can be used again.
        await tail(chunks)
    return None


async def _each(chunks: AsyncIterator[bytes], relay: "_Relay") -> bool:
    """Give pieces to the relay until it wants no more; return whether that was all of them."""
    if isinstance(chunks, Pushed):
        return await chunks.each(relay.feed, relay.pass_on if relay.passes_on else None)
    async for chunk in chunks:
        if not relay.feed(chunk):
            return False
    return True


class _Relay:
    """Passes a stream on event by event, unchanged, and keeps its last piece back."""

    def __init__(
        self, exchange: "Exchange", attempt: Attempt, answer: Answer, splitter: Splitter
    ) -> None:
        self._exchange = exchange
        self._attempt = attempt
        self._answer = answer
        self._splitter = splitter
        self._interpreter = _interpreter(exchange, attempt)
        self._turned_end = b""  # what `last` means to the client
        # What is in SSE on both sides may keep the framing that it came in.
        self._plain = splitter if isinstance(splitter, SseSplitter) else None
        self.passes_on = self._plain is not None and self._interpreter is None
        self._waiting: list[bytes] = []  # what came before the first valid event
        self._clock = asyncio.get_running_loop().time
        self._heard_s = self._clock()  # when some of the answer last came
        self._part = (0.0, 0)  # of an event that is not whole: behind which moment, and its bytes
        self._watched = attempt.is_watched
        self._reader = attempt.reader
        self._alike = attempt.reader.alike
        self._pipe = exchange.pipe
        self._between = False  # what comes next begins an event, of an answer that is shown
        # So much visible output may be within the hold; what a report of usage says is another way.
        self._most_bytes = attempt.most_bytes if self._watched else inf
        self.shown = False
        self.last = b""  # the end and what is behind it, kept back until the call is settled
        self.done = False  # the end is [DONE], behind which nothing ever is
        self.failed: UpstreamRefused | UpstreamGaveUp | None = None
        self.capped = False  # it has passed its hold, so that its client gets no more of it

    @property
    def over(self) -> bool:
        """Whether the rest of the body is no event of this answer."""
        return bool(self.failed or self.last or self.capped)

    def feed(self, chunk: bytes) -> bool:
        """Take one piece of the body; return whether the next one may come."""
        reader = self._attempt.reader
        events = self._splitter.feed(chunk)
        if len(events) == 1 and events[0].data is not None and events[0].name not in _FILLERS:
            self._heard_s = self._clock()
        else:
            self._listen(events, len(chunk))
        out = self._waiting if not self.shown else []
        for event in events:
            if self._took(event, out, passes=reader.event(event)):
                break
        if not self.shown and reader.begun and not (reader.failed and not reader.produced):
            self._show()
        full = False
        if self.shown and out:
            full = self._exchange.pipe.write(out[0] if len(out) == 1 else b"".join(out))
            self._waiting = []
        self._between = self.shown and self._plain is not None and self._plain.between
        return not (full or self.last or self.failed or self.capped)

    def pass_on(self, chunk: bytes, now_s: float) -> bool:
        """Take what has come in, its framing included; return False if that is to be taken off.

        Nearly all that comes is one chunk with one event that changes nothing but the count of
        what was made. Such a chunk goes to the client as it is.
        """
        if not self._between:
            return False
        size, alike = len(chunk), self._alike
        line = SIZE_LINES[size] if size < LISTED else size_line(size)
        # With 500 streams, each object that is looked at comes from slow memory: what is not asked
        # is quicker than what is.
        if alike is None or (made := alike.text_in_chunk(chunk, line)) < 0:
            return self._read_on(chunk, line, now_s)
        reader, pipe = self._reader, self._pipe
        reader.produced = produced = reader.produced + made
        self._heard_s = now_s
        through = pipe.through  # a name is called more quickly than an attribute
        if through is not None:
            pipe.said_s, pipe.last = now_s, chunk
            full = through(chunk)
        else:
            full = pipe.write(chunk[len(line) : -2])
        if full or (produced > self._most_bytes and self._watch()):
            self._enough()
        return True

    def _read_on(self, chunk: bytes, line: bytes, now_s: float) -> bool:
        """Do as `pass_on` where the event has to be read; `line` is the chunk's first one."""
        plain = self._plain
        if plain is None or not (chunk.startswith(line) and chunk.endswith(b"\r\n")):
            return False
        event = plain.one(chunk[len(line) : -2])
        if event is None or event.name in _FILLERS:
            return False
        self._heard_s = now_s
        reader, pipe = self._reader, self._pipe
        passes = reader.event(event)
        if reader.last or reader.failed or not passes:
            out: list[bytes] = []
            self._took(event, out, passes=passes)
            for raw in out:
                pipe.write(raw)
        elif pipe.through is not None:
            pipe.said_s, pipe.last = now_s, chunk
            pipe.through(chunk)
        else:
            pipe.write(event.raw)
        self._watch()
        if pipe.is_full or self.over:
            self._enough()
        return True

    def _enough(self) -> None:
        cast(Pushed, self._answer.chunks()).enough()

    def _watch(self) -> bool:
        """Return whether the answer has passed its hold, now or before."""
        if self._watched and self._attempt.has_passed_hold():
            self.capped = True
        return self.capped

    def _took(self, event: Event, out: list[bytes], *, passes: bool) -> bool:
        """Take an event that has been read; return whether the rest is no part of this answer."""
        reader = self._attempt.reader
        if reader.last:
            self._keep_back(event)
            return False
        if self._interpreter is not None:
            if not reader.failed:  # else the client is told in its own dialect
                self._turn(event, self._interpreter, out)
        elif passes:
            out.append(self._masked(event.raw) if reader.failed else event.raw)
        if reader.failed or self.failed:
            self.failed = reader.failed or self.failed
            return True
        return self._watch()

    def _turn(self, event: Event, turned: Interpreter, out: list[bytes]) -> None:
        """Take what an event means to a client of another dialect."""
        try:
            out.append(turned.event(event))
        except UpstreamGaveUp as error:
            self.failed = error

    def _listen(self, events: list[Event], size: int) -> None:
        """Take note of what came: comments and pings are no part of an answer.

        Raises:
            UpstreamTimeout: Nothing else has come for as long as bytes may stay away, or an event
                comes drop by drop.
        """
        now_s, target = self._clock(), self._attempt.target
        if not events and not self._splitter.in_comment:
            since, before = self._part
            self._part = self._heard_s, size + (before if since == self._heard_s else 0)
            if is_drip(target, now_s - self._heard_s, self._part[1]):
                raise nothing_but_life(target)
            return
        for event in events:
            if event.cut or (event.data is not None and event.name not in _FILLERS):
                self._heard_s = now_s
                return
        if now_s - self._heard_s > target.timeouts.idle_s:
            raise nothing_but_life(target)

    def _keep_back(self, event: Event) -> None:
        """Take the stream's last event, or what comes behind it."""
        self.last += event.raw
        self.done = self.done or (event.data is not None and event.data.strip() == _DONE)
        if self._interpreter is not None:
            self._turned_end += self._interpreter.event(event)

    def _masked(self, raw: bytes) -> bytes:
        """Return an error event without a secret that the provider echoes in it."""
        text = raw.decode("utf-8", "surrogateescape")
        return self._exchange.gate.mask(text).encode("utf-8", "surrogateescape")

    def _show(self) -> None:
        """Commit to this target: from here on the client sees it."""
        self.shown = True
        self._attempt.saw_first()
        headers = to_client(self._answer.headers, callers=self._attempt.target.callers)
        if self._interpreter is not None:
            headers = self._interpreter.headers(headers)
        self._exchange.pipe.open(self._exchange.head(self._attempt, headers, whole=False))

    def end_of_body(self) -> None:
        """Take the end of a body that had no end marker of the dialect.

        Raises:
            UpstreamBroke: The answer was not complete.
        """
        rest = self._splitter.rest()
        if rest and not is_half(rest):
            self.feed(b"\n\n")  # an event that lacks its blank line is an event
        if self.failed or self.last:
            return
        if not self._attempt.reader.begun:
            raise UpstreamGarbage(
                f"`{self._attempt.target.provider}` answered with a stream that holds no answer"
            )
        if not self._attempt.reader.ended:
            raise UpstreamBroke(
                f"`{self._attempt.target.provider}` ended its stream in the middle of the answer"
            )

    async def finish(self) -> None:
        """Settle, then let the last piece go."""
        exchange = self._exchange
        turned = self._interpreter
        if self.failed:
            # What was made is billed. A client of the same dialect has the provider's own event.
            exchange.break_off(self._attempt, self.failed)
            if turned is None and exchange.origin.report_cost:
                await exchange.pipe.put(exchange.cost_comment())
            exchange.pipe.finish() if turned is None else exchange.pipe.fail(self.failed)
            return
        if not self.shown:  # an end marker and nothing else
            self._show()
        if turned is not None:
            turned_end = self._turned_end + turned.end(early=self.capped)
            exchange.lost(turned.dropped)
        if self.capped:
            await exchange.settle(self._attempt, "at_cap")
            self.last = self._attempt.reader.end_early()
        else:
            await exchange.settle(self._attempt)
        if turned is not None:
            self.last = turned_end
        if exchange.origin.report_cost:
            await exchange.pipe.put(exchange.cost_comment())
        await exchange.pipe.put(self.last)
        exchange.pipe.finish()
