"""`ledger reprice` and `ledger settle`: past bills, put right."""

import re
import time
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tollway.cli import show
from tollway.cli.boundary import UsageProblem
from tollway.cli.control import load_config
from tollway.cli.options import AsJson, ConfigFile, me
from tollway.cli.period_options import Since, Until, Zone
from tollway.cli.periods import Period, period, zone
from tollway.daemon.ledger.reprice import Repriced, Result
from tollway.daemon.ledger.reprice import reprice as reprice_
from tollway.daemon.ledger.settling import settle as settle_
from tollway.daemon.pricing import in_force
from tollway.providers.canon import Usage
from tollway.providers.money import plain_usd

_MOST_SHOWN = 20
_CLASSES = tuple(name for name in Usage.__struct_fields__ if name != "estimated")
_COLUMNS: list[show.Column | str] = [
    "call",
    show.Column("try", number=True),
    "target",
    show.Column("was", number=True),
    show.Column("is", number=True),
    "another",
]


class RepricedOut(msgspec.Struct, frozen=True):
    """What `--json` prints. Dollars are exact texts; `changes` are the first 1,000."""

    since: str
    until: str
    applied: bool
    attempts: int
    changed: int
    left: int
    before_usd: str
    after_usd: str
    changes: list[Repriced]


def reprice(
    config: ConfigFile = None,
    since: Since = "month",
    until: Until = None,
    tz: Zone = None,
    apply: Annotated[
        bool, typer.Option("--apply/--dry-run", help="Write it, with the daemon down; else look.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Price past calls anew; looks first.

    Usage is what their providers reported.

    At the prices in force on each call's day, as gateway.toml and the price data have them now.
    Nothing changes where nothing was wrong. Estimates, calls settled by hand and models that have
    no price today stay as they are. Shows what would change; --apply writes it, with an audit row
    for each attempt.

    Examples:
        tollway ledger reprice --since 2026-11-01
        tollway ledger reprice --since 2026-11-01 --apply
    """
    loaded = load_config(config)
    found = period(since, until, zone(tz or loaded.server.timezone), time.time_ns() // 1_000_000)
    path = loaded.ledger.path
    result = Result()
    if path.exists():
        with show.progress("Pricing anew") as progress:
            result = reprice_(
                path,
                in_force(loaded),
                (found.since_ms, found.until_ms),
                apply=apply,
                who=me(),
                progress=progress,
            )
    else:
        show.note(f"No calls yet: there is no ledger at `{path}`")
    if as_json:
        show.emit(_out(found, result, applied=apply))
    else:
        _tell(result, applied=apply)


def _out(found: Period, result: Result, *, applied: bool) -> RepricedOut:
    return RepricedOut(
        *(found.since, found.until, applied, result.attempts, result.changed, result.left),
        *(plain_usd(result.before_nanousd), plain_usd(result.after_nanousd), result.changes),
    )


def _tell(result: Result, *, applied: bool) -> None:
    if result.changes:
        shown = result.changes[:_MOST_SHOWN]
        show.table(_COLUMNS, [_cells(one) for one in shown])
        if result.changed > len(shown):
            show.note(f"and {result.changed - len(shown)} more; `--json` lists up to 1,000")
    before, after = result.before_nanousd, result.after_nanousd
    done = "now cost" if applied else "would cost"
    looked = f"{show.counted(result.attempts, 'attempt')} looked at"
    they = "it is" if result.left == 1 else "they are"
    show.note(
        f"{looked}, {result.left} left as {they}:"
        f" {result.changed} {done} ${plain_usd(after)} instead of ${plain_usd(before)}"
        if result.changed
        else f"{looked}, {result.left} left as {they}: none changes"
    )
    if result.changed and not applied:
        show.note("Nothing is written; with the daemon down, `--apply` does it")
    elif result.changed:
        show.note("`tollway up` starts the daemon with budgets that count the new bills")


def _cells(one: Repriced) -> list[show.Cell]:
    was, is_ = plain_usd(one.before_nanousd), plain_usd(one.after_nanousd)
    return [one.call, str(one.number), f"{one.provider}/{one.model}", was, is_, one.why]


def settle(
    call: Annotated[str, typer.Argument(metavar="ID", help="A call's id, or how it begins.")],
    config: ConfigFile = None,
    cost: Annotated[
        str | None, typer.Option("--cost", metavar="USD", help="What it cost, such as 0.0123.")
    ] = None,
    usage: Annotated[
        str | None,
        typer.Option("--usage", metavar="COUNTS", help="What it used: input=412,output=286."),
    ] = None,
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, help="Which try; else the estimated one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a call really cost.

    For calls of which the ledger has an estimate.

    A call that a kill cut short is booked at its hold, one whose provider reported nothing at an
    upper bound; the provider's own page may know better. With --usage alone the price in the
    ledger says the cost: that of the service tier which the request asked for by name, if it is
    dearer than the standard one. The daemon must be down, since its budgets count the call.

    Examples:
        tollway ledger settle 019a2b3c-4d5e --cost 0.0123
        tollway ledger settle 019a2b3c-4d5e --usage input=412,output=286
    """
    if cost is None and usage is None:
        raise UsageProblem("There is nothing to settle it at", hint="Give `--cost` or `--usage`")
    nanousd = None if cost is None else _nanousd(cost)
    used = None if usage is None else _usage(usage)
    path: Path = load_config(config).ledger.path
    done = settle_(path, call.lower(), attempt=attempt, cost_nanousd=nanousd, usage=used, who=me())
    if as_json:
        data = msgspec.structs.asdict(done)
        before, after = data.pop("before_nanousd"), data.pop("after_nanousd")
        show.emit({**data, "before_usd": plain_usd(before), "after_usd": plain_usd(after)})
    else:
        show.note(
            f"Attempt {done.attempt} of `{done.call}` cost ${plain_usd(done.after_nanousd)};"
            f" it was booked at ${plain_usd(done.before_nanousd)}"
        )


def _nanousd(text: str) -> int:
    try:
        usd = Decimal(text.removeprefix("$"))
        nano = usd * 10**9
        if usd.is_finite() and 0 <= usd <= 10**6 and nano == int(nano):
            return int(nano)
    except (InvalidOperation, ValueError):
        pass
    raise UsageProblem(
        f"`--cost {text}` is no amount", hint="Say dollars with up to nine decimals: `0.0123`"
    )


def _usage(text: str) -> Usage:
    counts: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = (one.strip() for one in part.partition("="))
        if name not in _CLASSES or name in counts or not re.fullmatch(r"\d{1,12}", number):
            raise UsageProblem(
                f"`--usage {text}` is no usage",
                hint=f"Say `input=412,output=286`; there are {', '.join(_CLASSES)}",
            )
        counts[name] = int(number)
    return msgspec.structs.replace(Usage(), **counts)
