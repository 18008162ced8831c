"""Halves of characters: JSON can hold them, UTF-8 cannot, and no decoder here takes them.

Servers in JavaScript cut a text where they like, also within an emoji, and write each half as an
escape. Most client libraries read that, so that an answer must not fail for it; those of a stream
add the halves up again, and so does `Halves`.
"""

import re

import msgspec

from tollway.providers import events as ev

# An escape of any kind, so that a backslash that is itself escaped begins none.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|u([dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
# A half stands for itself as a character that nobody writes: the same number at the end of the
# last plane, which is for private use.
_PLANE = 0x100000
_FIRST, _LAST = "\U0010d800", "\U0010dbff"
_SIGN = "\U0010dc00-\U0010dfff"
_IN_TEXT = re.compile(f"([{_FIRST}-{_LAST}])([{_SIGN}])|[{_FIRST}-{_LAST}{_SIGN}]")
_IN_BYTES = re.compile(rb"(?:\xf4\x8d[\xa0-\xbf][\x80-\xbf])+")
_UNREADABLE = "\N{REPLACEMENT CHARACTER}"

_Delta = ev.TextDelta | ev.ThinkingDelta | ev.RefusalDelta | ev.ToolDelta
# What comes between two pieces of one text, and is no end of it.
_BESIDE = ev.Start | ev.UsageReport | ev.Failed | ev.LogprobsDelta


def without_halves(text: bytes) -> bytes:
    """Return JSON in which what is no whole character is the mark for what cannot be read."""
    if b"\\ud" in text or b"\\uD" in text:
        text = _ESCAPE.sub(_mended, text)
    return _decoded(text)


def with_signs(text: bytes) -> bytes:
    """Return JSON in which halves of characters are signs that `Halves` knows again."""
    if b"\\ud" in text or b"\\uD" in text:
        text = _ESCAPE.sub(_signed, text)
    return _decoded(text)


def _decoded(text: bytes) -> bytes:
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            return text.decode("utf-8", "replace").encode()
    return text


def _mended(found: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if found[1] else found[0]


def _signed(found: re.Match[bytes]) -> bytes:
    return chr(_PLANE + int(found[1], 16)).encode() if found[1] else found[0]


class Halves:
    """Puts the halves of a stream's characters together again, from the first half on.

    A first half at the end of a piece waits for the next piece of the same text; one that gets no
    other half is the mark for what cannot be read.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, _Delta] = {}  # the first half, by choice

    def event(self, event: ev.Event) -> list[ev.Event]:
        """Return what is to be written now."""
        if isinstance(event, _BESIDE):
            return [event]
        before = self._waiting.pop(event.choice, None)
        if not isinstance(event, _Delta):
            return [event] if before is None else [_with(before, _UNREADABLE), event]
        out: list[ev.Event] = []
        text = _text(event)
        if type(before) is type(event):
            text = _text(before) + text
        elif before is not None:
            out.append(_with(before, _UNREADABLE))
        if text and _FIRST <= text[-1] <= _LAST:
            self._waiting[event.choice] = _with(event, text[-1])
            text = text[:-1]
            if not text:
                return out
        return [*out, _with(event, _IN_TEXT.sub(_joined, text))]

    def end(self) -> list[ev.Event]:
        """Return what still waits."""
        rest: list[ev.Event] = [_with(one, _UNREADABLE) for one in self._waiting.values()]
        self._waiting.clear()
        return rest

    @staticmethod
    def mended(written: bytes) -> bytes:
        """Return what was written without signs that stand anywhere else than in a piece."""
        return _IN_BYTES.sub(
            lambda found: _IN_TEXT.sub(_joined, found[0].decode()).encode(), written
        )


def _text(event: _Delta) -> str:
    return event.arguments if isinstance(event, ev.ToolDelta) else event.text


def _with(event: _Delta, text: str) -> _Delta:
    if isinstance(event, ev.ToolDelta):
        return msgspec.structs.replace(event, arguments=text)
    return msgspec.structs.replace(event, text=text)


def _joined(found: re.Match[str]) -> str:
    if not found[1]:
        return _UNREADABLE
    first, second = ord(found[1]) & 0x3FF, ord(found[2]) & 0x3FF
    return chr(0x10000 + (first << 10) + second)
