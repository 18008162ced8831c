"""What a terminal can show: its characters, settled at the start, and lines that fit its width."""

import codecs
import io
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TextIO

# How an ASCII terminal reads what the program itself writes; anything else is spelt out.
_SPELLED = {
    "…": "...", "·": "-", "—": "-", "→": "->", "≈": "~", "•": "*", "“": '"', "”": '"',
    "\u2013": "-", "\u2018": "'", "\u2019": "'", "\xa0": " ", "\xd7": "x", "─": "-", "━": "-",
}  # fmt: skip
_ERRORS = "tollway.spelled"
_NARROWEST = 24  # below it a terminal breaks lines as well as we do
# A word, where `a command` is one, so that it can be copied from one line; or blanks.
_WORDS = re.compile(r"(?:`[^`\n]*`|[^\s`]|`)+|\s+")


class Piece(NamedTuple):
    """Text in one colour; "" for the terminal's own."""

    text: str
    colour: str = ""


# --- characters ---------------------------------------------------------------------------------


def settle() -> None:
    """Make stdout and stderr write whatever they are given: what they cannot show is spelt out.

    A terminal whose locale is "C" or "POSIX" gets ASCII. What goes to a file or a pipe there
    stays UTF-8, as data does everywhere.
    """
    codecs.register_error(_ERRORS, _spelled)
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):  # a test's, which takes everything
            continue
        if stream.isatty() and is_plain():
            stream.reconfigure(encoding="ascii", errors=_ERRORS)
        elif not is_utf8(stream.encoding):
            stream.reconfigure(errors=_ERRORS)


def is_plain() -> bool:
    """Whether the person's locale is "C" or "POSIX", said and not merely left out."""
    said = next(filter(None, map(os.environ.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "")
    # No locale at all is a container's; Python then takes UTF-8, and so do terminals.
    return said.partition(".")[0] in ("C", "POSIX") and "UTF" not in said.upper()


def is_utf8(encoding: str | None) -> bool:
    """Whether that is UTF-8, by any of its names."""
    return (encoding or "").lower().replace("-", "").replace("_", "") == "utf8"


def _spelled(fault: UnicodeError) -> tuple[str, int]:
    if not isinstance(fault, UnicodeEncodeError):
        raise fault
    text = fault.object[fault.start : fault.end]
    return "".join(_SPELLED.get(one) or _escaped(one) for one in text), fault.end


def _escaped(char: str) -> str:
    number = ord(char)
    if number < 0x10000:
        return f"\\u{number:04x}"
    number -= 0x10000  # the two halves that JSON writes, so that JSON stays what it says
    return f"\\u{0xD800 + (number >> 10):04x}\\u{0xDC00 + (number & 0x3FF):04x}"


def ascii_json(text: str) -> str:
    """Return JSON with all that is not ASCII as its own escapes."""
    return "".join(one if one < "\x80" else _escaped(one) for one in text)


# --- widths -------------------------------------------------------------------------------------


def room(stream: TextIO) -> int | None:
    """Return how many columns the lines of a stream may take; None for as many as they need.

    A pipe has no width, so that programs read whole lines there; $COLUMNS gives it one.
    """
    said = os.environ.get("COLUMNS", "")
    if stream.isatty():
        return columns(stream.fileno())
    return int(said) if said.isdecimal() and int(said) else None


def columns(fd: int) -> int:
    """Return how many columns a terminal has; $COLUMNS says otherwise."""
    try:
        said = int(os.environ.get("COLUMNS", ""))
    except ValueError:
        said = 0
    if said > 0:
        return said
    try:
        return os.get_terminal_size(fd).columns or shutil.get_terminal_size().columns
    except OSError:
        return shutil.get_terminal_size().columns


def cells(text: str) -> int:
    """Return how many columns a text takes, spelt out where the person's locale is ASCII."""
    if text.isascii():
        return len(text)
    if is_plain():
        return sum(len(_SPELLED.get(one) or _escaped(one)) if one > "\x7f" else 1 for one in text)
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1
        for one in text
    )


def wrapped(line: Sequence[Piece], width: int, hang: int | None = None) -> list[list[Piece]]:
    """Return a line as lines of at most `width` columns, broken at blanks.

    Those behind the first begin with `hang` blanks; without it, with two more than the first.
    A word that is wider than a line is broken too, behind a mark such as `/` where it has one.
    """
    text = "".join(piece.text for piece in line)
    if width < _NARROWEST or cells(text) <= width:
        return [list(line)]
    if hang is None:
        hang = len(text) - len(text.lstrip()) + 2
    hang = min(hang, width // 2)
    lines: list[list[Piece]] = [[]]
    taken, blank = 0, 0
    for word in _words(line):
        size = sum(cells(piece.text) for piece in word)
        if word[0].text.isspace():
            blank += size
            if not taken:  # the first line's own indentation
                lines[-1] += [Piece(" " * min(size, hang))]
                taken, blank = min(size, hang), 0
            continue
        begun = taken > (hang if len(lines) > 1 else 0)
        # What must be broken anyway begins where it stands, if that is not near the end.
        wide = size > width - hang and taken + blank <= width // 2
        if begun and taken + blank + size > width and not wide:
            lines.append([Piece(" " * hang)])
            taken, blank = hang, 0
        if blank:
            lines[-1].append(Piece(" " * blank))
        taken += blank
        blank = 0
        for number, part in enumerate(_parts(word, width - taken, width - hang)):
            if number:
                lines.append([Piece(" " * hang)])
                taken = hang
            lines[-1] += part
            taken += sum(cells(piece.text) for piece in part)
    return lines


def _parts(word: Sequence[Piece], first: int, room: int) -> Iterator[list[Piece]]:
    """Yield a word in parts of at most `first` columns, then of at most `room`."""
    rest = list(word)
    while sum(cells(piece.text) for piece in rest) > first:
        at = _break("".join(piece.text for piece in rest), first)
        part: list[Piece] = []
        while at >= len(rest[0].text):
            part.append(rest.pop(0))
            at -= len(part[-1].text)
        if at:
            part.append(Piece(rest[0].text[:at], rest[0].colour))
            rest[0] = Piece(rest[0].text[at:].lstrip(), rest[0].colour)
        part[-1] = Piece(part[-1].text.rstrip(), part[-1].colour)
        yield part
        first = room
    yield rest


def _break(text: str, width: int) -> int:
    """Return where a text is broken, so that what stands before takes at most `width` columns."""
    most = 1
    while cells(text[: most + 1]) <= width:
        most += 1
    for mark, least in ((r"\s", most // 4), (r"[/\\]", most // 4), (r"[-_.,:;=&?@]", most // 2)):
        if (found := list(re.finditer(mark, text[:most]))) and found[-1].end() > least:
            return found[-1].end()
    return most


def _words(line: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Yield blanks and words; a word may be of several pieces."""
    word: list[Piece] = []
    for piece in line:
        for text in _WORDS.findall(piece.text):
            if text.isspace():
                if word:
                    yield word
                    word = []
                yield [Piece(text)]
            else:
                word.append(Piece(text, piece.colour))
    if word:
        yield word


def shares(needed: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Return how wide columns are that may have `room` together.

    Each has what it needs where all of that fits. Else each has at least its `least`, and the
    narrow ones are served first; where not even that fits, the widest give way.
    """
    widths = [min(pair) for pair in zip(needed, least, strict=True)]
    while (over := sum(widths) - room) > 0 and max(widths) > 1:
        at = widths.index(max(widths))
        second = max((one for one in widths if one < widths[at]), default=1)
        widths[at] -= min(over, max(1, widths[at] - second))
    for at in sorted(range(len(widths)), key=lambda at: needed[at] - widths[at]):
        widths[at] += max(0, min(needed[at] - widths[at], room - sum(widths)))
    return widths
