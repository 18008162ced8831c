"""`config diff`, `edit` and `export`: gateway.toml as a text."""

import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from tollway.cli import complete, edits, show
from tollway.cli.boundary import printable
from tollway.cli.broken import rough
from tollway.cli.config import in_force
from tollway.cli.control import load_config, reload_daemon
from tollway.cli.editor import editor
from tollway.cli.options import AsJson, ConfigFile, me
from tollway.cli.secretless import without_secrets
from tollway.daemon.config import edit as files
from tollway.daemon.config import history, shown
from tollway.daemon.config.load import load, parse
from tollway.daemon.config.paths import find_config, state_paths
from tollway.daemon.config.toml import decoded, read_text, tables_of
from tollway.daemon.errors import ConfigError, NotFound
from tollway.providers.errors import GatewayError

_COLOURS: Final[dict[str, show.Colour]] = {"+": "green", "-": "red", "@": "cyan"}

Version = Annotated[
    int | None,
    typer.Argument(
        min=1,
        help="A version of `config history`; without it, the one in force.",
        autocompletion=complete.versions,
    ),
]
ExitCode = Annotated[bool, typer.Option("--exit-code", help="Exit with 1 where they differ.")]


def diff(
    number: Version = None,
    *,
    exit_code: ExitCode = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what the file changes against what is in force.

    Or against an earlier version. In force is what the daemon took up last. The file may be
    broken: its text is compared.

    Examples:
        tollway config diff
        tollway config diff 3
    """
    path = find_config(config)
    now = read_text(path)
    version, then = _version(path, number)
    name = f"version {version.number} ({version.at})"
    # A person may have written a secret into the file that no version has.
    told = without_secrets(now, path)
    lines = [
        shown.masked(line)
        for line in difflib.unified_diff(
            then.splitlines(), told.splitlines(), name, str(path), lineterm=""
        )
    ]
    if as_json:
        show.emit({"from": version.number, "path": path, "changed": now != then, "diff": lines})
    elif lines:
        for line in lines:
            colour = _COLOURS.get(line[:1])
            show.say_as_it_is([show.Painted(line, colour)] if colour else line)
    else:
        show.note(f"{path} is {name}")
    if exit_code and now != then:
        raise typer.Exit(1)


def _version(path: Path, number: int | None) -> tuple[history.Version, str]:
    """Return a kept version of the file and its text; None is the newest.

    Raises:
        NotFound: There is none, or not this one.
    """
    try:
        ledger = load(path).ledger.path
    except ConfigError:
        ledger = rough(path).ledger
    folder = state_paths(ledger).history
    for version in history.versions(folder, path):
        if number in {None, version.number}:
            return version, history.text_of(folder, version)
    if number is None:
        raise NotFound(
            f"No version of `{path}` is kept yet",
            hint="The first change by a command keeps one, and so does a daemon that starts",
        )
    raise NotFound(
        f"There is no version {number} of `{path}`", hint="`tollway config history` lists them"
    )


def edit(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Edit it in your editor; only a right file replaces it.

    A copy is opened in $VISUAL or $EDITOR. What you saved is checked: where it is wrong, you are
    told the line and may go on editing. Then it replaces the file, the version before it is
    kept, and a running daemon takes it up.

    Example:
        tollway config edit
    """
    path = find_config(config)
    before = read_text(path)
    program = editor()
    with _copy(before) as copy:
        while True:
            _run(program, copy, before)
            after = decoded(copy.read_bytes(), name=path)
            if after == before:
                show.note(f"{path} is as it was")
                return
            try:
                parse(after, path=path)
            except ConfigError as error:
                _again(error, copy)
            else:
                break
    edited = files.rewrite(path, after, what="config edit", who=me(), expect=history.digest(before))
    refused: GatewayError | None = None
    reloaded: dict[str, object] | None = None
    try:
        reloaded = reload_daemon(edited.config)
    except GatewayError as error:
        refused = error
    done = edits.Done(edited.config, edited.changed, edited.version, reloaded, refused)
    for line in () if as_json else edited.config.warnings:
        edits.warn(line)
    edits.report(done, {"path": path}, ("", ""), as_json=as_json)


class _copy:  # noqa: N801 - used as a function is
    """A private copy of the file for an editor. It stays where what was written may be lost."""

    def __init__(self, text: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tollway-edit-"))
        self._file = self._folder / "gateway.toml"
        self._text = text.encode()
        self._file.write_bytes(self._text)
        self._file.chmod(0o600)

    def __enter__(self) -> Path:
        return self._file

    def __exit__(self, kind: object, fault: object, trace: object) -> None:
        if kind is None or isinstance(fault, _Discarded) or _read(self._file) == self._text:
            shutil.rmtree(self._folder, ignore_errors=True)


class _Discarded(typer.Abort):
    """A person does not want what was edited."""


def _read(copy: Path) -> bytes:
    return copy.read_bytes() if copy.exists() else b""


def _run(program: Sequence[str], copy: Path, before: str) -> None:
    code = subprocess.run([*program, str(copy)], check=False).returncode  # noqa: S603 - a person's own
    if code:
        raise GatewayError(
            f"`{program[0]}` ended with {code}; nothing was changed",
            hint=f"What was written is in `{copy}`" if _read(copy) != before.encode() else "",
        )


def _again(error: ConfigError, copy: Path) -> None:
    """Say what is wrong; return where the person goes on editing.

    Raises:
        ConfigError: There is nobody to ask.
        Abort: The person gives up.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigError(error.message, hint=f"Nothing was changed; the text is in `{copy}`")
    show.note([show.Painted("error", "red"), f": {error.message}"])
    print(printable("Edit again?"), "[Y/n] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() in ("n", "no"):
        raise _Discarded


def export(
    *,
    effective: Annotated[
        bool, typer.Option("--effective", help="Every setting in force, defaults included.")
    ] = False,
    no_keys: Annotated[
        bool, typer.Option("--no-keys", help="Leave the callers' keys out, for another box.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "--out", "-o", metavar="FILE", help="A new file, instead of stdout."
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Write it out as a new document.

    In plain order and without comments. Secrets are not in it, only where they are kept;
    callers' keys are hashes. Relative paths are made whole.

    Examples:
        tollway config export > box2.toml
        tollway config export --effective --json
    """
    loaded = load_config(config)
    tables = in_force(loaded) if effective else dict(_said(loaded.path))
    if no_keys:
        tables.pop("keys", None)
    if as_json:
        show.emit(tables)
        return
    if output is None:
        import tomli_w  # noqa: PLC0415 - only here

        show.write(tomli_w.dumps(tables))
        return
    written = files.write_new(Path(os.path.abspath(output.expanduser())), tables)
    show.note(f"Wrote {written.path}")


_PATHS = (("models", "gguf"), ("providers", "ca_file"))


def _said(path: Path) -> Iterator[tuple[str, object]]:
    """Yield what the file says, with the paths that begin at its folder made whole."""
    folder = Path(os.path.abspath(path)).parent
    for section, tables in tables_of(read_text(path), name=path).items():
        for where, key in _PATHS:
            for table in tables.values() if where == section and isinstance(tables, dict) else ():
                if isinstance(table, dict) and not re.match(r"[~/]", str(table.get(key, "/"))):
                    table[key] = str(folder / str(table[key]))
        yield section, tables
