"""TOML text to Python values, with limits, and every failure a line and a reason."""

import re
import tomllib
from decimal import Decimal, DecimalException
from pathlib import Path

from tollway.daemon.errors import ConfigError

MOST_BYTES = 2 * 2**20  # some 14,000 keys
_MOST_LEVELS = 8  # tomllib's work grows with the square of a key's parts

_WHERE = re.compile(r" \(at line (\d+), column \d+\)$")
_DOTTED = re.compile(rf"(?<![\w-])[\w-]+(?:[ \t]*\.[ \t]*[\w-]+){{{_MOST_LEVELS}}}")
_QUOTED_OR_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|' + r"'[^']*'|#.*")
_TWICE = re.compile(r"Cannot declare \((.*)\) twice")
_NAMES = re.compile(r"'([^']*)'")
# What is mostly meant by what TOML's reader says: a quotation mark that is missing, or YAML.
_QUOTED = 'text stands in quotation marks: "5/day"'
_HELPS = {
    "Illegal character '\\n'": "a text ends with its quotation mark, on the same line",
    "Unterminated string": "a text ends with its quotation mark, on the same line",
    "Expected newline or end of document after": _QUOTED,
    "Invalid value": f"{_QUOTED}; yes is true, no is false",
    "Cannot overwrite a value": "the key stands twice",
    "Expected '=' after a key": 'write key = "value"',
    "Unescaped '\\' in a string": "write \\\\, or single quotation marks around the text",
}


def read_text(path: Path, *, shown: Path | None = None) -> str:
    """Return a file's text as it stands, line endings included.

    Raises:
        ConfigError: It cannot be read, is too large, or is no UTF-8; `shown` is the name used.
    """
    name = shown or path
    try:
        # Whoever opens a pipe that nobody writes waits for ever; one that is open here already
        # was made to be read.
        if path.is_fifo() and not str(path).startswith(("/dev/fd/", "/dev/stdin", "/proc/")):
            raise ConfigError(f"{name}:1: is a pipe, not a file")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError as fault:
        raise ConfigError(
            f"{name}:1: there is no such file", hint="`tollway init` writes one"
        ) from fault
    except OSError as fault:
        raise ConfigError(f"{name}:1: cannot be read: {fault.strerror}") from fault
    return decoded(data, name=name)


def decoded(data: bytes, *, name: Path) -> str:
    """Return a file's bytes as text.

    Raises:
        ConfigError: They are too many, or no UTF-8.
    """
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{name}:1: larger than {MOST_BYTES >> 20} MiB")
    if data.startswith(b"\xef\xbb\xbf"):
        raise ConfigError(f"{name}:1: begins with a byte order mark; save it as plain UTF-8")
    try:
        return data.decode()
    except UnicodeDecodeError as fault:
        line = data.count(b"\n", 0, fault.start) + 1
        # Not `from fault`: that error carries the whole file.
        raise ConfigError(f"{name}:{line}: is not UTF-8 text") from None


def tables_of(text: str, *, name: Path) -> dict[str, object]:
    """Return the document as dicts and lists; numbers with a point are `Decimal`.

    Raises:
        ConfigError: It is no TOML, is nested too deeply, or is too large.
    """
    if len(text) > MOST_BYTES:
        raise ConfigError(f"{name}:1: larger than {MOST_BYTES >> 20} MiB")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.count(".") >= _MOST_LEVELS and _DOTTED.search(_QUOTED_OR_COMMENT.sub("q", line)):
            raise ConfigError(f"{name}:{number}: nested more than {_MOST_LEVELS} levels deep")
    try:
        return tomllib.loads(text, parse_float=_decimal)
    except RecursionError:
        raise ConfigError(f"{name}:{_deepest(text)}: nested too deeply") from None
    except tomllib.TOMLDecodeError as fault:
        raise ConfigError(_told(str(fault), text, name)) from None
    except (ValueError, DecimalException):
        # int() and Decimal() have limits of their own, which tomllib does not translate.
        raise ConfigError(f"{name}:1: a number is too long") from None


def _decimal(text: str) -> Decimal:
    return Decimal(text.replace("_", ""))


def _told(fault: str, text: str, name: Path) -> str:
    found = _WHERE.search(fault)
    line = int(found[1]) if found else text.rstrip("\n").count("\n") + 1
    what = _WHERE.sub("", fault).removesuffix(" (at end of document)")
    helps = next((f"; {ours}" for theirs, ours in _HELPS.items() if what.startswith(theirs)), "")
    what = _TWICE.sub(lambda said: f"[{'.'.join(_NAMES.findall(said[1]))}] stands twice", what)
    what = what[:1].lower() + what[1:]
    end = "" if found else ", at the end of the file"
    return f"{name}:{line}: not valid TOML: {what[:200]}{end}{helps}"


def _deepest(text: str) -> int:
    lines = text.split("\n")
    return max(range(len(lines)), key=lambda at: lines[at].count("[") + lines[at].count("{")) + 1
