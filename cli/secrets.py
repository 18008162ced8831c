"""`secrets`: provider keys go into the keyring or the vault, and only their names come out."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from getpass import getpass
from pathlib import Path
from typing import Annotated

import typer

from tollway.cli import complete, show
from tollway.cli.boundary import ANSWER_IS_NO
from tollway.cli.control import load_config
from tollway.cli.options import AsJson, ConfigFile
from tollway.daemon import secrets
from tollway.daemon.config.schema import SecretRef
from tollway.daemon.errors import ConfigError, SecretError
from tollway.providers.errors import GatewayError

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The secret's name, as in `keyring:NAME`.",
        autocompletion=complete.secrets,
    ),
]


class Kind(StrEnum):
    """Where `keyring:NAME` secrets can be kept."""

    KEYRING = "keyring"
    VAULT = "vault"


def set_(name: Name, as_json: AsJson = False) -> None:
    """Store a secret, read from a hidden prompt or stdin.

    Never from the command's words, which other users can see and the shell remembers. One that
    is there is replaced.

    Examples:
        tollway secrets set openai
        tollway secrets set openai < key.txt
    """
    kept = take_secret(name)
    if as_json:
        show.emit({"name": name, "backend": kept})
        return
    show.note(f"Stored in {place(kept)}; gateway.toml names it as")
    show.say(f'api_key = "keyring:{name}"')
    show.note("`tollway reload` makes a running daemon use it")


def take_secret(name: str) -> secrets.Backend:
    """Read a secret from a hidden prompt or stdin, store it, and return where.

    Raises:
        SecretError: There is no place for it, or it is none.
    """
    found = secrets.backend()
    if found.kind == "none":
        # Said before a person types a secret that has nowhere to go.
        raise _nowhere(found)
    # Not typer.prompt: it asks first and turns the echo off after, and what is typed or pasted
    # between the two is lost.
    value = getpass(f"Secret for {name}: ") if sys.stdin.isatty() else sys.stdin.read()
    return secrets.set_secret(name, value)


@contextmanager
def secret_taken(name: str, *, asks: bool) -> Iterator[secrets.Backend | None]:
    """Take a secret for the change of gateway.toml that the block makes; yield where it is.

    None without `asks`. Where the change fails, what was kept under this name is kept again.

    Raises:
        SecretError: As `take_secret`.
    """
    if not asks:
        yield None
        return
    before = None
    with suppress(SecretError):  # there is none, or `take_secret` says what is wrong
        before = secrets.resolve(SecretRef(f"keyring:{name}"), base=Path())
    kept = take_secret(name)
    try:
        yield kept
    except GatewayError:  # not an interrupt: it may come once the file names the key
        if before is None:
            secrets.remove_secret(name)
        else:
            secrets.set_secret(name, before.reveal())
        raise


def _nowhere(found: secrets.Backend) -> SecretError:
    return SecretError(
        found.why, hint="`tollway secrets backend vault` keeps secrets in an encrypted file instead"
    )


def place(found: secrets.Backend) -> str:
    """Return where secrets are kept, in words."""
    if found.kind == "vault":
        return f"the vault {found.where}"
    return f"the system's keyring ({found.where})" if found.kind == "keyring" else "no place"


def list_(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the secrets' names and where each is kept.

    With the providers that use them, and those that gateway.toml names but nobody has stored.
    Their values are never shown.

    Example:
        tollway secrets list
    """
    stored = secrets.list_secrets()
    used = _users(config)
    kind = secrets.backend().kind
    rows = [
        {
            "reference": f"keyring:{name}",
            "kept": kind if name in stored else "missing",
            "used_by": used.get(f"keyring:{name}", []),
        }
        for name in stored
    ]
    for reference, providers in used.items():
        where, _, name = reference.partition(":")
        if where != "keyring" or name not in stored:
            kept = "missing" if where == "keyring" else where
            rows.append({"reference": reference, "kept": kept, "used_by": providers})
    if as_json:
        show.emit(rows)
    elif rows:
        show.table(
            ["secret", "kept in", "used by"],
            [(str(row["reference"]), str(row["kept"]), ", ".join(row["used_by"])) for row in rows],
        )
    else:
        show.note("No secret is stored, and gateway.toml names none")


def _users(config: Path | None) -> dict[str, list[str]]:
    """Return {reference: providers}; nothing where there is no readable gateway.toml."""
    try:
        providers = load_config(config).providers
    except ConfigError:
        if config is not None:
            raise
        return {}
    found: dict[str, list[str]] = {}
    for name, provider in providers.items():
        for ref in provider.keys:
            found.setdefault(str(ref), []).append(name)
    return found


def remove(name: Name, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Forget a secret.

    Exits with 1 where there was none. A running daemon keeps it until the next reload.

    Example:
        tollway secrets remove openai
    """
    there = secrets.remove_secret(name)
    if as_json:
        show.emit({"name": name, "removed": there})
    else:
        show.note(f"Forgot `{name}`" if there else f"There was no secret `{name}`")
        if users := _users(config).get(f"keyring:{name}"):
            show.note(f"Still named by providers {', '.join(users)}")
    if not there:
        raise typer.Exit(ANSWER_IS_NO)


def backend(
    kind: Annotated[
        Kind | None, typer.Argument(help="Where to keep secrets from now on.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show or choose where secrets are kept.

    The keyring of this system where it has one; where it has none, nothing, until the vault is
    chosen: a file encrypted with a key that is in another file or in $TOLLWAY_VAULT_KEY.

    Examples:
        tollway secrets backend
        tollway secrets backend vault
    """
    found = secrets.choose_backend(kind.value) if kind else secrets.backend()
    if as_json:
        show.emit(found)
        return
    rows: list[tuple[str, show.Cell]] = [
        ("kept in", found.kind),
        ("where", found.where),
        ("why", found.why),
    ]
    if found.kind == "vault":
        rows.append(("key", secrets.vault_key()))
    show.pairs(rows)
    if found.kind == "none":
        show.note("hint: `tollway secrets backend vault` keeps secrets in an encrypted file")
