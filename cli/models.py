"""`models`: what this box serves itself, and what it is doing."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from tollway.cli import complete, edits, show
from tollway.cli.boundary import ANSWER_IS_NO, UsageProblem
from tollway.cli.control import Control, convert, load_config, reach
from tollway.cli.options import AsJson, ConfigFile
from tollway.daemon.config import shown
from tollway.daemon.config.schema import Config, HourPrice, Model, ModelPrice
from tollway.daemon.errors import DaemonUnreachable
from tollway.daemon.pricing import local_said
from tollway.providers.errors import GatewayError
from tollway.providers.llamacpp.gguf import files_of

_LOAD_S = 1800.0  # a large model from a slow disk
_LOCAL = "local"
_LAST_WORDS = 12  # lines

Name = Annotated[
    str,
    typer.Argument(
        help="The model's name.",
        autocompletion=complete.entries("models"),
        callback=edits.own_model,
    ),
]
Names = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME...", help="The models' names.", autocompletion=complete.entries("models")
    ),
]
NamesOrNone = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME...", help="The models' names.", autocompletion=complete.entries("models")
    ),
]
# The states of a model that has a process, or soon will.
_IN_MEMORY = {"starting", "loading", "ready", "draining"}


class State(msgspec.Struct):
    """A model at the daemon; memory in bytes."""

    name: str
    state: str
    percent: int = 0
    pid: int | None = None
    rss_bytes: int = 0
    context: int = 0
    running: int = 0
    waiting: int = 0
    idle_s: float | None = None
    tokens_per_s: float | None = None
    problem: str = ""
    log: list[str] = []  # of its process, what it wrote last
    warning: str = ""
    fix: str = ""


class Listed(msgspec.Struct, frozen=True):
    """A registered model; `state` is "" where no daemon runs, `bytes` None for no file.

    What a command serves has a context that it alone knows.
    """

    name: str
    target: str
    gguf: Path | None  # None for a model that a command serves
    bytes: int | None
    context: int | None
    price: str
    state: str
    problem: str
    command: str = ""


def list_(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the registered models.

    With what each is doing while the daemon runs.

    Example:
        tollway models list
    """
    loaded = load_config(config)
    states = _states(loaded)
    rows = [
        _listed(name, one, states.get(name), local_said(loaded, name))
        for name, one in loaded.models.items()
    ]
    if as_json:
        show.emit(rows)
        return
    if not rows:
        show.note("There are no models: `tollway models add PATH.gguf` registers one")
        return
    numbers = [show.Column(name, number=True) for name in ("size", "context")]
    show.table(
        ["model", "called as", *numbers, "$/M in/out", "state", "file or command", "problem"],
        [
            (
                row.name,
                row.target,
                show.size(row.bytes),
                str(row.context or ""),
                row.price,
                row.state,
                show.place(row.gguf or row.command),
                row.problem,
            )
            for row in rows
        ],
    )


def _listed(name: str, model: Model, state: State | None, said: ModelPrice | None) -> Listed:
    problem = state.problem if state else ""
    size: int | None = None
    try:
        size = sum(file.stat().st_size for file in files_of(model.gguf)) if model.gguf else None
    except OSError as fault:
        problem = problem or f"{fault.strerror}"
    return Listed(
        name=name,
        target=f"{_LOCAL}/{name}",
        gguf=model.gguf,
        bytes=size,
        context=model.context if model.gguf else None,
        price=_price(said),
        command=model.command or "",
        state=state.state if state else "",
        problem=problem,
    )


def _price(said: ModelPrice | None) -> str:
    match said:
        case None:
            return ""
        case str(free):
            return free
        case HourPrice(gpu_hour=dollars):
            return f"{dollars:f}/h"
        case price:
            return f"{price.input:f}/{price.output:f}"


def _states(config: Config) -> dict[str, State]:
    try:
        said = Control(config.admin_socket).get("/control/models")
    except DaemonUnreachable:
        return {}
    return {one.name: one for one in convert(said["models"], list[State])}


def ps(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show what the models of this box are doing.

    State, process, memory, context, calls running and waiting, tokens a second of the last
    call, and how long each has been idle; of those that failed, what their process wrote last.
    Needs the running daemon.

    Example:
        tollway models ps
    """
    answer = reach(config).get("/control/models")
    if as_json:
        show.emit(answer["models"])
        return
    states = convert(answer["models"], list[State])
    _process_table(states)
    for one in states:
        if one.state == "failed" and one.log:
            show.say()
            show.say(f"last words of {one.name}:")
            for line in one.log[-_LAST_WORDS:]:
                show.say_as_it_is(f"  {line}")


def _process_table(states: list[State]) -> None:
    if not states:
        show.note("There are no models: `tollway models add PATH.gguf` registers one")
        return
    numbers = ("pid", "memory", "context", "running", "waiting", "tokens/s", "idle")
    show.table(
        ["model", "state", *(show.Column(name, number=True) for name in numbers), "problem"],
        [
            (
                one.name,
                f"{one.state} {one.percent}%" if one.state == "loading" else one.state,
                str(one.pid or ""),
                show.size(one.rss_bytes or None),
                str(one.context or ""),
                str(one.running),
                str(one.waiting),
                "" if one.tokens_per_s is None else f"{one.tokens_per_s:.1f}",
                show.duration(one.idle_s),
                one.problem,
            )
            for one in states
        ],
    )
    for one in states:
        if one.warning:
            edits.warn(f"{one.name}: {one.warning}")
            edits.hint(one.fix)


def load(names: Names, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Load models now rather than at their first calls.

    One after the other; returns when they are ready. Needs the running daemon.

    Examples:
        tollway models load smollm2
        tollway models load chat embed
    """
    _ask_each(load_config(config), names, "load", as_json=as_json)


def unload(
    names: NamesOrNone = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All that are in memory.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Free models' memory once their calls have ended.

    The next call of one loads it again. Needs the running daemon.

    Examples:
        tollway models unload smollm2
        tollway models unload --all
    """
    if every == bool(names):
        raise UsageProblem("Which model?", hint="Name some, or say `--all`")
    loaded = load_config(config)
    if not every:
        _ask_each(loaded, names or [], "unload", as_json=as_json)
        return
    states = convert(reach(config).get("/control/models")["models"], list[State])
    present = [one.name for one in states if one.state in _IN_MEMORY]
    if present or as_json:
        _ask_each(loaded, present, "unload", as_json=as_json, several=True)
    else:
        show.note("No model is in memory")


def _ask_each(
    config: Config,
    names: list[str],
    what: Literal["load", "unload"],
    *,
    as_json: bool,
    several: bool = False,
) -> None:
    """Have models loaded or unloaded; one that cannot be does not keep the others from it."""
    names = list(dict.fromkeys(map(edits.own_model, names)))
    for name in names:
        edits.require_known(config, "models", name)
    several = several or len(names) > 1
    faults: list[GatewayError] = []
    done: list[State] = []
    for name in names:
        try:
            done += _asked(config.path, name, what)
        except DaemonUnreachable:
            raise
        except GatewayError as fault:
            if not several:
                raise
            faults.append(fault)
    if as_json:
        show.emit(done if several else (done[0] if done else None))
    elif done:
        _process_table(done)
    for failed in faults:
        edits.warn(failed.message)
        if failed.hint:
            edits.hint(failed.hint)
    if faults:
        raise typer.Exit(ANSWER_IS_NO)


def _asked(config: Path, name: str, what: Literal["load", "unload"]) -> list[State]:
    with show.waiting(f"Loading {name}" if what == "load" else f"Waiting for {name} to end"):
        answer = reach(config).post(f"/control/models/{name}/{what}", timeout_s=_LOAD_S)
    return [one for one in convert(answer["models"], list[State]) if one.name == name]


def remove(name: Name, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Take a model off the list; the file stays.

    Refused while a route needs it.

    Example:
        tollway models remove smollm2
    """
    loaded = load_config(config)
    edits.require_known(loaded, "models", name)
    needed = [
        f"route {route}" for route, one in loaded.routes.items() if f"{_LOCAL}/{name}" in one.every
    ]
    edits.refuse_while("models", name, needed, hint="`tollway routes remove NAME` removes a route")
    done = edits.apply(loaded.path, edits.drop("models", name), what=f"models remove {name}")
    if not as_json:
        file = loaded.models[name].gguf
        show.note(f"Removed the model {shown.value(name)}{f'; {file} stays' if file else ''}")
    edits.report(done, {"name": name, "removed": True}, ("models", name), as_json=as_json)
