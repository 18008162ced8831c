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
_TEXT = re.compile(r'"""[\s\S]*?"""|' + r"'''[\s\S]*?'''|" + r'"(?:\\.|[^"\\\n])*"|' + r"'[^'\n]*'")
_PIECE = re.compile(rf"#[^\n]*|{_TEXT.pattern}")
# In a file that is no TOML: a list, or else the rest of the line, behind such a key.
_BEHIND = re.compile(
    rf"((?:{_KEY.pattern})\w{{0,64}}[\"']?[ \t]*[=:][ \t]*)(\[[^\]]*\]?|\S.*)", re.IGNORECASE
)
_WORD = re.compile(r"[^\s\"'`,=\[\]{}]+")
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
        return _roughly(text)
    secrets = set(_secrets(read, ""))

    def told(found: re.Match[str]) -> str:
        piece = found[0]
        if piece.startswith("#"):  # what was taken out of force, or prose
            return _roughly(piece) if "=" in piece else _without_words(piece)
        return _stars(piece) if _said(piece) in secrets else piece

    return _PIECE.sub(told, text)


def _said(piece: str) -> str:
    """Return what a text of TOML says, which may be written in many ways."""
    try:
        return str(tomllib.loads(f"x = {piece}")["x"])
    except tomllib.TOMLDecodeError:
        return piece


def _stars(piece: str) -> str:
    return f"{piece[0]}***{piece[0]}"


def _roughly(text: str) -> str:
    """Return a text whose structure nobody knows without what may be a secret in it."""
    return _without_words(_BEHIND.sub(_behind, text))


def _without_words(text: str) -> str:
    def word(found: re.Match[str]) -> str:
        return "***" if _may_be_secret("", found[0]) else found[0]

    return _WORD.sub(word, text)


def _behind(found: re.Match[str]) -> str:
    """Return such a key and what stands behind it: references as they are, nothing else."""
    head, rest = found.groups()
    # A quote that nobody closes, or more keys.
    if re.search(r"[\w\"']", _TEXT.sub("", rest).split("#", maxsplit=1)[0]):
        return f"{head}***"

    def text(piece: re.Match[str]) -> str:
        return _stars(piece[0]) if _may_be_secret("key", piece[0][1:-1]) else piece[0]

    return head + _TEXT.sub(text, rest)


def _secrets(value: object, key: str) -> Iterator[str]:
    """Yield the texts below a key that are secrets, by their keys or by what they look like."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _secrets(one, name)
    elif isinstance(value, list):
        for one in value:
            yield from _secrets(one, key)
    elif isinstance(value, str) and _may_be_secret(key, value):
        yield value


def _may_be_secret(key: str, value: str) -> bool:
    if is_secret_ref(value) or value.startswith(_HASH) or not re.search(r"\w", value):
        return False
    login = "://" in value and "@" in value
    return bool(_KEY.search(key)) or login or shown.looks_secret(value)
