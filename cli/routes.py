"""`routes`: the names that clients ask for, and what would become of a call."""

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tollway.cli import complete, limits, queues, show
from tollway.cli.boundary import ANSWER_IS_NO, UsageProblem
from tollway.cli.control import convert, load_config, reach
from tollway.cli.limits import Limit
from tollway.cli.options import AsJson, AsKey, ConfigFile
from tollway.cli.status import Budget
from tollway.daemon.config.schema import Aim

Name = Annotated[
    str, typer.Argument(help="The route's name.", autocompletion=complete.entries("routes"))
]


class Endpoint(StrEnum):
    """What a call asks for."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"


class Dialect(StrEnum):
    """What a client speaks."""

    OPENAI = "openai"
    RESPONSES = "responses"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"


_NAMES = {
    Dialect.OPENAI: "openai_chat",
    Dialect.RESPONSES: "openai_responses",
    Dialect.ANTHROPIC: "anthropic_messages",
    Dialect.GEMINI: "gemini",
}


class Route(msgspec.Struct, frozen=True):
    """A route: its targets in order, and the routes behind it.

    `weights` are those of `to`, one by one; None where the file says none.
    """

    name: str
    to: tuple[str, ...]
    strategy: str
    fallback: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    cases: int = 0  # of its `when`
    weights: tuple[int | None, ...] = ()


class Target(msgspec.Struct):
    """One target of a call, as the daemon explains it; prices are dollars a million tokens."""

    target: str
    allowed: bool
    why: str = ""
    price: str = ""
    input_usd: str = ""
    output_usd: str = ""
    hold_nanousd: int | None = None
    output_limit: int | None = None
    slots: int | None = None
    running: int | None = None
    waiting: int | None = None
    dialect: str = ""
    passes: bool = True
    dropped: list[str] = []
    callers: bool = False
    chosen: bool = True
    route: str = ""
    case: str = ""
    strategy: str = ""
    weight: int = 1
    health: str = "ok"
    window: int | None = None
    expected_nanousd: int | None = None
    first_ms: int | None = None
    tokens_s: float | None = None
    load: float = 0.0
    changed: list[str] = []
    retries_left: int | None = None


class Condition(msgspec.Struct):
    """A condition of a case, and what it saw of the call."""

    condition: str
    seen: str
    holds: bool


class Case(msgspec.Struct):
    """A case of a route's `when`, as far as the first that takes the call."""

    route: str
    case: str
    takes: bool
    conditions: list[Condition]


class Explanation(msgspec.Struct):
    """What this command shows of the daemon's answer; `--json` prints the answer itself."""

    model: str
    how: str
    targets: list[Target]
    budgets: list[Budget]
    limits: list[Limit] = []
    key: str = ""
    user: str = ""
    team: str = ""
    project: str = ""
    levels: list[str] = []
    also: list[str] = []
    cases: list[Case] = []
    input_tokens: int = 0
    stays: str = ""
    refused: str = ""
    retries: int = 0


def list_(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the routes: targets in order, strategy, fallbacks.

    Example:
        tollway routes list
    """
    loaded = load_config(config)
    rows = [
        Route(
            name,
            one.to,
            one.strategy,
            one.fallback,
            one.aliases,
            len(one.when),
            tuple(aim.weight for aim in one.aims),
        )
        for name, one in loaded.routes.items()
    ]
    if as_json:
        show.emit(rows)
    elif rows:
        show.table(
            ["route", "to", "strategy", show.Column("cases", number=True), "fallback", "aliases"],
            [
                (
                    one.name,
                    ", ".join(_aims(loaded.routes[one.name].aims)),
                    one.strategy,
                    str(one.cases or ""),
                    ", ".join(one.fallback),
                    ", ".join(one.aliases),
                )
                for one in rows
            ],
        )
    else:
        show.note("There are no routes: `tollway routes add NAME --to PROVIDER/MODEL` adds one")


def _aims(aims: Sequence[Aim]) -> list[str]:
    """Return a route's targets as `--to` takes them: with their weights, where they have some."""
    return [one.target + (f"={one.weight}" if one.weight is not None else "") for one in aims]


_Asked = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="What the client would ask for.",
        autocompletion=complete.callables,
    ),
]
_ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="The same.", autocompletion=complete.callables),
]


_TokensOption = Annotated[int, typer.Option("--tokens", min=0, help="Tokens of input.")]
_HeaderOption = Annotated[
    list[str] | None,
    typer.Option("--header", metavar="NAME:VALUE", help="One that conditions may look at."),
]
_TagOption = Annotated[
    list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="A tag of the call.")
]


def explain(  # noqa: PLR0913 - an argument is an option
    name: _Asked = None,
    *,
    model: _ModelOption = None,
    key: AsKey = None,
    tokens: _TokensOption = 1000,
    output: Annotated[
        int | None, typer.Option("--output", min=1, help="The output limit the client sets.")
    ] = None,
    endpoint: Annotated[Endpoint, typer.Option("--endpoint", help="What it asks for.")] = (
        Endpoint.CHAT
    ),
    dialect: Annotated[Dialect, typer.Option("--dialect", help="What the client speaks.")] = (
        Dialect.OPENAI
    ),
    body: Annotated[
        Path | None,
        typer.Option("--body", metavar="FILE", help="A request as JSON, instead of --tokens."),
    ] = None,
    header: _HeaderOption = None,
    tag: _TagOption = None,
    stream: Annotated[bool, typer.Option("--stream", help="It wants a stream.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what would become of a call, without sending it.

    How the name resolves, what each condition of the route saw, which targets would be tried in
    which order, how they are and what each would hold, whether the request passes through or is
    translated, and how the budgets and rate limits stand that the call must fit into. With --body
    it says what each target's dialect could not say. Where chance decides, the likeliest is first.
    Exits with 1 where it would be refused. Needs the running daemon.

    Examples:
        tollway routes explain fast --as ci --tokens 2000 --header x-tier:batch --tag env=ci
        tollway routes explain fast --dialect anthropic --body request.json
    """
    if (name is None) == (model is None):
        raise UsageProblem(
            "Missing argument 'NAME'" if name is None else "NAME and `--model` say two things",
            hint="`tollway routes explain NAME` says what a call of it would meet",
        )
    question: dict[str, object] = {
        "model": model or name,
        "key": key,
        "tokens": tokens,
        "output": output,
    }
    question |= {"endpoint": endpoint.value, "dialect": _NAMES[dialect]}
    question |= {"stream": stream, "tags": tag or [], "headers": _headers(header or [])}
    question |= {"body": _request(body)} if body else {}
    answer = reach(config).post("/control/explain", question)
    said = convert(answer, Explanation)
    if as_json:
        show.emit(answer)
    else:
        _print(said)
    sys.stdout.flush()
    if said.refused:
        raise typer.Exit(ANSWER_IS_NO)


def _request(file: Path) -> msgspec.Raw:
    try:
        text = file.read_bytes()
        msgspec.json.decode(text)
    except msgspec.DecodeError as fault:
        raise UsageProblem(f"`{file}` is no JSON: {fault}") from fault
    return msgspec.Raw(text)


def _headers(said: list[str]) -> dict[str, str]:
    found = {}
    for text in said:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise UsageProblem(f"`{text}` is no header", hint="Write it as NAME:VALUE")
        found[name.strip().lower()] = value.strip()
    return found


def _print(said: Explanation) -> None:
    owners = (("key", said.key), ("user", said.user), ("project", said.project))
    asked_as = ", ".join(f"{what} {name}" for what, name in (*owners, ("team", said.team)) if name)
    also = f" (also served by {', '.join(said.also)})" if said.also else ""
    refused = show.Painted(f"refused: {said.refused}", "red")
    show.pairs(
        [
            ("model", said.model),
            ("resolved as", said.how + also),
            ("asked as", asked_as or "the owner"),
            ("must allow", "\n".join(said.levels) or _nobody(said)),
            *([("tried again", _again(said))] if said.retries else []),
            ("outcome", refused if said.refused else show.Painted("would be sent", "green")),
        ]
    )
    _cases(said)
    _targets(said)
    changed = [one for one in said.targets if one.changed and one.chosen]
    if changed:
        show.say()
    for one in changed:
        show.say(f"{one.target} would be asked with {', '.join(one.changed)}")
    for one in said.targets:
        if one.dropped:
            show.say()
            show.say(f"{one.target} would not be told: {', '.join(one.dropped)}")
    _budgets(said.budgets)
    limits.table(said.limits)


def _again(said: Explanation) -> str:
    left = {one.target.partition("/")[0]: one.retries_left for one in said.targets if one.chosen}
    now = ", ".join(f"{provider} has {number}" for provider, number in left.items())
    times = "once" if said.retries == 1 else show.counted(said.retries, "time")
    return f"{times} each, out of what all calls to a provider share: {now} left"


def _targets(said: Explanation) -> None:
    show.say()
    numbers = ("in $/M", "out $/M", "likely", "hold", "output limit", "window")
    columns = [show.Column(title, number=True) for title in numbers]
    show.table(
        [
            show.Column("", number=True),
            "target",
            "because",
            "health",
            "reached by",
            "allowed",
            *columns,
            "price from",
            "slots",
            "why not",
        ],
        [
            (
                str(number) if one.chosen and one.allowed else "",
                one.target,
                _because(one, said),
                show.Painted(one.health, "green" if one.health == "ok" else "red"),
                _reached(one),
                "yes" if one.allowed else "no",
                one.input_usd,
                one.output_usd,
                show.money(one.expected_nanousd if one.chosen else None),
                show.money(one.hold_nanousd if one.chosen else None),
                str(one.output_limit or ""),
                show.tokens(one.window) if one.window else "",
                _priced_by(one),
                queues.line(one.slots, one.running, one.waiting),
                one.why,
            )
            for number, one in enumerate(said.targets, start=1)
        ],
    )


def _cases(said: Explanation) -> None:
    if not said.cases:
        return
    show.say()
    show.table(
        ["case", "condition", "saw", "holds", "takes it"],
        [
            (
                f"{case.route} {case.case}" if at == 0 else "",
                one.condition,
                one.seen,
                show.Painted("yes", "green") if one.holds else "no",
                ("yes" if case.takes else "no") if at == 0 else "",
            )
            for case in said.cases
            for at, one in enumerate(case.conditions)
        ],
    )


def _because(one: Target, said: Explanation) -> str:
    """Return why a target stands where it does."""
    if not one.chosen:
        return ""
    reasons = [f"{one.route} {one.case}".strip()] if one.route else []
    match one.strategy:
        case "weighted":
            reasons.append(f"weight {one.weight}")
        case "fastest" if one.first_ms is not None or one.tokens_s:
            first = "" if one.first_ms is None else f"{show.duration(one.first_ms / 1000)}, "
            reasons.append(f"{first}{one.tokens_s or '?'} tokens/s")
        case "fastest":
            reasons.append("not measured yet")
        case "least-busy":
            reasons.append(f"{one.load:.0%} busy")
        case "cheapest":
            reasons.append("cheapest")
    if one.target == said.stays:
        reasons.insert(0, "has the conversation")
    return ", ".join(reasons)


def _priced_by(one: Target) -> show.Cell:
    return one.price or show.Painted("no price", "yellow")


def _reached(one: Target) -> str:
    how = "passing through" if one.passes else f"translating to {one.dialect}"
    return f"{how}, the caller's credential" if one.callers else how


def _nobody(said: Explanation) -> str:
    return "no level names models, so nothing is allowed" if said.key else "nobody: the owner may"


def _budgets(budgets: list[Budget]) -> None:
    if not budgets:
        return
    show.say()
    numbers = [show.Column(name, number=True) for name in ("spent", "held", "left")]
    show.table(
        ["budget of", "budget", *numbers],
        [
            (
                f"{one.scope} {one.name}".strip(),
                one.budget,
                show.money(one.settled_nanousd),
                show.money(one.held_nanousd),
                show.money(one.left_nanousd),
            )
            for one in budgets
        ],
    )
