"""Knows an event again that is an earlier one but for a piece of plain text.

Nearly all events of a stream are: what stands around the text is the same, byte for byte, so
what it says beside the text is what the earlier one said, and need not be decoded again.
"""

# Providers that pad each event with random letters never repeat one: not worth looking for.
_MOST_LEARNED = 8
_NEVER = b"\0"  # ends no event that was learned: those end with a blank line
_QUOTE, _ESCAPE, _LF, _CR = b'"', 92, 10, 13


class Alike:
    """What stands before and behind the text, the lines' ends and names included.

    Nothing is known again until an event has been learned, nor once `hopeless`: no two are alike.
    """

    __slots__ = ("_head", "_in_chunk", "_learned", "_padded", "_size", "_tail", "hopeless")

    def __init__(self) -> None:
        self.hopeless = False
        self._learned = 0
        self._forget()

    def _forget(self) -> None:
        self._head = b""
        self._size = 0  # of the head
        self._tail = self._in_chunk = self._padded = _NEVER

    def text(self, event: bytes) -> int:
        """Return the UTF-8 bytes of an event's text, or -1 where it is another event.

        Text with an escape in it counts as another event.
        """
        begin = self._size
        end = event.find(_QUOTE, begin)
        tail = event[end:]
        if tail != self._tail and tail.replace(b" ", b"") != self._padded:
            return -1
        if not event.startswith(self._head):
            return -1
        text = event[begin:end]
        # A line's end would be one of the event's, and no text of it.
        return -1 if _ESCAPE in text or _LF in text or _CR in text else end - begin

    def text_in_chunk(self, chunk: bytes, at: int) -> int:
        """Return as `text` does, of the event that is all of a chunk of HTTP from `at` on."""
        begin = at + self._size
        end = chunk.find(_QUOTE, begin)
        tail = chunk[end:]
        if tail != self._in_chunk:
            padded = tail.endswith(b"\r\n") and tail[:-2].replace(b" ", b"") == self._padded
            if not padded:
                return -1
        if not chunk.startswith(self._head, at):
            return -1
        text = chunk[begin:end]
        return -1 if _ESCAPE in text or _LF in text or _CR in text else end - begin

    def learn(self, event: bytes, text: str) -> None:
        """Take an event whose only text is this, and which says nothing else that is new."""
        quoted = b'"' + text.encode() + b'"'
        at = event.find(quoted)
        if at < 0 or b"\\" in quoted or event.find(quoted, at + 1) >= 0:
            return
        if not event[:at].rstrip().endswith(b":") or not event.endswith((b"\n\n", b"\r\n\r\n")):
            return
        self._head, self._tail = event[: at + 1], event[at + len(quoted) - 1 :]
        self._in_chunk = self._tail + b"\r\n"
        # Where no string follows, blanks are padding: Anthropic puts some before the last brace.
        self._padded = _NEVER if b'"' in self._tail[1:] else self._tail.replace(b" ", b"")
        self._size = len(self._head)
        self._learned += 1
        if self._learned > _MOST_LEARNED:
            self.hopeless = True
            self._forget()
