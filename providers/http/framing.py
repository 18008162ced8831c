"""How a chunk of HTTP is framed: its size in hexadecimal, its bytes, a line end behind each.

Which size a chunk begins with follows from how long it is, so that one look tells whether some
bytes are one chunk and nothing else.
"""

LISTED = 2048  # chunks below this stand in `SIZE_LINES`: nearly all events do


def size_line(length: int) -> bytes:
    """Return the first line of a chunk that has `length` bytes with its framing.

    In the form that nearly all write: lower case, no leading zero, no extension. Where no chunk
    in that form is so long, it is what no chunk begins with.
    """
    for digits in range(1, 17):
        line = b"%x\r\n" % max(0, length - digits - 4)
        if len(line) == digits + 2 and length > digits + 4:
            return line
    return b"\0"


SIZE_LINES = tuple(size_line(length) for length in range(LISTED))
