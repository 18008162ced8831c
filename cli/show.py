"""The only file that formats what commands print: tables, money, tokens, ages, bars, JSON, CSV.

stdout is for data and stderr for talk. On a terminal tables are drawn by Rich; anywhere else they
are plain aligned columns, so that `grep`, `cut` and `awk` work: one line a row, two blanks or
more between columns, `-` for nothing.
"""

import csv
import re
import select
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal, TextIO
from zoneinfo import ZoneInfo

import msgspec

from tollway.cli.boundary import has_colour, printable
from tollway.cli.streams import talk
from tollway.cli.wrap import Piece, ascii_json, is_plain, is_utf8, room, shares, wrapped
from tollway.cli.wrap import cells as wide
from tollway.providers import words

Colour = Literal["green", "yellow", "red", "cyan", "dim", "bold"]

_NOTHING = "-"
_FORMULA = "=+-@\t\r"  # how what a spreadsheet computes begins
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?").fullmatch
_TOLD_EVERY_S = 5.0  # how far long work is, where there is no bar
_LONG_WORD = 16  # a column is no wider for the sake of a word alone
_KEPT = re.compile(r"[^\n\t]+")  # of an answer, between what lays it out
_ANSI = {"green": 32, "yellow": 33, "red": 31, "cyan": 36, "dim": 2, "bold": 1}


class Painted(msgspec.Struct, frozen=True):
    """Text in a colour, where the terminal takes one. Text alone never brings its own."""

    text: str
    colour: Colour


# What can be printed: text from anywhere, painted text, or a line made of both.
Cell = str | Painted | list[str | Painted]


class Column(msgspec.Struct, frozen=True):
    """A table's column. Numbers are aligned right and never wrapped."""

    title: str
    number: bool = False


# --- values -------------------------------------------------------------------------------------


def money(nanousd: int | None) -> str:
    """Return nano-dollars as people write them: "$12.50", "$0.0042", "-" for None.

    From a dollar up to the cent, below it to four places, below a cent two significant digits, so
    that a call that cost something never shows as nothing.
    """
    if nanousd is None:
        return _NOTHING
    sign, left = ("-", -nanousd) if nanousd < 0 else ("", nanousd)
    usd = Decimal(left) / 10**9
    if usd >= 1:
        return f"{sign}${usd:,.2f}"
    places = 4 if usd >= Decimal("0.01") or not usd else 1 - usd.adjusted()
    whole, _, digits = f"{usd:.{places}f}".partition(".")
    return f"{sign}${whole}.{digits.rstrip('0'):0<2}"


def tokens(count: int | None) -> str:
    """Return a number of tokens or calls, short: "812", "12.3k", "4.56M", "-" for None."""
    if count is None:
        return _NOTHING
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}" if count < 999.5 * size else f"{count // size}{unit}"
    return str(count)


def counted(count: int, one: str, many: str = "", *, shown: str = "") -> str:
    """Return a number with what it counts: "1 call", "2 calls", "12.3k calls" by `shown`."""
    return words.counted(count, one, many, shown=shown)


def counted_short(count: int, one: str, many: str = "") -> str:
    """Return a number as `tokens` writes it with what it counts: "1 token", "12.3k tokens"."""
    return words.counted(count, one, many, shown=tokens(count))


def duration(seconds: float | None) -> str:
    """Return a time span in its two largest units: "350ms", "4.2s", "3m 05s", "2d 4h"."""
    if seconds is None:
        return _NOTHING
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour}h"
    return f"{hours}h {minute:02}m" if hours else f"{minutes}m {second:02}s"


def place(text: Path | str) -> str:
    """Return a path, or a text with some, as a terminal shows it: "~/a". A pipe gets it whole."""
    home = str(Path.home())
    if home == "/" or not sys.stdout.isatty():
        return str(text)
    return re.sub(rf"(?<![\w./-]){re.escape(home)}/", "~/", str(text))


def age(then: float | None, *, now: float | None = None) -> str:
    """Return how long ago a moment (unix seconds) was: "12s ago", "3h 10m ago"."""
    if then is None:
        return _NOTHING
    return (
        f"{duration(max(0.0, (datetime.now(UTC).timestamp() if now is None else now) - then))} ago"
    )


def when(then: float | None) -> str:
    """Return a moment (unix seconds) in the person's own time zone: "2026-11-22 15:04:05"."""
    if then is None:
        return _NOTHING
    return f"{datetime.fromtimestamp(then, UTC).astimezone():%Y-%m-%d %H:%M:%S}"


def turn(then: float, zone: ZoneInfo | None = None) -> str:
    """Return when a period ends, in the gateway's time zone as refusals say it, else this box's."""
    return f"{datetime.fromtimestamp(then, UTC).astimezone(zone):%Y-%m-%d %H:%M %Z}"


def iso(then: float | None) -> str:
    """Return a moment (unix seconds) for programs: "2026-11-22T14:04:05+00:00"; "" for None."""
    return "" if then is None else datetime.fromtimestamp(then, UTC).isoformat()


def size(count: int | None) -> str:
    """Return bytes in binary units: "512 B", "1.5 KiB", "105 MiB"."""
    if count is None:
        return _NOTHING
    left, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if left < 1000:  # not 1024: four digits are harder to read than the next unit
            break
        left, unit = left / 1024, larger
    return f"{left:.0f} {unit}" if unit == "B" or left >= 100 else f"{left:.3g} {unit}"


def percent(part: int, whole: int) -> str:
    """Return `part` of `whole` as "37%", "<1%" for what is there but small, "-" of nothing."""
    if whole <= 0:
        return _NOTHING
    share = 100 * part / whole
    return "<1%" if 0 < share < 1 else f"{share:.0f}%"


def has_blocks() -> bool:
    """Whether stdout can show blocks: it is UTF-8, and the person's locale says nothing else."""
    return not is_plain() and is_utf8(sys.stdout.encoding)


def bar(part: int, whole: int, width: int = 20) -> str:
    """Return a bar of `width` characters, in eighths: "█████▌"; never longer, none for nothing."""
    if whole <= 0 or part <= 0:
        return ""
    eighths = min(round(8 * width * part / whole), 8 * width)
    if not has_blocks():
        return "#" * max(1, eighths // 8)
    full, rest = divmod(max(1, eighths), 8)
    return "█" * full + " ▏▎▍▌▋▊▉"[rest].strip()


def spark(values: Sequence[int]) -> str:
    """Return a bar of one character for each value, the highest in full: "▁▃█ ▂"; blank for 0."""
    most = max(values, default=0)
    steps = "▁▂▃▄▅▆▇█" if has_blocks() else ".:-=+*#@"
    return "".join(
        " " if value <= 0 else steps[min(7, (value * 8 - 1) // most)] for value in values
    )


def change(now: int, then: int | None) -> str:
    """Return how an amount differs from one before it: "+12%", "new", "" where nobody knows."""
    if then is None:
        return ""
    if not then:
        return "new" if now else ""
    part = (now - then) * 100
    percent = (abs(part) + abs(then) // 2) // abs(then)
    sign = "" if not percent else "+" if part > 0 else "-"
    return f"{sign}{percent}%" if percent < 1000 else f"{sign}{percent / 100:.0f}x"


# --- printing -----------------------------------------------------------------------------------


def emit(data: object) -> None:
    """Print data as indented JSON on stdout. Structs keep their field names, paths become text."""
    text = msgspec.json.format(msgspec.json.encode(data, enc_hook=_plain), indent=2)
    sys.stdout.write(_as_json(text) + "\n")


def emit_line(data: object) -> None:
    """Print data as JSON on one line of stdout, at once: for what comes bit by bit."""
    sys.stdout.write(_as_json(msgspec.json.encode(data, enc_hook=_plain)) + "\n")
    sys.stdout.flush()


def _as_json(data: bytes) -> str:
    text = data.decode()
    return text if is_utf8(sys.stdout.encoding) else ascii_json(text)


def pause(seconds: float) -> None:
    """Wait, but no longer than somebody reads stdout.

    Raises:
        BrokenPipeError: The reader (`| head`) has gone; nothing more need be looked for.
    """
    reader = select.poll()
    reader.register(sys.stdout.fileno(), 0)  # only what is told unasked: it has gone
    if reader.poll(seconds * 1000):
        raise BrokenPipeError


def emit_csv(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows as CSV on stdout, titles first, values as `csv_cells` has them."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows(map(csv_cells, rows))


def csv_cells(row: Iterable[object]) -> list[object]:
    """Return a row's values; an apostrophe stands before what a spreadsheet would compute."""
    return [
        f"'{one}" if type(one) is str and one and one[0] in _FORMULA and not _NUMBER(one) else one
        for one in row
    ]


def emit_markdown(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print a table as GitHub draws it; cells are text, whatever Markdown they look like."""
    marks = ["---:" if column.number else "---" for column in columns]
    for cells in ([markdown(column.title) for column in columns], marks):
        print(f"| {' | '.join(cells)} |")
    for row in rows:
        print(f"| {' | '.join(markdown(cell) or _NOTHING for cell in row)} |")


def markdown(text: str) -> str:
    """Return text that Markdown shows as it is."""
    # GitHub ends a cell at a bar even within a code span, and takes < and & for HTML.
    return re.sub(r"([\\|`*_\[\]<>&#~])", r"\\\1", printable(text))


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, int | float):  # the units of gateway.toml: Bytes, Seconds
        return float(value) if isinstance(value, float) else int(value)
    return str(value)


def say(cell: Cell = "") -> None:
    """Print data on stdout, wrapped where a terminal is narrow; several lines where it has them."""
    for line in _lines(cell, sys.stdout):
        print(line)


def say_as_it_is(cell: Cell) -> None:
    """Print a line on stdout that means something as it stands: it is never wrapped."""
    print(_drawn(cell, colour=has_colour(sys.stdout.isatty())))


def note(cell: Cell) -> None:
    """Print talk on stderr: what happened, what comes next; wrapped where a terminal is narrow."""
    talk(_lines(cell, sys.stderr))


def ask(question: str) -> None:
    """Print a question on stderr, wrapped where a terminal is narrow; the answer stands behind."""
    *lines, last = _lines(question, sys.stderr)
    print(*lines, f"{last} ", sep="\n", end="", file=sys.stderr, flush=True)


def write(text: str) -> None:
    """Print a piece of an answer as it comes, on stdout: no line end is added, nothing waits.

    A terminal gets control characters spelt out; a file gets the text as it is.
    """
    if sys.stdout.isatty():
        text = _KEPT.sub(lambda found: printable(found[0]), text)
    sys.stdout.write(text)
    sys.stdout.flush()


def pairs(rows: Iterable[tuple[str, Cell]]) -> None:
    """Print a block of names and values, the values aligned; a value may have several lines."""
    block = [(name, value or _NOTHING) for name, value in rows]
    width = max((len(name) for name, _ in block), default=0)
    colour = has_colour(sys.stdout.isatty())
    for name, value in block:
        for number, line in enumerate(_lines(value, sys.stdout, taken=width + 2)):
            head = _drawn(Painted("" if number else name.ljust(width), "dim"), colour=colour)
            print(f"{head or ' ' * width}  {line}")


def _lines(cell: Cell, stream: TextIO, *, taken: int = 0) -> list[str]:
    """Return the lines that a stream is given; `taken` of its columns are not theirs."""
    colour = has_colour(stream.isatty())
    texts: list[Cell] = [*cell.split("\n")] if isinstance(cell, str) else [cell]
    width = room(stream)
    if width is None:
        return [_drawn(one, colour=False) for one in texts]
    hang = 0 if taken else None
    return [
        "".join(
            f"\x1b[{piece.colour}m{piece.text}\x1b[0m" if colour and piece.colour else piece.text
            for piece in line
        )
        for one in texts
        for line in wrapped(list(_pieces(one)), width - taken, hang)
    ]


def _pieces(cell: Cell) -> Iterator[Piece]:
    for part in cell if isinstance(cell, list) else [cell]:
        if isinstance(part, str):
            yield Piece(printable(part))
        else:
            yield Piece(printable(part.text), str(_ANSI[part.colour]))


def _drawn(cell: Cell, *, colour: bool) -> str:
    if isinstance(cell, list):
        return "".join(_drawn(part, colour=colour) for part in cell)
    if isinstance(cell, str):
        return printable(cell)
    text = printable(cell.text)
    return f"\x1b[{_ANSI[cell.colour]}m{text}\x1b[0m" if colour and text else text


def table(columns: Sequence[Column | str], rows: Iterable[Sequence[Cell]]) -> None:
    """Print a table on stdout. A title alone is a column of text; cells are text, not markup."""
    heads = [Column(column) if isinstance(column, str) else column for column in columns]
    terminal = sys.stdout.isatty()
    colour = has_colour(terminal)
    cells = [[_drawn(cell, colour=colour) or _NOTHING for cell in row] for row in rows]
    width = room(sys.stdout)
    if not terminal:
        lines = list(_plain_lines(heads, cells))
        if width is None or max(map(wide, lines)) <= width:
            print("\n".join(lines))
            return
    _rich_table(heads, cells, width or 0)


def _plain_lines(heads: list[Column], cells: list[list[str]]) -> Iterator[str]:
    rows = [[head.title for head in heads], *cells]
    widths = [max(len(row[at]) for row in rows) for at in range(len(heads))]
    for row in rows:
        yield "  ".join(
            cell.rjust(width) if head.number else cell.ljust(width)
            for cell, width, head in zip(row, widths, heads, strict=True)
        ).rstrip()


def _rich_table(heads: list[Column], cells: list[list[str]], width: int) -> None:
    # Imported for what has a width alone: 0.1 s.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    plain = [[Text.from_ansi(cell).plain for cell in row] for row in cells]
    found = column_widths(heads, plain, width)
    if found is None:
        _blocks(heads, cells, plain, width)
        return
    widths, gap = found
    drawn = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for head, each in zip(heads, widths, strict=True):
        drawn.add_column(
            Text(head.title),
            justify="right" if head.number else "left",
            no_wrap=head.number,
            overflow="fold",
            width=each,
        )
    for row in cells:
        drawn.add_row(*(Text.from_ansi(cell) for cell in row))
    Console(
        highlight=False,
        width=width,
        # Rich keeps bold under NO_COLOR; what was asked for is text.
        color_system="auto" if has_colour(sys.stdout.isatty()) else None,
    ).print(drawn)


def column_widths(
    heads: list[Column], rows: list[list[str]], width: int
) -> tuple[list[int], int] | None:
    """Return how wide a terminal's columns are and the blanks between them; None: too many."""
    needed, least = [], []
    for at, head in enumerate(heads):
        texts = [head.title, *(line for row in rows for line in row[at].split("\n"))]
        most = max(map(wide, texts))
        # Where it must be broken, then between words, unless one is long.
        words = [wide(word) for text in texts for word in text.split()]
        needed.append(most)
        least.append(most if head.number else min(_LONG_WORD, max(words, default=0)))
    gaps = len(heads) - 1
    gap = 2 if sum(least) + 2 * gaps <= width else 1
    if sum(least) + gap * gaps > width:
        return None
    return shares(needed, least, width - gap * gaps), gap


def _blocks(
    heads: list[Column], cells: list[list[str]], plain: list[list[str]], width: int
) -> None:
    """Print each row as a block of names and values, where a table's columns would be cut."""
    left = max(wide(head.title) for head in heads)
    for row, texts in zip(cells, plain, strict=True):
        for at, (head, cell, text) in enumerate(zip(heads, row, texts, strict=True)):
            if at and text.strip() in ("", _NOTHING):
                continue
            title = f"{'  ' if at else ''}{head.title.ljust(left if at else left + 2)}  "
            title = title if title.strip() else ""
            if wide(title) + wide(text) <= width and "\n" not in text:
                print(f"{title}{cell}")
                continue
            pieces = (Piece(line) for line in text.split("\n"))
            lines = [line for one in pieces for line in wrapped([one], width - wide(title), 0)]
            for number, line in enumerate(lines):
                head_of = title if not number else " " * wide(title)
                print(head_of + "".join(piece.text for piece in line))


@contextmanager
def progress(text: str) -> Iterator[Callable[[int, int], None]]:
    """Yield what takes `done, of`, and show it as a bar on stderr where that is a terminal.

    A terminal that wants no colour gets a line now and then: a bar is drawn with escape codes.
    """
    if not sys.stderr.isatty():
        yield lambda done, of: None
        return
    if not has_colour(True):
        yield _told(text)
        return
    from rich.console import Console  # noqa: PLC0415 - for terminals alone: 0.1 s
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(printable(text), total=None)
        yield lambda done, of: bars.update(task, completed=done, total=of)


def _told(text: str) -> Callable[[int, int], None]:
    """Return what takes `done, of`, and says how far it is every few seconds."""
    told_at = time.monotonic()

    def tell(done: int, of: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= _TOLD_EVERY_S:
            told_at = time.monotonic()
            note(f"{text}: {percent(done, of)}")

    return tell


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show a spinner on stderr while the block runs, where that is a terminal that takes colour.

    It turns by escape codes, which a pipe, `NO_COLOR` and a dumb terminal are spared.
    """
    if not has_colour(sys.stderr.isatty()):
        yield
        return
    from rich.console import Console  # noqa: PLC0415 - for terminals alone: 0.1 s
    from rich.text import Text  # noqa: PLC0415

    # Rich's usual spinner is of dots that an ASCII terminal has not.
    spinner = "dots" if is_utf8(sys.stderr.encoding) else "line"
    with Console(stderr=True).status(Text(text), spinner=spinner):
        yield
