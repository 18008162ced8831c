"""Halves of characters: JSON can hold them, UTF-8 cannot, and no decoder here takes them.

Servers in JavaScript cut a text where they like, also within an emoji, and write each half as an
escape. Most client libraries read that, so that an answer must not fail for it.
"""

import re

# An escape of any kind, so that a backslash that is itself escaped begins none.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def without_halves(text: bytes) -> bytes:
    """Return JSON in which what is no whole character is the mark for what cannot be read."""
    if b"\\ud" in text or b"\\uD" in text:
        text = _ESCAPE.sub(_mended, text)
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            return text.decode("utf-8", "replace").encode()
    return text


def _mended(found: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if found[1] else found[0]
