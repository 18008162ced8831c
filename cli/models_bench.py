"""`models bench`: how fast a model answers, through the gateway, at one caller and at many."""

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import msgspec
import typer

from tollway.cli import complete, edits, show
from tollway.cli.answer import Ask, Message, Said, hear
from tollway.cli.boundary import UsageProblem
from tollway.cli.control import Control, load_config, reach
from tollway.cli.options import AsJson, ConfigFile
from tollway.providers.errors import GatewayError

_LOAD_S = 1800.0
_MOST_CALLERS = 256
# Each caller its own, so that no prefix of one helps another.
_PROMPT = "Caller {caller}, round {number}. Tell a long story about a bridge over a wide river."


class Level(msgspec.Struct, frozen=True):
    """What so many callers at once got. Tokens a second are of all of them together.

    Times to the first token are milliseconds, queues included; `failed` calls count in no figure.
    """

    callers: int
    calls: int
    failed: int
    output_tokens: int
    seconds: float
    tokens_per_s: float
    first_p50_ms: float | None
    first_max_ms: float | None
    cost_nanousd: int


class Bench(msgspec.Struct, frozen=True):
    """What `--json` prints."""

    model: str
    target: str
    slots: int
    tokens: int
    levels: list[Level]


def bench(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="The model's name.",
            autocompletion=complete.entries("models"),
            callback=edits.own_model,
        ),
    ],
    *,
    callers: Annotated[
        str | None, typer.Option(metavar="N,N", help="At once; else 1, 2, 4 ... up to its slots.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=2, max=4096, help="Of each answer, at most.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Calls of each caller.")] = 2,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model's speed through the gateway.

    Tokens a second of all callers together and the time to the first token, at one caller and at
    as many as it has slots. The model is loaded first, which is not measured. The calls are real:
    they stand in the ledger, under your budgets. Needs the running daemon.

    Examples:
        tollway models bench smollm2
        tollway models bench smollm2 --callers 1,8,16 --tokens 128 --json
    """
    loaded = load_config(config)
    edits.require_known(loaded, "models", name)
    slots = loaded.models[name].slots
    levels = _levels(callers, slots)
    control = reach(config)
    with show.waiting(f"Loading {name}"):
        control.post(f"/control/models/{name}/load", timeout_s=_LOAD_S)
    found = []
    for level in levels:
        with show.waiting(f"{level} at once"):
            found.append(_measured(control, name, level, tokens, rounds))
    told = Bench(name, f"local/{name}", slots, tokens, found)
    if as_json:
        show.emit(told)
    else:
        _print(told)
    if all(level.failed == level.calls for level in found):
        raise GatewayError(f"Every call of `{name}` failed", hint="`tollway logs` shows why")


def _levels(said: str | None, slots: int) -> list[int]:
    if said is None:
        doubled = [2**power for power in range(slots.bit_length()) if 2**power < slots]
        return [*doubled, slots]
    words = [word.strip() for word in said.split(",")]
    if not all(word.isascii() and word.isdecimal() and len(word) < 5 for word in words):
        raise UsageProblem("`--callers`: expected numbers, such as 1,4,8")
    found = [int(word) for word in words]
    if not all(0 < one <= _MOST_CALLERS for one in found):
        raise UsageProblem(f"`--callers`: from 1 to {_MOST_CALLERS}")
    return found


def _measured(control: Control, name: str, callers: int, tokens: int, rounds: int) -> Level:
    def call(number: int) -> Said | None:
        prompt = _PROMPT.format(caller=number % callers + 1, number=number // callers + 1)
        ask = Ask(
            model=f"local/{name}",
            messages=[Message("user", prompt)],
            max_completion_tokens=tokens,
            temperature=0.0,
        )
        said = Said(model=ask.model)
        try:
            hear(control, ask, said, lambda _: None)
        except GatewayError as fault:
            edits.warn(fault.message)
            return None
        return said

    began = time.monotonic()
    with ThreadPoolExecutor(callers) as pool:
        answers = list(pool.map(call, range(callers * rounds)))
    return _level(callers, answers, time.monotonic() - began)


def _level(callers: int, answers: Sequence[Said | None], seconds: float) -> Level:
    heard = [one for one in answers if one is not None]
    made = sum(one.output_tokens or 0 for one in heard)
    firsts = [float(one.first_ms) for one in heard if one.first_ms is not None]
    return Level(
        callers=callers,
        calls=len(answers),
        failed=len(answers) - len(heard),
        output_tokens=made,
        seconds=round(seconds, 3),
        tokens_per_s=round(made / max(seconds, 1e-6), 1),
        first_p50_ms=statistics.median(firsts) if firsts else None,
        first_max_ms=max(firsts, default=None),
        cost_nanousd=sum(one.cost_nanousd or 0 for one in heard),
    )


def _print(told: Bench) -> None:
    numbers = ("callers", "tokens/s", "first token p50", "max", "calls", "failed", "cost")
    show.table(
        [show.Column(name, number=True) for name in numbers],
        [
            (
                str(one.callers),
                f"{one.tokens_per_s:.1f}",
                _seconds(one.first_p50_ms),
                _seconds(one.first_max_ms),
                str(one.calls),
                str(one.failed or ""),
                show.money(one.cost_nanousd),
            )
            for one in told.levels
        ],
    )


def _seconds(ms: float | None) -> str:
    return "" if ms is None else f"{ms / 1000:.3f} s"
