"""Provider keys: where they are kept, and how they come out without being seen.

gateway.toml holds references only: keyring:NAME, env:NAME, file:PATH. What `keyring:` means on
this box is the system's keyring or, chosen openly where there is none, the vault.
"""

import contextlib
import json
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, SupportsIndex, TypeVar

import msgspec

from tollway.daemon.config import files
from tollway.daemon.config.lines import At
from tollway.daemon.config.load import places
from tollway.daemon.config.paths import data_folder, private_folder
from tollway.daemon.config.schema import Config, SecretRef
from tollway.daemon.errors import ConfigError, SecretError
from tollway.daemon.vault import Vault, read_private

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

T = TypeVar("T")

SERVICE = "tollway"  # under which the system's keyring files our secrets
WAIT_S = 15.0  # for the keyring: a person may have to type the password that unlocks it

_HIDDEN = "***"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/+-]{0,99}")
_LONGEST = 16 * 2**10
# Whose secrets are in the clear, or that ask on a terminal which the daemon does not have.
_UNSAFE = "keyrings.alt"
_EMPTY = ("keyring.backends.fail", "keyring.backends.null")


class Secret:
    """A text that only `reveal` gives. All other ways of looking at it give `***`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret itself, to be sent and never kept."""
        return self._value

    def __repr__(self) -> str:
        return _HIDDEN

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(_HIDDEN, spec)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[type["Secret"], tuple[str]]:
        return (Secret, (_HIDDEN,))

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: object) -> "Secret":
        return self


class Backend(msgspec.Struct, frozen=True):
    """What `keyring:NAME` means on this box, and why."""

    kind: Literal["keyring", "vault", "none"]
    where: str  # the keyring's name or the vault's file
    why: str  # "chosen", or what was found


def resolve(ref: SecretRef, *, base: Path, wait_s: float = WAIT_S) -> Secret:
    """Return the secret that a reference names.

    Args:
        ref: keyring:NAME, env:NAME or file:PATH.
        base: The folder in which a relative path begins: gateway.toml's.
        wait_s: How long the system's keyring may take.

    Raises:
        SecretError: It is missing, empty or unreadable; the message names the reference, and the
            hint what to do.
    """
    place, _, name = ref.partition(":")
    if place == "env":
        value = os.environ.get(name)
        hint = (
            f"Set it where the daemon is started, or run `tollway secrets set {name}` and write"
            f' `api_key = "keyring:{name}"`'
        )
        missing = f"The environment variable `{name}` is not set"
    elif place == "file":
        value = read_private(base / os.path.expanduser(name), what=f"the secret `{ref}`")
        hint = missing = ""
    else:
        value = _stored(ref, name, wait_s)
        hint = f"`tollway secrets set {name}` stores it"
        missing = f"There is no secret `{name}` in {_place(backend(wait_s=wait_s))}"
    if value is None:
        raise SecretError(missing, hint=hint)
    return Secret(_clean(value, f"The secret `{ref}`"))


def fetch(
    config: Config, *, shown: Path | None = None
) -> tuple[dict[str, tuple[str, ...]], list[SecretError]]:
    """Return every provider's secrets that can be had, and an error for each that cannot.

    A provider without one has an empty tuple. Each error's message begins with the file, the line
    and the key, as a fault of the file itself would; `shown` is the name used for the file.
    """
    found: dict[str, tuple[str, ...]] = {}
    missing: list[tuple[At, SecretError]] = []
    for name, provider in config.providers.items():
        had = []
        for number, ref in enumerate(provider.keys):
            at: At = ("providers", name, "api_key")
            if provider.api_keys:
                at = ("providers", name, "api_keys", number)
            try:
                had.append(resolve(ref, base=config.path.parent).reveal())
            except SecretError as error:
                missing.append((at, error))
        found[name] = tuple(had)
    said = places(shown or config.path, [at for at, _ in missing]) if missing else []
    return found, [
        SecretError(f"{place}: {error.message}", hint=error.hint)
        for place, (_, error) in zip(said, missing, strict=True)
    ]


def demand(config: Config) -> dict[str, tuple[str, ...]]:
    """Return every provider's secrets, an empty tuple for a provider without one.

    Raises:
        SecretError: Some cannot be had; the message has a line for each.
    """
    found, missing = fetch(config)
    if missing:
        hints = dict.fromkeys(error.hint for error in missing if error.hint)
        raise SecretError("\n".join(error.message for error in missing), hint="\n".join(hints))
    return found


def set_secret(name: str, value: str, *, wait_s: float = WAIT_S) -> Backend:
    """Keep a secret under a name, in the place of an older one; return where it is now.

    Raises:
        SecretError: The name or the value cannot be, or there is no place to keep it.
    """
    _check_name(name)
    value = _clean(value, f"The value for `{name}`")
    found = _usable(wait_s)
    if found.kind == "vault":
        _vault().set(name, value)
    else:
        _ask(lambda ring: ring.set_password(SERVICE, name, value), wait_s)
        _note(name, there=True)
    return found


def list_secrets() -> list[str]:
    """Return the names of the secrets that are kept here, sorted, and never their values.

    Of the system's keyring, which cannot be listed, those that `set_secret` stored.

    Raises:
        SecretError: The vault or the list cannot be read.
    """
    if _choice() == "vault":
        return _vault().names()
    return sorted(_noted())


def remove_secret(name: str, *, wait_s: float = WAIT_S) -> bool:
    """Forget a secret; return whether there was one.

    Raises:
        SecretError: The place where it is kept cannot be opened.
    """
    _check_name(name)
    if _usable(wait_s).kind == "vault":
        return _vault().remove(name)
    there = _ask(lambda ring: _delete(ring, name), wait_s)
    _note(name, there=False)
    return there


def backend(*, wait_s: float = WAIT_S) -> Backend:
    """Return what `keyring:NAME` means now: what was chosen, else the system's keyring."""
    choice = _choice()
    if choice == "vault":
        return Backend("vault", str(vault_path()), "chosen")
    try:
        name = _ask(lambda ring: f"{type(ring).__module__}.{type(ring).__qualname__}", wait_s)
    except SecretError as fault:
        return Backend("none", "", fault.message)
    return Backend("keyring", name, "chosen" if choice else "this system has one")


def choose_backend(kind: Literal["keyring", "vault"], *, wait_s: float = WAIT_S) -> Backend:
    """Choose where `keyring:NAME` secrets are kept from now on; return it.

    Secrets that are elsewhere stay there and are not found any more until they are set again.

    Raises:
        SecretError: There is no keyring, or the vault cannot be made or opened.
    """
    if kind == "vault":
        _vault().create()
    else:
        _ask(lambda ring: None, wait_s)
    _write(_choice_path(), kind.encode())
    return backend(wait_s=wait_s)


def vault_path() -> Path:
    """Return where the vault is, or would be."""
    return data_folder() / "vault.json"


def vault_key_path() -> Path:
    """Return where the vault's key is, or would be unless $TOLLWAY_VAULT_KEY has it."""
    return data_folder() / "vault.key"


def vault_key() -> str:
    """Return where the vault's key comes from, in words; never the key.

    Raises:
        SecretError: The vault cannot be read, which alone says it.
    """
    return _vault().where_key()


def _vault() -> Vault:
    return Vault(vault_path(), vault_key_path())


def _choice_path() -> Path:
    return data_folder() / "secrets.backend"


def _choice() -> str | None:
    try:
        said = _choice_path().read_text().strip()
    except (FileNotFoundError, NotADirectoryError):  # the latter is said where one is to be made
        return None
    except (OSError, UnicodeDecodeError) as fault:
        raise SecretError(
            f"`{_choice_path()}` cannot be read", hint="`tollway secrets backend` writes it again"
        ) from fault
    if said not in {"keyring", "vault"}:
        raise SecretError(
            f"`{_choice_path()}` says neither keyring nor vault",
            hint="`tollway secrets backend` writes it again",
        )
    return said


def _usable(wait_s: float) -> Backend:
    found = backend(wait_s=wait_s)
    if found.kind == "none":
        raise SecretError(found.why, hint=_NO_KEYRING)
    return found


_NO_KEYRING = (
    "`tollway secrets backend vault` keeps secrets in an encrypted file instead; "
    "env:NAME and file:PATH need neither"
)


def _place(found: Backend) -> str:
    return f"the vault `{found.where}`" if found.kind == "vault" else "the system's keyring"


def _stored(ref: SecretRef, name: str, wait_s: float) -> str | None:
    if _usable_for(ref, wait_s).kind == "vault":
        return _vault().get(name)
    return _ask(lambda ring: ring.get_password(SERVICE, name), wait_s)


def _usable_for(ref: SecretRef, wait_s: float) -> Backend:
    try:
        return _usable(wait_s)
    except SecretError as fault:
        raise SecretError(f"The secret `{ref}`: {fault.message}", hint=fault.hint) from fault


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise SecretError(
            "A secret's name has letters, digits and . _ @ / + - and at most 100 of them",
            hint="`tollway secrets set openai` names one for the provider `openai`",
        )


def _clean(value: str, what: str) -> str:
    """Return a secret without the line end that files and pipes put after it."""
    value = value.strip()
    if not value:
        raise SecretError(f"{what} is empty", hint="Store it again")
    if value.startswith("{"):  # a file of credentials, as Google gives them: on one line
        with contextlib.suppress(ValueError):
            value = json.dumps(json.loads(value))
    if len(value) > _LONGEST or not value.isascii() or not value.isprintable():
        raise SecretError(
            f"{what} has a line break or another character that no key has", hint="Store it again"
        )
    return value


def _ask(question: "Callable[[KeyringBackend], T]", wait_s: float) -> T:
    """Ask the system's keyring, for so long; a desktop that hangs must not hang us.

    The thread that hangs is left behind: it ends with the process.
    """
    answers: list[T] = []
    faults: list[SecretError] = []

    def ask() -> None:
        try:
            answers.append(question(_keyring()))
        except SecretError as fault:
            faults.append(fault)
        except BaseException as fault:  # noqa: BLE001 - backends raise what they like
            # Only the kind: its words may hold the secret that was to be stored.
            faults.append(_unanswered(f"failed with {type(fault).__name__}"))

    thread = threading.Thread(target=ask, name="keyring", daemon=True)
    thread.start()
    thread.join(wait_s)
    if answers:
        return answers[0]
    if faults:
        raise faults[0]
    raise _unanswered(f"did not answer within {wait_s:g} s")


def _unanswered(how: str) -> SecretError:
    return SecretError(
        f"The system's keyring {how}",
        hint=f"Unlock it, or see `tollway doctor`; {_NO_KEYRING}",
    )


def _keyring() -> "KeyringBackend":
    import keyring  # noqa: PLC0415 - 110 ms, and it looks for backends everywhere

    ring = keyring.get_keyring()
    # A chain goes on to the next when one fails: maybe to one that keeps secrets in the clear.
    chain = getattr(ring, "backends", None)
    rings = list(chain) if chain is not None else [ring]
    for one in rings:
        if not type(one).__module__.startswith((*_EMPTY, _UNSAFE)):
            return one
    if any(type(one).__module__.startswith(_UNSAFE) for one in rings):
        raise SecretError("The only keyring here is one of keyrings.alt, which is not safe")
    raise SecretError("This system has no keyring")


def _delete(ring: "KeyringBackend", name: str) -> bool:
    if ring.get_password(SERVICE, name) is None:
        return False
    ring.delete_password(SERVICE, name)
    return True


def _names_path() -> Path:
    return data_folder() / "secrets.names"


def _noted() -> set[str]:
    try:
        return set(_names_path().read_text().split())
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except (OSError, UnicodeDecodeError) as fault:
        raise SecretError(
            f"`{_names_path()}` cannot be read", hint="It lists names only: it may be removed"
        ) from fault


def _note(name: str, *, there: bool) -> None:
    try:
        private_folder(data_folder())
        with files.locked(data_folder() / "secrets.lock"):
            names = _noted() | {name} if there else _noted() - {name}
            files.replace(_names_path(), "".join(f"{one}\n" for one in sorted(names)).encode())
    except ConfigError as fault:
        _untold(fault)


def _write(path: Path, data: bytes) -> None:
    try:
        private_folder(path.parent)
        files.replace(path, data + b"\n")
    except ConfigError as fault:
        _untold(fault)


def _untold(fault: ConfigError) -> NoReturn:
    raise SecretError(fault.message, hint=fault.hint) from fault
