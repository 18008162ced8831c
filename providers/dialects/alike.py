"""Knows an event again that is an earlier one but for a piece of plain text.

Nearly all events of a stream are: what stands around the text is the same, byte for byte, so
what it says beside the text is what the earlier one said, and need not be decoded again.
"""

# Providers that pad each event with random letters never repeat one: not worth looking for.
_MOST_LEARNED = 8


class Alike:
    """What stands before and behind the text.

    `head` is empty until an event has been learned, and again once `hopeless`: no two are alike.
    """

    def __init__(self) -> None:
        self.head = b""
        self.hopeless = False
        self._tail = b""
        self._learned = 0

    def text(self, data: bytes) -> int:
        """Return the UTF-8 bytes of an event's text, or -1 where it is another event.

        `data` must begin with `head`. Text with an escape in it counts as another event.
        """
        begin = len(self.head)
        end = data.find(b'"', begin)
        if data[end:] != self._tail or data.find(b"\\", begin, end) >= 0:
            return -1
        return end - begin

    def learn(self, data: bytes, text: str) -> None:
        """Take an event whose only text is this, and which says nothing else that is new."""
        quoted = b'"' + text.encode() + b'"'
        at = data.find(quoted)
        if at < 0 or b"\\" in quoted or data.find(quoted, at + 1) >= 0:
            return
        if not data[:at].rstrip().endswith(b":"):
            return
        self.head, self._tail = data[: at + 1], data[at + len(quoted) - 1 :]
        self._learned += 1
        if self._learned > _MOST_LEARNED:
            self.head, self.hopeless = b"", True
