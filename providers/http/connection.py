"""One connection to a provider: writes a request, reads its answer, then waits for the next.

Its one rule: a connection goes back to the pool only if both sides are certain to agree on where
the next answer begins. The request must be written in full, the answer framed by a length or by
chunks and followed by nothing, and neither side may have asked to close. All else is closed.

On trying again (RFC 9110, 9.2.2): a kept connection may be closed by the provider while a
request travels. If nothing of the request was handed to the kernel, it goes out again on a fresh
connection, whatever its method. If it was, only an idempotent method is repeated: from here a
POST that was never read cannot be told from one that was billed, so it fails with `sent=True`
and the gate decides. What keeps that rare: connections are kept for less time than servers keep
them, and each is polled right before it is used again, which shows a close that has arrived.
"""

import asyncio
import select
from functools import partial
from typing import Literal, NoReturn, Protocol, cast

import httptools

from tollway.providers.errors import (
    UpstreamBroke,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from tollway.providers.http.answer import BUFFER, HttpAnswer
from tollway.providers.http.header_names import name_of
from tollway.providers.http.inflate import Inflater
from tollway.providers.http.portions import InPortions, Portions
from tollway.providers.http.route import Route
from tollway.providers.http.tls import said_goodbye
from tollway.providers.transport import Request, Timeouts

HEAD_LIMIT = 64 * 1024  # headers and trailers of one answer, 32 bytes added for each line
IDLE_WIRE_LIMIT = 128 * 1024  # bytes in a row that carry no body: endless headers, chunk padding
_ONE_WRITE = 64 * 1024  # up to here a request is joined and written at once
_PIECE = 128 * 1024
_LATE_S = 0.02  # by which a timer may fire too late without anything being made of it
_NEVER = float("inf")


class Owner(Protocol):
    """Who keeps connections; the pool."""

    portions: Portions

    def opened(self, connection: "Connection") -> None:
        """Take note of a new connection."""
        ...

    def rests(self, connection: "Connection") -> float:
        """Take a connection that may be used again; return how long to keep it, 0 for not."""
        ...

    def lost(self, connection: "Connection") -> None:
        """Forget a connection; its socket is closed."""
        ...


class _Stop(Exception):
    """Raised in a parser callback to stop parsing; `_problem` says what the provider did."""


class Connection(InPortions):
    """A connection to one place. At most one answer is being read at a time."""

    __slots__ = (
        "_again",
        "_answer",
        "_between",
        "_chunk_ends",
        "_clock",
        "_deadline",
        "_eof",
        "_excused",
        "_extra",
        "_fires_at",
        "_head_bytes",
        "_head_only",
        "_heard",
        "_in_body",
        "_interim",
        "_loop",
        "_owner",
        "_parser",
        "_phase",
        "_plain_proxy",
        "_poll",
        "_problem",
        "_quiet_bytes",
        "_raw",
        "_read_paused",
        "_secure",
        "_speaks_http",
        "_timeouts",
        "_timer",
        "_unsent",
        "_until_close",
        "_whole",
        "_write_paused",
        "keep_s",
        "key",
        "on_chunk_complete",
        "on_chunk_header",
        "place",
        "sent",
        "stale",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, to: Route, owner: Owner) -> None:
        super().__init__(owner.portions)
        self.key = to.key
        self.place = to.place.name
        self.keep_s = _NEVER  # what the provider's Keep-Alive header allows
        self.stale = False  # it died before the first byte of an answer
        self.sent = False  # something of the current request was handed to the kernel
        self._loop = loop
        self._clock = loop.time
        self._owner = owner
        self._secure = to.place.scheme == "https"
        self._plain_proxy = to.proxy is not None and not self._secure
        self._parser: httptools.HttpResponseParser | None = None
        self._answer: HttpAnswer | None = None
        self._unsent: memoryview | None = None
        self._write_paused = self._read_paused = self._eof = False
        self._speaks_http = False
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = self._deadline = self._excused = _NEVER
        self._phase: Literal["first", "idle", "keep"] = "keep"
        self._timeouts = Timeouts()
        # One entry where the parser stands behind a chunk. Its callbacks are C's alone.
        self._chunk_ends: list[None] = []
        self.on_chunk_header = self._chunk_ends.clear
        self.on_chunk_complete = partial(self._chunk_ends.append, None)
        self._between = False  # the parser stands behind a chunk, and nothing came behind that
        self._reset(head_only=False)

    def _reset(self, *, head_only: bool) -> None:
        self._head_only = head_only
        self._raw: list[tuple[bytes, bytes]] = []
        self._head_bytes = self._quiet_bytes = 0
        self._heard = self._interim = self._in_body = self._until_close = False
        self._whole = self._again = self._extra = self._between = self.as_whole = False
        self._chunk_ends.clear()
        self._problem: UpstreamError | None = None

    # -- the pool's side ---------------------------------------------------------------------

    def fresh(self) -> bool:
        """Return whether the provider has neither closed nor spoken since the last answer."""
        return not self._transport.is_closing() and not self._poll.poll(0)

    def begin(self, to: Route, data: bytes, request: Request) -> HttpAnswer:
        """Write a request (`data` is its head) and return the answer that will come."""
        body, timeouts = request.body, request.timeouts
        answer = self._answer = HttpAnswer(self, self._loop, self.place)
        answer.idle_s = timeouts.idle_s
        self._timeouts = timeouts
        self._reset(head_only=to.head_only)
        if self._parser is None:  # lost between connecting and now
            answer.fail(self._cut(None))
            return answer
        self._phase = "first"
        self._wait_at_most(timeouts.first_s)
        self.sent = self._write(data, body)
        if self.sent and request.progress is not None:
            request.progress.sent = True
        return answer

    def _write(self, data: bytes, body: bytes) -> bool:
        """Write a request, or its beginning; return whether any of it may have left."""
        transport = self._transport
        if transport.is_closing():
            return False
        if len(body) <= _ONE_WRITE:
            transport.write(data + body)
        else:
            transport.write(data)
            self._unsent = memoryview(body)
            self._pump()
        # asyncio tries the socket at once: closing now means that it took nothing.
        return not transport.is_closing()

    def end(self, error: UpstreamError) -> None:
        """Close at once; an answer under way fails with `error`."""
        self._fail(error)

    # -- the answer's side -------------------------------------------------------------------

    def watch(self, idle_s: float) -> None:
        """Fail the answer when nothing comes for `idle_s`."""
        # As `_wait_at_most`, but for the call: this runs for every piece of every stream.
        self._phase = "idle"
        self._deadline = deadline = self._clock() + idle_s
        if deadline < self._fires_at or self._timer is None:
            self._arm(deadline)

    def resume(self) -> None:
        """Read on, after the answer's buffer was full."""
        if self._read_paused:
            self._read_paused = False
            self.go_on()

    def drop(self) -> None:
        """Close at once, telling nobody."""
        self._answer = None
        self._deadline = _NEVER
        self._unsent = None
        self._transport.abort()

    # -- the event loop's side ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to live."""
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        self._poll = select.poll()
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        """Parse what came, much a portion at a time."""
        if len(data) > self.PORTION or self._later:
            self.take_later(data)
        else:
            self.take(data)

    def wanted(self) -> bool | None:
        """Whether the answer under way takes more; None where there is none."""
        return None if self._answer is None else not self._read_paused

    def take(self, data: bytes) -> None:
        """Parse what came, then wake the reader once."""
        answer = self._answer
        if self._between and answer is not None and (passes := answer.passes) is not None:
            clock = self._clock
            now_s = clock()
            try:
                taken = passes(data, now_s)
            except Exception as fault:  # the reader's own, and raised there before it ends this
                answer.stumble(fault)
                raise
            if taken:
                # A whole chunk more or less is all the same to the parser. As in `watch`.
                self._deadline = now_s + answer.idle_s
                return
        if answer is None or (parser := self._parser) is None:
            # Bytes that nobody asked for: whose answer would they be?
            self._transport.abort()
            return
        self._heard = True
        self._quiet_bytes += len(data)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as fault:
            if not self._whole:
                rules = UpstreamBroke(f"{self.place} broke the rules of HTTP: {fault}")
                self._fail(self._problem or rules)
                return
            self._extra = True
        self._between = bool(self._chunk_ends) and data.endswith(b"\r\n")
        if self._whole:
            self._finish()
        elif self._quiet_bytes > IDLE_WIRE_LIMIT:
            self._fail(UpstreamBroke(f"{self.place} sends headers or padding without end"))
        else:
            answer.wake()

    def eof_received(self) -> None:
        """Take note of a proper end; the transport closes itself."""
        tls = self._transport.get_extra_info("ssl_object")
        self._eof = tls is None or said_goodbye(tls)

    def connection_lost(self, exc: Exception | None) -> None:
        """End what was under way, and let go of everything."""
        self.take_rest()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._answer is not None:
            if self._until_close and self._in_body and self._eof and exc is None:
                self._whole = True
                self._finish()
            else:
                self.stale = not self._heard
                self._fail(self._cut(exc))
        self._parser = None  # it holds our bound methods: a cycle
        self._owner.lost(self)

    def pause_writing(self) -> None:
        """Hold back the rest of a large body."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """Write on; the provider has taken some, so its time starts anew."""
        self._write_paused = False
        if self._answer is not None and not self._in_body:
            self._wait_at_most(self._timeouts.first_s)
        self._pump()

    # -- the parser's side -------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Notice an answer behind the answer."""
        if self._whole:
            self._extra = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers only count."""
        self._head_bytes += len(name) + len(value) + 32
        if self._head_bytes > HEAD_LIMIT:
            self._stop(f"sent more than {HEAD_LIMIT // 1024} KiB of headers")
        if not self._in_body:
            self._raw.append((name, value))

    def on_headers_complete(self) -> None:
        """Let the answer begin, unless it is only a 1xx on the way to it."""
        parser, answer = self._parser, self._answer
        if self._whole or parser is None or answer is None:
            return  # bytes behind the end
        status = parser.get_status_code()
        if status == 101 or status < 100:
            self._stop(f"answered with status {status}, which nobody asked for")
        if not self._speaks_http and parser.get_http_version() not in ("1.1", "1.0"):
            self._stop("does not speak HTTP/1.1")
        self._speaks_http = True
        if status < 200:
            self._interim, self._raw = True, []
            return
        if self._plain_proxy and status == 407:
            self._problem = UpstreamUnreachable(
                f"The proxy on the way to {self.place} answered 407 Proxy Authentication Required",
                hint="Check the user name and password in the provider's `proxy`",
            )
            raise _Stop
        self._read_headers(answer)
        self._in_body = True
        self._deadline = _NEVER
        if self._unsent is not None and status >= 300:
            self._unsent = None  # it has decided: the rest would be ignored
            self._extra = True
        if self._head_only:
            self._whole, answer.inflater = True, None
        answer.status = status

    def on_body(self, body: bytes) -> None:
        """Keep a piece; when too much lies unread, make the provider wait."""
        answer = self._answer
        if answer is None or self._whole:
            return  # behind the end: planted, or the body of an answer to HEAD
        self._quiet_bytes = 0
        answer.pieces.append(body)
        answer.size += len(body)
        if answer.size > BUFFER and not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """Notice the end."""
        if self._interim:
            self._interim = False
        elif self._parser is not None and not self._whole:
            self._whole = True
            self._again = self._parser.should_keep_alive()

    # -- inside ------------------------------------------------------------------------------

    def _stop(self, did: str) -> NoReturn:
        self._problem = UpstreamBroke(f"{self.place} {did}")
        raise _Stop

    def _read_headers(self, answer: HttpAnswer) -> None:
        """Decode the headers and learn from them what a body is and how it ends."""
        self._until_close = True
        headers = answer.headers
        for raw_name, raw_value in self._raw:
            name, speaks_to_us = name_of(raw_name)
            value = raw_value.decode("latin-1")
            headers.append((name, value))
            if speaks_to_us:
                self._read_header(answer, name.lower(), value)

    def _read_header(self, answer: HttpAnswer, name: str, value: str) -> None:
        match name:
            case "content-length":
                self._until_close = False
            case "transfer-encoding":
                if value.lower() != "chunked":
                    self._stop("uses a transfer coding other than `chunked`")
                self._until_close = False
            case "content-encoding" if not self._head_only:
                answer.inflater = self._inflater(value.lower())
            case "content-type":
                self.as_whole = value.lower().startswith("application/json")
            case "keep-alive":
                self._read_keep_alive(value)

    def _inflater(self, coding: str) -> Inflater | None:
        if Inflater.is_plain(coding):
            return None
        if not Inflater.knows(coding) or (self._answer and self._answer.inflater):
            self._stop("compressed its answer in a way that the gateway did not ask for")
        return Inflater(coding)

    def _read_keep_alive(self, value: str) -> None:
        for word in value.split(","):
            name, _, seconds = word.strip().partition("=")
            if name.lower() == "timeout" and seconds.isascii() and seconds.isdigit():
                # Four fifths: our clock starts after the provider's, and a request takes time.
                self.keep_s = min(_NEVER, int(seconds[:9]) * 0.8)

    def _pump(self) -> None:
        """Write as much of a large body as the socket takes."""
        transport = self._transport
        while self._unsent is not None and not self._write_paused and not transport.is_closing():
            piece, rest = self._unsent[:_PIECE], self._unsent[_PIECE:]
            self._unsent = rest if len(rest) else None
            transport.write(piece)

    def _finish(self) -> None:
        """End an answer that is whole; keep the connection if nothing speaks against it."""
        answer, self._answer = self._answer, None
        self._deadline = _NEVER
        transport = self._transport
        clean = (
            self._again
            and not self._extra
            and not self._later
            and self._unsent is None
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )
        keep_s = self._owner.rests(self) if clean else 0.0
        if keep_s > 0:
            self.resume()
            self._phase = "keep"
            self._wait_at_most(keep_s)
        else:
            self._unsent = None
            transport.abort()
        if answer is not None:
            answer.finish()

    def _fail(self, error: UpstreamError) -> None:
        answer = self._answer
        self.drop()
        if answer is not None:
            answer.fail(error)

    def _cut(self, exc: Exception | None) -> UpstreamError:
        """Return the error for a connection that ended too early."""
        how = "closed" if exc is None else "reset"
        if not self.sent:
            return UpstreamUnreachable(
                f"{self.place} {how} the connection before anything was sent"
            )
        when = "in the middle of its answer"
        if not self._in_body:
            when = "in the middle of its headers" if self._heard else "before it answered"
        return UpstreamBroke(f"{self.place} {how} the connection {when}")

    def _wait_at_most(self, seconds: float) -> None:
        """Set the deadline. One timer serves all: it is moved only to fire earlier."""
        self._deadline = deadline = self._clock() + seconds
        if deadline < self._fires_at or self._timer is None:
            self._arm(deadline)

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires_at = deadline
        self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._deadline == _NEVER:
            return
        now = self._loop.time()
        late_s = now - self._fires_at
        if late_s > _LATE_S and self._phase != "keep" and self._excused != self._deadline <= now:
            # Timers come first when a loop goes on that stood still: what came meanwhile has not
            # been read yet. That time was ours, not the provider's. Once: a loop that is late
            # each time would wait for ever.
            self._deadline = self._excused = now + late_s
        if now < self._deadline - 0.001:  # uvloop's clock has whole milliseconds
            self._fires_at = self._deadline
            self._timer = self._loop.call_at(self._deadline, self._tick)
        elif self._phase == "keep":
            self.drop()
        elif self._phase == "first":
            within = f"{self._timeouts.first_s:g} s"
            text = f"{self.place} did not begin to answer within {within}"
            self._fail(UpstreamTimeout(text, phase="first"))
        elif self._answer is not None and self._answer.awaited:
            silent = f"{self._timeouts.idle_s:g} s"
            text = f"{self.place} fell silent for {silent} in the middle of its answer"
            self._fail(UpstreamTimeout(text, phase="idle"))
