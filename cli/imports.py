"""`import`: what coding agents used without passing this gateway, from their own logs."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tollway.cli import claude_logs, codex_logs, complete, show
from tollway.cli.agent_calls import AgentCall, Logs, Progress
from tollway.cli.boundary import UsageProblem
from tollway.cli.control import Control, convert, load_config
from tollway.cli.options import AsJson, ConfigFile
from tollway.cli.periods import period, zone
from tollway.cli.run_place import tag_value
from tollway.daemon.config import shown
from tollway.daemon.config.schema import Config
from tollway.daemon.errors import DaemonUnreachable
from tollway.daemon.ledger.imports import (
    Imported,
    Seen,
    Source,
    Written,
    keys,
    known_since_ms,
    passed,
    write,
)
from tollway.daemon.ledger.owning import owned
from tollway.daemon.ledger.schema import transaction
from tollway.daemon.ledger.writer import Ledger
from tollway.providers.canon import Price
from tollway.providers.money import plain_usd
from tollway.providers.price_report import billed
from tollway.providers.prices import PriceSource

_LOCAL_USER = "local"  # whom the calls of `single_user` are billed to
_STEP = 500  # rows written at once
# What genai-prices calls the providers that logs name.
_PRICES = {"anthropic": "anthropic", "bedrock": "aws", "vertex": "google", "openai": "openai"}

Read = Callable[[list[Path], int, Progress], Logs]
_AGENTS: dict[Source, tuple[Callable[[], list[Path]], Read]] = {
    "claude-code": (claude_logs.folders, claude_logs.read),
    "codex": (codex_logs.folders, codex_logs.read),
}


class Found(msgspec.Struct):
    """What became of one agent's logs. `calls` = passed + there + older + new + changed.

    `notional_nanousd` is what the new ones would have cost at the list price.
    """

    source: Source
    files: int = 0
    calls: int = 0
    repeated: int = 0  # told again in the logs, and counted once
    unreadable: int = 0  # lines
    passed: int = 0  # through this gateway, so that they are in the ledger already
    there: int = 0  # imported before
    older: int = 0  # than what the ledger still knows, so that nobody knows what passed
    new: int = 0
    changed: int = 0  # imported before their end
    unpriced: int = 0  # of the new and changed
    notional_nanousd: int = 0


_AgentsOption = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[claude-code|codex]...",
        help="Whose logs; else both.",
        autocompletion=complete.among("claude-code", "codex"),
    ),
]
_UserOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Whose use it is; else the owner's.",
        autocompletion=complete.entries("users"),
    ),
]


def import_(
    agents: _AgentsOption = None,
    since: Annotated[
        str, typer.Option(metavar="WHEN", help="30d, week, month, or a date; else all of it.")
    ] = "",
    user: _UserOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say it, and write nothing.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Take over what coding agents used elsewhere, by their own logs.

    Claude Code's are in ~/.claude or $CLAUDE_CONFIG_DIR, Codex's in ~/.codex or $CODEX_HOME. What
    passed this gateway is left out, and what was imported before is not imported again. What is
    imported was billed elsewhere, or paid by a subscription: `spend` shows it apart, at the list
    price, and no budget counts it. Logs do not tell of calls that failed, or of those beside a
    conversation, and agents delete them in time.

    Examples:
        tollway import --dry-run
        tollway import claude-code --since 30d
    """
    loaded = load_config(config)
    chosen = _chosen(agents)
    who, team = _whose(loaded, user)
    tz = zone(loaded.server.timezone)
    now_ms = time.time_ns() // 1_000_000
    since_ms = period(since, None, tz, now_ms).since_ms if since else 0
    if not loaded.ledger.path.exists() and not dry_run:
        asyncio.run(_new(loaded.ledger.path))
    found = []
    prices: PriceSource | None = None  # read where there is something to price
    for source in chosen:
        where, read = _AGENTS[source]
        with show.progress(f"Reading the logs of {source}") as progress:
            logs = read(where(), since_ms, progress)
        result, rows = _sorted(loaded.ledger.path, source, logs)
        prices = prices or (PriceSource() if rows else None)
        imported = [_row(call, who, team, prices) for call in rows] if prices else []
        result.unpriced = sum(row.price is None for row in imported)
        result.notional_nanousd = sum(row.notional_nanousd for row in imported)
        if not dry_run:
            written = _write(loaded, imported)
            result.new, result.changed = written.new, written.changed
        found.append(result)
    if as_json:
        show.emit({"dry_run": dry_run, "user": who, "agents": [_data(one) for one in found]})
    else:
        _tell(found, who, dry_run=dry_run)


def _chosen(agents: list[str] | None) -> list[Source]:
    for word in agents or ():
        if word not in _AGENTS:
            raise UsageProblem(
                f"No logs of `{word}` can be read{shown.meant(word, list(_AGENTS))}",
                hint=f"Choose of {', '.join(_AGENTS)}; configurations are taken over by"
                " `tollway config import-litellm` and `tollway models import-llama-swap`",
            )
    return [source for source in _AGENTS if not agents or source in agents]


def _whose(config: Config, user: str | None) -> tuple[str, str]:
    """Return the user and the team whose use it is.

    Raises:
        UsageProblem: There is no such user, or it must be said.
    """
    if user is None:
        if config.server.single_user:
            return _LOCAL_USER, ""
        raise UsageProblem(
            "Whose use it is must be said", hint="`--user NAME`, one of [users] in gateway.toml"
        )
    if user not in config.users and not (config.server.single_user and user == _LOCAL_USER):
        raise UsageProblem(
            f"There is no user `{user}`{shown.meant(user, list(config.users))}",
            hint="`tollway users list` shows those there are",
        )
    known = config.users.get(user)
    return user, (known.team or "") if known else ""


async def _new(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    ledger = Ledger(path)
    ledger.start()
    await ledger.ready()
    await ledger.close()


def _sorted(path: Path, source: Source, logs: Logs) -> tuple[Found, list[AgentCall]]:
    """Return what becomes of the calls of logs, and those that are to be written."""
    result = Found(source, logs.files, len(logs.calls), logs.repeated, logs.unreadable)
    if not path.exists():
        result.new = len(logs.calls)
        return result, logs.calls
    there, oldest = keys(path), known_since_ms(path)
    left: list[AgentCall] = []
    changed = set()
    for call in logs.calls:
        output = there.get((source, call.key))
        if output is not None and output >= call.usage.output_total:
            result.there += 1
        elif output is None and call.at_ms < oldest:
            result.older += 1
        else:
            changed |= {call.key} if output is not None else set()
            left.append(call)
    with show.progress("Looking for what passed the gateway") as progress:
        known = passed(path, [seen(call) for call in left], progress)
    rows = [call for call in left if call.key not in known]
    result.passed = len(known)
    result.changed = sum(call.key in changed for call in rows)
    result.new = len(rows) - result.changed
    return result, rows


def seen(call: AgentCall) -> Seen:
    """Return what is needed of a call to know whether it passed."""
    return Seen(
        key=call.key,
        at_ms=call.at_ms,
        session=call.session,
        response_id=call.response_id,
        input_total=call.usage.input_total,
        output_total=call.usage.output_total,
    )


def _row(call: AgentCall, user: str, team: str, prices: PriceSource) -> Imported:
    price, notional = _priced(call, prices)
    place = {
        "project": tag_value(call.folder.rstrip("/").rpartition("/")[2]),
        "branch": tag_value(call.branch),
    }
    tags = {name: value for name, value in place.items() if value}
    return Imported(
        source=call.source,
        key=call.key,
        at_ms=call.at_ms,
        user=user,
        team=team,
        provider=call.provider[:100],
        model=call.model[:200],
        session=call.session[:100],
        tags=msgspec.json.encode(tags).decode() if tags else "",
        usage=call.usage,
        price=price,
        notional_nanousd=notional,
    )


def _priced(call: AgentCall, prices: PriceSource) -> tuple[Price | None, int]:
    """Return the list price of a call, and what it came to; (None, 0) where none is known."""
    prices_id = _PRICES.get(call.provider)
    at = datetime.fromtimestamp(call.at_ms / 1000, UTC)
    price = prices.find(prices_id, call.model, at) if prices_id else None
    if price is None:
        return None, 0
    nanousd, used = billed(call.usage, price, asked="auto", answered=call.tier)
    return used, nanousd


def _write(config: Config, rows: list[Imported]) -> Written:
    """Write rows by way of the daemon where one runs, else with the ledger's lock."""
    done = Written()
    control: Control | None = Control(config.admin_socket, timeout_s=60.0)
    with show.progress("Writing") as progress:
        for begin in range(0, len(rows), _STEP):
            some = rows[begin : begin + _STEP]
            written = None
            if control:
                try:
                    answer = control.post("/control/imports", {"rows": some})
                    written = convert(answer, Written)
                except DaemonUnreachable:
                    control = None
            if written is None:
                with owned(config.ledger.path) as db, transaction(db):
                    written = write(db, some)
            done.new += written.new
            done.changed += written.changed
            progress(begin + len(some), len(rows))
    return done


def _data(one: Found) -> dict[str, object]:
    return {**msgspec.structs.asdict(one), "notional_usd": plain_usd(one.notional_nanousd)}


def _tell(found: list[Found], who: str, *, dry_run: bool) -> None:
    numbers = ("calls", "passed", "there", "new", "at list price")
    show.table(
        ["logs of", *(show.Column(name, number=True) for name in numbers), "notes"],
        [
            [
                one.source,
                *(show.tokens(number) for number in (one.calls, one.passed, one.there)),
                show.tokens(one.new + one.changed),
                show.money(one.notional_nanousd),
                ", ".join(_notes(one)),
            ]
            for one in found
        ],
    )
    if dry_run:
        show.note("Nothing was written: `--dry-run`")
    elif any(one.new or one.changed for one in found):
        show.note(
            f"Imported as the use of `{who}`. It was billed elsewhere: no budget counts it, and"
            " `tollway spend --by source,model` shows it apart"
        )
    if not any(one.files for one in found):
        show.note("There are no logs: $CLAUDE_CONFIG_DIR and $CODEX_HOME say where they are")


def _notes(one: Found) -> list[str]:
    counted = defaultdict(int, msgspec.structs.asdict(one))
    said = {
        "repeated": ("told again and counted once",) * 2,
        "unreadable": ("line could not be read", "lines could not be read"),
        "older": ("older than what the ledger still knows",) * 2,
        "unpriced": ("has no known price", "have no known price"),
    }
    return [
        show.counted_short(number, *words)
        for name, words in said.items()
        if (number := counted[name])
    ]
