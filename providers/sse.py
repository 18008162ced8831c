"""Server-sent events: cut a byte stream into events without changing a byte.

One rule: the `raw` of all events and `rest()` behind them are the input, byte for byte. What
is relayed is `raw`; what is read is `data`; so a stream that we read wrongly still passes.
"""

import re

import msgspec

# Past this an event is no longer kept whole: its pieces pass on unread. A streamed image is a
# few MB; without a limit a provider that never sends a blank line would fill the memory.
MOST_KEPT = 16 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"
# A blank line: a line's end and another one. CR CR stands alone, whatever follows: an LF behind
# it is an empty line more, which means nothing. So the cut does not depend on the next chunk.
_BLANK = re.compile(rb"\r\r|(?:\r\n|\n)(?:\r\n|\n|\r(?!\n))")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_CR = 13


class Event(msgspec.Struct, frozen=True, gc=False):
    """One block of a stream: `raw` is every byte of it, the blank line included.

    `data` is what its data lines say, joined by newlines; None for comments and empty blocks.
    `cut` marks a piece of an event that was too large to keep; it has no `data`.
    """

    raw: bytes
    data: bytes | None = None
    name: bytes | None = None  # of the `event:` line, where there is one
    cut: bool = False


class Splitter:
    """Cuts a stream into events, wherever the chunks happen to fall."""

    __slots__ = (
        "_cutting",
        "_first",
        "_most",
        "_rest",
        "_seen",
    )

    def __init__(self, most: int = MOST_KEPT) -> None:
        self._most = most
        self._rest = bytearray()
        self._seen = 0  # so much of the rest holds no blank line
        self._first = True
        self._cutting = False  # inside an event that was too large to keep

    @property
    def between(self) -> bool:
        """Whether what comes next begins an event, and not the first one."""
        return not (self._rest or self._first or self._cutting)

    def feed(self, chunk: bytes) -> list[Event]:
        """Return the events that `chunk` completes."""
        if (only := self.one(chunk)) is not None:
            return [only]
        self._rest += chunk
        return self._split()

    def one(self, chunk: bytes) -> Event | None:
        """Return the event that `chunk` is, in whole and in a form that most have; else None."""
        if self._rest or self._first or self._cutting:
            return None
        if chunk.endswith(b"\n\n") and _CR not in chunk:
            line_end = chunk.find(b"\n")
            if chunk.startswith(b"data: "):
                if line_end == len(chunk) - 2:
                    return Event(chunk, chunk[6:-2])
            elif (
                chunk.startswith(b"event: ")
                and chunk.startswith(b"data: ", line_end + 1)
                and chunk.find(b"\n", line_end + 1) == len(chunk) - 2
            ):
                return Event(chunk, chunk[line_end + 7 : -2], chunk[7:line_end])
        elif (
            chunk.startswith(b"data: ")
            and chunk.endswith(b"\r\n\r\n")
            and chunk.find(b"\n") == len(chunk) - 3
            and chunk.find(b"\r") == len(chunk) - 4
        ):
            return Event(chunk, chunk[6:-4])
        return None

    def rest(self) -> bytes:
        """Return what stands at the end without its blank line."""
        return bytes(self._rest)

    @property
    def in_comment(self) -> bool:
        """Whether the last of what came belongs to a comment, or to nothing at all."""
        return not self._rest or self._rest.startswith(b":")

    def _split(self) -> list[Event]:
        events: list[Event] = []
        begin, look, text = 0, self._seen, self._rest
        plain = b"\r" not in text
        while (end := _blank(text, look, plain=plain)) > 0:
            if end == len(text) and text[end - 1] == _CR and text[end - 2] != _CR:
                break  # its own LF may come with the next chunk
            events.append(self._event(bytes(text[begin:end])))
            begin = look = end
        del text[:begin]
        self._seen = max(0, len(text) - 3)
        if len(text) > self._most or (self._cutting and len(text) > 3):
            # The last three bytes stay: a blank line may have begun in them.
            events.append(Event(bytes(text[:-3]), cut=True))
            del text[:-3]
            self._seen, self._cutting, self._first = 0, True, False
        return events

    def _event(self, raw: bytes) -> Event:
        if self._cutting:
            self._cutting = False
            return Event(raw, cut=True)
        first, self._first = self._first, False
        data, name = _fields(raw.removeprefix(_BOM) if first else raw)
        return Event(raw, data, name)


def is_half(rest: bytes) -> bool:
    """Whether the end of a stream, without its blank line, is a part of an event of JSON."""
    data, _ = _fields(rest)
    if data is None or data.lstrip()[:1] not in {b"{", b"["}:
        return False
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return data.strip() != b"[DONE]"
    return False


def _blank(text: bytearray, look: int, *, plain: bool) -> int:
    """Return where the next blank line ends, or -1."""
    if plain:
        at = text.find(b"\n\n", look)
        return at + 2 if at >= 0 else -1
    # `find` goes to the next line end some ten times as fast as the pattern would.
    while (lf := text.find(b"\n", look)) >= 0 or text.find(b"\r", look) >= 0:
        cr = text.find(b"\r", look, lf if lf >= 0 else len(text))
        at = cr if cr >= 0 else lf
        if found := _BLANK.match(text, at):
            return found.end()
        look = at + 1
    return -1


def _fields(block: bytes) -> tuple[bytes | None, bytes | None]:
    """Return what a block's data lines and its last `event:` line say."""
    if block.startswith(b"data: "):
        only = block.rstrip(b"\r\n")
        if b"\n" not in only and b"\r" not in only:
            return only[6:], None
    data: list[bytes] = []
    name = None
    for line in _LINE_END.split(block):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return (b"\n".join(data) if data else None), name
