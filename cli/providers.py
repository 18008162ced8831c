"""`providers`: who answers, and with which credential."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tollway.cli import complete, edits, show
from tollway.cli.boundary import ANSWER_IS_NO, UsageProblem
from tollway.cli.budget_prices import new_without_price
from tollway.cli.control import Control, convert, load_config
from tollway.cli.health import Provider as Seen
from tollway.cli.health import word
from tollway.cli.options import AsJson, ConfigFile
from tollway.cli.secrets import place, secret_taken
from tollway.cli.upstreams import Reached, reach_some
from tollway.daemon import secrets
from tollway.daemon.config import check, check_routes, shown, support
from tollway.daemon.config.lines import At
from tollway.daemon.config.load import SECTIONS
from tollway.daemon.config.schema import Config, Provider
from tollway.daemon.config.values import Reading
from tollway.daemon.errors import SecretError
from tollway.providers.catalog import KINDS
from tollway.providers.errors import GatewayError

ASK = "-"
_FEW = 8  # models that are named beside their number

Name = Annotated[
    str, typer.Argument(help="The provider's name.", autocompletion=complete.entries("providers"))
]
New = Annotated[str, typer.Argument(metavar="NAME", help="The provider's name.")]
References = Annotated[
    list[str] | None,
    typer.Option(
        "--api-key",
        metavar="REF",
        help="keyring:NAME, env:NAME or file:PATH; `-` asks for the key and stores it. Given"
        " several times they are a pool.",
    ),
]
Auth = Annotated[
    str | None,
    typer.Option("--auth", metavar="WHOSE", help="`caller`: callers bring their credential."),
]
Serves = Annotated[
    list[str] | None,
    typer.Option("--serves", metavar="GLOB", help="Bare model names; may be repeated."),
]


class Shown(msgspec.Struct, frozen=True):
    """A provider. `key_found` is None where it has none; `problem` says why one is not found.

    `api_keys` are the names of its keys where it has several; `key_found` is then of all of them.
    """

    name: str
    kind: str
    base_url: str
    api_key: str | None
    auth: str
    key_found: bool | None
    problem: str
    serves: tuple[str, ...]
    api_keys: tuple[str, ...] = ()
    health: Seen | None = None  # as a running daemon sees it


class Kind(msgspec.Struct, frozen=True):
    """A kind of provider, as the catalog has it."""

    kind: str
    base_url: str | None
    auth: str
    priced: bool
    serves: tuple[str, ...]


KindOption = typer.Option(
    "--kind", metavar="KIND", help="`providers kinds` lists.", autocompletion=complete.kinds
)
BaseUrl = Annotated[
    str | None, typer.Option("--base-url", metavar="URL", help="Else the kind's own.")
]
Proxy = Annotated[
    str | None, typer.Option("--proxy", metavar="URL", help="Through which it is reached.")
]
CaFile = Annotated[
    Path | None, typer.Option("--ca-file", metavar="PATH", help="Whom to trust besides.")
]


def add(  # noqa: PLR0913 - an argument is an option
    name: New,
    *,
    kind: Annotated[str, KindOption],
    base_url: BaseUrl = None,
    api_key: References = None,
    auth: Auth = None,
    serves: Serves = None,
    proxy: Proxy = None,
    ca_file: CaFile = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Add a provider, and store its key where it needs one.

    The key itself is asked for, or read from stdin; it goes to the keyring or the vault and
    never into gateway.toml. One that is stored under this name already is used.

    Examples:
        tollway providers add openai --kind openai
        tollway providers add box2 --kind vllm --base-url http://127.0.0.1:8000/v1
        tollway providers add groq --kind groq < key.txt
        tollway providers add pool --kind openai --api-key env:ONE --api-key env:TWO
        tollway providers add claude --kind anthropic --auth caller
    """
    loaded = load_config(config)
    edits.require_new(loaded, "providers", name, hint=f"`tollway providers set {name}` changes it")
    asks = api_key == [ASK]
    said: dict[str, object] = {
        "kind": kind,
        "base_url": base_url,
        **keys_of([] if asks else api_key or []),
        "auth": auth,
        "serves": serves or None,
        "proxy": proxy,
        "ca_file": str(ca_file.absolute()) if ca_file else None,
    }
    values = {key: value for key, value in said.items() if value is not None}
    require_valid(loaded, name, values)
    if not api_key and KINDS[kind].auth == "bearer" and auth != "caller":
        asks = name not in secrets.list_secrets()
        values["api_key"] = f"keyring:{name}"
    elif asks:
        values["api_key"] = f"keyring:{name}"
    change = edits.put("providers", name, values, new=True)
    with secret_taken(name, asks=asks) as kept:
        done = edits.apply(loaded.path, change, what=f"providers add {name}")
    if not as_json:
        if kept:
            show.note(f"The key is stored in {place(kept)}")
        show.note(f"Added the provider `{name}`; `tollway providers test {name}` asks it")
    unpriced = new_without_price(done.config, [f"{name}/*"], as_json=as_json)
    facts = {"name": name, **_facts(values), "unpriced": bool(unpriced)}
    edits.report(done, facts, ("providers", name), as_json=as_json)


def _facts(values: dict[str, object]) -> dict[str, object]:
    said = {key: values[key] for key in ("kind", "api_key", "api_keys") if key in values}
    return {"api_key": None} | said


def keys_of(references: list[str]) -> dict[str, object]:
    """Return the key or the pool of them, as a provider's table has them."""
    if len(references) < 2:
        return {"api_key": references[0]} if references else {}
    return {"api_keys": references}


def require_valid(config: Config, name: str, values: dict[str, object]) -> None:
    """Return when a provider may be so; before a person is asked for its key.

    Raises:
        UsageProblem: It may not.
    """
    at: At = ("providers", name)
    kind = str(values["kind"])
    if refused := support.refusal((*at, "kind"), kind):
        raise UsageProblem(f"`--kind`: {refused}", hint="`tollway providers kinds` lists those")
    reading = Reading(folder=config.path.parent, home=Path.home())
    provider = reading.struct(Provider, values, at)
    if provider is not None:
        wanted = msgspec.structs.replace(config, providers={**config.providers, name: provider})
        names = {section: list(getattr(wanted, section, ())) for section in _NAMED}
        check.check(wanted, names, reading.wrong)
    if reading.problems:
        lines = [f"`{_option(at)}`: {what}" for at, what in reading.problems]
        raise UsageProblem("\n".join(lines), hint=_hint([at for at, _ in reading.problems]))


_NAMED = tuple(section for section in SECTIONS if section not in ("server", "ledger", "telemetry"))


def _hint(wrong: Sequence[At]) -> str:
    if any("api_key" in at or "api_keys" in at for at in wrong):
        return "`--api-key -` asks for the key and stores it"
    kinds = any("kind" in at or "base_url" in at for at in wrong)
    return "`tollway providers kinds` lists the kinds, with their addresses" if kinds else ""


def _option(at: At) -> str:
    if len(at) < 3:
        return "--base-url"
    return "--api-key" if at[2] == "api_keys" else f"--{str(at[2]).replace('_', '-')}"


def list_(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the providers, and whether their keys are there.

    Nothing is asked of them: `tollway providers test NAME` does that. How they do is what a
    running daemon has seen. Keys in the environment are looked for in this shell's, which need
    not be the daemon's.

    Example:
        tollway providers list
    """
    loaded = load_config(config)
    seen = _seen(loaded)
    rows = [
        msgspec.structs.replace(_shown(loaded, name, one), health=seen.get(name))
        for name, one in loaded.providers.items()
    ]
    if as_json:
        show.emit(rows)
        return
    if not rows:
        show.note("There are no providers: `tollway providers add NAME --kind KIND` adds one")
        return
    show.table(
        ["provider", "kind", "url", "key", "found", "health", "serves"],
        [
            (
                row.name,
                row.kind,
                row.base_url,
                ", ".join(row.api_keys)
                or row.api_key
                or ("the caller's own" if row.auth == "caller" else ""),
                _found(row.key_found),
                word(row.health) if row.health else "",
                ", ".join(row.serves),
            )
            for row in rows
        ],
    )
    for row in rows:
        if row.problem:
            edits.warn(f"{row.name}: {row.problem}")


def _seen(config: Config) -> dict[str, Seen]:
    """Return how each provider does, as a running daemon sees it; nothing where none runs."""
    try:
        said = Control(config.admin_socket).get("/control/status")
    except GatewayError:
        return {}
    found = convert(said.get("providers", []), list[Seen])
    return {one.provider: one for one in found}


def _found(there: bool | None) -> show.Cell:
    if there is None:
        return ""
    return show.Painted("yes", "green") if there else show.Painted("no", "red")


def _shown(config: Config, name: str, one: Provider) -> Shown:
    problems = []
    for key in one.keys:
        try:
            secrets.resolve(key, base=config.path.parent)
        except SecretError as error:
            problems.append(". ".join(part for part in (error.message, error.hint) if part))
    row = KINDS[one.kind]
    return Shown(
        name=name,
        kind=one.kind,
        base_url=one.base_url or row.base_url or "",
        api_key=one.api_key,
        auth=one.auth,
        key_found=not problems if one.keys else None,
        problem="; ".join(problems),
        serves=row.serves if one.serves is None else one.serves,
        api_keys=tuple(map(str, one.api_keys)),
    )


def test(
    name: Name,
    *,
    list_models: Annotated[
        bool, typer.Option("--models", help="Print the models alone, a line each.")
    ] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Ask a provider for its models, which costs nothing.

    Shows the status, which models it lists and how long that took. One with several keys is
    asked with each. Exits with 1 where it does not answer or refuses a key.

    Examples:
        tollway providers test openai
        tollway providers test openai --models
    """
    loaded = load_config(config)
    edits.require_known(loaded, "providers", name)
    with show.waiting(f"Asking {name}"):
        every = reach_some(loaded, {name: loaded.providers[name]})
    if as_json:
        show.emit(every if len(every) > 1 else every[0])
    elif list_models:
        for one in dict.fromkeys(model for found in every for model in found.names):
            show.say(f"{name}/{one}")
        _faults(every)
    else:
        for number, found in enumerate(every):
            if number:
                show.say()
            _told(found)
    sys.stdout.flush()
    if any(found.state == "fail" for found in every):
        raise typer.Exit(ANSWER_IS_NO)


def _faults(every: Sequence[Reached]) -> None:
    for found in every:
        if found.state != "ok":
            edits.warn(found.detail)
            edits.hint(found.fix)


def _models(found: Reached) -> str:
    """Return how many models it lists, and the first few by name."""
    if found.models is None:
        return ""
    few = ", ".join(found.names[:_FEW])
    more = f" ...; `tollway providers test {found.provider} --models` lists them"
    return f"{found.models}{f': {few}' if few else ''}{more if found.models > _FEW else ''}"


def _told(found: Reached) -> None:
    colours: dict[str, show.Colour] = {"ok": "green", "warn": "yellow", "fail": "red"}
    show.pairs(
        [
            ("provider", found.provider),
            *((("key", found.key),) if found.key else ()),
            ("state", show.Painted(found.state, colours[found.state])),
            ("status", str(found.status or "")),
            ("models", _models(found)),
            ("latency", show.duration(found.seconds)),
            ("detail", found.detail),
        ]
    )
    if found.fix:
        edits.hint(found.fix)


def remove(name: Name, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Remove a provider that no route needs.

    Its key stays in the keyring until `tollway secrets remove`.

    Example:
        tollway providers remove box2
    """
    loaded = load_config(config)
    edits.require_known(loaded, "providers", name)
    needed = [
        f"route {route}"
        for route, one in loaded.routes.items()
        if any(target.partition("/")[0] == name for target in one.every)
    ]
    edits.refuse_while(
        "providers", name, needed, hint="`tollway routes remove NAME` removes a route"
    )
    references = loaded.providers[name].keys
    done = edits.apply(loaded.path, edits.drop("providers", name), what=f"providers remove {name}")
    if not as_json:
        show.note(f"Removed the provider {shown.value(name)}")
        others = [key for one in done.config.providers.values() for key in one.keys]
        for reference in references:
            if reference.startswith("keyring:") and reference not in others:
                secret = reference.removeprefix("keyring:")
                show.note(f"Its key is still stored: `tollway secrets remove {secret}` forgets it")
    edits.report(done, {"name": name, "removed": True}, ("providers", name), as_json=as_json)


def kinds(as_json: AsJson = False) -> None:
    """List the kinds of providers there are.

    With the address each has by itself, whether it takes a key, whether Tollway brings its
    prices, and the bare model names that go to it.

    Example:
        tollway providers kinds
    """
    rows = [
        Kind(name, one.base_url, one.auth, one.prices is not None, one.serves)
        for name, one in KINDS.items()
        if name != check_routes.LOCAL
    ]
    if as_json:
        show.emit(rows)
        return
    show.table(
        ["kind", "key", "prices", "url", "serves"],
        [
            (
                row.kind,
                "needed" if row.auth == "bearer" else row.auth,
                "bundled" if row.priced else "",
                row.base_url or "",
                ", ".join(row.serves),
            )
            for row in rows
        ],
    )
