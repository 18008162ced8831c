"""Knows an event again that is an earlier one but for a piece of plain text.

Nearly all events of a stream are: what stands around the text is the same, byte for byte, so
what it says beside the text is what the earlier one said, and need not be decoded again.
"""

import re

# Providers that pad each event with random letters never repeat one: not worth looking for.
_MOST_LEARNED = 8
_NEVER = b"\0"  # ends no event that was learned: those end with a blank line
_QUOTE = b'"'
_FRAME = b"\r\n"  # ends a chunk
_MOST_PADDINGS = 64
# Escapes that stand for one byte.
_ESCAPES = re.compile(rb'\\["\\/bfnrt]')
# Changes what ends a text, has to be decoded, or would be a line's end of the event's: no text.
_PLAIN = bytes.maketrans(b'"\\\n\r', b"    ")


class Alike:
    """What stands before and behind the text, the lines' ends and names included.

    Nothing is known again until an event has been learned, nor once `hopeless`: no two are alike.
    """

    __slots__ = (
        "_behind",
        "_head",
        "_in_chunk",
        "_learned",
        "_padded",
        "_paddings",
        "_size",
        "_tail",
        "hopeless",
    )

    def __init__(self) -> None:
        self.hopeless = False
        self._learned = 0
        self._forget()

    def _forget(self) -> None:
        self._head = b""
        self._size = 0  # of the head
        self._tail = self._in_chunk = self._padded = _NEVER
        self._paddings: set[bytes] = set()  # tails in chunks that have been seen to be padded ones
        self._behind = 0  # the size of what stands behind the text in a chunk

    def text(self, event: bytes) -> int:
        """Return the UTF-8 bytes of an event's text, or -1 where it is another event.

        Text with the hexadecimal digits of an escape in it counts as another event.
        """
        begin, end = self._size, len(event) - self._behind + len(_FRAME)
        if event[end:] != self._tail:
            end = event.rfind(_QUOTE)
            if event[end:].replace(b" ", b"") != self._padded:
                return -1
        return _size(event[begin:end]) if event[:begin] == self._head and begin <= end else -1

    def text_in_chunk(self, chunk: bytes, line: bytes) -> int:
        """Return as `text` does, of the event that is all of a chunk of HTTP behind its `line`."""
        begin = len(line) + self._size
        end = len(chunk) - self._behind
        # Slices: to look by `startswith` or `find` takes twice as long.
        if chunk[end:] != self._in_chunk:
            end = chunk.rfind(_QUOTE)
            tail = chunk[end:]
            if tail not in self._paddings and not self._is_padded(tail):
                return -1
        if chunk[:begin] != line + self._head or end < begin:
            return -1
        text = chunk[begin:end]
        return end - begin if text.translate(_PLAIN) == text else _size(text)

    def _is_padded(self, tail: bytes) -> bool:
        """Whether what stands behind a text in a chunk differs from the known in blanks alone."""
        if not tail.endswith(_FRAME) or tail[: -len(_FRAME)].replace(b" ", b"") != self._padded:
            return False
        if len(self._paddings) < _MOST_PADDINGS:
            self._paddings.add(tail)
        return True

    def learn(self, event: bytes, text: str) -> None:
        """Take an event whose only text is this, and which says nothing else that is new."""
        quoted = b'"' + text.encode() + b'"'
        at = event.find(quoted)
        if at < 0 or b"\\" in quoted or event.find(quoted, at + 1) >= 0:
            return
        if not event[:at].rstrip().endswith(b":") or not event.endswith((b"\n\n", b"\r\n\r\n")):
            return
        self._head, self._tail = event[: at + 1], event[at + len(quoted) - 1 :]
        self._in_chunk = self._tail + _FRAME
        self._behind = len(self._in_chunk)
        # Where no string follows, blanks are padding: Anthropic puts some before the last brace.
        self._padded = _NEVER if b'"' in self._tail[1:] else self._tail.replace(b" ", b"")
        self._paddings.clear()
        self._size = len(self._head)
        self._learned += 1
        if self._learned > _MOST_LEARNED:
            self.hopeless = True
            self._forget()


def _size(text: bytes) -> int:
    """Return the bytes that a string of JSON stands for; -1 where that is not so easy to tell."""
    short = _ESCAPES.sub(b"-", text) if b"\\" in text else text
    return len(short) if short.translate(_PLAIN) == short else -1
