"""`providers set`: change where a provider is and with which keys it is asked."""

import tomllib
from typing import Annotated

import typer

from tollway.cli import edits, show
from tollway.cli.boundary import UsageProblem
from tollway.cli.budget_prices import new_without_price
from tollway.cli.control import load_config
from tollway.cli.members import chosen
from tollway.cli.options import AsJson, ConfigFile
from tollway.cli.providers import (
    ASK,
    Auth,
    BaseUrl,
    CaFile,
    KindOption,
    Name,
    Proxy,
    References,
    Serves,
    keys_of,
    require_valid,
)
from tollway.cli.secrets import place, secret_taken
from tollway.daemon.config.schema import Config
from tollway.daemon.secrets import Backend

_NoBaseUrl = Annotated[bool, typer.Option("--no-base-url", help="It is at its kind's own.")]
_NoApiKey = Annotated[bool, typer.Option("--no-api-key", help="It is asked with none.")]
_NoServes = Annotated[bool, typer.Option("--no-serves", help="It answers to its kind's names.")]
_NoProxy = Annotated[bool, typer.Option("--no-proxy", help="It is reached directly.")]
_NoCaFile = Annotated[bool, typer.Option("--no-ca-file", help="Those whom the system trusts.")]


def set_(  # noqa: PLR0913 - an argument is an option
    name: Name,
    *,
    kind: Annotated[str | None, KindOption] = None,
    base_url: BaseUrl = None,
    no_base_url: _NoBaseUrl = False,
    api_key: References = None,
    no_api_key: _NoApiKey = False,
    auth: Auth = None,
    serves: Serves = None,
    no_serves: _NoServes = False,
    proxy: Proxy = None,
    no_proxy: _NoProxy = False,
    ca_file: CaFile = None,
    no_ca_file: _NoCaFile = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Change a provider: what is named is replaced.

    The rest stays as it is, budgets and all other settings of gateway.toml too. A new key takes
    the place of all that it had.

    Examples:
        tollway providers set openai --api-key -
        tollway providers set box2 --base-url http://10.0.0.7:8000/v1
    """
    loaded = load_config(config)
    add = f"tollway providers add {name} --kind KIND"
    edits.require_known(loaded, "providers", name, create=add)
    asks = api_key == [ASK]
    keys = keys_of([f"keyring:{name}"] if asks else api_key or [])
    values: dict[str, object] = {
        **({"kind": kind} if kind else {}),
        **chosen(base_url, no_base_url, "base-url"),
        **({"api_key": None, "api_keys": None} if chosen(keys, no_api_key, "api-key") else {}),
        **keys,
        **({"auth": auth} if auth else {}),
        **chosen(serves, no_serves, "serves"),
        **chosen(proxy, no_proxy, "proxy"),
        **chosen(str(ca_file.absolute()) if ca_file else None, no_ca_file, "ca-file"),
    }
    if not values:
        raise UsageProblem(
            "Nothing to change was named", hint="`tollway providers set --help` lists what can be"
        )
    wanted = _table(loaded, name) | values
    require_valid(loaded, name, {key: one for key, one in wanted.items() if one is not None})
    change = edits.put("providers", name, values)
    with secret_taken(name, asks=asks) as kept:
        done = edits.apply(loaded.path, change, what=f"providers set {name}")
    if not as_json:
        _tell(name, done, kept)
    if kind:
        new_without_price(done.config, [f"{name}/*"], as_json=as_json)
    edits.report(done, _facts(name, done, kept), ("providers", name), as_json=as_json)


def _tell(name: str, done: edits.Done, kept: Backend | None) -> None:
    if kept:
        show.note(f"The key is stored in {place(kept)}")
    changed = done.changed or kept
    show.note(
        f"Changed the provider `{name}`" if changed else f"The provider `{name}` is so already"
    )


def _facts(name: str, done: edits.Done, kept: Backend | None) -> dict[str, object]:
    now = done.config.providers[name]
    return {
        "name": name,
        "kind": now.kind,
        "base_url": now.base_url,
        "auth": now.auth,
        "api_key": now.api_key,
        "api_keys": now.api_keys,
        "serves": now.serves,
        "key_stored": bool(kept),
    }


def _table(config: Config, name: str) -> dict[str, object]:
    """Return a provider as the file has it, which may say less than what is in force."""
    written = tomllib.loads(config.path.read_text("utf-8"))
    found: dict[str, object] = written["providers"][name]
    return found
