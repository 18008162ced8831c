"""What the daemon says while it runs: text or JSON lines, without secrets, never in the way.

Lines go out from a thread of their own, a few times a second: a terminal that is stopped or a
full pipe must not stop the calls.
"""

import logging
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from tollway.daemon.log_file import LogFile
from tollway.daemon.state import Trace
from tollway.providers.money import plain_usd
from tollway.providers.words import counted

LogFormat = Literal["text", "json"]

_EVERY_S = 0.05
_MOST_LINES = 20_000
_LAST_WORDS_S = 2.0
_KEY = re.compile(r"tw-[A-Za-z0-9_-]{6,}")
# Google's, made for an hour from a credential, and known to nobody but who makes it.
_TOKEN = re.compile(r"ya29\.[A-Za-z0-9_.-]{6,}")
_SHORTEST_SECRET = 8  # a shorter value would blank out ordinary words
_FEW_SECRETS = 16  # that are looked for one by one: a pattern of any is tried at each character
_OUR_LOGGER = "tollway"
_NAMED = ("key", "user", "model", "team", "project", "route", "target")
_WORD = re.compile(r"[!#-<>-~]+")  # printable ASCII without blanks, quotes and `=`


class Mask:
    """Takes secrets out of text: the second line of defence, after never logging them."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._secrets: re.Pattern[str] | None = None
        self._few: tuple[str, ...] | None = ()  # all there are, where those are few

    def hide(self, values: Iterable[str]) -> None:
        """Hide these values too from now on: calls under way may still use older ones."""
        for value in values:
            if len(value) >= _SHORTEST_SECRET:
                self._known |= _spellings(value)
        found = sorted(self._known, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, found))) if found else None
        self._few = tuple(found) if len(found) <= _FEW_SECRETS else None

    def __call__(self, text: str) -> str:
        """Return the text with every Tollway key and known secret blanked out."""
        if "tw-" in text:
            text = _KEY.sub("tw-***", text)
        if "ya29." in text:
            text = _TOKEN.sub("ya29.***", text)
        if self._secrets is None:
            return text
        if self._few is not None:
            for secret in self._few:
                if secret in text:
                    break
            else:
                return text
        return self._secrets.sub("***", text)


class Log:
    """The daemon's log. `install` makes it the place where all of Python's logging goes."""

    def __init__(self, fd: int = 2, file: LogFile | None = None) -> None:
        self.mask = Mask()
        self._fd = fd
        self._file = file
        self._level = logging.INFO
        self._json = False
        self._handler = _Handler(self)
        self._lines: deque[str] = deque()
        self._second, self._time = 0, ""  # the last one, as text
        self._lost = 0
        self._flushes: deque[threading.Event] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)
        self._writer.start()

    def install(self, level: str, style: LogFormat) -> None:
        """Take what the whole process logs, from `level` on, as text or JSON lines."""
        self._level = logging.getLevelNamesMapping()[level.upper()]
        self._json = style == "json"
        root = logging.getLogger()
        if self._handler not in root.handlers:
            # Not only ours: what asyncio and aiohttp say passes the mask too.
            root.addHandler(self._handler)
        logging.getLogger(_OUR_LOGGER).setLevel(self._level)
        root.setLevel(max(self._level, logging.INFO))

    def flush(self) -> None:
        """Return once all that was said before is written out, at most after two seconds."""
        done = threading.Event()
        self._flushes.append(done)
        self._wake.set()
        done.wait(_LAST_WORDS_S)

    def close(self) -> None:
        """Write out what is left, at most for two seconds, and leave Python's logging."""
        logging.getLogger().removeHandler(self._handler)
        self._closing.set()
        self._wake.set()
        self._writer.join(_LAST_WORDS_S)

    def access(self, method: str, path: str, status: int, seconds: float, trace: Trace) -> None:
        """Say in one line how a call went."""
        if self._level > logging.INFO:
            return
        ms = round(seconds * 1000, 1)
        if self._json:
            head = {"call": trace.call_id, "method": method, "path": path, "status": status,
                    "ms": ms}  # fmt: skip
            self.put("info", "call", head | facts(trace))
            return
        # The rest of the line is known to be printable: to look at each character takes 1 us.
        asked = printable(f"{method} {path}")
        text = f"{asked} {status} {ms}ms{_told(trace)} {trace.call_id}"
        self._queue(f"{self._now()} info    {text}")

    def put(self, level: str, text: str, fields: dict[str, Any]) -> None:
        """Queue one line. When the reader of the log is stuck, lines are counted, not kept."""
        if self._json:
            said = {"at": self._now(), "level": level, "text": text, **fields}
            self._queue(msgspec.json.encode(said).decode())
        else:
            self._queue(f"{self._now()} {level:7} {printable(text)}")

    def _now(self) -> str:
        second, millis = divmod(time.time_ns() // 1_000_000, 1000)
        if second != self._second:
            self._second = second
            self._time = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._time}.{millis:03}Z"

    def _queue(self, line: str) -> None:
        if len(self._lines) >= _MOST_LINES:
            self._lost += 1
            return
        self._lines.append(self.mask(line))
        if not self._wake.is_set():
            self._wake.set()

    def _write(self) -> None:
        while True:
            self._wake.wait()
            closing = self._closing.wait(_EVERY_S)  # gather what comes meanwhile
            self._wake.clear()
            flushes = [self._flushes.popleft() for _ in range(len(self._flushes))]
            lines = []
            while self._lines:
                lines.append(self._lines.popleft())
            lost, self._lost = self._lost, 0
            if lost:
                lines.append(
                    f"{counted(lost, 'line was', 'lines were')} lost: nobody read them in time"
                )
            if lines:
                _write_all(self._fd, ("\n".join(lines) + "\n").encode("utf-8", "replace"))
                if self._file:
                    self._file.look()
            for done in flushes:
                done.set()
            if closing and not self._lines:
                return


def facts(trace: Trace) -> dict[str, object]:
    """Return what a call's line says of it, by the names that docs/monitoring.md lists.

    Tokens and money are those of all attempts; times are milliseconds.
    """
    said: dict[str, object] = {"key": trace.key, "user": trace.user, "model": trace.model}
    exchange = trace.exchange
    if exchange is None:
        return said
    known, who = exchange.facts, exchange.caller.who
    return said | {
        "team": who.team,
        "project": who.project,
        "route": exchange.plan.found.route if exchange.plan else "",
        "target": exchange.target.name if exchange.target and exchange.attempts else "",
        "attempts": exchange.attempts,
        "ending": known.word,
        "error": known.error,
        "input_tokens": known.input,
        "output_tokens": known.output,
        "cost_nanousd": exchange.cost_nanousd,
        "first_ms": known.first_ms,
        "queue_ms": exchange.turn.waited_ms,
        "stream": exchange.call.stream,
        "client": exchange.origin.client,
    }


def _told(trace: Trace) -> str:
    """Return what `facts` says as ` name=value`, what there is of it; in quotes what is no word.

    Written for every call: names are put into words once, and no table is made of the rest.
    """
    exchange = trace.exchange
    if exchange is None:
        return _names((trace.key, trace.user, trace.model))
    known, who = exchange.facts, exchange.caller.who
    first_ms, waited_ms, client = known.first_ms, exchange.turn.waited_ms, exchange.origin.client
    route = exchange.plan.found.route if exchange.plan else ""
    target = exchange.target.name if exchange.target and exchange.attempts else ""
    return (
        f"{_names((trace.key, trace.user, trace.model, who.team, who.project, route, target))}"
        f" attempts={exchange.attempts} ending={known.word}"
        f"{_pair('error', known.error)}"
        f" input_tokens={known.input} output_tokens={known.output}"
        f" cost=${plain_usd(exchange.cost_nanousd)}"
        f"{'' if first_ms is None else f' first_ms={first_ms}'}"
        f"{'' if waited_ms is None else f' queue_ms={waited_ms}'}"
        f"{' stream=yes' if exchange.call.stream else ''}{_pair('client', client)}"
    )


# Bounded, as the next: clients choose the names of models, and their own.
@lru_cache(maxsize=1024)
def _names(said: tuple[str, ...]) -> str:
    return "".join([_pair(name, value) for name, value in zip(_NAMED, said, strict=False)])


@lru_cache(maxsize=1024)
def _pair(name: str, value: str) -> str:
    if not value:
        return ""
    word = value if _WORD.fullmatch(value) else printable(msgspec.json.encode(value).decode())
    return f" {name}={word}"


class _Handler(logging.Handler):
    """Takes Python's log records to our log."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log
        self._formatter = logging.Formatter("%(message)s")

    def emit(self, record: logging.LogRecord) -> None:
        text = self._formatter.format(record)
        self._log.put(record.levelname.lower(), text, {"logger": record.name})


def _spellings(secret: str) -> set[str]:
    """Return a secret as it stands in URLs, and in JSON of PHP and .NET; mostly they are one."""
    quoted = quote(secret, safe="")
    lower = re.sub("%..", lambda found: found[0].lower(), quoted)
    return {secret, quoted, lower, secret.replace("/", r"\/"), secret.replace("+", r"\u002B")}


def printable(text: str) -> str:
    """Return text in which no character but a traceback's line ends can move the cursor."""
    if text.isprintable():
        return text
    safe = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    # Continued lines are set in, so that nobody can forge a line of its own.
    return safe.replace("\n", "\n    ")


def _write_all(fd: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError as fault:
        # A closed terminal or a full disk: there is nowhere left to say it but the old stderr.
        if fd != 2 and sys.__stderr__ is not None:
            print(f"the log cannot be written: {fault}", file=sys.__stderr__)
