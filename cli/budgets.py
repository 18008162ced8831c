"""`budgets`: how they stand, and changing them, for a time or for good."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, get_args
from zoneinfo import ZoneInfo

import typer

from tollway.cli import budget_table, complete, edits, show
from tollway.cli.boundary import UsageProblem
from tollway.cli.budget_edits import SECTIONS, add_raise, end_raises, put
from tollway.cli.budget_prices import warn_beforehand, without_price
from tollway.cli.control import load_config
from tollway.cli.options import AsJson, ConfigFile, me
from tollway.daemon.config import check, shown, units
from tollway.daemon.config.check import budgets_of
from tollway.daemon.config.schema import Budget, Config, Mode, Scope, ScopeKind

_SCOPES = (
    "`team ml`, `user ann`, `key ci`, `project bot`, `provider openai`, `route fast`, "
    "`tag run=42` or `box`"
)
_MORE = re.compile(r"\+?(\d{1,9}(?:\.\d{1,9})?)")


def list_(
    scope: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SCOPE]", help="Only of this: `team ml`.", autocompletion=complete.scope
        ),
    ] = None,
    config: ConfigFile = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, amounts exact.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the budgets: limit, spent, held, left, and where they lead.

    Without a daemon what is spent comes from the ledger, and nothing is held. The forecast is
    what is spent so far, and the pace of late until the period ends: of the last hour for an
    hour, 24 h for a day, 7 days for what is longer; of a rolling budget, what its span will hold.
    As in `spend`, there is none before the ledger has seven complete days; of budgets for less
    than a day, before it is as old as their span.

    Examples:
        tollway budgets list
        tollway budgets list team ml --json
    """
    if as_json and as_csv:
        raise UsageProblem("`--json` and `--csv` cannot both be", hint="Give one")
    loaded = load_config(config)
    found = budget_table.lines(loaded, _scope(scope, loaded)[0] if scope else None)
    if as_json:
        show.emit(budget_table.as_json_data(found))
    elif as_csv:
        show.emit_csv(*budget_table.as_csv(found))
    elif found.lines:
        budget_table.as_table(found)
    else:
        of = f" of {' '.join(scope)}" if scope else ""
        show.note(f"There are no budgets{of}: `tollway budgets set SCOPE AMOUNT/PERIOD` makes one")


def set_(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="SCOPE AMOUNT/PERIOD",
            help="As `team ml 200/month`, `box 9/day`.",
            autocompletion=complete.scope,
        ),
    ],
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="MODE",
            help="At the cap: hard, clamp or warn.",
            autocompletion=complete.among("hard", "clamp", "warn"),
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Set a budget: the one of the same period is replaced, others stay.

    Periods are hour, day, week, month, total, and spans that roll on, such as 24h or 7d. At its
    cap a budget is `hard` (refuses), `clamp` (shortens answers to what is left, then refuses) or
    `warn` (tells you and lets pass); without --at a budget that is there keeps its own.
    Calls of models without a price are refused under a budget that caps: it names those that the
    scope can reach, and what gives them a price.

    Examples:
        tollway budgets set team ml 200/month
        tollway budgets set user intern 5/24h --at clamp
    """
    loaded = load_config(config)
    if len(words) < 2:
        raise UsageProblem(
            "Which budget is not said", hint="Write `tollway budgets set team ml 200/month`"
        )
    _require_one_word(words)
    scope = _scope(words[:-1], loaded)[0]
    before = _budgets(loaded, scope)
    new = _budget(words[-1], _mode(at), before)
    budgets = _replaced(before, new)
    unpriced = without_price(loaded, scope) if new.caps else []
    if not as_json:
        warn_beforehand(unpriced)
    done = edits.apply(
        loaded.path,
        put(_budgets(loaded, scope), scope, budgets),
        what=f"budgets set {_said(scope)} {new.text}",
    )
    if not as_json:
        mode = "" if new.at == "hard" else f", {new.at}"
        show.note(
            f"The budget of {_said(scope)} is {new.text}{mode}"
            if done.changed
            else f"The budget of {_said(scope)} is {new.text} already"
        )
    _report(done, scope, as_json=as_json, refused_unpriced=unpriced)


def remove(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="SCOPE [PERIOD]",
            help="As `team ml month`; alone, all of it.",
            autocompletion=complete.scope,
        ),
    ],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Remove a scope's budgets, or those of one period.

    What was spent stays in the ledger.

    Examples:
        tollway budgets remove team ml month
        tollway budgets remove tag run=42
    """
    loaded = load_config(config)
    scope, period = _scope(words, loaded)
    before = _budgets(loaded, scope)
    kept = tuple(one for one in before if period is not None and one.period != period)
    gone = [one.text for one in before if one not in kept]
    if not gone:
        what = f"{_said(scope)} {period}" if period else _said(scope)
        raise edits.Unknown(
            f"There is no budget of {what}", hint="`tollway budgets list` shows those there are"
        )
    done = edits.apply(
        loaded.path,
        put(_budgets(loaded, scope), scope, kept),
        what=f"budgets remove {' '.join(words)}",
    )
    if not as_json:
        show.note(f"Removed {', '.join(gone)} of {_said(scope)}")
    _report(done, scope, as_json=as_json)


def raise_(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="SCOPE [PERIOD] +USD",
            help="As `team ml +10`, `box day +5`.",
            autocompletion=complete.scope,
        ),
    ],
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="WHEN",
            help="tomorrow, week, month, 2h, 3d, or a date: its start.",
            autocompletion=complete.among("tomorrow", "week", "month", "2h", "3d"),
        ),
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="End the scope's raises now.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Raise a scope's budgets for a time, or those of one period.

    Each budget's limit is so much higher until then; then the raise is gone by itself. Several
    raises add up. A date, `tomorrow`, `week` and `month` mean the first moment of that day, in
    `server.timezone`.

    Examples:
        tollway budgets raise team ml +10 --until tomorrow
        tollway budgets raise team ml --end
    """
    loaded = load_config(config)
    if end:
        _end_raises(words, loaded, until, as_json=as_json)
        return
    usd = _more(words)
    if until is None:
        raise UsageProblem("Until when is not said", hint="`--until tomorrow`, a date, or `2h`")
    scope, period = _scope(words[:-1], loaded)
    if not [one for one in _budgets(loaded, scope) if period in (None, one.period)]:
        what = f"{_said(scope)} {period}" if period else _said(scope)
        raise edits.Conflict(
            f"There is no budget of {what} to raise",
            hint=f"`tollway budgets set {_said(scope)} AMOUNT/PERIOD` makes one",
        )
    last = _moment(until, loaded)
    text = " ".join(filter(None, (*scope, period)))
    entry = {"scope": text, "usd": usd, "until": last, "by": me()}
    done = edits.apply(
        loaded.path,
        add_raise(entry),
        what=f"budgets raise {text} +{usd:f} until {last.isoformat(timespec='minutes')}",
    )
    if not as_json:
        until = show.turn(last.timestamp(), ZoneInfo(loaded.server.timezone))
        show.note(f"Raised {text} by {show.money(int(usd * 10**9))} until {until}")
    _report(done, scope, as_json=as_json)


def _end_raises(words: Sequence[str], config: Config, until: str | None, *, as_json: bool) -> None:
    if until is not None:
        raise UsageProblem("`--end` and `--until` exclude each other")
    scope, period = _scope(words, config)
    live = [
        one
        for one in config.raises
        if one.scope == scope and period in (None, one.period) and one.until > time.time()
    ]
    if not live:
        raise edits.Unknown(
            f"Nothing raises {_said(scope)} now", hint="`tollway budgets list` shows what does"
        )

    ended = end_raises({one.text for one in live})
    done = edits.apply(config.path, ended, what=f"budgets raise {' '.join(words)} --end")
    if not as_json:
        show.note(f"Ended {show.counted(len(live), 'raise')} of {_said(scope)}")
    _report(done, scope, as_json=as_json)


# --- what was typed -----------------------------------------------------------------------------


_MADE = {"provider": "add {} --kind KIND", "route": "add {} --to PROVIDER/MODEL"}


def _scope(words: Sequence[str], config: Config) -> tuple[Scope, str | None]:
    """Return the scope that words name, and the period behind it, None where none is said.

    Raises:
        UsageProblem: They name no scope.
        Unknown: There is no such team, user, ...
    """
    text = " ".join(words)
    kind, colon, rest = text.partition(":")
    if colon and kind in get_args(ScopeKind):
        text = f"{kind} {rest}"
    try:
        scope, period = units.scope(text)
    except units.WrongUnit as fault:
        said = text.partition(" ")[0]
        near = "" if said in get_args(ScopeKind) else shown.meant(said, get_args(ScopeKind))
        raise UsageProblem(
            f"{shown.value(text)} is no scope: {fault}{near}",
            hint=f"Write {_SCOPES}",
        ) from fault
    _require(scope, config)
    return scope, period


def _require(scope: Scope, config: Config) -> None:
    kind, name = scope
    if kind in SECTIONS:
        section = SECTIONS[kind]
        if scope == ("user", "local") and config.server.single_user:
            return  # who is there without a table, and gets one
        how = _MADE.get(kind, "create {}").format(name)
        edits.require_known(config, section, name, create=f"tollway {section} {how}")
    elif kind == "tag":
        tag, _, value = name.partition("=")
        if why := check.tag_wrong(tag) or check.tag_value_wrong(value):
            raise UsageProblem(f"{shown.value(name)}: {why}")


def _budgets(config: Config, scope: Scope) -> tuple[Budget, ...]:
    return dict(budgets_of(config)).get(scope, ())


def _mode(said: str | None) -> Mode | None:
    for mode in get_args(Mode):
        if said == mode:
            found: Mode = mode
            return found
    if said is not None:
        raise UsageProblem(f"`--at {said}` is no mode", hint="There are hard, clamp and warn")
    return None


def _budget(text: str, at: Mode | None, before: Sequence[Budget]) -> Budget:
    try:
        usd, word = units.budget_parts(text)
        period = units.period(word)
        same = [one.at for one in before if one.period == period]
        return Budget(units.nanousd(usd), period, at or (same[0] if len(same) == 1 else "hard"))
    except units.WrongUnit as fault:
        raise UsageProblem(f"{shown.value(text)} is no budget: {fault}") from fault


def _require_one_word(words: Sequence[str]) -> None:
    """Return if a budget's sum and period are not two words, whose first would be a scope's."""
    if _MORE.fullmatch(words[-2]) and re.fullmatch(r"/?(?:\d+[mhd]|[a-z]+)", words[-1]):
        said = f"{words[-2]}/{words[-1].removeprefix('/')}"
        raise UsageProblem(
            f"`{words[-2]} {words[-1]}` is no budget", hint=f"Write it as one word: `{said}`"
        )


def _more(words: Sequence[str]) -> Decimal:
    """Return by how many dollars a budget is to be raised, which the last word says."""
    if words[-1].startswith("-") and _MORE.fullmatch(words[-1][1:]):
        raise UsageProblem(
            "A raise is never negative",
            hint="`tollway budgets set SCOPE AMOUNT/PERIOD` lowers a budget, `--end` ends a raise",
        )
    more = _MORE.fullmatch(words[-1])
    if not more or len(words) < 2:
        raise UsageProblem(
            "By how much is not said", hint="Write `tollway budgets raise team ml +10`"
        )
    return Decimal(more[1])


def _replaced(before: tuple[Budget, ...], new: Budget) -> tuple[Budget, ...]:
    same = [one for one in before if one.period == new.period]
    # Of several for one period, such as one that warns below one that refuses, the one like it.
    old = same[0] if len(same) == 1 else next((one for one in same if one.at == new.at), None)
    if old is None:
        return (*before, new)
    return tuple(new if one is old else one for one in before)


def _moment(said: str, config: Config) -> datetime:
    zone = ZoneInfo(config.server.timezone)
    now = datetime.now(zone)
    today = now.date()
    month = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    days = {
        "tomorrow": today + timedelta(days=1),
        "week": today + timedelta(days=7 - today.weekday()),
        "month": month,
    }
    word = said.strip().lower()
    try:
        if re.fullmatch(r"[\d.]+[a-z]+", word):
            found = now + timedelta(seconds=float(units.seconds(word)))
        elif word in days or re.fullmatch(r"\d{4}-\d{2}-\d{2}", word):
            day = days.get(word) or date.fromisoformat(word)
            found = datetime(day.year, day.month, day.day, tzinfo=zone)
        else:
            found = datetime.fromisoformat(said.strip())
            found = found if found.tzinfo else found.replace(tzinfo=zone)
    except (units.WrongUnit, ValueError, OverflowError) as fault:
        raise UsageProblem(
            f"`--until {said}` is no moment",
            hint="Say `tomorrow`, `week`, `month`, `2h`, `3d`, `2026-12-01` or `2026-12-01T15:00`",
        ) from fault
    if found <= now:
        raise UsageProblem(f"`--until {said}` is over already")
    return found.astimezone(UTC).replace(microsecond=0)


def _said(scope: Scope) -> str:
    return " ".join(scope).strip()


def _report(done: edits.Done, scope: Scope, *, as_json: bool, **more: object) -> None:
    """Say what became of a change, and how the scope's budgets stand by it."""
    kind, name = scope
    at = ("server", "budget") if kind == "box" else (SECTIONS.get(kind, "tags"), name)
    found = budget_table.lines(done.config, scope)
    facts = {"scope": _said(scope), **budget_table.as_json_data(found), **more}
    if not as_json and found.lines:
        budget_table.as_table(found)
    edits.report(done, facts, at, as_json=as_json, told=True)
