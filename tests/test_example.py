"""gateway.toml.example says every key of this version, and its default, as the code has it."""

import re
import tomllib
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from tollway.daemon.config import support
from tollway.daemon.config.check import NARROWING
from tollway.daemon.config.load import NAMED, SECTIONS, parse
from tollway.daemon.config.schema import (
    Case,
    LedgerFile,
    PreviousHash,
    PriceOverride,
    ProviderTimeouts,
    Server,
    Tag,
    Telemetry,
)
from tollway.daemon.config.tables import RaiseTable
from tollway.daemon.config.values import Reading
from tollway.providers.catalog import KINDS

EXAMPLE = Path(__file__).parent.parent / "gateway.toml.example"
TEXT = EXAMPLE.read_text()
STRUCTS: dict[str, type[msgspec.Struct]] = {
    **NAMED,
    "server": Server,
    "ledger": LedgerFile,
    "telemetry": Telemetry,
    "prices": PriceOverride,
    "previous": PreviousHash,
    "tags": Tag,
    "raises": RaiseTable,
    "when": Case,
}
# `listen` is what the file says for host and port.
KEYS = {
    section: {field.encode_name for field in msgspec.structs.fields(struct)} - {"host", "port"}
    for section, struct in STRUCTS.items()
}
KEYS["server"] |= {"listen"}

_HEAD = re.compile(r"\[+([^\]]+)\]+ *(?:# (.*))?")
_PAIR = re.compile(r"#?([a-z_0-9]+) = (?:[^#\"]|\"[^\"]*\")+?(?:#([^#]*))?")


def settings() -> list[tuple[str, str, str]]:
    """Return each key that the example sets, as its section, its name and its comment."""
    found = []
    section = ""
    for line in TEXT.splitlines():
        if head := _HEAD.match(line):
            parts = head[1].split(".")
            section = parts[-1] if line.startswith("[[") else parts[0]
            if section == "previous":
                found.append(("keys", "previous", head[2]))
        elif pair := _PAIR.fullmatch(line):
            found.append((section, pair[1], (pair[2] or "").strip()))
    return found


def test_the_example_is_a_valid_configuration() -> None:
    """What people copy must work as it stands."""
    config = parse(TEXT, path=EXAMPLE)
    assert config.providers and config.models and config.routes and config.keys and config.prices


def test_every_section_is_in_the_example() -> None:
    """A section that is not shown is not found."""
    assert set(tomllib.loads(TEXT)) == set(SECTIONS)


@pytest.mark.parametrize("section", STRUCTS)
def test_every_key_of_a_section_is_in_the_example_and_no_other(section: str) -> None:
    """The example is the reference: what the structs take is in it, and nothing else."""
    shown = {name for where, name, _ in settings() if where == section}
    others = {name for name in shown - KEYS[section] if not support.is_later((section, "x", name))}
    others -= {name for name in others if support.is_later((section, name))}
    assert KEYS[section] <= shown
    assert not others


@pytest.mark.parametrize("section", STRUCTS)
def test_the_default_beside_a_key_is_the_structs(section: str) -> None:
    """A comment that has another default than the code is worse than none."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(STRUCTS[section])}
    told: dict[str, str] = {}
    for where, name, comment in settings():
        if where == section and name not in told:
            told[name] = comment
    for name, comment in told.items():
        said = re.match(r"(required)(?:;|$)|default (.+?)(?:;|$)", comment)
        assert said, f"{section}.{name} does not say its default"
        if (section, name) == ("server", "listen"):
            assert said[2] == f'"{Server().host}:{Server().port}"'
        elif (section, name) == ("ledger", "path"):
            assert parse("", path=EXAMPLE).ledger.path.name == said[2].strip('"')
        elif name not in fields:
            assert support.refusal((section, name), tomllib.loads(f"x = {said[2]}")["x"]) is None
        elif fields[name].required or said[1]:
            assert fields[name].required and said[1], f"{section}.{name}"
        else:
            field = fields[name]
            made = field.default_factory
            default = field.default if made is msgspec.NODEFAULT else made()
            if section == "when" and default in ((), {}):
                default = None  # no condition: an empty list of names would be one, and is refused
            if (section, name) in NARROWING:
                default = None  # as above: whoever writes an empty list means that nothing is left
            assert read(said[2], field.type) == default, f"{section}.{name}"


def read(text: str, kind: object) -> object:
    """Return a default as the loader would read it; `-` for none."""
    if text == "-":
        return None
    reading = Reading(folder=Path("/"), home=Path("/"))
    found = reading.value(kind, tomllib.loads(f"x = {text}", parse_float=Decimal)["x"], ("x",))
    assert not reading.problems
    return found


def test_every_kind_is_named_in_the_example() -> None:
    """The reader must not have to look for the kinds elsewhere."""
    section = TEXT[TEXT.index("[providers.openai]") : TEXT.index("[models.")]
    assert set(KINDS) - {"local"} <= set(re.findall(r"[a-z-]+", section))


def test_the_time_outs_are_all_in_the_example() -> None:
    """A table in one line has keys too."""
    said = tomllib.loads(TEXT)["providers"]["openai"]["timeout"]
    assert set(said) == {field.name for field in msgspec.structs.fields(ProviderTimeouts)}
