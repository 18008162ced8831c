"""Read gateway.toml: every fault with its line, or one whole and valid `Config`."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from tollway.daemon.config import check, price_values, route_values, shown
from tollway.daemon.config.check_routes import causes
from tollway.daemon.config.lines import At, lines_of
from tollway.daemon.config.paths import data_folder
from tollway.daemon.config.schema import (
    Config,
    Group,
    Key,
    LedgerFile,
    Member,
    Model,
    PriceSaid,
    Provider,
    Raise,
    Route,
    Server,
    Tag,
    Team,
    Telemetry,
)
from tollway.daemon.config.toml import read_text, tables_of
from tollway.daemon.config.values import READERS, Reading, TooMany, Wrong
from tollway.daemon.errors import ConfigError

T = TypeVar("T", bound=msgspec.Struct)

# Sections that are tables of tables, and what each table is.
NAMED: Mapping[str, type[msgspec.Struct]] = {
    "providers": Provider,
    "models": Model,
    "routes": Route,
    "groups": Group,
    "teams": Team,
    "users": Member,
    "projects": Member,
    "keys": Key,
}
SECTIONS = ("server", "ledger", "telemetry", *NAMED, "prices", "tags", "raises")

# The readers of a route's own values stand in a file of their own.
READERS.update(route_values.READERS)
READERS.update(price_values.READERS)

_SERVED = {"gguf", "command"}  # what a local model is served from
_MOST_LINES = 50  # of faults that are shown: more help nobody


def load(path: Path) -> Config:
    """Return the configuration in a file.

    Raises:
        ConfigError: It cannot be read or is wrong; the message has a line for each fault, each
            beginning with the file's name as given and the line's number.
    """
    config = parse(read_text(path), path=path)
    for one in (config.path, config.ledger.path):
        # The history and the control socket say paths in JSON: the daemon could not be stopped.
        said = str(one).encode(errors="backslashreplace").decode()
        if said != str(one):
            raise ConfigError(f"`{said}` is no text in UTF-8", hint="Rename that folder or file")
    return config


def parse(text: str, *, path: Path, home: Path | None = None) -> Config:
    """Return the configuration in a text.

    Args:
        text: What stands in the file.
        path: The file, for messages, and because relative paths begin in its folder.
        home: What `~` stands for. With it the ledger is below it too, whatever XDG says.

    Raises:
        ConfigError: As `load`.
    """
    raw = tables_of(text, name=path)
    reading = Reading(folder=Path(os.path.abspath(path.parent)), home=home or Path.home())
    data = data_folder() if home is None else home / ".local/share/tollway"
    try:
        config, names = _read(raw, reading, path, data)
        stated = _stated(raw)
        check.check_lists(stated, reading.wrong)
        check.check(config, names, reading.wrong)
    except TooMany:
        raise _fault(reading.problems, text, path) from None
    if reading.problems:
        raise _fault(reading.problems, text, path)
    doubts = list(check.doubts(config, names))
    found = _lines(doubts, text, path) if doubts else []
    if shown.holds_secret(text):
        # In a value it would have been refused or is a name; a comment is nobody's to refuse.
        number = _line_with_secret(text)
        found.append(f"{path}:{number}: looks like a secret; no version that holds it is kept")
    return msgspec.structs.replace(config, warnings=tuple(found), stated=stated)


def faults(text: str, *, path: Path) -> Sequence[tuple[At, str]]:
    """Return what is wrong with a text, each by its key; nothing where it is right.

    Raises:
        ConfigError: It is no TOML.
    """
    raw = tables_of(text, name=path)
    reading = Reading(folder=Path(os.path.abspath(path.parent)), home=Path.home())
    with contextlib.suppress(TooMany):  # those that it has found are enough to begin with
        check.check_lists(_stated(raw), reading.wrong)
        check.check(*_read(raw, reading, path, data_folder()), reading.wrong)
    return causes(reading.problems)


def places(path: Path, keys: Sequence[At]) -> list[str]:
    """Return "gateway.toml:14: providers.x.api_key" for each key of a file that was loaded.

    Where the file has been changed so that it cannot be read any more, the line is 1.
    """
    try:
        text = read_text(path)
        tables_of(text, name=path)
    except ConfigError:
        text = ""
    lines = _all_lines(text)
    return [f"{path}:{_line(at, lines)}: {shown.key(at)}" for at in keys]


def _read(
    raw: dict[str, object], reading: Reading, path: Path, data: Path
) -> tuple[Config, dict[str, list[str]]]:
    names: dict[str, list[str]] = {section: [] for section in SECTIONS}
    read: dict[str, object] = {}
    for section, value in raw.items():
        if not reading.live(section, value, (), names):
            continue
        if section == "raises":
            read[section] = reading.value(tuple[Raise, ...], value, (section,)) or ()
            continue
        if not isinstance(value, dict):
            reading.wrong((section,), f"expected a table; write [{section}]")
            continue
        names[section] = list(value)
        if section in NAMED:
            read[section] = _tables(section, value, reading)
        elif section == "prices":
            read[section] = _prices(value, reading)
        elif section == "tags":
            read[section] = _tags(value, reading)
        elif section == "server":
            read[section] = _server(value, reading)
        elif section == "telemetry":
            read[section] = reading.struct(Telemetry, value, (section,)) or Telemetry()
    ledger = raw.get("ledger", {})
    read["ledger"] = _ledger(ledger if isinstance(ledger, dict) else {}, reading, data)
    config = msgspec.structs.replace(
        Config(path=Path(os.path.abspath(path)), ledger=LedgerFile(path=data / "ledger.db")), **read
    )
    return config, names


def _stated(
    tables: Mapping[str, object], at: tuple[str, ...] = ()
) -> dict[tuple[str, ...], object]:
    """Return every value that stands in tables, by its key; a table without any is one."""
    found: dict[tuple[str, ...], object] = {}
    for name, value in tables.items():
        if isinstance(value, dict) and value:
            found |= _stated(value, (*at, name))
        else:
            found[*at, name] = value
    return found


def _server(raw: dict[str, object], reading: Reading) -> Server:
    at: At = ("server",)
    known = {"listen", *Server.__struct_fields__} - {"host", "port"}
    rest = dict(raw)
    place: dict[str, str | int] = {}
    if "listen" in rest:
        try:
            listen = reading.text(rest.pop("listen"), (*at, "listen"))
            place["host"], place["port"] = check.host_and_port(listen)
        except ValueError as fault:
            reading.wrong((*at, "listen"), str(fault))
    server = reading.struct(Server, rest, at, known=known) or Server()
    return msgspec.structs.replace(server, **place)


def _ledger(raw: dict[str, object], reading: Reading, data: Path) -> LedgerFile:
    beside = Reading(folder=data, home=reading.home)
    beside.problems = reading.problems
    found = beside.struct(LedgerFile, {"path": "ledger.db", **raw}, ("ledger",))
    return found or LedgerFile(path=data / "ledger.db")


def _tables(section: str, raw: dict[str, object], reading: Reading) -> dict[str, msgspec.Struct]:
    found = {}
    for name, value in raw.items():
        at = (section, name)
        if why := check.name_wrong(section, name):
            reading.wrong(at, why)
        table = reading.struct(NAMED[section], _simplified(section, value, at, reading), at)
        if section == "models" and isinstance(value, dict) and not value.keys() & _SERVED:
            reading.wrong(at, "gguf is missing, or command")
        if table is not None:
            found[name] = table
    return found


def _simplified(section: str, raw: object, at: At, reading: Reading) -> object:
    """Return a table with the longer ways of saying one thing put into the short one."""
    if not isinstance(raw, dict):
        return raw
    pool = raw.get("api_keys")
    if section == "providers" and isinstance(pool, list) and len(pool) == 1:
        rest = {key: value for key, value in raw.items() if key != "api_keys"}
        if "api_key" not in raw:  # else `check` says that one of them is enough
            return {"api_key": pool[0], **rest}
    return raw


def _prices(raw: dict[str, object], reading: Reading) -> dict[str, PriceSaid]:
    found: dict[str, PriceSaid] = {}
    for name, value in raw.items():
        at = ("prices", name)
        if why := check.name_wrong("prices", name):
            reading.wrong(at, why)
            continue
        try:
            price = reading.price(value, at)
        except Wrong as fault:
            reading.wrong(at, str(fault))
        else:
            found |= {name: price} if price else {}
    return found


def _tags(raw: dict[str, object], reading: Reading) -> dict[str, dict[str, Tag]]:
    found: dict[str, dict[str, Tag]] = {}
    for name, values in raw.items():
        at: At = ("tags", name)
        if why := check.tag_wrong(name):
            reading.wrong(at, why)
        if not isinstance(values, dict):
            reading.wrong(at, f"expected a table; write [tags.{shown.key((name,))}.VALUE]")
            continue
        tags: dict[str, Tag] = {}
        for value, raw_tag in values.items():
            if why := check.tag_value_wrong(value):
                reading.wrong((*at, value), why)
            tag = reading.struct(Tag, raw_tag, (*at, value))
            tags |= {value: tag} if tag else {}
        found[name] = tags
    return found


def _fault(problems: list[tuple[At, str]], text: str, path: Path) -> ConfigError:
    lines = _lines(causes(problems), text, path)
    if len(lines) > _MOST_LINES:
        more = len(lines) - _MOST_LINES
        lines = [*lines[:_MOST_LINES], f"and {more} more like these"]
    return ConfigError("\n".join(lines))


def _lines(problems: list[tuple[At, str]], text: str, path: Path) -> list[str]:
    lines = _all_lines(text)
    numbered = sorted((_line(at, lines), shown.key(at), what) for at, what in problems)
    return list(dict.fromkeys(f"{path}:{line}: {key}: {what}" for line, key, what in numbered))


def _all_lines(text: str) -> Mapping[At, int]:
    try:
        return lines_of(text)
    except RecursionError:  # deeper than a person writes, and yet TOML
        return {}


def _line(at: At, lines: Mapping[At, int]) -> int:
    """Return the line of a key, or of the nearest table around it that is in the file."""
    for end in range(len(at), 0, -1):
        if at[:end] in lines:
            return lines[at[:end]]
    return 1


def _line_with_secret(text: str) -> int:
    lines = text.split("\n")
    return next((at for at, line in enumerate(lines, 1) if shown.holds_secret(line)), 1)
