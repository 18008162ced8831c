"""`logs`: calls as they end, and one call's whole story; from the ledger, without a daemon."""

import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tollway.cli import complete, show
from tollway.cli.boundary import UsageProblem
from tollway.cli.broken import load_to_read
from tollway.cli.call_story import ENDINGS, cost, plain, tell, tell_bodies
from tollway.cli.options import AsJson, ConfigFile
from tollway.cli.periods import moment, require_some
from tollway.cli.wrap import room
from tollway.daemon.config import shown
from tollway.daemon.config.schema import Config
from tollway.daemon.ledger import bodies, calls
from tollway.daemon.ledger.calls import CallFilter, CallRow
from tollway.daemon.ledger.schema import STATES

_POLL_S = 0.2
_USUAL = 20  # calls that are shown where nobody says how many
_MOST = 10_000  # of a stretch of time
# Of an id: its milliseconds and the counter below them. Two calls share it almost never, and then
# `logs ID` says so.
_SHORT = 18
_COLOURS: dict[str, show.Colour] = {"open": "cyan", "refused": "red", "recovered": "yellow"}
_COLUMNS = [
    show.Column(name, number=name in ("in", "out", "cost", "took"))
    for name in ("time", "id", "who", "asked", "target", "ended", "in", "out", "cost", "took")
]
# How wide each is while following, when nobody knows what comes.
_WIDTHS = (19, _SHORT, 16, 20, 28, 18, 6, 6, 11, 6)
# On a terminal that has no room for that: two lines a call, which fill 80 columns.
_NARROW = (19, _SHORT, 16, 20, 22, 18, 6, 6, 10, 6)
_FIRST = 4  # columns of the first line
_TWO_LINES = 80  # what they fill
_GAP = "  "


_Number = Annotated[
    int | None,
    typer.Option(
        "-n",
        min=0,
        max=1_000_000,
        metavar="N",
        help=f"How many of the latest; else {_USUAL}, with --since all.",
    ),
]
_Since = Annotated[
    str | None,
    typer.Option(
        metavar="WHEN",
        help="2h, 7d, today, yesterday, week, month, 2026-11, 2026-11-01T15:00.",
        autocompletion=complete.periods,
    ),
]
_Until = Annotated[
    str | None,
    typer.Option(
        metavar="WHEN",
        help="As --since; a day or month counts whole.",
        autocompletion=complete.periods,
    ),
]
_Key = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Of this key.", autocompletion=complete.entries("keys")),
]
_User = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Of this user.", autocompletion=complete.entries("users")),
]
_Team = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Of this team.", autocompletion=complete.entries("teams")),
]
_Project = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Of this project.", autocompletion=complete.entries("projects")
    ),
]
_Route = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="By this route.", autocompletion=complete.entries("routes")),
]
_Provider = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Sent there.", autocompletion=complete.entries("providers")),
]
_Model = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Sent to this model, as its provider names it."),
]
_Tag = Annotated[str | None, typer.Option(metavar="NAME[=VALUE]", help="With this tag.")]
_Status = Annotated[
    str | None,
    typer.Option(
        metavar="WORD",
        help="ok, error, an ending such as client_left, or a provider's HTTP status.",
        autocompletion=complete.among("ok", "error", *ENDINGS),
    ),
]
_State = Annotated[
    str | None,
    typer.Option(
        metavar="STATE", help=f"One of {', '.join(STATES)}.", autocompletion=complete.among(*STATES)
    ),
]


def logs(  # noqa: PLR0913, PLR0917 - each is an option that people type
    call: Annotated[
        str | None, typer.Argument(metavar="ID", help="A call's id, or how it begins.")
    ] = None,
    config: ConfigFile = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as calls end.")] = False,
    number: _Number = None,
    since: _Since = None,
    until: _Until = None,
    key: _Key = None,
    user: _User = None,
    team: _Team = None,
    project: _Project = None,
    route: _Route = None,
    provider: _Provider = None,
    model: _Model = None,
    tag: _Tag = None,
    status: _Status = None,
    state: _State = None,
    error: Annotated[str | None, typer.Option(metavar="CODE", help="With this error.")] = None,
    body: Annotated[
        bool, typer.Option("--body", help="With ID: its whole prompt and reply, where kept.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the latest calls, or all there is to know about one.

    The latest call stands last; times are those of this box. `-f` goes on until Ctrl-C, and
    prints each call when it has ended; with `--json` it prints one object a line. With
    `ledger.bodies` in gateway.toml a call's story ends with its prompt and reply.

    Examples:
        tollway logs -f --team ml
        tollway logs --since 2h --status error
        tollway logs 019a2b3c-4d5e-7f60
    """
    loaded = load_to_read(config)
    path = loaded.ledger.path
    where = CallFilter(
        **{"key": key, "user": user, "team": team, "project": project, "route": route},
        **{"provider": provider, "model": model, "state": state, "error": error, "tag": tag},
        status=status,
        since_ms=_moment(since, "--since"),
        until_ms=_moment(until, "--until", whole_day=True),
    )
    _check(where)
    if where.since_ms is not None and where.until_ms is not None:
        require_some(where.since_ms, where.until_ms, None)
    many = number if number is not None else _USUAL if since is None else _MOST
    if call is not None:
        if follow or where != calls.ANY:
            raise UsageProblem("One call is neither followed nor filtered; give its id alone")
        _one(path, call, body=body, as_json=as_json)
        return
    _possible(body=body, endless=follow and until is not None)
    if follow:
        _follow(path, many, where, as_json=as_json)
    else:
        _latest(loaded, many, where, as_json=as_json)


def _possible(*, body: bool, endless: bool) -> None:
    if body:
        raise UsageProblem("`--body` is of one call", hint="Give its id")
    if endless:
        raise UsageProblem("`-f` goes on until Ctrl-C; leave `--until` out")


def _moment(said: str | None, option: str, *, whole_day: bool = False) -> int | None:
    """Return a moment as it is shown in the table: by this box's clock."""
    if said is None:
        return None
    return moment(said, None, time.time_ns() // 1_000_000, option, whole_day=whole_day)


def _check(where: CallFilter) -> None:
    status = where.status
    if status is not None and not (status in {"ok", "error", *ENDINGS} or status.isdecimal()):
        raise UsageProblem(
            f"There is no status `{status}`{shown.meant(status, ('ok', 'error', *ENDINGS))}",
            hint=f"Choose ok, error, a provider's HTTP status, or of {', '.join(ENDINGS)}",
        )
    if where.state is not None and where.state not in STATES:
        raise UsageProblem(
            f"There is no state `{where.state}`{shown.meant(where.state, STATES)}",
            hint=f"Choose of {', '.join(STATES)}",
        )


def _one(path: Path, prefix: str, *, body: bool, as_json: bool) -> None:
    if prefix.startswith("-"):
        raise UsageProblem(
            f"`{prefix}` is no call's id", hint=f"`tollway logs -n {prefix[1:]}` shows the latest"
        )
    found = calls.one(path, prefix.lower())
    kept = bodies.of_call(path, found.call.id)
    if as_json:
        story = {"call": plain(found.call), "attempts": [plain(one) for one in found.attempts]}
        told = [msgspec.structs.asdict(one) for one in kept]
        if not body:
            for one in told:
                del one["text"]
        show.emit({**story, "bodies": told})
        return
    tell(found)
    tell_bodies(kept, whole=body)
    if body and not kept:
        show.note("Nothing of what it said is kept: `ledger.bodies` in gateway.toml is for that")


def _latest(config: Config, number: int, where: CallFilter, *, as_json: bool) -> None:
    path = config.ledger.path
    found: list[CallRow] = []
    if path.exists():
        found = calls.recent(path, limit=number, where=where)[::-1]
    else:
        show.note(f"No calls yet: there is no ledger at `{path}`")
    if len(found) == _MOST == number:
        show.note(f"Only the latest {_MOST:,}: `-n` takes more, `tollway ledger export` all")
    if as_json:
        show.emit([plain(row) for row in found])
    elif found:
        _table([_cells(row) for row in found])
    elif path.exists() and number:
        show.note(f"No such calls{_near(config, where)}" if where != calls.ANY else "No calls yet")


def _table(rows: list[list[show.Cell]]) -> None:
    """Print calls as a table; in two lines each, as `-f` does, where 80 columns have no room."""
    width = room(sys.stdout)
    texts = [[_text(cell) for cell in row] for row in rows]
    if width is None or width < _TWO_LINES or show.column_widths(_COLUMNS, texts, width):
        show.table(_COLUMNS, rows)
        return
    _say([column.title for column in _COLUMNS])
    for row in rows:
        _say(row)


def _near(config: Config, where: CallFilter) -> str:
    """Return what may have been meant, by a name that gateway.toml does not have or a status."""
    if where.status and where.status.isdecimal():
        return "; of what the gateway itself refused, no provider has a status: `--state refused`"
    tables: dict[str, Iterable[str]] = {
        **{"key": config.keys, "user": config.users, "team": config.teams},
        **{"project": config.projects, "route": config.routes, "provider": config.providers},
    }
    for field, names in tables.items():
        said = getattr(where, field)
        if said is not None and said not in names:
            return shown.meant(said, names)
    return ""


def _follow(path: Path, number: int, where: CallFilter, *, as_json: bool) -> None:
    try:
        while not path.exists():  # the daemon makes it
            show.pause(_POLL_S)
        # First, so that no call can end unseen between the two.
        following = calls.follow(path, where=where)
        shown = [
            row
            for row in calls.recent(path, limit=number, where=where)[::-1]
            if row.state not in calls.UNDER_WAY
        ]
        if not as_json:
            _say([column.title for column in _COLUMNS])
        _print(shown, as_json=as_json)
        already = {row.id for row in shown}
        while True:
            ended = following.poll()
            _print([row for row in ended if row.id not in already], as_json=as_json)
            show.pause(_POLL_S)
    except KeyboardInterrupt:
        return  # the way to end it, and no fault


def _print(rows: list[CallRow], *, as_json: bool) -> None:
    for row in rows:
        if as_json:
            show.emit_line(plain(row))
        else:
            _say(_cells(row))
            sys.stdout.flush()


def _cells(row: CallRow) -> list[show.Cell]:
    return [
        show.when(row.admitted_ms / 1000),
        row.id[:_SHORT],
        row.key or row.user or "-",
        row.requested,
        f"{row.provider}/{row.model}" if row.provider else "-",
        _ended(row),
        show.tokens(row.input_total),
        show.tokens(row.output_total),
        cost(row),
        show.duration(None if row.total_ms is None else row.total_ms / 1000),
    ]


def _ended(row: CallRow) -> show.Cell:
    """Return how it ended in one word; the error's code where there was one.

    Behind it stands for how many calls the row does, where there were more just like it.
    """
    word = row.error or (row.ending if row.state == "settled" else row.state)
    colour = _COLOURS.get(row.state) or ("dim" if word == "answered" else "yellow")
    return show.Painted(f"{word} x{1 + row.repeated:,}" if row.repeated else word, colour)


def _say(cells: Sequence[show.Cell]) -> None:
    """Print a call in a line, or in two where the terminal is narrow."""
    width = room(sys.stdout)
    if width is None or width >= sum(_WIDTHS) + len(_GAP) * (len(_WIDTHS) - 1):
        show.say(_line(cells, range(len(cells)), _WIDTHS))
        return
    show.say(_line(cells, range(_FIRST), _NARROW))
    show.say([_GAP, *_line(cells, range(_FIRST, len(cells)), _NARROW)])


def _line(
    cells: Sequence[show.Cell], numbers: range, widths: Sequence[int]
) -> list[str | show.Painted]:
    line: list[str | show.Painted] = []
    for number in numbers:
        cell, column = cells[number], _COLUMNS[number]
        text = _text(cell)
        blank = " " * (widths[number] - len(text))
        part = cell if isinstance(cell, show.Painted) else text
        line += [blank, part, _GAP] if column.number else [part, blank, _GAP]
    return line[:-1]


def _text(cell: show.Cell) -> str:
    return cell.text if isinstance(cell, show.Painted) else str(cell)
