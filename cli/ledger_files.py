"""`ledger export`, `backup` and `vacuum`: the ledger's file, and files made of it."""

import csv
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TextIO

import msgspec
import typer

from tollway.cli import complete, show
from tollway.cli.boundary import ANSWER_IS_NO, UsageProblem
from tollway.cli.broken import load_to_read
from tollway.cli.control import load_config
from tollway.cli.options import AsJson, ConfigFile
from tollway.cli.period_options import Until, Zone
from tollway.cli.periods import period, zone
from tollway.daemon.errors import LedgerUnavailable
from tollway.daemon.ledger import backup as backups
from tollway.daemon.ledger.export import Row, What, rows, titles
from tollway.daemon.ledger.reading import reading
from tollway.daemon.ledger.retention import pruned_before_ms

_EVER = "1970-01-01"


class Format(StrEnum):
    """How an export is written."""

    CSV = "csv"
    JSONL = "jsonl"


_SinceOption = Annotated[
    str,
    typer.Option(
        metavar="WHEN",
        help="7d, 12h, today, month, a date. Else all.",
        autocompletion=complete.periods,
    ),
]


def export(  # noqa: PLR0913, PLR0917 - each is an option that people type
    config: ConfigFile = None,
    what: Annotated[What, typer.Option("--what", help="What a row is.")] = What.CALLS,
    since: _SinceOption = _EVER,
    until: Until = None,
    tz: Zone = None,
    form: Annotated[Format, typer.Option("--format", help="CSV or JSON Lines.")] = Format.CSV,
    out: Annotated[
        Path | None,
        typer.Option("--out", "--output", "-o", metavar="FILE", help="Else standard output."),
    ] = None,
    bodies: Annotated[
        bool, typer.Option("--bodies", help="With prompts and replies, where they are kept.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write calls or sums as CSV or JSON Lines.

    Times are UTC, amounts exact dollars, tokens by class. Calls that retention has deleted are in
    `--what spend` alone. Works beside the daemon.

    Examples:
        tollway ledger export --since 2026-11-01 > calls.csv
        tollway ledger export --what attempts --format jsonl --out attempts.jsonl
    """
    if as_json:
        form = Format.JSONL
    if bodies and (what is not What.CALLS or form is not Format.JSONL):
        raise UsageProblem(
            "Prompts and replies stand with calls, and only in JSON Lines",
            hint="Use `--what calls --format jsonl`",
        )
    loaded = load_to_read(config)
    path = loaded.ledger.path
    at = period(since, until, zone(tz or loaded.server.timezone), time.time_ns() // 1_000_000)
    with _target(out) as file, show.progress("Writing") as progress:
        found: Iterable[Row] = ()
        if path.exists():
            if what is not What.SPEND:
                _tell_gone(path, at.since_ms)
            between = (at.since_ms, at.until_ms)
            found = rows(path, what, between, bodies=bodies, progress=progress)
        count = _csv(file, what, found) if form is Format.CSV else _jsonl(file, found)
    show.note(show.counted(count, "row") + (f" in `{out}`" if out else ""))


def _tell_gone(path: Path, since_ms: int) -> None:
    """Say from when on the calls are there, where retention has deleted some that are meant."""
    with reading(path) as db:
        gone_ms = pruned_before_ms(db)
    if gone_ms > max(since_ms, 0):
        day = show.when(gone_ms / 1000)
        show.note(f"Calls before {day} are deleted; `--what spend` has their sums")


def _csv(file: TextIO, what: What, found: Iterable[Row]) -> int:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(titles(what))
    count = 0
    for row in found:
        writer.writerow(show.csv_cells(row.values()))
        count += 1
    return count


def _jsonl(file: TextIO, found: Iterable[Row]) -> int:
    encoder = msgspec.json.Encoder()
    count = 0
    for row in found:
        file.write(encoder.encode(row).decode() + "\n")
        count += 1
    return count


@contextmanager
def _target(out: Path | None) -> Iterator[TextIO]:
    """Yield where rows go; a file gets its name when it is whole."""
    if out is None:
        yield sys.stdout
        return
    half = out.with_name(f"{out.name}.part")
    try:
        half.touch(mode=0o600)
        with half.open("w", encoding="utf-8", newline="") as file:
            yield file
        half.replace(out)
    except OSError as fault:
        raise LedgerUnavailable(
            f"`{out}` cannot be written: {(fault.strerror or str(fault)).lower()}",
            hint="See that its folder exists and has room",
        ) from fault
    finally:
        half.unlink(missing_ok=True)


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the copy goes.")],
    config: ConfigFile = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Copy the ledger, and check the copy.

    The daemon may go on writing.

    The copy is one moment's state in one file, which takes the ledger's place as it is. Exits
    with 1 where the copy does not agree with itself: then neither does the ledger.

    Examples:
        tollway ledger backup /backup/ledger-2026-11-22.db
    """
    path = load_to_read(config).ledger.path
    with show.progress("Copying") as progress:
        done = backups.backup(path, file, replace=force, progress=progress)
    if as_json:
        show.emit(done)
    else:
        show.note(f"`{file}`, {show.size(done.size)}")
        for one in done.differences:
            show.say([show.Painted(one.check, "yellow"), f"  {one.subject}: {one.message}"])
    if done.differences:
        raise typer.Exit(ANSWER_IS_NO)


def vacuum(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Give room of deleted rows back to the disk.

    With the daemon down.

    New rows take that room by themselves, so this pays only after much was deleted. It needs as
    much free disk as the ledger has, and a crash in between leaves it as it was.

    Examples:
        tollway ledger vacuum
    """
    path = load_config(config).ledger.path
    with show.waiting("Writing the ledger anew"):
        done = backups.vacuum(path)
    if as_json:
        show.emit({"path": path, **msgspec.structs.asdict(done)})
    else:
        show.note(f"`{path}`: {show.size(done.before)} before, {show.size(done.after)} now")
