"""`models`: GGUF files that this box serves itself."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from tollway.cli import edits, show
from tollway.cli.boundary import UsageProblem
from tollway.cli.control import Control, load_config, reach
from tollway.cli.discover import model_name
from tollway.cli.options import AsJson, ConfigFile
from tollway.daemon.config import shown, units
from tollway.daemon.config.schema import Config, Key, Layers, Member, Model, Server, Team
from tollway.daemon.errors import DaemonUnreachable
from tollway.providers.errors import GatewayError, LocalModelFailed
from tollway.providers.llamacpp import fit, install
from tollway.providers.llamacpp.gguf import ModelInfo, describe

if TYPE_CHECKING:
    from tomlkit.items import InlineTable

_LOAD_S = 1800.0  # a large model from a slow disk
_LOCAL = "local"

Name = Annotated[str, typer.Argument(help="The model's name.")]
PriceIn = Annotated[
    str | None, typer.Option("--price-input", metavar="USD", help="For a million tokens.")
]
PriceOut = Annotated[
    str | None, typer.Option("--price-output", metavar="USD", help="For a million tokens.")
]


class Memory(msgspec.Struct, frozen=True):
    """What a model takes in bytes, what is free, and whether it fits; None: cannot be known."""

    context: int
    weights: int
    cache: int
    work: int
    total: int
    free: int | None
    fits: bool | None
    problem: str = ""
    fix: str = ""


class Described(msgspec.Struct, frozen=True):
    """A GGUF file, whether registered or not."""

    path: Path
    info: ModelInfo
    memory: Memory
    name: str = ""  # as it is registered


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


class Listed(msgspec.Struct, frozen=True):
    """A registered model; `state` is "" where no daemon runs, `bytes` None for no file."""

    name: str
    target: str
    gguf: Path
    bytes: int | None
    context: int
    price: str
    state: str
    problem: str


def add(  # noqa: PLR0913 - an argument is an option
    path: Annotated[Path, typer.Argument(help="The GGUF file; of a split one its first part.")],
    *,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Else taken from the file's name.")
    ] = None,
    context: Annotated[
        int | None, typer.Option("--context", metavar="TOKENS", help="Prompt and answer together.")
    ] = None,
    gpu_layers: Annotated[
        str | None, typer.Option("--gpu-layers", metavar="N", help="auto, all or a number.")
    ] = None,
    price_input: PriceIn = None,
    price_output: PriceOut = None,
    free: Annotated[bool, typer.Option("--free", help="Its calls cost nothing.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Register a GGUF file, to be called as `local/NAME`.

    The file's header is read first: what the model is, what memory it needs, whether it fits.
    A file that is cut short or no model is refused, as is one that all of the machine's memory
    could not hold. Added again, the same file keeps its name and changes what is named. It is
    loaded by its first call.

    Examples:
        tollway models add ~/models/SmolLM2-135M-Instruct.Q4_1.gguf --name smollm2 --free
        tollway models add qwen.gguf --context 16384 --price-input 0.1 --price-output 0.4
    """
    loaded = load_config(config)
    path = Path(os.path.abspath(path.expanduser()))
    info = describe(path)
    name = name or _name_of(path)
    known = loaded.models.get(name)
    if known is None or known.gguf != path:
        edits.require_new(loaded, "models", name, hint="`--name` gives this one another")
    said = {
        "gguf": str(path) if known is None else None,
        "context": context,
        "gpu_layers": None if gpu_layers is None else _layers(gpu_layers),
        "price": _price(price_input, price_output, free=free),
    }
    values: dict[str, object] = {key: value for key, value in said.items() if value is not None}
    asked = {key: values[key] for key in ("context", "gpu_layers") if key in values}
    wanted = msgspec.structs.replace(known or Model(gguf=path), **asked)
    _require_possible(name, info, wanted, explicit=context is not None)
    done = edits.apply(loaded.path, edits.put("models", name, values), what=f"models add {name}")
    model = done.config.models[name]
    described = Described(path, info, memory_of(name, info, model.context), name)
    unpriced = _refused_unpriced(done.config, model)
    if not as_json:
        _print(described)
        show.note(f"Registered as `{_LOCAL}/{name}`" if done.changed else "It is so already")
        _advise(described, model, unpriced=unpriced)
    facts = {
        **msgspec.to_builtins(described, enc_hook=str),
        "llama_cpp_installed": install.installed(),
        "refused_unpriced": unpriced,
    }
    edits.report(done, facts, ("models", name), as_json=as_json)


def _name_of(path: Path) -> str:
    """Return the name that a file gives its model.

    Raises:
        UsageProblem: It gives none.
    """
    if name := model_name(path.name):
        return name
    raise UsageProblem(f"`{path.name}` gives no name", hint="`--name NAME` says one")


def _require_possible(name: str, info: ModelInfo, model: Model, *, explicit: bool) -> None:
    """Return if the model could be loaded with nothing else running.

    Raises:
        UsageProblem: A context was said that is longer than the model was trained on.
        GatewayError: All of the machine's memory is too little for it.
    """
    if explicit and 0 < info.context_trained < model.context:
        raise UsageProblem(
            f"`--context`: `{name}` was trained on {info.context_trained} tokens of context, and"
            f" {model.context} are more",
            hint=f"`--context {info.context_trained}` is the most",
        )
    total = fit.total_memory()
    if total is None or (model.gpu_layers != 0 and install.gpu()):
        return
    context = fit.usable_context(info, model.context)
    need = fit.estimate(info, context).total
    if need <= total:
        return
    smaller = fit.smaller_context(info, context, total)
    raise GatewayError(
        f"`{name}` needs {show.size(need)} of memory with a context of {context} tokens, and this"
        f" machine has {show.size(total)} in all",
        hint=f"`--context {smaller}` would fit" if smaller else "Use a smaller quantisation of it",
    )


def _layers(said: str) -> Layers:
    if said.isdecimal() and said.isascii():
        return int(said[:9])
    match said:
        case "auto" | "all":
            return said
    raise UsageProblem("`--gpu-layers`: expected auto, all or a number of layers")


def _price(
    price_input: str | None, price_output: str | None, *, free: bool
) -> "Literal['free'] | InlineTable | None":
    priced = price_input is not None or price_output is not None
    if free and priced:
        raise UsageProblem("`--free` and a price exclude each other")
    if free or not priced:
        return "free" if free else None
    if price_input is None or price_output is None:
        raise UsageProblem(
            "A price has two halves", hint="Name `--price-input` and `--price-output`, 0 for none"
        )
    import tomlkit  # noqa: PLC0415 - 40 ms that only this needs

    table = tomlkit.inline_table()
    for key, said in (("input", price_input), ("output", price_output)):
        try:
            # Dollars are read as the file's are; a float would not be what was said.
            usd = f"{units.budget_parts(f'{said}/day')[0]:f}"
        except units.WrongUnit as fault:
            raise UsageProblem(f"`--price-{key}`: expected dollars, such as 0.15") from fault
        table[key] = tomlkit.value(usd)
    return table


def memory_of(name: str, info: ModelInfo, context: int) -> Memory:
    """Return what a model needs with a context of so many tokens, against what is free now."""
    used = fit.usable_context(info, context)
    need = fit.estimate(info, used)
    free = fit.available_memory()
    problem = fix = ""
    if free is not None:
        try:
            fit.require_room(name, info, used, free)
        except LocalModelFailed as error:
            problem, fix = error.message, error.hint
    return Memory(
        context=used,
        weights=need.weights,
        cache=need.cache,
        work=need.work,
        total=need.total,
        free=free,
        fits=None if free is None else not problem,
        problem=problem,
        fix=fix,
    )


def _refused_unpriced(config: Config, model: Model) -> bool:
    """Whether some calls are refused because the model has no price and a budget applies."""
    holders: list[Server | Team | Member | Key] = [config.server, *config.teams.values()]
    holders += [*config.users.values(), *config.projects.values(), *config.keys.values()]
    return model.price is None and any(one.budget for one in holders)


def _advise(one: Described, model: Model, *, unpriced: bool) -> None:
    if one.memory.problem:
        edits.warn(f"It does not fit now: {one.memory.problem}")
        edits.hint(one.memory.fix)
    if one.memory.context < model.context:
        edits.warn(f"The context is {one.memory.context} tokens: the model was trained on no more")
    if unpriced:
        edits.warn(f"`{one.name}` has no price: calls that a budget applies to will be refused")
        edits.hint(
            f"`tollway models add {one.path} --name {one.name} --free` makes it cost nothing, "
            "`--price-input USD --price-output USD` prices it"
        )
    if not install.installed():
        edits.warn("llama-cpp-python is not installed, so it cannot be loaded yet")
        show.note(install.install_help())


def _print(one: Described) -> None:
    info, memory = one.info, one.memory
    need = (
        f"{show.size(memory.total)}: weights {show.size(memory.weights)}, context of "
        f"{memory.context} tokens {show.size(memory.cache)}, work {show.size(memory.work)}"
    )
    fits: show.Cell = ""
    if memory.fits is not None:
        verdict = ("fits", "green") if memory.fits else ("does not fit", "red")
        fits = [show.Painted(verdict[0], _colour(memory.fits)), f": {show.size(memory.free)} free"]
    show.pairs(
        [
            ("file", str(one.path)),
            ("model", info.name or one.name),
            ("architecture", f"{info.architecture}, {info.layers} layers"),
            ("parameters", show.tokens(info.parameters)),
            ("quantisation", f"{info.quantisation}, {show.size(info.file_bytes)}"),
            ("trained on", f"{info.context_trained} tokens of context"),
            ("chat", "has a chat template" if info.chat_template else "no chat template"),
            ("memory", need),
            ("", fits),
        ]
    )


def _colour(good: bool) -> show.Colour:
    return "green" if good else "red"


def list_(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the registered models.

    With what each is doing while the daemon runs.

    Example:
        tollway models list
    """
    loaded = load_config(config)
    states = _states(loaded)
    rows = [_listed(name, one, states.get(name)) for name, one in loaded.models.items()]
    if as_json:
        show.emit(rows)
        return
    if not rows:
        show.note("There are no models: `tollway models add PATH.gguf` registers one")
        return
    numbers = [show.Column(name, number=True) for name in ("size", "context")]
    show.table(
        ["model", "called as", *numbers, "$/M in/out", "state", "file", "problem"],
        [
            (
                row.name,
                row.target,
                show.size(row.bytes),
                str(row.context),
                row.price,
                row.state,
                str(row.gguf),
                row.problem,
            )
            for row in rows
        ],
    )


def _listed(name: str, model: Model, state: State | None) -> Listed:
    problem = state.problem if state else ""
    try:
        size: int | None = model.gguf.stat().st_size
    except OSError as fault:
        size, problem = None, problem or f"{fault.strerror}"
    price = model.price
    return Listed(
        name=name,
        target=f"{_LOCAL}/{name}",
        gguf=model.gguf,
        bytes=size,
        context=model.context,
        price=price or ""
        if price is None or isinstance(price, str)
        else f"{price.input:f}/{price.output:f}",
        state=state.state if state else "",
        problem=problem,
    )


def _states(config: Config) -> dict[str, State]:
    try:
        said = Control(config.admin_socket).get("/control/models")
    except DaemonUnreachable:
        return {}
    return {one.name: one for one in msgspec.convert(said["models"], list[State])}


def info(
    model: Annotated[str, typer.Argument(metavar="NAME|PATH", help="A model, or a GGUF file.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what a GGUF file is and what memory it needs.

    Example:
        tollway models info smollm2
    """
    path, context, name = Path(model).expanduser(), Model(gguf=Path()).context, ""
    if not path.is_file():
        loaded = load_config(config)
        if os.sep not in model:
            edits.require_known(loaded, "models", model)
            name, path = model, loaded.models[model].gguf
            context = loaded.models[model].context
    path = Path(os.path.abspath(path))
    found = describe(path)
    memory = memory_of(name or "NAME", found, context)
    one = Described(path, found, memory, name)
    if as_json:
        show.emit(one)
        return
    _print(one)
    if one.memory.problem:
        edits.hint(one.memory.fix)


def ps(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show what the models of this box are doing.

    State, process, memory, context, calls running and waiting, tokens a second of the last
    call, and how long each has been idle. Needs the running daemon.

    Example:
        tollway models ps
    """
    answer = reach(config).get("/control/models")
    if as_json:
        show.emit(answer["models"])
        return
    _process_table(msgspec.convert(answer["models"], list[State]))


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


def load(name: Name, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Load a model now rather than at its first call.

    Returns when it is ready. Needs the running daemon.

    Example:
        tollway models load smollm2
    """
    _ask(name, "load", config, as_json=as_json)


def unload(name: Name, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Free a model's memory once its calls have ended.

    Its next call loads it again. Needs the running daemon.

    Example:
        tollway models unload smollm2
    """
    _ask(name, "unload", config, as_json=as_json)


def _ask(name: str, what: Literal["load", "unload"], config: Path | None, *, as_json: bool) -> None:
    edits.require_known(load_config(config), "models", name)
    with show.waiting(f"Loading {name}" if what == "load" else f"Waiting for {name} to end"):
        answer = reach(config).post(f"/control/models/{name}/{what}", timeout_s=_LOAD_S)
    states = msgspec.convert(answer["models"], list[State])
    own = [one for one in states if one.name == name]
    if as_json:
        show.emit(own[0] if own else None)
    else:
        _process_table(own)


def remove(name: Name, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Take a model off the list; the file stays.

    Refused while a route needs it.

    Example:
        tollway models remove smollm2
    """
    loaded = load_config(config)
    edits.require_known(loaded, "models", name)
    needed = [
        f"route {route}" for route, one in loaded.routes.items() if f"{_LOCAL}/{name}" in one.to
    ]
    edits.refuse_while("models", name, needed, hint="`tollway routes remove NAME` removes a route")
    done = edits.apply(loaded.path, edits.drop("models", name), what=f"models remove {name}")
    if not as_json:
        show.note(f"Removed the model {shown.value(name)}; {loaded.models[name].gguf} stays")
    edits.report(done, {"name": name, "removed": True}, ("models", name), as_json=as_json)
