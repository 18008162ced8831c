"""What the commands that change gateway.toml share: the change, the daemon, the report."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec
import typer

from tollway.cli import show
from tollway.cli.boundary import UsageProblem
from tollway.cli.budget_edits import SECTIONS
from tollway.cli.control import Control, load_config, reload_daemon, require_same_file
from tollway.cli.options import me
from tollway.daemon.config import check, shown
from tollway.daemon.config.edit import edit
from tollway.daemon.config.schema import Config
from tollway.daemon.errors import ConfigError, DaemonUnreachable
from tollway.providers.errors import GatewayError

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

    Change = Callable[[TOMLDocument], None]


class Unknown(GatewayError):
    """A name that gateway.toml does not have."""

    status = 404
    code = "unknown_name"


class Conflict(GatewayError):
    """The change cannot be made as things are: the name is taken, or something needs it."""

    status = 409
    code = "conflict"


class Done(msgspec.Struct, frozen=True):
    """A change that was written. `undo` is the version before it, in the history.

    `reloaded` is the daemon's answer, None where none runs; `refused` is why it did not take
    the change up, where it did not.
    """

    config: Config
    changed: bool
    undo: int | None
    reloaded: dict[str, object] | None = None
    refused: GatewayError | None = None


# --- names --------------------------------------------------------------------------------------


def word(section: str) -> str:
    """Return what an entry of a section is called: "key" for "keys"."""
    return section.removesuffix("s")


def require_new(config: Config, section: str, name: str, *, hint: str = "") -> None:
    """Return when a new table of this section may have this name.

    Raises:
        UsageProblem: No table may have it.
        Conflict: It is taken; `hint` says what else to do.
    """
    if why := check.name_wrong(section, name):
        raise UsageProblem(f"{shown.value(name)}: {why}")
    if name in getattr(config, section):
        raise taken(section, name, hint)


def taken(section: str, name: str, hint: str = "") -> Conflict:
    """Return the error for a name that is in use."""
    return Conflict(f"There is a {word(section)} {shown.value(name)} already", hint=hint)


def own_model(said: str) -> str:
    """Return the name of a model of this box, also where it is said as callers call it."""
    return said.removeprefix("local/")


def require_known(config: Config, section: str, name: str, *, create: str = "") -> None:
    """Return when there is an entry of this name.

    Raises:
        Unknown: There is none; the hint names the nearest one and, with `create`, the command
            that makes it.
    """
    known: Mapping[str, object] = getattr(config, section)
    if name in known:
        return
    near = shown.meant(name, known).replace("; did", "Did")
    rest = f"`{create}` makes it" if create else f"`tollway {section} list` shows those there are"
    raise Unknown(
        f"There is no {word(section)} {shown.value(name)}", hint=f"{near} {rest}".lstrip()
    )


def refuse_while(section: str, name: str, users: Iterable[str], *, hint: str) -> None:
    """Return when nothing needs an entry.

    Raises:
        Conflict: Something does; the message names it all.
    """
    if found := list(users):
        raise Conflict(
            f"The {word(section)} {shown.value(name)} is needed by {', '.join(found)}", hint=hint
        )


# --- changes ------------------------------------------------------------------------------------


def put(section: str, name: str, values: Mapping[str, object], *, new: bool = False) -> Change:
    """Return a change that sets keys of a table, made where it is missing; None removes a key.

    With `new` the change raises `Conflict` where the table is there.
    """

    def alter(document: TOMLDocument) -> None:
        from tollway.daemon.config.document import in_lines, refill, table  # noqa: PLC0415 - 40 ms

        if new and name in document.get(section, {}):
            raise taken(section, name)
        found = table(document, section, name)
        for key, value in values.items():
            if isinstance(value, dict):
                refill(found, key, value)
            elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
                found[key] = in_lines(value)
            elif value is not None:
                found[key] = value
            elif key in found:
                del found[key]

    return alter


def put_in(section: str, values: Mapping[str, object]) -> Change:
    """Return a change that sets keys of a section that is one table: "server"."""

    def alter(document: TOMLDocument) -> None:
        from tollway.daemon.config.document import table  # noqa: PLC0415 - 40 ms

        table(document, section).update(values)

    return alter


def both(first: Change, second: Change) -> Change:
    """Return two changes as one."""

    def alter(document: TOMLDocument) -> None:
        first(document)
        second(document)

    return alter


def drop(section: str, name: str) -> Change:
    """Return a change that removes a table."""

    def alter(document: TOMLDocument) -> None:
        tables = document.get(section, {})
        if name in tables:
            del tables[name]
            if not tables:
                del document[section]

    return alter


def apply(path: Path, alter: Change, *, what: str) -> Done:
    """Change gateway.toml and have a running daemon take it up.

    Where the daemon refuses, the file is changed all the same: `report` says so.

    Raises:
        UsageProblem: The result would not be valid; nothing is written.
        ConfigError: The file cannot be changed.
    """
    try:
        edited = edit(path, alter, what=what, who=me())
    except ConfigError as error:
        raise _own(error, path) from error
    config = edited.config
    reloaded: dict[str, object] | None = None
    refused: GatewayError | None = None
    try:
        _require_ours(config)
        reloaded = reload_daemon(config)
    except GatewayError as error:
        refused = error
    return Done(config, edited.changed, edited.version, reloaded, refused)


def _own(error: ConfigError, path: Path) -> GatewayError:
    """Return a fault of the new text without line numbers, which only the old text has."""
    places = re.compile(rf"^{re.escape(str(path))}:\d+: (?=[^\n]*: )", re.MULTILINE)
    said, count = places.subn("", error.message)
    try:
        load_config(path)
    except ConfigError:
        return error  # it was wrong before
    return UsageProblem(said, hint=error.hint or "Nothing was changed") if count else error


def _require_ours(config: Config) -> None:
    """Return when the daemon beside this ledger, if there is one, serves this very file."""
    try:
        status = Control(config.admin_socket).get("/control/status")
    except DaemonUnreachable:
        return  # `reload_daemon` tells one that hangs from none
    served = str(cast("dict[str, object]", status["config"])["path"])
    require_same_file(served, config.path)


def report(
    done: Done,
    facts: Mapping[str, object],
    at: tuple[str, str],
    *,
    as_json: bool,
    told: bool = False,
) -> None:
    """Say what became of a change: `facts` with --json, else whether the daemon has it.

    Args:
        done: The change.
        facts: What the command has to tell programs.
        at: The table that was changed, whose warnings are shown.
        as_json: Whether a program asks.
        told: Whether what its budget refuses for want of a price was told beforehand.

    Raises:
        GatewayError: The daemon did not take it up; in its words.
    """
    if as_json:
        problem = done.refused.message if done.refused else ""
        rest = {"changed": done.changed, "undo": done.undo, "reloaded": done.reloaded}
        show.emit({**facts, **rest, "problem": problem})
    else:
        key = re.escape(shown.key(at))
        for line in (*done.config.warnings, *([] if told else _refusals(done.config, at))):
            if re.search(rf":\d+: {key}[:.]", line):
                warn(re.sub(rf"^.*?:\d+: (?={key}[:.])", "", line))
        if done.refused is None:
            show.note(
                "No daemon runs; the next `tollway up` takes it up"
                if done.reloaded is None
                else "The running daemon has confirmed it"
            )
            tell_waiting(done.reloaded)
    if done.refused is not None:
        raise _not_taken_up(done, done.refused)


def tell_waiting(reloaded: Mapping[str, object] | None) -> None:
    """Name the keys of a daemon's answer to a reload that wait for a restart."""
    keys = reloaded.get("needs_restart") if reloaded else None
    for key in keys if isinstance(keys, list) else ():
        show.note(f"`{key}` takes effect at the next `tollway restart`")


def _refusals(config: Config, at: tuple[str, str]) -> list[str]:
    """Return a line where the budget of what was changed refuses models without a price."""
    section, name = at
    entry = getattr(config, section).get(name) if section in SECTIONS.values() else None
    if entry is None or not entry.budget:
        return []
    from tollway.cli.budget_prices import doubts  # noqa: PLC0415 - reads the price data

    try:
        return doubts(config, [shown.key((*at, "budget"))])
    except GatewayError:  # a ledger that cannot be read is told by the daemon
        return []


def _not_taken_up(done: Done, refused: GatewayError) -> GatewayError:
    undo = f"`tollway config rollback {done.undo}` undoes the change" if done.undo else ""
    error = GatewayError(
        f"`{done.config.path}` is changed, but the running daemon goes on as before:\n"
        f"{refused.message}",
        hint="\n".join(part for part in (refused.hint, undo) if part),
    )
    error.code = refused.code
    return error


def warn(text: str) -> None:
    """Print a warning on stderr."""
    show.note([show.Painted("warning", "yellow"), f": {text}"])


def hint(text: str) -> None:
    """Print a hint on stderr."""
    show.note([show.Painted("hint", "cyan"), f": {text}"])


def agreed(question: str, *, yes: bool) -> None:
    """Return once a person has agreed, or `--yes` did.

    Raises:
        UsageProblem: There is nobody to ask.
        Abort: The answer is no.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageProblem(f"{question} There is nobody to ask", hint="`--yes` agrees")
    show.ask(f"{question} [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise typer.Abort
