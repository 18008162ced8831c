"""What `top` draws: a moment and the person's choices in, lines of text out."""

import io
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tollway.cli import show
from tollway.cli.boundary import printable
from tollway.cli.top_data import Call, Group, Live, groups
from tollway.providers.words import counted

Sort = Literal["cost", "tokens", "calls", "name"]
_NEXT: dict[Sort, Sort] = {"cost": "tokens", "tokens": "calls", "calls": "name", "name": "cost"}
_GAP = 2  # between columns
_LEAST_NAME = 6  # characters
_LEAST_ROWS = 2  # that a table gets before another one gets more
_MOST_GPUS, _MOST_MODELS = 4, 6
HELP = (
    ("q, Ctrl-C", "quit"),
    ("s", "sort by another of cost, tokens, calls, name"),
    ("r", "the other way round"),
    ("/", "filter by a part of a team, model, key or user;"),
    ("Enter, Esc", "keep the filter, or end it"),
    ("p, space", "pause, and go on"),
    ("?, h", "this help"),
)


class Choices(msgspec.Struct):
    """What the person has chosen with keys."""

    sort: Sort = "cost"
    backwards: bool = False
    filter: str = ""
    typing: bool = False  # the filter
    paused: bool = False
    help: bool = False

    def press(self, key: str) -> bool:
        """Take a key; return whether to go on."""
        if self.typing:
            self._type(key)
        elif key in {"q", "Q"}:
            return False
        elif key == "s":
            self.sort = _NEXT[self.sort]
        elif key == "r":
            self.backwards = not self.backwards
        elif key == "/":
            self.typing = True
        elif key in {"p", " "}:
            self.paused = not self.paused
        elif key in {"?", "h"}:
            self.help = not self.help
        elif key == "\x1b":
            self.help, self.filter = False, ""
        return True

    def _type(self, key: str) -> None:
        if key in {"\r", "\n"}:
            self.typing = False
        elif key == "\x1b":
            self.typing, self.filter = False, ""
        elif key in {"\x7f", "\b"}:
            self.filter = self.filter[:-1]
        elif key == "\x15":  # Ctrl-U
            self.filter = ""
        elif len(key) == 1 and key.isprintable():
            self.filter += key


class View(NamedTuple):
    """Where it is drawn: columns and lines of the terminal, and what it can show."""

    width: int
    height: int
    colour: bool = False
    blocks: bool = True  # characters of bars, beyond ASCII


class _Column(NamedTuple):
    title: str
    number: bool = False
    is_name: bool = False
    from_width: int = 0  # of the terminal: narrower ones do without it


class _Section(NamedTuple):
    columns: Sequence[_Column]
    rows: Sequence[Sequence[str]]


def draw(now: Live, speed: float, choices: Choices, view: View, trouble: str = "") -> list[str]:
    """Return the lines of a moment, none as wide as the terminal; `trouble` stands above all."""
    pen = _Pen(view)
    if choices.help:
        top = [pen.bold("tollway top"), ""]
        return top + [pen.line(f"  {key:<11}{what}") for key, what in HELP]
    lines = [*_head(now, speed, pen), *_trouble(now, trouble, pen)]
    lines += _gpus(now, pen) + _models(now, pen)
    footer = pen.dim(_footer(choices))
    room = view.height - len(lines) - 1
    for section in _shared(_sections(now, choices), room):
        lines += ["", *pen.table(section)]
    lines = lines[: max(0, view.height - 1)]
    return [*lines, *[""] * (view.height - 1 - len(lines)), footer]


class _Pen:
    """Draws lines for a view, with Rich."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.width = max(20, view.width - 1)
        self._console = Console(
            file=io.StringIO(),
            width=self.width,
            color_system="standard" if view.colour else None,
            force_terminal=view.colour,
            highlight=False,
            legacy_windows=False,
        )

    def lines(self, drawn: Table | Text) -> list[str]:
        """Return something of Rich's as lines."""
        with self._console.capture() as taken:
            self._console.print(drawn, end="")
        # One column, as Rich's own mark of what was cut, where there are no such characters.
        text = taken.get() if self.view.blocks else taken.get().replace("…", "~")
        return [line.rstrip() for line in text.split("\n")]

    def line(self, text: str, style: str = "") -> str:
        """Return one line, cut where the terminal ends."""
        drawn = Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")
        drawn.truncate(self.width, overflow="ellipsis")
        return self.lines(drawn)[0]

    def bold(self, text: str) -> str:
        """Return one line in bold."""
        return self.line(text, "bold")

    def dim(self, text: str) -> str:
        """Return one line that stays in the background."""
        return self.line(text, "dim")

    def wrapped(self, parts: Iterable[str]) -> list[str]:
        """Return parts in as few lines as they fit in, none broken."""
        lines, last = [], ""
        for part in filter(None, parts):
            if last and len(last) + 3 + len(part) > self.width:
                lines.append(last)
                last = part
            else:
                last = f"{last}   {part}" if last else part
        return [self.line(one) for one in (*lines, last)]

    def bar(self, part: int, whole: int, width: int) -> str:
        """Return a bar, filled up with blanks."""
        drawn = show.bar(part, whole, width)
        if not self.view.blocks:
            drawn = "#" * round(width * min(1.0, part / whole)) if whole > 0 else ""
        return f"[{drawn:<{width}}]"

    def table(self, section: _Section) -> list[str]:
        """Return a table's lines."""
        drawn = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
        shown = [at for at, one in enumerate(section.columns) if one.from_width <= self.view.width]
        columns = [section.columns[at] for at in shown]
        rows = [[printable(row[at]) for at in shown] for row in section.rows]
        for column, width in zip(columns, _widths(columns, rows, self.width), strict=True):
            drawn.add_column(
                Text(column.title),
                justify="right" if column.number else "left",
                no_wrap=True,
                overflow="ellipsis",
                width=width,
            )
        for row in rows:
            drawn.add_row(*map(Text, row))
        return self.lines(drawn)[: 1 + len(rows)]


def _widths(columns: Sequence[_Column], rows: Sequence[Sequence[str]], most: int) -> list[int]:
    """Return how wide each column is: numbers and states whole, names cut where they must be."""
    widths = [
        max([cell_len(column.title), *(cell_len(row[at]) for row in rows)])
        for at, column in enumerate(columns)
    ]
    names = [at for at, column in enumerate(columns) if column.is_name]
    over = sum(widths) + _GAP * (len(widths) - 1) - most
    while over > 0 and names:
        widest = max(names, key=lambda at: widths[at])
        if widths[widest] <= _LEAST_NAME:
            break
        widths[widest] -= 1
        over -= 1
    return widths


def _head(now: Live, speed: float, pen: _Pen) -> list[str]:
    at = datetime.fromtimestamp(now.at, UTC).astimezone().strftime("%H:%M:%S")
    calls = now.calls
    drains = "  draining" if now.draining else ""
    name = f"tollway {now.version}  up {show.duration(now.uptime_s)}  {now.listen}{drains}"
    gap = " " * max(2, pen.width - len(name) - len(at))
    lines = [pen.bold(f"{name}{gap}{at}")]
    waits = f", {calls.waiting} waiting" if calls.waiting else ""
    return lines + pen.wrapped(
        [
            f"calls {calls.active} ({counted(calls.streams, 'stream')}{waits})",
            f"{speed:.0f} tokens/s" if speed >= 10 or not speed else f"{speed:.1f} tokens/s",
            f"{calls.calls_a_minute} calls/min",
            f"{show.money(calls.nanousd_a_minute)}/min",
            f"today {show.money(now.spend_today_nanousd)}",
            f"held {show.money(calls.held_nanousd)}",
            *_fullest(now),
        ]
    )


def _fullest(now: Live) -> list[str]:
    for one in now.budgets[:1]:
        used = one.settled_nanousd + one.held_nanousd
        whose = f"{one.scope} {one.name}".strip()
        return [f"{whose} {one.budget} {show.percent(used, one.limit_nanousd)} used"]
    return []


def _trouble(now: Live, trouble: str, pen: _Pen) -> list[str]:
    lines = [trouble] if trouble else []
    lines += [f"problem: {problem.splitlines()[0]}" for problem in now.problems[:1]]
    if len(now.problems) > 1:
        lines.append(f"and {len(now.problems) - 1} more: `tollway status` lists them")
    return [pen.line(line, "red") for line in lines]


def _gpus(now: Live, pen: _Pen) -> list[str]:
    lines = []
    for one in now.gpus[:_MOST_GPUS]:
        facts = [
            f"GPU {one.index} {pen.bar(one.used_bytes, one.total_bytes, 10)}",
            f"{show.size(one.used_bytes)} of {show.size(one.total_bytes)}",
            "" if one.busy is None else f"{one.busy} % busy",
            "" if one.power_w is None else f"{one.power_w:.0f} W",
            one.name,
        ]
        lines.append(pen.line("  ".join(filter(None, facts))))
    return lines


def _models(now: Live, pen: _Pen) -> list[str]:
    awake = [one for one in now.models if one.state not in {"unloaded", "cold", "stopped"}]
    shown = [one for one in awake if one.rss_bytes or one.running or one.waiting or one.problem]
    lines = []
    for one in shown[:_MOST_MODELS]:
        slots = now.slots.get(one.name, 1)
        facts = [
            f"local/{one.name} {one.state}",
            f"{pen.bar(one.running, slots, 8)} {one.running} of {counted(slots, 'slot')}",
            f"{one.waiting} waiting" if one.waiting else "",
            show.size(one.rss_bytes or None),
            "" if one.tokens_per_s is None else f"{one.tokens_per_s:.0f} tokens/s",
            one.problem,
        ]
        lines.append(pen.line("  ".join(filter(None, facts))))
    return lines


def _sections(now: Live, choices: Choices) -> list[_Section]:
    return [
        _Section(_group_columns("team"), _group_rows(now, "team", choices)),
        _Section(_group_columns("model"), _group_rows(now, "target", choices)),
        _Section(_CALLS, _call_rows(now, choices)),
    ]


def _group_columns(title: str) -> tuple[_Column, ...]:
    return (
        _Column(title, is_name=True),
        _Column("now", number=True),
        _Column("wait", number=True),
        _Column("calls/min", number=True),
        _Column("in/min", number=True, from_width=70),
        _Column("out/min", number=True),
        _Column("$/min", number=True),
    )


_CALLS = (
    _Column("call", from_width=90),
    _Column("who", is_name=True),
    _Column("team", is_name=True, from_width=70),
    _Column("model", is_name=True),
    _Column("state"),
    _Column("out", number=True),
    _Column("held", number=True, from_width=70),
    _Column("age", number=True),
)


def _group_rows(now: Live, by: str, choices: Choices) -> list[list[str]]:
    found = [one for one in groups(now, by) if _meant(choices, one.name)]
    found.sort(key=lambda one: one.name)
    found.sort(key=_GROUP_KEYS[choices.sort], reverse=choices.sort != "name")
    if choices.backwards:
        found.reverse()
    return [
        [
            one.name or ("no team" if by == "team" else "-"),
            str(one.active or ""),
            str(one.waiting or ""),
            str(one.calls),
            show.tokens(one.input_tokens),
            show.tokens(one.output_tokens),
            show.money(one.cost_nanousd),
        ]
        for one in found
    ]


def _call_rows(now: Live, choices: Choices) -> list[list[str]]:
    found = [
        one
        for one in now.under_way
        if _meant(choices, one.who, one.user, one.team, one.asked, one.target, one.project)
    ]
    found.sort(key=_CALL_KEYS[choices.sort], reverse=choices.sort != "name")
    if choices.backwards:
        found.reverse()
    rows = [
        [
            one.id[:18],
            one.who,
            one.team,
            one.target or one.asked,
            one.state + (f" {one.attempts}" if one.attempts > 1 else ""),
            show.tokens(one.output_tokens) if one.output_tokens else "",
            show.money(one.held_nanousd) if one.held_nanousd else "",
            show.duration(one.age_s),
        ]
        for one in found
    ]
    if now.more:
        rows.append(["", f"and {now.more} more", "", "", "", "", "", ""])
    return rows


_GROUP_KEYS: dict[str, Callable[[Group], tuple[float, ...] | str]] = {
    "cost": lambda one: (one.cost_nanousd, one.output_tokens, one.active),
    "tokens": lambda one: (one.input_tokens + one.output_tokens, one.active),
    "calls": lambda one: (one.active, one.calls),
    "name": lambda one: one.name,
}
_CALL_KEYS: dict[str, Callable[[Call], tuple[float, ...] | str]] = {
    "cost": lambda one: (one.held_nanousd, one.age_s),
    "tokens": lambda one: (one.output_tokens, one.age_s),
    "calls": lambda one: (one.age_s,),
    "name": lambda one: one.who,
}


def _meant(choices: Choices, *words: str) -> bool:
    wanted = choices.filter.lower()
    return not wanted or any(wanted in word.lower() for word in words)


def _shared(sections: list[_Section], room: int) -> list[_Section]:
    """Return the sections cut to the room there is: two rows for each, then row by row for all."""
    sections = [one for one in sections if one.rows]
    while sections and 3 * len(sections) > room:  # a blank, the titles and one row
        sections.pop(-2 if len(sections) > 1 else 0)
    rows = [0] * len(sections)
    left = room - 2 * len(sections)
    for most in (_LEAST_ROWS, room):
        at, given = 0, True
        while left and given:
            given = False
            for at, section in enumerate(sections):
                if left and rows[at] < min(most, len(section.rows)):
                    rows[at] += 1
                    left -= 1
                    given = True
    return [one._replace(rows=one.rows[:count]) for one, count in zip(sections, rows, strict=True)]


def _footer(choices: Choices) -> str:
    if choices.typing:
        return f"filter: {choices.filter}_   Enter keeps it, Esc ends it"
    order = f"{choices.sort}{' reversed' if choices.backwards else ''}"
    # What was chosen stands before what could be: a narrow terminal cuts the end.
    chosen = f"q quit  s sort: {order}"
    if choices.filter:
        chosen += f"  filter {choices.filter!r}"
    if choices.paused:
        return f"{chosen}  PAUSED  p go on  ? help  r reverse  / filter"
    return f"{chosen}  ? help  r reverse  / filter  p pause"
