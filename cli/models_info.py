"""`models info`: what a GGUF file is, what memory it needs, and where that would be."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from tollway.cli import complete, edits, show
from tollway.cli.boundary import UsageProblem
from tollway.cli.control import load_config
from tollway.cli.model_sources import Source, named, sources
from tollway.cli.options import AsJson, ConfigFile
from tollway.daemon.config.schema import Layers, Model
from tollway.daemon.errors import ConfigError
from tollway.providers.errors import GatewayError, LocalModelFailed
from tollway.providers.llamacpp import fit, install, probe
from tollway.providers.llamacpp.gguf import POOLINGS, ModelInfo, describe
from tollway.providers.llamacpp.gpus import gpus

Slots = Annotated[
    int | None, typer.Option("--slots", metavar="N", min=1, max=256, help="Calls at once.")
]
Context = Annotated[
    int | None,
    typer.Option("--context", metavar="TOKENS", min=1, help="Prompt and answer together."),
]
CacheKind = Annotated[
    fit.KvType | None, typer.Option("--kv-type", help="How the context is kept: q8_0 halves it.")
]
GpuLayers = Annotated[
    str | None, typer.Option("--gpu-layers", metavar="N", help="auto, all or a number.")
]


class NotRunnable(GatewayError):
    """The file is a whole one, and the llama.cpp that is installed cannot run it."""

    status = 400
    code = "model_not_runnable"


class Gpu(msgspec.Struct, frozen=True):
    """A GPU: memory in bytes; `others` is how much of it processes on it hold, None unknown."""

    name: str
    total: int
    free: int
    others: int | None = None
    busy: int | None = None  # percent


class Memory(msgspec.Struct, frozen=True):
    """What a model takes in bytes, what is free, and whether it fits; None: cannot be known.

    `ram` and `gpu` are the total by where it would be; `by` is who says what `cache` and `work`
    are: the file's header, or llama.cpp, asked with nothing loaded.
    """

    context: int
    slots: int
    kv_type: str
    weights: int
    cache: int
    work: int
    process: int
    total: int
    ram: int
    gpu: int
    gpu_layers: int
    layers: int
    free: int | None
    fits: bool | None
    by: Literal["header", "llama.cpp"] = "header"
    gpus: tuple[Gpu, ...] = ()
    problem: str = ""
    fix: str = ""
    warning: str = ""  # what of the settings does nothing with this llama.cpp


class Described(msgspec.Struct, frozen=True):
    """A GGUF file, whether registered or not."""

    path: Path
    info: ModelInfo
    memory: Memory
    name: str = ""  # as it is registered


class Inside(msgspec.Struct, frozen=True):
    """A model in a folder; bytes, `needs` with the usual context, `problem` where it is none."""

    name: str
    path: Path
    bytes: int
    architecture: str = ""
    parameters: int = 0
    quantisation: str = ""
    needs: int | None = None
    problem: str = ""


def info(  # noqa: PLR0913 - an argument is an option
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME|PATH",
            help="A model, a GGUF file, or a folder of them.",
            autocompletion=complete.entries("models"),
        ),
    ],
    *,
    context: Context = None,
    slots: Slots = None,
    kv_type: CacheKind = None,
    gpu_layers: GpuLayers = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what a GGUF file is and what memory it needs.

    Weights, context and working buffers, in RAM and on the GPU, as it is registered or as the
    options say. Nothing is loaded: llama.cpp is asked what it would take, else the file's header.
    Of a folder, or Ollama's store, each model with what it needs by its header.

    Examples:
        tollway models info smollm2
        tollway models info qwen3-8b.gguf --context 32768 --slots 4 --kv-type q8_0
    """
    path, known, name = Path(model).expanduser(), Model(gguf=Path()), ""
    said = {"context": context, "slots": slots, "kv_type": kv_type, "gpu_layers": gpu_layers}
    if path.is_dir() and not _is_registered(model, config):
        inside = [_inside(one, with_said(known, said)) for one in named(sources(path), {})]
        _print_inside(inside, as_json)
        return
    if not path.is_file():
        model = edits.own_model(model)
        loaded = load_config(config)
        if os.sep not in model:
            edits.require_known(loaded, "models", model)
            name, known = model, loaded.models[model]
            if known.gguf is None:
                raise NotRunnable(
                    f"`{model}` is run by a command, which alone knows what it needs",
                    hint="`tollway models ps` shows what it takes while it runs",
                )
            path = known.gguf
    wanted = with_said(known, said)
    path = Path(os.path.abspath(path))
    found = describe(path)
    one = Described(path, found, memory_of(name or "NAME", path, found, wanted), name)
    if as_json:
        show.emit(one)
        return
    print_described(one)
    if one.memory.warning:
        edits.warn(one.memory.warning)
    if one.memory.fix:
        edits.hint(one.memory.fix)


def _is_registered(model: str, config: Path | None) -> bool:
    """Whether a word that is a folder here is a model's name as well."""
    if os.sep in model:
        return False
    try:
        return model in load_config(config).models
    except ConfigError:  # a file or a folder can be looked at without any
        return False


def _inside(one: Source, model: Model) -> Inside:
    found = Inside(one.name, one.path, one.path.stat().st_size)
    try:
        info = describe(one.path)
    except GatewayError as fault:
        return msgspec.structs.replace(found, problem=fault.message)
    need = fit.estimate(info, fit.usable_context(info, model.context), layout_of(model))
    return Inside(
        one.name,
        one.path,
        info.file_bytes,
        info.architecture,
        info.parameters,
        info.quantisation,
        need.total,
    )


def _print_inside(found: list[Inside], as_json: bool) -> None:
    if as_json:
        show.emit(found)
        return
    numbers = [show.Column(name, number=True) for name in ("parameters", "size", "needs")]
    show.table(
        ["model", "architecture", "quantisation", *numbers, "file", "problem"],
        [
            (
                one.name,
                one.architecture,
                one.quantisation,
                show.tokens(one.parameters) if one.parameters else "",
                show.size(one.bytes),
                show.size(one.needs),
                str(one.path),
                one.problem,
            )
            for one in found
        ],
    )


def with_said(model: Model, said: Mapping[str, object]) -> Model:
    """Return a model's settings with those changed that were said; None is not said.

    Raises:
        UsageProblem: `gpu_layers` is neither auto nor all nor a number.
    """
    changes = {key: value for key, value in said.items() if value is not None}
    if isinstance(layers := changes.get("gpu_layers"), str):
        changes["gpu_layers"] = layers_said(layers)
    return msgspec.structs.replace(model, **changes)


def layers_said(said: str) -> Layers:
    """Return a number of layers, "auto" or "all".

    Raises:
        UsageProblem: It is none of these.
    """
    if said.isdecimal() and said.isascii():
        return int(said[:9])
    match said:
        case "auto" | "all":
            return said
    raise UsageProblem("`--gpu-layers`: expected auto, all or a number of layers")


def layout_of(model: Model) -> fit.Layout:
    """Return how the memory of a model with these settings is laid out."""
    on_gpu = model.gpu_layers != 0 and install.gpu() is not None
    return fit.layout(model.slots, model.kv, model.kv_type, on_gpu=on_gpu)


def memory_of(name: str, path: Path, info: ModelInfo, model: Model) -> Memory:
    """Return what a model with these settings needs, against what is free now.

    Raises:
        NotRunnable: The llama.cpp that is installed cannot run this file.
    """
    context, layout = fit.usable_context(info, model.context), layout_of(model)
    need = fit.estimate(info, context, layout)
    said = ask_llama_cpp(path, info, context, layout)
    cards = _gpus(said)
    placed = fit.place(
        info, context, layout, wanted=model.gpu_layers, free=[card.free for card in cards]
    )
    exact = not said.fault and placed.layers == 0
    unused = "", ""
    if not said.fault and not cards:
        unused = install.unused(model.gpu_layers)
    if exact:
        need = msgspec.structs.replace(need, cache=said.cache, work=sum(said.work.values()))
    ram = need.total if exact else placed.ram
    free = fit.available_memory()
    problem, fix = _verdict(
        name,
        lambda room: fit.require_room(name, info, context, room, layout),
        placed,
        free,
        cards,
    )
    return Memory(
        context=context,
        slots=layout.slots,
        kv_type=layout.kv_type,
        weights=need.weights,
        cache=need.cache,
        work=need.work,
        process=need.process,
        total=need.total,
        ram=ram,
        gpu=placed.gpu,
        gpu_layers=placed.layers,
        layers=placed.of,
        free=free,
        fits=None if free is None else not problem,
        by="llama.cpp" if exact else "header",
        gpus=cards,
        problem=problem,
        fix=fix or unused[1],
        warning=unused[0],
    )


def ask_llama_cpp(path: Path, info: ModelInfo, context: int, layout: fit.Layout) -> probe.Answer:
    """Return what llama.cpp says of a file; its fault is "missing" and the like where it can't.

    Raises:
        NotRunnable: It can, and says that it cannot run this file.
    """
    pooling = POOLINGS.index(info.pooling) if info.pooling and info.embeds else None
    said = probe.ask(probe.Question(str(path), context, layout, pooling=pooling, whole=info.whole))
    if said.fault == "architecture":
        raise NotRunnable(
            f"`{path.name}`: {said.message}",
            hint="A newer release of Tollway may bring one that does; other engines can be run"
            " with `command`",
        )
    if said.fault == "file":
        raise NotRunnable(
            f"`{path.name}`: {said.message}",
            hint="It may be damaged, or made by a tool that llama.cpp does not follow",
        )
    return said


def _gpus(said: probe.Answer) -> tuple[Gpu, ...]:
    """Return the GPUs that would be used: those of the build, else those that the driver has."""
    cards = gpus()
    if said.fault == "missing" or not said.devices:
        return tuple(
            Gpu(
                card.name,
                card.total,
                card.free,
                sum(user.bytes or 0 for user in card.users),
                card.busy,
            )
            for card in cards
        )
    found = [one for one in said.devices if one.kind in {"gpu", "shared"}]
    known = {card.name: card for card in cards}
    return tuple(
        Gpu(
            one.description,
            one.total,
            one.free,
            sum(user.bytes or 0 for user in card.users)
            if (card := known.get(one.description))
            else None,
            card.busy if card else None,
        )
        for one in found
    )


def _verdict(
    name: str,
    require: Callable[[int], object],
    placed: fit.Placed,
    free: int | None,
    cards: tuple[Gpu, ...],
) -> tuple[str, str]:
    """Return why the model does not fit now and what to do, "" and "" where it does."""
    if free is None:
        return "", ""
    room = sum(card.free for card in cards)
    if placed.layers and placed.gpu > room:
        return (
            f"`{name}` would take {fit.size(placed.gpu)} of the GPU's memory with"
            f" {show.counted(placed.layers, 'layer')} on it, and {fit.size(room)} are free",
            f'`models.{name}.gpu_layers = "auto"` takes as many as fit',
        )
    if placed.layers:
        if placed.ram <= free:
            return "", ""
        return (
            f"`{name}` needs {fit.size(placed.ram)} of memory beside the GPU's, and"
            f" {fit.size(free)} are free",
            "A smaller quantisation, context or number of slots needs less",
        )
    try:
        require(free)
    except LocalModelFailed as error:
        return error.message, error.hint
    return "", ""


def print_described(one: Described) -> None:
    """Print a model for people."""
    info, memory = one.info, one.memory
    slots = fit.shared(info, memory.slots)
    kind = "" if memory.kv_type == "f16" else f" in {memory.kv_type}"
    need = (
        f"{show.size(memory.total)}: weights {show.size(memory.weights)}, context of "
        f"{memory.context} tokens{slots}{kind} {show.size(memory.cache)}, "
        f"work {show.size(memory.work + memory.process)}"
    )
    rows: list[tuple[str, show.Cell]] = [
        ("file", str(one.path)),
        ("model", info.name or one.name),
        ("architecture", f"{info.architecture}, {show.counted(info.layers, 'layer')}"),
        ("parameters", show.tokens(info.parameters)),
        ("quantisation", f"{info.quantisation}, {show.size(info.file_bytes)}"),
        ("trained on", f"{info.context_trained} tokens of context"),
        ("chat", "has a chat template" if info.chat_template else "no chat template"),
    ]
    if info.pooling:
        rows.append(("embeddings", f"pooled by {info.pooling}"))
    rows += [("memory", need), ("runs on", _place(memory))]
    if memory.fits is not None:
        word: show.Colour = "green" if memory.fits else "red"
        verdict = show.Painted("fits" if memory.fits else "does not fit", word)
        rows.append(("", [verdict, f": {show.size(memory.free)} free"]))
    for card in memory.gpus:
        rows.append(("gpu", _card(card)))
    show.pairs(rows)


def _place(memory: Memory) -> str:
    if not memory.gpu_layers:
        without = ", for no layer fits on the GPU" if memory.gpus else ""
        return f"the CPU: {show.size(memory.ram)} of RAM{without}"
    return (
        f"the GPU: {memory.gpu_layers} of {show.counted(memory.layers, 'layer')},"
        f" {show.size(memory.gpu)} there"
        f" and {show.size(memory.ram)} of RAM"
    )


def _card(card: Gpu) -> str:
    told = f"{card.name}: {show.size(card.free)} of {show.size(card.total)} free"
    if card.others:
        told += f", {show.size(card.others)} held by other processes"
    return told if card.busy is None else f"{told}, {card.busy}% busy"


def warn_of_build(memory: Memory) -> None:
    """Warn where the installed llama.cpp cannot use the GPU that is here, or is asked for."""
    if memory.warning:
        edits.warn(memory.warning)
        if not memory.problem:  # whose fix was told
            edits.hint(memory.fix)
    elif install.installed() and not memory.gpus and (kind := install.gpu()):
        edits.warn(f"llama-cpp-python is built without a GPU, and this machine has one ({kind})")
        edits.hint(install.install_line())
