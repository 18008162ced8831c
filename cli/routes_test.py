"""`routes test`: one token from each target, to see that it answers, how fast, for how much."""

import sys
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
import typer

from tollway.cli import answer, complete, edits, show
from tollway.cli.boundary import ANSWER_IS_NO
from tollway.cli.control import Control, convert, load_config, reach
from tollway.cli.options import AsJson, ConfigFile
from tollway.daemon.config.schema import Config
from tollway.daemon.errors import DaemonUnreachable, ModelNotFound
from tollway.providers.dialects.openai_models import reasons
from tollway.providers.errors import GatewayError

_PROMPT = "Say yes."
# The least that OpenAI's reasoning models take, which think before they say a word.
_LEAST_OF_THINKERS = 16


class Tried(msgspec.Struct):
    """What became of a target's one token. Money is nano-dollars, times are milliseconds.

    `cost_nanousd` is None where nobody knows it; `unpriced`: for want of a price.
    """

    target: str
    result: Literal["ok", "error", "skipped"]
    first_ms: int | None = None
    total_ms: int | None = None
    cost_nanousd: int | None = None
    answered_by: str = ""
    call: str = ""
    error: str = ""
    unpriced: bool = False


class _Planned(msgspec.Struct):
    target: str
    price: str = ""  # where it comes from; "" for none
    hold_nanousd: int | None = None
    callers: bool = False
    why: str = ""


class _Plan(msgspec.Struct):
    targets: list[_Planned]


def test(
    route: Annotated[
        str | None,
        typer.Argument(
            help="A route, or PROVIDER/MODEL; else all routes.", autocompletion=complete.callables
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before it costs.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Ask each target for one token: who answers, how fast.

    Those of a route, of all routes, or one that is named; and at what cost. The calls are real
    ones, of the owner's: they are in the ledger with the tag tollway=test, and budgets and limits
    hold. Models of this box are loaded. Where it may cost something, it says how much and asks;
    of targets without a price nobody knows.
    Models that reason are asked for 16 tokens, the fewest that they take. Exits with 1 where one
    did not answer. Needs the running daemon.

    Examples:
        tollway routes test smart
        tollway routes test smart --yes --json
    """
    loaded = load_config(config)
    control = reach(config)
    planned = _planned(control, loaded, route)
    most = sum(one.hold_nanousd or 0 for one in planned if not one.callers)
    if most:
        asked = f"Ask {show.counted(len(planned), 'target')}, which may cost up to"
        unknown = sum(not (one.price or one.callers or one.why) for one in planned)
        more = f", and {unknown} without a price" if unknown else ""
        asked += f" {show.money(most)}{more}?"
        edits.agreed(asked, yes=yes)
    done = [_try(control, one, as_json=as_json) for one in planned]
    if as_json:
        show.emit(done)
    else:
        _print(done)
    sys.stdout.flush()
    if any(one.result == "error" for one in done):
        raise typer.Exit(ANSWER_IS_NO)


def _planned(control: Control, config: Config, route: str | None) -> list[_Planned]:
    """Return each target once, with the most that its token may cost."""
    if route is None and not config.routes:
        raise ModelNotFound("There are no routes", hint="`tollway routes add` adds one")
    names: Iterable[str] = [route] if route else [one for one in config.routes if "*" not in one]
    found: dict[str, _Planned] = {}
    for name in names:
        for target in _explained(control, name).targets:
            if target.target not in found:
                found[target.target] = _explained(control, target.target).targets[0]
    return list(found.values())


def _explained(control: Control, name: str) -> _Plan:
    question = {"model": name, "tokens": len(_PROMPT), "output": _tokens(name)}
    return convert(control.post("/control/explain", question), _Plan)


def _tokens(target: str) -> int:
    return _LEAST_OF_THINKERS if reasons(target.rpartition("/")[2]) else 1


def _try(control: Control, planned: _Planned, *, as_json: bool) -> Tried:
    target = planned.target
    if planned.callers:
        return Tried(target, "skipped", error="it takes its caller's own credential")
    ask = answer.Ask(
        target, [answer.Message("user", _PROMPT)], max_completion_tokens=_tokens(target)
    )
    said = answer.Said(target)
    error = ""
    try:
        if as_json:
            answer.hear(control, ask, said, _nothing, tags="tollway=test")
        else:
            with show.waiting(f"asking {target}"):
                answer.hear(control, ask, said, _nothing, tags="tollway=test")
    except DaemonUnreachable:
        raise
    except GatewayError as fault:
        error = fault.message
    return Tried(
        target,
        "error" if error else "ok",
        first_ms=None if error else (said.total_ms if said.first_ms is None else said.first_ms),
        total_ms=said.total_ms,
        # What a provider itself says that it charged is known without a price.
        cost_nanousd=None if not (planned.price or said.cost_nanousd) else said.cost_nanousd,
        answered_by=said.target,
        call=said.call,
        error=error,
        unpriced=not (error or planned.price or said.cost_nanousd),
    )


def _nothing(_: str) -> None:
    pass


def _print(done: list[Tried]) -> None:
    numbers = [show.Column(title, number=True) for title in ("first token", "cost")]
    show.table(
        ["target", "result", *numbers, "why"],
        [
            (
                one.target,
                _result(one),
                "" if one.first_ms is None else show.duration(one.first_ms / 1000),
                show.Painted("no price", "yellow")
                if one.unpriced
                else show.money(one.cost_nanousd),
                one.error,
            )
            for one in done
        ],
    )


def _result(one: Tried) -> show.Painted:
    match one.result:
        case "ok":
            return show.Painted("ok", "green")
        case "error":
            return show.Painted("error", "red")
        case _:
            return show.Painted("skipped", "yellow")
