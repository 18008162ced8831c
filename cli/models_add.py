"""`models add`: register GGUF files, having looked at them and at what they need."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from tollway.cli import edits, show
from tollway.cli.boundary import ANSWER_IS_NO, UsageProblem
from tollway.cli.control import load_config
from tollway.cli.model_sources import (
    NoModels,
    Source,
    Store,
    has_tag,
    known_as,
    named,
    sources,
    stores,
)
from tollway.cli.models_info import (
    CacheKind,
    Context,
    Described,
    GpuLayers,
    Slots,
    layout_of,
    memory_of,
    print_described,
    warn_of_build,
    with_said,
)
from tollway.cli.options import AsJson, ConfigFile
from tollway.daemon.config import units
from tollway.daemon.config.schema import Config, Key, Member, Model, Server, Team
from tollway.daemon.pricing import local_said
from tollway.providers.errors import GatewayError
from tollway.providers.llamacpp import fit, install
from tollway.providers.llamacpp.gguf import ModelInfo, describe
from tollway.providers.llamacpp.gpus import gpus

if TYPE_CHECKING:
    from tomlkit.items import InlineTable

LOCAL = "local"

PriceIn = Annotated[
    str | None, typer.Option("--price-input", metavar="USD", help="For a million tokens.")
]
PriceOut = Annotated[
    str | None, typer.Option("--price-output", metavar="USD", help="For a million tokens.")
]
Free = Annotated[bool, typer.Option("--free", help="Its calls cost nothing.")]
NameSaid = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Else taken from the file's name.")
]


class Skipped(msgspec.Struct, frozen=True):
    """A file that was not registered, and why."""

    path: Path
    problem: str
    called: str  # where it comes from


class Found(msgspec.Struct, frozen=True):
    """A model that can be registered: its table's keys, and itself as it will be."""

    described: Described
    values: dict[str, object]
    fewer: bool = False  # slots than a model has by itself, for there is no room for them

    @property
    def name(self) -> str:
        """What it is called."""
        return self.described.name


def add(  # noqa: PLR0913 - an argument is an option
    path: Annotated[
        Path | None,
        typer.Argument(
            help="A GGUF file, of a split one its first part; a folder of them; or with --from a"
            " model as that program calls it."
        ),
    ] = None,
    *,
    name: NameSaid = None,
    store: Annotated[Store | None, typer.Option("--from", help="Whose models.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that are found, unasked.")] = False,
    context: Context = None,
    slots: Slots = None,
    kv_type: CacheKind = None,
    gpu_layers: GpuLayers = None,
    price_input: PriceIn = None,
    price_output: PriceOut = None,
    free: Free = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Register a GGUF file, to be called as `local/NAME`.

    Or several: of a folder, of Ollama's store, of LM Studio's. Nothing is copied. Each is looked
    at first: what it is, what memory it needs, whether it fits. What is cut short, no model,
    unknown to llama.cpp or larger than all of this machine's memory is refused. Added again, the
    same file keeps its name and changes what is named. It is loaded by its first call.

    Examples:
        tollway models add ~/models/SmolLM2-135M-Instruct.Q4_1.gguf --name smollm2 --free
        tollway models add qwen.gguf --context 16384 --slots 4 --price-input 0.1 --price-output 0.4
        tollway models add llama3:8b --from ollama --free
        tollway models add --from ollama --all
    """
    loaded = load_config(config)
    said = {
        "context": context,
        "slots": slots,
        "kv_type": kv_type,
        "gpu_layers": gpu_layers,
        "price": price_said(price_input, price_output, free=free),
    }
    chosen = _chosen(path, store, files_of(loaded), every=every)
    if name and len(chosen) > 1:
        raise UsageProblem("`--name` is for one model", hint="Leave it out, or name one file")
    if name:
        chosen = [msgspec.structs.replace(chosen[0], name=name)]
    if len(chosen) == 1:
        register(loaded, [look_at(loaded, chosen[0], said)], as_json=as_json)
        return
    good, skipped = _each(loaded, chosen, said)
    if good:
        register(loaded, good, skipped, as_json=as_json)
    for one in skipped:
        # A store's files have names that nobody knows.
        told = one.called in one.problem
        edits.warn(f"Left out{'' if told else f' `{one.called}`'}: {one.problem}")
    if skipped:
        raise typer.Exit(ANSWER_IS_NO)


def files_of(config: Config) -> dict[str, Path | None]:
    """Return the file of each model that is registered, None for a command's."""
    return {name: model.gguf for name, model in config.models.items()}


_STORES: dict[Store, str] = {"ollama": "Ollama", "lm-studio": "LM Studio"}


def _everything(path: Path | None, store: Store | None) -> list[Source]:
    if path is not None and (store is None or path.expanduser().exists()):
        return sources(Path(os.path.abspath(path.expanduser())))
    if store is None:
        raise UsageProblem(
            "Which file or folder?", hint="`--from ollama` and `--from lm-studio` find their models"
        )
    places = stores(store, Path.home(), os.environ)
    if not places:
        raise NoModels(
            f"There are no models of {_STORES[store]} in the usual places",
            hint="Say the folder instead: `tollway models add FOLDER`",
        )
    found = [source for place in places for source in sources(place)]
    if path is None:
        return found
    if called := [one for one in found if one.is_called(str(path))]:
        return called
    listed = store == "ollama" and any(has_tag(place, str(path)) for place in places)
    raise NoModels(
        f"Ollama's `{path}` is no GGUF file: it is in the cloud, kept in another form, or not whole"
        if listed
        else f"{_STORES[store]} has no model `{path}`",
        hint=f"It has {_listed(found)}",
    )


def _listed(found: list[Source]) -> str:
    return ", ".join(f"`{one.called}`" for one in found[:8]) + (", ..." if len(found) > 8 else "")


def _chosen(
    path: Path | None, store: Store | None, files: Mapping[str, Path | None], *, every: bool
) -> list[Source]:
    """Return the models that are meant, with their names."""
    found = _everything(path, store)
    if path is not None and len(found) == 1:
        # Another file of that name may be the same model, moved: a person decides.
        kept = known_as(found[0], files) or found[0].name
        return [msgspec.structs.replace(found[0], name=kept)]
    return _some(named(found, files), store, every=every)


def _some(found: list[Source], store: Store | None, *, every: bool) -> list[Source]:
    """Return all of them, or those that a person picks.

    Raises:
        UsageProblem: There are several and nobody to ask.
    """
    if every or len(found) == 1:
        return found
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        which = f"one: `tollway models add NAME --from {store}`" if store else "one file"
        raise UsageProblem(
            f"There are {len(found)} models, and nobody to ask which: {_listed(found)}",
            hint=f"`--all` takes all of them; or name {which}",
        )
    for number, one in enumerate(found, start=1):
        show.note(f"{number:3}  {one.name}  ({one.called}, {show.size(one.path.stat().st_size)})")
    print("Which? Numbers, or all: ", end="", file=sys.stderr, flush=True)
    return _picked(found, sys.stdin.readline())


def _picked(found: list[Source], said: str) -> list[Source]:
    words = said.replace(",", " ").split()
    if words == ["all"]:
        return found
    numbers = [int(word) for word in words if word.isdecimal() and word.isascii()]
    if not words or len(numbers) != len(words) or not all(1 <= n <= len(found) for n in numbers):
        raise UsageProblem(f"Expected numbers from 1 to {len(found)}, or all")
    return [found[number - 1] for number in dict.fromkeys(numbers)]


def _each(
    loaded: Config, chosen: list[Source], said: Mapping[str, object]
) -> tuple[list[Found], list[Skipped]]:
    found, skipped = [], []
    for one in chosen:
        try:
            found.append(look_at(loaded, one, said))
        except GatewayError as error:
            skipped.append(Skipped(one.path, error.message, one.called))
    return found, skipped


def look_at(loaded: Config, source: Source, said: Mapping[str, object]) -> Found:
    """Return what would be registered; `said` are keys of [models.NAME], None for not said.

    Raises:
        GatewayError: The file is no model, cannot run here, or its name is taken.
    """
    path, name = source.path, source.name
    info = describe(path)
    if not name:
        raise UsageProblem(f"`{path.name}` gives no name", hint="`--name NAME` says one")
    known = loaded.models.get(name)
    if known is None or known.gguf != path:
        edits.require_new(loaded, "models", name, hint="`--name` gives this one another")
    settings = {key: value for key, value in said.items() if key != "price"}
    wanted = with_said(known or Model(gguf=path), settings)
    values = {key: getattr(wanted, key) for key, value in settings.items() if value is not None}
    before = wanted
    if known is None and said.get("slots") is None:
        wanted = with_room(info, wanted)
        if wanted != before:
            values["slots"] = wanted.slots
    if said.get("price") is not None:
        values["price"] = said["price"]
    if known is None:
        values = {"gguf": str(path), **values}
    _require_possible(name, info, wanted, explicit=said.get("context") is not None)
    described = Described(path, info, memory_of(name, path, info, wanted), name)
    return Found(described, values, wanted != before)


def with_room(info: ModelInfo, model: Model) -> Model:
    """Return a model with its slots, or with half or a quarter of them where it would crowd.

    Where it is for a GPU, all of its layers should go there; else it should take three quarters
    of the machine's memory at most.
    """
    while model.slots > 1 and not info.embeds and not _has_room(info, model):
        model = msgspec.structs.replace(model, slots=model.slots // 2)
    return model


def _has_room(info: ModelInfo, model: Model) -> bool:
    context, layout = fit.usable_context(info, model.context), layout_of(model)
    if model.gpu_layers != 0 and install.gpu():
        cards = [card.total for card in gpus()]
        placed = fit.place(info, context, layout, free=cards)
        return not cards or placed.layers == placed.of
    total = fit.total_memory()
    return total is None or 4 * fit.estimate(info, context, layout).total <= 3 * total


def register(
    loaded: Config, found: list[Found], skipped: list[Skipped] | None = None, *, as_json: bool
) -> None:
    """Write the models into gateway.toml and say what was done; `skipped` is only told.

    Raises:
        GatewayError: The file could not be changed, or the daemon did not take it up.
    """
    change = edits.put("models", found[0].name, found[0].values)
    for one in found[1:]:
        change = edits.both(change, edits.put("models", one.name, one.values))
    names = " ".join(one.name for one in found)
    done = edits.apply(loaded.path, change, what=f"models add {names}")
    facts = [_facts(done.config, one.described) for one in found]
    if not as_json:
        for one in found:
            _tell(done, one.described)
            if one.fewer:
                slots = done.config.models[one.name].slots
                calls = show.counted(slots, "call")
                edits.warn(f"It answers {calls} at once: more would take too much memory")
                edits.hint("`--slots N` says another number; a smaller `--context` makes room")
    told = facts[0] if skipped is None and len(found) == 1 else {"models": facts}
    if skipped is not None:
        told["skipped"] = msgspec.to_builtins(skipped, enc_hook=str)
    edits.report(done, told, ("models", found[0].name), as_json=as_json)
    if not as_json and done.refused is None:
        if any(local_said(done.config, one.name) is None for one in found):
            edits.hint("Without a `price` its calls are refused while a budget applies: `--free`")
        first = found[0]
        if first.described.info.embeds:
            show.note(f"Next: ask `/v1/embeddings` for `{LOCAL}/{first.name}`")
        else:
            show.note(f"Next: `tollway chat {LOCAL}/{first.name} hello`")


def _facts(config: Config, one: Described) -> dict[str, object]:
    return {
        **msgspec.to_builtins(one, enc_hook=str),
        "llama_cpp_installed": install.installed(),
        "refused_unpriced": _refused_unpriced(config, one.name),
    }


def _tell(done: edits.Done, one: Described) -> None:
    model = done.config.models[one.name]
    print_described(one)
    show.note(f"Registered as `{LOCAL}/{one.name}`" if done.changed else "It is so already")
    _advise(one, model, unpriced=_refused_unpriced(done.config, one.name))


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
    context, layout = fit.usable_context(info, model.context), layout_of(model)
    need = fit.estimate(info, context, layout).total
    if need <= total:
        return
    smaller = fit.smaller_context(info, context, total, layout)
    raise GatewayError(
        f"`{name}` needs {show.size(need)} of memory with a context of {context} tokens, and this"
        f" machine has {show.size(total)} in all",
        hint=f"`--context {smaller}` would fit" if smaller else "Use a smaller quantisation of it",
    )


def price_said(
    price_input: str | None, price_output: str | None, *, free: bool
) -> "Literal['free'] | InlineTable | None":
    """Return a price as gateway.toml has it, None for none said.

    Raises:
        UsageProblem: Half a price, or one that is no number, or both a price and `free`.
    """
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


def _refused_unpriced(config: Config, name: str) -> bool:
    """Whether some calls are refused because the model has no price and a budget applies."""
    holders: list[Server | Team | Member | Key] = [config.server, *config.teams.values()]
    holders += [*config.users.values(), *config.projects.values(), *config.keys.values()]
    return local_said(config, name) is None and any(one.budget for one in holders)


def _advise(one: Described, model: Model, *, unpriced: bool) -> None:
    if one.memory.problem:
        edits.warn(f"It does not fit now: {one.memory.problem}")
        edits.hint(one.memory.fix)
    if one.memory.context < model.context:
        trained = one.memory.context == one.info.context_trained
        why = "the model was trained on no more" if trained else "it reads a text in one step"
        edits.warn(f"The context is {one.memory.context} tokens: {why}")
    if not one.info.chat_template and not one.info.embeds:
        edits.warn("It has no chat template: it answers completions, and conversations perhaps not")
    if unpriced:
        edits.warn(f"`{one.name}` has no price: calls that a budget applies to will be refused")
        edits.hint(
            f"`tollway models add {one.path} --name {one.name} --free` makes it cost nothing, "
            "`--price-input USD --price-output USD` prices it"
        )
    warn_of_build(one.memory)
    if not install.installed():
        edits.warn("llama-cpp-python is not installed, so it cannot be loaded yet")
        show.note(install.install_help())
