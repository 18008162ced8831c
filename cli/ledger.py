"""`ledger verify`: whether the ledger agrees with itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tollway.cli import show
from tollway.cli.boundary import ANSWER_IS_NO
from tollway.cli.broken import load_to_read
from tollway.cli.options import AsJson, ConfigFile
from tollway.daemon.errors import LedgerHeld
from tollway.daemon.ledger import verify as verifying
from tollway.daemon.ledger.verify import Difference

Repair = Annotated[
    bool, typer.Option("--repair", help="Make sums and roll-ups anew; not while the daemon runs.")
]


class Verified(msgspec.Struct, frozen=True):
    """What `--json` prints. `repaired` is how many differences are gone."""

    path: Path
    ok: bool
    repaired: int
    differences: Sequence[Difference]


def verify(config: ConfigFile = None, repair: Repair = False, as_json: AsJson = False) -> None:
    """Check that the ledger agrees with itself.

    The file's own soundness, calls against attempts, roll-ups against rows, no open call without
    a daemon, no cost without a price. Exits with 1 where something differs. While the daemon
    runs it only looks.

    Examples:
        tollway ledger verify
        tollway ledger verify --repair
    """
    path = load_to_read(config).ledger.path
    if not path.exists():
        show.note(f"No calls yet: there is no ledger at `{path}`")
        if as_json:
            show.emit(Verified(path, ok=True, repaired=0, differences=()))
        return
    with show.waiting("Reading the whole ledger"):
        found = verifying.verify(path)
    repaired = 0
    if repair and found:
        before = len(found)
        found = _repair(path, found)
        repaired = max(0, before - len(found))
    if as_json:
        show.emit(Verified(path, ok=not found, repaired=repaired, differences=found))
    else:
        _tell(path, found, repaired)
    if found:
        raise typer.Exit(ANSWER_IS_NO)


def _repair(path: Path, found: list[Difference]) -> list[Difference]:
    try:
        with show.waiting("Making anew what is derived"):
            return verifying.repair(path)
    except LedgerHeld as held:
        show.note(f"{held.message}, so nothing is repaired; {held.hint}")
        return found


def _tell(path: Path, found: Sequence[Difference], repaired: int) -> None:
    if repaired:
        show.note(f"Repaired {repaired}")
    for one in found:
        word = show.Painted(one.check, "yellow" if one.repairable else "red")
        show.say([word, f"  {one.subject}: {one.message}"])
    if not found:
        show.note(f"`{path}` agrees with itself")
    elif any(one.repairable for one in found):
        show.note("hint: with the daemon down, `tollway ledger verify --repair` mends what it can")
