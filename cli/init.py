"""`init`: asks little, finds much, writes a first gateway.toml."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import tomli_w
import typer

from tollway.cli import complete, edits, show
from tollway.cli.boundary import UsageProblem
from tollway.cli.discover import (
    SERVER_PORTS,
    Gpu,
    LocalServer,
    ModelFile,
    gpus,
    local_servers,
    model_files,
    model_folders,
    provider_keys,
    server_ports,
)
from tollway.cli.options import AsJson, Budgets, ConfigFile, Yes
from tollway.daemon import secrets
from tollway.daemon.config import edit, shown, units
from tollway.daemon.config.load import parse
from tollway.daemon.config.paths import NAME, config_folder
from tollway.daemon.config.schema import Config
from tollway.daemon.errors import ConfigError
from tollway.providers.llamacpp.install import install_line, installed

Force = Annotated[bool, typer.Option("--force", help="Replace a gateway.toml that is there.")]
Keys = Annotated[
    bool,
    typer.Option(
        "--keys/--single-user",
        help="Callers need keys (others use this gateway too), or nobody does (only you do).",
    ),
]

At = Annotated[
    list[str] | None,
    typer.Option(
        "--at",
        metavar="KIND=PORT",
        help="A model server of this box at another port: vllm=8001; may be repeated.",
        autocompletion=complete.among(*(f"{kind}=" for kind in SERVER_PORTS.values())),
    ),
]

_PATIENCE_S = 5.0  # with a server that somebody said is there
_HEADING = """\
Tollway's configuration. `tollway config check` says whether it is right, `tollway reload` makes
a running daemon read it. Secrets are kept elsewhere and only named here."""


class Found(msgspec.Struct, frozen=True):
    """What is on this box. `keys` maps environment variables to kinds of provider."""

    keys: dict[str, str]
    servers: list[LocalServer]
    models: list[ModelFile]
    gpus: list[Gpu]
    llama_cpp: bool
    broken: Sequence[ModelFile] = ()


class Choices(msgspec.Struct, frozen=True):
    """What of it to use. Keys that are not moved are named by their variables."""

    move: Literal["keyring", "vault", "no"]
    servers: bool
    models: bool
    keys: bool
    budgets: tuple[str, ...] = ()  # of the box, as "20/month"


class Written(msgspec.Struct, frozen=True):
    """What `init` did. `providers` says for each where its key or its server is."""

    path: Path
    replaced: Path | None
    single_user: bool
    providers: dict[str, str]
    models: dict[str, Path]
    gpus: list[Gpu]
    next: str
    skipped: Sequence[str] = ()  # GGUF files that cannot be served, and why


def init(  # noqa: PLR0913 - an argument is an option
    *,
    config: ConfigFile = None,
    yes: Yes = False,
    keys: Keys = False,
    budget: Budgets = None,
    at: At = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a first gateway.toml from what is found on this box.

    It looks for provider keys in the environment, for Ollama, vLLM, LM Studio and llama-server
    on loopback (--at says where else one is), for GGUF files in the usual folders, and for a
    GPU. It asks at most four questions, none with --yes. A key is never written into the file.
    With --budget all calls together cost at most that: answers get shorter near the cap, then
    calls are refused; servers and models of this box then have the price "free".

    Examples:
        tollway init
        tollway init --budget 20/month
        tollway init --yes --config ./gateway.toml
        tollway init --yes --at vllm=8001
    """
    path = place(config)
    if path.exists() and not force:
        raise ConfigError(
            f"`{path}` is there already",
            hint="`--force` keeps it under another name and writes a new one",
        )
    said = _ports(at)
    with show.waiting("Looking around"):
        found = look(os.environ, said)
        store = secrets.backend().kind
    chosen = _taken(found, store, keys) if yes or as_json else _asked(found, store, keys)
    chosen = msgspec.structs.replace(chosen, budgets=_budgets(budget))
    references = _references(found, chosen)
    tables = document(found, chosen, references)
    parse(tomli_w.dumps(tables), path=path)  # before anything is moved out of the way
    replaced = _set_aside(path) if path.exists() else None
    written = edit.write_new(path, tables, heading=_HEADING)
    _report(_summary(written, found, replaced, explicit=config is not None), found, as_json=as_json)
    for port, kind in said.items():
        if not any(one.base_url == f"http://127.0.0.1:{port}/v1" for one in found.servers):
            show.note(f"Nothing lists its models at 127.0.0.1:{port}: {kind} is not in the file")


def _ports(said: Sequence[str] | None) -> dict[int, str]:
    found = {}
    for text in said or ():
        kind, _, port = text.partition("=")
        if kind not in SERVER_PORTS.values():
            near = shown.meant(kind, SERVER_PORTS.values())
            known = ", ".join(SERVER_PORTS.values())
            raise UsageProblem(
                f"`--at {text}`: no such server is looked for{near}", hint=f"Choose of {known}"
            )
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise UsageProblem(f"`--at {text}` names no port", hint=f"Such as `--at {kind}=8001`")
        found[int(port)] = kind
    return found


def _budgets(said: Sequence[str] | None) -> tuple[str, ...]:
    for text in said or ():
        try:
            amount, period = units.budget_parts(text)
            units.nanousd(amount)
            units.period(period)
        except units.WrongUnit as fault:
            raise UsageProblem(f"`--budget`: {fault}") from None
    return tuple(said or ())


def place(config: Path | None) -> Path:
    """Return where a first gateway.toml goes: the one that is named, else the user's own."""
    said = config or Path(os.environ.get("TOLLWAY_CONFIG") or config_folder() / NAME)
    return Path(os.path.abspath(said.expanduser()))


def _set_aside(path: Path) -> Path:
    for number in range(1, 1000):
        aside = path.with_name(f"{path.name}.{number}.old")
        if not aside.exists():
            return path.rename(aside)
    raise ConfigError(f"`{path.parent}` has a thousand old versions", hint="Remove some")


def look(environ: Mapping[str, str], said: Mapping[int, str]) -> Found:
    """Return what is on this box; takes about a second. `said` are ports of servers, by kind."""
    home = Path.home()
    ports = server_ports(said, environ)
    files = model_files(model_folders(home, environ))
    return Found(
        keys=provider_keys(environ),
        servers=local_servers(ports, timeout_s=_PATIENCE_S) if said else local_servers(ports),
        models=[one for one in files if not one.problem],
        broken=[one for one in files if one.problem],
        gpus=gpus(),
        llama_cpp=installed(),
    )


def document(found: Found, chosen: Choices, references: Mapping[str, str]) -> dict[str, object]:
    """Return gateway.toml as TOML's types; `references` says for each kind where its key is."""
    providers: dict[str, dict[str, object]] = {
        kind: {"kind": kind, "api_key": references[kind]} for kind in found.keys.values()
    }
    if chosen.servers:
        for server in found.servers:
            name = _free(server.kind, providers)
            providers[name] = {"kind": server.kind, "base_url": server.base_url}
    tables: dict[str, dict[str, object]] = {
        "server": {"listen": "127.0.0.1:4141"} | ({} if chosen.keys else {"single_user": True})
    }
    if providers:
        tables["providers"] = dict(providers)
    free = {"price": "free"} if chosen.budgets else {}
    if chosen.models and found.models:
        tables["models"] = {model.name: {"gguf": str(model.path)} | free for model in found.models}
    if chosen.budgets:
        tables["server"] |= {"budget": [_clamping(text) for text in chosen.budgets]}
        own = [name for name, table in providers.items() if "base_url" in table]
        # What has no price is refused where a budget applies, and these cost nothing by the token.
        tables |= {"prices": {f"{name}/*": "free" for name in own}} if own else {}
    return dict(tables)


def _clamping(text: str) -> dict[str, object]:
    amount, period = units.budget_parts(text)
    usd = int(amount) if amount == int(amount) else amount
    return {"usd": usd, "per": period, "at": "clamp"}


def _free(name: str, taken: Mapping[str, object]) -> str:
    others = (f"{name}-{number}" for number in range(2, len(taken) + 3))
    return next(one for one in (name, *others) if one not in taken)


def _taken(found: Found, store: str, keys: bool) -> Choices:
    """Return what is chosen where nobody is asked."""
    return Choices(
        # The vault is a choice of its own: it is never made without being asked for.
        move="keyring" if store == "keyring" else "vault" if store == "vault" else "no",
        servers=True,
        models=found.llama_cpp,
        keys=keys,
    )


def _asked(found: Found, store: str, keys: bool) -> Choices:
    return Choices(
        move=_move(found, store),
        servers=bool(found.servers) and _yes(_servers_question(found.servers)),
        models=bool(found.models) and found.llama_cpp and _yes(_models_question(found.models)),
        keys=keys or _yes("Will others use this gateway too (each then needs a key)?", no=True),
    )


def _move(found: Found, store: str) -> Literal["keyring", "vault", "no"]:
    if not found.keys:
        return "no"
    names = ", ".join(found.keys)
    if store == "keyring":
        return "keyring" if _yes(f"Copy {names} into this system's keyring?") else "no"
    where = f"an encrypted file ({secrets.vault_path()})"
    asked = (
        f"Copy {names} into {where}?"
        if store == "vault"
        else (f"This system has no keyring. Copy {names} into {where}?")
    )
    return "vault" if _yes(asked) else "no"


def _servers_question(servers: Sequence[LocalServer]) -> str:
    return f"Use {', '.join(f'{one.kind} at {one.base_url}' for one in servers)}?"


def _models_question(models: Sequence[ModelFile]) -> str:
    names = ", ".join(f"{one.name} ({show.size(one.bytes)})" for one in models)
    return f"Serve these GGUF files: {names}?"


def _yes(question: str, *, no: bool = False) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageProblem(
            f"There is no terminal to ask at: {question}",
            hint="`tollway init --yes` asks nothing and takes what is found; with `--keys`"
            " callers need keys, else only you may call",
        )
    # Not typer.confirm, which writes to stdout: that is for data.
    while True:
        show.ask(f"{question} {'[y/N]' if no else '[Y/n]'}")
        line = sys.stdin.readline()
        answer = line.strip().lower()
        if not line:
            raise typer.Abort
        if answer in ("", "y", "yes", "n", "no"):
            return answer.startswith("y") or (not answer and not no)


def _references(found: Found, chosen: Choices) -> dict[str, str]:
    """Return for each kind where its key is, having stored it where that was chosen."""
    if chosen.move == "no":
        return {kind: f"env:{name}" for name, kind in found.keys.items()}
    if found.keys and secrets.backend().kind != chosen.move:
        secrets.choose_backend(chosen.move)
    for name, kind in found.keys.items():
        secrets.set_secret(kind, os.environ[name])
    return {kind: f"keyring:{kind}" for kind in found.keys.values()}


def _summary(written: Config, found: Found, replaced: Path | None, *, explicit: bool) -> Written:
    option = f" --config {shlex.quote(str(written.path))}" if explicit else ""
    anything = written.providers or written.models
    return Written(
        path=written.path,
        replaced=replaced,
        single_user=written.server.single_user,
        providers={
            name: ", ".join(one.keys) or str(one.base_url)
            for name, one in written.providers.items()
        },
        models={name: one.gguf for name, one in written.models.items() if one.gguf},
        gpus=found.gpus,
        next=f"tollway up{option}" if anything else f"tollway models add PATH.gguf{option}",
        skipped=[f"{one.problem} ({one.path.parent})" for one in found.broken],
    )


def _report(done: Written, found: Found, *, as_json: bool) -> None:
    if as_json:
        show.emit(done)
        return
    show.pairs(
        [
            ("wrote", show.place(done.path)),
            ("callers", "only you, without a key" if done.single_user else "need a key"),
            ("providers", _block(done.providers)),
            ("models", _block(done.models)),
            ("gpu", "\n".join(gpu.name for gpu in done.gpus)),
        ]
    )
    for line in done.skipped:
        edits.warn(f"Left out: {line}")
    if done.replaced:
        show.note(f"The file that was there is now {done.replaced}")
    if found.models and not found.llama_cpp:
        here = show.counted(len(found.models), "GGUF file is", "GGUF files are")
        show.note(f"{here} here; to serve them needs llama-cpp-python:")
        show.note(f"  {install_line()}")
    if any(reference.startswith("env:") for reference in done.providers.values()):
        show.note("Keys named as env:NAME must be in the daemon's environment when it starts")
    show.note(f"next: {done.next}")
    if not (done.providers or done.models):
        show.note("  or: tollway providers add NAME --kind KIND")


def _block(rows: Mapping[str, object]) -> str:
    return "\n".join(f"{name}  {value}" for name, value in rows.items())
