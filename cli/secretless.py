"""gateway.toml as it may be shown: without what a person wrote into it that is a secret."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tollway.daemon.config import shown
from tollway.daemon.config.load import parse
from tollway.daemon.config.values import is_secret_ref
from tollway.daemon.errors import ConfigError

# The keys that have secrets here, and those that people write who know them from elsewhere.
_KEY = re.compile(r"key|token|secret|passw|authorization|webhook", re.IGNORECASE)
# The same in a file that is no TOML: all that stands behind such a key and is no reference.
_BEHIND = re.compile(
    rf"((?:{_KEY.pattern})\w*[\"']?[ \t]*[=:][ \t]*)(?!\[?[ \t]*[\"'](?:keyring|env|file):)\S.*",
    re.IGNORECASE,
)
_HASH = "sha256:"


def without_secrets(text: str, path: Path) -> str:
    """Return a file's text to show: as it is where it is right, which has no secret, else without.

    What may be one is `***`: better hidden once too often than shown once.
    """
    try:
        parse(text, path=path)
    except ConfigError:
        return shown.masked(_hidden(text))
    return text


def _hidden(text: str) -> str:
    try:
        read = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return _BEHIND.sub(r"\1***", text)
    for secret in set(_secrets(read, "")):
        for quote in "\"'":
            text = text.replace(f"{quote}{secret}{quote}", f"{quote}***{quote}")
    return text


def _secrets(value: object, key: str) -> Iterator[str]:
    """Yield the texts below a key that are secrets, by their keys or by what they look like."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _secrets(one, name)
    elif isinstance(value, list):
        for one in value:
            yield from _secrets(one, key)
    elif isinstance(value, str) and not is_secret_ref(value) and not value.startswith(_HASH):
        login = "://" in value and "@" in value
        if _KEY.search(key) or login or shown.looks_secret(value):
            yield value
