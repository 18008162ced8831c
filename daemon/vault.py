"""An encrypted file of secrets, for boxes that have no keyring.

Each secret is sealed with AES-256-GCM under its name, so that one can't be put in another's
place. Names are not secret and stand in clear. The key is 32 random bytes in a file with mode
0600 beside the vault, or is made from the text in $TOLLWAY_VAULT_KEY; which of them is said in
the vault. Whoever reads both the vault and its key reads the secrets: the file guards backups,
copies and the eyes of others, not against the owner's own account.
"""

import base64
import hashlib
import os
import secrets as random
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from tollway.daemon.config import files
from tollway.daemon.config.paths import private_folder
from tollway.daemon.errors import ConfigError, SecretError

VARIABLE = "TOLLWAY_VAULT_KEY"
_SHORTEST = 16  # characters of the variable: no one's pet's name
_KEY_BYTES = 32
_NONCE_BYTES = 12
_PROOF = "tollway vault"  # sealed in every vault, so that a wrong key is told from a lost secret


class _Sealed(msgspec.Struct, frozen=True):
    nonce: bytes  # JSON has it as base64
    text: bytes


class _File(msgspec.Struct):
    key: Literal["file", "env"]
    salt: bytes
    proof: _Sealed
    secrets: dict[str, _Sealed] = {}
    version: Literal[1] = 1


class Vault:
    """The vault in a file, and where its key is. Nothing is read before it is asked for."""

    def __init__(self, path: Path, key_path: Path) -> None:
        self.path = path
        self.key_path = key_path

    def exists(self) -> bool:
        """Whether there is a vault."""
        return self.path.exists()

    def create(self) -> None:
        """Make an empty vault, and its key file where $TOLLWAY_VAULT_KEY is not set.

        A vault that is there already stays, if its key opens it.

        Raises:
            SecretError: It cannot be written, or the one that is there cannot be opened.
        """
        with self._turn():
            if self.exists():
                self._opened(self._read())
                return
            kind: Literal["file", "env"] = "env" if os.environ.get(VARIABLE) else "file"
            if kind == "file" and not self.key_path.exists():
                key = base64.urlsafe_b64encode(random.token_bytes(_KEY_BYTES))
                files.create(self.key_path, key + b"\n")
            salt = random.token_bytes(16)
            key = self._key(kind, salt)
            self._write(_File(key=kind, salt=salt, proof=_seal(key, "", _PROOF)))

    def where_key(self) -> str:
        """Return where the key is, in words.

        Raises:
            SecretError: The vault cannot be read.
        """
        return f"${VARIABLE}" if self._read().key == "env" else str(self.key_path)

    def names(self) -> list[str]:
        """Return the secrets' names, sorted; no key is needed.

        Raises:
            SecretError: The vault cannot be read.
        """
        return sorted(self._read().secrets)

    def get(self, name: str) -> str | None:
        """Return a secret, or None where there is none of this name.

        Raises:
            SecretError: The vault cannot be read, or its key is missing or another.
        """
        content = self._read()
        sealed = content.secrets.get(name)
        return None if sealed is None else _unseal(self._opened(content), name, sealed, self.path)

    def set(self, name: str, value: str) -> None:
        """Keep a secret, in the place of an older one of its name.

        Raises:
            SecretError: The vault cannot be read or written, or its key is missing or another.
        """
        with self._turn():
            content = self._read()
            content.secrets[name] = _seal(self._opened(content), name, value)
            self._write(content)

    def remove(self, name: str) -> bool:
        """Forget a secret; return whether there was one.

        Raises:
            SecretError: The vault cannot be read or written.
        """
        with self._turn():
            content = self._read()
            found = content.secrets.pop(name, None)
            if found:
                self._write(content)
        return found is not None

    @contextmanager
    def _turn(self) -> Iterator[None]:
        try:
            private_folder(self.path.parent)
            with files.locked(self.path.with_suffix(".lock")):
                yield
        except ConfigError as fault:
            raise SecretError(fault.message, hint=fault.hint) from fault

    def _read(self) -> _File:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=_File)
        except (FileNotFoundError, NotADirectoryError) as fault:
            raise SecretError(
                f"There is no vault at `{self.path}`",
                hint="`tollway secrets backend vault` makes one",
            ) from fault
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as fault:
            raise SecretError(
                f"The vault `{self.path}` cannot be read: {type(fault).__name__}",
                hint="Restore it from a backup, or move it away and store the secrets again",
            ) from None

    def _write(self, content: _File) -> None:
        files.replace(self.path, msgspec.json.encode(content))

    def _opened(self, content: _File) -> bytes:
        key = self._key(content.key, content.salt)
        _unseal(key, "", content.proof, self.path)
        return key

    def _key(self, kind: Literal["file", "env"], salt: bytes) -> bytes:
        return self._env_key(salt) if kind == "env" else self._file_key()

    def _env_key(self, salt: bytes) -> bytes:
        said = os.environ.get(VARIABLE, "")
        if not said:
            raise SecretError(
                f"The vault `{self.path}` opens with ${VARIABLE}, which is not set",
                hint="Set it for the daemon and for this command alike",
            )
        if len(said) < _SHORTEST:
            raise SecretError(
                f"${VARIABLE} is shorter than {_SHORTEST} characters",
                hint="`openssl rand -base64 32` makes a good one",
            )
        return hashlib.scrypt(said.encode(errors="surrogateescape"), salt=salt, n=2**14, r=8, p=1)[
            :_KEY_BYTES
        ]

    def _file_key(self) -> bytes:
        text = read_private(self.key_path, what="the vault's key")
        try:
            key = base64.urlsafe_b64decode(text.strip())
        except ValueError:
            key = b""
        if len(key) != _KEY_BYTES:
            raise SecretError(
                f"`{self.key_path}` holds no key of a vault", hint="Restore it from a backup"
            )
        return key


def _seal(key: bytes, name: str, value: str) -> _Sealed:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - 35 ms

    nonce = random.token_bytes(_NONCE_BYTES)
    return _Sealed(nonce, AESGCM(key).encrypt(nonce, value.encode(), name.encode()))


def _unseal(key: bytes, name: str, sealed: _Sealed, path: Path) -> str:
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    try:
        return AESGCM(key).decrypt(sealed.nonce, sealed.text, name.encode()).decode()
    except (InvalidTag, ValueError):
        raise SecretError(
            f"The vault `{path}` does not open with this key, or was changed",
            hint="Give it the key that it was made with, or restore it from a backup",
        ) from None


def read_private(path: Path, *, what: str) -> str:
    """Return the text of a file that nobody else may read.

    Raises:
        SecretError: It is missing, no plain file, too large, no text, or open to others; `what`
            names it.
    """
    try:
        # Not waiting for a writer, should it be a pipe.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise SecretError(f"`{path}`, {what}, is no plain file")
            if found.st_mode & 0o077:
                raise SecretError(
                    f"`{path}`, {what}, can be read by others", hint=f"`chmod 600 {path}` closes it"
                )
            data = file.read(_MOST_BYTES + 1)
    except OSError as fault:
        raise SecretError(
            f"`{path}`, {what}, cannot be read: {fault.strerror}", hint="Check the path"
        ) from fault
    if len(data) > _MOST_BYTES:
        raise SecretError(f"`{path}`, {what}, is larger than {_MOST_BYTES >> 10} KiB")
    try:
        return data.decode()
    except UnicodeDecodeError:
        # Not `from fault`: that error carries the secret.
        raise SecretError(f"`{path}`, {what}, is no text") from None


_MOST_BYTES = 64 * 2**10
