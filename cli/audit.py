"""`config audit`: who changed what, and when; from the ledger, without a daemon."""

from typing import Annotated

import msgspec
import typer

from tollway.cli import show
from tollway.cli.broken import load_to_read
from tollway.cli.options import AsJson, ConfigFile
from tollway.daemon import audit as auditing
from tollway.daemon.ledger.rows import Audited

_DIGEST = 64  # characters of one
_SHOWN = 8
_NOTHING = "null"  # a key without a default that was, or is now, not there


def audit(
    config: ConfigFile = None,
    number: Annotated[int, typer.Option("-n", min=1, help="How many of the latest rows.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Say who changed what, and when.

    The latest stands last. Each change of gateway.toml has a row for the file and one for every
    key that it changed; what could be a secret is named without its value. Changes that were
    made while no daemon ran are told at its next start.

    Example:
        tollway config audit -n 100
    """
    path = load_to_read(config).ledger.path
    found: list[Audited] = []
    if path.exists():
        found = auditing.recent(path, limit=number)
    if as_json:
        show.emit([msgspec.structs.asdict(row) for row in found])
    elif found:
        show.table(["time", "who", "by", "what", "before", "after"], [_cells(row) for row in found])
    else:
        show.note("Nothing was changed yet")


def _cells(row: Audited) -> list[show.Cell]:
    when = show.when(row.at_ms / 1000)
    return [when, row.who, row.what, row.subject, _value(row.before), _value(row.after)]


def _value(text: str) -> str:
    digest = len(text) == _DIGEST and set(text) <= set("0123456789abcdef")
    if text == _NOTHING:
        return ""
    return f"version {text[:_SHOWN]}" if digest else text
