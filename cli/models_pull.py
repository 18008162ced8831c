"""`models pull`: fetch a GGUF file from Hugging Face, and register it."""

import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tollway.cli import edits, show
from tollway.cli.boundary import UsageProblem
from tollway.cli.control import load_config
from tollway.cli.model_sources import Source, named, sources
from tollway.cli.models_add import (
    Free,
    NameSaid,
    PriceIn,
    PriceOut,
    files_of,
    look_at,
    price_said,
    register,
)
from tollway.cli.models_info import CacheKind, Context, GpuLayers, Slots
from tollway.cli.options import AsJson, ConfigFile
from tollway.daemon.config.schema import Config
from tollway.providers.llamacpp import fit, hub

_USUAL = Path("~/models")


class Pulled(msgspec.Struct, frozen=True):
    """What was fetched; `files` in their order, the first stands for a split model."""

    repo: str
    quantisation: str
    files: tuple[Path, ...]
    bytes: int


def pull(  # noqa: PLR0913 - an argument is an option
    model: Annotated[
        str, typer.Argument(metavar="ORG/REPO[:QUANT]", help="A repository of Hugging Face.")
    ],
    *,
    listed: Annotated[
        bool, typer.Option("--list", help="Show what there is to choose; fetch nothing.")
    ] = False,
    to: Annotated[
        Path, typer.Option("--to", metavar="FOLDER", help="Where it is kept, in ORG/REPO there.")
    ] = _USUAL,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="NAME", help="A branch, tag or commit.")
    ] = None,
    unregistered: Annotated[
        bool, typer.Option("--only-fetch", help="Leave gateway.toml as it is.")
    ] = False,
    name: NameSaid = None,
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
    """Fetch a GGUF file from Hugging Face, and register it.

    Of several quantisations, Q4_K_M is taken unless another is named. What broke off goes on
    where it did, and every file is compared with its checksum. `HF_TOKEN` opens gated models,
    `HF_ENDPOINT` names a mirror.

    Examples:
        tollway models pull ggml-org/SmolLM3-3B-GGUF
        tollway models pull unsloth/Qwen3-8B-GGUF:Q8_0 --context 16384 --slots 4 --free
    """
    repo, wanted = hub.parse(model)
    found = _ask(repo, revision)
    if listed:
        _show(found, as_json=as_json)
        return
    settings: dict[str, object] = {
        "context": context,
        "slots": slots,
        "kv_type": kv_type,
        "gpu_layers": gpu_layers,
        "price": price_said(price_input, price_output, free=free),
    }
    loaded = None if unregistered else load_config(config)
    folder = _folder(to, repo, loaded, name)
    pulled = _fetch(repo, _choose(repo, found, wanted), folder, revision)
    if not as_json:
        show.note(f"Fetched {show.size(pulled.bytes)} to {pulled.files[0]}")
    if loaded is not None:
        source = _source(loaded, pulled.files[0], name)
        register(loaded, [look_at(loaded, source, settings)], as_json=as_json)
    elif as_json:
        show.emit(pulled)


def _ask(repo: str, revision: str | None) -> list[hub.Choice]:
    with show.waiting(f"Asking for {repo}"):
        return hub.choices(repo, revision)


def _source(loaded: Config, path: Path, name: str | None) -> Source:
    (found,) = sources(path)
    if name:
        return msgspec.structs.replace(found, name=name)
    # Often another quantisation of what is there already.
    return named([found], files_of(loaded))[0]


def _folder(to: Path, repo: str, loaded: Config | None, name: str | None) -> Path:
    """Return where a model is fetched to, if it may then be registered by this name.

    Raises:
        GatewayError: It is another's, or no name. Said before the gigabytes come, not behind them.
    """
    folder = Path(os.path.abspath(to.expanduser())) / repo
    if loaded is not None and name:
        known = loaded.models.get(name)
        if known is None or known.gguf is None or folder not in known.gguf.parents:
            edits.require_new(loaded, "models", name, hint="`--name` says another")
    return folder


def _fetch(repo: str, choice: hub.Choice, folder: Path, revision: str | None) -> Pulled:
    """Fetch a model into the repository's folder, with a bar on a terminal."""
    _warn_of_size(choice)
    try:
        with show.progress(f"{repo} {choice.quantisation}".strip()) as progress:
            files = hub.fetch(repo, choice, folder, progress, revision=revision)
    except KeyboardInterrupt:
        show.note("Stopped; the same command goes on from here")
        raise
    return Pulled(repo, choice.quantisation, tuple(files), choice.size)


def _show(found: list[hub.Choice], *, as_json: bool) -> None:
    if as_json:
        show.emit([{**msgspec.to_builtins(one), "size": one.size} for one in found])
        return
    if not found:
        show.note("There are no GGUF files in it")
        return
    numbers = [show.Column(name, number=True) for name in ("size", "files")]
    show.table(
        ["quantisation", *numbers, "name"],
        [(one.quantisation, show.size(one.size), str(len(one.files)), one.name) for one in found],
    )


def _choose(repo: str, found: list[hub.Choice], wanted: str) -> hub.Choice:
    """Return the model to fetch, asking a person where it is not clear which.

    Raises:
        UsageProblem: It is not clear, and there is nobody to ask.
        HubProblem: There is none, or none of this name.
    """
    if not found:
        raise hub.HubProblem(
            f"`{repo}` has no GGUF files",
            hint="Somebody may have converted it: look for the model's name with GGUF",
        )
    if choice := hub.pick(found, wanted):
        return choice
    names = ", ".join(f"{one.quantisation or one.name} ({show.size(one.size)})" for one in found)
    if wanted:
        raise hub.HubProblem(f"`{repo}` has no `{wanted}`", hint=f"It has {names}")
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageProblem(f"`{repo}` has several models: {names}", hint=f"Say `{repo}:NAME`")
    for number, one in enumerate(found, start=1):
        show.note(f"{number:3}  {one.quantisation:10} {show.size(one.size):>10}  {one.name}")
    print("Which? ", end="", file=sys.stderr, flush=True)
    said = sys.stdin.readline().strip()
    if said.isdecimal() and said.isascii() and 1 <= int(said) <= len(found):
        return found[int(said) - 1]
    raise UsageProblem(f"Expected a number from 1 to {len(found)}")


def _warn_of_size(choice: hub.Choice) -> None:
    total = fit.total_memory()
    if total is not None and choice.size > total:
        show.note(
            [
                show.Painted("warning", "yellow"),
                f": it takes {show.size(choice.size)} and this machine has {show.size(total)} of"
                " memory: it can run here only if a GPU holds the rest",
            ]
        )
